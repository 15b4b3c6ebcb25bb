"""What waits to be published, in order and within `Limits.hints_bytes_max`.

Policy: over the limit, what is ephemeral goes first, all of it at once (it is old already); then a newcomer that still
finds no place is dropped. Nothing here is needed: whoever misses a durable event reads it from the log.

Pure. Invariant: what is taken leaves in the order in which it was offered.
"""

import msgspec


class Item(msgspec.Struct, frozen=True):
    """`hint`: for the other nodes, of our own making; else for the channel of everybody. `payload`: encoded."""

    payload: bytes
    durable: bool = False
    hint: bool = True


class Outbound:
    """A queue of bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._items: list[Item] = []
        self.waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, item: Item) -> list[Item]:
        """Queue `item`; returns what was dropped for it, itself included where it found no place."""
        dropped: list[Item] = []
        if self.waiting_bytes + len(item.payload) > self._bytes_max:
            dropped = [waiting for waiting in self._items if not waiting.durable]
            self._items = [waiting for waiting in self._items if waiting.durable]
            self.waiting_bytes -= sum(len(waiting.payload) for waiting in dropped)
        if self.waiting_bytes + len(item.payload) > self._bytes_max:
            return [*dropped, item]
        self._items.append(item)
        self.waiting_bytes += len(item.payload)
        return dropped

    def take(self, bytes_max: int) -> list[Item]:
        """The oldest, until they are `bytes_max` together; at least one, where there is one."""
        count = size = 0
        for item in self._items:
            size += len(item.payload)
            if count and size > bytes_max:
                size -= len(item.payload)
                break
            count += 1
        taken, self._items = self._items[:count], self._items[count:]
        self.waiting_bytes -= size
        return taken

    def clear(self) -> list[Item]:
        """Drop everything; returns it."""
        dropped, self._items, self.waiting_bytes = self._items, [], 0
        return dropped
