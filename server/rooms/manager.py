"""python-socketio's client managers, so that whatever anybody emits ends in the hub and in bounded delivery.

Policy: `sio.emit`, here or from an outside program with a write-only manager, reaches the members of our rooms, one
socket, or all of them, as an ephemeral event; never by the stock way, a task per recipient into queues without a limit.
Strangers may speak and do nothing else: nobody is disconnected or moved over Redis, and no log is touched.

Boundary: with `edge.sockets` and `edge.delivery` the only module that imports socketio; Redis is behind `redisbus`.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec
import socketio

from server.rooms.redisbus import STRANGERS, RedisBus

ROOMS = ("tenant:", "user:", "recording:")
"""How the names of our rooms begin (PROTOCOL.md)."""

Send = Callable[[str, str, Any], object]
"""Queues an event to one socket by its sid; never waits (`server.edge.delivery`)."""


class Rooms(Protocol):
    """Where rooms are spoken to (`server.rooms.hub`)."""

    def relay(self, name: str, event: str, data: Any) -> int: ...


class BoundedManager(socketio.AsyncManager):  # type: ignore[misc]
    """The manager of a node alone. `attach` comes before the first client."""

    _rooms: Rooms
    _send: Send

    def attach(self, rooms: Rooms, send: Send) -> None:
        self._rooms = rooms
        self._send = send

    def basic_disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        """The stock one looks through every socket's room, so that 2,000 goodbyes take 0.65 s; ours are in two."""
        rooms = self.rooms.get(namespace, {})
        for room in (None, sid):
            if sid in rooms.get(room, ()):
                self.basic_leave_room(sid, namespace, room)
        self.callbacks.pop(sid, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            waiting = pending.get(namespace, [])
            if sid in waiting:
                waiting.remove(sid)
                if not waiting:
                    del pending[namespace]

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str | None = "/",
        room: str | Iterable[str] | None = None,
        skip_sid: str | Iterable[str | None] | None = None,
        callback: Any = None,
        to: str | Iterable[str] | None = None,
        **_: Any,
    ) -> None:
        """To the members of rooms of ours, to sockets by their sids, or with neither to all. `skip_sid` counts for
        sockets, not for members of our rooms. Several arguments arrive as one list."""
        if callback is not None:
            raise NotImplementedError("events of rooms are not answered")
        if namespace not in (None, "/"):
            return
        target = to or room
        skipped = {skip_sid} if isinstance(skip_sid, str) else set(skip_sid or ())
        for name in [target] if target is None or isinstance(target, str) else target:
            if name is not None and name.startswith(ROOMS):
                self._rooms.relay(name, event, data)
                continue
            for sid, _eio in self.get_participants("/", name):
                if sid not in skipped and self.is_connected(sid, "/"):
                    self._send(sid, event, data)


class _Emitted(msgspec.Struct):
    """What a stock manager publishes for an event; anything else that is published is not for us."""

    method: str
    event: str
    data: Any = None
    binary: bool = False
    namespace: str | None = "/"
    room: str | list[str] | None = None
    skip_sid: str | list[str | None] | None = None
    host_id: str | None = None


_decode_emitted = msgspec.json.Decoder(_Emitted).decode


class BoundedRedisManager(socketio.AsyncRedisManager, BoundedManager):  # type: ignore[misc]
    """The manager of one node of several: what is emitted here is published for all, and strangers are heard."""

    def __init__(self, bus: RedisBus) -> None:
        super().__init__(channel=STRANGERS)
        self._bus = bus
        bus.overheard = self.overheard

    def initialize(self) -> None:
        """The first client came. The stock listener is not started: it logs each garbage and backs off to 60 s."""

    async def _publish(self, message: dict[str, Any]) -> None:
        if message["method"] == "emit":
            self._bus.publish(msgspec.json.encode(message))

    async def overheard(self, message: bytes) -> None:
        """A message on the channel of stock managers. Raises whatever its sender's mistakes lead to."""
        emitted = _decode_emitted(message)
        if emitted.method == "emit" and emitted.host_id != self.host_id:
            await self._handle_emit(msgspec.structs.asdict(emitted))
