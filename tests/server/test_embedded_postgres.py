"""The embedded PostgreSQL in real processes: kills, leftovers, two starters, accounts, closed folders, a full disk."""

import asyncio
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from server.store import embedded, pglaunch, pgowner, pgplace
from server.store.embedded import EmbeddedPostgres, PostgresFailed, running_dsn, use
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
HANG_S = 60.0
NOBODY = pwd.getpwnam("nobody")

OWNER = '''
import asyncio, ctypes, json, platform, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from server.store import pgplace
from server.store.embedded import EmbeddedPostgres, PostgresFailed

def refuse_namespaces():
    """What a container's seccomp filter does: unshare gets EPERM."""
    class Step(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.POINTER(Step))]
    unshare = {"x86_64": 272, "aarch64": 97}[platform.machine()]
    load, compare = Step(0x20, 0, 0, 0), Step(0x15, 0, 1, unshare)
    steps = (Step * 4)(load, compare, Step(6, 0, 0, 0x50001), Step(6, 0, 0, 0x7FFF0000))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(4, steps))) == 0, ctypes.get_errno()

async def main(options):
    if options.get("refuse"):
        refuse_namespaces()
    if options.get("home"):
        pgplace.SHARED_HOME = Path(options["home"])
    server = EmbeddedPostgres(Path(options["folder"]))
    try:
        dsn = await server.start()
    except PostgresFailed as error:
        print(json.dumps({"failed": str(error)}), flush=True)
        return
    print(json.dumps({"dsn": dsn}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop()

asyncio.run(main(json.loads(sys.argv[1])))
'''


class Owner:
    """A process that owns the database until its input closes."""

    def __init__(self, process: asyncio.subprocess.Process, answer: dict[str, str]) -> None:
        self.process = process
        self.answer = answer

    @property
    def dsn(self) -> str:
        assert "dsn" in self.answer, self.answer
        return self.answer["dsn"]


@asynccontextmanager
async def owner(folder: Path, *, account: str | None = None, **options: Any) -> AsyncIterator[Owner]:
    command = [sys.executable, "-c", OWNER, json.dumps({"folder": str(folder), **options}), str(ROOT)]
    if account is not None:
        command = [sys.executable, pglaunch.__file__, str(os.getpid()), account, str(folder.parent), *command]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), HANG_S)
        yield Owner(process, json.loads(line or b"{}"))
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), HANG_S)
        assert await asyncio.wait_for(process.stdout.read(), HANG_S) == b""


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[str]:
    server = EmbeddedPostgres(folder)
    dsn = await server.start()
    try:
        yield dsn
    finally:
        await server.stop()


async def run(dsn: str, *statements: str) -> Any:
    """The last statement's value."""
    connection = await asyncpg.connect(dsn)
    try:
        return [await connection.fetchval(statement) for statement in statements][-1]
    finally:
        await connection.close()


def processes(folder: Path) -> set[int]:
    """The server on this folder with its children (whose command lines do not name it)."""
    found = pgowner.read_leftover(folder.resolve())
    if found is None or not pgowner.is_ours(found.pid, folder.resolve()):
        return set()
    children = Path(f"/proc/{found.pid}/task/{found.pid}/children").read_text().split()
    return {found.pid, *map(int, children)}


def alive(pids: set[int]) -> set[int]:
    def is_alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return {pid for pid in pids if is_alive(pid)}


WRITE = ("CREATE TABLE IF NOT EXISTS kept (n int)", "INSERT INTO kept VALUES (1)")
COUNT = "SELECT count(*) FROM kept"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


async def test_rows_stay_from_start_to_start(tmp_path: Path) -> None:
    folder = tmp_path / "not yet" / "postgres"
    async with started(folder) as dsn:
        await run(dsn, *WRITE)
        own = processes(folder)
        assert own
    assert alive(own) == set()
    assert running_dsn(folder) is None
    async with started(folder) as dsn:
        assert await run(dsn, COUNT) == 1


async def test_the_server_is_private_durable_and_reads_every_script(tmp_path: Path) -> None:
    async with started(tmp_path / "postgres") as dsn:
        assert await run(dsn, "SHOW listen_addresses") == ""
        assert await run(dsn, "SHOW fsync") == await run(dsn, "SHOW synchronous_commit") == "on"
        assert await run(dsn, "SHOW full_page_writes") == "on"
        assert await run(dsn, "SHOW server_encoding") == "UTF8"
        assert await run(dsn, "SELECT lower('ÄÖÜ ΣΟΦΙΑ ЖУК')") == "äöü σοφια жук"
        words = (
            "SELECT array_agg(t ORDER BY t) FROM unnest(tsvector_to_array(to_tsvector('simple', '„Ärger“ — жук'))) t"
        )
        assert await run(dsn, words) == ["жук", "ärger"] or await run(dsn, words) == ["ärger", "жук"]
    assert (tmp_path / "postgres").stat().st_mode & 0o077 == 0
    assert (tmp_path / "postgres.log").stat().st_mode & 0o077 == 0


async def test_statements_and_values_are_not_logged(tmp_path: Path) -> None:
    async with started(tmp_path / "postgres") as dsn:
        with pytest.raises(asyncpg.NotNullViolationError):
            await run(dsn, "CREATE TABLE said (a text, b int NOT NULL)", "INSERT INTO said VALUES ('a secret word')")
    logged = (tmp_path / "postgres.log").read_text()
    assert "violates not-null" in logged
    assert "secret" not in logged


@pytest.mark.parametrize("name", ["with space", "commas, and 'quotes\" % é", "long-" * 30])
async def test_any_path_will_do(open_folder: Path, name: str) -> None:
    closed = open_folder / name  # a socket's path has 107 bytes, and pytest's folders take most of them
    closed.mkdir(mode=0o700)
    async with started(closed / "postgres") as dsn:
        assert await run(dsn, *WRITE, COUNT) == 1
        async with use(closed / "postgres") as attached:
            assert await run(attached, COUNT) == 1
        sockets = Path(parse_qs(urlsplit(dsn).query)["host"][0])
        assert sockets.exists()
        assert (sockets == closed / "postgres") == (name == "with space")
    assert sockets.exists() == (name == "with space"), "the temporary folder is left behind"


async def test_kill_9_of_the_owner_leaves_no_process_and_keeps_rows(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    async with owner(folder) as first:
        connection = await asyncpg.connect(first.dsn)
        for statement in WRITE:
            await connection.execute(statement)
        own = processes(folder)
        assert len(own) > 3
        first.process.kill()
        await first.process.wait()
        # A new owner at once, while the old server may still shut down with a client connected to it.
        async with started(folder) as dsn:
            assert await run(dsn, COUNT) == 1
            assert not own & processes(folder)
        connection.terminate()
    await until(lambda: not alive(own))


async def test_kill_9_while_it_starts_does_no_harm(tmp_path: Path) -> None:
    """The owner dies at every stage of its first start; the next start makes or recovers the cluster."""
    folder = tmp_path / "postgres"
    left: set[Path] = set()

    def made(what: str) -> bool:
        return any((draft / what).exists() for draft in set(tmp_path.glob("postgres.new-*")) - left)

    stages: tuple[Callable[[], bool], ...] = (
        lambda: (tmp_path / "postgres.lock").exists(),
        lambda: made("PG_VERSION"),
        lambda: made("base/4"),
        lambda: (folder / "PG_VERSION").exists(),
        lambda: (folder / "postmaster.pid").exists(),
    )
    for number in range(len(stages)):
        command = [sys.executable, "-c", OWNER, json.dumps({"folder": str(folder)}), str(ROOT)]
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        await until(lambda at=number: any(stage() for stage in stages[at:]))  # a stage may pass between two looks
        assert process.returncode is None, "it starts, whatever the one before left"
        process.kill()
        await process.wait()
        left |= set(tmp_path.glob("postgres.new-*"))
    async with started(folder) as dsn:
        assert await run(dsn, *WRITE, COUNT) == 1


async def test_a_killed_server_is_started_again(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    async with started(folder) as dsn:
        await run(dsn, *WRITE)
        before = pgowner.read_leftover(folder)
        assert before is not None
        os.kill(before.pid, signal.SIGKILL)

        def again() -> bool:
            now = pgowner.read_leftover(folder)
            return now is not None and now.pid != before.pid and running_dsn(folder) == dsn

        await until(again)
        async with asyncio.timeout(HANG_S):
            while True:
                try:
                    assert await run(dsn, COUNT) == 1
                    break
                except (OSError, asyncpg.CannotConnectNowError):
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["dead", "foreign", "zombie", "garbage"])
async def test_a_stale_pid_file_is_removed(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "postgres"
    async with started(folder) as dsn:
        await run(dsn, *WRITE)
        content = (folder / "postmaster.pid").read_text().splitlines()
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    zombie = os.fork() if kind == "zombie" else 0
    if kind == "zombie" and zombie == 0:
        os._exit(0)
    content[0] = {"dead": str(process.pid), "foreign": str(os.getpid()), "zombie": str(zombie), "garbage": "x"}[kind]
    (folder / "postmaster.pid").write_text("\n".join(content) + "\n")
    try:
        assert running_dsn(folder) is None
        async with started(folder) as dsn:
            assert await run(dsn, COUNT) == 1
    finally:
        if zombie:
            os.waitpid(zombie, 0)


async def test_a_command_attaches_to_the_servers_database_and_leaves_it_running(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    async with owner(folder) as server:
        await run(server.dsn, *WRITE)
        before = pgowner.read_leftover(folder)
        async with use(folder) as dsn:
            assert await run(dsn, COUNT) == 1
        assert await run(server.dsn, COUNT) == 1
        assert pgowner.read_leftover(folder) == before
    async with use(folder) as dsn:
        assert await run(dsn, COUNT) == 1
    assert running_dsn(folder) is None


async def test_commands_that_start_together_share_or_wait(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    done = 0

    async def command() -> None:
        nonlocal done
        async with use(folder) as dsn:
            assert await run(dsn, "SELECT 1") == 1
            done += 1
            await until(lambda: done == 4)  # all hold it at once: the owner's ends last of its own accord

    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(command())
    assert running_dsn(folder) is None


async def test_a_server_waits_for_a_command_but_not_for_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "postgres"
    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
        async with use(folder) as dsn:
            waiting = group.create_task(serve_once(folder))
            assert await run(dsn, "SELECT 1") == 1
        assert await waiting == 1
    async with owner(folder) as other:
        monkeypatch.setattr(embedded, "OWN_S_MAX", 0.05)
        with pytest.raises(PostgresFailed, match=rf"Another process \({other.process.pid}\) already runs"):
            await EmbeddedPostgres(folder).start()


async def serve_once(folder: Path) -> Any:
    async with started(folder) as dsn:
        return await run(dsn, "SELECT 1")


async def test_foreign_folders_are_refused_and_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "one.jpg").touch()
    with pytest.raises(PostgresFailed, match="is not empty and holds no database"):
        await EmbeddedPostgres(foreign).start()
    (foreign / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresFailed, match="made by PostgreSQL 9; this version carries 18"):
        await EmbeddedPostgres(foreign).start()
    assert {path.name for path in foreign.iterdir()} == {"one.jpg", "PG_VERSION"}
    with pytest.raises(PostgresFailed, match=r"cannot use .*one\.jpg"):
        await EmbeddedPostgres(foreign / "one.jpg" / "postgres").start()


async def test_a_broken_cluster_is_explained_with_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    async with started(folder):
        pass
    (folder / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(PostgresFailed, match=r"does not start\.\n(.*\n)*.*pg_control"):
        await EmbeddedPostgres(folder).start()


async def test_the_log_stays_small(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    log.write_bytes(b"x" * (embedded.LOG_BYTES_MAX // 2 + 1))
    async with started(tmp_path / "postgres") as dsn:
        assert (tmp_path / "postgres.log.old").stat().st_size > embedded.LOG_BYTES_MAX // 2
        with log.open("ab") as file:
            file.write(b"x" * embedded.LOG_BYTES_MAX)
        embedded._trim(log)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await run(dsn, "SELECT 1 / 0")
        assert b"division by zero" in log.read_bytes()
        assert log.stat().st_size < 4096


async def test_an_ordinary_user_runs_it_as_himself(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    async with owner(folder, account=f"namespace:{NOBODY.pw_uid}:{NOBODY.pw_gid}") as server:
        await run(server.dsn, *WRITE)
        own = processes(folder)
        server.process.kill()
        await server.process.wait()
        await until(lambda: not alive(own))


async def test_a_user_without_a_name_runs_it_in_a_namespace_or_hears_why_not(tmp_path: Path) -> None:
    async with owner(tmp_path / "postgres", account="namespace:12345:12345") as server:
        assert await run(server.dsn, "SELECT 1") == 1
    async with owner(tmp_path / "other", account="namespace:12345:12345", refuse=True) as server:
        assert "user id 12345" in server.answer["failed"]
        assert "PARLANCE_DATABASE_URL" in server.answer["failed"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@needs_root
async def test_root_without_namespaces_runs_it_as_nobody_out_of_closed_folders(
    tmp_path: Path, open_folder: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    folder = closed / "postgres"
    async with owner(folder, refuse=True, home=str(open_folder / "home")) as server:
        await run(server.dsn, *WRITE)
        assert folder.is_symlink()
        own = processes(folder)
        assert {os.stat(f"/proc/{pid}").st_uid for pid in own} == {NOBODY.pw_uid}
        async with use(folder) as dsn:
            assert await run(dsn, COUNT) == 1
        server.process.kill()
        await server.process.wait()
        await until(lambda: not alive(own))
    async with owner(folder, refuse=True, home=str(open_folder / "home")) as server:
        assert await run(server.dsn, COUNT) == 1
    async with owner(folder, home=str(open_folder / "home")) as server:  # namespaces are back
        assert await run(server.dsn, *WRITE, COUNT) == 2


@needs_root
async def test_root_without_namespaces_stays_where_everybody_may_enter(open_folder: Path) -> None:
    folder = open_folder / "data" / "postgres"
    async with owner(folder) as server:  # made in a namespace: the files are root's
        await run(server.dsn, *WRITE)
    async with owner(folder, refuse=True, home=str(open_folder / "home")) as server:
        assert await run(server.dsn, COUNT) == 1
        assert not folder.is_symlink()
        assert folder.stat().st_uid == NOBODY.pw_uid


@needs_root
async def test_closed_data_of_roots_is_not_given_away(tmp_path: Path, open_folder: Path) -> None:
    folder = tmp_path / "postgres"
    async with started(folder):
        pass
    async with owner(folder, refuse=True, home=str(open_folder / "home")) as server:
        assert "needs a user namespace" in server.answer["failed"]
    assert folder.stat().st_uid == 0


@needs_root
async def test_a_full_disk_is_explained_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", disk], check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        with pytest.raises(PostgresFailed, match=r"^The disk that holds .* is full\.\n"):
            await EmbeddedPostgres(disk / "postgres").start()
        assert not (disk / "postgres").exists()
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        async with started(disk / "postgres") as dsn:
            assert await run(dsn, *WRITE, COUNT) == 1
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_copy_can_be_read_by_everybody_whatever_the_umask_was(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    (folder / "bin").mkdir(parents=True)
    for name, mode in (("bin/postgres", 0o700), ("share", 0o600)):
        (folder / name).write_text("")
        (folder / name).chmod(mode)
    (folder / "link").symlink_to("nowhere")
    for path in (folder, folder / "bin"):
        path.chmod(0o700)
    pgplace.open_up(folder)
    modes = [(folder / name).stat().st_mode & 0o777 for name in (".", "bin", "bin/postgres", "share")]
    assert modes == [0o755, 0o755, 0o755, 0o644]
