"""When and where to connect next. Pure: times and random numbers are the caller's."""

import math
from collections.abc import Sequence

import msgspec

STEADY_S = 10.0
"""A connection that the server sent away sooner is a failed attempt: the next one waits longer."""


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential with full jitter, so that the clients of a restarted server do not come back in step.

    `first_s`: ceiling of the first wait; it doubles up to `max_s`. `give_up_s`: how long to go on in all. The server
    keeps a stream without its client for 15 minutes by default: later a stream is `lost`, and rooms still go on.
    """

    first_s: float = 0.5
    max_s: float = 15.0
    give_up_s: float = math.inf

    def delay_s(self, attempt: int, random: float) -> float:
        """Wait before attempt number `attempt` (from 1); `random` in [0, 1)."""
        ceiling = min(self.max_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        return ceiling * random


class Route:
    """The addresses of one service, tried in turn; one that named a time is not asked before it."""

    def __init__(self, urls: Sequence[str], backoff: Backoff) -> None:
        self._urls = tuple(dict.fromkeys(urls))
        if not self._urls:
            raise ValueError("a client needs an address")
        self._not_before = [0.0] * len(self._urls)
        self._backoff = backoff
        self._at = 0
        self._failures = 0
        self._connected_at = 0.0

    def __len__(self) -> int:
        return len(self._urls)

    @property
    def url(self) -> str:
        """Where to connect now."""
        return self._urls[self._at]

    def wait_s(self, now: float, random: float) -> float:
        """How long to wait before the next attempt, which goes to `url`."""
        count = len(self._urls)
        order = sorted(range(count), key=lambda i: (max(0.0, self._not_before[i] - now), (i - self._at) % count))
        self._at = order[0]
        told_s = max(0.0, self._not_before[self._at] - now)
        return told_s + self._backoff.delay_s(1 + max(0, self._failures - 1) // count, random)

    def connected(self, now: float) -> None:
        self._connected_at = now

    def lost(self, now: float, *, sent_away: bool) -> None:
        """The connection went; `sent_away`: the server closed it and said why."""
        if not sent_away or now - self._connected_at >= STEADY_S:
            self._failures = 0
        self._failures += 1
        self._at = (self._at + 1) % len(self._urls)

    def failed(self, now: float, retry_after_ms: int | None = None) -> None:
        """An attempt failed; `retry_after_ms`: when this address wants to be asked again."""
        self._not_before[self._at] = now + (retry_after_ms or 0) / 1_000
        self._failures += 1
        self._at = (self._at + 1) % len(self._urls)
