"""One reader's view of the server's events: a bounded queue that never loses anything in silence.

Policy: a reader that falls behind by `events_max` loses its place: the events that it holds still come, then
`EventsLost` is raised, and iteration may go on with what arrives from then on. A bot then reads the gap from the log
(`Client.read_events`). Problems with one room come as `EventsLost` too, at their place in the order.

Invariant: between two errors the events are complete and in order.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from parlance_client.errors import EventsLost, ParlanceClientError
from parlance_client.model import Event


class EventStream:
    """An async iterator of `Event`; also a context manager that leaves off listening at the end."""

    def __init__(self, events_max: int, subscribers: "set[EventStream]") -> None:
        self._events_max = events_max
        self._subscribers = subscribers
        self._items: deque[Event | ParlanceClientError] = deque()
        self._overflowed = False
        self._closed = False
        self._wake = asyncio.Event()
        subscribers.add(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event. Raises `EventsLost`; when the client ended for good, the reason once, then stops."""
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        item = self._items.popleft()
        if isinstance(item, Event):
            return item
        if isinstance(item, EventsLost) and item.room is None:
            self._overflowed = False
        raise item

    def offer(self, event: Event) -> None:
        """Put an event in, or note that it was lost. Never waits."""
        self._put(event)

    def fail(self, error: ParlanceClientError) -> None:
        """Raise `error` at this place of the order. Never waits."""
        self._put(error)

    def _put(self, item: Event | ParlanceClientError) -> None:
        if self._closed or self._overflowed:
            return
        if len(self._items) >= self._events_max:
            self._overflowed = True
            item = EventsLost(f"More than {self._events_max} events waited for their reader.")
        self._items.append(item)
        self._wake.set()

    def close(self, error: ParlanceClientError | None = None) -> None:
        """No more events: what waits still comes, then `error` if given, then the end."""
        if error is not None and not self._closed:
            self._items.append(error)
        self._closed = True
        self._subscribers.discard(self)
        self._wake.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()
