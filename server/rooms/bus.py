"""What one node tells the others about rooms, as a port: hints that arrive in order or not at all.

Redis carries hints, Postgres the truth (DESIGN decision 5): whoever misses one finds the event in its room's log within
a second, so nothing here may wait, raise or be relied upon. The embedded server is `ALONE`.
"""

from typing import Any, Protocol

RoomKey = tuple[str, str]
"""(tenant id, room name): the same name in two tenants is two rooms."""

HERE = ""
"""The name of this very node where nodes are named by their ids."""


class Bus(Protocol):
    """To the other nodes; never waits, never raises."""

    @property
    def others(self) -> bool:
        """May anybody else be listening? Spares the encoding of partials that nobody sees."""
        ...

    def emit(self, key: RoomKey, event: str, data: dict[str, Any]) -> None:
        """Tell the room's members at the other nodes (their `Hub.hear`): a durable event as it is on the wire, with
        its `seq`, or the body of an ephemeral one. What is emitted later arrives later."""
        ...

    def fence(self, tenant_id: str, recording_id: str, epoch: int) -> None:
        """This node took a stream over: whoever runs it with an older epoch is a ghost and may stop at once."""
        ...


class Alone:
    """A bus to nobody."""

    others = False

    def emit(self, key: RoomKey, event: str, data: dict[str, Any]) -> None:
        """Nobody else is there."""

    def fence(self, tenant_id: str, recording_id: str, epoch: int) -> None:
        """Nobody else runs streams."""


ALONE = Alone()
