"""How often each tenant's captions are renewed, so that all of it fits into one model's time.

Policy: what a tenant wants is known (one partial a hop for everybody who speaks, and the finals), so nothing has to be
late before something is done. The model's time is shared out evenly; what a tenant leaves of its part goes to the
others. Who wants more than its part gets fewer partials: one in 1.25, 1.5, ... hops, in turns of whole ones (`Turns`).
Finals never thin out, and who wants less notices nothing. Hysteresis: what wants more than `FULL` of the time is
thinned out at once, and gets back what would have fitted into `CALM` of it for `CALM_STEPS` seconds in a row.

Quarters of a hop and not whole ones: eight live streams with tiny.en's compute on one worker had their words stable at
1.68 s instead of 2.07 s (p95, `bench captions`), because a tenant that wants a little too much lost half of it.

Measured in `tests/sim/office.py` with whole hops, p95, against asking again as soon as an answer came. Twice the
knee: a lone stream's words 0.43 s instead of 0.54 s (alone 0.41 s), because calls hold half as many windows; finals
0.13 instead of 0.21 s, half as many requests, 2% instead of a third of them expire; the crowd's words 1.30 instead of
1.26 s. Four times the knee: the crowd's words 2.2 instead of 3.4 s, finals 0.28 instead of 0.69 s. It loses where it
cannot make room: a model that decodes one by one gives the crowd its words at 3.25 s instead of 2.98 s (half the
requests), and one whose calls take 200 ms and 10 ms a window at 3.6 instead of 1.7 s, with a lone stream at 0.89
instead of 1.7 s. It also tells people that they get less (`degraded`). With `FULL` 0.9 words come 0.2 s later.

Time to spare makes captions quicker: while all that is wanted fits into `SPARE` of the model's time, hypotheses come at
parts of a hop, as far as that room and `EACH` for one who speaks allow. Where somebody is thinned out anyway, who
wants little keeps the quicker pace: it has the right to more than it takes. At 96 ms instead of 480 a word is shown
17 ms after its end instead of 207 and stable after 400 instead of 694 (p50, `bench policies`), with as many words wrong
and four times the CPU, which nobody else wants.

Pure and without a clock: `Cadence.step` is called once a second. Invariant: 1 <= hops <= `HOPS_MAX`, in quarters, for
who is thinned out; for the others `PACE_MIN` <= hops <= 1.
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
QUARTERS = 4
"""Steps of a hop in which partials thin out."""
PARTS = 5
"""Moments of a hop at which a hypothesis may be wanted: 96 ms of 480, three frames of the voice detector and about what
clients send at once."""
PACE_MIN = 1 / PARTS
SPARE = 0.6
"""Of the model's time, up to which captions may be quicker than a hop: behind it a window waits for others more than it
gains."""
EACH = 0.22
"""Of the model's time for one who speaks: a third of what a loop takes that decodes 30 s once a second with tiny.en's
compute (0.69), which is the most that a stream may cost."""
ON_TIME_HOPS = 2
"""A word is committed when two windows agree on it: at every second hop of 480 ms within 2 s, which is the knee. That
is the mean; talk comes in waves, and of all who are let in until then the words are shown within 1.6 s and committed
within 3 s (p95, simulated). At 1.5 hops it is 1.0 and 2 s, with a fifth fewer streams and nothing gained for short
replies."""


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


def hops_within(want: Want, share: float) -> float:
    """Hops between two partials, in the mean, with which a tenant keeps to its share; finals come first."""
    if want.total <= share:
        return 1
    room = share - want.finals
    return HOPS_MAX if room <= 0 else min(HOPS_MAX, math.ceil(QUARTERS * want.partials / room) / QUARTERS)


def on_time(tenant: str, wants: Mapping[str, Want], more: float) -> bool:
    """Whether captions of a tenant would still be on time when it wanted `more` of the model's time."""
    want = wants.get(tenant, Want())
    want = Want(want.partials + more, want.finals)
    others = [other.total for name, other in wants.items() if name != tenant]
    return hops_within(want, even_share([*others, want.total], ROOM)) <= ON_TIME_HOPS


class Turns:
    """Hops in whole parts whose mean is what is wanted: of 1.5 hops in one part 1, 2, 1, 2, ..."""

    def __init__(self, parts: int = PARTS) -> None:
        self._parts = parts
        self._owed = 0.0

    def next(self, hops: float) -> float:
        self._owed += hops * self._parts
        whole = int(self._owed + 1e-6)
        self._owed -= whole
        return whole / self._parts


def pace_of(wants: Iterable[Want], each: float) -> float:
    """Hops between two partials where there is time to spare; 1 where there is none. `each`: what one who speaks
    wants, 0 where nobody knows yet."""
    wants = list(wants)
    partials, room = sum(want.partials for want in wants), SPARE - sum(want.finals for want in wants)
    if room <= partials or not 0 < each < EACH:
        return 1.0
    return max(PACE_MIN, partials / room, each / EACH)


class Cadence:
    """The hops of every tenant: of those that are thinned out, and of the others."""

    def __init__(self) -> None:
        self._hops: dict[str, float] = {}
        self._calm: dict[str, int] = {}
        self._paces: dict[str, float] = {}

    @property
    def thinned(self) -> dict[str, float]:
        """Tenants with more than one hop between two partials."""
        return dict(self._hops)

    def hops(self, tenant: str) -> float:
        return self._hops.get(tenant) or self._paces.get(tenant, 1)

    def step(self, wants: Mapping[str, Want], each: float = 0.0) -> None:
        """A second has passed in which the tenants wanted this. `each`: share that one who speaks wants, 0: unknown."""
        wants = self._quicken(wants, each)
        totals = [want.total for want in wants.values()]
        full, calm = even_share(totals, FULL), even_share(totals, CALM)
        for tenant in self._hops.keys() | wants.keys():
            want, now = wants.get(tenant, Want()), self._hops.get(tenant, 1)
            needed = hops_within(want, full)
            if needed > now:
                self._set(tenant, needed)
            elif now > 1 and hops_within(want, calm) < now:
                self._calm[tenant] = self._calm.get(tenant, 0) + 1
                if self._calm[tenant] >= CALM_STEPS:
                    self._set(tenant, hops_within(want, calm))
            else:
                self._calm.pop(tenant, None)

    def _quicken(self, wants: Mapping[str, Want], each: float) -> Mapping[str, Want]:
        """Find who gets partials more often than at every hop; returns what they want then."""
        self._paces = {}
        totals = [want.total for want in wants.values()]
        if sum(totals) <= FULL:
            pace = pace_of(wants.values(), each)
            if pace < 1:
                self._paces = dict.fromkeys(wants, pace)
            return wants  # there is room for it, and who comes meanwhile makes it shrink
        pace = pace_of([], each)
        quick = {tenant: Want(want.partials / pace, want.finals) for tenant, want in wants.items()}
        even = even_share([want.total for want in quick.values()], FULL)
        light = {tenant for tenant, want in quick.items() if want.total <= even}
        self._paces = dict.fromkeys(light, pace) if pace < 1 else {}
        return {tenant: quick[tenant] if tenant in light else want for tenant, want in wants.items()}

    def _set(self, tenant: str, hops: float) -> None:
        self._calm.pop(tenant, None)
        if hops == 1:
            self._hops.pop(tenant, None)
        else:
            self._hops[tenant] = hops
