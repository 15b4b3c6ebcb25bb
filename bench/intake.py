"""Taking audio in, beside Node's socket.io: validate, append to a file, no acknowledgement; CPU per second of audio.

`STREAMS` clients send `voice:recording:chunk` of 100 ms at `SPEED` times real time, evenly spread. Alike are the
composed server (`bench.composed`) and Node: afterwards every file must hold, byte for byte, what its client sent.

The whole server is measured next to them in real time, with the same messages of a quiet room: there it also gates
the audio by the voice detector, syncs the files, acknowledges twice a second and renews its leases.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from bench import speech
from bench.beside import OURS, Runs, alternate, peer, sides, versions
from bench.crowd import BINARY, Crowd, Link, Lost, frame
from bench.meter import metered
from bench.report import Figure, Result
from streaming.model import SAMPLE_RATE
from tests.support.process import ServerProcess

CHUNK_BYTES, CHUNK_S = 3_200, 0.1
STREAMS, SPEED = 200, 2.0
WHOLE_STREAMS = 64
MOST = 1.5
"""The promise: CPU per second of audio, ours over Node's."""
AHEAD_S = 0.002
"""The clock of the sender is kept to this: a shorter sleep costs more than it gives."""
FILE_S_MAX = 10.0
FORMAT = {"encoding": "pcm_s16le", "sample_rate": SAMPLE_RATE, "channels": 1}


class Source:
    """One stream: the same chunk again and again, each at its offset."""

    def __init__(self, link: Link, stream_id: str, chunk: bytes) -> None:
        self.link = link
        self.stream_id = stream_id
        self.chunk = chunk
        self.sent = 0
        self._frame = frame(BINARY, chunk)

    def send(self) -> None:
        head = f'"stream_id":"{self.stream_id}","offset":{self.sent},"audio":'
        self.link.attach("voice:recording:chunk", head, self._frame)
        self.sent += len(self.chunk)


async def begin(crowd: Crowd, chunks: list[bytes]) -> list[Source]:
    """A stream for each client, one after the other: each is a transaction, and this is not measured."""
    sources = []
    for link, chunk in zip(crowd.links, chunks, strict=True):
        answer = await link.call("voice:recording:start", FORMAT)
        sources.append(Source(link, answer["stream_id"], chunk))
    return sources


async def send(sources: list[Source], seconds: float, speed: float) -> float:
    """Audio of `seconds` at so many times real time, all streams in turn; returns how far the sender fell behind."""
    count = int(seconds * speed / CHUNK_S) * len(sources)
    each_s = CHUNK_S / speed / len(sources)
    began, behind_s = time.perf_counter(), 0.0
    for k in range(count):
        early_s = began + k * each_s - time.perf_counter()
        behind_s = max(behind_s, -early_s)
        if early_s > AHEAD_S:
            await asyncio.sleep(early_s)
        sources[k % len(sources)].send()
    return behind_s


async def alike(side: str, streams: int, seconds: float, seed: int) -> dict[str, float]:
    """One run of one side."""
    draw = Random(seed)
    chunks = [draw.randbytes(CHUNK_BYTES) for _ in range(streams)]
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as name:
        folder = Path(name)
        async with peer(side, folder=folder) as server:
            crowd = Crowd("bench")
            await crowd.connect(server.url, streams)
            sources = await begin(crowd, chunks)
            await send(sources, 0.5, SPEED)  # what is compiled and allocated once is not a stream's
            before, own, began = server.cpu_s, time.process_time(), time.perf_counter()
            sent = sum(source.sent for source in sources)
            behind_s = await send(sources, seconds, SPEED)
            own_share = (time.process_time() - own) / (time.perf_counter() - began)
            await written({path_of(side, folder, source): source.sent for source in sources})
            cpu_s = server.cpu_s - before
            wrong = sum(not holds(path_of(side, folder, source), source) for source in sources)
            refused = len(crowd.heard_by("voice:recording:error"))
            crowd.close()
    audio_s = (sum(source.sent for source in sources) - sent) / (2 * SAMPLE_RATE)
    return {
        "cpu_ms": 1_000 * cpu_s / audio_s,
        "cpu_us_chunk": 1e6 * cpu_s * CHUNK_S / audio_s,
        "audio_s": audio_s,
        "wrong": wrong,
        "refused": refused,
        "lost": crowd.lost,
        "behind_s": behind_s,
        "own_share": own_share,
    }


def path_of(side: str, folder: Path, source: Source) -> Path:
    return folder / "bench" / source.stream_id / "audio.raw" if side == OURS else folder / source.stream_id


async def written(sizes: dict[Path, int]) -> None:
    """Wait until the files have these sizes. Raises `Lost`."""
    end = time.monotonic() + FILE_S_MAX
    while any(path.stat().st_size < size for path, size in sizes.items()):
        if time.monotonic() > end:
            raise Lost("not everything that was sent was written")
        await asyncio.sleep(0.05)


def holds(path: Path, source: Source) -> bool:
    """Whether the file is what was sent."""
    return path.read_bytes() == source.chunk * (source.sent // len(source.chunk))


async def whole(server: ServerProcess, streams: int, seconds: float, seed: int) -> dict[str, float]:
    """The real server, in real time."""
    chunk_ms = int(CHUNK_S * 1_000)
    chunks = [speech.quiet(chunk_ms, seed + n).tobytes() for n in range(streams)]
    crowd = Crowd((await server.account("bench")).token)
    await crowd.connect(server.url, streams)
    sources = await begin(crowd, chunks)
    await send(sources, 1.0, 1.0)
    sent = sum(source.sent for source in sources)
    async with metered(server) as meter:
        behind_s = await send(sources, seconds, 1.0)
    audio_s = (sum(source.sent for source in sources) - sent) / (2 * SAMPLE_RATE)
    await crowd.until(lambda: durable(crowd, sources))
    refused = len(crowd.heard_by("voice:recording:error"))
    for source in sources:
        await source.link.call("voice:recording:stop", {"stream_id": source.stream_id, "offset": source.sent})
    crowd.close()
    return {
        "cpu_ms": 1_000 * meter.cpu.server_s / audio_s,
        "database_ms": 1_000 * meter.cpu.database_s / audio_s,
        "workers_ms": 1_000 * meter.cpu.workers_s / audio_s,
        "audio_s": audio_s,
        "refused": refused,
        "lost": crowd.lost,
        "behind_s": behind_s,
    }


def durable(crowd: Crowd, sources: list[Source]) -> bool:
    """Has the server acknowledged everything as durable?"""
    ends = {obj["stream_id"]: obj["durable_bytes"] for _, name, obj in crowd.others if name == "voice:recording:ack"}
    return all(ends.get(source.stream_id) == source.sent for source in sources)


async def compare(seconds: float, rounds: int, seed: int) -> tuple[Runs, str]:
    who, skipped = sides()
    return await alternate(who, rounds, lambda side: alike(side, STREAMS, seconds, seed)), skipped


def result(runs: Runs, skipped: str, wholes: dict[str, float], seconds: float, rounds: int) -> Result:
    every = [run for side in runs.of.values() for run in side]
    audio_s = int(sum(run["audio_s"] for run in every))
    wrong = int(sum(run["wrong"] + run["refused"] + run["lost"] for run in every))
    rows = [
        *runs.figures("cpu_ms", f"{STREAMS} streams, validate and append: CPU", "ms/audio s", most=MOST),
        *runs.figures("cpu_us_chunk", "the same, a chunk of 100 ms", "us"),
        Figure("files that are not what was sent, chunks refused", wrong, "of all", audio_s, most=0),
        Figure(f"{WHOLE_STREAMS} quiet rooms, the whole server: CPU of the server", round(wholes["cpu_ms"], 3),
               "ms/audio s", int(wholes["audio_s"])),
        Figure("the same: CPU of the database", round(wholes["database_ms"], 3), "ms/audio s",
               int(wholes["audio_s"])),
    ]  # fmt: skip
    settings: dict[str, Any] = {
        "streams": STREAMS,
        "speed": SPEED,
        "whole_streams": WHOLE_STREAMS,
        "chunk_bytes": CHUNK_BYTES,
        "seconds": seconds,
        "rounds": rounds,
        "versions": versions(skipped),
    }
    return Result("intake", rows, settings, {"runs": runs.of, "whole": wholes}, skipped)
