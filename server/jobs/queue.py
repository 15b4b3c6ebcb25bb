"""The durable job queue: PgQueuer's tables, typed payloads, one runner that survives a lost database.

Policy: jobs are put in by the transaction that makes them necessary, and run at least once, so every handler may be
repeated. A retryable failure (`Unavailable` and its like) is retried for ever, with growing pauses; any other at most
`attempts_max` times (`GivenUp`: once), then the job is kept as failed for a week. A payload that no version understands
is logged and dropped; a kind without a handler here waits for a node that has one.

Boundary: PgQueuer, and the broad except of the job (its text may carry speech: only its type is logged and stored).
Invariant: a job leaves the queue only after its handler returned or gave up; a runner that is cancelled, killed or
cut off leaves its jobs to be picked again, by itself at once, by others after `PICK_STALE_S`.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import msgspec
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import FailingListenerError, RetryRequested
from pgqueuer.domain.models import Job as PickedJob
from pgqueuer.domain.settings import DBSettings
from pgqueuer.domain.types import Channel, QueueManagerId

from server.store.pool import LOST, Connection, translated
from streaming.aio import Scope, Signal
from streaming.errors import ParlanceError, Unavailable
from streaming.limits import LIMITS

log = logging.getLogger(__name__)

BATCH = 10
"""Jobs picked, and results written, by one statement."""
PICKED_MAX = LIMITS.jobs_picked_max
IDLE_S = 5.0
"""An idle runner looks for itself this often; new jobs wake it by NOTIFY."""
PICK_STALE_S = 15.0
"""A picked job without a heartbeat (they come at half of it) for this long belongs to a dead runner."""
STATEMENT_S_MAX = LIMITS.job_statement_ms_max / 1000
DRAIN_S = LIMITS.job_drain_ms_max / 1000
RECONNECT_S_MIN, RECONNECT_S_MAX = 0.1, 5.0
RETRY_S_MIN, RETRY_S_MAX = 0.5, 60.0
TIDY_EVERY_S = 300.0
LOG_KEPT_S = 3_600
"""PgQueuer logs three rows a job and deletes none: 50 jobs/s would leave 13 million a day. An hour is for people."""
FAILED_KEPT_S = 7 * 86_400
TIDY_ROWS = 10_000
"""Rows deleted by one statement: some tens of milliseconds."""

SETTINGS = DBSettings(
    prefix="",
    db_schema=None,
    channel=Channel("ch_pgqueuer"),
    function="fn_pgqueuer_changed",
    statistics_table="pgqueuer_statistics",
    queue_status_type="pgqueuer_status",
    queue_table="pgqueuer",
    queue_table_log="pgqueuer_log",
    trigger="tg_pgqueuer_changed",
    schedules_table="pgqueuer_schedules",
)
"""All names spelled out: by default PgQueuer takes them from variables as common as CHANNEL or FUNCTION."""

RECLAIM = """
UPDATE pgqueuer SET status = 'queued', queue_manager_id = NULL, slot = NULL, updated = now()
WHERE status = 'picked' AND queue_manager_id = $1
"""
TIDY_LOG = f"""
DELETE FROM pgqueuer_log WHERE id IN (
    SELECT id FROM pgqueuer_log WHERE created < now() - make_interval(secs => $1) ORDER BY created LIMIT {TIDY_ROWS}
    FOR UPDATE SKIP LOCKED)
"""  # noqa: S608
TIDY_FAILED = "DELETE FROM pgqueuer WHERE status = 'failed' AND updated < now() - make_interval(secs => $1)"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Base of payloads. `kind` names the payload in the queue, for ever; fields may be added with defaults."""

    kind: ClassVar[str]


class Handler(msgspec.Struct, frozen=True):
    """How one kind of job is done.

    `run` may be called twice for one job, also at the same time on two nodes. `concurrent_max`: calls at once in this
    runner; `attempts_max`: tries of a job whose failure is not retryable.
    """

    job: type[Job]
    run: Callable[[Any], Awaitable[None]]
    concurrent_max: int = 4
    attempts_max: int = 5


class GivenUp(Exception):
    """A handler knows that trying again will not help: the job is kept as failed at once."""


class JobFailed(Exception):
    """What PgQueuer stores and logs of a failure: its type, never its text."""


async def enqueue_many(connection: Connection, jobs: Sequence[Job], *, delay_s: float = 0.0, priority: int = 0) -> None:
    """Queue jobs within the connection's transaction, in one round trip; they run after its commit, those of a higher
    priority first.

    NOTIFY makes commits take turns: put many jobs into one transaction rather than one each."""
    if not jobs:
        return
    await _queries(AsyncpgDriver(connection)).enqueue(
        [job.kind for job in jobs],
        [msgspec.json.encode(job) for job in jobs],
        [priority] * len(jobs),
        [timedelta(seconds=delay_s)] * len(jobs),
    )


def pause_s(attempt: int, shortest: float, longest: float) -> float:
    """Pause before try number `attempt` + 2: doubles from `shortest` to `longest`."""
    return min(shortest * 2.0 ** min(attempt, 30), longest)


class JobRunner:
    """A component: `run` works until it is cancelled.

    Kinds that take minutes belong into a runner of their own: a runner holds `PICKED_MAX` jobs at most, of any kind.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], handlers: Sequence[Handler]) -> None:
        """`connect`: a connection of the runner's own (`Database.connect`)."""
        self._connect = connect
        self._handlers = {handler.job.kind: handler for handler in handlers}
        self._places = {handler.job.kind: asyncio.Semaphore(handler.concurrent_max) for handler in handlers}
        self._id = QueueManagerId(uuid.uuid4())
        self._listening = False

    @property
    def listening(self) -> bool:
        """Whether the runner is connected and takes jobs."""
        return self._listening

    async def run(self) -> None:
        """Take jobs and run them; a lost database is waited for."""
        failures = 0
        while True:
            try:
                await self._session()
            except (*LOST, Unavailable, FailingListenerError) as error:
                failures = 0 if self._listening else failures + 1
                log.warning("job queue lost its database", extra={"error": type(error).__name__})
            finally:
                self._listening = False
            await asyncio.sleep(pause_s(failures, RECONNECT_S_MIN, RECONNECT_S_MAX))

    async def _session(self) -> None:
        """Work on one connection until it is lost, which raises."""
        connection = await self._connect()
        lost = Signal()
        async with Scope("jobs") as scope:
            try:
                connection.add_termination_listener(lambda _connection: lost.set())
                with translated():
                    await connection.execute(RECLAIM, self._id, timeout=STATEMENT_S_MAX)
                driver = _TimedDriver(connection)
                manager = self._manager(driver)
                working = scope.spawn(self._work(manager), name="work")
                tidying = scope.spawn(_tidy(driver), name="tidy")
                losing = scope.spawn(lost.wait(), name="lost")
                try:
                    await asyncio.wait({working, tidying, losing}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    manager.shutdown.set()
                    await asyncio.wait({working}, timeout=DRAIN_S)
                for task in (working, tidying):
                    if task.done():
                        task.result()
                raise Unavailable("The job queue's connection was closed.")
            finally:
                # Before the scope cancels what still runs: PgQueuer deletes jobs whose task was cancelled, if it can.
                connection.terminate()

    def _manager(self, driver: AsyncpgDriver) -> QueueManager:
        manager = QueueManager(_queries(driver), channel=SETTINGS.channel)
        manager.queue_manager_id = self._id
        for kind, handler in self._handlers.items():
            manager.entrypoint(kind, accepts_context=False, on_failure="hold")(self._entrypoint(handler))
        return manager

    async def _work(self, manager: QueueManager) -> None:
        self._listening = True
        await manager.run(
            dequeue_timeout=timedelta(seconds=IDLE_S),
            batch_size=BATCH,
            max_concurrent_tasks=PICKED_MAX,
            shutdown_on_listener_failure=True,
            heartbeat_timeout=timedelta(seconds=PICK_STALE_S),
            log_aggregation_interval=timedelta(0),
        )

    def _entrypoint(self, handler: Handler) -> Callable[[PickedJob], Awaitable[None]]:
        async def execute(picked: PickedJob) -> None:
            try:
                job = msgspec.json.decode(picked.payload or b"", type=handler.job)
            except msgspec.DecodeError:
                log.warning("job with an unknown payload dropped", extra={"kind": handler.job.kind, "job": picked.id})
                return
            async with self._places[handler.job.kind]:
                failure = await _attempt(handler, job)
            if failure is not None:
                raise _verdict(handler, failure, picked.attempts)

        return execute


async def _attempt(handler: Handler, job: Job) -> Exception | None:
    try:
        await handler.run(job)
    except Exception as error:  # the message boundary of a job
        return error
    return None


def _verdict(handler: Handler, failure: Exception, attempts: int) -> Exception:
    """What to tell PgQueuer: try again after a pause, or keep the job as failed. `attempts`: earlier tries."""
    retryable = isinstance(failure, ParlanceError) and failure.retryable
    name = type(failure).__name__
    fields = {"kind": handler.job.kind, "error": name, "attempts": attempts + 1}
    if retryable or (attempts + 1 < handler.attempts_max and not isinstance(failure, GivenUp)):
        log.warning("job failed and is tried again", extra=fields)
        return RetryRequested(timedelta(seconds=pause_s(attempts, RETRY_S_MIN, RETRY_S_MAX)), name)
    log.error("job failed and is given up", extra=fields)
    return JobFailed(name)


async def _tidy(driver: AsyncpgDriver) -> None:
    """Delete what is kept for people only, once it is old."""
    while True:
        deleted = f"DELETE {TIDY_ROWS}"
        while deleted == f"DELETE {TIDY_ROWS}":
            deleted = await driver.execute(TIDY_LOG, LOG_KEPT_S)
        await driver.execute(TIDY_FAILED, FAILED_KEPT_S)
        await asyncio.sleep(TIDY_EVERY_S)


class _TimedDriver(AsyncpgDriver):
    """A statement that hangs raises `Unavailable`, so that a silent network does not stop the queue for ever."""

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        async with self._lock:
            with translated():
                rows = await self._connection.fetch(query, *args, timeout=STATEMENT_S_MAX)
        return [dict(row) for row in rows]

    async def execute(self, query: str, *args: object) -> str:
        async with self._lock:
            with translated():
                status: str = await self._connection.execute(query, *args, timeout=STATEMENT_S_MAX)
        return status


def _queries(driver: AsyncpgDriver) -> Queries:
    return Queries(
        driver,
        qbe=QueryBuilderEnvironment(SETTINGS),
        qbq=QueryQueueBuilder(SETTINGS),
        qbs=QuerySchedulerBuilder(SETTINGS),
    )
