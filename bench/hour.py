"""An hour of talk in one stream, eight times as fast as it is spoken: what grows, and what is missing in the end.

Voices change every two minutes. Memory is read twice a second, which is every four seconds of talk; after
`SETTLED_MINUTES` it should be flat: the medians of the ten minutes that follow and of the last ten are compared, so
that neither a moment's buffer nor the collector's rhythm counts.
"""

import asyncio
import time
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import msgspec

from bench import metrics, speech
from bench.captions import WARM_UP_S, say
from bench.load import speak_all
from bench.meter import Memory, memory_of
from bench.report import Figure, Result
from bench.setups import WER_MOST, WHISPER
from bench.speech import Clip
from streaming.recogniser.engine import EngineUnavailable
from streaming.recogniser.place import find
from streaming.recogniser.whisper import WhisperEngine
from tests.support.process import ServerProcess, running

PACE = 8.0
SAMPLE_S = 0.5
VOICE_S = 120.0
SETTLED_MINUTES, WINDOW_MINUTES = 10, 10
GROWTH_MIB_MOST = 8.0
"""Between the two medians: an hour's numbers of events and words, kept by mistake, would be more than that."""


class Sample(msgspec.Struct, frozen=True):
    """`minute`: of the talk."""

    minute: float
    memory: Memory


def hour_of(speaker: speech.Speaker, seconds: float, seed: int) -> Clip:
    """Talks of `VOICE_S` by random voices, one after the other, for at least so long."""
    talks = (speaker.talk("part", min(VOICE_S, seconds), seed * 1_000 + n) for n in count())
    spoken = 0.0
    parts = []
    for part in talks:
        parts.append(part)
        spoken += part.seconds
        if spoken >= seconds:
            break
    return speech.joined("hour", parts)


def growth(samples: list[Sample]) -> tuple[Memory, Memory] | None:
    """Medians of the window after `SETTLED_MINUTES` and of the last one; of a shorter talk, of its second and its last
    fifth. None without samples there."""
    if not samples:
        return None
    end = samples[-1].minute
    settled, window = (SETTLED_MINUTES, WINDOW_MINUTES) if end >= 3 * SETTLED_MINUTES else (end / 5, end / 5)
    first = [s.memory for s in samples if settled <= s.minute < settled + window]
    last = [s.memory for s in samples if s.minute >= end - window]
    if not first or not last:
        return None
    return _median(first), _median(last)


def _median(memories: list[Memory]) -> Memory:
    return Memory(median(m.server_mib for m in memories), median(m.workers_mib for m in memories))


async def watch(server: ServerProcess, samples: list[Sample]) -> None:
    """Until cancelled."""
    began = time.perf_counter()
    while True:
        samples.append(Sample((time.perf_counter() - began) * PACE / 60, memory_of(server)))
        if len(samples) % 120 == 0:
            newest = samples[-1]
            say(f"minute {newest.minute:.0f}: server {newest.memory.server_mib:.0f} MiB, "
                f"recogniser {newest.memory.workers_mib:.0f} MiB")  # fmt: skip
        await asyncio.sleep(SAMPLE_S)


async def benchmark(model_name: str, seconds: float, seed: int) -> Result:
    """`seconds` of talk."""
    try:
        model = find(model_name)
        speaker = speech.Speaker()
    except (EngineUnavailable, FileNotFoundError) as error:
        return Result("hour", [], {}, {}, skipped=" ".join(str(error).split()))
    clip = await asyncio.to_thread(hour_of, speaker, seconds, seed)
    cuts = await asyncio.to_thread(speech.cuts, clip.audio, WhisperEngine().capabilities)
    samples: list[Sample] = []
    with (
        TemporaryDirectory(prefix="parlance-bench-") as folder,
        running(Path(folder) / "data", engine=WHISPER, model=str(model)) as server,
    ):
        await speak_all(server, [(speaker.talk("warm-up", WARM_UP_S, seed), [])], seed=seed)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(server, samples))
            found = await speak_all(server, [(clip, cuts)], seed=seed, pace=PACE)
            watching.cancel()
    return result_of(found.takes[0], samples, {"seconds": round(clip.seconds, 1), "pace": PACE, "seed": seed})


def result_of(take: metrics.Take, samples: list[Sample], settings: dict[str, float]) -> Result:
    errors, said = metrics.word_errors([take])
    broken = metrics.violations(take)
    missing = metrics.incomplete(take)
    rows = [
        Figure("word error rate", round(errors / max(1, said), 4), "share", said, most=WER_MOST),
        Figure("captions against the rules", len(broken), "events", len(take.heard), most=0),
        Figure("utterances and ends missing", len(missing), "", len(take.cuts), most=0),
        Figure("audio dropped", metrics.dropped_s(take), "s", 1, most=0),
        Figure("behind at worst", take.lag_ms, "ms", 1),
    ]
    grown = growth(samples)
    if grown is not None:
        first, last = grown
        for whose, before, after in (
            ("server", first.server_mib, last.server_mib),
            ("recogniser", first.workers_mib, last.workers_mib),
        ):
            more = round(after - before, 2)
            rows.append(Figure(f"memory of the {whose}, growth after ten minutes", more, "MiB", len(samples),
                               most=GROWTH_MIB_MOST))  # fmt: skip
            rows.append(Figure(f"memory of the {whose}, at the end", round(after, 1), "MiB", len(samples)))
    raw = {
        "broken": broken,
        "missing": missing,
        "memory": [
            [round(s.minute, 2), round(s.memory.server_mib, 1), round(s.memory.workers_mib, 1)] for s in samples
        ],
    }
    return Result("hour", rows, settings, raw)
