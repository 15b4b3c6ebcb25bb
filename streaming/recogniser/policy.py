"""When a word that was heard is fixed: the one decision in which streaming policies differ, behind one small port.

LocalAgreement-2 (`streaming.transcript.agreement`): the words of a window that the window before also had. The last one
is left open, because its right context and its punctuation are missing, unless a sentence ends with it and silence
follows.

Pure.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from streaming.transcript.agreement import agreed

SENTENCE_END = ".?!…。？！।؟"


class HypothesisPolicy(Protocol):
    """Says what becomes final while somebody still speaks."""

    @property
    def windows(self) -> int:
        """How many windows it looks at."""
        ...

    def fixed(self, tails: Sequence[Sequence[str]], *, at_rest: bool) -> int:
        """How many words of the newest of `tails` are fixed from now on.

        `tails`: what each of the newest windows heard behind the words that are fixed already, at most `windows` of
        them, oldest first; `at_rest`: silence has begun behind the last word."""
        ...


class LocalAgreement(msgspec.Struct, frozen=True):
    """What `windows` windows in a row begin with."""

    windows: int = 2

    def fixed(self, tails: Sequence[Sequence[str]], *, at_rest: bool) -> int:
        if len(tails) < self.windows:
            return 0
        count = agreed(tails)
        ended = at_rest and all(count and ends_sentence(tail[count - 1]) for tail in tails)
        return count - 1 if count == len(tails[-1]) and count and not ended else count


def ends_sentence(text: str) -> bool:
    last = text.rstrip("\"'”’»)]")[-1:]
    return bool(last) and last in SENTENCE_END
