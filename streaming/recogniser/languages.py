"""Which language a stream is in, when nobody said it.

Policy: the first window with `SURE_SAMPLES` of audio and a probability of `SURE_P` decides for the whole stream; a
window of `LONG_SAMPLES` decides for its utterance whatever the probability. Until then the likeliest language is shown
and nothing is fixed, so a wrong guess leaves no trace.

Pure.
"""

from collections.abc import Sequence

import msgspec

from streaming.model import samples_of

SURE_SAMPLES = samples_of(1_500)
"""Whisper hears languages from 30 s in its own evaluation; short words sound alike in many languages."""
SURE_P = 0.7
LONG_SAMPLES = samples_of(6_000)


class Choice(msgspec.Struct, frozen=True):
    """`settled`: for this utterance, words may be fixed; `certain`: for the stream."""

    language: str
    settled: bool
    certain: bool


def choose(ranked: Sequence[tuple[str, float]], n_samples: int) -> Choice:
    """`ranked`: languages with probabilities, the likeliest first; `n_samples`: of the window they were heard in."""
    language, p = ranked[0]
    certain = p >= SURE_P and n_samples >= SURE_SAMPLES
    return Choice(language, certain or n_samples >= LONG_SAMPLES, certain)


def known(wish: str, languages: Sequence[str]) -> str | None:
    """The language that is meant by a BCP 47 tag such as `de-AT`, if it is among `languages`."""
    code = wish.lower().partition("-")[0]
    return code if code in languages else None
