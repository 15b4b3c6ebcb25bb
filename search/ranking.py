"""The order of hits and the parts of a text that made it one.

Pure. Invariant: the order is total (score, then newest, then id), so that pages neither repeat nor skip a hit.
"""

from collections.abc import Iterable, Sequence

from search.model import Position
from search.query import WordSpan

RRF_K = 60
"""Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): 60 was best there and has been kept by most."""

MARK_START = "\x02"
MARK_STOP = "\x03"
"""Stand around a matching word in what the database returns; control characters are no part of a folded word."""


def order_key(position: Position) -> tuple[float, int, str]:
    """Sorts best first, equal scores newest first, equal times by id."""
    return (-position.score, -position.spoken_at_us, position.segment_id)


def fused(*rankings: Sequence[Position]) -> list[Position]:
    """One order from several, best first; a hit scores the sum of 1 / (60 + its rank) over those that have it."""
    scores: dict[str, float] = {}
    known: dict[str, Position] = {}
    for ranking in rankings:
        for rank, position in enumerate(ranking, start=1):
            scores[position.segment_id] = scores.get(position.segment_id, 0.0) + 1 / (RRF_K + rank)
            known.setdefault(position.segment_id, position)
    return sorted((Position(scores[name], known[name].spoken_at_us, name) for name in known), key=order_key)


def by_time(*rankings: Sequence[Position]) -> list[Position]:
    """All hits of several orders, each once with the score 0, newest first."""
    known = {p.segment_id: Position(0.0, p.spoken_at_us, p.segment_id) for ranking in rankings for p in ranking}
    return sorted(known.values(), key=order_key)


def following(order: Sequence[Position], last: Position) -> Sequence[Position]:
    """What comes after `last` in an order that may have been made anew: after the same segment where it still stands,
    so that a hit that was put in above repeats none; else after its place."""
    for at, position in enumerate(order):
        if position.segment_id == last.segment_id:
            return order[at + 1 :]
    return [position for position in order if order_key(position) > order_key(last)]


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges [from, to) in order, without overlaps; those that touch become one. Empty ranges vanish."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return tuple(out)


def highlights(words: Sequence[WordSpan], marked: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Where the matching words stand in a text, in code points; joined words that both match are one range.

    `words`: `words_of(text)`; `marked`: its folded text with marks, once for each text configuration. Words past the
    end of a marked text (it was cut) count as not matching.
    """
    found: set[int] = set()
    for text in marked:
        found.update(i for i, (_, token) in enumerate(zip(words, text.split(" "), strict=False)) if MARK_START in token)
    return merged(
        (words[i - 1].end if words[i].joined and i - 1 in found else words[i].start, words[i].end) for i in found
    )
