"""When a word that was heard is fixed: the one decision in which streaming policies differ, behind one small port.

LocalAgreement (`streaming.transcript.agreement`): the words that all windows of the last `AGREE_MS` begin with, two or
more. The last one is left open, because its right context and its punctuation are missing, unless a sentence ends with
it and silence follows.

Measured with the micro Whisper (`python -m bench policies`, 593 words a column, 735 in the third): word error rate of
talk, of talk 15 dB above noise, and in utterances of 20 to 28 s without a pause; from the end of a word to its place in
stable text in the first, p50 and p95 in ms of audio:

    hops of 480 ms                               0.005   0.003   0.022   694, 969      CPU 0.050
    288 ms                                       0.002   0.003   0.024   492, 731      CPU 0.073
    96 ms                                        0.005   0.003   0.018   400, 578      CPU 0.196
    96 ms, agreement over 96 ms                  0.002   0.005   0.018   330, 561
    96 ms, over 192 ms                           0.005   0.005   0.018   363, 564
    96 ms, over 480 ms                           0.005   0.003   0.015   524, 689
    480 ms, over 960 ms                          0.005   0.005   0.014   1,116, 1,392

Two windows 96 ms apart have hardly heard anything different: of a model that understands less they repeat a mistake
(0.117 instead of 0.097 in noise, with an utterance that goes astray). With an older model, 294 words a column, hops of
480 ms, where two windows that agree had 0.000, 0.119, 0.034 and 685, 1,012:

    the last word fixed too                      0.000   0.102   0.034   656,   952   a mark behind it may be missing
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

from streaming.model import samples_of
from streaming.transcript.agreement import agreed

AGREE_MS = 288
"""Three parts of a hop: with hops of 480 ms two windows."""
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


class Tail(msgspec.Struct, frozen=True):
    """What a window that ended at sample `until` of the utterance heard behind the words that are fixed."""

    words: tuple[Piece, ...]
    until: int


class HypothesisPolicy(Protocol):
    """Says what becomes final while somebody still speaks."""

    @property
    def span(self) -> int:
        """Samples that it looks back from the newest window's end; 0: at the newest window only."""
        ...

    @property
    def aligned(self) -> bool:
        """Whether it looks at times and probabilities, so that every window has to be aligned."""
        ...

    def fixed(self, tails: Sequence[Tail], *, at_rest: bool) -> int:
        """How many words of the newest of `tails` are fixed from now on.

        `tails`: of the newest windows, oldest first: those that ended within `span`, and the one before them where
        there is one; `at_rest`: silence has begun behind the last word."""
        ...


def newest(tails: Sequence[Tail], span: int) -> tuple[Tail, ...]:
    """The `tails` that a policy looks at."""
    first = tails[-1].until - span
    return tuple(
        tail for tail, after in zip(tails, [*tails[1:], None], strict=True) if after is None or after.until > first
    )


class LocalAgreement(msgspec.Struct, frozen=True):
    """What all windows of the last `span` samples begin with, when they reach back so far."""

    span: int = samples_of(AGREE_MS)
    aligned: bool = False

    def fixed(self, tails: Sequence[Tail], *, at_rest: bool) -> int:
        if len(tails) < 2 or tails[-1].until - tails[0].until < self.span:
            return 0
        count = agreed([[piece.text for piece in tail.words] for tail in tails])
        ended = at_rest and all(count and ends_sentence(tail.words[count - 1].text) for tail in tails)
        return count - 1 if count == len(tails[-1].words) and count and not ended else count


def ends_sentence(text: str) -> bool:
    last = text.rstrip("\"'”’»)]")[-1:]
    return bool(last) and last in SENTENCE_END
