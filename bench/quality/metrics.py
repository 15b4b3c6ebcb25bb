"""How good a ranking is: nDCG@10, recall@20, and how far chance may have moved a mean.

nDCG as by Jaervelin and Kekaelaeinen (TOIS 2002) in the form of Burges et al. (2005): a segment of grade g at rank r
gains (2^g - 1) / log2(r + 1); over what the best order of all judged segments would gain. Recall counts every segment
of any grade. Intervals are percentiles of means over queries that are drawn again with replacement (Efron 1979).

Pure.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

NDCG_AT, RECALL_AT = 10, 20
RESAMPLES = 2_000
INTERVAL = 0.95


class Mean(msgspec.Struct, frozen=True):
    """Of `n` queries, with the interval in which it lies nineteen times out of twenty."""

    value: float
    low: float
    high: float
    n: int


def ndcg(ranking: Sequence[str], relevant: Mapping[str, int], at: int = NDCG_AT) -> float:
    """0 to 1. A segment that stands twice counts once. Raises ValueError without a relevant segment."""
    best = _gain(sorted(relevant.values(), reverse=True)[:at])
    if not best:
        raise ValueError("nothing is relevant")
    return _gain([relevant.get(name, 0) for name in list(dict.fromkeys(ranking))[:at]]) / best


def recall(ranking: Sequence[str], relevant: Mapping[str, int], at: int = RECALL_AT) -> float:
    """The share of relevant segments that the first `at` hold. Raises ValueError without a relevant segment."""
    wanted = {name for name, grade in relevant.items() if grade > 0}
    if not wanted:
        raise ValueError("nothing is relevant")
    return len(wanted & set(ranking[:at])) / len(wanted)


def mean(values: Sequence[float], seed: int) -> Mean:
    """Raises ValueError without values."""
    if not values:
        raise ValueError("a mean of nothing")
    drawn = _resampled(values, seed)
    low, high = _interval(drawn)
    return Mean(round(float(np.mean(values)), 4), low, high, len(values))


def difference(ours: Sequence[float], theirs: Sequence[float], seed: int) -> Mean:
    """The mean of what the first has more, query by query: pairs are drawn together, so what makes a query hard for
    both is no noise."""
    return mean([a - b for a, b in zip(ours, theirs, strict=True)], seed)


def _gain(grades: Sequence[int]) -> float:
    return sum((2.0**grade - 1) / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def _resampled(values: Sequence[float], seed: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(values), (RESAMPLES, len(values)))
    means: np.ndarray[tuple[int], np.dtype[np.float64]] = np.asarray(values, dtype=np.float64)[drawn].mean(axis=1)
    return means


def _interval(means: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, float]:
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return round(float(low), 4), round(float(high), 4)
