"""Measure search as you type: `python -m bench.search [--segments 100000] [--dsn DSN]`.

Fills one tenant with segments of real English words (the dictionary that PocketSphinx carries) in Zipf's proportions,
and smaller tenants beside it, then times whole searches through `PostgresIndex`: match, rank, join, highlight. Rare,
medium and frequent are the first letters that the fewest, the median and the most segments match.

The promise is p95 <= 50 ms for first results over 100,000 segments (DESIGN, section 1).
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec
import numpy as np
import pocketsphinx

from search.model import Sort
from search.postgres import PostgresIndex
from search.query import parse
from server.store.embedded import EmbeddedPostgres
from server.store.migrate import migrate
from server.store.pool import Database

SEGMENT_WORDS = 15
NEIGHBOURS = 20
RECORDING_SEGMENTS = 500
BATCH = 5_000
TENANT = "bench"
FUNCTION_WORDS = (
    *("the", "of", "and", "to", "a", "in", "is", "it", "you", "that", "he", "was", "for", "on", "are", "with", "as"),
    *("his", "they", "at", "be", "this", "have", "from"),
)

FILL_SEGMENTS = """
INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text, words, language,
                      confidence)
SELECT $1, 'r' || n / $4, 's' || n, n, 1, n * 4000, n * 4000 + 3500, body, '[]', 'en', 1
FROM unnest($2::int[], $3::text[]) AS u (n, body)
"""
FILL_INDEX = """
INSERT INTO segment_index (tenant_id, segment_id, recording_id, owner_id, private, spoken_at, rev, language, tsv)
SELECT $1, 's' || n, 'r' || n / $4, 'u', false, now() - make_interval(secs => 4 * (1000000 - n)), 1, 'en',
       search_vector(body, 'en')
FROM unnest($2::int[], $3::text[]) AS u (n, body)
"""


class Figure(msgspec.Struct, frozen=True):
    """`matches`: segments of the tenant that match; `searches`: how many were timed; times in milliseconds."""

    query: str
    sort: str
    matches: int
    searches: int
    p50_ms: float
    p95_ms: float


def texts(count: int, seed: int) -> list[str]:
    """`count` segments of `SEGMENT_WORDS` words; the n-th commonest word has weight 1/n."""
    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    known = (line.split(maxsplit=1)[0] for line in path.read_text().splitlines() if line.strip())
    rare = sorted({word for word in known if word.isalpha()} - set(FUNCTION_WORDS))
    rng = np.random.default_rng(seed)
    rng.shuffle(rare)
    words = np.array([*FUNCTION_WORDS, *rare])
    weight = 1.0 / np.arange(1, len(words) + 1)
    drawn = rng.choice(words, size=(count, SEGMENT_WORDS), p=weight / weight.sum())
    return [" ".join(row) for row in drawn]


async def fill(database: Database, tenant: str, bodies: list[str]) -> None:
    recordings = [f"r{n}" for n in range(len(bodies) // RECORDING_SEGMENTS + 1)]
    async with database.tenant_tx(tenant) as connection:
        await connection.execute("INSERT INTO tenants (tenant_id, name) VALUES ($1, $1)", tenant)
        await connection.execute("INSERT INTO users VALUES ($1, 'u', 'u')", tenant)
        await connection.execute("INSERT INTO search_configs VALUES ($1, 'english')", tenant)
        await connection.execute(
            """INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state, engine,
                                       encoding, sample_rate, channels)
               SELECT $1, r, 'u', 'Talk ' || r, 'tenant', 'en', 'ended', 'bench', 'pcm_s16le', 16000, 1
               FROM unnest($2::text[]) r""",
            tenant,
            recordings,
        )
        for start in range(0, len(bodies), BATCH):
            part = bodies[start : start + BATCH]
            numbers = list(range(start, start + len(part)))
            await connection.execute(FILL_SEGMENTS, tenant, numbers, part, RECORDING_SEGMENTS)
            await connection.execute(FILL_INDEX, tenant, numbers, part, RECORDING_SEGMENTS)


async def time_queries(index: PostgresIndex, queries: list[str], sort: Sort, rounds: int) -> tuple[int, float, float]:
    """How many, p50 and p95 in milliseconds of a whole search, every query `rounds` times."""
    spent: list[float] = []
    for _ in range(rounds):
        for text in queries:
            start = time.perf_counter()
            await index.search(TENANT, "u", parse(text, sort=sort))
            spent.append((time.perf_counter() - start) * 1000)
    spent.sort()
    return len(spent), statistics.median(spent), spent[int(len(spent) * 0.95)]


def matching(bodies: list[str], prefix: str) -> int:
    return sum(any(word.startswith(prefix) for word in body.split()) for body in bodies)


async def measure(index: PostgresIndex, bodies: list[str], rounds: int) -> list[Figure]:
    counts = sorted((matching(bodies, letter), letter) for letter in "abcdefghijklmnopqrstuvwxyz")
    letters = {"rare": counts[0], "medium": counts[13], "frequent": counts[-1]}
    figures = []
    for sort in Sort:
        for name, (count, letter) in letters.items():
            timed = await time_queries(index, [letter], sort, rounds)
            figures.append(Figure(f"{name} letter {letter}", sort.value, count, *timed))
        sentence = " ".join(bodies[len(bodies) // 2].split()[:4])
        typed = [sentence[: n + 1] for n in range(len(sentence))]
        timed = await time_queries(index, typed, sort, max(1, rounds // 10))
        figures.append(Figure("four words, key by key", sort.value, matching(bodies, sentence[0]), *timed))
        timed = await time_queries(index, ["xylophonist "], sort, rounds)
        figures.append(Figure("a word nobody said", sort.value, 0, *timed))
    return figures


@asynccontextmanager
async def opened(dsn: str | None) -> AsyncIterator[Database]:
    """A migrated database: the given one, or an embedded one in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
        server = None if dsn else EmbeddedPostgres(Path(folder) / "postgres")
        dsn = dsn or await server.start()  # type: ignore[union-attr]
        await migrate(dsn)
        database = Database(dsn)
        await database.open()
        try:
            yield database
        finally:
            await database.close()
            if server is not None:
                await server.stop()


async def run(segments: int, rounds: int, dsn: str | None) -> list[Figure]:
    async with opened(dsn) as database:
        bodies = texts(segments, seed=1)
        await fill(database, TENANT, bodies)
        for n in range(NEIGHBOURS):
            await fill(database, f"neighbour-{n}", texts(segments // 100, seed=2 + n))
        owner = await asyncpg.connect(database.dsn)
        await owner.execute("VACUUM ANALYZE")
        await owner.close()
        return await measure(PostgresIndex(database.tenant_tx), bodies, rounds)


def show(segments: int, figures: list[Figure], output: Path | None) -> None:
    print(f"{segments:,} segments, {os.cpu_count()} cores")
    print(f"{'query':28} {'sort':10} {'matches':>8} {'p50 ms':>8} {'p95 ms':>8}")
    for f in figures:
        print(f"{f.query:28} {f.sort:10} {f.matches:8} {f.p50_ms:8.1f} {f.p95_ms:8.1f}")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({"segments": segments, "figures": msgspec.to_builtins(figures)}, indent=1))


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure search as you type.")
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--dsn", help="an empty database to use instead of an embedded one")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args()
    figures = asyncio.run(run(options.segments, options.rounds, options.dsn))
    show(options.segments, figures, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
