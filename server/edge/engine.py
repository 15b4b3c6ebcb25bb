"""Engine.IO on one WebSocket per client, without a queue, a task for writing, a task per message or a timer per client.

python-engineio's server and socket with their insides replaced: what is sent goes through the client's `Line`, messages
are read in one plain loop, one after the other, and `Pulse` alone knows when whom to ping. Compression is refused: it
costs 100 kB for each idle client (measured).

Policy: a client lives while anything comes from it, or while it reads what waits for it; else it is dropped at its next
ping. It is read no faster than its rate allows (`Visit`), and one that does not say CONNECT in time is dropped. What is
no packet (`streaming.protocol.packets`) ends the connection, with `server:closing` where somebody is connected. Audio
takes a short way: a chunk whose text is just as clients write it is handed to `Engine.chunk`; whatever is not goes the
ordinary way, and is refused there.

Boundary: python-engineio 4.15 and aiohttp's WebSocket; what a packet means is the business of `reading` and `sockets`.
Invariant: messages of one client are handled in order, the next when the last one has been.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

import engineio
import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import WSMsgType
from engineio import async_socket
from engineio import packet as eio_packet

from server.edge.admission import VISIT, Visit
from server.edge.delivery import BINARY, Line, frame
from server.telemetry import METRICS
from streaming.limits import Limits
from streaming.protocol.messages import Id, Offset
from streaming.protocol.outbox import Item
from streaming.protocol.packets import BrokenPacket, Frame, Packet, PacketReader, frame_of

log = logging.getLogger(__name__)

SOCKET: Final = "parlance.socket"
"""Where a handshake's environment holds its `EngineSocket`."""

CHUNK = b'451-["voice:recording:chunk",{'
"""How the text of a chunk with its one attachment begins."""

HEAD_BYTES = len(b"451-")


class _Placeholder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"placeholder": "_placeholder"}):
    placeholder: bool
    num: int


class PlainChunk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A chunk's text; its bytes are the attachment."""

    stream_id: Id
    offset: Offset
    audio: _Placeholder


_decode_chunk = msgspec.json.Decoder(tuple[str, PlainChunk]).decode


def plain_chunk(head: bytes) -> PlainChunk | None:
    """What a text that begins with `CHUNK` says; None when it is not just as clients write it."""
    try:
        _, plain = _decode_chunk(head[HEAD_BYTES:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return plain if plain.audio.placeholder and plain.audio.num == 0 else None


LATE_S = 2.0
"""A beat so late was held up here, and so was what clients said: nobody is dropped by it."""


class Chunks(Protocol):
    """Who takes chunks in the short way."""

    def __call__(self, socket: "EngineSocket", head: bytes, audio: bytes) -> bool:
        """`head`: the text, which begins with `CHUNK`. False: it is not plain, and nothing was done with it."""
        ...


class Pulse:
    """Pings each socket every `interval_s`, in the order in which they came: one timer for all."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due: dict[EngineSocket, float] = {}
        """By the time of the next beat."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, socket: "EngineSocket") -> None:
        loop = asyncio.get_running_loop()
        self._due[socket] = loop.time() + self._interval_s
        if self._timer is None:
            self._timer = loop.call_later(self._interval_s, self._beat)

    def discard(self, socket: "EngineSocket") -> None:
        self._due.pop(socket, None)

    def stop(self) -> None:
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        ready = []
        for socket, due in self._due.items():
            if due > now:
                break
            ready.append((socket, due))
        for socket, due in ready:
            del self._due[socket]
            if socket.beat(forgive=now - due > LATE_S):
                self._due[socket] = now + self._interval_s
        following = next(iter(self._due.values()), None)
        self._timer = None if following is None else loop.call_at(following, self._beat)


class EngineSocket(async_socket.AsyncSocket):  # type: ignore[misc]
    """One client. `visit` and `line` are there from the upgrade on."""

    closed: bool
    closing: bool
    visit: Visit
    line: Line | None = None
    owner: Any = None
    """Who this is, for `Chunks`."""
    goodbye: Callable[[str, str], None] | None = None
    """`Connection.close` of who is connected."""

    def __init__(self, server: "Engine", sid: str) -> None:
        super().__init__(server, sid)
        self._packets = PacketReader(server.limits)
        self._heard = True
        self._taken: int | None = None
        self._ending = False
        self._over: asyncio.Event | None = None

    # --- writing ----------------------------------------------------------------------------------------------
    async def send(self, pkt: eio_packet.Packet) -> None:
        """Never waits."""
        data = pkt.encode()
        if self.line is not None and not self.closed:
            self.line.send(Item(frame(data, BINARY) if isinstance(data, bytes) else frame(data.encode())))

    def beat(self, *, forgive: bool) -> bool:
        """Ping the client; False when it did not live since the last time, and was dropped."""
        assert self.line is not None
        before, self._taken = self._taken, self.line.taken
        if not (forgive or self._heard or (self._taken is not None and self._taken != before)):
            log.info("client does not answer", extra={"sid": self.sid})
            self.line.abort()
            return False
        self._heard = False
        self.line.ping()
        return True

    # --- reading ----------------------------------------------------------------------------------------------
    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Upgrade, and read until either side ends it."""
        self.visit = request[VISIT]
        ws = web.WebSocketResponse(max_msg_size=self.server.max_http_buffer_size, compress=False, decode_text=False)
        try:
            writer = await ws.prepare(request)
            assert writer is not None
            line = self.line = self.server.line(request, writer)
            self._greet(line)
            self.server.pulse.add(self)
            try:
                await self._read(ws)
            except ConnectionError:
                pass  # it left while a ping of its was being answered
            finally:
                await self._end(ws, line)
        finally:
            await self.close(wait=False, abort=True, reason=self.server.reason.TRANSPORT_CLOSE)
        return ws

    def _greet(self, line: Line) -> None:
        self.connected = self.upgraded = True
        told = {
            "sid": self.sid,
            "upgrades": [],
            "pingTimeout": int(self.server.ping_timeout * 1000),
            "pingInterval": int(self.server.ping_interval * 1000),
            "maxPayload": self.server.max_http_buffer_size,
        }
        line.send(Item(frame(b"0" + msgspec.json.encode(told))))

    async def _read(self, ws: web.WebSocketResponse) -> None:
        """Messages one by one. `head`: the text of a chunk in the short way, whose attachment comes next."""
        visit, head = self.visit, b""
        while not self._ending:
            message = await (ws.receive() if visit.entered else self._hello(ws))
            if message is None or (message.type is not WSMsgType.BINARY and message.type is not WSMsgType.TEXT):
                return
            data: bytes = message.data
            self._heard = True
            if message.type is WSMsgType.TEXT and data.startswith(CHUNK) and not (head or self._packets.unfinished):
                head = data
                continue
            if delay_s := visit.received(len(head) + len(data)):
                METRICS.reads_slowed.inc()
                await asyncio.sleep(delay_s)
            if self.closing:
                continue  # what was written is not lost to a reset while this is still read
            if message.type is WSMsgType.BINARY:
                if not head:
                    await self._message(data)
                elif not self.server.chunk(self, head, data):
                    await self._text(head)
                    await self._message(data)
            else:
                if head:
                    await self._text(head)
                await self._text(data)
            head = b""

    async def _hello(self, ws: web.WebSocketResponse) -> Any:
        """A message; None when CONNECT did not come in time."""
        try:
            async with asyncio.timeout((self.visit.hello_left_ms() or 0) / 1000):
                return await ws.receive()
        except TimeoutError:
            return None

    async def _text(self, data: bytes) -> None:
        try:
            text = data.decode()
            kind = frame_of(text)
        except UnicodeDecodeError:
            self.broken(BrokenPacket("Text is UTF-8."))
        except BrokenPacket as error:
            self.broken(error)
        else:
            if kind is Frame.MESSAGE:
                await self._message(text[1:])
            elif kind is Frame.CLOSE:
                self._ending = True

    async def _message(self, data: str | bytes) -> None:
        if not self._ending:
            await self.server.handlers["message"](self.sid, data)

    def packet(self, data: object) -> Packet | None:
        """The packet that is complete with this message. Raises `BrokenPacket`."""
        return self._packets.feed(data)

    def broken(self, error: BrokenPacket) -> None:
        """Nothing more is read."""
        METRICS.refusals.labels("bad_request").inc()
        self._ending = True
        if self.goodbye is not None:
            self.goodbye("bad_request", str(error))

    def end(self) -> None:
        """The client said goodbye."""
        self._ending = True

    # --- the end ----------------------------------------------------------------------------------------------
    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        """Tell who listens that this client is gone, and unless `abort` the client. With `wait` until it has gone: for
        ever, if it does not; the caller has a deadline."""
        if self.closed or self.closing:
            return
        self.closing = True
        await self.server._trigger_event(
            "disconnect", self.sid, reason or self.server.reason.SERVER_DISCONNECT, run_async=False
        )
        if not abort:
            await self.send(eio_packet.Packet(eio_packet.CLOSE))
        self.closed = True
        if wait and self.line is not None:
            self._over = asyncio.Event()
            await self._over.wait()

    async def _end(self, ws: web.WebSocketResponse, line: Line) -> None:
        """Let what waits be written, and shake hands, for as long as a client may take for it."""
        self.server.pulse.discard(self)
        try:
            await self.close(wait=False, abort=True, reason=self.server.reason.TRANSPORT_CLOSE)
            async with asyncio.timeout(self.server.limits.close_ms_max / 1000):
                await line.flushed()
                await ws.close()
        except TimeoutError:
            line.abort()
        finally:
            line.end(self.server.limits.close_ms_max)
            if self._over is not None:
                self._over.set()


class Engine(engineio.AsyncServer):  # type: ignore[misc]
    """See the module. `sockets` fills in what is missing."""

    limits: Limits
    line: Callable[[web.Request, AbstractStreamWriter], Line]
    chunk: Chunks

    def __init__(self, **options: Any) -> None:
        super().__init__(monitor_clients=False, **options)
        self.pulse = Pulse(self.ping_interval)

    def create_queue(self, *_: Any, **__: Any) -> None:
        """python-engineio's own queue has no limit: there is none."""

    async def _handle_connect(self, environ: dict[str, Any], transport: str, jsonp_index: int | None = None) -> Any:
        sid = self.generate_id()
        client = self.sockets[sid] = EngineSocket(self, sid)
        environ[SOCKET] = client
        try:
            await self.handlers["connect"](sid, environ)
            return await client.serve(environ["aiohttp.request"])
        finally:
            self.sockets.pop(sid, None)

    async def shutdown(self) -> None:
        self.pulse.stop()
        await super().shutdown()
