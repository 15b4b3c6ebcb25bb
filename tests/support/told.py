"""The hub's part that tells rooms what was committed, noted instead."""

from collections.abc import Sequence

from server.store import feed


class Told:
    """`events` in the order told; `resynced`: rooms whose log is to be read again."""

    def __init__(self) -> None:
        self.events: list[feed.Event] = []
        self.resynced: list[str] = []

    def announce(self, events: Sequence[feed.Event]) -> None:
        self.events += events

    def resync(self, _tenant_id: str, room: str) -> None:
        self.resynced.append(room)
