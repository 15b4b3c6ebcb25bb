"""Measures a micro Whisper as its README says it: on voices and sentences that no training heard.

From the repository, where Parlance is installed, with espeak-ng:

    PYTHONPATH=. python tests/models/micro-whisper/measure.py FOLDER [--count 100] [--only plain,long]

Through `WhisperEngine`, as a worker drives it: `plain` and what follows it are one final window a sentence; `rolling`
names come with partials every 480 ms. `single` windows go through faster-whisper. A row is errors / words.
"""

import argparse
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
from faster_whisper import WhisperModel

from bench.encodings import Sent, encoded, pieces
from streaming.audio.decode import decoder_for
from streaming.model import SAMPLE_RATE, Encoding, UtteranceSpec
from streaming.ports import Pcm16
from streaming.recogniser.card import ModelCard, Padding, card_of
from streaming.recogniser.engine import Window
from streaming.recogniser.whisper import WhisperEngine
from tests.support import corpus, corpus_de
from tests.support.espeak import Espeak
from tests.support.synth import Voice, random_voice, say

log = logging.getLogger("measure")

HOP = 7_680
VARIANTS = ("+m4", "+m8", "+f3", "+f5")
SEED = 41_000


class Case(NamedTuple):
    audio: Pcm16
    text: str


def voice_of(rng: random.Random, language: str) -> Voice:
    base = "de" if language == "de" else rng.choice(("en-us", "en"))
    voice = random_voice(rng)
    return Voice(base + rng.choice(VARIANTS), voice.speed, voice.pitch, voice.level)


def spoken(texts: list[str], voice: Voice, pause_ms: int = 0, lead: int = 4_800, tail: int = 9_600) -> Case:
    """The sentences one after the other with a little noise over all."""
    gap = np.zeros(pause_ms * 16, np.int16)
    parts = [part for text in texts for part in (gap, say(text, voice))][1:]
    audio = np.concatenate([np.zeros(lead, np.int16), *parts, np.zeros(tail, np.int16)])
    noise = np.random.default_rng(len(audio)).standard_normal(len(audio)) * 32_768 * 10 ** (-70 / 20)
    return Case(np.clip(audio + noise, -32_768, 32_767).astype(np.int16), " ".join(texts))


def plain(count: int, language: str = "en", seed: int = SEED) -> Iterator[Case]:
    rng = random.Random(seed)
    source = corpus_de if language == "de" else corpus
    for text in itertools.islice(source.sentences(seed, words_min=3), count):
        yield spoken([text], voice_of(rng, language))


def salad(count: int) -> Iterator[Case]:
    rng = random.Random(SEED + 1)
    words = sorted(corpus.WORDS - {"to", "for"})
    for _ in range(count):
        text = " ".join(rng.sample(words, rng.randint(3, 8)))
        yield spoken([text[0].upper() + text[1:] + "."], voice_of(rng, "en"))


def long(count: int, pause_ms: int = 0, language: str = "en") -> Iterator[Case]:
    """Utterances of 20 to 28 s."""
    rng = random.Random(SEED + 2)
    texts = (corpus_de if language == "de" else corpus).sentences(SEED + 2)
    for _ in range(count):
        voice, seconds = voice_of(rng, language), rng.uniform(20, 27)
        chosen: list[str] = []
        case: Case | None = None
        while case is None or len(case.audio) < seconds * SAMPLE_RATE:
            chosen.append(next(texts))
            case = spoken(chosen, voice, pause_ms)
        yield case if len(case.audio) < 28.5 * SAMPLE_RATE else spoken(chosen[:-1], voice, pause_ms)


def noisy(snr_db: float) -> Callable[[Pcm16], Pcm16]:
    def add(audio: Pcm16) -> Pcm16:
        x = audio.astype(np.float32)
        loud = x[np.abs(x) > 0.01 * np.abs(x).max()]
        noise = np.random.default_rng(len(x)).standard_normal(len(x)) * np.sqrt(np.mean(loud**2)) / 10 ** (snr_db / 20)
        return np.clip(x + noise, -32_768, 32_767).astype(np.int16)

    return add


def sent(encoding: Encoding, rate: int) -> Callable[[Pcm16], Pcm16]:
    """As a microphone encodes it and the server decodes it."""
    how = Sent(encoding, rate, 1, "")

    def change(audio: Pcm16) -> Pcm16:
        decoder = decoder_for(how.format)
        parts = [decoder.feed(piece) for piece in pieces(encoded(audio, how), len(audio), how)]
        return np.concatenate([*parts, decoder.finish()])

    return change


class Heard(NamedTuple):
    text: str
    language: str
    starts_ms: list[int]


class Ear:
    """The engine, and faster-whisper, on one model."""

    def __init__(self, folder: Path, card: ModelCard | None = None) -> None:
        self.engine = WhisperEngine(str(folder), card or card_of(folder))
        self.engine.load()
        self.direct = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)

    def final(self, audio: Pcm16, language: str = "en", task: str = "transcribe") -> Heard:
        spec = UtteranceSpec("u", 0, language, task=task)
        return self._heard(self.engine.decode([Window(spec, audio, True)])[0].hypothesis)

    def rolling(self, audio: Pcm16, language: str = "en") -> Heard:
        spec, memory = UtteranceSpec("u", 0, language), None
        for end in range(HOP, len(audio), HOP):
            memory = self.engine.decode([Window(spec, audio[:end], False, memory)])[0].memory
        return self._heard(self.engine.decode([Window(spec, audio, True, memory)])[0].hypothesis)

    def single(self, audio: Pcm16, **options: Any) -> str:
        settings = {
            "beam_size": 1,
            "temperature": 0.0,
            "language": "en",
            "condition_on_previous_text": False,
            **options,
        }
        segments, _ = self.direct.transcribe(audio.astype(np.float32) / 32_768, **settings)
        return " ".join(segment.text.strip() for segment in segments)

    def _heard(self, hypothesis: Any) -> Heard:
        words = hypothesis.words
        return Heard(" ".join(w.text for w in words), hypothesis.language, [w.start_ms for w in words])


def rate(name: str, cases: Iterator[Case], listen: Callable[[Pcm16], str], said: Callable[[str], str] = str) -> None:
    errors = words = 0
    began = time.process_time()
    wrong = ""
    for case in cases:
        aim, found = corpus.plain(said(case.text)), corpus.plain(listen(case.audio))
        count = corpus.edits(aim, found)
        if count and len(wrong) < 200:
            wrong = " ".join(aim)[:160] + " -> " + " ".join(found)[:160]
        errors, words = errors + count, words + len(aim)
    cost = time.process_time() - began
    log.info("%-34s %.4f  %d/%d  %.1f s   %s", name, errors / words, errors, words, cost, wrong)


def times(ear: Ear, count: int) -> None:
    """Errors of the words' starts, of finals."""
    espeak, rng, off = Espeak(), random.Random(SEED + 5), []
    for text in itertools.islice(corpus.sentences(SEED + 5, words_min=4), count):
        voice = voice_of(rng, "en")
        spoken_ = espeak.say(text, voice.name, speed=voice.speed, pitch=voice.pitch)
        audio = soxr.resample(spoken_.samples.astype(np.float32), spoken_.rate, SAMPLE_RATE)
        audio = np.concatenate([np.zeros(4_800, np.float32), audio, np.zeros(9_600, np.float32)])
        heard = ear.final(np.asarray(audio, np.int16))
        if corpus.plain(heard.text) == corpus.plain(text):
            exact = [word.start * 1_000 / spoken_.rate + 300 for word in spoken_.words]
            off += [abs(a - b) for a, b, w in zip(heard.starts_ms, exact, spoken_.words, strict=True) if w.exact]
    p50, p90 = np.quantile(off, (0.5, 0.9))
    log.info("word starts off by, ms: p50 %d p90 %d (%d words)", p50, p90, len(off))


def wordless(ear: Ear, count: int) -> None:
    rng = np.random.default_rng(SEED)
    t = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    kinds: dict[str, Callable[[], Any]] = {
        "silence": lambda: np.zeros(len(t)),
        "noise": lambda: rng.standard_normal(len(t)),
        "brown": lambda: np.cumsum(rng.standard_normal(len(t))) / 60,
        "hum": lambda: sum(np.sin(2 * np.pi * 50 * k * t + rng.random()) / k for k in range(1, 9)),
        "music": lambda: sum(np.sin(2 * np.pi * f * t) * np.exp(-(t % 0.5) * 4) for f in rng.choice(
            [220, 262, 330, 392, 440, 523, 660], 3)),
        "tone": lambda: np.sin(2 * np.pi * rng.uniform(200, 3_000) * t),
    }  # fmt: skip
    for name, make in kinds.items():
        words = 0
        for _ in range(count):
            x = make() * 10 ** rng.uniform(-3, -0.8)
            words += len(corpus.plain(ear.final(np.clip(x * 32_768, -32_768, 32_767).astype(np.int16)).text))
        log.info("words in %d x 5 s of %s: %d", count, name, words)


def padding(folder: Path, count: int) -> None:
    cases = list(plain(count))
    for name, pad in (("30 s", Padding(30, 0)), ("none", Padding(0, 0)), *(
        (f"{tail} s", Padding(0, tail)) for tail in (0.25, 0.5, 1, 2))):  # fmt: skip
        ear = Ear(folder, ModelCard(padding=pad))
        rate(f"padding {name}", iter(cases), lambda x, ear=ear: ear.final(x).text)


def measure(folder: Path, count: int, wanted: set[str]) -> None:
    ear = Ear(folder)
    multilingual = ear.direct.model.is_multilingual

    def final(audio: Pcm16) -> str:
        return ear.final(audio).text

    def changed(change: Callable[[Pcm16], Pcm16]) -> Callable[[Pcm16], str]:
        return lambda audio: ear.final(change(audio)).text

    few = max(4, count // 8)
    rows: dict[str, Callable[[], None]] = {
        "plain": lambda: rate("plain", plain(count), final),
        "salad": lambda: rate("salad", salad(count), final),
        "snr20": lambda: rate("noise 20 dB", plain(count), changed(noisy(20))),
        "snr10": lambda: rate("noise 10 dB", plain(count), changed(noisy(10))),
        "mulaw": lambda: rate("mulaw 8 kHz", plain(count), changed(sent(Encoding.MULAW, 8_000))),
        "opus": lambda: rate("opus", plain(count), changed(sent(Encoding.OGG_OPUS, 48_000))),
        "44100": lambda: rate("44.1 kHz", plain(count), changed(sent(Encoding.PCM_S16LE, 44_100))),
        "quiet": lambda: rate("-20 dB", plain(count), changed(lambda x: x // 10)),
        "rolling": lambda: rate("rolling, one sentence", plain(count // 2), lambda x: ear.rolling(x).text),
        "long": lambda: rate("rolling, 20-28 s, no pause", long(few), lambda x: ear.rolling(x).text),
        "pauses": lambda: rate("rolling, 20-28 s, 0.4 s pauses", long(few, 400), lambda x: ear.rolling(x).text),
        "window": lambda: rate("engine window 20-28 s", long(few), final),
        "single": lambda: rate("single 20-28 s, no timestamps", long(few), lambda x: ear.single(
            x, without_timestamps=True)),
        "stamped": lambda: rate("single 20-28 s, timestamps", long(few, 200), ear.single),
        "prompt": lambda: rate("previous text", plain(count // 2), lambda x: ear.single(
            x, without_timestamps=True, initial_prompt="The budget review is on Friday. We have ten open questions.")),
        "glossary": lambda: rate("glossary of unknown words", plain(count // 2), lambda x: ear.single(
            x, without_timestamps=True, initial_prompt="Kubernetes, GraphQL, onboarding, Zürich, team")),
        "times": lambda: times(ear, count // 2),
        "wordless": lambda: wordless(ear, 8),
        "padding": lambda: padding(folder, count),
    }  # fmt: skip
    if multilingual:
        rows |= {
            "de": lambda: rate("German", plain(count, "de"), lambda x: ear.final(x, "de").text),
            "de_long": lambda: rate("German, rolling, 20-28 s", long(few, 0, "de"), lambda x: ear.rolling(
                x, "de").text),
            "translate": lambda: rate("German to English", plain(count, "de"), lambda x: ear.final(
                x, "de", "translate").text, corpus_de.english),
            "detection": lambda: log.info("right language: %s", {code: sum(
                ear.final(case.audio, "auto").language == code for case in plain(count // 2, code)
                ) / (count // 2) for code in ("en", "de")}),
        }  # fmt: skip
    for name, row in rows.items():
        if not wanted or name in wanted:
            row()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    measure(options.folder, options.count, set(filter(None, options.only.split(","))))


if __name__ == "__main__":
    main()
