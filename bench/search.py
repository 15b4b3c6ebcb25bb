"""Measure search as you type: `python -m bench.search [--segments 100000] [--dsn DSN] [--meaning]`.

Fills one tenant with segments of real English words (the dictionary that PocketSphinx carries) in Zipf's proportions,
and smaller tenants beside it, then times whole searches through a `Finder` on `PostgresIndex`: match, rank, read,
highlight. Rare, medium and frequent are the first letters that the fewest, the median and the most segments match.

The promise is p95 <= 50 ms for first results over 100,000 segments (DESIGN, section 1).

With `--meaning`, what the words and the meaning find together over as many vectors (random ones around topics, since
the time does not depend on what they mean), and, where the models environment is, how soon a query is embedded and how
fast a backlog gets its vectors.
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

from search.finding import Finder
from search.model import EmbedderInfo, IndexDocument, Mode, QueryVector, Sort, Vector
from search.postgres import PostgresIndex
from search.query import parse
from server.jobs.vectors import VectorFiller
from server.store.embedded import EmbeddedPostgres
from server.store.migrate import migrate
from server.store.pool import Database
from server.store.transcripts import StoredTranscripts, note_languages
from server.store.vectors import StoredVectors
from server.store.words import StoredWords
from server.workers.embedder import LocalEmbedder
from streaming.aio import Scope
from streaming.limits import LIMITS

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
SEGMENT_MS = 4_000
BEGAN_MS = round(time.time() * 1000) - SEGMENT_MS * 1_000_000


MODEL = EmbedderInfo("bench", 384, 0.27)
TOPICS = 200
FILL_VECTORS = """
INSERT INTO segment_vectors (tenant_id, segment_id, model, spoken_at, text_key, due, searched, embedding)
SELECT $1, u.segment_id, $2, i.spoken_at, 0, false, true, u.vector::halfvec
FROM unnest($3::text[], $4::text[]) AS u (segment_id, vector)
JOIN segment_index i ON i.tenant_id = $1 AND i.segment_id = u.segment_id
"""
FILL_DUE = """
INSERT INTO segment_vectors (tenant_id, segment_id, model, spoken_at, text_key, due)
SELECT tenant_id, segment_id, $1, i.spoken_at, hashtextextended(s.text, 0), true
FROM segment_index i JOIN segments s USING (tenant_id, segment_id)
"""
MODELS_PYTHON = Path(__file__).resolve().parent.parent / ".venv-models" / "bin" / "python"
BACKLOG = 2_000
EMBEDDED_QUERIES = 200


class Figure(msgspec.Struct, frozen=True):
    """`matches`: segments of the tenant that match, 0 by meaning; `searches`: how many were timed; times in
    milliseconds."""

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
        await note_languages(connection, tenant, ["en"])
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
    index = PostgresIndex(database.tenant_tx)
    for start in range(0, len(bodies), BATCH):
        await index.put(tenant, [document(n, bodies[n]) for n in range(start, min(start + BATCH, len(bodies)))])


def document(n: int, body: str) -> IndexDocument:
    return IndexDocument(f"s{n}", f"r{n // RECORDING_SEGMENTS}", "u", False, BEGAN_MS + n * SEGMENT_MS, 1, body, "en")


def finder_on(database: Database) -> Finder:
    tenant_tx = database.tenant_tx
    return Finder(PostgresIndex(tenant_tx), StoredTranscripts(tenant_tx), StoredWords(tenant_tx))


async def time_queries(finder: Finder, queries: list[str], sort: Sort, rounds: int) -> tuple[int, float, float]:
    """How many, p50 and p95 in milliseconds of a whole search, every query `rounds` times."""
    spent: list[float] = []
    for _ in range(rounds):
        for text in queries:
            start = time.perf_counter()
            await finder.instant(TENANT, "u", parse(text, sort=sort))
            spent.append((time.perf_counter() - start) * 1000)
    spent.sort()
    return len(spent), statistics.median(spent), spent[int(len(spent) * 0.95)]


def matching(bodies: list[str], prefix: str) -> int:
    return sum(any(word.startswith(prefix) for word in body.split()) for body in bodies)


async def measure(finder: Finder, bodies: list[str], rounds: int) -> list[Figure]:
    counts = sorted((matching(bodies, letter), letter) for letter in "abcdefghijklmnopqrstuvwxyz")
    letters = {"rare": counts[0], "medium": counts[13], "frequent": counts[-1]}
    figures = []
    for sort in Sort:
        for name, (count, letter) in letters.items():
            timed = await time_queries(finder, [letter], sort, rounds)
            figures.append(Figure(f"{name} letter {letter}", sort.value, count, *timed))
        sentence = " ".join(bodies[len(bodies) // 2].split()[:4])
        typed = [sentence[: n + 1] for n in range(len(sentence))]
        timed = await time_queries(finder, typed, sort, max(1, rounds // 10))
        figures.append(Figure("four words, key by key", sort.value, matching(bodies, sentence[0]), *timed))
        timed = await time_queries(finder, ["xylophonist "], sort, rounds)
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
        return await measure(finder_on(database), bodies, rounds)


# --- by meaning -------------------------------------------------------------------------------------------------------
class Meaning(msgspec.Struct, frozen=True):
    """`figures`: `Finder.full` in the tenant of all these segments, and in a small one beside it;
    `embed_ms`: p50 and p95 of a query, idle and behind a backlog; `backlog_per_s`: segments that get their vector, with
    the rests that the filler takes; `embed_cpu_ms`: of the worker, for each of them."""

    figures: list[Figure]
    index_build_s: float
    embed_ms: dict[str, tuple[float, float]] = {}
    backlog_per_s: float | None = None
    embed_cpu_ms: float | None = None


def random_vectors(count: int, seed: int) -> list[Vector]:
    """Unit vectors around `TOPICS` directions, as sentences of talks are."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(0).normal(size=(TOPICS, MODEL.dimensions))
    drawn = topics[rng.integers(0, TOPICS, count)] + 1.2 * rng.normal(size=(count, MODEL.dimensions))
    return list((drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32))


async def fill_vectors(owner: asyncpg.Connection, tenants: dict[str, int]) -> float:
    """A vector for every segment; returns the seconds that the index of neighbours took, made at once at the end."""
    definition = await owner.fetchval("SELECT pg_get_indexdef('segment_vectors_384'::regclass)")
    await owner.execute("DROP INDEX segment_vectors_384")
    for seed, (tenant, count) in enumerate(tenants.items()):
        for start in range(0, count, BATCH):
            names = [f"s{n}" for n in range(start, min(start + BATCH, count))]
            vectors = [str(v.tolist()) for v in random_vectors(len(names), seed * 1_000 + start)]
            await owner.execute(FILL_VECTORS, tenant, MODEL.model, names, vectors)
    began = time.perf_counter()
    await owner.execute(definition)
    took = time.perf_counter() - began
    await owner.execute("VACUUM ANALYZE")
    return took


async def time_near(finder: Finder, tenant: str, typed: list[str], mode: Mode, sort: Sort, name: str) -> Figure:
    spent: list[float] = []
    for text, values in zip(typed, random_vectors(len(typed), seed=77), strict=True):
        start = time.perf_counter()
        await finder.full(tenant, "u", parse(text, mode=mode, sort=sort), [QueryVector(MODEL, values)])
        spent.append((time.perf_counter() - start) * 1000)
    spent.sort()
    return Figure(name, sort.value, 0, len(spent), statistics.median(spent), spent[int(len(spent) * 0.95)])


async def run_meaning(
    segments: int, rounds: int, dsn: str | None, *, backlog: int = BACKLOG, queries: int = EMBEDDED_QUERIES
) -> Meaning:
    """`backlog`: segments that are to get vectors of the real model; `queries`: how many are embedded meanwhile."""
    async with opened(dsn) as database:
        bodies = texts(segments, seed=1)
        await fill(database, TENANT, bodies)
        tenants = {TENANT: segments}
        for n in range(NEIGHBOURS):
            tenants[f"neighbour-{n}"] = segments // 100
            await fill(database, f"neighbour-{n}", texts(segments // 100, seed=2 + n))
        owner = await asyncpg.connect(database.dsn)
        built_s = await fill_vectors(owner, tenants)
        await owner.close()
        finder = finder_on(database)
        rng = np.random.default_rng(5)
        said = [" ".join(bodies[int(n)].split()[:4]) for n in rng.integers(0, segments, rounds)]
        common = [*FUNCTION_WORDS[:4]] * (rounds // 4)
        figures = [
            await time_near(finder, TENANT, said, Mode.HYBRID, Sort.RELEVANCE, "four words"),
            await time_near(finder, TENANT, common, Mode.HYBRID, Sort.RELEVANCE, "a frequent word"),
            await time_near(finder, TENANT, said, Mode.SEMANTIC, Sort.RELEVANCE, "meaning alone"),
            await time_near(finder, TENANT, common, Mode.HYBRID, Sort.NEWEST, "a frequent word"),
            await time_near(finder, "neighbour-3", said, Mode.HYBRID, Sort.RELEVANCE, "four words, small tenant"),
        ]
        result = Meaning(figures, built_s)
    if not MODELS_PYTHON.exists():
        return result
    async with opened(None) as database:
        return await with_model(database, result, backlog, queries)


async def with_model(database: Database, result: Meaning, count: int, queries: int) -> Meaning:
    """Adds what the real model takes, on an empty database."""
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as cache:
        embedder = LocalEmbedder(MODELS_PYTHON, model=None, cache=Path(cache), limits=LIMITS)
        async with Scope("bench") as scope:
            scope.spawn(embedder.run(), name="embedder")
            await embedder.ready()
            assert embedder.info is not None
            embed_ms = {"idle": await time_embedding(embedder, queries)}
            backlog = texts(count, seed=9)

            async def keep_busy() -> None:
                while True:
                    await embedder.embed(backlog)

            busy = scope.spawn(keep_busy(), name="busy")
            embed_ms["behind a backlog"] = await time_embedding(embedder, queries)
            busy.cancel()
            await asyncio.wait({busy})
            await embedder.embed(["the last call of the backlog has been answered"])
            await fill(database, "backlog", backlog)
            owner = await asyncpg.connect(database.dsn)
            await owner.execute(FILL_DUE, embedder.info.model)
            await owner.close()
            vectors = StoredVectors(database, nobody_waits)
            began, cpu_s = time.perf_counter(), cpu_of(embedder)
            filling = scope.spawn(VectorFiller(vectors, embedder).run(), name="filler")
            while await vectors.due_count(embedder.info.model):  # noqa: ASYNC110 - it is the database's to know
                await asyncio.sleep(0.1)
            took, cpu_s = time.perf_counter() - began, cpu_of(embedder) - cpu_s
            filling.cancel()
    return msgspec.structs.replace(
        result, embed_ms=embed_ms, backlog_per_s=count / took, embed_cpu_ms=cpu_s / count * 1000
    )


async def nobody_waits(_connection: object, _tenant_id: str, _names: object) -> None:
    """What a kept vector is enqueued for is not measured here."""


async def time_embedding(embedder: LocalEmbedder, queries: int) -> tuple[float, float]:
    """p50 and p95 in milliseconds."""
    spent: list[float] = []
    for text in texts(queries, seed=8):
        start = time.perf_counter()
        await embedder.embed([" ".join(text.split()[:4])], as_query=True)
        spent.append((time.perf_counter() - start) * 1000)
    spent.sort()
    return statistics.median(spent), spent[int(len(spent) * 0.95)]


def cpu_of(embedder: LocalEmbedder) -> float:
    """CPU seconds of the worker since its start."""
    fields = Path(f"/proc/{embedder.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show_meaning(segments: int, found: Meaning) -> None:
    print(f"\nby meaning over {segments:,} vectors; the index of neighbours took {found.index_build_s:.0f} s")
    for f in found.figures:
        print(f"{f.query:28} {f.sort:10} {f.p50_ms:8.1f} {f.p95_ms:8.1f}")
    for name, (p50, p95) in found.embed_ms.items():
        print(f"{'embed a query, ' + name:39} {p50:8.1f} {p95:8.1f}")
    if found.backlog_per_s is not None:
        print(f"a backlog gets {found.backlog_per_s:.0f} vectors/s, {found.embed_cpu_ms:.1f} ms of CPU each")


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
    parser.add_argument("--meaning", action="store_true", help="also search by meaning")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args()
    figures = asyncio.run(run(options.segments, options.rounds, options.dsn))
    show(options.segments, figures, options.output)
    if options.meaning:
        show_meaning(options.segments, asyncio.run(run_meaning(options.segments, options.rounds, None)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
