"""Speech for machines: words as tones, and an engine that hears them without error.

A word is START, one symbol per character, END; a symbol is `SYMBOL_MS` of two tones, one of a low and one of a high
group as in DTMF; START and END are single tones. Every tone is a multiple of 200 Hz below 3.3 kHz, so it survives
telephone bandwidth, s16 and resampling, and a 20 ms window holds whole periods of all of them.

Hearing: 20 ms windows every 10 ms, wherever the utterance was cut. A window counts only when its tones carry
`PURITY` of its power, which needs 84% of it inside one symbol; so a window across two symbols is never taken for a
third, and a symbol repeated n times gives 4n - 2 or 4n - 1 windows in a row.

Invariant: a word appears when its END was heard, whole and right, or it does not appear.
"""

import random
import sys
import threading
import wave
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, Capabilities, Final, Hypothesis, UtteranceSpec, Word, ms_of
from streaming.ports import Pcm16

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789'"
SYMBOL_MS = 40
GAP_MS = 60
"""Between words: shorter than any endpoint silence."""
TONE_HZ = 200
LOW = tuple(range(2, 9))
"""Low tones in units of `TONE_HZ`: 400 to 1,600 Hz."""
HIGH = tuple(range(9, 15))
"""High tones: 1,800 to 2,800 Hz."""
START, END = 15, 16
"""3,000 and 3,200 Hz."""
AMPLITUDE = 6_000
PURITY = 0.7

WINDOW = SAMPLE_RATE * 20 // 1000
HOP = SAMPLE_RATE * 10 // 1000
BINS_PER_TONE = TONE_HZ * WINDOW // SAMPLE_RATE
QUIET_POWER = 30.0**2
"""Mean square of a window below which nobody speaks."""

NOTHING, WORD_START, WORD_END = -1, -2, -3
"""Labels of windows; characters have their index in `ALPHABET`."""

assert len(ALPHABET) <= len(LOW) * len(HIGH)


class Talk(msgspec.Struct, frozen=True):
    """Audio and what was said in it, sentence by sentence, on the clock of the audio."""

    audio: Pcm16
    sentences: tuple[tuple[Word, ...], ...]

    @property
    def texts(self) -> list[str]:
        return [" ".join(word.text for word in sentence) for sentence in self.sentences]


def encode(words: Sequence[str], *, sample_rate: int = SAMPLE_RATE) -> Pcm16:
    """One sentence without silence around it, (n_samples,) int16 mono. Raises ValueError for other characters."""
    return talk([words], silence_ms=0, lead_ms=0, sample_rate=sample_rate).audio


def talk(
    sentences: Sequence[Sequence[str]], *, silence_ms: int = 1_200, lead_ms: int = 300, sample_rate: int = SAMPLE_RATE
) -> Talk:
    """`lead_ms` of silence, then the sentences, each followed by `silence_ms` of silence."""
    pieces: list[NDArray[np.float64]] = [np.zeros(lead_ms * sample_rate // 1000)]
    said: list[tuple[Word, ...]] = []
    at_ms = lead_ms
    for sentence in sentences:
        spoken: list[Word] = []
        for index, text in enumerate(sentence):
            if index:
                pieces.append(np.zeros(GAP_MS * sample_rate // 1000))
                at_ms += GAP_MS
            pieces.extend(_tones(symbol, sample_rate) for symbol in _symbols(text))
            spoken.append(Word(text, at_ms, at_ms + duration_ms(text)))
            at_ms += duration_ms(text)
        pieces.append(np.zeros(silence_ms * sample_rate // 1000))
        at_ms += silence_ms
        said.append(tuple(spoken))
    return Talk(np.concatenate(pieces).astype(np.int16), tuple(said))


def duration_ms(word: str) -> int:
    return (len(word) + 2) * SYMBOL_MS


def random_sentences(seed: int, count: int, *, words: tuple[int, int] = (3, 9)) -> list[list[str]]:
    """Reproducible sentences. Every word is unlike all others of the call, so that a lost, doubled or misplaced one
    shows."""
    rng = random.Random(seed)
    seen: set[str] = set()
    out = []
    for _ in range(count):
        sentence = []
        for _ in range(rng.randint(*words)):
            while (word := "".join(rng.choices(ALPHABET[:26], k=rng.randint(3, 7)))) in seen:
                pass
            seen.add(word)
            sentence.append(word)
        out.append(sentence)
    return out


def write_wav(path: Path, audio: Pcm16, *, sample_rate: int = SAMPLE_RATE) -> Path:
    """Write `audio` as a mono WAV file; returns `path`."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(audio.astype("<i2").tobytes())
    return path


def _symbols(word: str) -> list[tuple[int, ...]]:
    """The tones of a word, symbol by symbol."""
    if not word or any(character not in ALPHABET for character in word):
        raise ValueError(f"{word!r} has a character without tones")
    indices = [ALPHABET.index(character) for character in word]
    return [(START,), *((LOW[i % len(LOW)], HIGH[i // len(LOW)]) for i in indices), (END,)]


def _tones(symbol: tuple[int, ...], sample_rate: int) -> NDArray[np.float64]:
    t = np.arange(SYMBOL_MS * sample_rate // 1000) / sample_rate
    waves = [np.sin(2 * np.pi * tone * TONE_HZ * t) for tone in symbol]
    scale: float = AMPLITUDE * (2 / len(waves)) ** 0.5
    return np.asarray(np.sum(waves, axis=0) * scale, np.float64)


def labels_of(audio: Pcm16) -> NDArray[np.int16]:
    """What each window of `audio` holds: (n_windows,), one window every `HOP` samples."""
    if len(audio) < WINDOW:
        return np.empty(0, np.int16)
    windows = np.lib.stride_tricks.sliding_window_view(audio, WINDOW)[::HOP].astype(np.float64)
    total = (windows**2).mean(axis=1)
    tones = np.fft.rfft(windows, axis=1)[:, : (END + 1) * BINS_PER_TONE : BINS_PER_TONE]
    power = 2 * np.abs(tones / WINDOW) ** 2
    low, high = power[:, LOW[0] : LOW[-1] + 1], power[:, HIGH[0] : HIGH[-1] + 1]
    character = low.argmax(axis=1) + high.argmax(axis=1) * len(LOW)
    floor = np.maximum(total, QUIET_POWER)
    labels = np.where(
        (low.max(axis=1) + high.max(axis=1) > PURITY * floor)
        & (np.minimum(low.max(axis=1), high.max(axis=1)) > 0.25 * floor),
        character,
        NOTHING,
    )
    labels[power[:, START] > PURITY * floor] = WORD_START
    labels[power[:, END] > PURITY * floor] = WORD_END
    return labels.astype(np.int16)


def hear(audio: Pcm16, labels: NDArray[np.int16]) -> list[tuple[str, int, int]]:
    """Whole words with their first and past-the-last sample."""
    edges = np.flatnonzero(np.diff(labels)) + 1
    starts = np.concatenate([[0], edges]) if len(labels) else edges
    ends = np.concatenate([edges, [len(labels)]]) if len(labels) else edges
    words = []
    word: str | None = None
    first = first_run = 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        label = int(labels[start])
        if label == WORD_START:
            word, first, first_run = "", start, end - start
        elif label == WORD_END:
            if word:
                words.append((word, *_span(audio, word, first, first_run, end)))
            word = None
        elif label >= len(ALPHABET):
            word = None
        elif label != NOTHING and word is not None:
            word += ALPHABET[label] * round((end - start + 1.5) / 4)
    return words


def _span(audio: Pcm16, word: str, first: int, first_run: int, last: int) -> tuple[int, int]:
    """Where a word lies: its first loud sample, or, when START was cut into, counted back from its last one."""
    low, high = max(0, first * HOP - HOP), min(len(audio), (last - 1) * HOP + WINDOW + HOP)
    loud = np.flatnonzero(np.abs(audio[low:high].astype(np.int32)) > AMPLITUDE // 10)
    length = duration_ms(word) * SAMPLE_RATE // 1000
    if first_run >= 2:
        start = low + int(loud[0])
        return start, min(len(audio), start + length)
    end = low + int(loud[-1]) + 1
    return max(0, end - length), end


class ToneEngine:
    """A `streaming.recogniser.engine.Engine` that hears `talk`."""

    utterances_max = 32

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="tones",
            model="tones",
            languages=(),
            hop_ms=200,
            agreement=2,
            holdback_words=0,
            activity="sound",
            utterances_max=self.utterances_max,
            utterance_ms_max=LIMITS.utterance_ms_max,
        )

    def load(self) -> None:
        np.fft.rfft(np.zeros(WINDOW))

    def begin(self, spec: UtteranceSpec) -> "ToneUtterance":
        return ToneUtterance(spec)


class NarrowToneEngine(ToneEngine):
    """With few places, to see callers wait for them."""

    utterances_max = 3


class ThreadedToneEngine(ToneEngine):
    """Breaks the rule that `load` leaves no thread behind."""

    def load(self) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class ToneUtterance:
    """Its context counts the stream's utterances, so that a test can follow it: b"1", b"2" and so on."""

    def __init__(self, spec: UtteranceSpec) -> None:
        self._spec = spec
        self._audio: Pcm16 = np.empty(0, np.int16)
        self._labels: NDArray[np.int16] = np.empty(0, np.int16)

    def feed(self, audio: Pcm16) -> None:
        self._audio = np.concatenate([self._audio, audio])
        self._labels = np.concatenate([self._labels, labels_of(self._audio[len(self._labels) * HOP :])])

    def partial(self) -> Hypothesis:
        origin = self._spec.start_sample
        words = tuple(
            Word(text, ms_of(origin + start), ms_of(origin + end))
            for text, start, end in hear(self._audio, self._labels)
        )
        return Hypothesis(words, until_sample=origin + len(self._audio), language=self._spec.language)

    def final(self) -> Final:
        known = len(self._spec.context) < 10 and self._spec.context.isdigit()
        count = int(self._spec.context) + 1 if known else 1
        return Final(self.partial(), context=str(count).encode())

    def discard(self) -> None:
        pass


def main(arguments: Sequence[str]) -> None:
    """`python -m tests.fakes.tones FILE SENTENCE...`: a WAV file that a server with this engine hears without error."""
    file, *sentences = arguments
    write_wav(Path(file), talk([sentence.split() for sentence in sentences]).audio)


if __name__ == "__main__":
    main(sys.argv[1:])
