"""The job `index_segments`: make segments searchable that were written, revised or removed, or got their vector.

Policy: the job names segments; what is indexed is read when it runs (`search.indexer`). It is put in by the
transaction that commits the segments, so nothing committed is ever left out of the index. What comes of a vector has
less priority than what people say at the moment. A document that the index refuses is logged by its id, and its job is
kept as failed.

Boundary: SQL through `server.store.ledger` under the tenant's row-level security; events go out through `Announcer`.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

from search.indexer import Indexer
from search.model import IndexDocument
from search.ports import Editions, Rejected
from server.jobs.queue import GivenUp, Handler, Job, enqueue_many
from server.store import ledger
from server.store.commits import Announcer
from server.store.pool import Connection, Database
from server.telemetry import METRICS
from streaming.errors import Unavailable
from streaming.limits import LIMITS, Limits

LIVE, BEHIND = 0, -1
"""Priorities."""

log = logging.getLogger(__name__)


class IndexSegments(Job, frozen=True, kw_only=True):
    """Segments of one recording whose index may be behind. `committed_ms`: Unix milliseconds, 0 where nobody waits."""

    kind: ClassVar[str] = "index_segments"
    tenant_id: str
    recording_id: str
    segment_ids: tuple[str, ...]
    committed_ms: int = 0


class StoredSegments:
    """`search.indexer.Truth` on the segments table."""

    def __init__(self, database: Database, editions: Editions, announcer: Announcer) -> None:
        self._database = database
        self._editions = editions
        self._announcer = announcer

    async def current(self, tenant_id: str, segment_ids: Sequence[str]) -> list[IndexDocument]:
        models = await self._models()
        async with self._database.tenant_tx(tenant_id) as connection:
            return await ledger.documents(connection, tenant_id, segment_ids, models)

    async def settle(
        self, tenant_id: str, put: Mapping[str, IndexDocument | None], *, tell: Collection[str]
    ) -> Collection[str]:
        models = await self._models()
        try:
            async with self._database.tenant_tx(tenant_id) as connection:
                settled = await ledger.settle(connection, tenant_id, put, models, tell=tell)
        except Unavailable:
            self._announcer.resync(tenant_id, ledger.room(tenant_id))  # a commit whose answer was lost
            raise
        self._announcer.announce(settled.events)
        return settled.changed

    async def _models(self) -> list[str]:
        editions = await self._editions.open()
        if not editions:
            raise Unavailable("The index has no edition yet.", retry_after_ms=1_000)
        return sorted({edition.model for edition in editions if edition.model})


async def enqueue_index(connection: Connection, items: Sequence[IndexSegments], *, priority: int = LIVE) -> None:
    """Queue index jobs within the connection's transaction, in one round trip; one job for each recording."""
    committed_ms = time.time_ns() // 1_000_000 if priority == LIVE else 0
    merged: dict[tuple[str, str], list[str]] = {}
    for item in items:
        merged.setdefault((item.tenant_id, item.recording_id), []).extend(item.segment_ids)
    await enqueue_many(
        connection,
        [
            IndexSegments(
                tenant_id=tenant_id,
                recording_id=recording_id,
                segment_ids=tuple(dict.fromkeys(ids)),
                committed_ms=committed_ms,
            )
            for (tenant_id, recording_id), ids in merged.items()
        ],
        priority=priority,
    )


async def enqueue_embedded(connection: Connection, tenant_id: str, found: Sequence[tuple[str, str]]) -> None:
    """`server.store.vectors.EnqueueIndex`: (recording, segment) whose vectors came."""
    await enqueue_index(
        connection,
        [IndexSegments(tenant_id=tenant_id, recording_id=recording, segment_ids=(name,)) for recording, name in found],
        priority=BEHIND,
    )


def index_handler(indexer: Indexer, on_indexed: Callable[[], None] = lambda: None, limits: Limits = LIMITS) -> Handler:
    """The handler of `IndexSegments` for a `JobRunner`. `on_indexed`: called when segments were put into the index."""

    async def run(job: IndexSegments) -> None:
        try:
            await indexer.refresh(job.tenant_id, job.segment_ids)
        except Rejected as error:
            for segment_id, reason in error.reasons.items():
                fields = {"segment_id": segment_id, "reason": reason}
                log.error("segment refused by the index", extra=fields)  # noqa: TRY400 (no traceback: it quotes speech)
            raise GivenUp from error
        if job.committed_ms:
            METRICS.index.seconds.observe(max(0.0, time.time() - job.committed_ms / 1000))
        on_indexed()

    return Handler(IndexSegments, run, concurrent_max=limits.index_jobs_max)
