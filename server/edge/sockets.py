"""The Socket.IO door: connect, one wrapper around every handler, disconnect.

`async_handlers=False` keeps a client's events in order; so a handler decodes, authorises, offers, and answers, and it
awaits at most one bounded store call (deadline `handler_ms_max`). This wrapper is the message boundary: whatever goes
wrong becomes an error acknowledgement, never a closed connection.

Invariant: every client event that asks for an acknowledgement gets exactly one.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import socketio
from aiohttp import web

from auth.errors import AuthError, Unauthenticated
from auth.model import Identity
from server.edge.board import StatusBoard
from server.edge.connection import Connection
from server.edge.decode import convert, decode
from server.edge.delivery import Delivery, Json
from server.edge.errors import AnyError, as_known, wire_error
from server.edge.handlers import Handlers
from server.rooms.hub import Hub
from server.telemetry import METRICS
from streaming.aio import Scope
from streaming.errors import NotFound, Overloaded, ParlanceError, Unavailable
from streaming.limits import Limits
from streaming.protocol.messages import (
    CLIENT_EVENTS,
    UNACKNOWLEDGED,
    ClientMessage,
    ConnectAuth,
    Ready,
    ServerDraining,
    TenantInfo,
    UserInfo,
    WireError,
)

log = logging.getLogger(__name__)

RESERVED = frozenset({"connect", "disconnect", "connect_error", "*"})
"""Names python-socketio dispatches to its own handlers; from a client they are just unknown events."""

RECONNECT_AFTER_MS = 1_000
"""A restart takes about 2 s; clients add their own jitter."""

Authenticate = Callable[[str], Awaitable[Identity]]
"""A token's identity, checked against the database. Raises `Unauthenticated`."""


class Server(socketio.AsyncServer):  # type: ignore[misc]
    """python-socketio with two holes closed: reserved event names from clients, and a greeting after CONNECT."""

    greet: Callable[[str], None]

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        if not isinstance(data, list) or not data or not isinstance(data[0], str) or data[0] in RESERVED:
            name = data[0] if isinstance(data, list) and data and isinstance(data[0], str) else ""
            data = ["unknown:event", name]
        await super()._handle_event(eio_sid, namespace, id, data)

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        await super()._handle_connect(eio_sid, namespace, data)
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace or "/")
        if sid is not None and self.manager.is_connected(sid, namespace or "/"):
            self.greet(sid)


FEATURES = ("server_status",)
"""Additions to PROTOCOL.md, told in `ready.features`."""


class Sockets:
    """All connections of this node. `attach` mounts it on the web application; `close` ends them."""

    def __init__(
        self,
        *,
        authenticate: Authenticate,
        handlers: Handlers,
        hub: Hub,
        board: StatusBoard,
        origins: list[str],
        limits: Limits,
    ) -> None:
        self._authenticate = authenticate
        self._handlers = handlers
        self._hub = hub
        self._board = board
        self._limits = limits
        self._origins = frozenset(origins)
        self._scope = Scope("sockets", on_error=_task_failed)
        self._connections: dict[str, Connection] = {}
        self._sio = Server(
            async_mode="aiohttp",
            async_handlers=False,
            cors_allowed_origins=self._origin_allowed,
            max_http_buffer_size=limits.message_bytes_max,
            transports=["websocket"],
            json=Json,
            logger=False,
            engineio_logger=False,
            ping_interval=20,
            ping_timeout=20,
        )
        self._sio.greet = self._greet
        self._sio.on("connect", self._connect)
        self._sio.on("disconnect", self._disconnect)
        self._sio.on("*", self._event)
        self._delivery = Delivery(self._sio, self._scope, limits)

    def _origin_allowed(self, origin: str, environ: dict[str, Any]) -> bool:
        """Pages of this very host, under whatever name it was reached, and the configured ones."""
        return origin in self._origins or urlsplit(origin).netloc == environ.get("HTTP_HOST")

    def attach(self, app: web.Application) -> None:
        self._sio.attach(app)

    def tell_status(self) -> None:
        """Tell every connection what the server can do now."""
        for connection in self._connections.values():
            connection.send("server:status", self._board.status(connection.identity.tenant_name))

    async def close(self, code: str, message: str) -> None:
        """Say goodbye to everyone, then end: whoever can is asked to come back soon, to the next process."""
        for connection in list(self._connections.values()):
            connection.send("server:draining", ServerDraining(reconnect_after_ms=RECONNECT_AFTER_MS))
            connection.close(code, message)
        await self._delivery.drain()
        await self._scope.close()
        await self._sio.shutdown()

    # --- the socket's life ------------------------------------------------------------------------------------
    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        try:
            if len(self._connections) >= self._limits.sockets_max:
                raise Overloaded("This node has no place for another connection.", retry_after_ms=5_000)
            if auth is None:
                raise Unauthenticated("A token is needed: connect with auth {token}.", field="token")
            wanted: ConnectAuth = convert(auth, ConnectAuth)
            async with asyncio.timeout(self._limits.handler_ms_max / 1000):
                identity = await self._authenticate(wanted.token)
        except Exception as error:  # the message boundary: a refusal is the only thing a caller learns
            raise self._refusal(error) from None
        self._connections[sid] = Connection(
            sid,
            identity,
            delivery=self._delivery,
            hub=self._hub,
            scope=Scope(f"connection {sid}", on_error=_task_failed, tasks_max=1_000),
            limits=self._limits,
        )
        METRICS.sockets.inc()

    def _refusal(self, error: Exception) -> socketio.exceptions.ConnectionRefusedError:
        known = _known(error, "connect")
        METRICS.refusals.labels(known.code).inc()
        body = msgspec.to_builtins(wire_error(known))
        refusal = socketio.exceptions.ConnectionRefusedError(known.message)
        refusal.error_args = {"message": known.message, "data": body}
        return refusal

    def _greet(self, sid: str) -> None:
        connection = self._connections.get(sid)
        if connection is None:
            return
        who = connection.identity
        connection.expire_at(who.expires_at)
        connection.send(
            "ready",
            Ready(
                protocol=1,
                features=list(FEATURES),
                session_id=sid,
                user=UserInfo(id=who.user_id, name=who.user_name, roles=[who.role.value]),
                tenant=TenantInfo(id=who.tenant_id, name=who.tenant_name),
                engine=self._board.engine(who.tenant_name),
                limits={
                    "message_bytes_max": self._limits.message_bytes_max,
                    "chunk_bytes_max": self._limits.chunk_bytes_max,
                    "streams_per_socket_max": self._limits.streams_per_socket_max,
                    "rooms_per_socket_max": self._limits.rooms_per_socket_max,
                    "events_read_max": self._limits.events_read_max,
                    "query_chars_max": self._limits.query_chars_max,
                    "search_hits_max": self._limits.search_hits_max,
                },
                server_time=time.time_ns() // 1_000_000,
            ),
        )
        connection.send("server:status", self._board.status(who.tenant_name))
        connection.scope.spawn(self._handlers.join_own_rooms(connection), name="own rooms")

    async def _disconnect(self, sid: str, reason: str) -> None:
        connection = self._connections.pop(sid, None)
        if connection is not None:
            self._handlers.client_gone(connection)
            await connection.end()

    # --- events -----------------------------------------------------------------------------------------------
    async def _event(self, event: str, sid: str, *payload: Any) -> Any:
        connection = self._connections.get(sid)
        if connection is None or connection.closing or not await self._delivery.served(sid):
            return None
        started = time.perf_counter()
        name = event if event in CLIENT_EVENTS else "unknown"
        try:
            return await self._handle(connection, event, payload)
        except Exception as error:  # the message boundary
            return self._refuse(connection, event, payload, error)
        finally:
            METRICS.handler_seconds.labels(name).observe(time.perf_counter() - started)

    async def _handle(self, connection: Connection, event: str, payload: tuple[Any, ...]) -> Any:
        if event not in CLIENT_EVENTS:
            connection.fault()
            return {
                "ok": False,
                "error": {"code": "unknown_event", "message": "There is no such event.", "retryable": False},
            }
        if len(payload) != 1:
            payload = (None,)
        try:
            message: ClientMessage = decode(event, payload[0])
        except ParlanceError:
            connection.fault()
            raise
        async with asyncio.timeout(self._limits.handler_ms_max / 1000):
            answer = await self._handlers.handle(connection, event, message)
        return None if event in UNACKNOWLEDGED else {"ok": True, **answer}

    def _refuse(self, connection: Connection, event: str, payload: tuple[Any, ...], error: Exception) -> Any:
        known = _known(error, event)
        METRICS.refusals.labels(known.code).inc()
        if event in UNACKNOWLEDGED:
            given = payload[0].get("stream_id") if len(payload) == 1 and isinstance(payload[0], dict) else None
            stream_id = given if isinstance(given, str) else ""
            connection.chunk_refused(stream_id, known, fatal=isinstance(known, NotFound), expected_offset=None)
            return None
        body: WireError = wire_error(known)
        return {"ok": False, "error": msgspec.to_builtins(body)}


def _known(error: Exception, event: str) -> AnyError:
    if isinstance(error, TimeoutError):
        return Unavailable("The server did not answer in time.", retry_after_ms=1_000)
    if not isinstance(error, ParlanceError | AuthError):
        log.error("handler failed", extra={"event": event}, exc_info=error)
    return as_known(error)


def _task_failed(name: str, error: BaseException) -> None:
    """The session boundary: a task of one connection failed, the connection goes on."""
    if isinstance(error, ParlanceError):
        log.warning("task of a connection failed", extra={"task": name, "code": error.code})
    else:
        log.error("task of a connection failed", extra={"task": name}, exc_info=error)
