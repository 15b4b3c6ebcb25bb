"""Which partials of one room may still be shown, when they come over a network that reorders them against the log.

Policy: none follows its final (PROTOCOL.md), and after a takeover only the new owner speaks. From one node partials and
finals come in order; but a final may overtake its partials through Postgres, and a fenced owner may not know it yet.

Pure. Invariant: what was refused once stays refused, until `FINISHED_MAX` later finals.
"""

FINISHED_MAX = 32
"""Finals remembered per room, each some 30 bytes. At one utterance a second a partial would be half a minute late."""


class Partials:
    """One room's memory. Nodes are named by their ids."""

    __slots__ = ("_epoch", "_finished", "_owner")

    def __init__(self) -> None:
        self._finished: dict[str, None] = {}
        self._owner: str | None = None
        self._epoch = 0

    def final(self, segment_id: object) -> None:
        """The segment is finished."""
        if isinstance(segment_id, str):
            self._finished[segment_id] = None
            if len(self._finished) > FINISHED_MAX:
                del self._finished[next(iter(self._finished))]

    def owned(self, node: str, epoch: int) -> None:
        """`node` runs the recording's stream since `epoch`; older news are ignored."""
        if epoch > self._epoch:
            self._owner, self._epoch = node, epoch

    def may_show(self, node: str, segment_id: object) -> bool:
        """May a partial that `node` told be shown?"""
        return segment_id not in self._finished and self._owner in (None, node)
