"""The index in Postgres: tsvectors of words and stems, vectors of meaning, behind `search.ports.Index`.

Policy: text is folded here (`search.query`), matched and ranked there (migration 0003_search.sql), and highlighted by
mapping the marked folded words back onto the text that is returned, so highlights always fit the current text. What is
near in meaning comes from migration 0005_vectors.sql (`search.pgvector`) and is fused with the words' matches here;
every page makes that order anew from the candidates of the first.

Boundary: SQL on connections that the given `TenantTransactions` hands out; its errors are already translated.
Invariant: every statement names the tenant, and runs under its row-level security or in `search_segments` and
`search_nearest`, which refuse any other tenant than the transaction's; `due` and `due_count` tell names and a number.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from search import pgvector
from search.model import (
    LATEST_US,
    Cursor,
    DueText,
    Hit,
    IndexCapabilities,
    IndexDocument,
    Mode,
    Page,
    Position,
    Query,
    QueryVector,
    SegmentName,
    Sort,
    TextVector,
)
from search.ports import Connection, TenantTransactions
from search.query import encode_cursor, folded_text, nfc, query_key, quoted, words_of
from search.ranking import by_time, following, fused, highlights, order_key
from streaming.limits import LIMITS, Limits

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = Mapping[str, Any]

PUT = """
WITH document AS (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::boolean[], $6::timestamptz[], $7::integer[],
                         $8::text[], $9::text[], $10::text[], $11::text[])
        AS d (segment_id, recording_id, owner_id, private, spoken_at, rev, text, folded, language, speaker)
    WHERE EXISTS (SELECT FROM segments s WHERE s.tenant_id = $1 AND s.segment_id = d.segment_id)
), config AS (
    INSERT INTO search_configs (tenant_id, config)
    SELECT DISTINCT $1, search_config(language) FROM document ON CONFLICT DO NOTHING
), written AS (
    INSERT INTO segment_index AS i
        (tenant_id, segment_id, recording_id, owner_id, private, spoken_at, rev, language, speaker, tsv)
    SELECT $1, segment_id, recording_id, owner_id, private, spoken_at, rev, language, speaker,
           search_vector(folded, language)
    FROM document ORDER BY segment_id
    ON CONFLICT (tenant_id, segment_id) DO UPDATE SET
        recording_id = excluded.recording_id, owner_id = excluded.owner_id, private = excluded.private,
        spoken_at = excluded.spoken_at, rev = excluded.rev, language = excluded.language, speaker = excluded.speaker,
        tsv = excluded.tsv
    WHERE i.rev <= excluded.rev
    RETURNING segment_id
)
INSERT INTO segment_vectors AS v (tenant_id, segment_id, spoken_at, text_key)
SELECT $1, segment_id, spoken_at, hashtextextended(text, 0)
FROM document JOIN written USING (segment_id) ORDER BY segment_id
ON CONFLICT (tenant_id, segment_id) DO UPDATE SET
    spoken_at = excluded.spoken_at, text_key = excluded.text_key, model = '', embedding = NULL
WHERE v.text_key <> excluded.text_key
"""
"""Sorted, so that two writers of the same segments lock them in one order. The written revision never falls. A text
that changed loses its vector at once: nothing is found by what it no longer says."""

SEARCH = """
SELECT * FROM search_segments($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
"""
RANKED = SEARCH.replace("*", "segment_id, spoken_at, score, newest_at, oldest_at", 1)
"""The same matches without what is shown of them."""
ROWS = """
SELECT s.segment_id, s.recording_id, r.title, s.speaker, s.start_ms, s.end_ms, s.rev, s.text, s.language
FROM segments s JOIN recordings r USING (tenant_id, recording_id)
WHERE s.tenant_id = $1 AND s.segment_id = ANY($3) AND (r.visibility = 'tenant' OR r.owner_id = $2)
"""
MARK = "SELECT typed, stemmed FROM search_marked($1, $2, $3, $4)"


NO_TENANT = ""
"""A transaction for what concerns all tenants: it sees none of their rows."""


class Matches(msgspec.Struct, frozen=True):
    """What was found, best first, and the spoken times that bound the candidates (see `Cursor`)."""

    order: list[Position]
    newest_us: int | None = None
    oldest_us: int | None = None


class PostgresIndex:
    """Search in the database that holds the segments."""

    def __init__(self, tenant_tx: TenantTransactions, limits: Limits = LIMITS) -> None:
        self._tenant_tx = tenant_tx
        self._limits = limits

    @property
    def capabilities(self) -> IndexCapabilities:
        return IndexCapabilities(name="postgres", vectors=True)

    async def put(self, tenant_id: str, documents: Sequence[IndexDocument]) -> None:
        latest: dict[str, IndexDocument] = {}
        for document in documents:
            held = latest.get(document.segment_id)
            if held is None or held.rev <= document.rev:
                latest[document.segment_id] = document
        if not latest:
            return
        rows = list(latest.values())
        async with self._tenant_tx(tenant_id) as connection:
            await connection.execute(
                PUT,
                tenant_id,
                [d.segment_id for d in rows],
                [d.recording_id for d in rows],
                [d.owner_id for d in rows],
                [d.private for d in rows],
                [_time(d.spoken_at_ms * 1000) for d in rows],
                [d.rev for d in rows],
                [d.text for d in rows],
                [folded_text(nfc(d.text)) for d in rows],
                [d.language.lower() for d in rows],
                [d.speaker for d in rows],
            )

    async def remove(self, tenant_id: str, segment_ids: Sequence[str]) -> None:
        if not segment_ids:
            return
        async with self._tenant_tx(tenant_id) as connection:
            await connection.execute(
                "DELETE FROM segment_index WHERE tenant_id = $1 AND segment_id = ANY($2)", tenant_id, list(segment_ids)
            )

    async def search(self, tenant_id: str, user_id: str, query: Query) -> Page:
        if query.is_empty:
            return Page(())
        after = query.cursor.last if query.cursor else None
        arguments = self._arguments(tenant_id, user_id, query, query.limit, after)
        async with self._tenant_tx(tenant_id) as connection:
            rows: list[Row] = await connection.fetch(SEARCH, *arguments)
            more = len(rows) > query.limit
            rows = rows[: query.limit]
            hits = await _hits(connection, query, [row for row in rows if row["visible"]])
        return Page(hits, _next_cursor(query, rows[-1]) if more else None)

    async def search_near(self, tenant_id: str, user_id: str, query: Query, vector: QueryVector) -> Page:
        if query.is_empty:
            return Page(())
        async with self._tenant_tx(tenant_id) as connection:
            words = Matches([])
            if query.mode is not Mode.SEMANTIC:
                words = await self._by_words(connection, tenant_id, user_id, query)
            near = await self._by_meaning(connection, tenant_id, user_id, query, vector)
            order = _one_order(query, words.order, near.order)[: query.limit + 1]
            page = order[: query.limit]
            hits = await self._shown(connection, tenant_id, user_id, query, page, {p.segment_id for p in words.order})
        if len(order) <= query.limit:
            return Page(hits)
        newest = [m.newest_us for m in (words, near) if m.newest_us is not None]
        first, second = newest[0], newest[-1]
        return Page(hits, encode_cursor(Cursor(query_key(query), page[-1], first, words.oldest_us, second)))

    async def due(self, model: str, limit: int) -> list[SegmentName]:
        async with self._tenant_tx(NO_TENANT) as connection:
            return await pgvector.due(connection, model, limit)

    async def due_count(self, model: str) -> int:
        async with self._tenant_tx(NO_TENANT) as connection:
            return await pgvector.due_count(connection, model)

    async def due_texts(self, tenant_id: str, segment_ids: Sequence[str]) -> list[DueText]:
        async with self._tenant_tx(tenant_id) as connection:
            return await pgvector.due_texts(connection, tenant_id, segment_ids)

    async def put_vectors(self, tenant_id: str, model: str, vectors: Sequence[TextVector]) -> int:
        async with self._tenant_tx(tenant_id) as connection:
            return await pgvector.put(connection, tenant_id, model, vectors)

    async def _by_words(self, connection: Connection, tenant_id: str, user_id: str, query: Query) -> Matches:
        """All candidates when ranked; when the newest are wanted, those of one page."""
        cursor, size, after = query.cursor, self._limits.search_candidates_max, None
        if query.sort is Sort.NEWEST:
            size, after = query.limit, cursor.last if cursor else None
        rows = await connection.fetch(RANKED, *self._arguments(tenant_id, user_id, query, size, after))
        if not rows:
            return Matches([], cursor.newest_us, cursor.oldest_us) if cursor else Matches([])
        order = [Position(row["score"], _micros(row["spoken_at"]), row["segment_id"]) for row in rows]
        oldest = rows[0]["oldest_at"]
        return Matches(order, _micros(rows[0]["newest_at"]), None if oldest is None else _micros(oldest))

    async def _by_meaning(
        self, connection: Connection, tenant_id: str, user_id: str, query: Query, vector: QueryVector
    ) -> Matches:
        filters, cursor = query.filters, query.cursor
        newest_us = cursor.nearest_newest_us if cursor else None
        times = (_from_ms(filters.from_ms), _from_ms(filters.to_ms), None if newest_us is None else _time(newest_us))
        found = await pgvector.nearest(connection, tenant_id, user_id, vector, filters, times, self._limits)
        order = sorted((Position(n.similarity, _micros(n.spoken_at), n.segment_id) for n in found), key=order_key)
        order = order[: self._limits.search_nearest_max]
        return Matches(order, newest_us or max((p.spoken_at_us for p in order), default=None))

    async def _shown(
        self,
        connection: Connection,
        tenant_id: str,
        user_id: str,
        query: Query,
        page: Sequence[Position],
        worded: Collection[str],
    ) -> tuple[Hit, ...]:
        """The page as it is shown, without what this user may not see any more. `worded`: what its words found; only
        there are words marked."""
        found = await connection.fetch(ROWS, tenant_id, user_id, [p.segment_id for p in page])
        by_id: dict[str, Row] = {row["segment_id"]: row for row in found}
        rows = [{**by_id[p.segment_id], "score": p.score} for p in page if p.segment_id in by_id]
        marked = await _hits(connection, query, [row for row in rows if row["segment_id"] in worded])
        hits = {hit.segment_id: hit for hit in marked}
        return tuple(hits.get(row["segment_id"]) or _hit(row, nfc(row["text"])) for row in rows)

    def _arguments(
        self, tenant_id: str, user_id: str, query: Query, page_size: int, after: Position | None
    ) -> list[object]:
        filters, cursor = query.filters, query.cursor
        by_newest = query.sort is Sort.NEWEST
        windowed = cursor is not None and not by_newest
        return [
            tenant_id,
            user_id,
            [quoted(word) for word in query.words],
            query.prefix,
            filters.recording_ids,
            filters.speakers,
            filters.languages,
            _from_ms(filters.from_ms),
            _from_ms(filters.to_ms),
            by_newest,
            page_size,
            self._limits.search_candidates_max,
            after.score if after else None,
            _time(after.spoken_at_us) if after else None,
            after.segment_id if after else None,
            _time(cursor.newest_us) if cursor and windowed else None,
            _time(cursor.oldest_us) if cursor and windowed and cursor.oldest_us is not None else None,
        ]


def _one_order(query: Query, words: Sequence[Position], near: Sequence[Position]) -> Sequence[Position]:
    """What follows the query's cursor, best first. `words` holds only that already when sorted by newest."""
    last = query.cursor.last if query.cursor else None
    if query.sort is Sort.NEWEST:
        order = by_time(words, near)
        return order if last is None else [p for p in order if order_key(p) > order_key(last)]
    order = list(near) if query.mode is Mode.SEMANTIC else fused(words, near)
    return order if last is None else following(order, last)


async def _hits(connection: Connection, query: Query, rows: Sequence[Row]) -> tuple[Hit, ...]:
    """Rows as hits, with the query's words marked."""
    if not rows:
        return ()
    texts = [nfc(row["text"]) for row in rows]
    words = [quoted(word) for word in query.words]
    marked = await connection.fetch(
        MARK, words, query.prefix, [folded_text(text) for text in texts], [row["language"] for row in rows]
    )
    return tuple(
        _hit(row, text, highlights(words_of(text), (marks["typed"], marks["stemmed"])))
        for row, text, marks in zip(rows, texts, marked, strict=True)
    )


def _hit(row: Row, text: str, marks: tuple[tuple[int, int], ...] = ()) -> Hit:
    return Hit(
        segment_id=row["segment_id"],
        recording_id=row["recording_id"],
        title=row["title"],
        speaker=row["speaker"],
        start_ms=row["start_ms"],
        end_ms=row["end_ms"],
        rev=row["rev"],
        text=text,
        highlights=marks,
        score=row["score"],
    )


def _next_cursor(query: Query, last: Row) -> str:
    position = Position(last["score"], _micros(last["spoken_at"]), last["segment_id"])
    oldest = last["oldest_at"]
    return encode_cursor(
        Cursor(query_key(query), position, _micros(last["newest_at"]), None if oldest is None else _micros(oldest))
    )


def _from_ms(ms: int | None) -> datetime | None:
    return None if ms is None else _time(ms * 1000)


def _time(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=min(micros, LATEST_US))


def _micros(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)
