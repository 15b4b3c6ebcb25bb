"""`python -m bench quality`: how good search is, by words, by meaning and by both, on every index that is here.

Policy: fusion and every rule beside it are judged on the recordings called "dev"; what they are worth is told by those
called "test". Queries are asked as they stand, so their last word may go on. Vectors are the packaged MiniLM's, which
knows English; of German no more is promised than that its words are found.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec

from bench import filling
from bench.filling import Said, Talk
from bench.quality import metrics, native, systems
from bench.quality.corpus import KINDS, SPLITS, Asked, corpus
from bench.quality.metrics import Mean
from bench.quality.systems import Heard, Overheard, Place, Ranking
from bench.quality.vectors import MISSING, MODELS_PYTHON, Embedded, embedded
from bench.report import Figure, Result
from bench.searching import stands
from search.ports import Index
from search.weaviate.index import WeaviateIndex
from server.store.pool import Database
from server.store.transcripts import StoredTranscripts
from server.store.words import StoredWords

TENANT = "evaluation"
SYSTEMS = ("keyword", "vector", "hybrid")
VARIANTS = {
    "reciprocal ranks, k 60, equal weights": systems.reciprocal(60),
    "k 10, equal weights": systems.reciprocal(10),
    "k 100, equal weights": systems.reciprocal(100),
    "k 10, words 1.25": systems.reciprocal(10, words=1.25),
    "k 60, words 1.5": systems.reciprocal(60, words=1.5),
    "k 60, words 2": systems.reciprocal(60, words=2.0),
    "k 60, meaning 1.25": systems.reciprocal(60, meaning=1.25),
    "k 60, meaning 2": systems.reciprocal(60, meaning=2.0),
    "relative scores, words 0.3": systems.relative(0.3),
    "relative scores, words 0.5": systems.relative(0.5),
    "relative scores, words 0.7": systems.relative(0.7),
    "words first, then meaning": systems.words_first,
    "without the loss for age": systems.ageless,
}
"""Rules of hybrid order, over the same candidates; the program's own is k 60, words 1.25."""
MATCHING = ("without typo tolerance", "without stems", "stop words have to occur")
"""What keyword search is without a part of it."""


class Row(msgspec.Struct, frozen=True):
    """`kind`: "all", or one of `KINDS`; `gain`: nDCG over what the program does, query by query."""

    index: str
    system: str
    split: str
    kind: str
    ndcg: Mean
    recall: Mean
    gain: Mean | None = None


class Scores(msgspec.Struct, frozen=True):
    """nDCG@10 and recall@20 of each query, in the order of the corpus."""

    ndcg: list[float]
    recall: list[float]


class Found(msgspec.Struct, frozen=True):
    """`scores`: by index and system; `rows`: their means; `variants`: hybrid means by other rules, keyword means
    without a part of it; `better`: what hybrid has more than each of its sides, pairwise."""

    rows: list[Row]
    variants: list[Row]
    better: dict[str, Mean]
    scores: dict[str, Scores]


async def benchmark(folder: Path, seed: int, *, quick: bool) -> Result:
    """`quick`: a quarter of the queries."""
    if not MODELS_PYTHON.exists():
        return Result("quality", [], {}, {}, skipped=MISSING)
    began = time.perf_counter()
    held = corpus()
    queries = held.queries[::4] if quick else held.queries
    vectors = await embedded([s.text for s in held.segments], [q.text for q in held.queries], folder, "quality")
    found = Found([], [], {}, {})
    missing: list[str] = []
    async with filling.opened() as database:
        async for stand in stands(missing):
            async with stand.index(database, vectors.info) as index, placed(database, index, vectors) as place:
                await measure(place, stand.name, queries, vectors, found, seed)
    settings = {
        "recordings": len(held.recordings),
        "segments": len(held.segments),
        "queries": {kind: sum(q.kind == kind for q in queries) for kind in KINDS},
        "model": vectors.info.model,
        "took_s": round(time.perf_counter() - began, 1),
    }
    raw = {
        "rows": msgspec.to_builtins(found.rows),
        "variants": msgspec.to_builtins(found.variants),
        "better": msgspec.to_builtins(found.better),
        "queries": per_query(queries, found.scores),
    }
    return Result("quality", figures(found), settings, raw, skipped="; ".join(missing))


@asynccontextmanager
async def placed(database: Database, index: Index, vectors: Embedded) -> AsyncIterator[Place]:
    """The whole corpus in one tenant of an index, gone at the end."""
    held = corpus()
    talks = [Talk(r.recording_id, r.title, r.language, r.started_at, r.speakers) for r in held.recordings]
    said = [Said(s.segment_id, s.recording_id, s.speaker, s.start_ms, s.end_ms, s.text) for s in held.segments]
    async with AsyncExitStack() as stack:
        owner = await asyncpg.connect(database.dsn)
        stack.push_async_callback(owner.close)
        await filling.store(owner, TENANT, talks, said)
        await filling.put(
            index, TENANT, filling.documents(talks, said, vectors.info, lambda s: vectors.passages[s.text])
        )
        await owner.execute("ANALYZE")
        transcripts = StoredTranscripts(database.tenant_tx)
        languages = await transcripts.languages(TENANT)
        words = StoredWords(database.tenant_tx)
        yield Place(index, transcripts, words, TENANT, filling.USER, vectors.info, languages)
        await index.forget(TENANT)
        await owner.execute("DELETE FROM recordings WHERE tenant_id = $1", TENANT)
        await owner.execute("DELETE FROM tenants WHERE tenant_id = $1", TENANT)


async def measure(
    place: Place, name: str, queries: Sequence[Asked], vectors: Embedded, found: Found, seed: int
) -> None:
    """All of one index, added to `found`."""
    through = Overheard(place.index)
    finder = place.finder(through)
    heard: list[Heard] = [
        await systems.ask(place, q.text, vectors.queries[q.text], finder=finder, through=through) for q in queries
    ]
    for system in SYSTEMS:
        scores = scored(queries, [getattr(h, system) for h in heard])
        found.scores[f"{name}, {system}"] = scores
        found.rows.extend(rows(name, system, queries, scores, seed, kinds=("all", *KINDS)))
    for side in SYSTEMS[:2]:
        ours, theirs = found.scores[f"{name}, hybrid"].ndcg, found.scores[f"{name}, {side}"].ndcg
        for split in SPLITS:
            of = [at for at, q in enumerate(queries) if q.split == split]
            gain = metrics.difference([ours[at] for at in of], [theirs[at] for at in of], seed)
            found.better[f"{name}, hybrid over {side}, {split}"] = gain
    await measure_variants(place, name, queries, vectors, heard, found, seed)


async def measure_variants(
    place: Place,
    name: str,
    queries: Sequence[Asked],
    vectors: Embedded,
    heard: Sequence[Heard],
    found: Found,
    seed: int,
) -> None:
    def add(variant: str, rankings: Sequence[Ranking], system: str = "hybrid") -> None:
        over = found.scores[f"{name}, {system}"]
        found.variants.extend(rows(name, variant, queries, scored(queries, rankings), seed, over=over))

    for variant, rule in VARIANTS.items():
        add(variant, [systems.ranked(rule, h) for h in heard])
    if isinstance(place.index, WeaviateIndex):
        for variant in native.RULES:
            vector_of = vectors.queries
            add(variant, [await native.hybrid(place, place.index, q.text, vector_of[q.text], variant) for q in queries])
    changes: dict[str, systems.Change] = {
        "without stems": systems.without_stems,
        "stop words have to occur": systems.with_every_word(place.languages),
    }
    for variant in MATCHING:
        through = Overheard(place.index, changes.get(variant))
        finder = place.finder(through, words=systems.Mute() if variant == "without typo tolerance" else None)
        rankings = [await systems.matched(place, q.text, finder=finder, through=through) for q in queries]
        add(f"keyword, {variant}", rankings, "keyword")


def scored(queries: Sequence[Asked], rankings: Sequence[Ranking]) -> Scores:
    pairs = list(zip(queries, rankings, strict=True))
    return Scores(
        [metrics.ndcg(ranking, q.relevant) for q, ranking in pairs],
        [metrics.recall(ranking, q.relevant) for q, ranking in pairs],
    )


def rows(
    index: str,
    system: str,
    queries: Sequence[Asked],
    scores: Scores,
    seed: int,
    *,
    kinds: Sequence[str] = ("all",),
    over: Scores | None = None,
) -> list[Row]:
    made = []
    for split in SPLITS:
        for kind in kinds:
            of = [at for at, q in enumerate(queries) if q.split == split and kind in ("all", q.kind)]
            if not of:
                continue
            ndcg, recall = ([values[at] for at in of] for values in (scores.ndcg, scores.recall))
            gain = None if over is None else metrics.difference(ndcg, [over.ndcg[at] for at in of], seed)
            made.append(Row(index, system, split, kind, metrics.mean(ndcg, seed), metrics.mean(recall, seed), gain))
    return made


def figures(found: Found) -> list[Figure]:
    made = []
    for row in found.rows:
        if row.kind == "all":
            name = f"{row.index}, {row.system}, {row.split}"
            made.append(Figure(f"{name}: nDCG@10", round(row.ndcg.value, 3), "", row.ndcg.n))
            made.append(Figure(f"{name}: recall@20", round(row.recall.value, 3), "", row.recall.n))
    return made


def per_query(queries: Sequence[Asked], scores: dict[str, Scores]) -> dict[str, object]:
    """One line for each query: its id, then nDCG@10 and recall@20 by every system, in the order of `systems`."""
    lines = [
        " ".join([q.query_id, *(f"{s.ndcg[at]:.3f}/{s.recall[at]:.3f}" for s in scores.values())])
        for at, q in enumerate(queries)
    ]
    return {"systems": list(scores), "lines": lines}
