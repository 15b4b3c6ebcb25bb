"""kill -9 of whatever takes part in indexing, while people talk, correct and delete, vectors come, and the index is
built anew: afterwards `verify-index` finds nothing missing, extra or stale, and everything was told once."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from server import config
from server.indexing import Indexing, Silent
from server.jobs.verify import Verification
from server.store import feed, ledger
from server.store.pool import Database
from streaming.errors import Unavailable
from streaming.limits import LIMITS
from tests.fakes.embedder import FakeEmbedder
from tests.support.keeping import Keeper, Talk
from tests.support.postgres import Postgres
from tests.support.process import ServerProcess
from tests.support.waiting import until
from tests.support.weaviate import WeaviateServer, program

TENANTS = ("t", "u")
ADAPTERS = ("postgres", "weaviate")
QUICK = "weaviate" if program() is not None else "postgres"
"""With it all victims die in one run; the others, and each by itself, are for the soak."""
VICTIMS = [("server", "database", "index"), ("server",) * 2, ("database",) * 3, ("index",) * 3]
SEEDS = [pytest.param(1), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))]


class Place:
    """A server with its database and, where it has one, its Weaviate."""

    def __init__(self, folder: Path, adapter: str) -> None:
        self.postgres = Postgres(folder / "postgres")
        self.weaviate: WeaviateServer | None = None
        settings: dict[str, str] = {}
        if adapter == "weaviate":
            self.weaviate = WeaviateServer(folder / "weaviate")
            settings = self.weaviate.settings
        self.settings = {"database_url": self.postgres.url, **settings}
        self.server = ServerProcess(folder / "data", port=0, **self.settings)

    def start(self) -> None:
        self.postgres.start()
        if self.weaviate is not None:
            self.weaviate.start()
        self.server.start()

    def stop(self) -> None:
        self.server.stop()
        if self.weaviate is not None:
            self.weaviate.stop()
        self.postgres.stop()

    def kill(self, victim: str) -> None:
        """And start it again."""
        if victim == "server":
            self.server.kill()
            self.server.start()
        elif victim == "database":
            self.postgres.kill()
            self.postgres.start()
        else:
            assert self.weaviate is not None
            self.weaviate.kill()
            self.weaviate.start()

    @property
    def configured(self) -> config.Config:
        environ = {f"PARLANCE_{name.upper()}": value for name, value in self.settings.items()}
        return config.load({**environ, "PARLANCE_DATA_DIR": str(self.server.data_dir)})


@pytest.fixture(
    scope="module", params=[pytest.param(a, marks=[] if a == QUICK else [pytest.mark.soak]) for a in ADAPTERS]
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One of each kind for all tests: its data survives what they do to it."""
    place = Place(tmp_path_factory.mktemp(request.param), request.param)
    try:
        place.start()
        yield place
    finally:
        place.stop()


@contextlib.asynccontextmanager
async def opened(place: Place) -> AsyncIterator[tuple[Database, Indexing]]:
    database = Database(place.postgres.url)
    await database.open()
    indexing = Indexing(place.configured, database, Silent(), LIMITS)
    try:
        yield database, indexing
    finally:
        await indexing.close()
        await database.close()


async def stubbornly(work: Callable[[], Awaitable[object]]) -> None:
    """Until the database is there again."""
    while True:
        try:
            await work()
            return
        except Unavailable:
            await asyncio.sleep(0.05)


async def live(talk: Talk, keeper: Keeper, chance: random.Random, count: int) -> None:
    """Say, revise and remove; give vectors to what was said. What becomes of it is in the database."""
    said: list[str] = []

    async def one() -> None:
        match chance.randrange(6) if said else 5:
            case 0:
                await talk.revise(chance.choice(said), f"the revised cash {chance.random()}")
            case 1:
                await talk.revise(chance.choice(said))
            case 2:
                await talk.remove(said[0])
                del said[0]
            case 3:
                await keeper.embed(talk.tenant, said)
            case _:
                said.extend(await talk.say(*(f"budget {chance.random()}" for _ in range(3))))

    for _ in range(count):
        await stubbornly(one)


async def told(database: Database, tenant: str) -> Counter[tuple[str, int, str]]:
    async with database.tenant_tx(tenant) as connection:
        events = await feed.read(connection, tenant, ledger.room(tenant), after_seq=0, limit=100_000)
        rows = await connection.fetch("SELECT segment_id, rev FROM segments")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    entries = [entry for event in events for entry in event.body["segments"]]
    newest = {row["segment_id"]: row["rev"] for row in rows}
    words = {(name, rev) for name, _, rev, stage in entries if stage != "meaning"}
    assert set(newest.items()) <= words, "the newest revision of all that is there was told"
    return Counter((name, rev, stage) for name, _, rev, stage in entries)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "victims", [pytest.param(v, marks=[] if len(set(v)) > 1 else [pytest.mark.soak], id="-".join(v)) for v in VICTIMS]
)
async def test_after_kills_the_index_holds_the_truth_and_all_was_told_once(
    place: Place, victims: tuple[str, ...], seed: int
) -> None:
    victims = tuple(victim for victim in victims if victim != "index" or place.weaviate is not None)
    chance = random.Random(seed)
    async with opened(place) as (database, indexing):
        await until(indexing.editions.open)
        keeper = Keeper(database, index=indexing.index, limits=LIMITS)
        model = FakeEmbedder().info
        assert model is not None
        await indexing.editions.adopt((await indexing.editions.open())[0].number, model, "")
        talks = [await Talk(database, f"{name}-{'-'.join(victims)}-{seed}").begin() for name in TENANTS]
        for number, victim in enumerate(victims):
            living = [asyncio.ensure_future(live(talk, keeper, chance, 25)) for talk in talks]
            if number == 0:
                await stubbornly(indexing.rebuild.request)
            await asyncio.sleep(chance.uniform(0, 0.4))
            await asyncio.to_thread(place.kill, victim)
            await asyncio.gather(*living)
        await until(lambda: _settled(keeper))
        verification = Verification(
            database, editions=indexing.editions, index=indexing.index, indexer=indexing.indexer
        )
        found = {one.tenant_id: one async for one in verification.run()}
        for talk in talks:
            one = found[talk.tenant]
            assert one.segments > 0
            assert (one.missing, one.extra, one.stale) == (0, 0, 0), one.ids
            assert max((await told(database, talk.tenant)).values()) == 1
        assert not any(one.differs for one in found.values())


async def _settled(keeper: Keeper) -> bool:
    """No job waits, and nothing is built."""
    try:
        return await keeper.is_idle() and len(await keeper.states()) == 1
    except Unavailable:
        return False
