"""The job `index_segments`: make segments searchable that were written, revised or removed.

Policy: the job names segments; what is indexed is read when it runs (`search.indexer`). It is put in by the
transaction that commits the segments, so nothing committed is ever left out of the index.

Boundary: SQL on segments and recordings under the tenant's row-level security.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from search.indexer import Indexer
from search.model import IndexDocument
from search.ports import Index
from server.jobs.queue import Handler, Job, enqueue_many
from server.store.pool import Connection, Database

CURRENT = """
SELECT s.segment_id, s.rev, s.text, s.language, s.speaker, r.owner_id, r.visibility = 'private' AS private,
       (extract(epoch FROM r.started_at) * 1000)::bigint + s.start_ms AS spoken_at_ms
FROM segments s JOIN recordings r USING (tenant_id, recording_id)
WHERE s.tenant_id = $1 AND s.recording_id = $2 AND s.segment_id = ANY($3)
"""


class IndexSegments(Job, frozen=True, kw_only=True):
    """Segments of one recording whose index may be behind."""

    kind: ClassVar[str] = "index_segments"
    tenant_id: str
    recording_id: str
    segment_ids: tuple[str, ...]


class StoredSegments:
    """`search.ports.Segments` on the segments table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def current(self, tenant_id: str, recording_id: str, segment_ids: Sequence[str]) -> list[IndexDocument]:
        async with self._database.tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(CURRENT, tenant_id, recording_id, list(segment_ids))
        return [IndexDocument(recording_id=recording_id, **row) for row in rows]


async def enqueue_index(connection: Connection, items: Sequence[IndexSegments]) -> None:
    """Queue index jobs within the connection's transaction, in one round trip; one job for each recording."""
    merged: dict[tuple[str, str], list[str]] = {}
    for item in items:
        merged.setdefault((item.tenant_id, item.recording_id), []).extend(item.segment_ids)
    await enqueue_many(
        connection,
        [
            IndexSegments(tenant_id=tenant_id, recording_id=recording_id, segment_ids=tuple(dict.fromkeys(ids)))
            for (tenant_id, recording_id), ids in merged.items()
        ],
    )


def index_handler(database: Database, index: Index, on_indexed: Callable[[], None] = lambda: None) -> Handler:
    """The handler of `IndexSegments` for a `JobRunner`. `on_indexed`: called when segments were put into the index."""
    indexer = Indexer(StoredSegments(database), index)

    async def run(job: IndexSegments) -> None:
        await indexer.refresh(job.tenant_id, job.recording_id, job.segment_ids)
        on_indexed()

    return Handler(IndexSegments, run)
