"""How much of something there is for each: token buckets (so much a second, so much at once), places (so many at once).

A bucket is one number, the moment at which it will be full again, so nothing runs while nobody takes; a bucket that is
full is the same as none and can be forgotten.

Pure: every call is given `now` in milliseconds. Invariant: in any t seconds `take` gives at most `burst + t * per_s`.
"""

import math

import msgspec


class Rate(msgspec.Struct, frozen=True):
    """`per_s` for ever, `burst` at once."""

    per_s: int
    burst: int

    @property
    def burst_ms(self) -> float:
        return self.burst * 1_000 / self.per_s


NOTHING_MS = 1e-6
"""Of floats: a nanosecond is no time."""


class Bucket:
    """What one client, user, tenant or address may still take."""

    __slots__ = ("_full_at_ms", "_rate")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._full_at_ms = -math.inf

    def take(self, now_ms: float, n: int = 1) -> int:
        """0 when `n` were taken; else nothing was, and so many milliseconds from now they can be. More than the burst
        is taken as the burst."""
        rate = self._rate
        full_at_ms = max(self._full_at_ms, now_ms) + min(n, rate.burst) * 1_000 / rate.per_s
        wait_ms = full_at_ms - now_ms - rate.burst_ms
        if wait_ms > NOTHING_MS:
            return math.ceil(wait_ms - NOTHING_MS)
        self._full_at_ms = full_at_ms
        return 0

    def owe(self, now_ms: float, n: int, *, wait_ms_max: int) -> float:
        """Take `n`, if need be on credit; returns the milliseconds until nothing is owed. Who waits so long after each
        call keeps to the rate. What would take longer than `wait_ms_max` is forgiven: the debt of a bucket that many
        share would be everybody's for long after."""
        rate = self._rate
        full_at_ms = max(self._full_at_ms, now_ms) + n * 1_000 / rate.per_s
        self._full_at_ms = min(full_at_ms, now_ms + rate.burst_ms + wait_ms_max)
        return max(0.0, self._full_at_ms - now_ms - rate.burst_ms)

    def full(self, now_ms: float) -> bool:
        return self._full_at_ms <= now_ms


class Buckets:
    """Buckets by key, at most `keys_max` of them.

    Above that the key that was asked for longest ago starts anew: a stranger with a million addresses gains nothing by
    that which a new address would not give, and whoever keeps asking is not forgotten."""

    def __init__(self, rate: Rate, *, keys_max: int) -> None:
        self._rate = rate
        self._keys_max = keys_max
        self._buckets: dict[str, Bucket] = {}
        """In the order of their last use."""

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: str, now_ms: float) -> Bucket:
        """The key's bucket. It may be kept: then its owner goes on with it, whatever is forgotten here."""
        bucket = self._buckets.pop(key, None) or Bucket(self._rate)
        self._forget(now_ms)
        self._buckets[key] = bucket
        return bucket

    def _forget(self, now_ms: float) -> None:
        """Two full ones, so that they go faster than they come, and the oldest when there is no room."""
        for _ in range(2):
            oldest = next(iter(self._buckets), None)
            if oldest is None or not (len(self._buckets) >= self._keys_max or self._buckets[oldest].full(now_ms)):
                return
            del self._buckets[oldest]


class Places:
    """So many at a time, by key. Holds nothing of who is not there."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def of(self, key: str) -> int:
        return self._taken.get(key, 0)

    def take(self, key: str) -> None:
        self._taken[key] = self.of(key) + 1

    def free(self, key: str) -> None:
        left = self._taken[key] - 1
        if left:
            self._taken[key] = left
        else:
            del self._taken[key]
