"""Own the PostgreSQL that comes with the package: make its cluster, start it, keep it up, stop it.

Policy: the holder of an exclusive lock on `<folder>.lock` owns the cluster; the kernel frees the lock when the owner
dies, and asks the server to shut down then (`pglaunch`). So whoever gets the lock may clear what an earlier owner
left: a server still shutting down is waited for, a stale postmaster.pid is removed. A server that dies under its owner
is started again, without end: committed rows are safe, and callers see `Unavailable` meanwhile.

Boundary: processes, signals and files of the cluster. `pgplace` decides where and as whom, `migrate` what is inside.
Invariant: no server runs without an owner for longer than its shutdown takes, and never two on one cluster.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from server.store import pglaunch
from server.store.pgowner import (
    FAST_S_MAX,
    POLL_S,
    QUIT_S_MAX,
    OwnerLock,
    clear_leftover,
    explain,
    explained,
    is_ours,
    read_leftover,
    until,
)
from server.store.pgplace import MAJOR, Place, PostgresFailed, choose, fall_back, socket_folder
from streaming.aio import Scope
from streaming.limits import LIMITS

log = logging.getLogger(__name__)

SUPERUSER = "parlance"
DATABASE = "postgres"
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",  # a pool of 10, listeners and command lines; 100 would cost memory for nobody
    "shared_buffers": "64MB",  # 100,000 segments with their indexes; the kernel caches the rest
    "fsync": "on",
    "synchronous_commit": "on",  # a committed final is on the disk
    "wal_level": "minimal",  # nobody replicates from an embedded server
    "max_wal_senders": "0",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "max_logical_replication_workers": "0",
    "recovery_init_sync_method": "syncfs" if sys.platform == "linux" else "fsync",  # 55 ms after a crash, not 120
    "jit": "off",  # compiling costs more than queries of milliseconds
    "io_method": "sync",  # spares three processes; the data fits the kernel's cache
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",  # statements and details carry speech: neither is logged
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}
LOG_BYTES_MAX = LIMITS.database_log_bytes_max
"""The log is emptied above this size, and set aside as `.old` at a start above half of it: 6 MiB in all."""
LOG_LOOK_S = 60.0
TAIL_LINES = 6
OWN_S_MAX = 15.0
"""Waiting for another owner: a command that borrows the database is done in a second; a server holds on for good."""
READY_S_MAX = 120.0
"""Crash recovery replays at most `max_wal_size`, seconds on any disk; two minutes on the worst."""
RESTART_S_MAX = 5.0
STILL_THERE = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
"""PostgreSQL's complaints while processes of a killed server, or of a killed owner's, have not noticed that yet."""


class EmbeddedPostgres:
    """One owned server. `start` and `stop` belong to one event loop, which must run in a thread that outlives the
    server (the main one): the kernel's parent-death signal watches the thread that spawned it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._lock = OwnerLock(self._folder)
        self._process: asyncio.subprocess.Process | None = None
        self._place: Place | None = None
        self._scope: Scope | None = None
        self._unsynced = False

    async def start(self) -> str:
        """Own the cluster, making it when missing; returns the superuser's DSN for asyncpg, with the server ready.

        Raises `PostgresFailed`, also when another process owns the cluster and keeps it for `OWN_S_MAX`."""
        if not await until(self._lock.take, OWN_S_MAX):
            raise PostgresFailed(f"{self._lock.holder()} already runs the database in {self._folder}.")
        return await self._start_locked()

    async def attach_or_start(self) -> str:
        """Like `start`, but where another process owns the cluster, the DSN of its server once that is ready."""
        end_s = asyncio.get_running_loop().time() + READY_S_MAX
        while not self._lock.take():
            dsn = running_dsn(self._folder)
            if dsn is not None and await _answers(dsn):
                return dsn
            if asyncio.get_running_loop().time() >= end_s:
                raise PostgresFailed(f"{self._lock.holder()} runs the database in {self._folder}; it does not answer.")
            await asyncio.sleep(POLL_S)
        return await self._start_locked()

    async def _start_locked(self) -> str:
        try:
            with explained(self._folder):
                dsn = await self._bring_up()
        except BaseException:
            await self._end_process()
            self._lock.release()
            raise
        self._scope = Scope("postgres")
        await self._scope.__aenter__()
        self._scope.spawn(self._keep_up(), name="keep_up")
        return dsn

    async def stop(self) -> None:
        """Shut down in order and give the cluster up. Idempotent."""
        if self._scope is not None:
            await self._scope.close()
            self._scope = None
        try:
            await self._end_process()
            if self._place is not None and (sockets := socket_folder(self._place)) != self._place.data:
                with contextlib.suppress(OSError):
                    sockets.rmdir()
        finally:
            self._lock.release()

    async def wait_failed(self) -> None:
        """Wait until keeping the server up failed for good, which only a defect can cause; then raise its error."""
        assert self._scope is not None, "start first"
        await self._scope.wait_failed()

    async def _keep_up(self) -> None:
        pause_s = POLL_S
        if self._unsynced and self._place is not None:
            await self._sync(self._place)
        while True:
            process = self._process
            if process is not None and process.returncode is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), LOG_LOOK_S)
                _trim(self._log_path)
                pause_s = POLL_S
                continue
            log.error("the embedded database ended; starting it again")
            try:
                with explained(self._folder):
                    await self._bring_up()
            except PostgresFailed as error:
                log.error("the embedded database does not start", extra={"reason": str(error)})  # noqa: TRY400
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RESTART_S_MAX)

    @property
    def _log_path(self) -> Path:
        return self._folder.with_name(self._folder.name + ".log")

    async def _bring_up(self) -> str:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        place = self._place or choose(self._folder)
        await clear_leftover(place.data)
        while True:
            code, tail = await self._try(place)
            if code is None:
                self._place = place
                return dsn_of(str(socket_folder(place)))
            if code in (pglaunch.EXIT_REFUSED, pglaunch.EXIT_UNREACHABLE) and not place.account.startswith("drop"):
                place = await asyncio.to_thread(fall_back, self._folder)
            else:
                raise _failed("The embedded database does not start.", place.data, tail)

    async def _try(self, place: Place) -> tuple[int | None, str]:
        """Make the cluster if missing and start it: (None, "") when ready, else the exit code and the log's end."""
        _set_log_aside(self._log_path)
        version = place.data / "PG_VERSION"
        if not version.exists():
            code, tail = await self._make(place)
            if code != 0:
                return code, tail
        elif (made_by := version.read_text().strip()) != MAJOR:
            raise PostgresFailed(
                f"The database in {place.data} was made by PostgreSQL {made_by}; this version carries {MAJOR}."
            )
        sockets = socket_folder(place)
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = ["postgres", "-D", str(place.data), "-k", str(sockets), *settings]
        try:
            async with asyncio.timeout(READY_S_MAX):
                while True:
                    mark = _size(self._log_path)
                    self._process = await self._launch(place, place.data, command)
                    ended = await _ready_or_ended(self._process, dsn_of(str(sockets)))
                    tail = "" if ended is None else _tail(self._log_path, mark)
                    if not any(sign in tail for sign in STILL_THERE):
                        return ended, tail
                    await asyncio.sleep(POLL_S)
                    await clear_leftover(place.data)
        except TimeoutError:
            await self._end_process()
            what = f"The embedded database was not ready within {READY_S_MAX:.0f} s."
            raise _failed(what, place.data, _tail(self._log_path, 0)) from None

    async def _make(self, place: Place) -> tuple[int, str]:
        """initdb beside the folder, then rename: a half-made cluster is never taken for one."""
        data = place.data
        if data.exists() and any(data.iterdir()):
            raise PostgresFailed(f"{data} is not empty and holds no database; choose another PARLANCE_DATA_DIR.")
        for left in [path for path in data.parent.iterdir() if path.name.startswith(f"{data.name}.new-")]:
            shutil.rmtree(left, ignore_errors=True)
        # A name of its own: processes of an initdb whose owner was just killed may still write into the last one.
        staging = data.with_name(f"{data.name}.new-{secrets.token_hex(4)}")
        staging.mkdir(mode=0o700)
        if place.owner[0] != os.geteuid():
            os.chown(staging, *place.owner)
        log.info("making the embedded database", extra={"folder": str(data)})
        command = ["initdb", "-D", str(staging), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-sync"]
        command += ["--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions"]
        mark = _size(self._log_path)
        process = await self._launch(place, staging, command)
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if code == 0:
            staging.rename(data)
            self._unsynced = True
        else:
            shutil.rmtree(staging, ignore_errors=True)
        return code, _tail(self._log_path, mark)

    async def _sync(self, place: Place) -> None:
        """What initdb left to later, because nobody should wait for it: bring the new cluster's files to the disk."""
        process = await self._launch(place, place.data, ["initdb", "-D", str(place.data), "--sync-only"])
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self._unsynced = False

    async def _launch(self, place: Place, folder: Path, command: list[str]) -> asyncio.subprocess.Process:
        launcher = [sys.executable, "-I", "-S", pglaunch.__file__, str(os.getpid()), place.account, str(folder)]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PARLANCE_", "PYTHON", "LC_"))}
        output = os.open(self._log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            return await asyncio.create_subprocess_exec(
                *launcher,
                str(place.binaries / command[0]),
                *command[1:],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=kept | {"TZ": "UTC", "LC_ALL": "C.UTF-8"},  # naming the zone spares initdb a search through all
                start_new_session=True,  # a terminal's Ctrl-C must not reach it before its clients are done
            )
        finally:
            os.close(output)

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        for kind, seconds in ((signal.SIGINT, FAST_S_MAX), (signal.SIGQUIT, QUIT_S_MAX), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(kind)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), seconds)
                return


@asynccontextmanager
async def use(folder: Path) -> AsyncIterator[str]:
    """The DSN of the cluster for one command: attached to its owner's server if there is one, else to one of our own
    that ends with the block. For the server itself use `EmbeddedPostgres.start`, whose database nobody else can end.

    Raises `PostgresFailed`."""
    postgres = EmbeddedPostgres(folder)
    dsn = await postgres.attach_or_start()
    try:
        yield dsn
    finally:
        await postgres.stop()


def running_dsn(folder: Path) -> str | None:
    """The DSN of the server that runs on this cluster now, whoever owns it; it may not be ready yet."""
    found = read_leftover(folder.resolve())
    if found is None or not found.sockets or not is_ours(found.pid, folder.resolve()):
        return None
    return dsn_of(found.sockets)


def dsn_of(sockets: str) -> str:
    return f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(sockets, safe='')}"


async def _ready_or_ended(process: asyncio.subprocess.Process, dsn: str) -> int | None:
    """None once it answers, its exit code when it ends first."""
    while process.returncode is None:
        if await _answers(dsn):
            return None
        await asyncio.sleep(POLL_S)
    return process.returncode


async def _answers(dsn: str) -> bool:
    try:
        connection: Any = await asyncpg.connect(dsn, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


def _failed(what: str, data: Path, tail: str) -> PostgresFailed:
    sentence = explain(what, data, tail)
    return PostgresFailed(f"{sentence}\n{tail}" if tail else sentence)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(path: Path, mark: int) -> str:
    """The last lines written after byte `mark`."""
    with path.open("rb") as file:
        file.seek(max(mark, _size(path) - 4_096))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-TAIL_LINES:])


def _set_log_aside(path: Path) -> None:
    if _size(path) > LOG_BYTES_MAX // 2:
        path.replace(path.with_name(path.name + ".old"))


def _trim(path: Path) -> None:
    """Empty the log in place when it grew too long: the server appends, so it goes on at the new end."""
    if _size(path) > LOG_BYTES_MAX:
        log.warning("the database's log was emptied", extra={"file": str(path)})
        os.truncate(path, 0)
