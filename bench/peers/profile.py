"""Where the time goes between the end of a word and its place on the screen: one stream of ours, stage by stage.

    .venv/bin/python -m bench.peers.profile [micro|tiny.en] [SECONDS]

The engine is ours with a stopwatch: its worker writes down when each decode began and ended, how long the model
encoded, wrote and aligned, and how much of the utterance it heard. Worker and client read one clock. For every word the
event that first shows it is matched with the decode that ended last before it.

Policy: nothing is changed in the engine; the stopwatch costs a line to a file with each decode. With one stream alone
there is one window to a decode, so nobody's time is told as somebody else's.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import ctranslate2
import msgspec
import numpy as np
import uvloop
from parlance_client import Client

from bench import metrics, shapes, speech
from bench.captions import MICRO, WARM_UP_S, passed_on
from bench.live import open_stream, speak
from bench.metrics import Spotted, Take
from bench.mirror import mirrored
from streaming.recogniser.engine import Heard, Window
from streaming.recogniser.whisper import WhisperEngine
from tests.support.process import running

LOG = "decodes.jsonl"
PARTS = ("encode", "generate", "align")
STAGES = ("more audio", "way there, queue", *PARTS, "rest of the decode", "way back")
SEED = 10_000


class Decode(msgspec.Struct, frozen=True):
    """Clock of `time.monotonic`. `samples`: of the utterance that the window has heard."""

    began: float
    ended: float
    samples: int
    parts: dict[str, float]


class Stopwatch:
    """Stands for a `ctranslate2.models.Whisper` and counts the seconds of what costs something."""

    def __init__(self, model: Any, spent: dict[str, float]) -> None:
        self._model = model
        self._spent = spent

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if name not in PARTS:
            return found

        def measured(*given: Any, **options: Any) -> Any:
            began = time.monotonic()
            try:
                return found(*given, **options)
            finally:
                self._spent[name] = self._spent.get(name, 0.0) + time.monotonic() - began

        return measured


class Watched(WhisperEngine):
    """Writes `LOG` into the folder of its model."""

    SHAPE: ClassVar[str | None] = None

    def load(self) -> None:
        self._spent: dict[str, float] = {}
        with mirrored(shapes.folder_of(self.SHAPE) if self.SHAPE else None), self._watching():
            super().load()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        real = ctranslate2.models.Whisper
        ctranslate2.models.Whisper = lambda *given, **options: Stopwatch(real(*given, **options), self._spent)
        try:
            yield
        finally:
            ctranslate2.models.Whisper = real

    def decode(self, windows: Sequence[Window]) -> list[Heard]:
        self._spent.clear()
        began = time.monotonic()
        heard = super().decode(windows)
        line = Decode(began, time.monotonic(), len(windows[0].audio), dict(self._spent))
        with (Path(os.environ["PARLANCE_MODEL"]) / LOG).open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
        return heard


class WatchedTinyEn(Watched):
    SHAPE = "tiny.en"


ENGINES = {"micro": "bench.peers.profile:Watched", "tiny.en": "bench.peers.profile:WatchedTinyEn"}


def stages_of(take: Take, began: float, decodes: Sequence[Decode], *, confirmed: bool) -> dict[str, list[float]]:
    """Milliseconds of each stage, word by word. `began`: the stream's beginning on the clock of the decodes;
    `confirmed`: until the word is stable, not until it is first shown. Pure."""
    found: dict[str, list[float]] = {stage: [] for stage in STAGES}
    words = metrics.correct_words(take)
    delays = metrics.commit_delays(take) if confirmed else metrics.word_delays(take)
    for word, delay in zip(words, delays, strict=True):
        told = _stages(take, word, delay, began, decodes)
        for stage, ms in (told or {}).items():
            found[stage].append(ms)
    return found


def _stages(
    take: Take, word: Spotted, delay: float, began: float, decodes: Sequence[Decode]
) -> dict[str, float] | None:
    cut = metrics.cut_of(take, word.final)
    shown_at = began + (word.end_ms + delay) / 1_000
    decode = next((one for one in reversed(decodes) if one.ended <= shown_at), None)
    if cut is None or decode is None:
        return None
    heard_ms = metrics.ms(cut.begin + decode.samples)
    parts = {name: 1_000 * decode.parts.get(name, 0.0) for name in PARTS}
    return {
        "more audio": heard_ms - word.end_ms,
        "way there, queue": 1_000 * (decode.began - began) - heard_ms,
        **parts,
        "rest of the decode": 1_000 * (decode.ended - decode.began) - sum(parts.values()),
        "way back": 1_000 * (shown_at - decode.ended),
    }


async def measure(shape: str, seconds: float) -> tuple[Take, float, list[Decode]]:
    speaker = speech.Speaker()
    engine = Watched(str(MICRO))
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as name:
        folder = Path(name)
        model = folder / "model"
        model.mkdir()
        for path in MICRO.iterdir():
            (model / path.name).symlink_to(path)
        with running(folder / "data", engine=ENGINES[shape], model=str(model), **passed_on()) as server:
            account = await server.account("bench")
            async with Client(server.url, account.token, client="bench") as client:
                await _spoken(client, speaker.talk("warm-up", WARM_UP_S, SEED), engine)
                (model / LOG).unlink()
                take, began = await _spoken(client, speaker.talk("talk", seconds, SEED + 1), engine)
        lines = (model / LOG).read_bytes().splitlines()
    return take, began, [msgspec.json.decode(line, type=Decode) for line in lines]


async def _spoken(client: Client, clip: speech.Clip, engine: WhisperEngine) -> tuple[Take, float]:
    heard_at: list[float] = []
    opened = await open_stream(client, clip, patience_s=30)
    assert not isinstance(opened, str), opened
    cuts = speech.cuts(clip.audio, engine.capabilities)
    take = await speak(opened, clip, cuts, listen=lambda at, _: heard_at.append(at))
    return take, heard_at[0] - take.heard[0].at_ms / 1_000


def table(take: Take, began: float, decodes: Sequence[Decode]) -> str:
    """Of words shown and of words confirmed: every stage, and their sum."""
    lines = []
    for what, confirmed in (("first shown", False), ("confirmed", True)):
        stages = stages_of(take, began, decodes, confirmed=confirmed)
        whole = [sum(parts) for parts in zip(*stages.values(), strict=True)]
        lines.append(f"{what}: {len(whole)} words, ms: mean, p50, p95")
        for stage, values in [*stages.items(), ("all", whole)]:
            p50, p95 = np.percentile(values, [50, 95])
            lines.append(f"  {stage:20} {np.mean(values):7.0f} {p50:7.0f} {p95:7.0f}")
    return "\n".join(lines)


def main(given: Sequence[str]) -> None:
    shape = given[0] if given else "micro"
    if shape in shapes.SHAPES:
        shapes.make(shape)
    take, began, decodes = uvloop.run(measure(shape, float(given[1]) if len(given) > 1 else 40.0))
    print(f"{shape}: {len(decodes)} decodes in {take.clip.seconds:.0f} s")
    print(table(take, began, decodes))


if __name__ == "__main__":
    main(sys.argv[1:])
