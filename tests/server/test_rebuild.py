"""Editions are built beside what is searched: filled, resumed, changed to another model, and nobody misses a thing."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Sequence

import asyncpg
import msgspec
import pytest

from search.model import Edition, IndexDocument, Mode
from search.postgres import PostgresIndex
from server.jobs.vectors import VectorFiller
from server.store.pool import Database
from streaming.aio import Scope
from streaming.errors import Unavailable
from tests.fakes.embedder import FakeEmbedder
from tests.support.keeping import QUICK, Keeper, Talk
from tests.support.waiting import until


@pytest.fixture
async def talk(database: Database) -> Talk:
    return await Talk(database).begin()


class Watched(PostgresIndex):
    """Notes what is put where, begun and dropped; `gate`: puts into one edition wait for it."""

    def __init__(self, database: Database, schema: int = 1) -> None:
        super().__init__(database.tenant_tx, QUICK)
        self._schema = schema
        self.filled: list[str] = []
        self.begun: list[int] = []
        self.dropped: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False
        self.begun_at = self.filled_at = math.inf

    @property
    def capabilities(self):  # type: ignore[no-untyped-def]
        return msgspec.structs.replace(super().capabilities, schema=self._schema)

    async def put(self, tenant_id: str, documents: Sequence[IndexDocument], *, only: int | None = None) -> None:
        if only is not None:
            await self.gate.wait()
            if self.broken:
                raise Unavailable("the index is away")
        await super().put(tenant_id, documents, only=only)
        if only is not None:
            self.filled_at = min(self.filled_at, time.monotonic())
            self.filled += [document.segment_id for document in documents]

    async def begin(self, edition: Edition) -> None:
        self.begun_at = min(self.begun_at, time.monotonic())
        self.begun.append(edition.number)

    async def drop(self, edition: Edition) -> None:
        self.dropped.append(edition.number)


async def said(talk: Talk, count: int) -> list[str]:
    """Segments whose jobs were never done, as if nobody had indexed anything yet."""
    names = await talk.say(*(f"budget number {n}" for n in range(count)))
    async with talk.database.shared_tx() as connection:
        await connection.execute("DELETE FROM pgqueuer")
    return names


async def test_an_installation_without_an_edition_gets_one_with_all_that_was_said(talk: Talk) -> None:
    names = await said(talk, 20)
    other = await Talk(talk.database, "u").begin()
    theirs = await said(other, 3)
    index = Watched(talk.database)
    keeper = Keeper(talk.database, index=index)
    assert await keeper.rebuild.work()
    assert await keeper.states() == [(1, "current")]
    assert await keeper.match("t", "budget") == set(names)
    assert await keeper.match("u", "budget") == set(theirs)
    assert await keeper.words.complete("t", "anna", "b", 5) == ["budget"]
    assert keeper.told.stages == [], "nobody is told of what was there"
    assert sorted(index.filled) == sorted([*names, *theirs])
    assert set(index.begun) == {1}
    assert await keeper.rebuild.work(), "nothing more to do"
    assert sorted(index.filled) == sorted([*names, *theirs])


async def test_a_model_that_arrives_is_taken_up_and_all_is_embedded(talk: Talk) -> None:
    keeper = Keeper(talk.database)
    await keeper.rebuild.work()
    names = await talk.say("the budget", "cash", "a storm")
    await keeper.drain()
    assert await keeper.vectors.due_count("concepts") == 0
    keeper.embedder = FakeEmbedder()
    await keeper.rebuild.work()
    async with filling(keeper):
        await until(lambda: _finds(keeper, "money", set(names[:2])))
    (edition,) = await keeper.editions.all()
    assert (edition.shape.model, edition.shape.dimensions, edition.number) == ("concepts", 384, 1)


@contextlib.asynccontextmanager
async def filling(*keepers: Keeper) -> AsyncIterator[None]:
    """Index jobs are done, and the keepers' own models fill in vectors."""
    async with Scope("fillers") as scope, contextlib.AsyncExitStack() as stack:
        for keeper in keepers:
            assert keeper.embedder is not None
            filler = VectorFiller(keeper.vectors, keeper.embedder)
            await stack.enter_async_context(keeper.working(filler.wake))
            scope.spawn(filler.run(), name="filler")
        yield


async def _finds(keeper: Keeper, text: str, names: set[str], *models: FakeEmbedder) -> bool:
    return await keeper.found("t", text, *models) == names


async def test_a_fill_that_was_killed_goes_on_where_it_was(talk: Talk) -> None:
    names = await said(talk, 30)
    index = Watched(talk.database)
    index.broken = True
    first = Keeper(talk.database, index=index)
    with pytest.raises(Unavailable):
        await first.rebuild.work()
    index.broken = False
    filled_pages = 0

    async def die_after_two_pages() -> bool:
        return len(index.filled) >= 2 * QUICK.index_fill_page

    async with Scope("node") as scope:
        scope.spawn(first.rebuild.work(), name="rebuild")
        await until(die_after_two_pages)
    done = set(index.filled)
    assert done < set(names)
    second = Keeper(talk.database, index=index)
    await second.rebuild.work()
    again = [name for name in set(index.filled) if index.filled.count(name) > 1]
    assert set(index.filled) == set(names)
    assert len(again) <= QUICK.index_fill_page, "what was noted as done is not done again"
    assert filled_pages == 0
    assert await second.match("t", "budget") == set(names)


async def test_one_node_builds_at_a_time_and_the_next_when_it_is_gone(talk: Talk) -> None:
    names = await said(talk, 10)
    index = Watched(talk.database)
    index.gate.clear()
    first, second = (Keeper(talk.database, index=index) for _ in range(2))
    async with Scope("node") as scope:
        scope.spawn(first.rebuild.work(), name="rebuild")
        await until(lambda: bool(index.begun))
        assert await second.rebuild.work() is False
        assert first.rebuild.task is not None or index.begun
    index.gate.set()
    assert await second.rebuild.work() is True
    assert await second.match("t", "budget") == set(names)


async def test_who_lost_its_lease_notes_nothing(talk: Talk, database_dsn: str) -> None:
    await said(talk, 10)
    keeper = Keeper(talk.database)
    async with keeper.editions.lease() as lease:
        assert lease is not None
        connection = await asyncpg.connect(database_dsn)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'parlance-jobs' AND datname = current_database()"
        )
        await connection.close()
        with pytest.raises(Unavailable):
            await lease.note(1, "t", "s", done=1)


async def test_progress_is_told_while_it_lasts(talk: Talk) -> None:
    await said(talk, 20)
    index = Watched(talk.database)
    index.gate.clear()
    keeper = Keeper(talk.database, index=index)
    async with Scope("node") as scope:
        scope.spawn(keeper.rebuild.work(), name="rebuild")
        await until(lambda: keeper.rebuild.task is not None)
        task = keeper.rebuild.task
        assert task is not None
        assert (task.name, task.state, task.fraction) == ("index", "running", 0.0)
        assert task.text == "0 of 20 segments are in the new index."
        index.gate.set()
        await until(lambda: keeper.rebuild.task is None)


async def test_a_fill_stands_back_while_live_segments_wait(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.jobs.rebuild.STAND_BACK_S", 0.01)
    await said(talk, 20)
    index = Watched(talk.database)
    keeper = Keeper(talk.database, index=index)
    keeper.busy = True
    async with Scope("node") as scope:
        work = scope.spawn(keeper.rebuild.work(), name="rebuild")
        await until(lambda: len(index.filled) == QUICK.index_fill_page)
        keeper.busy = False
        await work
    assert len(index.filled) == 20


async def test_a_newer_schema_is_built_beside_and_what_is_said_meanwhile_is_in_both(talk: Talk) -> None:
    names = await said(talk, 15)
    await Keeper(talk.database).rebuild.work()
    index = Watched(talk.database, schema=2)
    index.gate.clear()
    keeper = Keeper(talk.database, index=index)
    async with keeper.working(), Scope("node") as scope:
        work = scope.spawn(keeper.rebuild.work(), name="rebuild")
        await until(lambda: keeper.rebuild.task is not None)
        assert await keeper.states() == [(1, "current"), (2, "building")]
        names += await talk.say("budget meanwhile")
        await talk.remove(names[0])
        await until(lambda: _matches(keeper, "budget", set(names[1:])))
        index.gate.set()
        await work
    assert await keeper.states() == [(2, "current")]
    assert index.dropped == [1]
    assert await keeper.match("t", "budget") == set(names[1:])


async def _matches(keeper: Keeper, text: str, names: set[str]) -> bool:
    return await keeper.match("t", text) == names


async def test_queries_lose_nothing_and_always_answer_while_the_model_changes(talk: Talk) -> None:
    """Two nodes, one of which already wants the newer model; somebody talks and somebody searches all the time."""
    old, new = FakeEmbedder("older", dimensions=64), FakeEmbedder("newer")
    first = Keeper(talk.database)
    first.embedder = old
    await first.rebuild.work()
    names = await talk.say(*(f"budget {n}" for n in range(20)))
    async with filling(first):
        await until(lambda: _finds(first, "money", set(names), old))
    second = Keeper(talk.database)
    second.embedder = new
    asked = 0

    async def ask() -> None:
        """As the search of every node does: with the vectors of all open models."""
        nonlocal asked
        while True:
            known = set(names)
            assert await first.found("t", "money", old, new) >= known, "lost by meaning"
            assert await first.found("t", "budget", mode=Mode.KEYWORD) >= known, "lost by words"
            asked += 1

    async with filling(second), Scope("change") as scope:
        asking = scope.spawn(ask(), name="ask")
        building = scope.spawn(second.rebuild.run(), name="rebuild")
        for n in range(5):
            (name,) = await talk.say(f"budget, cash {n}")
            await until(lambda name=name: _finds_one(second, name, new))  # type: ignore[misc]
            names.append(name)

        async def changed() -> bool:
            return await second.states() == [(2, "current")]

        await until(changed)
        before = asked
        await until(lambda: asked > before + 2 or asking.done())
        for task in (asking, building):
            assert not task.done(), task.exception()
    assert await second.found("t", "money", new) == set(names)
    async with talk.database.tenant_tx("t") as connection:
        models = await connection.fetch("SELECT DISTINCT model FROM segment_vectors")
    assert [row["model"] for row in models] == ["newer"], "the older model's vectors are gone"
    assert len([text for texts in new.seen for text in texts]) == 25, "each text embedded once"


async def _finds_one(keeper: Keeper, name: str, model: FakeEmbedder) -> bool:
    return name in await keeper.found("t", "money", model)


async def test_an_edition_is_not_searched_before_the_last_vectors_jobs_are_done(talk: Talk) -> None:
    first = Keeper(talk.database)
    first.embedder = FakeEmbedder("older")
    await first.rebuild.work()
    names = await talk.say("the budget", "cash")
    await first.drain()
    second = Keeper(talk.database)
    second.embedder = FakeEmbedder("newer")
    await second.rebuild.work()
    assert await second.embed("t", names, second.embedder) == 2
    assert not await second.vectors.behind("newer", 0)
    await second.rebuild.work()
    assert await second.states() == [(1, "current"), (2, "building")], "their vectors are not in the index"
    await second.drain()
    await second.rebuild.work()
    assert await second.states() == [(2, "current")]


async def test_an_edition_is_filled_when_every_node_knows_of_it(talk: Talk) -> None:
    """A node that does not know yet writes only the other one: what it did is in the database before the fill reads."""
    await said(talk, 3)
    limits = msgspec.structs.replace(QUICK, editions_ms_max=150)
    index = Watched(talk.database)
    keeper = Keeper(talk.database, index=index, limits=limits)
    await keeper.rebuild.work()
    assert index.filled_at - index.begun_at >= 2 * limits.editions_ms_max / 1000


async def test_a_model_that_nobody_wants_any_more_is_given_up(talk: Talk) -> None:
    names = await said(talk, 5)
    first = Keeper(talk.database)
    first.embedder = FakeEmbedder("older")
    await first.rebuild.work()
    second = Keeper(talk.database)
    second.embedder = FakeEmbedder("newer")
    await second.rebuild.work()
    assert await second.states() == [(1, "current"), (2, "building")], "its vectors are missing"
    await second.rebuild.work()
    assert await second.states() == [(1, "current"), (2, "building")]
    again = Keeper(talk.database)  # started anew, with the configuration of before
    again.embedder = FakeEmbedder("older")
    await again.rebuild.work()
    assert await again.states() == [(1, "current")]
    async with talk.database.tenant_tx("t") as connection:
        assert await connection.fetchval("SELECT count(*) FROM segment_vectors WHERE model = 'newer'") == 0
        assert await connection.fetchval("SELECT count(*) FROM segment_vectors WHERE model = 'older'") == len(names)


async def test_nodes_with_different_models_do_not_build_against_each_other(talk: Talk) -> None:
    first, second = Keeper(talk.database), Keeper(talk.database)
    first.embedder, second.embedder = FakeEmbedder("older"), FakeEmbedder("newer")
    await first.rebuild.work()
    await second.rebuild.work()
    for _ in range(3):
        await first.rebuild.work()
        await second.rebuild.work()
    assert await first.states() == [(2, "current")], "who started last has its way"


async def test_numbers_are_never_given_twice_and_one_is_built_at_a_time(talk: Talk) -> None:
    from search.model import EditionState

    keeper = await Keeper(talk.database).open()
    second = await keeper.editions.number(keeper.shape)
    third = await keeper.editions.number(keeper.shape)
    assert await keeper.editions.begin(second, EditionState.BUILDING)
    assert not await keeper.editions.begin(third, EditionState.BUILDING)
    await keeper.rebuild.work()
    assert await keeper.states() == [(second, "current")]
    assert await keeper.editions.number(keeper.shape) == third + 1


async def test_open_editions_are_remembered_for_a_moment_and_the_current_one_comes_first(talk: Talk) -> None:
    from search.model import EditionState
    from server.store.editions import StoredEditions

    now = 0.0
    keeper = await Keeper(talk.database).open()
    node = StoredEditions(talk.database, QUICK, lambda: now)
    assert [edition.number for edition in await node.open()] == [1]
    building = await keeper.editions.number(keeper.shape)
    await keeper.editions.begin(building, EditionState.BUILDING)
    assert [edition.number for edition in await node.open()] == [1]
    now += QUICK.editions_ms_max / 1000
    assert [(edition.number, edition.state.value) for edition in await node.open()] == [
        (1, "current"),
        (building, "building"),
    ]
