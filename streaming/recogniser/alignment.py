"""Word times of a final by forced alignment: what server and alignment worker say to each other, and how an aligner's
tokens become the final's own words again.

Policy: the aligner gets each word without what nobody speaks (punctuation), because it would place that too; it never
changes a word. A word of which nothing is left takes the room between its neighbours. Times that do not run forward or
leave the audio are no alignment at all: the final keeps the recogniser's.

Pure. Invariant: as many times as words, in order, each start <= end <= the next start, all inside the audio.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

import msgspec

from streaming.limits import LIMITS

SPOKEN_WITHOUT_SPACES = frozenset({"ja", "zh"})
"""whisperx aligns these character by character (`LANGUAGES_WITHOUT_SPACES`)."""
MARGIN_MS = 100
"""Audio before and after a final that is aligned too: recognisers put words about this far off (0.06 s measured)."""
ALIGN_MS_MAX = LIMITS.utterance_ms_max + 2 * MARGIN_MS
SLACK_MS = 25
"""An aligner counts in frames of 20 ms: the last one may reach beyond the audio."""

Times = tuple[tuple[int, int], ...]
"""(start_ms, end_ms) of each word, from the beginning of the audio."""


class AlignerInfo(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the worker says when it is ready. `languages`: BCP 47 primary codes with weights on this machine."""

    languages: tuple[str, ...]


class Align(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`pcm`: s16le, 16 kHz mono, at most `ALIGN_MS_MAX`; `words`: what is said in it."""

    language: str
    words: tuple[str, ...]
    pcm: bytes


class Aligned(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`times` is None where the words could not be found in the audio."""

    times: Times | None


class Token(msgspec.Struct, frozen=True):
    """A piece of text as the aligner gave it back, in seconds; None where it could not place it."""

    text: str
    start_s: float | None
    end_s: float | None


def primary(language: str) -> str:
    """ "de" of "de-AT"."""
    return language.partition("-")[0].lower()


def spoken(word: str, alphabet: Collection[str]) -> str:
    """What of a word is heard: letters and digits, and whatever else the model has a symbol for (an apostrophe)."""
    plain = word.replace("’", "'")
    return "".join(char for char in plain if char.isalnum() or (char.lower() in alphabet and char not in "|<>[] "))


def transcript(words: Sequence[str], alphabet: Collection[str], language: str) -> str:
    """The text for the aligner; empty when nothing of the words is heard."""
    joint = "" if language in SPOKEN_WITHOUT_SPACES else " "
    return joint.join(filter(None, (spoken(word, alphabet) for word in words)))


def times_of(
    words: Sequence[str], tokens: Sequence[Token], *, alphabet: Collection[str], language: str, duration_ms: int
) -> Times | None:
    """Times of the words from the tokens that came back for `transcript(words)`; None where they do not fit."""
    spans: list[tuple[int, int] | None] = []
    at = 0
    for word in words:
        heard = spoken(word, alphabet)
        count = len(heard) if language in SPOKEN_WITHOUT_SPACES else min(1, len(heard))
        own = tokens[at : at + count]
        if "".join(token.text for token in own) != heard:
            return None
        at += count
        spans.append(_span(own))
    if at != len(tokens) or not any(spans):
        return None
    placed = _filled(words, spans)
    return _inside(placed, duration_ms)


def _span(tokens: Sequence[Token]) -> tuple[int, int] | None:
    starts = [token.start_s for token in tokens if token.start_s is not None]
    ends = [token.end_s for token in tokens if token.end_s is not None]
    return (round(starts[0] * 1000), round(ends[-1] * 1000)) if starts and ends else None


def _filled(words: Sequence[str], spans: Sequence[tuple[int, int] | None]) -> list[tuple[int, int]]:
    """Words without a place share the room between their placed neighbours by length; at the edges they get none."""
    placed: list[tuple[int, int]] = []
    index = 0
    while index < len(words):
        known = spans[index]
        if known is not None:
            placed.append(known)
            index += 1
            continue
        after = next((i for i in range(index, len(words)) if spans[i] is not None), len(words))
        right = spans[after] if after < len(words) else None
        left_ms = placed[-1][1] if placed else (right[0] if right else 0)
        right_ms = max(left_ms, right[0]) if right else left_ms
        total = sum(len(word) for word in words[index:after])
        said = 0
        for word in words[index:after]:
            start_ms = left_ms + (right_ms - left_ms) * said // total
            said += len(word)
            placed.append((start_ms, left_ms + (right_ms - left_ms) * said // total))
        index = after
    return placed


def _inside(placed: Sequence[tuple[int, int]], duration_ms: int) -> Times | None:
    if any(start > end for start, end in placed) or any(before[1] > after[0] for before, after in pairwise(placed)):
        return None
    if placed[0][0] < 0 or placed[-1][1] > duration_ms + SLACK_MS:
        return None
    return tuple((min(start, duration_ms), min(end, duration_ms)) for start, end in placed)


__all__ = [
    "ALIGN_MS_MAX",
    "MARGIN_MS",
    "Align",
    "Aligned",
    "AlignerInfo",
    "Times",
    "Token",
    "primary",
    "spoken",
    "times_of",
    "transcript",
]
