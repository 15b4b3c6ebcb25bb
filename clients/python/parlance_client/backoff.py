"""How long to wait before the next connection attempt. Pure: the random number is the caller's."""

import msgspec


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential with full jitter, so that the clients of a restarted server do not come back in step.

    `first_s`: ceiling of the first wait; it doubles up to `max_s`. `give_up_s`: how long to go on in all; the server
    keeps a stream without its client for 15 minutes, so later there is nothing left to resume.
    """

    first_s: float = 0.5
    max_s: float = 15.0
    give_up_s: float = 900.0

    def delay_s(self, attempt: int, random: float) -> float:
        """Wait before attempt number `attempt` (from 1); `random` in [0, 1)."""
        ceiling = min(self.max_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        return ceiling * random
