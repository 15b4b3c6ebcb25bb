"""Vectors in Postgres: the statements of migration 0005_vectors.sql and their values, for `search.postgres`.

Boundary: SQL on connections whose transaction has the tenant set, or none for names and counts of all tenants.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from search.model import DueText, Filters, QueryVector, SegmentName, TextVector, Vector
from search.ports import Connection
from streaming.limits import Limits

NEAREST = "SELECT * FROM search_nearest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
DUE = "SELECT tenant_id, segment_id FROM vectors_due($1, $2)"
DUE_COUNT = "SELECT vectors_due_count($1)"
DUE_TEXTS = """
SELECT v.segment_id, s.text, v.text_key || ' ' || hashtextextended(s.text, 0) AS mark
FROM segment_vectors v JOIN segments s USING (tenant_id, segment_id)
WHERE v.tenant_id = $1 AND v.segment_id = ANY($2)
ORDER BY v.spoken_at DESC, v.segment_id
"""
"""The mark: the hash that the row has, and that of the text as it is now, which may be ahead of its index job."""
PUT = """
WITH given AS (
    SELECT segment_id, split_part(mark, ' ', 1)::bigint AS seen, split_part(mark, ' ', 2)::bigint AS made_of, vector
    FROM unnest($3::text[], $4::text[], $5::text[]) AS g (segment_id, mark, vector)
), held AS (
    SELECT v.segment_id FROM segment_vectors v JOIN given g USING (segment_id)
    WHERE v.tenant_id = $1 AND v.text_key = g.seen ORDER BY v.segment_id FOR UPDATE OF v
)
UPDATE segment_vectors v SET text_key = g.made_of, model = $2, embedding = g.vector::halfvec
FROM given g JOIN held USING (segment_id) WHERE v.tenant_id = $1 AND v.segment_id = g.segment_id
"""
"""Locked in one order by all writers. A row whose text was replaced since it was read is left to be found due again."""


class Near(msgspec.Struct, frozen=True):
    segment_id: str
    spoken_at: datetime
    similarity: float


async def nearest(
    connection: Connection,
    tenant_id: str,
    user_id: str,
    vector: QueryVector,
    filters: Filters,
    times: tuple[datetime | None, datetime | None, datetime | None],
    limits: Limits,
) -> list[Near]:
    """In no order, and more than `search_nearest_max` at times. `times`: from, to, and the newest that counts."""
    rows = await connection.fetch(
        NEAREST,
        tenant_id,
        user_id,
        vector.info.model,
        vector.values.tolist(),
        vector.info.similarity_min,
        filters.recording_ids,
        filters.speakers,
        filters.languages,
        *times,
        limits.search_nearest_max,
        limits.search_exact_max,
    )
    return [Near(**row) for row in rows]


async def due(connection: Connection, model: str, limit: int) -> list[SegmentName]:
    return [SegmentName(**row) for row in await connection.fetch(DUE, model, limit)]


async def due_count(connection: Connection, model: str) -> int:
    return int(await connection.fetchval(DUE_COUNT, model))


async def due_texts(connection: Connection, tenant_id: str, segment_ids: Sequence[str]) -> list[DueText]:
    return [DueText(**row) for row in await connection.fetch(DUE_TEXTS, tenant_id, list(segment_ids))]


async def put(connection: Connection, tenant_id: str, model: str, vectors: Sequence[TextVector]) -> int:
    status = await connection.execute(
        PUT,
        tenant_id,
        model,
        [v.segment_id for v in vectors],
        [v.mark for v in vectors],
        [None if v.vector is None else _text(v.vector) for v in vectors],
    )
    return int(status.rpartition(" ")[2])


def _text(vector: Vector) -> str:
    """In the syntax of pgvector, which is that of JSON."""
    return msgspec.json.encode(vector.tolist()).decode("ascii")
