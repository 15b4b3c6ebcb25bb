"""The values that the client hands out. Fields that a newer server adds are ignored."""

from typing import Any, Literal, TypedDict

import msgspec

SearchMode = Literal["hybrid", "keyword", "semantic"]


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


SearchFilters = TypedDict(
    "SearchFilters",
    {
        "recording_ids": list[str],
        "speakers": list[str],
        "languages": list[str],
        "tags": list[str],
        "from": int,
        "to": int,
    },
    total=False,
)
"""All of these must hold; `from` and `to`: Unix milliseconds, what was said began in [from, to). `speakers`: labels, or
names in any case."""


class SearchOptions(TypedDict, total=False):
    """How to search. `sort`: "relevance" (the default) or "newest"; `limit`: hits of a page (20); `slot`: a newer query
    in the same slot supersedes this one; `neighbours`: so many segments before and after each hit, 0 to 3; `group_by`:
    "recording" gives the best hit of each."""

    mode: SearchMode
    filters: SearchFilters | None
    sort: Literal["relevance", "newest"]
    limit: int
    slot: str
    neighbours: int
    group_by: Literal["recording"] | None


class Beside(msgspec.Struct, frozen=True):
    """What was said just before or after a hit."""

    segment_id: str
    speaker: str | None
    start_ms: int
    end_ms: int
    text: str


class Hit(msgspec.Struct, frozen=True):
    """`highlights`: [from, to) in Unicode code points of `text`; `rev`: the segment's revision, 0 from a server that
    does not tell; `before`, `after`: neighbours in time, in order, where they were asked for; `more`: further hits in
    this recording, when hits are grouped."""

    segment_id: str
    recording_id: str
    title: str
    speaker: str | None
    start_ms: int
    end_ms: int
    text: str
    highlights: list[tuple[int, int]]
    score: float
    rev: int = 0
    before: list[Beside] = []
    after: list[Beside] = []
    more: int = 0


class SearchResults(msgspec.Struct, frozen=True):
    """One phase of a query's answer: "instant", then "full". `degraded`: text alone, no vectors; `corrections`: words
    that nobody said, each with what was looked for as well."""

    request_id: str
    phase: str
    hits: list[Hit]
    took_ms: int
    next_cursor: str | None = None
    degraded: bool = False
    corrections: list[tuple[str, str]] = []
    loosened: bool = False


class Match(msgspec.Struct, frozen=True):
    """A new or revised segment that a subscription matches. `cursor`: a subscription after it is told what follows;
    `hit.score`: the cosine where its meaning matches, 1 where its words do."""

    cursor: str
    hit: Hit


class SearchEntry(msgspec.Struct, frozen=True):
    """A query of one's own. `at`: Unix milliseconds; `hits`: how many it found."""

    text: str
    at: int
    hits: int
