"""Vectors fill themselves in: after the fact, the newest first, past poison, lost workers and a lost database."""

import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from server.jobs import vectors
from server.jobs.vectors import VectorFiller
from server.store.migrate import FOLDER, read
from server.store.pool import Database
from streaming.aio import Scope
from streaming.errors import Unavailable
from tests.fakes.embedder import FakeEmbedder
from tests.support.keeping import Keeper, Talk
from tests.support.waiting import until

MODEL = "concepts"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of the policy, shortened."""
    monkeypatch.setattr(vectors, "RETRY_S_MIN", 0.01)
    monkeypatch.setattr(vectors, "RETRY_S_MAX", 0.05)
    monkeypatch.setattr(vectors, "IDLE_S", 0.05)


class Kept(Talk):
    """One tenant with one recording, and the node that keeps its index."""

    keeper: Keeper

    async def finds(self, text: str, names: list[str]) -> bool:
        return await self.found(text) == set(names)

    async def found(self, text: str) -> set[str]:
        return await self.keeper.near(self.tenant, text)

    async def due(self) -> int:
        return await self.keeper.vectors.due_count(MODEL)

    async def is_filled(self) -> bool:
        return await self.due() == 0 and await self.keeper.is_idle()


async def begun(database: Database, tenant: str = "t") -> Kept:
    talk = Kept(database, tenant)
    talk.keeper = Keeper(database)
    await talk.begin()
    return talk


@pytest.fixture
async def talk(database: Database) -> Kept:
    talk = await begun(database)
    await talk.keeper.open(MODEL)
    return talk


@contextlib.asynccontextmanager
async def filling(talk: Kept, embedder: FakeEmbedder, *, wakes: bool = True) -> AsyncIterator[VectorFiller]:
    """Vectors are made, and index jobs done, which wake the filler."""
    filler = VectorFiller(talk.keeper.vectors, embedder)
    async with talk.keeper.working(filler.wake if wakes else lambda: None), Scope("filler") as scope:
        task = scope.spawn(filler.run(), name="run")
        yield filler
        assert not task.done(), "a component works until it is cancelled"


async def indexed(talk: Kept, *texts: str) -> list[str]:
    """Said and put into the index, while nothing fills in vectors."""
    names = await talk.say(*texts)
    await talk.keeper.drain()
    return names


async def test_what_was_said_before_the_model_came_is_found_once_it_is_there(talk: Kept) -> None:
    embedder = FakeEmbedder()
    embedder.kill()
    names = await indexed(talk, "the travel budget", "a kitten")
    async with filling(talk, embedder):
        assert await talk.found("money for the journey") == set()
        embedder.start()
        await until(lambda: talk.finds("money for the journey", names[:1]))
        assert await talk.found("cat") == set(names[1:])


async def test_live_talk_and_its_revisions_are_found_by_what_they_mean_now(
    talk: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "IDLE_S", 3_600.0)  # woken by the index job alone
    embedder = FakeEmbedder()
    async with filling(talk, embedder):
        (name,) = await talk.say("the budget")
        await until(lambda: talk.finds("money", [name]))
        await talk.revise(name, "the storm")
        await until(lambda: talk.finds("weather", [name]))
        assert await talk.found("money") == set()


async def test_a_filler_that_nobody_wakes_looks_for_itself(talk: Kept) -> None:
    async with filling(talk, FakeEmbedder(), wakes=False):
        (name,) = await talk.say("the budget")
        await until(lambda: talk.finds("money", [name]))


async def test_a_backlog_is_told_of_and_overtaken_by_live_talk(talk: Kept) -> None:
    embedder = FakeEmbedder()
    count = 3 * vectors.ROUND_SEGMENTS
    await indexed(talk, *(f"word number {n}" for n in range(count)))
    embedder.gate.clear()
    async with filling(talk, embedder) as filler:
        assert filler.task is None
        await until(lambda: embedder.running == 1)
        task = filler.task
        assert task is not None
        assert (task.name, task.state, task.fraction) == ("vectors", "running", 0.0)
        assert task.text == f"0 of {count} segments can be found by their meaning."
        await indexed(talk, "the newest of all")
        embedder.gate.set()
        await until(talk.is_filled)
        await until(lambda: filler.task is None)
    order = [text for texts in embedder.seen for text in texts]
    assert order[0] == f"word number {count - 1}", "the newest first"
    assert order.index("the newest of all") <= vectors.ROUND_SEGMENTS
    assert len(order) == len(set(order)) == count + 1, "each once"
    assert embedder.running_max == 1


async def test_poison_is_set_aside_and_the_others_go_on(talk: Kept) -> None:
    names = await indexed(talk, "the budget", "a lethal text", "cash", "a refused text", "  ", "tea")
    embedder = FakeEmbedder()
    async with filling(talk, embedder):
        await until(talk.is_filled)
        assert await talk.found("money") == {names[0], names[2]}
        assert await talk.found("travel") == {names[5]}
        lethal = [texts for texts in embedder.seen if "a lethal text" in texts]
        assert 2 <= len(lethal) <= 1 + vectors.ATTEMPTS_MAX
        seen = len(embedder.seen)
        await until(lambda: talk.finds("money", [names[0], names[2]]))
        assert len(embedder.seen) == seen, "nobody tries it again"
        await talk.revise(names[1], "harmless cash")
        await until(lambda: talk.finds("money", [names[0], names[1], names[2]]))


async def test_a_worker_that_fails_on_everything_sets_nothing_aside(
    talk: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "CANARY", "lethal too")
    await indexed(talk, "a lethal text")
    embedder = FakeEmbedder()
    async with filling(talk, embedder):
        await until(lambda: len(embedder.seen) > 20)
        assert await talk.due() == 1


async def test_a_worker_that_dies_in_the_middle_is_waited_for(talk: Kept) -> None:
    names = await indexed(talk, "the budget", "cash")
    embedder = FakeEmbedder()
    embedder.restarts_itself = False
    embedder.gate.clear()
    async with filling(talk, embedder):
        await until(lambda: embedder.running == 1)
        embedder.kill()
        embedder.gate.set()
        await until(lambda: embedder.running == 0)
        assert await talk.due() == 2
        embedder.start()
        await until(lambda: talk.finds("money", names))


async def test_a_lost_database_is_waited_for(talk: Kept, database_dsn: str) -> None:
    names = await indexed(talk, "the budget", "cash")
    embedder = FakeEmbedder()
    embedder.gate.clear()
    async with filling(talk, embedder):
        await until(lambda: embedder.running == 1)
        connection = await asyncpg.connect(database_dsn)
        await connection.execute("ALTER ROLE parlance_app CONNECTION LIMIT 0")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'parlance' AND datname = current_database()"
        )
        embedder.gate.set()
        await until(lambda: len(embedder.seen) >= 1)
        await connection.execute("ALTER ROLE parlance_app CONNECTION LIMIT -1")
        await connection.close()

        async def finds() -> bool:
            with contextlib.suppress(Unavailable):
                return await talk.finds("money", names)
            return False

        await until(finds)


async def test_two_nodes_filling_at_once_end_with_the_same(talk: Kept) -> None:
    names = await indexed(talk, *(f"budget {n}" for n in range(50)))
    async with filling(talk, FakeEmbedder()), filling(talk, FakeEmbedder()):
        await until(talk.is_filled)
    assert await talk.found("money") == set(names)


async def test_a_filler_with_a_backlog_stands_back_while_live_segments_wait(
    talk: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "IDLE_S", 3_600.0)
    await indexed(talk, *(f"word number {n}" for n in range(2 * vectors.ROUND_SEGMENTS + 1)))
    embedder, busy = FakeEmbedder(), True
    filler = VectorFiller(talk.keeper.vectors, embedder, lambda: busy)
    async with Scope("filler") as scope:
        scope.spawn(filler.run(), name="run")
        await until(lambda: sum(map(len, embedder.seen)) == vectors.ROUND_SEGMENTS)
        busy = False
        filler.wake()  # as the next index job does
        await until(lambda: sum(map(len, embedder.seen)) == 2 * vectors.ROUND_SEGMENTS + 1)


async def test_every_tenant_gets_its_vectors(talk: Kept, database: Database) -> None:
    other = await begun(database, "other")
    mine, theirs = await indexed(talk, "the budget"), await indexed(other, "their budget")
    async with filling(talk, FakeEmbedder()):
        await until(lambda: talk.finds("money", mine))
        await until(lambda: other.finds("money", theirs))


# --- the table ------------------------------------------------------------------------------------------------------
async def test_row_level_security_guards_vectors(talk: Kept, database: Database) -> None:
    other = await begun(database, "other")
    await indexed(talk, "the budget")
    await indexed(other, "their budget")
    async with database.tenant_tx("t") as connection:
        assert [row[0] for row in await connection.fetch("SELECT tenant_id FROM segment_vectors")] == ["t"]
        assert (
            await connection.execute("UPDATE segment_vectors SET model = 'x' WHERE tenant_id = 'other'") == "UPDATE 0"
        )
    async with database.shared_tx() as connection:
        assert await connection.fetchval("SELECT count(*) FROM segment_vectors") == 0
        columns = (await connection.fetch("SELECT * FROM vectors_due('concepts', 10)"))[0].keys()
        assert list(columns) == ["tenant_id", "segment_id"], "names only"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.tenant_tx("t") as connection:
            await connection.execute("CREATE INDEX ON segment_vectors (model)")


async def test_what_was_searchable_before_editions_still_is(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    files = read(FOLDER)
    position = next(n for n, file in enumerate(files) if file.name == "0015_editions")
    for file in files[:position]:
        await connection.execute(file.sql)
    await connection.execute(
        """INSERT INTO tenants (tenant_id, name) VALUES ('t', 't');
           INSERT INTO users VALUES ('t', 'u', 'u');
           INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state, engine,
                                   encoding, sample_rate, channels)
               VALUES ('t', 'r', 'u', 'Talk', 'tenant', 'en', 'ended', 'test', 'pcm_s16le', 16000, 1);
           INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text, words,
                                 language, confidence)
               SELECT 't', 'r', 's' || n, n, 2, n, n, 'the budget', '[]', 'en', 1 FROM generate_series(1, 4) n;
           INSERT INTO segment_index (tenant_id, segment_id, recording_id, owner_id, private, spoken_at, rev, language,
                                      tsv)
               SELECT 't', segment_id, 'r', 'u', false, now(), 2, 'en', 'budget' FROM segments WHERE segment_id <> 's4';
           INSERT INTO segment_vectors (tenant_id, segment_id, spoken_at, text_key, model, embedding)
               VALUES ('t', 's1', now(), 1, 'm', '[1,2]'), ('t', 's2', now(), 1, 'm', NULL),
                      ('t', 's3', now(), 1, '', NULL);"""
    )
    await connection.execute(files[position].sql)
    kept = await connection.fetch("SELECT segment_id, model, due, searched FROM segment_vectors ORDER BY segment_id")
    assert [tuple(row) for row in kept] == [("s1", "m", False, True), ("s2", "m", False, False)]
    editions = await connection.fetch("SELECT number, adapter, schema, model, state, filled FROM index_editions")
    assert [tuple(row) for row in editions] == [(1, "postgres", 0, "m", "current", True)]
    told = await connection.fetch("SELECT segment_id, rev, meaning FROM segment_ledger ORDER BY segment_id")
    assert [tuple(row) for row in told] == [("s1", 2, True), ("s2", 2, False), ("s3", 2, False)]
    await connection.close()
