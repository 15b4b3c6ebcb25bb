"""Word error rates that ask who said it: cpWER and tcpWER, as MeetEval 0.4.3 defines them.

    cpWER    words of each speaker one after the other; labels are matched to speakers so that errors are fewest
    tcpWER   as cpWER, and a word counts as found only within `COLLAR_S` of where it was said

MeetEval itself has no wheel for this Python and compiles for minutes, so it is no dependency; on random talks the two
give the same numbers. Pure.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations

import msgspec

COLLAR_S = 5.0
"""MeetEval's usual."""
LABELS_MAX = 8
"""Labels with most words that are matched; the words of others are insertions."""


class Spoken(msgspec.Struct, frozen=True):
    """One word: `text` as it is compared, seconds."""

    text: str
    start: float
    end: float


Talk = Mapping[str, Sequence[Spoken]]
"""Words in order, by speaker or label."""


def cpwer(reference: Talk, told: Talk) -> float:
    return _rate(reference, told, None)


def tcpwer(reference: Talk, told: Talk, collar_s: float = COLLAR_S) -> float:
    return _rate(reference, told, collar_s)


def _rate(reference: Talk, told: Talk, collar_s: float | None) -> float:
    speakers = list(reference)
    labels: list[str | None] = list(sorted(told, key=lambda label: -len(told[label]))[:LABELS_MAX])
    left = sum(len(words) for label, words in told.items() if label not in labels)
    labels += [None] * max(0, len(speakers) - len(labels))
    cost = {
        (speaker, label): distance(reference[speaker], told[label] if label is not None else (), collar_s)
        for speaker in speakers
        for label in labels
    }
    fewest = min(
        sum(cost[pair] for pair in zip(speakers, chosen, strict=True))
        + sum(len(told[label]) for label in set(labels) - set(chosen) if label is not None)
        for chosen in permutations(labels, len(speakers))
    )
    return (fewest + left) / max(1, sum(len(words) for words in reference.values()))


def distance(reference: Sequence[Spoken], told: Sequence[Spoken], collar_s: float | None) -> int:
    """Insertions, deletions and substitutions; with a collar, words stand for each other when the middle of what was
    told lies near."""
    row = list(range(len(told) + 1))
    for said in reference:
        diagonal, row[0] = row[0], row[0] + 1
        for at, word in enumerate(told, 1):
            best = min(row[at], row[at - 1]) + 1
            if collar_s is None or said.start - collar_s < (word.start + word.end) / 2 < said.end + collar_s:
                best = min(best, diagonal + (said.text != word.text))
            diagonal, row[at] = row[at], best
    return row[-1]
