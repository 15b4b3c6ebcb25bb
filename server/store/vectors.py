"""Vectors of all segments and open models: `search.ports.Vectors` on Postgres, from which any index is filled.

Policy: a row for every segment and every open edition's model, made by the index job (`server.store.ledger`) or by a
rebuild; who is due is found through a partial index, however many rows are done. A kept vector brings its index job in
the same transaction, so no vector is left out of the index.

Boundary: SQL under the tenant's row-level security; `due` and `due_count` tell names and a number of all tenants.
Invariant: a kept vector is of the text that its segment has.
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from search.model import DueText, SegmentName, TextVector, Vector
from server.store.pool import Connection, Database

DUE = "SELECT tenant_id, segment_id FROM vectors_due($1, $2)"
DUE_COUNT = "SELECT vectors_due_count($1)"
DUE_TEXTS = """
SELECT s.segment_id, s.text, hashtextextended(s.text, 0)::text AS mark
FROM segments s JOIN recordings r USING (tenant_id, recording_id)
WHERE s.tenant_id = $1 AND s.segment_id = ANY($2)
ORDER BY r.started_at + s.start_ms * interval '1 ms' DESC, s.segment_id
"""
PUT = """
WITH given AS (
    SELECT * FROM unnest($3::text[], $4::bigint[], $5::text[]) AS g (segment_id, made_of, vector)
), held AS (
    SELECT v.segment_id, s.recording_id, g.made_of, g.vector
    FROM segment_vectors v JOIN given g USING (segment_id)
    JOIN segments s ON s.tenant_id = v.tenant_id AND s.segment_id = v.segment_id
    WHERE v.tenant_id = $1 AND v.model = $2 AND v.due AND hashtextextended(s.text, 0) = g.made_of
    ORDER BY v.segment_id FOR UPDATE OF v FOR SHARE OF s
)
UPDATE segment_vectors v SET text_key = h.made_of, due = false, searched = false, embedding = h.vector::halfvec
FROM held h WHERE v.tenant_id = $1 AND v.segment_id = h.segment_id AND v.model = $2
RETURNING v.segment_id, h.recording_id, h.vector IS NOT NULL AS found
"""
"""Locked in one order by all writers, and the text too: a revision comes wholly before or after."""

EnqueueIndex = Callable[[Connection, str, Sequence[tuple[str, str]]], Awaitable[None]]
"""Puts index jobs for (recording, segment) of a tenant into the same transaction."""


class StoredVectors:
    """`search.ports.Vectors` in the database that holds the segments."""

    def __init__(self, database: Database, enqueue: EnqueueIndex) -> None:
        self._database = database
        self._enqueue = enqueue

    async def due(self, model: str, limit: int) -> list[SegmentName]:
        async with self._database.shared_tx() as connection:
            return [SegmentName(**row) for row in await connection.fetch(DUE, model, limit)]

    async def due_count(self, model: str) -> int:
        async with self._database.shared_tx() as connection:
            return int(await connection.fetchval(DUE_COUNT, model))

    async def behind(self, model: str, age_ms: int) -> bool:
        """Whether anything that was said longer ago still lacks its vector."""
        async with self._database.shared_tx() as connection:
            return bool(await connection.fetchval("SELECT vectors_behind($1, $2)", model, age_ms / 1000))

    async def due_texts(self, tenant_id: str, segment_ids: Sequence[str]) -> list[DueText]:
        async with self._database.tenant_tx(tenant_id) as connection:
            return [DueText(**row) for row in await connection.fetch(DUE_TEXTS, tenant_id, list(segment_ids))]

    async def put_vectors(self, tenant_id: str, model: str, vectors: Sequence[TextVector]) -> int:
        async with self._database.tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(
                PUT,
                tenant_id,
                model,
                [vector.segment_id for vector in vectors],
                [int(vector.mark) for vector in vectors],
                [None if vector.vector is None else _text(vector.vector) for vector in vectors],
            )
            found = [(row["recording_id"], row["segment_id"]) for row in rows if row["found"]]
            if found:
                await self._enqueue(connection, tenant_id, sorted(found))
        return len(rows)


def _text(vector: Vector) -> str:
    """In the syntax of pgvector, which is that of JSON."""
    return msgspec.json.encode(vector.tolist()).decode("ascii")


__all__ = ["EnqueueIndex", "StoredVectors"]
