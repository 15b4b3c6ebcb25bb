"""How often each tenant's captions are renewed, so that all of it fits into one model's time.

Policy: what a tenant wants is known (one partial a hop for everybody who speaks, and the finals), so nothing has to be
late before something is done. The model's time is shared out evenly; what a tenant leaves of its part goes to the
others. Who wants more than its part gets its partials at every second, third, ... hop: partials thin out, finals never
do, and who wants less notices nothing. Hysteresis: what wants more than `FULL` of the time is thinned out at once, and
a hop is given back when everything would have fitted into `CALM` of it for `CALM_STEPS` seconds in a row.

Measured in `tests/sim/office.py` at twice the knee: words of the crowd p50 0.98 s, p95 2.3 s; without a cadence, asking
again as soon as an answer came, 1.1 and 2.3 s, but twice as many requests that expire. So it makes nothing later, tells
people that they get less (`degraded`), and who makes the load is who gets less. With `FULL` 0.9: p95 2.5 s.

Pure and without a clock: `Cadence.step` is called once a second. Invariant: 1 <= hops <= `HOPS_MAX`.
"""

import math
from collections.abc import Iterable, Mapping

import msgspec

FULL = 1.0
"""Share of the model's time that is given away: a little too much is caught by partials that expire."""
CALM = 0.85
"""Speakers come and go: with seven, one more or less moves the wanted share by that much."""
CALM_STEPS = 3
ROOM = 0.9
"""Of the model's time for those who are let in. At 0.9 a partial waits for four others (M/D/1), above for ever more."""
HOPS_MAX = 8
"""3.8 s between two captions at 480 ms: most utterances are over by then, and have their final."""
ON_TIME_HOPS = 2
"""A word is committed when two windows agree on it: at every second hop of 480 ms within 2 s, which is the knee."""


class Want(msgspec.Struct, frozen=True):
    """Shares of the model's time that a tenant could use: for a partial at every hop, and for finals."""

    partials: float = 0.0
    finals: float = 0.0

    @property
    def total(self) -> float:
        return self.partials + self.finals


def even_share(wanted: Iterable[float], capacity: float) -> float:
    """The largest part that everybody may have so that the parts, none above what is wanted, fit into `capacity`;
    infinite where everything fits (max-min fairness)."""
    left, shares = capacity, sorted(wanted)
    for index, share in enumerate(shares):
        even = left / (len(shares) - index)
        if share > even:
            return even
        left -= share
    return math.inf


def hops_within(want: Want, share: float) -> int:
    """Hops between two partials with which a tenant keeps to its share; finals come first."""
    if want.total <= share:
        return 1
    room = share - want.finals
    return HOPS_MAX if room <= 0 else min(HOPS_MAX, math.ceil(want.partials / room))


def on_time(tenant: str, wants: Mapping[str, Want], more: float) -> bool:
    """Whether captions of a tenant would still be on time when it wanted `more` of the model's time."""
    want = wants.get(tenant, Want())
    want = Want(want.partials + more, want.finals)
    others = [other.total for name, other in wants.items() if name != tenant]
    return hops_within(want, even_share([*others, want.total], ROOM)) <= ON_TIME_HOPS


class Cadence:
    """The hops of every tenant that is thinned out."""

    def __init__(self) -> None:
        self._hops: dict[str, int] = {}
        self._calm: dict[str, int] = {}

    @property
    def thinned(self) -> dict[str, int]:
        """Tenants with more than one hop between two partials."""
        return dict(self._hops)

    def hops(self, tenant: str) -> int:
        return self._hops.get(tenant, 1)

    def step(self, wants: Mapping[str, Want]) -> None:
        """A second has passed in which the tenants wanted this."""
        totals = [want.total for want in wants.values()]
        full, calm = even_share(totals, FULL), even_share(totals, CALM)
        for tenant in self._hops.keys() | wants.keys():
            want, now = wants.get(tenant, Want()), self.hops(tenant)
            needed = hops_within(want, full)
            if needed > now:
                self._set(tenant, needed)
            elif now > 1 and hops_within(want, calm) < now:
                self._calm[tenant] = self._calm.get(tenant, 0) + 1
                if self._calm[tenant] >= CALM_STEPS:
                    self._set(tenant, now - 1)
            else:
                self._calm.pop(tenant, None)

    def _set(self, tenant: str, hops: int) -> None:
        self._calm.pop(tenant, None)
        if hops == 1:
            self._hops.pop(tenant, None)
        else:
            self._hops[tenant] = hops
