"""The job queue on a real Postgres: transactional, at least once, woken by NOTIFY, alive after a lost connection."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import asyncpg
import pytest

from server.jobs import queue
from server.jobs.index import IndexSegments, enqueue_index
from server.jobs.queue import Handler, Job, JobRunner, enqueue_many, pause_s
from server.store.pool import Database
from streaming.aio import Scope
from streaming.errors import Unavailable
from tests.support.waiting import until

HANG_S = 30.0


class Note(Job, frozen=True, kw_only=True):
    kind: ClassVar[str] = "note"
    n: int


class Other(Job, frozen=True, kw_only=True):
    kind: ClassVar[str] = "other"


class Seen:
    """A handler that records what it was given and fails as told."""

    def __init__(self) -> None:
        self.notes: list[int] = []
        self.running = 0
        self.running_max = 0
        self.failures: list[BaseException] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def has(self, n: int) -> bool:
        return n in self.notes

    async def run(self, job: Note) -> None:
        self.notes.append(job.n)
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
        finally:
            self.running -= 1


@asynccontextmanager
async def running(database: Database, handlers: Sequence[Handler]) -> AsyncIterator[JobRunner]:
    runner = JobRunner(database.connect, handlers)
    async with Scope("test") as scope:
        scope.spawn(runner.run(), name="runner")
        await until(lambda: runner.listening)
        yield runner


async def put(database: Database, jobs: Sequence[Job]) -> None:
    async with database.shared_tx() as connection:
        await enqueue_many(connection, jobs)


async def rows(database: Database) -> list[Any]:
    async with database.shared_tx() as connection:
        return list(await connection.fetch("SELECT kind.* FROM pgqueuer kind ORDER BY id"))


async def is_empty(database: Database) -> bool:
    return not await rows(database)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of the policy, shortened; their growth has its own test."""
    monkeypatch.setattr(queue, "RETRY_S_MIN", 0.01)
    monkeypatch.setattr(queue, "DRAIN_S", 0.2)


async def test_jobs_run_once_and_leave_the_queue(database: Database) -> None:
    seen = Seen()
    await put(database, [])
    await put(database, [Note(n=n) for n in range(50)])
    async with running(database, [Handler(Note, seen.run)]):
        await put(database, [Note(n=n) for n in range(50, 60)])
        await until(lambda: is_empty(database))
    assert sorted(seen.notes) == list(range(60))


async def test_a_runner_does_and_holds_a_bounded_number_of_jobs(database: Database) -> None:
    seen = Seen()
    seen.gate.clear()
    await put(database, [Note(n=n) for n in range(50)])

    async def picked() -> int:
        return sum(row["status"] == "picked" for row in await rows(database))

    async def holds_all_it_may() -> bool:
        return seen.running == 3 and await picked() == queue.PICKED_MAX

    async with running(database, [Handler(Note, seen.run, concurrent_max=3)]):
        await until(holds_all_it_may)
        seen.gate.set()
        await until(lambda: is_empty(database))
    assert seen.running_max == 3


async def test_a_rolled_back_transaction_leaves_no_job(database: Database) -> None:
    async def fail() -> None:
        async with database.shared_tx() as connection:
            await enqueue_many(connection, [Note(n=1)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await is_empty(database)


async def test_new_jobs_wake_an_idle_runner(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NOTIFY the runner would sleep for an hour."""
    monkeypatch.setattr(queue, "IDLE_S", 3600.0)
    seen = Seen()
    async with running(database, [Handler(Note, seen.run)]):
        for n in range(5):
            await put(database, [Note(n=n)])
            await until(partial(seen.has, n))
            await until(lambda: is_empty(database))


async def test_a_retryable_failure_is_retried_past_the_limit(database: Database) -> None:
    seen = Seen()
    seen.failures = [Unavailable("away") for _ in range(7)]
    async with running(database, [Handler(Note, seen.run, attempts_max=2)]):
        await put(database, [Note(n=1)])
        await until(lambda: is_empty(database))
    assert seen.notes == [1] * 8


async def test_a_defect_is_retried_up_to_the_limit_and_kept(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    seen.failures = [ValueError("spoken words") for _ in range(9)]

    async def failed() -> bool:
        return [row["status"] for row in await rows(database)] == ["failed"]

    with caplog.at_level(logging.DEBUG):
        async with running(database, [Handler(Note, seen.run, attempts_max=3)]):
            await put(database, [Note(n=1)])
            await until(failed)
            await put(database, [Note(n=2)])
            await until(lambda: 2 in seen.notes)
    assert seen.notes[:3] == [1, 1, 1]
    assert "spoken words" not in caplog.text
    async with database.shared_tx() as connection:
        stored = await connection.fetchval("SELECT string_agg(traceback::text, '') FROM pgqueuer_log")
    assert "ValueError" in stored
    assert "spoken words" not in stored


async def test_an_unknown_payload_is_dropped_and_an_unknown_kind_waits(database: Database) -> None:
    seen = Seen()
    async with database.shared_tx() as connection:
        await connection.execute(
            "INSERT INTO pgqueuer (priority, status, entrypoint, payload) VALUES (0, 'queued', 'note', 'no json')"
        )
    await put(database, [Other(), Note(n=1)])
    async with running(database, [Handler(Note, seen.run)]):

        async def only_other() -> bool:
            return [row["entrypoint"] for row in await rows(database)] == ["other"]

        await until(only_other)
    assert seen.notes == [1]


async def test_a_runner_survives_its_connection(database: Database, database_dsn: str) -> None:
    seen = Seen()
    async with running(database, [Handler(Note, seen.run)]):
        await put(database, [Note(n=1)])
        await until(lambda: is_empty(database))
        for n in range(2, 5):
            await cut(database_dsn)
            await put(database, [Note(n=n)])
            await until(partial(seen.has, n))
    assert sorted(set(seen.notes)) == [1, 2, 3, 4]


async def test_a_job_whose_runner_was_cut_off_runs_again(database: Database, database_dsn: str) -> None:
    seen = Seen()
    seen.gate.clear()
    async with running(database, [Handler(Note, seen.run)]):
        await put(database, [Note(n=1)])
        await until(lambda: seen.running == 1)
        await cut(database_dsn)
        await until(lambda: len(seen.notes) == 2)
        seen.gate.set()
        await until(lambda: is_empty(database))
    assert seen.notes == [1, 1]


async def test_a_cancelled_runner_leaves_its_job_in_the_queue(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()
    seen.gate.clear()
    async with running(database, [Handler(Note, seen.run)]):
        await put(database, [Note(n=1)])
        await until(lambda: seen.running == 1)
    assert seen.running == 0
    assert [row["status"] for row in await rows(database)] == ["picked"]
    monkeypatch.setattr(queue, "PICK_STALE_S", 0.2)
    monkeypatch.setattr(queue, "IDLE_S", 0.1)
    seen.gate.set()
    async with running(database, [Handler(Note, seen.run)]):
        await until(lambda: is_empty(database))
    assert seen.notes == [1, 1]


async def test_a_cancelled_runner_lets_a_short_job_finish(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "DRAIN_S", HANG_S)
    seen = Seen()
    seen.gate.clear()
    async with running(database, [Handler(Note, seen.run)]):
        await put(database, [Note(n=1)])
        await until(lambda: seen.running == 1)
        asyncio.get_running_loop().call_later(0.02, seen.gate.set)
    assert await is_empty(database)


async def test_old_log_rows_are_deleted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "TIDY_EVERY_S", 0.02)
    await put(database, [Other(), Other()])
    async with database.shared_tx() as connection:
        await connection.execute("UPDATE pgqueuer_log SET created = now() - interval '1 day' WHERE job_id % 2 = 0")

    async def logged() -> int:
        async with database.shared_tx() as connection:
            return int(await connection.fetchval("SELECT count(*) FROM pgqueuer_log"))

    async with running(database, [Handler(Note, Seen().run)]):

        async def one_left() -> bool:
            return await logged() == 1

        await until(one_left)


def test_pauses_double_up_to_a_ceiling() -> None:
    assert [pause_s(n, 0.5, 60.0) for n in (0, 1, 2, 6, 7, 10_000)] == [0.5, 1.0, 2.0, 32.0, 60.0, 60.0]


async def cut(dsn: str) -> None:
    """The database ends the runner's connection."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'parlance-jobs'"
            " AND datname = current_database()"
        )
    finally:
        await connection.close()


# --- index_segments -----------------------------------------------------------------------------------------------
async def test_one_job_for_each_recording_of_a_batch(database: Database) -> None:
    items = [
        IndexSegments(tenant_id=tenant, recording_id=recording, segment_ids=(f"{n}",))
        for n, (tenant, recording) in enumerate(itertools.product("ab", "rs"))
    ]
    async with database.shared_tx() as connection:
        more = IndexSegments(tenant_id="a", recording_id="r", segment_ids=("9",))
        await enqueue_index(connection, [*items, *items, more])
        await enqueue_index(connection, [])
    payloads = [row["payload"] for row in await rows(database)]
    assert len(payloads) == 4
    assert b'"segment_ids":["0","9"]' in payloads[0]
