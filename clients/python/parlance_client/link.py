"""One Socket.IO connection, from connect to disconnect; never used again.

Policy: events and acknowledgements are handled one after the other, in the order in which they arrived.
python-socketio's client starts a task per message: handlers that wait are reordered, and where reading a buffered
message does not yield (Python 3.12 on) a close overtakes messages that were read before it. `_OrderedEngine` handles
each message within the read loop instead, so the handler must return without waiting.

Boundary: python-socketio and aiohttp end here; above it there are only names, objects and this package's errors.
Invariant: after `closed` is set no callback runs any more, and no call is left waiting.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import aiohttp
import engineio
import socketio

from parlance_client.errors import CallFailed, CallTimeout, ConnectFailed, ConnectRefused, Disconnected

LOG = logging.getLogger("parlance_client.socketio")
LOG.setLevel(logging.ERROR)
"""Below ERROR the library logs whole packets: speech and tokens."""

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
"""How long to wait for the server's half of the WebSocket's closing handshake."""
CALL_TIMEOUT_S = 10.0
"""The server acknowledges within 2 s (PROTOCOL.md); the rest is the network's."""
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""A page of 1,000 events of 1 KB is 1 MB; 16 times that is certainly no event of ours."""

EventHandler = Callable[[str, dict[str, Any]], None]
FOREIGN = (socketio.exceptions.ConnectionError, aiohttp.ClientError, OSError, ValueError, TypeError, AttributeError)
"""What a failed connect raises: TimeoutError is an OSError, ValueError a URL that is none, the last two come from
engine.io's parser when the peer is no Socket.IO server."""


class _OrderedEngine(engineio.AsyncClient):  # type: ignore[misc]
    async def _trigger_event(self, event: str, *args: Any, **options: Any) -> Any:
        options["run_async"] = False
        return await super()._trigger_event(event, *args, **options)


class _OrderedSocket(socketio.AsyncClient):  # type: ignore[misc]
    """`on_lost()` is called whenever the transport ends, also before the connect was complete."""

    def __init__(self, on_lost: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._on_lost = on_lost

    def _engineio_client_class(self) -> type[_OrderedEngine]:
        return _OrderedEngine

    async def _handle_disconnect(self, namespace: str | None) -> None:
        # The stock method waits for the read loop to end, and here it runs within that loop.
        await self.eio.disconnect(abort=True, reason=self.reason.SERVER_DISCONNECT)

    async def _handle_eio_disconnect(self, reason: str) -> None:
        await super()._handle_eio_disconnect(reason)
        self._on_lost()


class Link:
    """Connect with `open`, end with `close`.

    `on_event(name, body)` and `on_closed()` (called once) must not wait and must not raise."""

    def __init__(self, http: aiohttp.ClientSession, on_event: EventHandler, on_closed: Callable[[], None]) -> None:
        self.closed = asyncio.Event()
        self._on_event = on_event
        self._on_closed = on_closed
        self._refusal: Any = None
        self._calls: set[asyncio.Future[Any]] = set()
        # A binary event is several packets: two senders must not mix theirs.
        self._sending = asyncio.Lock()
        self._socket = _OrderedSocket(
            self._lost,
            reconnection=False,
            handle_sigint=False,
            http_session=http,
            logger=LOG,
            engineio_logger=LOG,
            websocket_extra_options={
                "max_msg_size": MESSAGE_BYTES_MAX,
                "timeout": aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
            },
        )
        self._socket.on("*", self._received)
        self._socket.on("connect_error", self._refused)

    async def open(self, url: str, auth: dict[str, Any]) -> None:
        """Connect and authenticate. Raises `ConnectRefused` when the server says no, else `ConnectFailed`."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._socket.connect(url, auth=auth, transports=["websocket"], wait_timeout=CONNECT_TIMEOUT_S)
        except FOREIGN as error:
            await self.close()
            if isinstance(self._refusal, dict):
                raise _refusal(self._refusal) from error
            raise ConnectFailed(f"There is no answer from {url}.") from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def emit(self, event: str, body: dict[str, Any]) -> None:
        """Send without an acknowledgement. Raises `Disconnected`."""
        await self._send(event, body, None)

    async def call(
        self,
        event: str,
        body: dict[str, Any],
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        on_ack: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Send and wait for `{ok: true, ...}`. `on_ack` sees it before any event that arrived after it.

        Raises `CallFailed` for `{ok: false}`, `CallTimeout`, `Disconnected`."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def acknowledged(*args: Any) -> None:
            reply = args[0] if args else None
            if answer.done():
                return
            if on_ack is not None and isinstance(reply, dict) and reply.get("ok") is True:
                on_ack(reply)
            answer.set_result(reply)

        self._calls.add(answer)
        try:
            await self._send(event, body, acknowledged)
            async with asyncio.timeout(timeout_s):
                reply = await answer
        except TimeoutError:
            raise CallTimeout(f"{event} was not acknowledged within {timeout_s:g} s.") from None
        finally:
            self._calls.discard(answer)
            forget(answer)
        if not isinstance(reply, dict):
            raise CallFailed("internal", f"{event} was acknowledged without an object.")
        if reply.get("ok") is True:
            return reply
        error = reply.get("error")
        raise CallFailed.from_wire(error if isinstance(error, dict) else {})

    async def close(self) -> None:
        """End the connection. Idempotent."""
        try:
            async with asyncio.timeout(2 * CLOSE_TIMEOUT_S):
                await self._socket.disconnect()
        except TimeoutError:
            LOG.info("the connection did not close in time")
        finally:
            self._lost()

    async def _send(self, event: str, body: dict[str, Any], callback: Callable[..., None] | None) -> None:
        async with self._sending:
            if self.closed.is_set():
                raise Disconnected("The connection is closed.")
            try:
                await self._socket.emit(event, body, callback=callback)
            except socketio.exceptions.SocketIOError as error:
                self._lost()
                raise Disconnected("The connection is closed.") from error

    def _received(self, event: str, *args: Any) -> None:
        body = args[0] if args else {}
        if isinstance(body, dict) and not self.closed.is_set():
            self._on_event(event, body)

    def _refused(self, *args: Any) -> None:
        self._refusal = args[0] if args else None

    def _lost(self) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        for call in self._calls:
            if not call.done():
                call.set_exception(Disconnected("The connection went away before the acknowledgement."))
        self._calls.clear()
        self._on_closed()


def forget(future: "asyncio.Future[Any]") -> None:
    """Nobody waits any more: cancel it, or take its error so that it is not reported as never retrieved."""
    if not future.cancel() and not future.cancelled():
        future.exception()


def _refusal(data: dict[str, Any]) -> ConnectRefused:
    """From the packet's object: `{message, data: {code, message, retry_after_ms?}}`, or the inner object itself."""
    inner = data.get("data")
    detail = inner if isinstance(inner, dict) else data
    after = detail.get("retry_after_ms")
    return ConnectRefused(
        str(detail.get("code", "internal")),
        str(detail.get("message", "The server refused.")),
        retry_after_ms=after if isinstance(after, int) else None,
    )
