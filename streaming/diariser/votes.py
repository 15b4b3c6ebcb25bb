"""Windows over the same moments vote: a frame has as many speakers as they heard there on average, and those with most
votes. (So does pyannote.audio, with probabilities instead of votes.)

Pure: spans are (start, end) samples, parts are (start, end, person); a person is a number.
"""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from streaming.model import SAMPLE_RATE

FRAME = SAMPLE_RATE // 50
"""20 ms; the segmentation model's frames are 17 ms."""

PAUSE = SAMPLE_RATE // 2
"""Shorter ones belong to a turn, where nobody else speaks before it goes on: as people mark turns."""

Span = tuple[int, int]
Part = tuple[int, int, int]
NEAR = 32
"""Parts before a pause among which its turn is looked for: nobody speaks in so many at once."""


class Assigned(msgspec.Struct, frozen=True, array_like=True):
    """A window whose voices have got persons; `voices`: (person, spans in samples of the recording)."""

    start: int
    end: int
    voices: tuple[tuple[int, tuple[Span, ...]], ...]


def assigned(start: int, end: int, persons: Sequence[int], spans: Sequence[tuple[Span, ...]]) -> Assigned:
    """`persons` of the voices with these spans: 0 is nobody, and two voices of one person are one."""
    parts = joined((a, b, person) for person, own in zip(persons, spans, strict=True) for a, b in own if person)
    found = sorted({person for _, _, person in parts})
    return Assigned(start, end, tuple((n, tuple((a, b) for a, b, person in parts if person == n)) for n in found))


def voted(windows: Sequence[Assigned], start: int, end: int) -> list[Part]:
    """Who speaks from `start` to `end`, according to all windows there, person by person."""
    persons = sorted({person for window in windows for person, _ in window.voices}, key=lambda n: (n < 0, abs(n)))
    if end <= start or not persons:
        return []
    count = -(-(end - start) // FRAME)
    votes = np.zeros((len(persons), count), np.int32)
    heard = np.zeros(count, np.int32)
    row = {person: at for at, person in enumerate(persons)}
    for window in windows:
        heard[_frames((window.start, window.end), start, count)] += 1
        for person, spans in window.voices:
            for span in spans:
                votes[row[person], _frames(span, start, count)] += 1
    many = (2 * votes.sum(axis=0) + heard) // np.maximum(2 * heard, 1)
    rank = np.argsort(np.argsort(-votes, axis=0, kind="stable"), axis=0, kind="stable")
    active = (rank < many) & (votes > 0)
    found: list[Part] = []
    for person, frames in zip(persons, active, strict=True):
        edges = (start + np.flatnonzero(np.diff(frames.astype(np.int8), prepend=0, append=0)) * FRAME).tolist()
        found += [(a, min(b, end), person) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return found


def joined(parts: Iterable[Part]) -> list[Part]:
    """In order of their beginning; what touches and is one person's becomes one."""
    out: list[Part] = []
    last: dict[int, int] = {}
    for start, end, person in sorted(parts):
        at = last.get(person)
        if at is not None and out[at][1] >= start:
            out[at] = (out[at][0], max(end, out[at][1]), person)
        else:
            last[person] = len(out)
            out.append((start, end, person))
    return out


def filled(parts: Iterable[Part]) -> list[Part]:
    """`joined`, over short pauses too."""
    out: list[Part] = []
    silent = 0
    for start, end, person in joined(parts):
        ended = {before[2] for before in out[-NEAR:] if before[1] == silent}
        if silent < start <= silent + PAUSE and person in ended:
            start = silent
        out.append((start, end, person))
        silent = max(silent, end)
    return joined(out)


def cut(spans: Iterable[Span], start: int, end: int) -> list[Span]:
    return [(max(a, start), min(b, end)) for a, b in spans if a < end and b > start]


def length(spans: Iterable[Span]) -> int:
    return sum(end - start for start, end in spans)


def shared(one: Iterable[Span], other: Sequence[Span]) -> int:
    """Samples in both."""
    return sum(length(cut(other, start, end)) for start, end in one)


def _frames(span: Span, origin: int, count: int) -> slice:
    """The frames whose beginning lies in the span."""
    first, last = (-(-(sample - origin) // FRAME) for sample in span)
    return slice(max(0, first), min(count, max(0, last)))
