"""One client's connection: who it is, what it listens to, and its tasks.

Everything that outlives a handler (catching up in a room, a running search, the end of the token) is a task of the
connection's scope, cancelled and awaited when the socket closes.
"""

import asyncio
import time
from collections import deque
from typing import Any

import msgspec

from auth.model import Identity
from server.edge.delivery import Delivery
from server.edge.errors import AnyError, wire_error
from server.rooms.hub import Hub, RoomKey
from server.telemetry import METRICS
from streaming.aio import Scope
from streaming.errors import ParlanceError
from streaming.limits import Limits
from streaming.protocol.messages import RecordingAck, RecordingError, ServerClosing, ServerMessage


class Connection:
    """See the module. It is a `Member` of rooms and the `Client` of live streams."""

    def __init__(
        self, sid: str, identity: Identity, *, delivery: Delivery, hub: Hub, scope: Scope, limits: Limits
    ) -> None:
        self.sid = sid
        self.identity = identity
        self.scope = scope
        self.rooms: set[RoomKey] = set()
        self.past_streams: deque[str] = deque(maxlen=limits.past_streams_max)
        self.searches: dict[str, tuple[str, asyncio.Task[Any]]] = {}
        self._delivery = delivery
        self._hub = hub
        self._limits = limits
        self._faults: deque[float] = deque(maxlen=limits.malformed_events_max)
        self._expiry: asyncio.TimerHandle | None = None
        self.closing = False
        self.ended = False

    # --- telling ----------------------------------------------------------------------------------------------
    def send(self, event: str, message: ServerMessage) -> None:
        """Queue a typed event."""
        self._delivery.send(self.sid, event, msgspec.to_builtins(message))

    def send_event(self, event: str, data: dict[str, Any], *, durable: bool) -> None:
        self._delivery.send(self.sid, event, data)

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

    # --- the end ----------------------------------------------------------------------------------------------
    def close(self, code: str, message: str) -> None:
        """Say why, then close once the queue had a chance to be written."""
        if self.closing:
            return
        self.closing = True
        self.send("server:closing", ServerClosing(code=code, message=message))
        self._delivery.close_soon(self.sid)

    def expire_at(self, expires_at: int) -> None:
        """Close when the token ends, unless it is refreshed before."""
        if self._expiry is not None:
            self._expiry.cancel()
        delay = max(0.0, expires_at - time.time())
        self._expiry = asyncio.get_running_loop().call_later(
            delay, self.close, "unauthenticated", "The access token has expired."
        )

    def fault(self) -> None:
        """A malformed or unknown event; too many in a while end the connection."""
        now = time.monotonic()
        self._faults.append(now)
        full = len(self._faults) == self._limits.malformed_events_max
        if full and now - self._faults[0] < self._limits.malformed_window_ms / 1000:
            self.close("bad_request", "Too many malformed events.")

    async def end(self) -> None:
        """After the socket closed: leave rooms, end tasks."""
        self.ended = True
        METRICS.sockets.dec()
        if self._expiry is not None:
            self._expiry.cancel()
        for key in list(self.rooms):
            self._hub.leave(self, key)
        self.rooms.clear()
        await self.scope.close()
