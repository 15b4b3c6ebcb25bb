"""Index jobs on a real database: what they make searchable, what they tell, and to whom they leave the way."""

import asyncio
import itertools
import logging
from collections.abc import Sequence

import msgspec
import pytest

from search.model import DueText, IndexDocument, TextVector
from search.ports import Rejected
from search.postgres import PostgresIndex
from server.jobs.index import BEHIND, IndexSegments, enqueue_index
from server.jobs.indexwatch import IndexWatch
from server.store import feed, ledger
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.errors import Unavailable
from tests.fakes.embedder import vector_of
from tests.support.keeping import QUICK, Keeper, Talk
from tests.support.waiting import until


@pytest.fixture
async def talk(database: Database) -> Talk:
    return await Talk(database).begin()


@pytest.fixture
async def keeper(database: Database) -> Keeper:
    return await Keeper(database).open()


async def test_a_committed_segment_becomes_searchable_and_its_revision_replaces_it(keeper: Keeper, talk: Talk) -> None:
    async with keeper.working():
        (name,) = await talk.say("the first sentence")
        await until(lambda: _finds(keeper, "first", {name}))
        await talk.revise(name, "the revised sentence")
        await until(lambda: _finds(keeper, "revised", {name}))
        assert await keeper.match("t", "first") == set()


async def _finds(keeper: Keeper, text: str, names: set[str]) -> bool:
    return await keeper.match("t", text) == names


async def test_jobs_of_two_nodes_in_any_order_and_number_leave_the_newest_revision(keeper: Keeper, talk: Talk) -> None:
    names = await talk.say(*["alpha sentence"] * 10)
    for name, version in itertools.product(names, ("beta", "gamma")):
        await talk.revise(name, f"{version} sentence")
    async with keeper.working(), Keeper(talk.database).working():
        await until(keeper.is_idle)
    assert await keeper.match("t", "gamma") == set(names)
    assert await keeper.match("t", "alpha") | await keeper.match("t", "beta") == set()
    assert {held.rev for held in (await keeper.held("t")).values()} == {3}


async def test_a_segment_that_is_gone_is_forgotten(keeper: Keeper, talk: Talk) -> None:
    (name,) = await talk.say("soon gone")
    await keeper.drain()
    await talk.remove(name)
    await keeper.drain()
    assert await keeper.held("t") == {}


async def test_without_an_edition_jobs_wait(database: Database, talk: Talk) -> None:
    keeper = Keeper(database)
    (name,) = await talk.say("early words")
    with pytest.raises(Unavailable):
        await keeper.indexer.refresh("t", [name])
    await keeper.open("")
    await keeper.drain()
    assert await keeper.match("t", "early") == {name}


# --- what is told -----------------------------------------------------------------------------------------------------
async def test_words_then_meaning_are_told_once_each_and_both_at_once_where_both_come(
    keeper: Keeper, talk: Talk
) -> None:
    (name,) = await talk.say("the budget")
    await keeper.drain()
    assert keeper.told.stages == [(name, 1, "words")]
    await talk.revise(name)  # before its vector came: other times, the same text
    await keeper.drain()
    await keeper.embed("t", [name])
    await keeper.drain()
    await talk.revise(name)
    await keeper.drain()
    await talk.revise(name, "the storm")
    await keeper.drain()
    await keeper.embed("t", [name])
    for _ in range(2):
        await keeper.drain()
        await keeper.indexer.refresh("t", [name])  # a job that is done twice
    assert keeper.told.stages == [
        (name, 1, "words"),
        (name, 2, "words"),
        (name, 2, "meaning"),
        (name, 3, "all"),
        (name, 4, "words"),
        (name, 4, "meaning"),
    ]
    assert await keeper.near("t", "weather") == {name}
    assert await keeper.near("t", "money") == set()


async def test_what_is_told_stands_in_the_tenants_log(keeper: Keeper, talk: Talk, database: Database) -> None:
    names = await talk.say("one", "two")
    await keeper.drain()
    async with database.tenant_tx("t") as connection:
        (event,) = await feed.read(connection, "t", ledger.room("t"), after_seq=0, limit=10)
    assert (event.room, event.seq, event.event) == ("index:t", 1, "segments:indexed")
    assert event.body == {"segments": [[name, "r", 1, "words"] for name in names]}
    assert keeper.told.events == [event]


async def test_two_nodes_that_index_the_same_tell_once(keeper: Keeper, talk: Talk) -> None:
    names = await talk.say(*(f"word {n}" for n in range(20)))
    other = Keeper(talk.database)
    await asyncio.gather(*(node.indexer.refresh("t", [name]) for name in names for node in (keeper, other)))
    assert sorted(keeper.told.stages + other.told.stages) == [(name, 1, "words") for name in names]


async def test_what_was_filled_before_its_job_ran_is_still_told(keeper: Keeper, talk: Talk) -> None:
    (name,) = await talk.say("the budget")
    await keeper.indexer.fill("t", [name])
    assert await keeper.match("t", "budget") == {name}
    assert keeper.told.stages == []
    await keeper.drain()
    assert keeper.told.stages == [(name, 1, "words")]


async def test_a_commit_whose_answer_was_lost_is_read_from_the_log(
    keeper: Keeper, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = await talk.say("the budget")
    settle = ledger.settle

    async def lost(*args: object, **options: object) -> None:
        await settle(*args, **options)  # type: ignore[arg-type]
        raise Unavailable("no answer")

    monkeypatch.setattr(ledger, "settle", lost)
    with pytest.raises(Unavailable):
        await keeper.indexer.refresh("t", [name])
    assert keeper.told.resynced == [("t", "index:t")]


# --- vectors ----------------------------------------------------------------------------------------------------------
async def test_a_vector_belongs_to_its_text(keeper: Keeper, talk: Talk) -> None:
    (name,) = await talk.say("the budget")
    await keeper.drain()
    (text,) = await keeper.vectors.due_texts("t", [name])
    await talk.revise(name, "the storm")
    assert await keeper.vectors.put_vectors("t", "concepts", [_embedded(text, "the budget")]) == 0, "another text now"
    await keeper.drain()
    assert await keeper.vectors.put_vectors("t", "concepts", [_embedded(text, "the budget")]) == 0
    assert [one.segment_id for one in await keeper.vectors.due("concepts", 9)] == [name]
    assert await keeper.vectors.due_count("other") == 0
    assert await keeper.embed("t", [name]) == 1
    assert await keeper.vectors.due("concepts", 9) == []
    (now,) = await keeper.vectors.due_texts("t", [name])
    assert await keeper.vectors.put_vectors("t", "concepts", [_embedded(now, "the storm")]) == 0, "not due any more"


def _embedded(text: DueText, of: str) -> TextVector:
    return TextVector(text.segment_id, text.mark, vector_of(of))


async def test_a_kept_vector_brings_its_job_behind_what_people_say(
    keeper: Keeper, talk: Talk, database: Database
) -> None:
    (name,) = await talk.say("the budget")
    await keeper.drain()
    await keeper.embed("t", [name])
    await talk.say("a storm")
    async with database.shared_tx() as connection:
        rows = await connection.fetch("SELECT priority, payload FROM pgqueuer ORDER BY priority")
    jobs = [msgspec.json.decode(row["payload"], type=IndexSegments) for row in rows]
    assert [row["priority"] for row in rows] == [BEHIND, 0]
    assert (jobs[0].segment_ids, jobs[0].committed_ms) == ((name,), 0)
    assert jobs[1].committed_ms > 0


async def test_a_text_that_cannot_be_embedded_is_not_due_again(keeper: Keeper, talk: Talk) -> None:
    (name,) = await talk.say("a lethal text")
    await keeper.drain()
    (text,) = await keeper.vectors.due_texts("t", [name])
    assert await keeper.vectors.put_vectors("t", "concepts", [TextVector(name, text.mark, None)]) == 1
    assert await keeper.vectors.due_count("concepts") == 0
    assert await keeper.is_idle(), "nothing new to find"
    assert await keeper.vectors.behind("concepts", 0) is False


async def test_whether_anything_older_lacks_its_vector(keeper: Keeper, talk: Talk, database: Database) -> None:
    await talk.say("the budget")
    await keeper.drain()
    day_ms = 86_400_000
    assert not await keeper.vectors.behind("concepts", 2 * day_ms)
    assert await keeper.vectors.behind("concepts", day_ms // 2)
    assert not await keeper.vectors.behind("other", 0)


# --- trouble ----------------------------------------------------------------------------------------------------------
class Picky(PostgresIndex):
    """Refuses what holds a certain word, each document for itself."""

    async def put(self, tenant_id: str, documents: Sequence[IndexDocument], *, only: int | None = None) -> None:
        refused = {d.segment_id: "has no good words" for d in documents if "refused" in d.text}
        await super().put(tenant_id, [d for d in documents if d.segment_id not in refused], only=only)
        if refused:
            raise Rejected("no", refused)


async def test_what_the_index_refuses_is_kept_as_failed_and_logged_by_its_id(
    database: Database, talk: Talk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.jobs.queue.RETRY_S_MIN", 0.01)
    keeper = await Keeper(database, index=Picky(database.tenant_tx)).open()
    good, bad = await talk.say("a good text", "a refused text")
    with caplog.at_level(logging.ERROR):
        await keeper.drain()
    async with database.shared_tx() as connection:
        assert await connection.fetchval("SELECT count(*) FROM pgqueuer WHERE status = 'failed'") == 1
    assert await keeper.match("t", "text") == {good}
    assert {getattr(record, "segment_id", None) for record in caplog.records} >= {bad}
    assert "refused text" not in caplog.text, "never speech"


async def test_a_runner_does_more_jobs_at_once_than_it_has_tenants(keeper: Keeper, talk: Talk) -> None:
    names = [(await talk.say(f"word number {n}"))[0] for n in range(40)]
    async with keeper.working():
        await until(keeper.is_idle)
    assert set(await keeper.held("t")) == set(names)
    assert len(keeper.told.events) < 40, "jobs that waited together were done by one put"
    assert sorted(keeper.told.stages) == [(name, 1, "words") for name in names]


# --- how far behind ---------------------------------------------------------------------------------------------------
async def test_the_lag_is_measured_from_the_commit(keeper: Keeper, talk: Talk) -> None:
    before = METRICS.index.seconds._sum.get()
    async with talk.database.tenant_tx("t") as connection:
        (name,) = await talk.say("the budget")
        await enqueue_index(
            connection,
            [IndexSegments(tenant_id="t", recording_id="r", segment_ids=(name,))],
            priority=BEHIND,
        )
    await keeper.drain()
    assert 0 < METRICS.index.seconds._sum.get() - before < 60


async def test_jobs_that_wait_are_counted_and_slow_everything_else(database: Database, talk: Talk) -> None:
    limits = msgspec.structs.replace(QUICK, index_busy_jobs=3)
    watch = IndexWatch(database, limits)
    await talk.say("one")
    await talk.say("two")
    async with database.tenant_tx("t") as connection:
        more = IndexSegments(tenant_id="t", recording_id="r", segment_ids=("x",))
        await enqueue_index(connection, [more], priority=BEHIND)
    await watch.look()
    assert not watch.busy
    assert METRICS.index.jobs._value.get() == 3
    await talk.say("three")
    await watch.look()
    assert watch.busy
    assert METRICS.index.oldest_seconds._value.get() > 0


def test_jobs_of_before_are_understood() -> None:
    old = b'{"tenant_id":"t","recording_id":"r","segment_ids":["s"]}'
    assert msgspec.json.decode(old, type=IndexSegments).committed_ms == 0
