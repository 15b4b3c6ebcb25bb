"""Many streams at once, from processes of their own: what the load costs is not the server's, and says so.

`speak_all` measures a server under the streams of `STREAMS_PER_PROCESS` to a process (`python -m bench.load`): each
reads its orders from its standard input, connects, opens its streams, says "ready", waits for a line, speaks, and
writes what it heard. Streams are open before anybody speaks, as in rooms where people are silent at first: a server
that takes no new stream while it is busy is asked until it does, so that more can be measured than it would take.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import uvloop
from parlance_client import Client

from bench.live import HANG_S, Opened, open_stream, speak
from bench.meter import Meter, metered
from bench.metrics import Heard, Take
from bench.report import ROOT
from bench.speech import Clip, Cut
from tests.support.process import ServerProcess

STREAMS_PER_PROCESS = 48
"""A stream takes 3 ms of CPU a second: a process stays below a fifth of a core and wakes up in time."""
READY_S_MAX = 300.0
PATIENCE_S = 120.0
"""For a place; who gets none in this time is told as refused."""
STAGGER_S = 1.0


class Order(msgspec.Struct, frozen=True):
    """A stream to speak: the clip's name, and the file of its samples."""

    id: str
    audio: str
    delay_s: float


class Orders(msgspec.Struct, frozen=True):
    url: str
    token: str
    streams: list[Order]
    pace: float
    hang_s: float


class Report(msgspec.Struct, frozen=True):
    """What a process heard, stream by stream, and what it took. `takes` without clips and cuts."""

    takes: list["Brief"]
    cpu_s: float


class Brief(msgspec.Struct, frozen=True):
    heard: list[Heard]
    sent_bytes: int
    durable_bytes: int
    lag_ms: int
    degraded: bool
    refused: str


class Loaded(msgspec.Struct, frozen=True):
    """`load_cpu_s`: of the load's own processes; `wall_s`: from the first stream's beginning to the last one's end."""

    takes: list[Take]
    meter: Meter
    load_cpu_s: float
    wall_s: float


async def speak_all(
    server: ServerProcess,
    clips: Sequence[tuple[Clip, list[Cut]]],
    *,
    seed: int,
    pace: float = 1.0,
    hang_s: float = HANG_S,
) -> Loaded:
    """All clips at once, each from a connection of its own, begun within `STAGGER_S`. Clips of one id are one clip."""
    account = await server.account("bench")
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
        shares = shares_of([clip for clip, _ in clips], Path(folder), seed)
        orders = [msgspec.json.encode(Orders(server.url, account.token, share, pace, hang_s)) for share in shares]
        async with processes("bench.load", orders) as speak:
            began = time.perf_counter()
            async with metered(server) as meter:
                reports = [msgspec.json.decode(told, type=Report) for told in await speak()]
            wall_s = time.perf_counter() - began
    briefs = [brief for report in reports for brief in report.takes]
    takes = [
        Take(clip, cuts, b.heard, b.sent_bytes, b.durable_bytes, b.lag_ms, b.degraded, b.refused)
        for (clip, cuts), b in zip(clips, briefs, strict=True)
    ]
    return Loaded(takes, meter, sum(report.cpu_s for report in reports), wall_s)


def shares_of(clips: Sequence[Clip], folder: Path, seed: int) -> list[list[Order]]:
    """Who speaks which clip, and when within `STAGGER_S`, process by process; the samples are written to `folder`."""
    draw = Random(seed)
    files = {clip.id: folder / f"{n}.npy" for n, clip in enumerate(clips)}
    for clip in {clip.id: clip for clip in clips}.values():
        np.save(files[clip.id], clip.audio)
    streams = [Order(clip.id, str(files[clip.id]), draw.uniform(0, STAGGER_S)) for clip in clips]
    return [streams[at : at + STREAMS_PER_PROCESS] for at in range(0, len(streams), STREAMS_PER_PROCESS)]


@contextlib.asynccontextmanager
async def processes(module: str, orders: Sequence[bytes]) -> AsyncIterator[Callable[[], Awaitable[list[bytes]]]]:
    """Processes of `module`, one to each line of orders, all of them ready to speak: what is yielded lets them, once,
    and returns what each of them tells at its end. Raises RuntimeError when one fails, TimeoutError when one hangs
    before it is ready."""
    async with AsyncExitStack() as stack:
        children = [await stack.enter_async_context(_child(module)) for _ in orders]
        for child, order in zip(children, orders, strict=True):
            await _send(child, order)
        for child in children:
            await _ready(child)

        async def speak() -> list[bytes]:
            for child in children:
                await _send(child, b"go")
            return await asyncio.gather(*map(_told, children))

        yield speak


@contextlib.asynccontextmanager
async def _child(module: str) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await child.wait()


async def _send(child: asyncio.subprocess.Process, line: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(line + b"\n")
    await child.stdin.drain()


async def _ready(child: asyncio.subprocess.Process) -> None:
    assert child.stdout is not None
    async with asyncio.timeout(READY_S_MAX):
        line = await child.stdout.readline()
    if line != b"ready\n":
        raise RuntimeError("a process of the load did not connect; what it wrote stands above")


async def _told(child: asyncio.subprocess.Process) -> bytes:
    assert child.stdout is not None
    told = await child.stdout.read()
    if await child.wait() != 0:
        raise RuntimeError("a process of the load failed; what it wrote stands above")
    return told


async def serve() -> None:
    """The process: one connection to a stream."""
    loop = asyncio.get_running_loop()
    orders = msgspec.json.decode(await loop.run_in_executor(None, sys.stdin.buffer.readline), type=Orders)
    clips = [Clip(order.id, np.load(order.audio), None) for order in orders.streams]
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(orders.url, orders.token, client="bench")) for _ in orders.streams
        ]
        opened = await asyncio.gather(
            *(open_stream(one, clip, patience_s=PATIENCE_S) for one, clip in zip(clients, clips, strict=True))
        )
        os.write(1, b"ready\n")
        await loop.run_in_executor(None, sys.stdin.buffer.readline)
        began = time.process_time()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_speak(*each, orders)) for each in zip(opened, clips, orders.streams, strict=True)
            ]
        cpu_s = time.process_time() - began
    briefs = [msgspec.convert(task.result(), Brief, from_attributes=True) for task in tasks]
    sys.stdout.buffer.write(msgspec.json.encode(Report(briefs, cpu_s)))


async def _speak(opened: Opened | str, clip: Clip, order: Order, orders: Orders) -> Take:
    if isinstance(opened, str):
        return Take(clip, [], [], refused=opened)
    await asyncio.sleep(order.delay_s)
    return await speak(opened, clip, [], pace=orders.pace, hang_s=orders.hang_s)


if __name__ == "__main__":
    uvloop.run(serve())
