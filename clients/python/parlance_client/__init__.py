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
    ParlanceClientError,
    RecordingFailed,
    Superseded,
    TokenFailed,
)
from parlance_client.events import EventStream
from parlance_client.journal import Journal
from parlance_client.model import Ack, Engine, Event, EventsPage, Hit, Joined, Ready, SearchResults, Tenant, User
from parlance_client.recording import LiveStream
from parlance_client.states import StreamState
from parlance_client.version import VERSION as __version__

__all__ = [
    "Ack",
    "AudioLost",
    "Backoff",
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
    "ParlanceClientError",
    "Ready",
    "RecordingFailed",
    "SearchResults",
    "StreamState",
    "Superseded",
    "Tenant",
    "TokenFailed",
    "User",
    "__version__",
]
