"""Many streams at once with an engine that costs next to nothing: what the server itself needs for a stream.

`benchmark`: N streams of tones in real time. `searchable`: how soon a final can be found while many are committed.
`ingest`: streams in which nobody speaks.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import msgspec
from parlance_client import Client, Event

from bench import speech
from bench.cells import FINAL_P50_MS, WORD_P50_MS, WORD_P95_MS
from bench.live import Listener, ignore, open_stream, speak
from bench.meter import Meter, metered
from bench.metrics import Take, final_delays, flat, word_delays
from bench.report import Figure, Result, percentiles
from bench.speech import Clip, Cut, Said
from streaming.model import Capabilities
from streaming.recogniser.pocketsphinx import PocketSphinxEngine
from tests.fakes.tones import ToneEngine, random_sentences, talk
from tests.support.process import ServerProcess

SEARCHABLE_P95_MS = 500
"""The promise of ARCHITECTURE.md, while 50 segments/s arrive."""
SHORT_MS = 200
"""Silence after one-word sentences."""
SHORT_ENDPOINTING_MS = 100
STREAMS_FOR_50_PER_S = 28
"""A word of 5 letters and its silence take 0.48 s, so a stream makes 1.9 segments a second, less its beginning."""
PROBE_PAUSE_S = 0.01
WARM_UP_S = 3
"""Heard before the measurement: the detector's model and a decoder are loaded once, whatever the streams."""
"""Between two looks for a segment that was not found."""


def tone_clip(seed: int, seconds: float) -> tuple[Clip, list[str]]:
    """Sentences of three to nine words for about so long, and what they say."""
    sentences = random_sentences(seed, 2 + int(seconds))
    count = 1
    while count < len(sentences) and len(talk(sentences[: count + 1]).audio) <= seconds * 16_000:
        count += 1
    said = talk(sentences[:count])
    words = tuple(Said(word.text, word.start_ms, word.end_ms) for sentence in said.sentences for word in sentence)
    return Clip(f"tones-{seed}", said.audio, " ".join(said.texts), words), said.texts


async def speak_all(
    server: ServerProcess,
    clips: list[Clip],
    seed: int,
    capabilities: Capabilities,
    *,
    endpointing_ms: int | None = None,
    listen: Listener = ignore,
) -> tuple[list[Take], Meter]:
    """All clips at once, each from a connection of its own, begun within one second."""
    account = await server.account("bench")
    draw = Random(seed)
    cuts = [speech.cuts(clip.audio, capabilities, endpointing_ms) for clip in clips]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(server.url, account.token)) for _ in clips]
        meter = await stack.enter_async_context(metered(server))

        async def one(client: Client, clip: Clip, found: list[Cut]) -> Take:
            await asyncio.sleep(draw.random())
            return await say(client, clip, found, endpointing_ms=endpointing_ms, listen=listen)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*each)) for each in zip(clients, clips, cuts, strict=True)]
    return [task.result() for task in tasks], meter


async def say(
    client: Client, clip: Clip, cuts: list[Cut], *, endpointing_ms: int | None = None, listen: Listener = ignore
) -> Take:
    """Open a stream and speak. Raises RuntimeError when the server takes none."""
    opened = await open_stream(client, clip, endpointing_ms=endpointing_ms)
    if isinstance(opened, str):
        raise RuntimeError(f"the server took no stream: {opened}")  # noqa: TRY004 - the code is the answer
    return await speak(opened, clip, cuts, listen=listen)


async def warm_up(server: ServerProcess, clip: Clip) -> None:
    """One stream before the measurement: what is loaded and allocated once is not a stream's."""
    async with Client(server.url, (await server.account("bench")).token) as client:
        await say(client, clip, [])


async def benchmark(server: ServerProcess, counts: tuple[int, ...], seconds: float, seed: int) -> Result:
    """N streams of tones for each N of `counts`, the most first: memory that grew once does not grow again."""
    await warm_up(server, tone_clip(seed, WARM_UP_S)[0])
    rows: list[Figure] = []
    raw: dict[str, Any] = {}
    most = max(counts)
    for count in sorted(counts, reverse=True):
        spoken = [tone_clip(seed * 1_000 + count * 100 + n, seconds) for n in range(count)]
        began, mine = time.perf_counter(), time.process_time()
        takes, meter = await speak_all(server, [clip for clip, _ in spoken], seed, ToneEngine().capabilities)
        own = (time.process_time() - mine) / (time.perf_counter() - began)
        audio_s = sum(take.clip.seconds for take in takes)
        wrong = sum(
            texts != [final.body["text"] for final in take.finals]
            for take, (_, texts) in zip(takes, spoken, strict=True)
        )
        name = f"{count} stream{'s' * (count > 1)}"
        words, finals = flat(word_delays, takes), flat(final_delays, takes)
        rows += [
            *percentiles(f"{name}: word after it was spoken", words, "ms", p50_most=WORD_P50_MS, p95_most=WORD_P95_MS),
            *percentiles(f"{name}: final after its endpoint", finals, "ms", p50_most=FINAL_P50_MS),
            Figure(f"{name}: CPU of the server", round(meter.cpu.server_s / audio_s, 4), "s/audio s", count),
            Figure(f"{name}: CPU of the database", round(meter.cpu.database_s / audio_s, 4), "s/audio s", count),
            Figure(f"{name}: transcripts not as spoken", wrong, "streams", count, most=0),
        ]
        if count == most:
            growth = round(meter.growth.server_mib / count, 2)
            rows.append(Figure(f"{name}: memory of the server, growth", growth, "MiB/stream", count))
        raw[str(count)] = {
            "audio_s": round(audio_s, 1),
            "word_ms": rounded(words),
            "final_ms": rounded(finals),
            "cpu": msgspec.to_builtins(meter.cpu),
            "bench_cpu_share_of_a_core": round(own, 3),
        }
    return Result("tones", rows, {"engine": "tones", "seconds": seconds, "counts": list(counts)}, raw)


def rounded(values: list[float]) -> list[float]:
    return [round(value, 1) for value in values]


class Probe:
    """Asks for the newest final again and again until it is found, then takes the then newest."""

    def __init__(self) -> None:
        self.delays_ms: list[float] = []
        self.finals = 0
        self._newest: tuple[float, Event] | None = None
        self._arrived = asyncio.Event()

    def listen(self, at: float, event: Event) -> None:
        if event.name == "transcript:final":
            self.finals += 1
            self._newest = at, event
            self._arrived.set()

    async def run(self, client: Client) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            assert self._newest is not None
            at, event = self._newest
            while not await self._found(client, event):  # noqa: ASYNC110 - the index tells nobody
                await asyncio.sleep(PROBE_PAUSE_S)
            self.delays_ms.append((time.perf_counter() - at) * 1_000)

    async def _found(self, client: Client, event: Event) -> bool:
        found = False
        async for answer in client.search(event.body["text"], mode="keyword", sort="newest"):
            found = found or any(hit.segment_id == event.body["segment_id"] for hit in answer.hits)
        return found


async def searchable(server: ServerProcess, streams: int, seconds: float, seed: int) -> Result:
    """Streams of one-word sentences; `Probe` looks for their words from a connection of its own."""
    clips = []
    for n in range(streams):
        words = random_sentences(seed * 1_000 + n, int(seconds / 0.4), words=(1, 1))
        audio = talk(words, silence_ms=SHORT_MS).audio[: int(seconds * 16_000)]
        clips.append(Clip(f"words-{n}", audio, None))
    probe = Probe()
    account = await server.account("bench")
    began = time.perf_counter()
    async with Client(server.url, account.token) as client, asyncio.TaskGroup() as group:
        probing = group.create_task(probe.run(client))
        _, meter = await speak_all(
            server, clips, seed, ToneEngine().capabilities, endpointing_ms=SHORT_ENDPOINTING_MS,
            listen=probe.listen,
        )  # fmt: skip
        took_s = time.perf_counter() - began
        probing.cancel()
    rows = [
        *percentiles("final to its search hit", probe.delays_ms, "ms", p95_most=SEARCHABLE_P95_MS),
        Figure("finals while that was measured", round(probe.finals / took_s, 1), "1/s", probe.finals),
        Figure(
            "CPU of the server", round(1_000 * meter.cpu.server_s / max(1, probe.finals), 2), "ms/final", probe.finals
        ),
        Figure(
            "CPU of the database",
            round(1_000 * meter.cpu.database_s / max(1, probe.finals), 2),
            "ms/final",
            probe.finals,
        ),
    ]
    settings = {"engine": "tones", "streams": streams, "seconds": seconds}
    return Result("searchable", rows, settings, {"hit_ms": rounded(probe.delays_ms)})


async def ingest(server: ServerProcess, streams: int, seconds: float, seed: int) -> Result:
    """Quiet rooms before the voice detector: receiving, keeping, decoding and gating audio, and nothing else."""
    clips = [Clip(f"room-{n}", speech.quiet(int(seconds * 1_000), seed + n), None) for n in range(streams)]
    await warm_up(server, Clip("warm-up", speech.quiet(WARM_UP_S * 1_000, seed), None))
    takes, meter = await speak_all(server, clips, seed, PocketSphinxEngine().capabilities)
    audio_s = sum(take.clip.seconds for take in takes)
    finals = sum(len(take.finals) for take in takes)
    rows = [
        Figure("CPU of the server", round(meter.cpu.server_s / audio_s, 5), "s/audio s", streams),
        Figure("CPU of the database", round(meter.cpu.database_s / audio_s, 5), "s/audio s", streams),
        Figure("memory of the server, growth", round(meter.growth.server_mib / streams, 2), "MiB/stream", streams),
        Figure("words heard in silence", finals, "finals", streams, most=0),
    ]
    settings = {"engine": "pocketsphinx", "streams": streams, "seconds": seconds}
    return Result("ingest", rows, settings, {"cpu": msgspec.to_builtins(meter.cpu)})
