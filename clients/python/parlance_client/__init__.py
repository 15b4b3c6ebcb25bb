"""Async client for the Parlance speech server: live captions, search, events in order. Start at `Client`."""

from parlance_client.backoff import Backoff
from parlance_client.client import Client
from parlance_client.errors import (
    AudioLost,
    CallFailed,
    CallTimeout,
    ConnectFailed,
    ConnectRefused,
    Disconnected,
    EventsLost,
    JournalError,
    MatchesLost,
    ParlanceClientError,
    RecordingFailed,
    Superseded,
    TokenFailed,
)
from parlance_client.events import EventStream
from parlance_client.journal import Journal
from parlance_client.model import (
    Ack,
    Beside,
    Engine,
    Event,
    EventsPage,
    Hit,
    Joined,
    Match,
    Ready,
    SearchEntry,
    SearchFilters,
    SearchMode,
    SearchOptions,
    SearchResults,
    Tenant,
    User,
)
from parlance_client.recording import LiveStream
from parlance_client.searches import Subscription
from parlance_client.states import StreamState
from parlance_client.version import VERSION as __version__

__all__ = [
    "Ack",
    "AudioLost",
    "Backoff",
    "Beside",
    "CallFailed",
    "CallTimeout",
    "Client",
    "ConnectFailed",
    "ConnectRefused",
    "Disconnected",
    "Engine",
    "Event",
    "EventStream",
    "EventsLost",
    "EventsPage",
    "Hit",
    "Joined",
    "Journal",
    "JournalError",
    "LiveStream",
    "Match",
    "MatchesLost",
    "ParlanceClientError",
    "Ready",
    "RecordingFailed",
    "SearchEntry",
    "SearchFilters",
    "SearchMode",
    "SearchOptions",
    "SearchResults",
    "StreamState",
    "Subscription",
    "Superseded",
    "Tenant",
    "TokenFailed",
    "User",
    "__version__",
]
