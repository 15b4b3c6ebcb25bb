"""A real Parlance server as a process of its own, on a free port, for tests that go through its doors."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec

from auth.model import Role
from auth.tokens import issue
from server.config import load
from server.lifecycle import secret_of
from server.store import embedded
from server.store.identity import IdentityStore
from server.store.pool import Database

ROOT = Path(__file__).resolve().parents[2]
TONES = "tests.fakes.tones:ToneEngine"
READY = re.compile(r"(http://[^\s/]+)/#login=(\S+)")
START_S_MAX = 90.0


class Account(msgspec.Struct, frozen=True):
    """Somebody who may sign in."""

    tenant_id: str
    user_id: str
    token: str


class ServerProcess:
    """`start` returns when the server printed its link; `kill` is SIGKILL; the data folder survives both."""

    def __init__(self, data_dir: Path, *, engine: str = TONES, port: int = 0, **settings: str) -> None:
        self.data_dir = data_dir
        self.url = ""
        self.login_url = ""
        self.output: list[str] = []
        self._port = port
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PARLANCE_")},
            "PARLANCE_DATA_DIR": str(data_dir),
            "PARLANCE_ENGINE": engine,
            "PARLANCE_OFFLINE": "1",
            "PARLANCE_MODELS_ENV": "off",
            "PARLANCE_SECOND_PASS": "off",
            "PARLANCE_LOG_FORMAT": "text",
            **{f"PARLANCE_{name.upper()}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[str] | None = None
        self._link = threading.Event()

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "server", "serve"]

    @property
    def environ(self) -> dict[str, str]:
        return {**self._environ, "PARLANCE_PORT": str(self._port)}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self._link.clear()
        self._process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        end = time.monotonic() + START_S_MAX
        while not self._link.wait(0.1):
            assert self._process.poll() is None, "the server ended:\n" + "".join(self.output[-40:])
            assert time.monotonic() < end, "the server did not come up:\n" + "".join(self.output[-40:])
        self._port = int(self.url.rsplit(":", 1)[1])

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.output.append(line)
                if found := READY.search(line):
                    self.url, self.login_url = found.group(1), found.group(0)
                    self._link.set()

    def kill(self) -> None:
        """SIGKILL of the server process alone; what it leaves must look after itself."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)

    def suspend(self) -> None:
        """SIGSTOP of the server process: it is there and does nothing, as in a paused machine."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on as if nothing had been."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM, also when it was suspended; returns the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self.resume()
        return self._process.wait(30)

    def children(self) -> dict[int, str]:
        """Command lines of the server's descendants by process id."""
        found: dict[int, str] = {}
        waiting = [self.pid]
        while waiting:
            parent = waiting.pop()
            for child in _children_of(parent):
                with contextlib.suppress(OSError):
                    command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[child] = command
                    waiting.append(child)
        return found

    def workers(self) -> list[int]:
        """Recogniser processes: the router first, then its decoders."""
        return sorted(pid for pid, command in self.children().items() if "recogniser.worker" in command)

    @contextlib.asynccontextmanager
    async def _database_url(self) -> AsyncIterator[str]:
        """The shared database's, or the embedded one's, which runs for the while if the server does not."""
        if url := self._environ.get("PARLANCE_DATABASE_URL"):
            yield url
        else:
            async with embedded.use(self.data_dir / "postgres") as dsn:
                yield dsn

    async def account(
        self, tenant: str, user: str = "owner", role: Role = Role.OWNER, *, ttl_s: int = 3_600
    ) -> Account:
        """A member, created when missing, with a token."""
        async with self._database_url() as dsn:
            database = Database(dsn)
            await database.open()
            try:
                store = IdentityStore(database)
                tenant_id = await store.ensure_tenant(tenant)
                member = await store.ensure_user(tenant_id, user, role)
                identity = await store.identity_of(tenant_id, member.user_id)
            finally:
                await database.close()
        assert identity is not None
        secret = await secret_of(load(self.environ), dsn)
        token = issue(identity, secret=secret, now=int(time.time()), ttl_s=ttl_s)
        return Account(tenant_id, member.user_id, token)


@contextlib.contextmanager
def running(data_dir: Path, *, engine: str = TONES, **settings: str) -> Iterator[ServerProcess]:
    """A started server that is stopped at the end."""
    server = ServerProcess(data_dir, engine=engine, **settings)
    try:
        server.start()
        yield server
    finally:
        if server._process is not None:
            server.stop()


def _children_of(pid: int) -> list[int]:
    """Without those of threads, or of all of it, that ended meanwhile."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found
