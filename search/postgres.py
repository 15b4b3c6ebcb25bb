"""The index in Postgres: tsvectors of the words as said and of their stems, behind `search.ports.Index`.

Policy: text is folded here (`search.query`), matched and ranked there (migration 0003_search.sql), and highlighted by
mapping the marked folded words back onto the text that is returned, so highlights always fit the current text.

Boundary: SQL on connections that the given `TenantTransactions` hands out; its errors are already translated.
Invariant: every statement names the tenant, and runs under its row-level security or in `search_segments`, which
refuses any other tenant than the transaction's.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from search.model import LATEST_US, Cursor, Hit, IndexCapabilities, IndexDocument, Page, Position, Query, Sort
from search.ports import Connection, TenantTransactions
from search.query import encode_cursor, folded_text, nfc, query_key, quoted, words_of
from search.ranking import highlights
from streaming.limits import LIMITS, Limits

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = Mapping[str, Any]

PUT = """
WITH document AS (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::boolean[], $6::timestamptz[], $7::integer[],
                         $8::text[], $9::text[], $10::text[])
        AS d (segment_id, recording_id, owner_id, private, spoken_at, rev, folded, language, speaker)
    WHERE EXISTS (SELECT FROM segments s WHERE s.tenant_id = $1 AND s.segment_id = d.segment_id)
), config AS (
    INSERT INTO search_configs (tenant_id, config)
    SELECT DISTINCT $1, search_config(language) FROM document ON CONFLICT DO NOTHING
)
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
"""
"""Sorted, so that two writers of the same segments lock them in one order. The written revision never falls."""

SEARCH = """
SELECT * FROM search_segments($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
"""
MARK = "SELECT typed, stemmed FROM search_marked($1, $2, $3, $4)"


class PostgresIndex:
    """Text search in the database that holds the segments."""

    def __init__(self, tenant_tx: TenantTransactions, limits: Limits = LIMITS) -> None:
        self._tenant_tx = tenant_tx
        self._limits = limits

    @property
    def capabilities(self) -> IndexCapabilities:
        return IndexCapabilities(name="postgres", vectors=False)

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
        words = [quoted(word) for word in query.words]
        async with self._tenant_tx(tenant_id) as connection:
            rows: list[Row] = await connection.fetch(SEARCH, *self._arguments(tenant_id, user_id, words, query))
            more = len(rows) > query.limit
            rows = rows[: query.limit]
            hits = await _hits(connection, words, query.prefix, [row for row in rows if row["visible"]])
        return Page(hits, _next_cursor(query, rows[-1]) if more else None)

    def _arguments(self, tenant_id: str, user_id: str, words: list[str], query: Query) -> list[object]:
        filters, cursor = query.filters, query.cursor
        by_newest = query.sort is Sort.NEWEST
        windowed = cursor is not None and not by_newest
        return [
            tenant_id,
            user_id,
            words,
            query.prefix,
            filters.recording_ids,
            filters.speakers,
            filters.languages,
            None if filters.from_ms is None else _time(filters.from_ms * 1000),
            None if filters.to_ms is None else _time(filters.to_ms * 1000),
            by_newest,
            query.limit,
            self._limits.search_candidates_max,
            cursor.last.score if cursor else None,
            _time(cursor.last.spoken_at_us) if cursor else None,
            cursor.last.segment_id if cursor else None,
            _time(cursor.newest_us) if cursor and windowed else None,
            _time(cursor.oldest_us) if cursor and windowed and cursor.oldest_us is not None else None,
        ]


async def _hits(connection: Connection, words: list[str], prefix: bool, rows: Sequence[Row]) -> tuple[Hit, ...]:
    if not rows:
        return ()
    texts = [nfc(row["text"]) for row in rows]
    marked = await connection.fetch(
        MARK, words, prefix, [folded_text(text) for text in texts], [row["language"] for row in rows]
    )
    return tuple(
        Hit(
            segment_id=row["segment_id"],
            recording_id=row["recording_id"],
            title=row["title"],
            speaker=row["speaker"],
            start_ms=row["start_ms"],
            end_ms=row["end_ms"],
            rev=row["rev"],
            text=text,
            highlights=highlights(words_of(text), (marks["typed"], marks["stemmed"])),
            score=row["score"],
        )
        for row, text, marks in zip(rows, texts, marked, strict=True)
    )


def _next_cursor(query: Query, last: Row) -> str:
    position = Position(last["score"], _micros(last["spoken_at"]), last["segment_id"])
    oldest = last["oldest_at"]
    return encode_cursor(
        Cursor(query_key(query), position, _micros(last["newest_at"]), None if oldest is None else _micros(oldest))
    )


def _time(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=min(micros, LATEST_US))


def _micros(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)
