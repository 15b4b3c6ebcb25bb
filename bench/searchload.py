"""`python -m bench searchload`: search while people type and talk goes on, on every index that is here.

A real server process on a database that holds 100,000 segments of 50 tenants of unequal size (`bench.spokentext`). New
finals are committed to that database as another node would do it, 50 a second, in live recordings of all sizes of
tenants; the server's own jobs make them searchable. Meanwhile people type queries key by key through sockets of their
own, and one looks for the newest final again and again until it is found. Queries are embedded by the real model in the
server's worker; the finals get their vectors from it too, as far as it has time left.

Measured from the client: from a key to its answers (of queries that no newer one superseded), from a final's commit to
its hit. Recall: `Index.near` against every vector of the tenant, by numpy.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
from parlance_client import CallFailed, Client, Superseded

from bench import filling, livetalk, spokentext
from bench.livetalk import Talker, coined
from bench.quality.corpus import corpus
from bench.quality.vectors import MISSING, MODELS_PYTHON, Embedded, embedded
from bench.report import Figure, Result, percentiles
from bench.searching import Material, Served, Stand, served, stands
from bench.spokentext import Library, Spoken
from search.model import Bounds, QueryVector, Vector
from search.ports import Index
from server.store.commits import Committer
from server.store.editions import StoredEditions
from server.store.segments import FinalWrite

FINALS_PER_S = 50.0
LIVE = 12
"""Recordings in which somebody talks."""
TYPISTS = 4
KEY_S = (0.09, 0.28)
"""Between keys: 4 to 11 a second, five on average."""
READING_S = 1.5
"""After a query, before the next."""
PROBE_PAUSE_S = 0.01
INSTANT_P95_MS, FULL_P95_MS, SEARCHABLE_P95_MS, RECALL_LEAST = 50, 150, 500, 0.95
NEAREST = 20
MEANING = {"models_env": str(MODELS_PYTHON.parents[1])}
"""Settings of a server that has a model."""
RECALL_QUERIES = 100


class Size(msgspec.Struct, frozen=True):
    """`embedded`: generated segments that the real model embeds; `settle_s`: after the fill, because Weaviate ranks
    slowly what it has not flushed, and nobody fills 100,000 segments while people type."""

    segments: int
    tenants: int
    seconds: float
    embedded: int
    settle_s: float


FULL, QUICK = Size(100_000, 50, 60.0, 3_000, 20.0), Size(5_000, 10, 8.0, 600, 1.0)


class Loaded(msgspec.Struct):
    """What was measured of one index, in milliseconds; CPU seconds by whose, while it was. `behind_s`: after the last
    final, until all index jobs were done; `fill_s`: what making the database and the index took."""

    instant: list[float] = []
    full: list[float] = []
    searchable: list[float] = []
    superseded: int = 0
    refused: int = 0
    finals: int = 0
    took_s: float = 0.0
    behind_s: float = 0.0
    fill_s: float = 0.0
    cpu: dict[str, float] = {}
    recall: dict[str, float] = {}


async def benchmark(folder: Path, seed: int, size: Size) -> Result:
    if not MODELS_PYTHON.exists():
        return Result("searchload", [], {}, {}, skipped=MISSING)
    spoken = Spoken(seed)
    material = await prepared(spoken, folder, seed, size)
    missing: list[str] = []
    found: dict[str, Loaded] = {}
    async for stand in stands(missing):
        found[stand.name] = await measure(stand, material, spoken, size, MEANING)
    figures = [figure for name, loaded in found.items() for figure in told(name, loaded)]
    settings = {
        **msgspec.to_builtins(size), "finals_per_s": FINALS_PER_S, "live_recordings": LIVE, "typists": TYPISTS,
        "tenants_largest_smallest": [len(material.libraries[0].said), len(material.libraries[-1].said)],
    }  # fmt: skip
    return Result("searchload", figures, settings, msgspec.to_builtins(found), skipped="; ".join(missing))


async def prepared(spoken: Spoken, folder: Path, seed: int, size: Size) -> Material:
    """Libraries with their vectors; what the model makes is kept in `folder`."""
    base = base_of(spoken, size)
    asked = [q.text for q in corpus().queries if q.language == "en"][:RECALL_QUERIES]
    vectors = await embedded([text for _, text in base], asked, folder, f"searchload-{size.embedded}")
    return made(spoken, vectors, base, asked, size, seed)


def base_of(spoken: Spoken, size: Size) -> list[tuple[int, str]]:
    """What is embedded: the evaluation's own segments, and generated ones of both languages."""
    own = [(number, segment.text) for number, segment in enumerate(corpus().segments)]
    return [*own, *(told for language in ("en", "de") for told in spoken.texts(language, size.embedded // 2))]


def made(
    spoken: Spoken, vectors: Embedded, base: Sequence[tuple[int, str]], asked: Sequence[str], size: Size, seed: int
) -> Material:
    bases: dict[int, list[Vector]] = defaultdict(list)
    for number, text in base:
        bases[number].append(vectors.passages[text])
    counts = spokentext.sizes(size.segments, size.tenants)
    libraries = [Library(spoken, f"tenant-{n:02}", count) for n, count in enumerate(counts)]
    by_tenant = {held.tenant: spokentext.vectors(bases, held.made_of, seed + n) for n, held in enumerate(libraries)}
    return Material(libraries, by_tenant, vectors.info, [vectors.queries[text] for text in asked])


async def measure(stand: Stand, material: Material, spoken: Spoken, size: Size, settings: dict[str, str]) -> Loaded:
    """One index, on a database of its own."""
    loaded = Loaded()
    async with served(stand, material, **settings) as place:
        loaded.fill_s = round(place.fill_s, 1)
        await load(place, material, spoken, size, loaded)
        for name, held in (("largest", material.libraries[0]), ("smallest", material.libraries[-1])):
            loaded.recall[name] = await recall(place.index, held, material)
    return loaded


# --- the load
async def load(place: Served, material: Material, spoken: Spoken, size: Size, loaded: Loaded) -> None:
    chosen, typing = spread(material.libraries, LIVE), spread(material.libraries, TYPISTS)
    talkers = [await livetalk.begun(place.database, held.tenant) for held in chosen]
    committer = livetalk.committer(place.database)
    probe = Probe()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        clients = [await stack.enter_async_context(place.client(held.tenant)) for held in [chosen[0], *typing]]
        tasks = [group.create_task(committer.run()), group.create_task(probe.run(clients[0], loaded))]
        await asyncio.sleep(size.settle_s)
        before = place.used()
        began = time.perf_counter()
        enough = asyncio.Event()
        typists = [
            group.create_task(type_queries(client, held, loaded, number, enough))
            for number, (client, held) in enumerate(zip(clients[1:], typing, strict=True))
        ]
        await talk(committer, talkers, spoken, probe, size.seconds, loaded)
        loaded.took_s = time.perf_counter() - began
        loaded.cpu = {name: round(spent - before[name], 2) for name, spent in place.used().items()}
        enough.set()
        loaded.behind_s = await worked_off(place)
        await asyncio.wait(typists)
        await probe.idle.wait()
        for task in tasks:
            task.cancel()


async def worked_off(place: Served) -> float:
    """Seconds until the index jobs that are waiting now are done."""
    editions = StoredEditions(place.database)
    began, last = time.perf_counter(), await editions.last_job()
    while not await editions.jobs_done(last):  # noqa: ASYNC110 - the queue tells nobody
        await asyncio.sleep(PROBE_PAUSE_S)
    return round(time.perf_counter() - began, 2)


def spread(libraries: list[Library], count: int) -> list[Library]:
    """So many tenants of all sizes, the largest and the smallest among them."""
    last = len(libraries) - 1
    return [libraries[at] for at in sorted({round(n * last / (count - 1)) for n in range(count)})]


async def talk(
    committer: Committer, talkers: list[Talker], spoken: Spoken, probe: "Probe", seconds: float, loaded: Loaded
) -> None:
    """Finals at their pace, each with a word that nobody has said before. Those of the first talker are looked for."""
    texts = [text for _, text in spoken.texts("en", int(seconds * FINALS_PER_S))]
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, (text, talker) in enumerate(zip(texts, itertools.cycle(talkers), strict=False)):
            await asyncio.sleep(max(0.0, began + number / FINALS_PER_S - time.perf_counter()))
            word = coined(number)
            item = talker.says(f"{text} {word}")
            followed = talker is talkers[0]
            group.create_task(committed(committer, item, probe if followed else None, word, loaded))


async def committed(committer: Committer, item: FinalWrite, probe: "Probe | None", word: str, loaded: Loaded) -> None:
    await committer.commit(item)
    loaded.finals += 1
    if probe is not None:
        probe.follow(word, item.segment.segment_id)


class Probe:
    """Looks for the newest final until it is found, then for the then newest."""

    def __init__(self) -> None:
        self._newest: tuple[float, str, str] | None = None
        self._arrived = asyncio.Event()
        self.idle = asyncio.Event()

    def follow(self, word: str, segment_id: str) -> None:
        self._newest = time.perf_counter(), word, segment_id
        self._arrived.set()

    async def run(self, client: Client, loaded: Loaded) -> None:
        while True:
            if not self._arrived.is_set():
                self.idle.set()
            await self._arrived.wait()
            self._arrived.clear()
            self.idle.clear()
            assert self._newest is not None
            at, word, segment_id = self._newest
            while not await self._found(client, word, segment_id):  # noqa: ASYNC110 - the index tells nobody
                await asyncio.sleep(PROBE_PAUSE_S)
            loaded.searchable.append((time.perf_counter() - at) * 1_000)

    async def _found(self, client: Client, word: str, segment_id: str) -> bool:
        found = False
        async for answer in client.search(word + " ", mode="keyword"):
            found = found or any(hit.segment_id == segment_id for hit in answer.hits)
        return found


async def type_queries(client: Client, held: Library, loaded: Loaded, seed: int, enough: asyncio.Event) -> None:
    """One person: some words of something that was said, key by key, again and again; returns with the last answer."""
    rng = np.random.default_rng(seed)
    async with asyncio.TaskGroup() as group:
        while not enough.is_set():
            words = held.said[int(rng.integers(len(held.said)))].text.split()
            begin = int(rng.integers(max(1, len(words) - 2)))
            text = " ".join(words[begin : begin + 3])
            for end in range(1, len(text) + 1):
                group.create_task(key(client, text[:end], loaded))
                await asyncio.sleep(float(rng.uniform(*KEY_S)))
            await asyncio.sleep(READING_S)


async def key(client: Client, text: str, loaded: Loaded) -> None:
    began = time.perf_counter()
    try:
        async for answer in client.search(text):
            took_ms = (time.perf_counter() - began) * 1_000
            (loaded.instant if answer.phase == "instant" else loaded.full).append(took_ms)
    except Superseded:
        loaded.superseded += 1
    except CallFailed:
        loaded.refused += 1


# --- afterwards
async def recall(index: Index, held: Library, material: Material) -> float:
    """Of the nearest that all vectors have, how many the index finds; the mean of the queries."""
    exact = material.vectors[held.tenant]
    names = [s.segment_id for s in held.said]
    newest = max(talk.started_at for talk in held.talks) + timedelta(hours=1)  # none of those that came meanwhile
    bounds = Bounds(user_id=filling.USER, newest_us=round(newest.timestamp() * 1_000_000), limit=NEAREST)
    shares = []
    for values in material.queries:
        cosines = exact @ values
        order = [at for at in np.argsort(-cosines)[:NEAREST] if cosines[at] >= material.info.similarity_min]
        if order:
            found = await index.near(held.tenant, QueryVector(material.info, values), bounds)
            shares.append(len({names[at] for at in order} & {f.segment_id for f in found}) / len(order))
    return float(np.mean(shares)) if shares else 1.0


def told(name: str, loaded: Loaded) -> list[Figure]:
    rows = [
        *percentiles(f"{name}: key to first results", loaded.instant, "ms", p95_most=INSTANT_P95_MS),
        *percentiles(f"{name}: key to full results", loaded.full, "ms", p95_most=FULL_P95_MS),
        *percentiles(f"{name}: final to its hit", loaded.searchable, "ms", p95_most=SEARCHABLE_P95_MS),
        Figure(f"{name}: finals meanwhile", round(loaded.finals / max(0.001, loaded.took_s), 1), "1/s", loaded.finals),
        Figure(f"{name}: until all index jobs were done, then", loaded.behind_s, "s", loaded.finals),
        Figure(f"{name}: queries refused", loaded.refused, "", len(loaded.instant) + loaded.refused, most=0),
    ]
    rows += [
        Figure(f"{name}: recall@20 of the nearest, {which} tenant", round(share, 4), "share", RECALL_QUERIES,
               least=RECALL_LEAST)
        for which, share in loaded.recall.items()
    ]  # fmt: skip
    rows += [
        Figure(f"{name}: CPU of the {whose}", round(spent / max(0.001, loaded.took_s), 3), "cores", loaded.finals)
        for whose, spent in loaded.cpu.items()
    ]
    return rows
