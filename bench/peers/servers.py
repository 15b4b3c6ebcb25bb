"""Another server as processes of ours: started, asked whether it is there, measured, ended; and ours, by the same face.

CPU and memory are those of the whole session that the process begins, ours those of the server, its recogniser and its
database. Linux only.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from bench.meter import cpu_of, cpu_s, memory_of, proportional_mib
from bench.peers.settings import HUSHED, Place, Setting
from bench.report import ROOT
from tests.support.process import ServerProcess

START_S_MAX, STOP_S_MAX = 180.0, 10.0
LOOK_S = 0.2
IDLE_CORES, IDLE_S, IDLE_S_MAX = 0.1, 1.0, 30.0
"""A server is at rest when it takes less of a core over so long; one that is not after so long is started anew."""
TAIL = 12


class Server(Protocol):
    """What is measured."""

    @property
    def alive(self) -> bool: ...

    def cpu(self) -> float:
        """Seconds since it began."""

    def memory_mib(self) -> float: ...

    async def stop(self) -> None: ...


class Ours:
    def __init__(self, process: ServerProcess) -> None:
        self.process = process

    @property
    def alive(self) -> bool:
        return self.process.running

    def cpu(self) -> float:
        found = cpu_of(self.process)
        return found.server_s + found.workers_s + found.database_s

    def memory_mib(self) -> float:
        found = memory_of(self.process)
        return found.server_mib + found.workers_mib

    async def stop(self) -> None:
        if self.process.running:
            await asyncio.to_thread(self.process.stop)


class Theirs:
    """`start`, then `stop` always. What it wrote is in a file of `folder`."""

    def __init__(self, setting: Setting, python: Path, place: Place, shape: Path | None, folder: Path) -> None:
        self.setting = setting
        self.port = place.port
        self._log = folder / f"{setting.name}.log"
        self._command = [
            str(python), "-m", "bench.peers.launch", setting.kind, str(shape or "-"), "--", *setting.arguments(place),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.setting.url(self.port)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Raises RuntimeError with the last that it wrote when it does not come up."""
        self._process = await asyncio.to_thread(self._begin)
        end = time.monotonic() + START_S_MAX
        while not await asyncio.to_thread(listens, self.port):
            if not self.alive or time.monotonic() > end:
                raise RuntimeError(f"{self.setting.title} did not come up: {self.last_words()}")
            await asyncio.sleep(LOOK_S)

    def _begin(self) -> "subprocess.Popen[bytes]":
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PARLANCE_", "OMP_", "PYTHON"))
        }
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, cwd=ROOT, env={**kept, **HUSHED, **self.setting.environ}, stdin=subprocess.PIPE,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return " / ".join(line.strip() for line in lines[-TAIL:] if line.strip())[-600:]

    def cpu(self) -> float:
        return cpu_s(self._pids(), reaped=True)

    def memory_mib(self) -> float:
        return proportional_mib(self._pids())

    def _pids(self) -> list[int]:
        return session_of(self._process.pid) if self._process is not None else []

    async def stop(self) -> None:
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, STOP_S_MAX)
                break
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None


async def rests(server: Server) -> bool:
    """Wait until nothing is left of earlier streams; False when that takes too long."""
    end = time.monotonic() + IDLE_S_MAX
    while time.monotonic() < end:
        before, began = server.cpu(), time.monotonic()
        await asyncio.sleep(IDLE_S)
        if (server.cpu() - before) / (time.monotonic() - began) < IDLE_CORES:
            return True
    return False


def session_of(leader: int) -> list[int]:
    """The processes of a session, see setsid(2)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            # Field 6 of proc(5) stat; the name may hold spaces.
            if int(path.read_text().rpartition(")")[2].split()[3]) == leader:
                found.append(int(path.parent.name))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
