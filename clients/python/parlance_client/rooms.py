"""Follow one room's numbered events: each once, in order, also across reconnects.

Pure. Invariant: the numbers for which `offer` says DELIVER grow by exactly one each.
"""

from enum import Enum


class Verdict(Enum):
    DELIVER = "deliver"
    DUPLICATE = "duplicate"
    """Seen before: a replay that overlaps what was already delivered."""
    GAP = "gap"
    """Something before it is missing: join again after `seen`."""

    LOST = "lost"
    """Still missing after joining again: the log cannot be followed."""


class Cursor:
    """`seen`: the last number delivered; None until the room's position is known."""

    def __init__(self, after_seq: int | None) -> None:
        self.seen = after_seq
        self._gap_at: int | None = None
        self._healed_at: int | None = None

    def joined(self, seq: int) -> None:
        """The server confirmed the join at `seq`; what was asked for follows. Without a position of our own, live
        events begin after `seq`."""
        if self.seen is None:
            self.seen = seq
        self._healed_at = self._gap_at

    def offer(self, seq: int) -> Verdict:
        if self.seen is None:
            # The join is not confirmed, but the socket was in the room already, as in its `user:` and `tenant:` rooms.
            self.seen = seq
            return Verdict.DELIVER
        if seq <= self.seen:
            return Verdict.DUPLICATE
        if seq > self.seen + 1:
            if self._healed_at == self.seen:
                return Verdict.LOST
            self._gap_at = self.seen
            return Verdict.GAP
        self.seen = seq
        return Verdict.DELIVER
