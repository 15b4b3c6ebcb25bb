"""The order of hits: by age, by both rankings, by time, and the best of each recording.

Policy: reciprocal rank fusion, because the scores of words and the cosines of models are of different kinds; what has
two models' vectors counts once, by its better rank.

Pure. Invariant: the order is total (score, then newest, then id), so that pages neither repeat nor skip a hit.
"""

from collections.abc import Mapping, Sequence

from search.model import Found, Position

RRF_K = 60
"""Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): 60 was best there and has been kept by most."""
WORDS_WEIGHT = 1.25
"""Of what words found, against 1 of what is near. Chosen on half of the recordings of `bench/quality`, told on the
other: nDCG@10 0.805 against 0.794 with equal weights (the pairwise gain is 0.011, 0.006 to 0.017; 0.017 on the chosen
half). Other k from 0 to 100 and weights to 3 were within 0.002 of it; relative scores 0.755 to 0.804; all of the words'
hits first 0.806, but then a common word hides what is meant: here the nearest comes 17th at worst."""

AGE_LOSS = 0.2
AGE_HALF_US = 30 * 86_400_000_000
"""Up to a fifth less for age, half of that after 30 days: of two texts that match as well, the newer."""


def order_key(position: Position) -> tuple[float, int, str]:
    """Sorts best first, equal scores newest first, equal times by id."""
    return (-position.score, -position.spoken_at_us, position.segment_id)


def positions(found: Sequence[Found]) -> list[Position]:
    """As they are scored, best first."""
    return sorted((Position(f.score, f.spoken_at_us, f.segment_id) for f in found), key=order_key)


def aged(found: Sequence[Found], now_us: int) -> list[Position]:
    """What words found, best first, the older the less."""
    return sorted(
        (Position(f.score * _freshness(now_us - f.spoken_at_us), f.spoken_at_us, f.segment_id) for f in found),
        key=order_key,
    )


def fused(words: Sequence[Position], near: Sequence[Position]) -> list[Position]:
    """One order from two, best first; a hit scores the sum of weight / (60 + its rank) over those that have it."""
    scores: dict[str, float] = {}
    known: dict[str, Position] = {}
    for weight, ranking in ((WORDS_WEIGHT, words), (1.0, near)):
        for rank, position in enumerate(ranking, start=1):
            scores[position.segment_id] = scores.get(position.segment_id, 0.0) + weight / (RRF_K + rank)
            known.setdefault(position.segment_id, position)
    return sorted((Position(scores[name], known[name].spoken_at_us, name) for name in known), key=order_key)


def either(rankings: Sequence[Sequence[Position]]) -> list[Position]:
    """One order of what several models found: a hit counts by the better of its ranks, because their cosines cannot be
    compared. That of one model stays as it is."""
    if len(rankings) == 1:
        return list(rankings[0])
    best: dict[str, Position] = {}
    for ranking in rankings:
        for rank, position in enumerate(ranking, start=1):
            score = 1 / (RRF_K + rank)
            held = best.get(position.segment_id)
            if held is None or held.score < score:
                best[position.segment_id] = Position(score, position.spoken_at_us, position.segment_id)
    return sorted(best.values(), key=order_key)


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


def grouped(order: Sequence[Position], recordings: Mapping[str, str]) -> tuple[list[Position], dict[str, int]]:
    """The first of each recording in an order, and how many more follow it there, by its id. `recordings`: by id."""
    first: dict[str, str] = {}
    more: dict[str, int] = {}
    kept: list[Position] = []
    for position in order:
        best = first.setdefault(recordings[position.segment_id], position.segment_id)
        if best == position.segment_id:
            kept.append(position)
            more[best] = 0
        else:
            more[best] += 1
    return kept, more


def _freshness(age_us: int) -> float:
    return 1 - AGE_LOSS + AGE_LOSS / (1 + max(age_us, 0) / AGE_HALF_US)


__all__ = ["aged", "by_time", "either", "following", "fused", "grouped", "order_key", "positions"]
