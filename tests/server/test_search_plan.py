"""What a search costs: 20,000 segments in 20 tenants, counted in 8 kB buffers, which do not depend on the machine."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

TENANTS, SEGMENTS = 20, 1_000

FILL = f"""
SELECT setseed(0.5);
INSERT INTO tenants (tenant_id, name) SELECT 't' || t, 't' || t FROM generate_series(1, {TENANTS}) t;
INSERT INTO users SELECT 't' || t, 'u', 'u' FROM generate_series(1, {TENANTS}) t;
INSERT INTO search_configs SELECT 't' || t, 'english' FROM generate_series(1, {TENANTS}) t;
INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state, engine, encoding,
                        sample_rate, channels)
    SELECT 't' || t, 'r' || r, 'u', 'Talk', 'tenant', 'en', 'ended', 'test', 'pcm_s16le', 16000, 1
    FROM generate_series(1, {TENANTS}) t, generate_series(0, 9) r;
-- Twelve words each; word k is the rarer the greater k, and begins with one of 26 letters in turn
INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text, words, language,
                      confidence)
    SELECT 't' || t, 'r' || n % 10, 's' || n, n, 1, n, n, CASE WHEN n % 250 = 0 THEN 'zebra ' ELSE '' END || (
        SELECT string_agg(chr(97 + k % 26) || 'o' || chr(97 + k / 26 % 26) || 'a' || k, ' ')
        FROM (SELECT (3000 * random() ^ 2)::integer AS k FROM generate_series(1, 12) WHERE t + n > 0) drawn
    ), '[]', 'en', 1
    FROM generate_series(1, {TENANTS}) t, generate_series(1, {SEGMENTS}) n;
INSERT INTO segment_index (tenant_id, segment_id, recording_id, owner_id, private, spoken_at, rev, language, tsv)
    SELECT tenant_id, segment_id, recording_id, 'u', false, '2026-01-01'::timestamptz + make_interval(secs => ordinal),
           1, 'en', search_vector(text, 'en')
    FROM segments ORDER BY random();
ANALYZE;
"""
SEARCH = """
EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
SELECT * FROM search_segments('t7', 'u', ARRAY[{word}], {prefix}, NULL, NULL, NULL, NULL, NULL, {newest}, 20, 500,
                              NULL, NULL, NULL, NULL, NULL)
"""
CANDIDATES = """
EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
SELECT * FROM search_candidates('t7', 'u', search_tsquery(ARRAY[{word}], {prefix}, ARRAY['english']),
                                NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, {rows})
"""


@pytest.fixture
async def filled(database_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_dsn)
    await connection.execute(FILL)
    await connection.execute("SELECT set_config('parlance.tenant', 't7', false)")
    yield connection
    await connection.close()


async def explained(connection: Any, statement: str) -> tuple[int, int, set[str]]:
    """Rows, buffers touched and indexes used. Runs twice, so that no cache is filled by what is counted."""
    await connection.fetchval(statement)
    plan = json.loads(await connection.fetchval(statement))[0]["Plan"]
    indexes: set[str] = set()
    waiting = [plan]
    while waiting:
        node = waiting.pop()
        waiting += node.get("Plans", [])
        if "Index Name" in node:
            indexes.add(node["Index Name"])
        assert node["Node Type"] != "Seq Scan", "a search never reads the whole table"
    return plan["Actual Rows"], plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], indexes


@pytest.fixture
async def table_buffers(filled: Any) -> int:
    """Of the table alone: reading it from end to end, without its indexes."""
    return int(await filled.fetchval("SELECT pg_relation_size('segment_index') / 8192"))


async def test_a_selective_word_touches_its_matches_only(filled: Any, table_buffers: int) -> None:
    assert table_buffers > 700
    for word, prefix, matches in [("zebra", "false", 4), ("zeb", "true", 4), ("absent", "false", 0)]:
        operand = f"quote_literal('{word}')"
        rows, touched, indexes = await explained(filled, CANDIDATES.format(word=operand, prefix=prefix, rows=500))
        assert rows == matches
        assert "segment_index_tsv" in indexes
        assert touched <= 25, "12 were measured"
        _, whole, _ = await explained(filled, SEARCH.format(word=operand, prefix=prefix, newest="false"))
        assert whole <= 60, "30 were measured, of them 8 for the rows of the hits"


async def test_a_frequent_prefix_touches_a_page_when_sorted_by_newest(filled: Any, table_buffers: int) -> None:
    operand = "quote_literal('a')"
    rows, touched, indexes = await explained(filled, CANDIDATES.format(word=operand, prefix="true", rows=21))
    assert (rows, indexes) == (21, {"segment_index_newest"})
    assert touched <= 100, "37 were measured: half of the newest rows match"
    _, whole, _ = await explained(filled, SEARCH.format(word=operand, prefix="true", newest="true"))
    assert whole <= 200, "106 were measured, of them 60 for titles and texts of the hits"


async def test_a_frequent_prefix_touches_no_more_than_its_candidates_when_ranked(
    filled: Any, table_buffers: int
) -> None:
    """Of 9,000 matches in all tenants, the tenant's 460 are ranked; each lies on a buffer of its own at worst."""
    operand = "quote_literal('a')"
    rows, touched, indexes = await explained(filled, CANDIDATES.format(word=operand, prefix="true", rows=500))
    assert 400 < rows <= 500
    assert indexes & {"segment_index_tsv", "segment_index_newest"}
    assert touched <= rows + 50, "357 were measured"
    _, whole, _ = await explained(filled, SEARCH.format(word=operand, prefix="true", newest="false"))
    assert whole <= rows + 200 < table_buffers, "426 were measured"
