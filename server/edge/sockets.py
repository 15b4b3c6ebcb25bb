"""The Socket.IO door: connect, one wrapper around every handler, disconnect.

`async_handlers=False` keeps a client's events in order; so a handler decodes, authorises, offers, and answers, and it
awaits at most one bounded store call (deadline `handler_ms_max`). This wrapper is the message boundary: whatever goes
wrong becomes an error acknowledgement, never a closed connection.

Invariant: every client event that asks for an acknowledgement gets exactly one.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import socketio
from aiohttp import web

from auth.errors import AuthError, Unauthenticated
from auth.model import Identity
from server.edge.admission import ADMISSION, Admission
from server.edge.board import StatusBoard
from server.edge.connection import Connection, Expiries
from server.edge.decode import convert, decode
from server.edge.delivery import Delivery, Json
from server.edge.engine import SOCKET, EngineSocket, plain_chunk
from server.edge.errors import AnyError, as_known, wire_error
from server.edge.handlers import Handlers
from server.edge.reading import ReadingServer
from server.rooms.hub import Hub
from server.rooms.manager import BoundedManager
from server.telemetry import METRICS
from streaming.aio import Scope
from streaming.errors import Draining, NotFound, ParlanceError, RateLimited, Unavailable
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

CONNECTING_MAX = 4
"""Tokens looked at at once. Thousands come back together after a restart: they wait for their turn here, for as long as
for a CONNECT, not within the deadline of the database."""

Authenticate = Callable[[str], Awaitable[Identity]]
"""A token's identity, checked against the database. Raises `Unauthenticated`."""


class Server(ReadingServer):
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
            self.environ[eio_sid].clear()  # a copy of all headers, of each connection for as long as it lives
            self.greet(sid)


FEATURES = (
    "server_status", "history_truncated", "translate", "presets", "speakers",
    "search_context", "search_history", "subscriptions",
)  # fmt: skip
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
        admission: Admission | None = None,
        client_manager: BoundedManager | None = None,
    ) -> None:
        """`admission`: shared with the HTTP doors; None: one of its own with the default places."""
        self._authenticate = authenticate
        self._handlers = handlers
        self._hub = hub
        self._board = board
        self._limits = limits
        self._admission = admission or Admission(limits)
        self._origins = frozenset(origins)
        self._scope = Scope("sockets", on_error=_task_failed)
        self._connections: dict[str, Connection] = {}
        self._draining = False
        self._emptied = asyncio.Event()
        self._expiries = Expiries(self._connections.values)
        self._turns = asyncio.Semaphore(CONNECTING_MAX)
        self._sio = Server(
            limits,
            client_manager=client_manager,
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
        self._sio.eio.line = self._delivery.line
        self._sio.eio.chunk = self._chunk
        if client_manager is not None:
            client_manager.attach(hub, self._delivery.send)

    def _origin_allowed(self, origin: str, environ: dict[str, Any]) -> bool:
        """Pages of this very host, under whatever name it was reached, and the configured ones. `null`, which sandboxed
        frames and files have, is nobody's."""
        if origin in self._origins:
            return True
        try:
            host = urlsplit(origin).netloc
        except ValueError:
            return False
        return host != "" and host == environ.get("HTTP_HOST")

    def attach(self, app: web.Application) -> None:
        app[ADMISSION] = self._admission
        app.middlewares.append(self._admission.middleware)
        self._sio.attach(app)

    def tell_status(self) -> None:
        """Tell every connection what the server can do now."""
        for connection in self._connections.values():
            connection.send("server:status", self._board.status(connection.identity.tenant_name))

    async def drain(self) -> None:
        """Refuse newcomers, ask everybody to move to another node, and return when all have. They are asked for
        different moments, so that the others are not stormed."""
        self._draining = True
        for connection in self._connections.values():
            after_ms = 1 + secrets.randbelow(self._limits.drain_spread_ms)
            connection.send("server:draining", ServerDraining(reconnect_after_ms=after_ms))
        if self._connections:
            await self._emptied.wait()

    async def close(self, code: str, message: str) -> None:
        """Say goodbye to everyone, then end: whoever can is asked to come back soon, to the next process."""
        for connection in list(self._connections.values()):
            connection.send("server:draining", ServerDraining(reconnect_after_ms=RECONNECT_AFTER_MS))
            connection.close(code, message)
        await self._delivery.drain()
        await self._scope.close()
        self._expiries.stop()
        await self._sio.shutdown()

    # --- the socket's life ------------------------------------------------------------------------------------
    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        socket: EngineSocket = environ[SOCKET]
        try:
            if self._draining:
                raise Draining("This server is about to stop; connect again.", retry_after_ms=RECONNECT_AFTER_MS)
            socket.visit.knock()
            if auth is None:
                raise Unauthenticated("A token is needed: connect with auth {token}.", field="token")
            wanted: ConnectAuth = convert(auth, ConnectAuth)
            async with asyncio.timeout(self._limits.hello_ms_max / 1000), self._turns:
                identity = await self._identity(wanted.token)
            socket.visit.enter(identity)
            assert socket.line is not None, "it said CONNECT"
        except Exception as error:  # the message boundary: a refusal is the only thing a caller learns
            raise self._refusal(error) from None
        connection = self._connections[sid] = Connection(
            sid,
            identity,
            line=socket.line,
            delivery=self._delivery,
            hub=self._hub,
            expiries=self._expiries,
            on_error=_task_failed,
            limits=self._limits,
            visit=socket.visit,
        )
        socket.owner, socket.goodbye = connection, connection.close
        METRICS.sockets.inc()

    async def _identity(self, token: str) -> Identity:
        async with asyncio.timeout(self._limits.handler_ms_max / 1000):
            return await self._authenticate(token)

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
                    "search_slots_per_socket_max": self._limits.search_slots_per_socket_max,
                    "subscriptions_per_socket_max": self._limits.subscriptions_per_socket_max,
                },
                speakers=self._board.speakers(),
                server_time=time.time_ns() // 1_000_000,
            ),
        )
        connection.send("server:status", self._board.status(who.tenant_name))
        joining = connection.scope.spawn(self._handlers.join_own_rooms(connection), name="own rooms")
        joining.add_done_callback(lambda _: connection.rest())

    async def _disconnect(self, sid: str, reason: str) -> None:
        connection = self._connections.pop(sid, None)
        if connection is not None:
            self._handlers.client_gone(connection)
            await connection.end()
        if self._draining and not self._connections:
            self._emptied.set()

    # --- events -----------------------------------------------------------------------------------------------
    async def _event(self, event: str, sid: str, *payload: Any) -> Any:
        connection = self._connections.get(sid)
        if connection is None or connection.closing or not await connection.served():
            return None
        started = time.perf_counter()
        name = event if event in CLIENT_EVENTS else "unknown"
        try:
            if event not in UNACKNOWLEDGED:
                connection.visit.event(event)
            return await self._handle(connection, event, payload)
        except RateLimited as error:
            if connection.visit.runaway:
                connection.close(error.code, "Too many events, and no pause after many refusals.")
            return self._refuse(connection, event, payload, error)
        except Exception as error:  # the message boundary
            return self._refuse(connection, event, payload, error)
        finally:
            METRICS.handler_seconds.labels(name).observe(time.perf_counter() - started)

    def _chunk(self, socket: EngineSocket, head: bytes, audio: bytes) -> bool:
        """The short way of a chunk: all that `_event` does for one with which nothing is wrong."""
        connection: Connection | None = socket.owner
        if connection is None or connection.closing or connection.behind:
            return False
        plain = plain_chunk(head)
        stream = connection.stream(plain.stream_id) if plain is not None else None
        if plain is None or stream is None:
            return False
        try:
            stream.chunk(plain.offset, audio)
        except Exception as error:  # the message boundary
            self._refuse(connection, "voice:recording:chunk", ({"stream_id": plain.stream_id},), error)
        return True

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
