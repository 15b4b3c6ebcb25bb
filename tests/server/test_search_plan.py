"""What a search costs: 20,000 segments in 20 tenants, counted in 8 kB buffers, which do not depend on the machine.
And what a search by meaning finds of what it should, which an index of neighbours only approximates."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import numpy as np
import pytest

from tests.conftest import TEMPLATE, with_database

TENANTS, SEGMENTS = 20, 1_000

FILL = f"""
SELECT setseed(0.5);
INSERT INTO tenants (tenant_id, name) SELECT 't' || t, 't' || t FROM generate_series(1, {TENANTS}) t;
INSERT INTO users SELECT 't' || t, 'u', 'u' FROM generate_series(1, {TENANTS}) t;
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
INSERT INTO segment_index (tenant_id, segment_id, recording_id, owner_id, private, spoken_at, rev, language, tsv,
                           speaker)
    SELECT tenant_id, segment_id, recording_id, 'u', false, '2026-01-01'::timestamptz + make_interval(secs => ordinal),
           1, 'en', (SELECT string_agg(format('%s:%s ~%s:%s', w, n, w, n), ' ')
                     FROM regexp_split_to_table(text, ' ') WITH ORDINALITY AS u (w, n))::tsvector,
           'S' || 1 + ordinal % 7 % 5
    FROM segments ORDER BY random();
ANALYZE;
"""
SEARCH = """
EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
SELECT * FROM search_match('t7', 'u', '{query}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, {newest},
                           {rows}, 500)
"""
CANDIDATES = """
EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
SELECT * FROM search_candidates('t7', 'u', '{query}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                                {rows})
"""


@contextlib.asynccontextmanager
async def copied(postgres_dsn: str, template: str, name: str) -> AsyncIterator[Any]:
    """A connection to a new database."""
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    connection = await asyncpg.connect(with_database(postgres_dsn, name))
    try:
        yield connection
    finally:
        await connection.close()
        await admin.close()


@contextlib.asynccontextmanager
async def passing(postgres_dsn: str, template: str) -> AsyncIterator[Any]:
    """A copy that ends with the test, which may spoil it."""
    name = f"{template}_copy"
    async with copied(postgres_dsn, template, name) as connection:
        await connection.execute("SELECT set_config('parlance.tenant', 't7', false)")
        yield connection
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture(scope="module")
def filled_template(postgres_dsn: str) -> str:
    """Filled once for all tests."""

    async def fill() -> None:
        async with copied(postgres_dsn, TEMPLATE, "plan_filled") as connection:
            await connection.execute(FILL)

    asyncio.run(fill())
    return "plan_filled"


@pytest.fixture
async def filled(postgres_dsn: str, filled_template: str) -> AsyncIterator[Any]:
    async with passing(postgres_dsn, filled_template) as connection:
        yield connection


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
    for query, matches in [("zebra", 4), ("zeb:*", 4), ("absent", 0), ("zebra | ~zebra", 4)]:
        rows, touched, indexes = await explained(filled, CANDIDATES.format(query=query, rows=500))
        assert rows == matches
        assert "segment_index_tsv" in indexes
        assert touched <= 25, "14 were measured"
        _, whole, _ = await explained(filled, SEARCH.format(query=query, newest="false", rows=500))
        assert whole <= 40, "15 were measured"


async def test_a_frequent_prefix_touches_a_page_when_sorted_by_newest(filled: Any, table_buffers: int) -> None:
    rows, touched, indexes = await explained(filled, CANDIDATES.format(query="a:*", rows=21))
    assert (rows, indexes) == (21, {"segment_index_newest"})
    assert touched <= 100, "37 were measured: half of the newest rows match"
    _, whole, _ = await explained(filled, SEARCH.format(query="a:*", newest="true", rows=21))
    assert whole <= 100, "38 were measured"


async def test_a_frequent_prefix_touches_no_more_than_its_candidates_when_ranked(
    filled: Any, table_buffers: int
) -> None:
    """Of 9,000 matches in all tenants, the tenant's 460 are ranked; each lies on a buffer of its own at worst."""
    rows, touched, indexes = await explained(filled, CANDIDATES.format(query="a:*", rows=500))
    assert 400 < rows <= 500
    assert indexes & {"segment_index_tsv", "segment_index_newest"}
    assert touched <= rows + 50, "397 were measured"
    _, whole, _ = await explained(filled, SEARCH.format(query="a:*", newest="false", rows=500))
    assert whole <= rows + 100 < table_buffers, "398 were measured"


@pytest.mark.parametrize("speaker", ["S1", "nobody"])
async def test_places_of_speakers_are_a_table_in_memory(filled: Any, table_buffers: int, speaker: str) -> None:
    """Of years of meetings, in which each candidate is looked up once."""
    recordings = "{" + ",".join(f"r{n}" for n in range(2_000)) + "}"
    labels = "{" + ",".join(["S2"] * 2_000) + "}"

    def among(query: str) -> str:
        speakers = f"NULL, ARRAY['{speaker}'], '{recordings}', '{labels}'"
        return CANDIDATES.format(query=query, rows=500).replace("NULL, NULL, NULL, NULL", speakers, 1)

    _, touched, indexes = await explained(filled, among("zebra"))
    assert "segment_index_tsv" in indexes
    assert touched <= 30, "12 were measured"
    rows, touched, _ = await explained(filled, among("a:*"))
    assert 0 < rows < 400
    assert touched <= table_buffers / 2 + 50, "every one of the tenant's matches once"
    (plan,) = json.loads(await filled.fetchval(among("a:*")))
    text = json.dumps(plan)
    assert (text.count('"Subplan Name"'), text.count("hashed SubPlan 1")) == (1, 2), "a table in memory, not a loop"


# --- by meaning ---------------------------------------------------------------------------------------------------
DIMENSIONS, TOPICS, NEAREST = 384, 50, 100
NEAR = """
SELECT segment_id, similarity
FROM search_nearest($1, 'u', 'm', $2, 0.2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, $3, $4, $5)
"""
PUT = """
INSERT INTO segment_vectors (tenant_id, segment_id, spoken_at, text_key, model, due, searched, embedding)
SELECT i.tenant_id, i.segment_id, i.spoken_at, 0, 'm', false, true, v.embedding::halfvec
FROM segment_index i JOIN unnest($2::text[], $3::text[]) AS v (segment_id, embedding) USING (segment_id)
WHERE i.tenant_id = $1
"""


def drawn(count: int, seed: int) -> Any:
    """Unit vectors around some topics, as sentences of talks are."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(0).normal(size=(TOPICS, DIMENSIONS))
    vectors = topics[rng.integers(0, TOPICS, count)] + 1.2 * rng.normal(size=(count, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


async def put_vectors(connection: Any, tenant: str, vectors: Any) -> None:
    names = [f"s{n + 1}" for n in range(len(vectors))]
    await connection.execute(PUT, tenant, names, [str(vector.tolist()) for vector in vectors])


async def recall(connection: Any, tenant: str, vectors: Any, *, exact_max: int, first: int = 0) -> float:
    """The share of the true neighbours from `first` on that are found, as far as they are near; of the worst query."""
    await connection.execute("SELECT set_config('parlance.tenant', $1, false)", tenant)
    worst = 1.0
    for query in drawn(10, seed=99):
        cosines = vectors @ query
        true = [n for n in np.argsort(-cosines)[:NEAREST] if cosines[n] >= 0.201 and n >= first]
        assert len(true) > 5, "the test asks for something"
        rows = await connection.fetch(NEAR, tenant, query.tolist(), None, NEAREST, exact_max)
        found = {row["segment_id"]: row["similarity"] for row in rows}
        assert len(found) == len(rows), "each once"
        assert all(abs(float(cosines[int(name[1:]) - 1]) - cosine) < 0.002 for name, cosine in found.items())
        worst = min(worst, sum(f"s{n + 1}" in found for n in true) / len(true))
    return worst


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    """Of three tenants; the others have none."""
    return {tenant: drawn(SEGMENTS, seed=n) for n, tenant in enumerate(("t1", "t2", "t7"))}


@pytest.fixture(scope="module")
def near_template(postgres_dsn: str, filled_template: str, vectors: dict[str, Any]) -> str:
    async def fill() -> None:
        async with copied(postgres_dsn, filled_template, "plan_near") as connection:
            for tenant, values in vectors.items():
                await put_vectors(connection, tenant, values)
            await connection.execute("ANALYZE")

    asyncio.run(fill())
    return "plan_near"


@pytest.fixture
async def near(postgres_dsn: str, near_template: str) -> AsyncIterator[Any]:
    """With the vectors."""
    async with passing(postgres_dsn, near_template) as connection:
        yield connection


async def test_what_is_found_of_a_tenants_neighbours(near: Any, vectors: Any) -> None:
    assert await recall(near, "t7", vectors["t7"], exact_max=SEGMENTS) == 1.0
    assert await recall(near, "t7", vectors["t7"], exact_max=SEGMENTS // 5) >= 0.95, "by the index of neighbours"
    await near.execute("ALTER FUNCTION search_nearest SET hnsw.max_scan_tuples = 1")
    await near.execute("ALTER FUNCTION search_nearest SET hnsw.ef_search = 1")
    assert await recall(near, "t7", vectors["t7"], exact_max=SEGMENTS - 100) < 1.0, "the index gives up early"
    assert await recall(near, "t7", vectors["t7"], exact_max=SEGMENTS - 100, first=100) == 1.0, "not for the newest"


async def test_other_sizes_of_vectors_are_compared_among_the_newest(filled: Any) -> None:
    small = drawn(SEGMENTS, seed=3)[:, :100]
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    await put_vectors(filled, "t7", small)
    rows = await filled.fetch(NEAR, "t7", small[950].tolist(), None, NEAREST, 100)
    found = {row["segment_id"] for row in rows}
    assert "s951" in found
    assert found <= {f"s{n}" for n in range(901, 1_001)}


async def test_the_nearest_function_refuses_the_tenant_of_another_transaction(near: Any, vectors: Any) -> None:
    target = vectors["t1"][0].tolist()
    for tenant in ("t1", None):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await near.fetch(NEAR, tenant, target, None, NEAREST, SEGMENTS)
    assert await near.fetch(NEAR, "t7", vectors["t7"][0].tolist(), None, NEAREST, SEGMENTS)


async def test_a_tenants_neighbours_cost_its_own_rows(near: Any, vectors: Any) -> None:
    """Each of its 1,000 index entries and vectors is looked up once, whatever the other tenants have."""
    target = "'{" + ",".join(map(str, vectors["t7"][0].tolist())) + "}'::real[]"
    statement = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)" + NEAR
    for place, value in (("$1", "'t7'"), ("$2", target), ("$3", "NULL"), ("$4", "100"), ("$5", str(SEGMENTS))):
        statement = statement.replace(place, value)
    rows, touched, _ = await explained(near, statement)
    assert 0 < rows <= NEAREST
    assert touched <= 3 * SEGMENTS, "1,523 were measured"
