"""Captions by Whisper: one stream and many at once, and what padding costs.

Sentences drawn anew from `tests.support.corpus` (short ones may have been in the training), spoken by random voices of
espeak-ng.
The model is the tests' micro Whisper unless another folder is named: 1.6 million parameters instead of the 39 to 1,550
million of a real one. What it shows is the server, the rolling windows and the protocol around a real Whisper; the
compute and the errors of a real model it does not show.
"""

import itertools
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from bench.live import figures, raw
from bench.meter import memory_of
from bench.report import ROOT, Figure, Result
from bench.speech import Clip
from bench.streams import speak_all, warm_up
from streaming.recogniser.engine import EngineUnavailable
from streaming.recogniser.whisper import CARD, Padding, WhisperEngine, card_of, find, name_of
from tests.support import corpus, synth
from tests.support.process import ServerProcess, running

MICRO = ROOT / "tests" / "models" / "micro-whisper" / "en"
ENGINE = "whisperx"
VOICE = "espeak-ng, random voices"
PAUSES_MS = (200, 1_400)
"""Half of them are too short to end an utterance, so that many take over 3 s, which the stable share counts."""
WARM_UP_SENTENCES = 4
"""Some windows of full length: buffers that grow with the window are there before a stream's memory is measured."""
PADDED_S = 30.0
"""Whisper's window: what every model was trained on."""


def spoken(name: str, sentences: int, seed: int) -> Clip:
    """So many sentences of one random voice."""
    texts = list(itertools.islice(corpus.sentences(seed), sentences))
    said = synth.talk(texts, [synth.random_voice(Random(seed))], pauses_ms=PAUSES_MS, seed=seed)
    return Clip(name, said.audio, said.text)


def padded(model: Path, folder: Path) -> Path:
    """The same model in `folder`, with a card that pads every window as real Whisper needs it."""
    folder.mkdir()
    for path in model.iterdir():
        if path.name != CARD:
            (folder / path.name).symlink_to(path.resolve())
    card = msgspec.structs.replace(card_of(model), padding=Padding(min_s=PADDED_S))
    (folder / CARD).write_bytes(msgspec.json.encode(card))
    return folder


class Found(msgspec.Struct, frozen=True):
    """Rows, and samples behind them, of so many streams at once."""

    rows: list[Figure]
    raw: dict[str, Any]


async def measure(server: ServerProcess, count: int, sentences: int, seed: int) -> Found:
    """`count` streams at once, each with a talk of its own. Equal arguments are equal talks."""
    clips = [spoken(f"talk-{count}-{n}", sentences, seed * 10_000 + count * 100 + n) for n in range(count)]
    takes, meter = await speak_all(server, clips, seed, WhisperEngine().capabilities)
    rows = figures(takes, meter, meter.before, VOICE, count)
    return Found(rows, {**raw(takes), "cpu": msgspec.to_builtins(meter.cpu), "memory": msgspec.to_builtins(meter.peak)})


def named(name: str, rows: list[Figure], *, leave_out: tuple[str, ...] = ()) -> list[Figure]:
    kept = [row for row in rows if not row.name.startswith(leave_out)]
    return [msgspec.structs.replace(row, name=f"{name}: {row.name}") for row in kept]


async def benchmark(wanted: str, sentences: dict[int, int], seed: int) -> Result:
    """`wanted`: folder or name of a model on this machine; `sentences`: of each stream, for each number of streams at
    once. The most first: memory that grew once does not grow again, so only the first says what a stream takes."""
    if synth.PROGRAM is None:
        return Result("whisper", [], {}, {}, skipped="espeak-ng is not installed")
    try:
        model = find(wanted)
    except EngineUnavailable:
        return Result(
            "whisper", [], {}, {}, skipped="no Whisper for CTranslate2 is where --model or PARLANCE_MODEL says"
        )
    card = card_of(model)
    label = card.name or name_of(wanted, model)
    raws: dict[str, Any] = {}
    by_count: dict[int, list[Figure]] = {}
    alternative: list[Figure] = []
    with TemporaryDirectory(prefix="parlance-bench-") as folder:
        with running(Path(folder) / "data", engine=ENGINE, model=str(model)) as server:
            await warm_up(server, spoken("warm-up", WARM_UP_SENTENCES, seed))
            loaded_mib = round(memory_of(server).workers_mib, 1)
            for count in sorted(sentences, reverse=True):
                found = await measure(server, count, sentences[count], seed)
                memory = () if count == max(sentences) else ("memory",)
                name = f"{count} stream{'s' * (count > 1)}"
                by_count[count] = named(name, found.rows, leave_out=memory)
                raws[str(count)] = found.raw
        one = min(sentences)
        if card.padding.min_s < PADDED_S:
            same = padded(model, Path(folder) / "padded")
            with running(Path(folder) / "padded-data", engine=ENGINE, model=str(same)) as server:
                await warm_up(server, spoken("warm-up", 1, seed))
                found = await measure(server, one, sentences[one], seed)
                name = f"padded to 30 s, {one} stream{'s' * (one > 1)}"
                alternative = named(name, found.rows, leave_out=("memory", "CPU of the server", "CPU of the database"))
                raws["padded"] = found.raw
    rows = [row for count in sorted(by_count) for row in by_count[count]]
    rows += [Figure("memory of the recogniser with its model", loaded_mib, "MiB", 1), *alternative]
    settings = {
        "engine": ENGINE,
        "model": label,
        "model_mib": round((model / "model.bin").stat().st_size / 2**20, 1),
        "card": msgspec.to_builtins(card),
        "voice": VOICE,
        "sentences": {str(count): n for count, n in sentences.items()},
    }
    return Result("whisper", rows, settings, raws)
