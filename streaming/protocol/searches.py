"""The messages of search: queries, subscriptions, suggestions, history.

Pure. `streaming.protocol.messages` puts them into the tables of all events.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from streaming.limits import LIMITS
from streaming.protocol.base import ClientMessage, Id, ServerMessage, WireError

QueryText = Annotated[str, Meta(max_length=LIMITS.query_chars_max)]
SearchMode = Literal["hybrid", "keyword", "semantic"]


class SearchFilters(ClientMessage, frozen=True, rename={"from_": "from"}):
    """`from` and `to`: Unix milliseconds, the start of the segment lies in [from, to)."""

    recording_ids: Annotated[list[Id], Meta(max_length=100)] | None = None
    speakers: Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(max_length=100)] | None = None
    languages: Annotated[list[Annotated[str, Meta(max_length=35)]], Meta(max_length=100)] | None = None
    tags: Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(max_length=100)] | None = None
    from_: Annotated[int, Meta(ge=0)] | None = None
    to: Annotated[int, Meta(ge=0)] | None = None


class SearchQuery(ClientMessage, frozen=True):
    """`neighbours`: so many segments before and after each hit; `group_by`: the best hit of each recording, with how
    many `more` there are (feature "search_context")."""

    request_id: Id
    text: QueryText
    slot: Annotated[str, Meta(min_length=1, max_length=50)] = "default"
    mode: SearchMode = "hybrid"
    filters: SearchFilters | None = None
    sort: Literal["relevance", "newest"] = "relevance"
    limit: Annotated[int, Meta(ge=1)] = 20
    cursor: Annotated[str, Meta(max_length=500)] | None = None
    neighbours: Annotated[int, Meta(ge=0, le=LIMITS.search_neighbours_max)] = 0
    group_by: Literal["recording"] | None = None


class SearchCancel(ClientMessage, frozen=True):
    request_id: Id


class SearchClicked(ClientMessage, frozen=True):
    """Somebody opened a hit of a query that this connection was answered."""

    request_id: Id
    segment_id: Id


class SearchSuggest(ClientMessage, frozen=True):
    text: QueryText
    limit: Annotated[int, Meta(ge=1)] = 8


class SearchHistory(ClientMessage, frozen=True):
    """`clear`: forget all of it; then the answer is empty."""

    limit: Annotated[int, Meta(ge=1)] = 20
    clear: bool = False


class SearchSubscribe(ClientMessage, frozen=True):
    """`min_score`: the least cosine of a match by meaning; `after`: the `cursor` of the last match that was seen, or
    of an earlier acknowledgement."""

    subscription_id: Id
    text: Annotated[str, Meta(min_length=1, max_length=LIMITS.query_chars_max)]
    mode: SearchMode = "hybrid"
    filters: SearchFilters | None = None
    min_score: Annotated[float, Meta(ge=0, le=1)] | None = None
    after: Annotated[str, Meta(min_length=3, max_length=40)] | None = None


class SearchUnsubscribe(ClientMessage, frozen=True):
    subscription_id: Id


class SearchBeside(ServerMessage, frozen=True):
    """What was said just before or after a hit."""

    segment_id: str
    speaker: str | None
    start_ms: int
    end_ms: int
    text: str


class SearchHit(ServerMessage, frozen=True):
    """`highlights`: [from, to) in Unicode code points of `text`; `before`, `after`: neighbours in order, when they were
    asked for; `more`: further hits in this recording, when hits are grouped."""

    segment_id: str
    recording_id: str
    title: str
    speaker: str | None
    start_ms: int
    end_ms: int
    rev: int
    text: str
    highlights: list[tuple[int, int]]
    score: float
    before: list[SearchBeside] | UnsetType = UNSET
    after: list[SearchBeside] | UnsetType = UNSET
    more: int | UnsetType = UNSET


class SearchResults(ServerMessage, frozen=True):
    """`corrections`: words that nobody said, each with what was looked for as well; `loosened`: no segment has all of
    the words, these have some."""

    request_id: str
    phase: Literal["instant", "full"]
    hits: list[SearchHit]
    took_ms: int
    next_cursor: str | UnsetType = UNSET
    degraded: bool | UnsetType = UNSET
    corrections: list[tuple[str, str]] | UnsetType = UNSET
    loosened: bool | UnsetType = UNSET


class SearchFailed(ServerMessage, frozen=True):
    request_id: str
    error: WireError


class SearchSuperseded(ServerMessage, frozen=True):
    request_id: str


class SearchMatch(ServerMessage, frozen=True):
    """A new or revised segment that a subscription matches (feature "subscriptions"). `hit.score`: the cosine where
    its meaning matches, 1 where its words do."""

    subscription_id: str
    cursor: str
    hit: SearchHit


class SearchUnsubscribed(ServerMessage, frozen=True):
    """The server ended a subscription: what it should have been told is gone, or could not be read."""

    subscription_id: str
    error: WireError


class SearchEntry(ServerMessage, frozen=True):
    """A query of one's own. `at`: Unix milliseconds."""

    text: str
    at: int
    hits: int


CLIENT_EVENTS: dict[str, type[ClientMessage]] = {
    "search:query": SearchQuery,
    "search:cancel": SearchCancel,
    "search:clicked": SearchClicked,
    "search:suggest": SearchSuggest,
    "search:history": SearchHistory,
    "search:subscribe": SearchSubscribe,
    "search:unsubscribe": SearchUnsubscribe,
}

SERVER_EVENTS: dict[str, type[ServerMessage]] = {
    "search:results": SearchResults,
    "search:failed": SearchFailed,
    "search:superseded": SearchSuperseded,
    "search:match": SearchMatch,
    "search:unsubscribed": SearchUnsubscribed,
}
