"""Measure an engine offline on a folder of recordings: `python -m bench.engines FOLDER [--engine REF] [--hop-ms ...]`.

FOLDER holds `manifest.json`: a list of `{"id", "file", "text"}` where `text` is what is said (null: skipped). Each
recording is cut where it is quietest into utterances of at most 15 s, fed in pieces of 100 ms with a hypothesis at
every hop, as the pipeline does, and committed by `streaming.transcript.agreement`. Prints one JSON object per line:
the engine's own figures, then one line per commit policy.

    wer            word errors of the final hypotheses over reference words
    cpu            CPU seconds per second of audio, partials included
    final_ms       time from the end of the audio to the final
    wer_committed  word errors of the shown text, whose committed words never change
    stable_share   words committed before the final, in utterances over 3 s
    contradicted   share of committed words that the final hypothesis has otherwise

It runs the engine in its own process: no server, no worker.
"""

import argparse
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import av
import msgspec
import numpy as np

from streaming.model import SAMPLE_RATE, Hypothesis, UtteranceSpec
from streaming.ports import Pcm16
from streaming.recogniser.engine import Engine, is_window_engine, load_class
from streaming.transcript.agreement import Agreement

POCKETSPHINX = "streaming.recogniser.pocketsphinx:PocketSphinxEngine"
PIECE_SAMPLES = SAMPLE_RATE // 10
UTTERANCE_SAMPLES_MAX = 15 * SAMPLE_RATE
QUIET_SAMPLES = 300 * SAMPLE_RATE // 1000
LONG_SAMPLES = 3 * SAMPLE_RATE


class Recording(msgspec.Struct, frozen=True):
    id: str
    file: str
    text: str | None = None


class Utterance(msgspec.Struct, frozen=True):
    """`partials`: a hypothesis after every `PIECE_SAMPLES`."""

    n_samples: int
    partials: tuple[Hypothesis, ...]
    final: Hypothesis
    final_s: float


class Listened(msgspec.Struct, frozen=True):
    """What an engine heard in recordings whose words are known, by recording. `cpu_s`: of everything, partials too."""

    references: dict[str, list[str]]
    utterances: dict[str, list[Utterance]]
    cpu_s: float

    @property
    def audio_s(self) -> float:
        return sum(u.n_samples for found in self.utterances.values() for u in found) / SAMPLE_RATE

    @property
    def figures(self) -> dict[str, float]:
        """The engine's own, whatever the commit policy."""
        finals_ms = [1000 * u.final_s for found in self.utterances.values() for u in found]
        found = {key: [text(u.final) for u in utterances] for key, utterances in self.utterances.items()}
        return {
            "recordings": len(self.utterances),
            "audio_s": round(self.audio_s, 1),
            "wer": error_rate(self.references, found),
            "cpu": round(self.cpu_s / self.audio_s, 3),
            "final_ms_mean": round(float(np.mean(finals_ms)), 1),
            "final_ms_max": round(max(finals_ms), 1),
        }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.engines", description="Measure an engine offline.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", default=POCKETSPHINX)
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=JSON", help="engine argument")
    parser.add_argument("--hop-ms", type=int, nargs="+", default=[300], help="multiples of 100")
    parser.add_argument("--agreement", type=int, nargs="+", default=[2])
    parser.add_argument("--holdback", type=int, nargs="+", default=[3])
    options = parser.parse_args(arguments)
    settings = {name: json.loads(value) for name, _, value in (s.partition("=") for s in options.setting)}
    subject = load_class(options.engine)(**settings)
    if is_window_engine(subject):
        parser.error("an engine that hears whole windows commits by itself; `python -m bench captions` measures it")
    heard = listen(options.folder, cast("Engine", subject))
    emit(engine=options.engine, settings=settings, **heard.figures)
    for hop_ms, n, holdback in itertools.product(options.hop_ms, options.agreement, options.holdback):
        emit(hop_ms=hop_ms, agreement=n, holdback=holdback, **policy(heard, hop_ms, n, holdback))
    return 0


def listen(folder: Path, engine: Engine, *, seconds_max: float = math.inf) -> Listened:
    """Every recording of the folder whose words are known, in order, as many as fit into `seconds_max`."""
    recordings = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=list[Recording])
    engine.load()
    references: dict[str, list[str]] = {}
    utterances: dict[str, list[Utterance]] = {}
    cpu_s = heard_s = 0.0
    for recording in recordings:
        if recording.text is None:
            continue
        audio = read_audio(folder / recording.file)
        if heard_s + len(audio) / SAMPLE_RATE > seconds_max:
            continue
        heard_s += len(audio) / SAMPLE_RATE
        began = time.process_time()
        utterances[recording.id] = list(recognise(engine, audio))
        cpu_s += time.process_time() - began
        references[recording.id] = normalise(recording.text)
    return Listened(references, utterances, cpu_s)


def emit(**row: object) -> None:
    print(json.dumps(row), flush=True)


def read_audio(path: Path) -> Pcm16:
    """Any media file as 16 kHz mono."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
        decoded = itertools.chain(container.decode(audio=0), [None])
        pieces = [out.to_ndarray()[0] for frame in decoded for out in resampler.resample(frame)]
    return np.concatenate(pieces).astype(np.int16, copy=False)


def cut(audio: Pcm16) -> Iterator[tuple[int, Pcm16]]:
    """Utterances with their first samples: at most 15 s, cut at the quietest 300 ms of the last 6 s."""
    at = 0
    while len(audio) - at > UTTERANCE_SAMPLES_MAX:
        low, high = at + UTTERANCE_SAMPLES_MAX * 3 // 5, at + UTTERANCE_SAMPLES_MAX
        power = np.convolve(audio[low:high].astype(float) ** 2, np.ones(QUIET_SAMPLES), "valid")
        end = low + int(power.argmin()) + QUIET_SAMPLES // 2
        yield at, audio[at:end]
        at = end
    yield at, audio[at:]


def recognise(engine: Engine, audio: Pcm16) -> Iterator[Utterance]:
    """One recording as one stream: the context goes from utterance to utterance."""
    context = b""
    for start, samples in cut(audio):
        utterance = engine.begin(UtteranceSpec("bench", start, "en", context=context))
        partials = []
        for at in range(0, len(samples), PIECE_SAMPLES):
            utterance.feed(samples[at : at + PIECE_SAMPLES])
            partials.append(utterance.partial())
        ended = time.perf_counter()
        final = utterance.final()
        yield Utterance(len(samples), tuple(partials), final.hypothesis, time.perf_counter() - ended)
        context = final.context


def policy(listened: Listened, hop_ms: int, n: int, holdback: int) -> dict[str, float]:
    """Figures of one commit policy over the recorded hypotheses."""
    every = max(1, hop_ms * SAMPLE_RATE // 1000 // PIECE_SAMPLES)
    shown: dict[str, list[list[str]]] = {}
    committed = contradicted = long_words = long_stable = 0
    for key, utterances in listened.utterances.items():
        for utterance in utterances:
            agreement = Agreement(n, holdback)
            for hypothesis in utterance.partials[every - 1 :: every]:
                agreement.update(hypothesis)
            stable = [word.text for word in agreement.stable_words]
            final = text(utterance.final)
            words = [word.text for word in agreement.finish(utterance.final)]
            shown.setdefault(key, []).append(words)
            committed += len(stable)
            contradicted += min(distances(stable, final))
            if utterance.n_samples > LONG_SAMPLES:
                long_words += len(words)
                long_stable += len(stable)
    return {
        "wer_committed": error_rate(listened.references, shown),
        "stable_share": round(long_stable / max(1, long_words), 3),
        "contradicted": round(contradicted / max(1, committed), 3),
    }


def text(hypothesis: Hypothesis) -> list[str]:
    return [word.text for word in hypothesis.words]


def normalise(words: str | None) -> list[str]:
    """Lower case, letters and apostrophes only."""
    return re.sub(r"[^a-z' ]", " ", (words or "").lower().replace("mr.", "mister")).split()


def error_rate(references: dict[str, list[str]], found: dict[str, list[list[str]]]) -> float:
    errors = sum(
        distances(reference, normalise(" ".join(itertools.chain(*found.get(key, [])))))[-1]
        for key, reference in references.items()
    )
    return round(errors / sum(map(len, references.values())), 3)


def distances(ours: Sequence[str], theirs: Sequence[str]) -> list[int]:
    """Edit distance between all of `ours` and each beginning of `theirs`."""
    row = list(range(len(theirs) + 1))
    for i, our in enumerate(ours, 1):
        above, row = row, [i]
        for j, their in enumerate(theirs):
            row.append(min(above[j] + (our != their), above[j + 1] + 1, row[j] + 1))
    return row


if __name__ == "__main__":
    sys.exit(main())
