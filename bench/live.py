"""Live captions through a real server: audio goes in as fast as it is spoken, events are timed as they arrive.

The clock of a stream starts with its audio: what stands at second 3 of the clip was spoken at second 3, and leaves in
the piece of `PIECE_MS` that ends at or after it. A latency therefore counts what a speaker would see, the client's
piece, the network and the server included.

`benchmark` measures captions of one stream at a time with any engine; `bench.streams` uses the same takes with tones,
`bench.whisper` for many streams at once.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from parlance_client import Client, Event

from bench import speech
from bench.engines import error_rate, normalise
from bench.meter import Memory, Meter, memory_of, metered
from bench.report import Figure, Result, percentiles
from bench.speech import Clip, Cut
from streaming.audio.endpoint import EndReason
from streaming.model import SAMPLE_RATE, Capabilities
from tests.support.process import ServerProcess

PIECE_MS = 100
PIECE = SAMPLE_RATE * PIECE_MS // 1000
LONG_MS = 3_000
HANG_S = 60.0
WARM_UP_S = 3
"""Heard before the measurement: the detector's model and a decoder are loaded once, whatever the streams."""
FINAL_P50_MS, WORD_P50_MS, WORD_P95_MS, STABLE_LEAST = 300, 500, 1_000, 0.7
"""The promises of ARCHITECTURE.md."""

CAPTIONS = ("transcript:partial", "transcript:final")

Listener = Callable[[float, Event], None]


class Heard(msgspec.Struct, frozen=True):
    """An event and when it came, in milliseconds of the stream's clock."""

    at_ms: float
    name: str
    body: dict[str, Any]

    @property
    def words(self) -> list[str]:
        """The words that it shows."""
        shown = self.body["text"] if self.name == "transcript:final" else self.body["stable"] + self.body["unstable"]
        return [plain(word) for word in str(shown).split()]


def plain(word: str) -> str:
    """Without case and punctuation: "Today" is on the screen when "today." is to come."""
    return word.lower().strip(".,!?;:")


class Take(msgspec.Struct, frozen=True):
    """One clip through the server, and the utterances that it has."""

    clip: Clip
    cuts: list[Cut]
    heard: list[Heard]

    @property
    def finals(self) -> list[Heard]:
        return [h for h in self.heard if h.name == "transcript:final"]


def ignore(_at: float, _event: Event) -> None:
    """No listener."""


async def speak(
    client: Client,
    clip: Clip,
    cuts: list[Cut],
    *,
    endpointing_ms: int | None = None,
    delay_s: float = 0.0,
    listen: Listener = ignore,
) -> Take:
    """Stream the clip, whose utterances are `cuts`, in real time, `delay_s` from now on.

    `listen` gets every event of it with its arrival (`time.perf_counter`)."""
    heard: list[Heard] = []
    await asyncio.sleep(delay_s)
    events = client.events()
    stream = await client.record(title=clip.id, endpointing_ms=endpointing_ms)
    await client.join(stream.room)
    began = time.perf_counter()

    async def follow() -> None:
        async for event in events:
            now = time.perf_counter()
            if event.room != stream.room:
                continue
            listen(now, event)
            heard.append(Heard((now - began) * 1_000, event.name, event.body))
            if event.name == "recording:ended":
                return

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        for at in range(0, len(clip.audio), PIECE):
            piece = clip.audio[at : at + PIECE]
            spoken_s = (at + len(piece)) / SAMPLE_RATE
            await asyncio.sleep(max(0.0, began + spoken_s - time.perf_counter()))
            await stream.send(piece.tobytes())
        await stream.stop()
        async with asyncio.timeout(HANG_S):
            await following
    events.close()
    return Take(clip, cuts, heard)


def ms(sample: int) -> float:
    return sample * 1_000 / SAMPLE_RATE


def final_delays(take: Take) -> list[float]:
    """From the endpoint to the final, for utterances that ended by their silence."""
    delays = []
    for final in take.finals:
        middle = (final.body["start_ms"] + final.body["end_ms"]) / 2
        cut = next((c for c in take.cuts if ms(c.begin) <= middle < ms(c.end)), None)
        if cut is not None and cut.reason is EndReason.SILENCE:
            delays.append(final.at_ms - ms(cut.decided))
    return delays


def first_delays(take: Take) -> list[float]:
    """From the beginning of speech to the first text on the screen."""
    delays = []
    for cut in take.cuts:
        shown = (h for h in take.heard if h.name == "transcript:partial" and h.words)
        first = next((h for h in shown if int(ms(cut.begin)) <= h.body["start_ms"] < ms(cut.end)), None)
        if cut.heard is not None and first is not None:
            delays.append(first.at_ms - ms(cut.heard))
    return delays


def word_delays(take: Take) -> list[float]:
    """From the end of each word of the finals to the first event of its segment that shows it; the second "the" of a
    final is shown where two of them are."""
    delays = []
    for final in take.finals:
        shown = [(h.at_ms, Counter(h.words)) for h in captions_of(take, final)]
        so_far: Counter[str] = Counter()
        for word in final.body["words"]:
            text = plain(word["w"])
            so_far[text] += 1
            first_ms = next(at_ms for at_ms, words in shown if words[text] >= so_far[text])
            delays.append(first_ms - word["end_ms"])
    return delays


def captions_of(take: Take, final: Heard) -> list[Heard]:
    """The partials of a final's segment, and the final."""
    names = ("transcript:partial", "transcript:final")
    return [h for h in take.heard if h.name in names and h.body["segment_id"] == final.body["segment_id"]]


def stable_words(take: Take) -> tuple[int, int]:
    """Words that were stable before their final, and all words, in utterances over `LONG_MS`."""
    stable = words = 0
    for final in take.finals:
        if final.body["end_ms"] - final.body["start_ms"] <= LONG_MS:
            continue
        partials = [h for h in captions_of(take, final) if h is not final]
        words += len(final.words)
        stable += len(partials[-1].body["stable"].split()) if partials else 0
    return stable, words


def violations(take: Take) -> int:
    """Events against the promise of captions: stable text that is not continued by the next partial or by the final,
    and captions of a segment after its final."""
    stable: dict[str, str] = {}
    ended: set[str] = set()
    found = 0
    for event in take.heard:
        if event.name not in CAPTIONS:
            continue
        segment = event.body["segment_id"]
        text = event.body["text" if event.name == "transcript:final" else "stable"]
        found += segment in ended or not continues(text, stable.get(segment, ""))
        stable[segment] = text
        if event.name == "transcript:final":
            ended.add(segment)
    return found


def continues(text: str, stable: str) -> bool:
    """Whether `text` begins with the whole words of `stable`."""
    return text.split()[: len(stable.split())] == stable.split()


def word_errors(takes: list[Take]) -> float | None:
    """Word errors of the finals over reference words; None without a reference."""
    references = {take.clip.id: normalise(take.clip.text) for take in takes if take.clip.text}
    found = {take.clip.id: [final.words for final in take.finals] for take in takes}
    return error_rate(references, found) if references else None


def figures(takes: list[Take], meter: Meter, idle: Memory, voice: str, streams: int = 1) -> list[Figure]:
    """The table's rows for takes of so many streams at once. `idle`: before what a stream makes grow."""
    audio_s = sum(take.clip.seconds for take in takes)
    stable, words = (sum(column) for column in zip(*map(stable_words, takes), strict=True))
    errors = word_errors(takes)
    said = sum(len(normalise(take.clip.text)) for take in takes)
    decoder_mib = (meter.peak.workers_mib - idle.workers_mib) / streams
    rows = [
        *percentiles("first caption after speech begins", flat(first_delays, takes), "ms"),
        *percentiles("word after it was spoken", flat(word_delays, takes), "ms",
                     p50_most=WORD_P50_MS, p95_most=WORD_P95_MS),
        *percentiles("final after its endpoint", flat(final_delays, takes), "ms", p50_most=FINAL_P50_MS),
    ]  # fmt: skip
    if words:
        share = round(stable / words, 3)
        rows.append(Figure("words stable before the final", share, "share", words, least=STABLE_LEAST))
    if errors is not None:
        rows.append(Figure(f"word error rate, {voice}", errors, "share", said))
    captions = sum(h.name in CAPTIONS for take in takes for h in take.heard)
    return [
        *rows,
        Figure("captions against the rules", sum(map(violations, takes)), "events", captions, most=0),
        Figure("CPU of the server", round(meter.cpu.server_s / audio_s, 4), "s/audio s", len(takes)),
        Figure("CPU of the recogniser", round(meter.cpu.workers_s / audio_s, 4), "s/audio s", len(takes)),
        Figure("CPU of the database", round(meter.cpu.database_s / audio_s, 4), "s/audio s", len(takes)),
        Figure("memory of the server, growth", round(meter.growth.server_mib / streams, 1), "MiB/stream", streams),
        Figure("memory of the recogniser, growth", round(decoder_mib, 1), "MiB/stream", streams),
    ]


def flat(measure: Callable[[Take], list[float]], takes: list[Take]) -> list[float]:
    return [value for take in takes for value in measure(take)]


def raw(takes: list[Take]) -> dict[str, Any]:
    return {
        "clips": [{"id": take.clip.id, "seconds": round(take.clip.seconds, 2)} for take in takes],
        "first_ms": rounded(flat(first_delays, takes)),
        "word_ms": rounded(flat(word_delays, takes)),
        "final_ms": rounded(flat(final_delays, takes)),
    }


def rounded(values: list[float]) -> list[float]:
    return [round(value, 1) for value in values]


async def benchmark(server: ServerProcess, clips: list[Clip], voice: str, capabilities: Capabilities) -> Result:
    """Captions of one stream at a time. `voice`: whose voice it is, for the file; `capabilities`: of the server's
    engine."""
    account = await server.account("bench")
    prepared = [(clip, speech.cuts(clip.audio, capabilities)) for clip in clips]
    idle = memory_of(server)
    async with Client(server.url, account.token, client="bench") as client:
        await speak(client, Clip("warm-up", clips[0].audio[: WARM_UP_S * SAMPLE_RATE], None), [])
        async with metered(server) as meter:
            takes = [await speak(client, clip, cuts) for clip, cuts in prepared]
    settings = {"engine": capabilities.name, "voice": voice, "streams": 1, "piece_ms": PIECE_MS}
    return Result("captions", figures(takes, meter, idle, voice), settings, raw(takes))
