"""What a running server costs, from /proc: CPU seconds and memory of the server, its workers and its database.

CPU counts in ticks of 10 ms, so a measurement wants some seconds. A process that was waited for has left its time with
its parent; counting each group's living processes with what they reaped loses none. Linux only.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from tests.support.process import ServerProcess

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.5
"""Between two looks at the memory."""


class Cpu(msgspec.Struct, frozen=True):
    """CPU seconds since the start of: the server process alone, the recogniser's processes, the database's."""

    server_s: float
    workers_s: float
    database_s: float

    def since(self, before: "Cpu") -> "Cpu":
        return Cpu(
            self.server_s - before.server_s, self.workers_s - before.workers_s, self.database_s - before.database_s
        )


class Memory(msgspec.Struct, frozen=True):
    """MiB: resident size of the server process, proportional size (shared pages divided) of the workers."""

    server_mib: float
    workers_mib: float


class Meter(msgspec.Struct):
    """Filled when its block ends: `cpu` used in it, `before` and `peak` memory."""

    before: Memory
    peak: Memory
    cpu: Cpu = Cpu(0, 0, 0)

    @property
    def growth(self) -> Memory:
        return Memory(self.peak.server_mib - self.before.server_mib, self.peak.workers_mib - self.before.workers_mib)


@asynccontextmanager
async def metered(server: ServerProcess) -> AsyncIterator[Meter]:
    """Measure the server while the block runs."""
    memory = memory_of(server)
    meter = Meter(memory, memory)
    before = cpu_of(server)
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(server, meter))
        try:
            yield meter
        finally:
            meter.cpu = cpu_of(server).since(before)
            watch.cancel()


async def _watch(server: ServerProcess, meter: Meter) -> None:
    while True:
        now = memory_of(server)
        meter.peak = Memory(max(meter.peak.server_mib, now.server_mib), max(meter.peak.workers_mib, now.workers_mib))
        await asyncio.sleep(SAMPLE_S)


def cpu_of(server: ServerProcess) -> Cpu:
    workers = server.workers()
    others = [pid for pid in server.children() if pid not in workers]
    return Cpu(cpu_s([server.pid]), cpu_s(workers, reaped=True), cpu_s(others, reaped=True))


def memory_of(server: ServerProcess) -> Memory:
    resident = resident_kib(server.pid)
    return Memory(resident / 1024, proportional_mib(server.workers()))


def cpu_s(pids: Iterable[int], *, reaped: bool = False) -> float:
    """Of these processes so far; `reaped`: and of their children that ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            # Fields 14 to 17 of proc(5) stat: utime, stime, cutime, cstime; the name may hold spaces.
            times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
            ticks += sum(map(int, times if reaped else times[:2]))
    return ticks / TICKS_PER_S


def proportional_mib(pids: Iterable[int]) -> float:
    """Memory of these processes, shared pages divided among those who share them."""
    return sum(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in pids) / 1024


def resident_kib(pid: int) -> int:
    """0 when it is gone."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS:")


def _field(path: Path, name: str) -> int:
    """A field in KiB, 0 when the process is gone."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
