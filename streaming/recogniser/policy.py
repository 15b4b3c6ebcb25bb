"""When a word that was heard is fixed: the one decision in which streaming policies differ, behind one small port.

LocalAgreement-2 (`streaming.transcript.agreement`): the words of a window that the window before also had. The last one
is left open, because its right context and its punctuation are missing, unless a sentence ends with it and silence
follows.

Measured with the micro Whisper (`python -m bench policies`, 294 words a column): word error rate of talk, of talk 15 dB
above noise (where one utterance that goes astray is 3 points), and in utterances of 20 to 28 s without a pause; from
the end of a word to its place in stable text in the first, p50 and p95 in ms of audio:

    two windows that agree                       0.000   0.119   0.034   685, 1,012   CPU 0.050
    the last word fixed too                      0.000   0.102   0.034   656,   952   a mark behind it may be missing
    hops of 320 ms instead of 480                0.000   0.095   0.020   533,   815   CPU 0.069
    hops of 640 ms                               0.000   0.095   0.014   877, 1,246   CPU 0.037
    three windows that agree                     0.000   0.068   0.031   1,116, 1,402
    one window but its last word (hold-n)        0.007   0.153   0.048   520,   915
    but its last two words                       0.007   0.071   0.037   825, 1,305
    what ended 300 ms before (AlignAtt)          0.014   0.119   0.044   519,   753   every window aligned
    two that agree, or p >= 0.9 and 300 ms       0.000   0.140   0.054   532,   789   every window aligned
    nothing fixed                                0.044   0.160   0.335

What is faster fixes more that is wrong, however probable one window says it is. Agreement on marks and case too was 6
to 50 ms later, and not one mark more was right.

Pure.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from streaming.transcript.agreement import agreed

SENTENCE_END = ".?!…。？！।؟"


class Piece(msgspec.Struct, frozen=True):
    """A word as the decoder wrote it. `start`, `end`: samples from the utterance's first one. While it is not `aligned`
    they are a guess (`rolling.spread`), and `p` is the mean of its window."""

    text: str
    tokens: tuple[int, ...]
    start: int
    end: int
    p: float
    aligned: bool = True


class HypothesisPolicy(Protocol):
    """Says what becomes final while somebody still speaks."""

    @property
    def windows(self) -> int:
        """How many windows it looks at."""
        ...

    @property
    def aligned(self) -> bool:
        """Whether it looks at times and probabilities, so that every window has to be aligned."""
        ...

    def fixed(self, tails: Sequence[Sequence[Piece]], *, until: int, at_rest: bool) -> int:
        """How many words of the newest of `tails` are fixed from now on.

        `tails`: what each of the newest windows heard behind the words that are fixed already, at most `windows` of
        them, oldest first; `until`: the newest one's end, in samples of the utterance; `at_rest`: silence has begun
        behind the last word."""
        ...


class LocalAgreement(msgspec.Struct, frozen=True):
    """What `windows` windows in a row begin with."""

    windows: int = 2
    aligned: bool = False

    def fixed(self, tails: Sequence[Sequence[Piece]], *, until: int, at_rest: bool) -> int:
        if len(tails) < self.windows:
            return 0
        count = agreed([[piece.text for piece in tail] for tail in tails])
        ended = at_rest and all(count and ends_sentence(tail[count - 1].text) for tail in tails)
        return count - 1 if count == len(tails[-1]) and count and not ended else count


def ends_sentence(text: str) -> bool:
    last = text.rstrip("\"'”’»)]")[-1:]
    return bool(last) and last in SENTENCE_END
