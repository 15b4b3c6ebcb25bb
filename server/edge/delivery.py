"""From the server to one client: encode once, write at once, or wait within a limit of bytes.

An event of a room is encoded once for all members, to the very bytes of a WebSocket frame: server frames carry no mask.
While a client takes what it is sent its frames go straight to its transport; when its transport is full they wait in
its outbox (`streaming.protocol.outbox`), and one task writes them as the client reads. A client that lets more wait
than `outbox_bytes_max` is cut off as `slow_consumer`: there is no room left to tell it so; it resumes from the log.

Policy: everything to one client takes this one way, so its order is the order of the calls: answers, room events and
packets of Socket.IO alike. Only pings overtake what waits, or a slow client would miss them and leave.

Boundary: the only module besides `sockets` and `engine` that knows Socket.IO's insides (python-socketio 5.18). Worst
case of a client that does not read: 64 KiB in its transport and one answer that was written onto them
(`answer_bytes_max`), and its outbox: 1.6 MiB.
"""

import asyncio
import contextlib
import logging
import socket
from typing import Any

import msgspec
import socketio
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from server.telemetry import METRICS
from streaming.aio import Scope
from streaming.limits import KIB, Limits
from streaming.protocol.messages import RecordingAck, ServerMessage
from streaming.protocol.outbox import Item, Key, Outbox, Verdict

log = logging.getLogger(__name__)

TEXT, BINARY = 0x81, 0x82
"""First bytes of whole frames (RFC 6455)."""

FLUSH_BYTES = 64 * KIB
"""Written at once to a transport that has room again; as much as a transport holds before it is full."""

UNSENT_BYTES = 64 * KIB
"""What the kernel keeps of one client beyond what is on its way: a partial grows old there, in the outbox it is
replaced."""


def frame(data: bytes, first: int = TEXT) -> bytes:
    """The frame of one Engine.IO packet: text in UTF-8, or an attachment (`BINARY`)."""
    size = len(data)
    if size < 126:
        return bytes((first, size)) + data
    if size < 65_536:
        return bytes((first, 126)) + size.to_bytes(2) + data
    return bytes((first, 127)) + size.to_bytes(8) + data


PING = frame(b"2")


class Line:
    """The way to one client. Used from the loop's thread only; never raises, never waits unless it says so."""

    __slots__ = ("_delivery", "_flushed", "_moved", "_outbox", "_protocol", "_transport", "_writer", "ended")

    def __init__(self, delivery: "Delivery", request: web.Request, writer: AbstractStreamWriter) -> None:
        assert request.transport is not None, "an upgraded request has its transport"
        self._delivery = delivery
        self._transport = request.transport
        self._protocol = request.protocol
        self._writer = writer
        self._outbox: Outbox | None = None
        """There while the client has to wait."""
        self._flushed = 0
        self._moved: asyncio.Event | None = None
        self.ended = False
        """Nothing is sent any more."""
        if (sock := self._transport.get_extra_info("socket")) is not None:
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def send(self, item: Item) -> bool:
        """Write or queue a message. False when the client is gone, was cut off, or needs it no more."""
        if self._outbox is None and not self._protocol.writing_paused:
            if self.ended or self._transport.is_closing():
                return False
            self._transport.write(item.data)
            return True
        return self._queue(item)

    def ping(self) -> None:
        """Ahead of what waits, between two messages."""
        if not self.ended and not self._transport.is_closing():
            self._transport.write(PING)

    def _queue(self, item: Item) -> bool:
        if self.ended or self._transport.is_closing():
            return False
        if self._outbox is None:
            self._outbox = Outbox(self._delivery.limits.outbox_bytes_max)
            self._delivery.scope.spawn(self._flush(self._outbox), name="flush")
        verdict = self._outbox.offer(item)
        if verdict is Verdict.OVERFLOW:
            self.slow()
        return verdict is Verdict.QUEUED

    async def _flush(self, outbox: Outbox) -> None:
        """Write what waits as the client reads, until nothing does."""
        try:
            while len(outbox) and not self.ended:
                await self._writer.drain()
                if self.ended or self._transport.is_closing():
                    break
                ready = outbox.take(FLUSH_BYTES)
                self._flushed += sum(map(len, ready))
                self._transport.writelines(ready)
                self._wake()
        except ConnectionError:
            self.ended = True
        finally:
            self._outbox = None
            self._wake()

    def _wake(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    # --- what waits -------------------------------------------------------------------------------------------
    @property
    def queued_bytes(self) -> int:
        """In the outbox."""
        return 0 if self._outbox is None else self._outbox.waiting_bytes

    @property
    def held_bytes(self) -> int:
        """In all: the outbox, and what the kernel has not taken."""
        return self.queued_bytes + self._transport.get_write_buffer_size()

    @property
    def taken(self) -> int | None:
        """A number that changes as the client reads; None while it need not wait."""
        if self._outbox is None and not self._protocol.writing_paused:
            return None
        return self._flushed - self._transport.get_write_buffer_size()

    async def below(self, n_bytes: int, *, wait_ms: int | None = None) -> bool:
        """Wait until no more than `n_bytes` are queued; False when it is gone, or takes nothing for `wait_ms`."""
        taken = self.taken
        while self.queued_bytes > n_bytes and not self.ended:
            try:
                async with asyncio.timeout(wait_ms / 1000 if wait_ms is not None else None):
                    await self._next_move()
            except TimeoutError:
                before, taken = taken, self.taken
                if before == taken:
                    return False
        return not self.ended

    async def flushed(self) -> None:
        """Wait until everything is in the transport; for ever, if the client does not read."""
        while self._outbox is not None and not self.ended:
            await self._next_move()

    async def _next_move(self) -> None:
        if self._moved is None:
            self._moved = asyncio.Event()
        await self._moved.wait()

    # --- the end ----------------------------------------------------------------------------------------------
    def slow(self) -> None:
        """Cut the client off: it does not read."""
        METRICS.slow_consumers.inc()
        log.warning("slow consumer cut off", extra={"queued_bytes": self.queued_bytes})
        self.abort()

    def end(self, within_ms: int) -> None:
        """Nothing more is sent; what the transport holds may go for so long."""
        self.ended = True
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(within_ms / 1000, self._transport.abort)

    def abort(self) -> None:
        """Drop the connection, and what waits."""
        self.ended = True
        self._transport.abort()
        self._wake()


class Delivery:
    """Encodes, and ends connections. Used from the loop's thread only."""

    def __init__(self, sio: socketio.AsyncServer, scope: Scope, limits: Limits) -> None:
        self.scope = scope
        self.limits = limits
        self._sio = sio
        self._closing: set[asyncio.Task[None]] = set()
        self._event = ""
        self._data: Any = None
        self._item = Item(b"")
        self._sent = 0

    def line(self, request: web.Request, writer: AbstractStreamWriter) -> Line:
        """The way to a client whose upgrade was just answered."""
        return Line(self, request, writer)

    def send(self, sid: str, event: str, data: Any) -> bool:
        """An event to who is connected as `sid`. False when nobody is, or was cut off."""
        line = self.line_of(sid)
        return line is not None and self.tell(line, event, data)

    def line_of(self, sid: str) -> Line | None:
        eio_sid = self._sio.manager.eio_sid_from_sid(sid, "/")
        engine_socket = self._sio.eio.sockets.get(eio_sid) if eio_sid else None
        return engine_socket.line if engine_socket is not None else None

    def tell(self, line: Line, event: str, data: Any) -> bool:
        """One event to one client. Members of a room are told one after another: `data` of the last call is known by
        its identity, and held, so that nothing else can be at its place."""
        if data is not self._data or event != self._event:
            self._event, self._data, self._item = event, data, encoded(event, data)
        return self._counted(line.send(self._item))

    def tell_message(self, line: Line, event: str, message: ServerMessage) -> bool:
        """The same with a typed message to one client alone."""
        payload = b"42" + msgspec.json.encode((event, message))
        return self._counted(line.send(Item(frame(payload), key=_message_key(event, message))))

    def _counted(self, sent: bool) -> bool:
        if sent:
            if not self._sent:
                asyncio.get_running_loop().call_soon(self._count)
            self._sent += 1
        return sent

    def _count(self) -> None:
        METRICS.events_sent.inc(self._sent)
        self._sent = 0

    async def served(self, line: Line) -> bool:
        """Wait until the client has read most of what it was sent; False when it does not and was cut off.

        Called before a request is handled: answers wait in the same outbox, and only this client waits."""
        limits = self.limits
        if line.queued_bytes <= limits.answers_waiting_bytes_max:
            return not line.ended
        if await line.below(limits.answers_waiting_bytes_max, wait_ms=limits.answers_wait_ms_max):
            return True
        if not line.ended:
            line.slow()
        return False

    def close_soon(self, sid: str, line: Line) -> None:
        """Let what waits be written, close in an orderly way, and cut off after a while what does not go."""
        task = self.scope.spawn(self._close(sid, line), name=f"close {sid}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def drain(self) -> None:
        """Wait for the closes under way; each is bounded by `Limits.close_ms_max`."""
        if self._closing:
            await asyncio.wait(self._closing)

    async def _close(self, sid: str, line: Line) -> None:
        eio_sid = self._sio.manager.eio_sid_from_sid(sid, "/")
        try:
            async with asyncio.timeout(self.limits.close_ms_max / 1000):
                await self._sio.disconnect(sid)
                if eio_sid is not None:
                    await self._sio.eio.disconnect(eio_sid)
        except TimeoutError:
            line.abort()


def encoded(event: str, data: Any) -> Item:
    """An event as the frames it goes out in; several for binary, which nothing may come between."""
    packet = socketio.packet.Packet(socketio.packet.EVENT, data=[event, data]).encode()
    if isinstance(packet, list):
        frames = frame(b"4" + packet[0].encode()) + b"".join(frame(bytes(part), BINARY) for part in packet[1:])
    else:
        frames = frame(b"4" + packet.encode())
    key, settles = _data_keys(event, data)
    return Item(frames, key=key, settles=settles)


def _data_keys(event: str, data: Any) -> tuple[Key | None, Key | None]:
    """What a newer one replaces, and what this one settles."""
    if event not in ("transcript:partial", "transcript:final") or not isinstance(data, dict):
        return None, None
    room, segment_id = data.get("room"), data.get("segment_id")
    if not isinstance(room, str) or not isinstance(segment_id, str):
        return None, None
    key = ("partial", room, segment_id)
    return (key, None) if event == "transcript:partial" else (None, key)


def _message_key(event: str, message: ServerMessage) -> Key | None:
    if isinstance(message, RecordingAck):
        return (event, message.stream_id)
    return (event,) if event == "server:status" else None


class Json:
    """The `json` module of python-socketio, by msgspec: three times as fast, and it refuses NaN and infinity."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise ValueError("not JSON") from error
