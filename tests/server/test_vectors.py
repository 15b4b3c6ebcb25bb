"""Vectors fill themselves in: after the fact, the newest first, past poison, lost workers and a lost database."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from search.model import Mode
from search.postgres import PostgresIndex
from search.query import parse
from server.jobs import vectors
from server.jobs.index import IndexSegments, enqueue_index, index_handler
from server.jobs.queue import JobRunner
from server.jobs.vectors import VectorFiller
from server.store.pool import Database
from streaming.aio import Scope
from streaming.errors import Unavailable
from tests.fakes.embedder import FakeEmbedder
from tests.support.waiting import until

MODEL = "concepts"
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of the policy, shortened."""
    monkeypatch.setattr(vectors, "RETRY_S_MIN", 0.01)
    monkeypatch.setattr(vectors, "RETRY_S_MAX", 0.05)
    monkeypatch.setattr(vectors, "IDLE_S", 0.05)


class Talk:
    """One tenant with one recording; `say` commits segments with their index job, as the committer does."""

    def __init__(self, database: Database, tenant: str = "t") -> None:
        self.database = database
        self.tenant = tenant
        self.index = PostgresIndex(database.tenant_tx)

    async def begin(self) -> "Talk":
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute("INSERT INTO tenants (tenant_id, name) VALUES ($1, $1)", self.tenant)
            await connection.execute("INSERT INTO users VALUES ($1, 'anna', 'anna')", self.tenant)
            await connection.execute(
                """INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state,
                                           engine, encoding, sample_rate, channels)
                   VALUES ($1, 'r', 'anna', 'Talk', 'tenant', 'en', 'live', 'test', 'pcm_s16le', 16000, 1)""",
                self.tenant,
            )
        return self

    async def say(self, *texts: str) -> list[str]:
        numbers = [next(_numbers) for _ in texts]
        names = [f"s{n}" for n in numbers]
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute(
                """INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text,
                                         words, language, confidence)
                   SELECT $1, 'r', 's' || n, n, 1, n * 1000, n * 1000, text, '[]', 'en', 1
                   FROM unnest($2::int[], $3::text[]) AS s (n, text)""",
                self.tenant, numbers, list(texts),
            )  # fmt: skip
            await self._enqueue(connection, names)
        return names

    async def revise(self, name: str, text: str) -> None:
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute("UPDATE segments SET text = $2, rev = rev + 1 WHERE segment_id = $1", name, text)
            await self._enqueue(connection, [name])

    async def _enqueue(self, connection: Any, names: list[str]) -> None:
        item = IndexSegments(tenant_id=self.tenant, recording_id="r", segment_ids=tuple(names))
        await enqueue_index(connection, [item])

    async def found(self, text: str) -> set[str]:
        query = parse(text, mode=Mode.SEMANTIC, limit=100)
        page = await self.index.search_near(self.tenant, "anna", query, FakeEmbedder().query(text))
        return {hit.segment_id for hit in page.hits}

    async def finds(self, text: str, names: list[str]) -> bool:
        return await self.found(text) == set(names)

    async def due(self) -> int:
        return await self.index.due_count(MODEL)

    async def is_filled(self) -> bool:
        return await self.due() == 0


@pytest.fixture
async def talk(database: Database) -> Talk:
    return await Talk(database).begin()


@contextlib.asynccontextmanager
async def indexing(talk: Talk, on_indexed: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    runner = JobRunner(talk.database.connect, [index_handler(talk.database, talk.index, on_indexed)])
    async with Scope("jobs") as scope:
        scope.spawn(runner.run(), name="runner")
        await until(lambda: runner.listening)
        yield


@contextlib.asynccontextmanager
async def filling(talk: Talk, embedder: FakeEmbedder) -> AsyncIterator[VectorFiller]:
    filler = VectorFiller(talk.index, embedder)
    async with Scope("filler") as scope:
        task = scope.spawn(filler.run(), name="run")
        yield filler
        assert not task.done(), "a component works until it is cancelled"


async def indexed(talk: Talk, *texts: str) -> list[str]:
    """Said and put into the index, while nothing fills in vectors."""
    due = await talk.due()
    async with indexing(talk):
        names = await talk.say(*texts)

        async def put() -> bool:
            return await talk.due() == due + len(texts)

        await until(put)
    return names


async def test_what_was_said_before_the_model_came_is_found_once_it_is_there(talk: Talk) -> None:
    embedder = FakeEmbedder()
    embedder.kill()
    names = await indexed(talk, "the travel budget", "a kitten")
    async with filling(talk, embedder):
        assert await talk.found("money for the journey") == set()
        embedder.start()
        await until(lambda: talk.finds("money for the journey", names[:1]))
        assert await talk.found("cat") == set(names[1:])


async def test_live_talk_and_its_revisions_are_found_by_what_they_mean_now(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "IDLE_S", 3_600.0)  # woken by the index job alone
    embedder = FakeEmbedder()
    async with filling(talk, embedder) as filler, indexing(talk, filler.wake):
        (name,) = await talk.say("the budget")
        await until(lambda: talk.finds("money", [name]))
        await talk.revise(name, "the storm")
        await until(lambda: talk.finds("weather", [name]))
        assert await talk.found("money") == set()


async def test_a_filler_that_nobody_wakes_looks_for_itself(talk: Talk) -> None:
    async with filling(talk, FakeEmbedder()), indexing(talk):
        (name,) = await talk.say("the budget")
        await until(lambda: talk.finds("money", [name]))


async def test_a_backlog_is_told_of_and_overtaken_by_live_talk(talk: Talk) -> None:
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


async def test_poison_is_set_aside_and_the_others_go_on(talk: Talk) -> None:
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
        async with indexing(talk):
            await talk.revise(names[1], "harmless cash")
            await until(lambda: talk.finds("money", [names[0], names[1], names[2]]))


async def test_a_worker_that_fails_on_everything_sets_nothing_aside(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "CANARY", "lethal too")
    await indexed(talk, "a lethal text")
    embedder = FakeEmbedder()
    async with filling(talk, embedder):
        await until(lambda: len(embedder.seen) > 20)
        assert await talk.due() == 1


async def test_a_worker_that_dies_in_the_middle_is_waited_for(talk: Talk) -> None:
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


async def test_a_lost_database_is_waited_for(talk: Talk, database_dsn: str) -> None:
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


async def test_two_nodes_filling_at_once_end_with_the_same(talk: Talk) -> None:
    names = await indexed(talk, *(f"budget {n}" for n in range(50)))
    async with filling(talk, FakeEmbedder()), filling(talk, FakeEmbedder()):
        await until(talk.is_filled)
    assert await talk.found("money") == set(names)


async def test_a_changed_model_makes_all_vectors_anew(talk: Talk) -> None:
    names = await indexed(talk, "the budget", "cash")
    async with filling(talk, FakeEmbedder("older", dimensions=50)):

        async def older_filled() -> bool:
            return await talk.index.due_count("older") == 0

        await until(older_filled)
    assert await talk.found("money") == set()
    async with filling(talk, FakeEmbedder()):
        await until(lambda: talk.finds("money", names))


async def test_every_tenant_gets_its_vectors(talk: Talk, database: Database) -> None:
    other = await Talk(database, "other").begin()
    mine, theirs = await indexed(talk, "the budget"), await indexed(other, "their budget")
    async with filling(talk, FakeEmbedder()):
        await until(lambda: talk.finds("money", mine))
        await until(lambda: other.finds("money", theirs))


# --- the table ------------------------------------------------------------------------------------------------------
async def test_row_level_security_guards_vectors(talk: Talk, database: Database) -> None:
    other = await Talk(database, "other").begin()
    await indexed(talk, "the budget")
    await indexed(other, "their budget")
    async with database.tenant_tx("t") as connection:
        assert [row[0] for row in await connection.fetch("SELECT tenant_id FROM segment_vectors")] == ["t"]
        assert (
            await connection.execute("UPDATE segment_vectors SET model = 'x' WHERE tenant_id = 'other'") == "UPDATE 0"
        )
    async with database.shared_tx() as connection:
        assert await connection.fetchval("SELECT count(*) FROM segment_vectors") == 0
        columns = (await connection.fetch("SELECT * FROM vectors_due('', 10)"))[0].keys()
        assert list(columns) == ["tenant_id", "segment_id"], "names only"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.tenant_tx("t") as connection:
            await connection.execute("CREATE INDEX ON segment_vectors (model)")


async def test_what_was_indexed_before_this_version_is_due(empty_dsn: str) -> None:
    from server.store.migrate import FOLDER, read

    connection = await asyncpg.connect(empty_dsn)
    files = read(FOLDER)
    position = next(n for n, file in enumerate(files) if file.name == "0005_vectors")
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
               VALUES ('t', 'r', 's', 1, 1, 0, 1, 'the budget', '[]', 'en', 1);
           INSERT INTO segment_index (tenant_id, segment_id, recording_id, owner_id, private, spoken_at, rev, language,
                                      tsv)
               VALUES ('t', 's', 'r', 'u', false, now(), 1, 'en', 'budget');"""
    )
    await connection.execute(files[position].sql)
    assert [tuple(row) for row in await connection.fetch("SELECT * FROM vectors_due('m', 10)")] == [("t", "s")]
    await connection.close()
