"""Compare what this node told its members with the log, once a second, and read what is missing.

Policy: Redis and memory carry hints, Postgres the truth (DESIGN decision 5). A node that lost hints, or that has no
Redis at all, is at most about a second late and misses nothing. One query for all rooms; nothing is asked where nobody
is joined. `soon` asks at once: what was told while Redis was away is not known here.

Boundary: the log's heads come through `Heads`, rooms are mended by the hub.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

from server.rooms.bus import RoomKey
from server.rooms.hub import Hub
from server.telemetry import METRICS
from streaming.aio import Signal
from streaming.errors import Unavailable
from streaming.limits import Limits

log = logging.getLogger(__name__)


class Heads(Protocol):
    """Where the logs stand (`server.store.feed.behind`)."""

    async def behind(self, known: Sequence[tuple[RoomKey, int]]) -> list[RoomKey]:
        """The rooms whose log goes on after the given number. Raises `Unavailable`."""
        ...


class Marks:
    """`run` is a component of the lifecycle, where the database is shared."""

    def __init__(self, hub: Hub, heads: Heads, limits: Limits) -> None:
        self._hub = hub
        self._heads = heads
        self._limits = limits
        self._now = Signal()

    def soon(self) -> None:
        """Look at once."""
        self._now.set()

    async def run(self) -> None:
        lost = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.marks_interval_ms / 1000):
                    await self._now.wait()
            try:
                await self.look()
                lost = False
            except Unavailable:
                if not lost:
                    log.warning("rooms cannot be compared with their logs, trying again")
                lost = True

    async def look(self) -> None:
        """One comparison of all rooms. Raises `Unavailable`."""
        joined = self._hub.joined()
        for start in range(0, len(joined), self._limits.marks_rooms_max):
            behind = await self._heads.behind(joined[start : start + self._limits.marks_rooms_max])
            METRICS.rooms_behind.inc(len(behind))
            waiting = iter(behind)
            readers = (self._mend(waiting) for _ in range(min(len(behind), self._limits.marks_reads_max)))
            for result in await asyncio.gather(*readers, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result

    async def _mend(self, waiting: Iterator[RoomKey]) -> None:
        for key in waiting:
            await self._hub.repair(key)
