"""The index in Postgres: tsvectors of our own tokens, vectors of meaning, behind `search.ports.Index`.

Policy: tokens are made here (`search.analysis`) and only kept there, so the server's text configurations, which differ
between versions and locales, never matter. Matched and ranked in migration 0016_search.sql: rare words by the GIN
index, frequent ones newest first, and no more than `Limits.search_candidates_max` are ranked. A small tenant's vectors
are compared one by one, a large one's by the index of neighbours. A row of another analysis is told as revision 0, so
that whoever compares puts it again; until then its words are found as they were said.

All editions share the rows: words are replaced in place, and vectors of several models stand side by side in
`segment_vectors`, of which those are `searched` that documents brought. So nothing is begun here, and what is dropped
with the last edition that lies here is everything.

Boundary: SQL on connections that the given `TenantTransactions` hands out; its errors are already translated.
Invariant: every statement names the tenant, and runs under its row-level security or in `search_match` and
`search_nearest`, which refuse any other tenant than the transaction's; `index_tenants` tells names, `index_expire` a
number.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from search.analysis import ANALYSIS, Analysed, analyse
from search.matching import tsquery
from search.model import (
    LATEST_US,
    Bounds,
    Edition,
    Expression,
    Found,
    Held,
    IndexCapabilities,
    IndexDocument,
    QueryVector,
    Sort,
    Vector,
)
from search.ports import TenantTransactions
from search.query import nfc, quoted
from streaming.limits import LIMITS, Limits

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCHEMA = 1
EXPIRE_ROWS = 2_000
"""Of an unused index freed at once: some 50 ms."""
NO_TENANT = ""
"""A transaction for what concerns all tenants: it sees none of their rows."""

PUT = """
INSERT INTO segment_index AS i
    (tenant_id, segment_id, recording_id, owner_id, private, spoken_at, rev, language, speaker, tsv, analysis)
SELECT $1, d.segment_id, d.recording_id, d.owner_id, d.private, d.spoken_at, d.rev, d.language, d.speaker,
       d.tokens::tsvector, $11
FROM unnest($2::text[], $3::text[], $4::text[], $5::boolean[], $6::timestamptz[], $7::integer[], $8::text[],
            $9::text[], $10::text[])
    AS d (segment_id, recording_id, owner_id, private, spoken_at, rev, language, speaker, tokens)
WHERE EXISTS (SELECT FROM segments s WHERE s.tenant_id = $1 AND s.segment_id = d.segment_id)
ORDER BY d.segment_id
ON CONFLICT (tenant_id, segment_id) DO UPDATE SET
    recording_id = excluded.recording_id, owner_id = excluded.owner_id, private = excluded.private,
    spoken_at = excluded.spoken_at, rev = excluded.rev, language = excluded.language, speaker = excluded.speaker,
    tsv = excluded.tsv, analysis = excluded.analysis
"""
"""Sorted, so that two writers of the same segments lock them in one order. A segment that is gone is left out."""
UNSEARCH = """
UPDATE segment_vectors v SET searched = false
FROM unnest($2::text[], $3::text[]) AS d (segment_id, models)
WHERE v.tenant_id = $1 AND v.segment_id = d.segment_id AND v.searched
  AND NOT v.model = ANY (string_to_array(d.models, chr(1)))
"""
"""What a document does not bring is not found by meaning any more."""
PUT_VECTORS = """
INSERT INTO segment_vectors AS v
    (tenant_id, segment_id, model, spoken_at, text_key, due, searched, embedding)
SELECT $1, d.segment_id, d.model, d.spoken_at, hashtextextended(d.text, 0), false, true, d.vector::halfvec
FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[])
    AS d (segment_id, model, spoken_at, text, vector)
JOIN segments s ON s.tenant_id = $1 AND s.segment_id = d.segment_id AND s.text = d.text
ORDER BY d.segment_id, d.model
ON CONFLICT (tenant_id, segment_id, model) DO UPDATE SET
    spoken_at = excluded.spoken_at, text_key = excluded.text_key, due = false, searched = true,
    embedding = excluded.embedding
WHERE NOT (v.searched AND v.text_key = excluded.text_key)
"""
"""Only of the text that the segment has now: this table is the truth about vectors too, and a document that is behind
may not put an older one there. A revision that only moves times touches nothing: the index of neighbours would be
written again."""

MATCH = """
SELECT segment_id, recording_id, spoken_at, score
FROM search_match($1, $2, $3::text::tsquery, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
"""
NEAR = """
SELECT segment_id, recording_id, spoken_at, similarity
FROM search_nearest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
"""
HELD = """
SELECT i.segment_id, CASE i.analysis WHEN {analysis} THEN i.rev ELSE 0 END AS rev,
       ARRAY(SELECT v.model FROM segment_vectors v
             WHERE v.tenant_id = i.tenant_id AND v.segment_id = i.segment_id AND v.searched ORDER BY v.model) AS models
FROM segment_index i WHERE i.tenant_id = $1
"""
HELD_AFTER = HELD + " AND i.segment_id > $2 ORDER BY i.segment_id LIMIT $3"
HELD_OF = HELD + " AND i.segment_id = ANY ($2) ORDER BY i.segment_id"


class PostgresIndex:
    """Search in the database that holds the segments."""

    def __init__(self, tenant_tx: TenantTransactions, limits: Limits = LIMITS) -> None:
        self._tenant_tx = tenant_tx
        self._limits = limits

    @property
    def capabilities(self) -> IndexCapabilities:
        return IndexCapabilities(name="postgres", vectors=True, schema=SCHEMA)

    async def put(self, tenant_id: str, documents: Sequence[IndexDocument], *, only: int | None = None) -> None:
        latest = {document.segment_id: document for document in documents}
        if not latest:
            return
        rows = sorted(latest.values(), key=lambda d: d.segment_id)
        tokens = [tsvector(analyse(nfc(d.text), d.language)) for d in rows]
        ids = [d.segment_id for d in rows]
        models = ["\x01".join(v.model for v in d.vectors) for d in rows]
        vectors = [(d, v) for d in rows for v in d.vectors]
        async with self._tenant_tx(tenant_id) as connection:
            await connection.execute(
                PUT,
                tenant_id,
                ids,
                [d.recording_id for d in rows],
                [d.owner_id for d in rows],
                [d.private for d in rows],
                [_time(d.spoken_at_ms * 1000) for d in rows],
                [d.rev for d in rows],
                [d.language.lower() for d in rows],
                [d.speaker for d in rows],
                tokens,
                ANALYSIS,
            )
            await connection.execute(UNSEARCH, tenant_id, ids, models)
            if vectors:
                await connection.execute(
                    PUT_VECTORS,
                    tenant_id,
                    [d.segment_id for d, _ in vectors],
                    [v.model for _, v in vectors],
                    [_time(d.spoken_at_ms * 1000) for d, _ in vectors],
                    [d.text for d, _ in vectors],
                    [_vector(v.values) for _, v in vectors],
                )

    async def remove(self, tenant_id: str, segment_ids: Sequence[str]) -> None:
        if not segment_ids:
            return
        ids = sorted(set(segment_ids))
        async with self._tenant_tx(tenant_id) as connection:
            await connection.execute(
                "DELETE FROM segment_index WHERE tenant_id = $1 AND segment_id = ANY($2)", tenant_id, ids
            )
            await connection.execute(UNSEARCH, tenant_id, ids, [""] * len(ids))

    async def forget(self, tenant_id: str) -> None:
        async with self._tenant_tx(tenant_id) as connection:
            await connection.execute("DELETE FROM segment_index WHERE tenant_id = $1", tenant_id)
            await connection.execute(
                "UPDATE segment_vectors SET searched = false WHERE tenant_id = $1 AND searched", tenant_id
            )

    async def match(self, tenant_id: str, expression: Expression, bounds: Bounds) -> list[Found]:
        if not expression.clauses:
            return []
        after = bounds.after
        async with self._tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(
                MATCH,
                tenant_id,
                bounds.user_id,
                tsquery(expression),
                *_filters(bounds),
                _time(after.spoken_at_us) if after else None,
                after.segment_id if after else None,
                bounds.sort is Sort.NEWEST,
                bounds.limit,
                self._limits.search_candidates_max,
            )
        return [Found(name, place, _micros(at), score) for name, place, at, score in rows]

    async def near(self, tenant_id: str, vector: QueryVector, bounds: Bounds) -> list[Found]:
        async with self._tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(
                NEAR,
                tenant_id,
                bounds.user_id,
                vector.info.model,
                vector.values.tolist(),
                vector.info.similarity_min,
                *_filters(bounds),
                bounds.limit,
                self._limits.search_exact_max,
            )
        found = [Found(name, place, _micros(at), cosine) for name, place, at, cosine in rows]
        found.sort(key=lambda f: (-f.score, -f.spoken_at_us, f.segment_id))
        return found[: bounds.limit]

    async def held(self, tenant_id: str, after: str | None, limit: int) -> tuple[list[Held], str | None]:
        statement = HELD_AFTER.format(analysis=ANALYSIS)
        async with self._tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(statement, tenant_id, after or "", limit)
        found = [Held(row["segment_id"], row["rev"], tuple(row["models"])) for row in rows]
        return found, found[-1].segment_id if len(found) == limit else None

    async def held_of(self, tenant_id: str, segment_ids: Sequence[str]) -> list[Held]:
        statement = HELD_OF.format(analysis=ANALYSIS)
        async with self._tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(statement, tenant_id, list(segment_ids))
        return [Held(row["segment_id"], row["rev"], tuple(row["models"])) for row in rows]

    async def tenants(self) -> list[str]:
        async with self._tenant_tx(NO_TENANT) as connection:
            rows = await connection.fetch("SELECT tenant_id FROM index_tenants()")
        return [row["tenant_id"] for row in rows]

    async def begin(self, edition: Edition) -> None:
        return None

    async def drop(self, edition: Edition) -> None:
        freed = EXPIRE_ROWS
        while freed >= EXPIRE_ROWS:
            async with self._tenant_tx(NO_TENANT) as connection:
                freed = await connection.fetchval("SELECT index_expire($1)", EXPIRE_ROWS)


def tsvector(analysed: Analysed) -> str:
    """A text's tokens in the syntax of Postgres' type `tsvector`."""
    return " ".join(f"{quoted(token)}:{position}" for token, position in analysed.tokens())


def _filters(bounds: Bounds) -> tuple[object, ...]:
    filters = bounds.filters
    return (
        filters.recording_ids,
        filters.speakers,
        [recording_id for recording_id, _ in bounds.named],
        [label for _, label in bounds.named],
        filters.languages,
        None if filters.from_ms is None else _time(filters.from_ms * 1000),
        None if filters.to_ms is None else _time(filters.to_ms * 1000),
        None if bounds.newest_us >= LATEST_US else _time(bounds.newest_us),
    )


def _vector(vector: Vector) -> str:
    """In the syntax of pgvector, which is that of JSON."""
    return msgspec.json.encode(vector.tolist()).decode("ascii")


def _time(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=min(micros, LATEST_US))


def _micros(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)
