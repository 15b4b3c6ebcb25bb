"""An endless supply of spoken sentences with the times of their words and phonemes.

Sentences come in groups of one voice and one language, so that a window can hold one speaker. New groups replace the
oldest: nothing is heard often. Words in random order are among them, or the decoder would guess by grammar.

Boundary: speaks through libespeak-ng. Invariant: the voices m4, m8, f3 and f5 never speak here: tests hear them.
"""

import itertools
import random
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tests.support import corpus, corpus_de
from tests.support.espeak import Espeak

from .sound import RATE, Wave, resample

VOICES = {
    "en": ("en-us", "en-us", "en-us", "en", "en", "en-gb-x-rp", "en-us-nyc", "en-gb-scotland"),
    "de": ("de",),
}
VARIANTS = ("", "", "+m1", "+m2", "+m3", "+m5", "+m6", "+m7", "+f1", "+f2", "+f4")
GROUP = 16
GROUPS_MAX = 700
SALAD = 0.3
SILENT = 0.01
"""Of the loudest sample: the edges of a sentence below it are cut off."""


HOMOPHONES = {"to", "for", "Morgen"}
"""Not among random words: they sound like "two", "four" and "morgen"."""
PHONEMES = 256


def number(phoneme: str) -> int:
    """The class of a phoneme: 0 for a pause. Some share one, which hardly matters."""
    return 0 if phoneme.startswith("_") else 1 + zlib.crc32(phoneme.encode()) % (PHONEMES - 1)


class Sentence(NamedTuple):
    """`starts`: sample at which each word begins, and where the last one ends; `meanings`: English for each word;
    `phonemes`: number of each phoneme and where it begins."""

    audio: Wave
    words: tuple[str, ...]
    mark: str
    starts: tuple[int, ...]
    meanings: tuple[str, ...]
    phonemes: tuple[tuple[int, int], ...]


class Group(NamedTuple):
    language: str
    sentences: Sequence[Sentence]


class Speakers:
    """`german`: share of the groups."""

    def __init__(self, seed: int, german: float) -> None:
        self._rng = random.Random(seed)
        self._espeak = Espeak()
        self._german = german
        self._texts = {
            "en": corpus.sentences(self._rng.randrange(10**9)),
            "de": corpus_de.sentences(self._rng.randrange(10**9)),
        }
        self._words = {"en": sorted(corpus.WORDS - HOMOPHONES), "de": sorted(corpus_de.WORDS - HOMOPHONES)}
        self.groups: list[Group] = []
        self._next = 0

    def speak(self, count: int) -> None:
        """Add so many groups, in place of the oldest once there are enough."""
        for _ in range(count):
            group = self._group()
            if len(self.groups) < GROUPS_MAX:
                self.groups.append(group)
            else:
                self.groups[self._next % GROUPS_MAX] = group
                self._next += 1

    def texts(self, language: str, count: int) -> list[str]:
        return [self._text(language) for _ in range(count)]

    def _group(self) -> Group:
        rng = self._rng
        language = "de" if rng.random() < self._german else "en"
        voice = rng.choice(VOICES[language]) + rng.choice(VARIANTS)
        speed, pitch = rng.randint(130, 210), rng.randint(30, 75)
        edge, level = rng.uniform(0.88, 0.98), rng.uniform(0.2, 0.9)
        found = (self._say(self._text(language), language, voice, speed, pitch, edge, level) for _ in range(GROUP))
        return Group(language, [sentence for sentence in found if sentence is not None])

    def _text(self, language: str) -> str:
        if self._rng.random() >= SALAD:
            return next(self._texts[language])
        words = self._rng.sample(self._words[language], self._rng.randint(2, 8))
        return " ".join([words[0][0].upper() + words[0][1:], *words[1:]]) + "."

    def _say(
        self, text: str, language: str, voice: str, speed: int, pitch: int, edge: float, level: float
    ) -> Sentence | None:
        spoken = self._espeak.say(text, voice, speed=speed, pitch=pitch)
        audio = resample(spoken.samples.astype(np.float32) / 32_768, spoken.rate, RATE, edge)
        loud = np.flatnonzero(np.abs(audio) > SILENT * np.abs(audio).max())
        first, last = int(loud[0]), int(loud[-1]) + 1
        audio = audio[first:last] * np.float32(level / np.abs(audio[first:last]).max())
        scale = RATE / spoken.rate
        starts = [max(0, round(word.start * scale) - first) for word in spoken.words] + [last - first]
        words = text[:-1].split()
        if len(starts) != len(words) + 1 or any(b <= a for a, b in itertools.pairwise(starts)):
            return None
        phonemes = tuple((number(name), round(at * scale) - first) for name, at in spoken.phonemes)
        meanings = tuple(corpus_de.meaning(word) for word in words) if language == "de" else tuple(words)
        return Sentence(audio.astype(np.float16), tuple(words), text[-1], tuple(starts), meanings, phonemes)
