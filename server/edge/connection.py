"""One client's connection: who it is, what it listens to, and its tasks.

Everything that outlives a handler (catching up in a room, a running search) is a task of the connection's scope,
cancelled and awaited when the socket closes. Thousands of connections are idle, so what only a busy one needs is made
when it is needed (an empty deque takes 600 B), and one timer watches over the tokens of all.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from auth.model import Identity
from server.edge.admission import Visit
from server.edge.delivery import Delivery, Line
from server.edge.errors import AnyError, wire_error
from server.live.stream import LiveStream
from server.rooms.hub import Hub, RoomKey
from server.telemetry import METRICS
from streaming.aio import ErrorHandler, Scope
from streaming.errors import ParlanceError
from streaming.limits import Limits
from streaming.protocol.messages import (
    RecordingAck,
    RecordingError,
    RoomTruncated,
    ServerClosing,
    ServerMessage,
)

TASKS_MAX = 1_000
"""Of one connection: each of its rooms catches up, each of its slots searches."""

EXPIRY_LOOK_S_MAX = 3_600.0
"""Clocks are set; the ends of tokens are Unix seconds."""


class Expiries:
    """The ends of all tokens: one timer, at the next of them."""

    def __init__(self, connections: Callable[[], Iterable["Connection"]]) -> None:
        self._connections = connections
        self._next: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, at: float) -> None:
        """A token ends at this Unix second."""
        if self._next is not None and self._next <= at:
            return
        self.stop()
        self._next = at
        delay_s = min(max(0.0, at - time.time()), EXPIRY_LOOK_S_MAX)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        self.stop()
        now = time.time()
        for connection in list(self._connections()):
            if connection.closing:
                continue
            if connection.expires_at <= now:
                connection.close("unauthenticated", "The access token has expired.")
            else:
                self.expect(connection.expires_at)

    def stop(self) -> None:
        self._next = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Connection:
    """See the module. It is a `Member` of rooms and the `Client` of live streams."""

    __slots__ = (
        "_delivery", "_expiries", "_faults", "_hub", "_limits", "_line", "_on_error", "_past_streams", "_replaying",
        "_scope", "_streams", "closing", "ended", "expires_at", "identity", "rooms", "sid", "visit",
    )  # fmt: skip

    def __init__(
        self,
        sid: str,
        identity: Identity,
        *,
        line: Line,
        delivery: Delivery,
        hub: Hub,
        expiries: Expiries,
        on_error: ErrorHandler,
        limits: Limits,
        visit: Visit,
    ) -> None:
        self.sid = sid
        self.identity = identity
        self.visit = visit
        self.rooms: set[RoomKey] = set()
        self._line = line
        self._delivery = delivery
        self._hub = hub
        self._expiries = expiries
        self._on_error = on_error
        self._limits = limits
        self._scope: Scope | None = None
        self._replaying: asyncio.Lock | None = None
        self._streams: dict[str, LiveStream] | None = None
        self._past_streams: deque[str] | None = None
        self._faults: deque[float] | None = None
        self.expires_at = identity.expires_at
        self.closing = False
        self.ended = False

    @property
    def scope(self) -> Scope:
        """The owner of its tasks."""
        if self._scope is None:
            self._scope = Scope(f"connection {self.sid}", on_error=self._on_error, tasks_max=TASKS_MAX)
        return self._scope

    def rest(self) -> None:
        """Give back what an idle connection does not need."""
        if self._scope is not None and not len(self._scope) and not self.ended:
            self._scope = None

    # --- streams ----------------------------------------------------------------------------------------------
    def started(self, stream: LiveStream) -> None:
        """It feeds this stream from now on."""
        if self._streams is None or self._past_streams is None:
            self._streams, self._past_streams = {}, deque(maxlen=self._limits.past_streams_max)
        for stream_id in [known for known, other in self._streams.items() if other.ended]:
            del self._streams[stream_id]
        self._streams[stream.stream_id] = stream
        self._past_streams.append(stream.stream_id)

    def stream(self, stream_id: str) -> LiveStream | None:
        """The stream it feeds; None when it is not its own, or not any more."""
        stream = self._streams.get(stream_id) if self._streams is not None else None
        return stream if stream is not None and stream.client is self and not stream.ended else None

    def once_fed(self, stream_id: str) -> bool:
        """Was this one of its streams?"""
        return self._past_streams is not None and stream_id in self._past_streams

    # --- telling ----------------------------------------------------------------------------------------------
    def send(self, event: str, message: ServerMessage) -> None:
        """Queue a typed event."""
        self._delivery.tell_message(self._line, event, message)

    def send_event(self, event: str, data: dict[str, Any], *, durable: bool) -> None:
        self._delivery.tell(self._line, event, data)

    def room_truncated(self, key: RoomKey, first_seq: int) -> None:
        self.rooms.discard(key)
        self.send("history_truncated", RoomTruncated(room=key[1], first_seq=first_seq))

    def acknowledge(self, ack: RecordingAck) -> None:
        self.send("voice:recording:ack", ack)

    def stream_failed(self, stream_id: str, error: ParlanceError, *, fatal: bool, expected_offset: int | None) -> None:
        self.chunk_refused(stream_id, error, fatal=fatal, expected_offset=expected_offset)

    def chunk_refused(self, stream_id: str, error: AnyError, *, fatal: bool, expected_offset: int | None) -> None:
        """`voice:recording:error`."""
        self.send(
            "voice:recording:error",
            RecordingError(
                stream_id=stream_id,
                error=wire_error(error),
                fatal=fatal,
                expected_offset=msgspec.UNSET if expected_offset is None else expected_offset,
            ),
        )

    @property
    def replaying(self) -> asyncio.Lock:
        """Held by who tells it what it missed."""
        if self._replaying is None:
            self._replaying = asyncio.Lock()
        return self._replaying

    async def ready(self) -> None:
        """Wait until it has read most of what it was sent, however long that takes, or is gone."""
        if self.behind:
            await self._line.below(self._limits.answers_waiting_bytes_max)

    @property
    def behind(self) -> bool:
        """Does so much wait for it that its requests have to?"""
        return self._line.queued_bytes > self._limits.answers_waiting_bytes_max

    async def served(self) -> bool:
        """Wait until it has read most of what it was sent; False when it does not, and was cut off."""
        return await self._delivery.served(self._line)

    # --- the end ----------------------------------------------------------------------------------------------
    def close(self, code: str, message: str) -> None:
        """Say why, then close once what waits had a chance to be written."""
        if self.closing:
            return
        self.closing = True
        self.send("server:closing", ServerClosing(code=code, message=message))
        self._delivery.close_soon(self.sid, self._line)

    def expire_at(self, expires_at: int) -> None:
        """Close when the token ends, unless it is refreshed before."""
        self.expires_at = expires_at
        self._expiries.expect(expires_at)

    def fault(self) -> None:
        """A malformed or unknown event; too many in a while end the connection."""
        now = time.monotonic()
        if self._faults is None:
            self._faults = deque(maxlen=self._limits.malformed_events_max)
        self._faults.append(now)
        full = len(self._faults) == self._limits.malformed_events_max
        if full and now - self._faults[0] < self._limits.malformed_window_ms / 1000:
            self.close("bad_request", "Too many malformed events.")

    async def end(self) -> None:
        """After the socket closed: leave rooms, end tasks."""
        self.ended = True
        self.visit.leave()
        METRICS.sockets.dec()
        for key in list(self.rooms):
            self._hub.leave(self, key)
        self.rooms.clear()
        await self.scope.close()
        self._streams = None
