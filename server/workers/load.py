"""How busy the recogniser's workers are: for new streams, which are refused in time, and for whoever watches.

Policy: a new stream is taken while some worker could give its tenant captions on time (`streaming.recogniser.cadence`,
`on_time`), each tenant with its fair share: who has many streams fills its own. A stream that was just taken counts as
one that speaks, because the workers have not heard it yet. A worker that hardly anybody wants anything of takes one
more whatever a stream is said to cost: that was measured long ago, and nobody is there to be late. So a model that is
too slow for real time has its first stream, and never refuses for ever. Only new streams are refused; whatever comes
back is served.

Boundary: reports of workers in (`link.Load`), a verdict out; the clock is the caller's.
"""

import collections
from collections.abc import Iterable

from server.telemetry import METRICS
from streaming.limits import LIMITS
from streaming.recogniser.cadence import on_time
from streaming.recogniser.link import Load


def tell_metrics(worker: str, load: Load) -> None:
    METRICS.recogniser.busy.labels(worker).set(load.busy)
    METRICS.recogniser.delay.labels(worker).set(load.delay_ms / 1000)
    METRICS.recogniser.utterances.labels(worker).set(load.utterances)
    METRICS.recogniser.thinned.labels(worker).set(len(load.hops))


class Starts:
    """Streams that were taken in the last `starts_remembered_ms`, whose speech no report knows yet."""

    def __init__(self, remembered_ms: int = LIMITS.starts_remembered_ms) -> None:
        self._remembered_s = remembered_ms / 1000
        self._starts: collections.deque[tuple[float, str]] = collections.deque(maxlen=LIMITS.streams_max)

    def add(self, tenant: str, now: float) -> None:
        self._starts.append((now, tenant))

    def of(self, tenant: str, now: float) -> int:
        while self._starts and now - self._starts[0][0] > self._remembered_s:
            self._starts.popleft()
        return sum(started == tenant for _, started in self._starts)


IDLE = 0.1
"""Of a worker's time, wanted by all. Who falls silent is below it after ten seconds, half a minute at worst."""


def has_room(tenant: str, loads: Iterable[Load], starts: int) -> bool:
    """Whether one of the workers would give a new stream of `tenant` captions on time, after so many others that were
    just taken. Without a worker there is room: its streams wait for it."""
    known = list(loads)
    share = (starts + 1) / max(1, len(known))
    return not known or any(_takes(tenant, load, share) for load in known)


def _takes(tenant: str, load: Load, streams: float) -> bool:
    if streams <= 1 and sum(want.total for want in load.wants.values()) < IDLE:
        return True
    return on_time(tenant, load.wants, max(1.0, streams) * load.each)
