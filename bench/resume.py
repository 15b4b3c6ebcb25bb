"""From a cut to the first acknowledged byte on the new connection: at the same node, and at another after kill -9.

A client streams audio in real time; its connection is aborted. It connects again at once (without the pause of a
client's back-off), takes its stream over, sends on from where the server says, and waits for the acknowledgement
that counts those bytes. The server acknowledges twice a second from the takeover on, which is most of that time; how
soon the stream is taken over and takes bytes again stands beside it.
"""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from bench import speech
from bench.crowd import Crowd
from bench.intake import CHUNK_S, FORMAT, Source, send
from bench.report import Figure, Result, percentiles
from tests.support.cluster import Cluster
from tests.support.process import ServerProcess
from tests.support.redis import PROGRAM

SPOKEN_S = (0.3, 1.3)
"""Between the start and the cut, drawn anew each time."""


class Resumed(msgspec.Struct, frozen=True):
    """Milliseconds since the cut: connected and greeted, taken over, first bytes acknowledged."""

    greeted_ms: float
    started_ms: float
    acked_ms: float
    again_bytes: int
    """Sent before and to be sent again."""


class Speaker:
    """A client that lives through cuts."""

    def __init__(self, token: str, seed: int) -> None:
        self._token = token
        self._draw = Random(seed)
        self._chunk = speech.quiet(int(CHUNK_S * 1_000), seed).tobytes()
        self._again: dict[str, Any] = {}
        self._source: Source
        self.crowd: Crowd

    async def connect(self, url: str) -> None:
        self.crowd = Crowd(self._token)
        await self.crowd.connect(url, 1)

    async def start(self) -> None:
        """Or take over, after the first time."""
        answer = await self.crowd.links[0].call("voice:recording:start", FORMAT | self._again)
        self._again = {name: answer[name] for name in ("recording_id", "resume_token")}
        self._source = Source(self.crowd.links[0], answer["stream_id"], self._chunk)
        self._source.sent = answer["offset"]

    async def speak(self) -> None:
        await send([self._source], self._draw.uniform(*SPOKEN_S), 1.0)

    async def resumed(self, url: str, cut: float) -> Resumed:
        """Go on at `url` after a cut at that time of `time.perf_counter`."""
        sent = self._source.sent
        await self.connect(url)
        greeted = time.perf_counter()
        await self.start()
        started = time.perf_counter()
        offset = self._source.sent
        self._source.send()
        await self.crowd.until(lambda: self.acknowledged() > offset)
        acked = time.perf_counter()
        return Resumed(
            *(round(1_000 * (at - cut), 2) for at in (greeted, started, acked)), again_bytes=max(0, sent - offset)
        )

    def acknowledged(self) -> int:
        mine = self._source.stream_id
        acks = (obj for _, name, obj in self.crowd.others if name == "voice:recording:ack")
        return max((ack["received_bytes"] for ack in acks if ack["stream_id"] == mine), default=0)

    def cut(self) -> float:
        self.crowd.close()
        return time.perf_counter()


async def benchmark(server: ServerProcess, rounds: int, kills: int, seed: int) -> Result:
    found = await same_node(server, rounds, seed)
    rows = figures("the same node", found)
    raw = {"same": msgspec.to_builtins(found)}
    skipped = ""
    if shutil.which(PROGRAM) is None:
        skipped = f"another node; {PROGRAM} is not installed"
    else:
        with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
            other = await other_node(Path(folder) / "cluster", kills, seed)
        rows += figures("another node after kill -9", other)
        raw["other"] = msgspec.to_builtins(other)
    return Result("resume", rows, {"rounds": rounds, "kills": kills}, raw, skipped)


def figures(name: str, found: list[Resumed]) -> list[Figure]:
    return [
        *percentiles(f"{name}: cut to first acknowledged byte", [r.acked_ms for r in found], "ms"),
        *percentiles(f"{name}: cut to taken over", [r.started_ms for r in found], "ms"),
    ]


async def same_node(server: ServerProcess, rounds: int, seed: int) -> list[Resumed]:
    speaker = Speaker((await server.account("bench")).token, seed)
    await speaker.connect(server.url)
    await speaker.start()
    found = []
    for _ in range(rounds):
        await speaker.speak()
        found.append(await speaker.resumed(server.url, speaker.cut()))
    speaker.cut()
    return found


async def other_node(folder: Path, kills: int, seed: int) -> list[Resumed]:
    """Two nodes in turn: the one that is spoken to is killed, and started again afterwards."""
    cluster = Cluster(folder)
    try:
        await asyncio.to_thread(cluster.start)
        speaker = Speaker((await cluster.account("bench")).token, seed)
        await speaker.connect(cluster.urls[0])
        await speaker.start()
        found = []
        for kill in range(kills):
            await speaker.speak()
            at, to = cluster.nodes[kill % 2], cluster.nodes[(kill + 1) % 2]
            at.kill()
            found.append(await speaker.resumed(to.url, speaker.cut()))
            await asyncio.to_thread(cluster.start_nodes)
        speaker.cut()
        return found
    finally:
        await asyncio.to_thread(cluster.stop)
