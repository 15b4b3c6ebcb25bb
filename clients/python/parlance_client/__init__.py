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
    ParlanceClientError,
    RecordingFailed,
    Superseded,
)
from parlance_client.events import EventStream
from parlance_client.model import Ack, Engine, Event, EventsPage, Hit, Joined, Ready, SearchResults, Tenant, User
from parlance_client.recording import LiveStream

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
    "LiveStream",
    "ParlanceClientError",
    "Ready",
    "RecordingFailed",
    "SearchResults",
    "Superseded",
    "Tenant",
    "User",
]
