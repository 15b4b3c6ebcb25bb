"""Start a program that ends when the tests end, also after kill -9 of pytest.

The kernel sends SIGINT to the program when the thread that started it ends (`server.store.pglaunch`); so each program
has such a thread of its own, and any thread may call `start`.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server.store import pglaunch

END_S_MAX = 30.0
READY_S_MAX = 60.0
POLL_S = 0.02
PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to outgoing connections: a program that was killed finds its port free again."""


class Program:
    """One process. `account` as `pglaunch` takes it; its output goes to `log`."""

    def __init__(self, command: Sequence[str], folder: Path, *, account: str = "self") -> None:
        self._command = list(command)
        self._folder = folder
        self._account = account
        self._starter: ThreadPoolExecutor | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder.with_name(folder.name + ".log")

    @property
    def pid(self) -> int:
        assert self._process is not None, "start first"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool]) -> None:
        """Returns when `ready()`."""
        assert not self.running, "it runs already"
        if self._starter is None:
            self._starter = ThreadPoolExecutor(1, thread_name_prefix=self._folder.name)
        self._process = self._starter.submit(self._spawn).result()
        end = time.monotonic() + READY_S_MAX
        while not ready():
            assert self.running, f"{self._command[0]} ended:\n{self.log.read_text(errors='replace')[-2_000:]}"
            assert time.monotonic() < end, f"{self._command[0]} did not come up"
            time.sleep(POLL_S)

    def run(self) -> None:
        """Start it and wait for its end, which must be a success."""
        with ThreadPoolExecutor(1) as starter:
            code = starter.submit(lambda: self._spawn().wait(END_S_MAX)).result()
        assert code == 0, f"{self._command[0]} failed:\n{self.log.read_text(errors='replace')[-2_000:]}"

    def _spawn(self) -> "subprocess.Popen[bytes]":
        launcher = [sys.executable, "-I", "-S", pglaunch.__file__, str(os.getpid()), self._account, str(self._folder)]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PARLANCE_", "PYTHON", "LC_"))}
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [*launcher, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=kept | {"TZ": "UTC", "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )

    def family(self) -> list[int]:
        """Its process and its children's."""
        found = []
        with contextlib.suppress(OSError):
            for path in Path(f"/proc/{self.pid}/task").glob("*/children"):
                found += [int(child) for child in path.read_text().split()]
        return [self.pid, *found]

    def signal(self, number: int) -> None:
        """To it and its children."""
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL for it and its children; returns when all are gone."""
        family = self.family()
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(END_S_MAX)
        end = time.monotonic() + END_S_MAX
        while any(_runs(pid) for pid in family):
            assert time.monotonic() < end, "killed processes do not end"
            time.sleep(POLL_S)

    def stop(self) -> None:
        """SIGINT and wait. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(END_S_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._starter is not None:
            self._starter.shutdown()
            self._starter = None


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


_given: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on and that was not given before."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """The same, one after the other."""
    start = int.from_bytes(os.urandom(4)) % len(PORTS)
    for step in range(len(PORTS)):
        first = PORTS[(start + step) % len(PORTS)]
        ports = list(range(first, first + count))
        if _given.isdisjoint(ports) and all(map(_is_free, ports)):
            _given.update(ports)
            return ports
    raise AssertionError("no port is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
