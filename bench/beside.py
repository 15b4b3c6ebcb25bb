"""Two servers beside each other: ours and Node's, started alike, told alike, measured alike, taking turns.

Figures are medians over `ROUNDS` runs of each, ours and Node's alternating, so that what else the machine does meets
both. CPU is user and system time of the server's own process (bench.meter); no child of theirs works here.

Where Node or npm is missing, or its packages cannot be installed, `node_missing` says so and ours is measured alone.
"""

import asyncio
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.meter import cpu_s, resident_kib
from bench.report import ROOT, Figure

OURS, NODE = "parlance", "node"
ROUNDS = 5
START_S_MAX = 30.0
NODE_FOLDER = ROOT / "bench" / "node"
NODE_LEAST = 20


class Peer:
    """A server process that takes commands as lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.url = ""

    async def told(self) -> dict[str, Any]:
        """The next line it says."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a server of the benchmark ended: {await self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def do(self, **command: Any) -> None:
        """Returns when it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self.told()

    @property
    def cpu_s(self) -> float:
        return cpu_s([self.pid])

    @property
    def resident_kib(self) -> int:
        return resident_kib(self.pid)

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


@asynccontextmanager
async def peer(side: str, **settings: Any) -> AsyncIterator[Peer]:
    """A fresh server of `side`, stopped at the end."""
    given = json.dumps({name: str(value) for name, value in settings.items()})
    node = ["node", str(NODE_FOLDER / "server.js"), given]
    command = node if side == NODE else [sys.executable, "-m", "bench.composed", given]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | {"NODE_ENV": "production"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    server = Peer(process)
    try:
        async with asyncio.timeout(START_S_MAX):
            server.url = f"http://127.0.0.1:{(await server.told())['port']}"
        yield server
    finally:
        await server.stop()


class Runs(msgspec.Struct, frozen=True):
    """What the runs of each side gave, in their order: by side, a dict of values for each run."""

    of: dict[str, list[dict[str, float]]]

    def median(self, side: str, value: str) -> float:
        return statistics.median(run[value] for run in self.of[side])

    def spread(self, side: str, value: str) -> tuple[float, float]:
        values = [run[value] for run in self.of[side]]
        return min(values), max(values)

    def ratio(self, value: str) -> float:
        """Ours over Node's, of the medians."""
        return self.median(OURS, value) / self.median(NODE, value)

    def figures(self, value: str, name: str, unit: str, *, most: float | None = None) -> list[Figure]:
        """A row for each side, and their ratio with what it may be at most."""
        rows = []
        for side, runs in self.of.items():
            rows.append(Figure(f"{name}, {side}", significant(self.median(side, value)), unit, len(runs)))
        if NODE in self.of:
            rows.append(Figure(f"{name}, ratio", round(self.ratio(value), 3), "ours/Node", len(self.of[OURS]), most))
        return rows


def significant(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


async def alternate(sides: Sequence[str], rounds: int, measure: Callable[[str], Awaitable[dict[str, float]]]) -> Runs:
    """`rounds` of each side, in turn."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            found[side].append(await measure(side))
    return Runs(found)


def sides() -> tuple[tuple[str, ...], str]:
    """Who can be measured, and why Node cannot."""
    missing = node_missing()
    return ((OURS,), missing) if missing else ((OURS, NODE), "")


def node_missing() -> str:
    """Empty when Node and its packages are there, which are installed when they are not."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "Node.js and npm are not installed; ours was measured alone"
    version = output([node, "--version"]).strip()
    if int(version.lstrip("v").partition(".")[0] or 0) < NODE_LEAST:
        return f"Node.js {version} is older than {NODE_LEAST}; ours was measured alone"
    lock = hashlib.sha256((NODE_FOLDER / "package-lock.json").read_bytes()).hexdigest()
    stamp = NODE_FOLDER / "node_modules" / ".lock-hash"
    if not stamp.exists() or stamp.read_text() != lock:
        try:
            output([npm, "ci", "--no-fund", "--no-audit"], cwd=NODE_FOLDER)
        except subprocess.CalledProcessError:
            return "the packages of bench/node could not be installed; ours was measured alone"
        stamp.write_text(lock)
    return ""


def output(command: list[str], cwd: Path = ROOT) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def versions(skipped: str) -> dict[str, str]:
    """Of what is measured beside us, if it is."""
    if skipped:
        return {}
    installed = json.loads((NODE_FOLDER / "package-lock.json").read_text())["packages"]
    names = ("socket.io", "ws", "@socket.io/redis-adapter", "redis")
    found = {name: installed[f"node_modules/{name}"]["version"] for name in names}
    return {"node": output(["node", "--version"]).strip(), **found}
