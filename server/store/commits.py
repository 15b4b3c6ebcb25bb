"""Commit, then announce: finals of this node, in small batches.

Finals that arrive within `commit_batch_ms` share one transaction per tenant: segment, room event and index job stand
or fall together. Only after the commit does the hub hear of the events. A lost database is waited out: nothing is
dropped, streams wait for their own commits, and their audio goes on to disk meanwhile.

When a commit's answer was lost, the next try finds the ordinal already written (`repeated`) and lets the hub read the
room's log instead of announcing from memory.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from server.store import feed, segments
from server.store.pool import Connection, Database
from server.telemetry import METRICS
from streaming.errors import Fenced, Unavailable
from streaming.limits import Limits

log = logging.getLogger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 0.1, 2.0
"""Between tries while the database is away: a restart takes about a second."""

EnqueueIndex = Callable[[Connection, str, Sequence[segments.FinalWrite]], Awaitable[None]]
"""Puts the index jobs of the written finals of one tenant into the same transaction."""


class Announcer(Protocol):
    """Tells rooms of committed events (`server.rooms.hub`)."""

    def announce(self, events: Sequence[feed.Event]) -> None: ...

    def resync(self, tenant_id: str, room: str) -> None:
        """The room's log may hold events that nobody announced."""
        ...


class _Waiting(msgspec.Struct):
    item: segments.FinalWrite
    done: "asyncio.Future[None]"


class Committer:
    """`commit` is called by streams, `run` is a component of the lifecycle."""

    def __init__(self, database: Database, announcer: Announcer, enqueue: EnqueueIndex, limits: Limits) -> None:
        self._database = database
        self._announcer = announcer
        self._enqueue = enqueue
        self._limits = limits
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(limits.commit_queue_items_max)

    async def commit(self, item: segments.FinalWrite) -> None:
        """Return after the final is in the log and announced. Raises `Fenced`."""
        waiting = _Waiting(item, asyncio.get_running_loop().create_future())
        await self._queue.put(waiting)
        await waiting.done

    async def run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(self._limits.commit_batch_ms / 1000)
            while not self._queue.empty() and len(batch) < self._limits.commit_batch_items_max:
                batch.append(self._queue.get_nowait())
            tenants: dict[str, list[_Waiting]] = defaultdict(list)
            for waiting in batch:
                if not waiting.done.cancelled():
                    tenants[waiting.item.tenant_id].append(waiting)
            for tenant_id, items in tenants.items():
                await self._write(tenant_id, items)

    async def _write(self, tenant_id: str, batch: list[_Waiting]) -> None:
        items = [waiting.item for waiting in batch]
        retry_s = RETRY_S_MIN
        started = time.perf_counter()
        while True:
            try:
                result = await self._transact(tenant_id, items)
                break
            except Unavailable:
                log.warning("commit waits for the database", extra={"finals": len(items)})
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_S_MAX)
        METRICS.commit_seconds.observe(time.perf_counter() - started)
        METRICS.finals.inc(len(result.written))
        self._announcer.announce(result.events)
        for index in result.repeated:
            self._announcer.resync(tenant_id, f"recording:{items[index].recording_id}")
        fenced = set(result.fenced)
        for index, waiting in enumerate(batch):
            if waiting.done.done():
                continue
            if index in fenced:
                waiting.done.set_exception(Fenced("Another connection took this stream over."))
            else:
                waiting.done.set_result(None)

    async def _transact(self, tenant_id: str, items: Sequence[segments.FinalWrite]) -> segments.WriteResult:
        async with self._database.tenant_tx(tenant_id) as connection:
            result = await segments.write(connection, tenant_id, items, at_ms=time.time_ns() // 1_000_000)
            if result.written:
                await self._enqueue(connection, tenant_id, [items[index] for index in result.written])
        return result
