"""How many streams a machine serves: doubled until they are too many, then halved towards the edge.

Pure. The knee is the largest number that was measured and kept the bound, with no smaller one that broke it.
"""

from collections.abc import Mapping

STEP_SHARE = 0.125
"""Between the knee and the least number that is too many: closer makes no difference that another run would repeat."""


def knee_of(kept: Mapping[int, bool]) -> int:
    """0 when the least number that was tried broke the bound."""
    broken = [count for count, fine in kept.items() if not fine]
    limit = min(broken) if broken else max(kept, default=0) + 1
    return max((count for count in kept if count < limit), default=0)


def next_count(kept: Mapping[int, bool], most: int, share: float = STEP_SHARE) -> int | None:
    """How many streams to try next, at most `most`; None when the knee is known to within `share`. Begins with 1."""
    if not kept:
        return 1
    knee = knee_of(kept)
    broken = [count for count, fine in kept.items() if not fine]
    if not broken:
        return min(2 * knee, most) if knee < most else None
    limit = min(broken)
    if limit - knee <= max(1, int(share * limit)):
        return None
    return (knee + limit) // 2 or None
