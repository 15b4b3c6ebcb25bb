"""From text to tokens: the one analyser of both indexes, highlights, subscriptions and the vocabulary.

Policy: a word is `search.query.words_of`'s; its token is its folded form. Where its language has a stemmer (Snowball,
by PyStemmer) and the word is no stop word, the stem is a second token at the same position, marked `STEM`, so that a
stem is never taken for a word. Stop words are indexed as they were said: who types nothing else can look for them.
Numbers have no stem.

Boundary: text comes from engines and people; any string is a text. Reads the lists of stop words once, from beside
this module (`stopwords/NOTICE` says where they are from); else pure. PyStemmer's objects may not be used by two threads
at once: one is made for each word that the cache does not hold, which takes 0.5 us, as long as stemming.
Invariant: equal text and language give equal tokens for as long as `ANALYSIS` is the same.

Measured (CPU): 13 us for the tokens of an ASCII segment of 16 words, 36 us of 48; 52 us for 16 words with other
letters; 0.1 us for a known stem. A query of 6 words becomes a tsquery in 24 us for one language, 63 us for two.
"""

from functools import cache, cached_property, lru_cache
from pathlib import Path

import Stemmer

from search.query import WordSpan, words_of
from streaming.limits import LIMITS

ANALYSIS = 1
"""Grows when tokens change, here or in another version of PyStemmer: everything has to be indexed again then."""

STEM = "~"
"""Stands before a stem; no folded word holds it."""

ALGORITHMS = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish",
    "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "st": "sesotho", "sv": "swedish",
    "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
"""Snowball's stemmers by the languages' keys."""

ALIASES = {"nb": "no", "nn": "no"}
STOPS = Path(__file__).parent / "stopwords"
STEMS_HELD = 50_000
"""Stems that are remembered: the vocabulary of some languages, 8 MiB."""


class Analysed:
    """A text taken apart. `words`: its words, at most `Limits.search_text_words_max` of at most
    `Limits.search_text_chars_max` code points; `stems`: of each word, None where it has none or is a stop word."""

    def __init__(self, words: list[WordSpan], stems: list[str | None]) -> None:
        self.words = words
        self.stems = stems

    def tokens(self) -> list[tuple[str, int]]:
        """Every token with its position, from 1."""
        found: list[tuple[str, int]] = []
        for position, (word, stem_) in enumerate(zip(self.words, self.stems, strict=True), start=1):
            found.append((word.folded, position))
            if stem_ is not None:
                found.append((STEM + stem_, position))
        return found

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """Where each token stands, ascending."""
        places: dict[str, list[int]] = {}
        for token, position in self.tokens():
            places.setdefault(token, []).append(position)
        return places


def analyse(text: str, language: str) -> Analysed:
    """The words of NFC text and their stems in its language (a BCP 47 tag)."""
    words = words_of(text)[: LIMITS.search_text_words_max]
    if len(text) > LIMITS.search_text_chars_max:
        words = _within(words, LIMITS.search_text_chars_max)
    key = language_key(language)
    if not key:
        return Analysed(words, [None] * len(words))
    return Analysed(words, [_stem(word.folded, key) for word in words])


def stem(word: str, language: str) -> str | None:
    """Of a folded word, without the mark; None: no stemmer, a stop word, or a number."""
    key = language_key(language)
    return _stem(word, key) if key else None


def is_stop(word: str, language: str) -> bool:
    """Whether a folded word says nothing of its own in this language."""
    return word in _stops(language_key(language))


@lru_cache(maxsize=1_000)
def language_key(language: str) -> str:
    """The language as far as its words depend on it: "en-US" is "en"; "" where there is no stemmer."""
    primary = language.lower().partition("-")[0]
    key = ALIASES.get(primary, primary)
    return key if key in ALGORITHMS else ""


@lru_cache(maxsize=STEMS_HELD)
def _stem(word: str, key: str) -> str | None:
    if word.isdecimal() or word in _stops(key):
        return None
    found: str = Stemmer.Stemmer(ALGORITHMS[key], 0).stemWord(word)
    return found or None


@cache
def _stops(key: str) -> frozenset[str]:
    path = STOPS / f"{key}.txt"
    return frozenset(path.read_text(encoding="utf-8").split()) if key and path.exists() else frozenset()


def _within(words: list[WordSpan], chars_max: int) -> list[WordSpan]:
    """As many of the first words as have so many code points together."""
    left = chars_max
    for at, word in enumerate(words):
        left -= len(word.folded)
        if left < 0:
            return words[:at]
    return words


__all__ = ["ANALYSIS", "STEM", "Analysed", "analyse", "is_stop", "language_key", "stem"]
