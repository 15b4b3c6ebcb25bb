"""What waits for one slow client: in order, within a limit of bytes.

Policy: what must arrive (durable events, answers) waits in order; of what is only of the moment (a partial, an
acknowledgement of audio, the server's status) the newest waits, at the end: never before an event that it follows. A
partial whose final waits is dropped, before it and after it. Over the limit what is of the moment goes first, the
oldest first; when the rest alone finds no room the verdict is Overflow: this client is cut off, and resumes from the
log.

Items are bytes as they go out, so `waiting_bytes` is memory: what they hold and what holding them costs.

Pure: `offer` and `take` return values; `server.edge.engine` writes. Invariants: what must arrive leaves in the order in
which it was offered, each once; of a key at most one item waits; `waiting_bytes` never exceeds `bytes_max`.
"""

from enum import Enum

import msgspec

ITEM_BYTES = 256
"""What holding an item costs at most besides its bytes (`test_waiting_bytes_are_memory`): their header, the item, its
number, a place in a dict that has just grown. A key costs as much again."""

Key = tuple[str, ...]


class Item(msgspec.Struct, frozen=True):
    """A whole message. `key`: it is of the moment, a newer one of this key replaces it; None: it must arrive.
    `settles`: the key of what it makes pointless (a final its partials)."""

    data: bytes
    key: Key | None = None
    settles: Key | None = None


class Verdict(Enum):
    """What became of an offer. After OVERFLOW nothing has changed; the item is lost to this client."""

    QUEUED = "queued"
    DROPPED = "dropped"
    OVERFLOW = "overflow"


class Outbox:
    """One client's, while it has to wait."""

    __slots__ = ("_bytes_max", "_momentary_bytes", "_serial", "_settled", "_waiting", "waiting_bytes")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._waiting: dict[Key | int, Item] = {}
        """By key, or by serial number."""
        self._settled: dict[Key, int] = {}
        """How many waiting items settle a key."""
        self._momentary_bytes = 0
        self._serial = 0
        self.waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, item: Item) -> Verdict:
        """Queue a message."""
        size = _size(item)
        if item.key is not None:
            self._drop(item.key)
            if item.key in self._settled or self.waiting_bytes + size > self._bytes_max:
                return Verdict.DROPPED
            self._waiting[item.key] = item
            self._momentary_bytes += size
            self.waiting_bytes += size
            return Verdict.QUEUED
        if self.waiting_bytes - self._momentary_bytes + size > self._bytes_max:
            return Verdict.OVERFLOW
        if item.settles is not None:
            self._drop(item.settles)
            self._settled[item.settles] = self._settled.get(item.settles, 0) + 1
        self._make_room(size)
        self._serial += 1
        self._waiting[self._serial] = item
        self.waiting_bytes += size
        return Verdict.QUEUED

    def _make_room(self, size: int) -> None:
        if self.waiting_bytes + size > self._bytes_max:
            for key in [key for key, item in self._waiting.items() if item.key is not None]:
                self._drop(key)
                if self.waiting_bytes + size <= self._bytes_max:
                    return

    def _drop(self, key: Key | int) -> None:
        if (item := self._waiting.pop(key, None)) is not None:
            self._momentary_bytes -= _size(item)
            self.waiting_bytes -= _size(item)

    def take(self, bytes_max: int) -> list[bytes]:
        """The oldest messages, until they are `bytes_max` together; at least one, where there is one."""
        taken: list[Key | int] = []
        size = 0
        for key, item in self._waiting.items():
            size += len(item.data)
            if taken and size > bytes_max:
                break
            taken.append(key)
        return [self._taken(key) for key in taken]

    def _taken(self, key: Key | int) -> bytes:
        item = self._waiting.pop(key)
        self.waiting_bytes -= _size(item)
        if item.key is not None:
            self._momentary_bytes -= _size(item)
        elif item.settles is not None:
            self._settled[item.settles] -= 1
            if not self._settled[item.settles]:
                del self._settled[item.settles]
        return item.data


def _size(item: Item) -> int:
    return len(item.data) + (ITEM_BYTES if item.key is None and item.settles is None else 2 * ITEM_BYTES)
