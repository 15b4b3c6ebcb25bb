"""What a worker's tenants want of its time, followed from second to second: for admission and for the cadence.

Policy: what speakers want is known from who speaks, so it follows within seconds; finals come every few seconds, so
they are averaged over ten. What one more speaker would want is measured while somebody speaks and kept afterwards.

Pure and without a clock: `step` is called once a second.
"""

from collections.abc import Mapping

from streaming.recogniser import link
from streaming.recogniser.cadence import Want

SPEAKERS_WEIGHT, FINALS_WEIGHT = 0.3, 0.1
"""Of the newest second."""
NOTHING = 1e-4


class Usage:
    """`wants`: shares of the worker's time by tenant; `each`: the share that one who speaks wants."""

    def __init__(self) -> None:
        self.each = 0.0
        self.wants: dict[str, Want] = {}
        self._partials: float | None = None
        self._finals = self._speaking = 0.0

    def step(self, partials: Mapping[str, float], finals: Mapping[str, float], speaking: int) -> None:
        """A second has passed. `partials`: shares that would be taken at every hop, `finals`: that were taken, by
        tenant; `speaking`: utterances behind the partials."""
        wants = {}
        for tenant in self.wants.keys() | partials.keys() | finals.keys():
            now = Want(partials.get(tenant, 0.0), finals.get(tenant, 0.0))
            old = self.wants.get(tenant, Want(now.partials, 0.0))
            share = old.partials + SPEAKERS_WEIGHT * (now.partials - old.partials)
            rest = old.finals + FINALS_WEIGHT * (now.finals - old.finals)
            if share + rest > NOTHING:
                wants[tenant] = Want(share, rest)
        self.wants = wants
        # Both fade alike when people leave, so their ratio stays.
        self._finals += FINALS_WEIGHT * (sum(finals.values()) - self._finals)
        self._speaking += FINALS_WEIGHT * (speaking - self._speaking)
        if speaking:
            mean = sum(partials.values()) / speaking
            old_mean = mean if self._partials is None else self._partials
            self._partials = old_mean + SPEAKERS_WEIGHT * (mean - old_mean)
            self.each = self._partials + self._finals / self._speaking

    def heaviest(self) -> dict[str, Want]:
        """The tenants that want most: the others hardly matter for who else finds room."""
        heavy = sorted(self.wants, key=lambda tenant: -self.wants[tenant].total)[: link.LOAD_TENANTS_MAX]
        return {tenant: self.wants[tenant] for tenant in heavy}
