"""The values that the client hands out. Fields that a newer server adds are ignored."""

from typing import Any

import msgspec


class User(msgspec.Struct, frozen=True):
    id: str
    name: str
    roles: list[str] = []


class Tenant(msgspec.Struct, frozen=True):
    id: str
    name: str


class Engine(msgspec.Struct, frozen=True):
    """`notice`: one sentence that a person should read about this engine."""

    name: str
    model: str
    state: str
    notice: str | None = None


class Ready(msgspec.Struct, frozen=True):
    """The server's first word on a connection. `server_time`: Unix milliseconds."""

    protocol: int
    features: list[str]
    session_id: str
    user: User
    tenant: Tenant
    engine: Engine
    limits: dict[str, Any]
    server_time: int


class Event(msgspec.Struct, frozen=True):
    """One server event. `body` is the whole object as it came; do not change it."""

    name: str
    body: dict[str, Any]

    @property
    def room(self) -> str | None:
        return self.body.get("room")

    @property
    def seq(self) -> int | None:
        """Number in its room's log; None for ephemeral events."""
        return self.body.get("seq")


class Joined(msgspec.Struct, frozen=True):
    """`seq`: the room's last event when it was joined, `first_seq`: the oldest still in the log."""

    room: str
    seq: int
    first_seq: int


class EventsPage(msgspec.Struct, frozen=True):
    """One page of a room's log. `seq`: the room's last event; `more`: another page follows."""

    events: list[Event]
    seq: int
    more: bool


class Ack(msgspec.Struct, frozen=True):
    """How far the server is with a stream; bytes of the encoded stream, milliseconds of its audio."""

    stream_id: str
    received_bytes: int
    durable_bytes: int
    credit_bytes: int
    received_ms: int = 0
    processed_ms: int = 0
    committed_ms: int = 0
    lag_ms: int = 0
    degraded: bool = False


class StreamStarted(msgspec.Struct, frozen=True):
    """The acknowledgement of `voice:recording:start`. `offset`: the byte at which to continue."""

    recording_id: str
    stream_id: str
    resume_token: str
    offset: int
    credit_bytes: int
    engine: Any = None


class Hit(msgspec.Struct, frozen=True):
    """`highlights`: [from, to) in Unicode code points of `text`."""

    segment_id: str
    recording_id: str
    title: str
    speaker: str | None
    start_ms: int
    end_ms: int
    text: str
    highlights: list[tuple[int, int]]
    score: float


class SearchResults(msgspec.Struct, frozen=True):
    """One phase of a query's answer: "instant", then "full". `degraded`: text alone, no vectors."""

    request_id: str
    phase: str
    hits: list[Hit]
    took_ms: int
    next_cursor: str | None = None
    degraded: bool = False
