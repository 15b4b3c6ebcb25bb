"""A room's durable events as server-sent events, for pages and programs that speak no Socket.IO.

Policy: a stream stands at a number of its room's log and goes on from there: what is behind it is read from the log,
page by page; at the log's end it is a member of the room, and what it is told meanwhile waits in a small buffer. What
does not fit there leaves a gap, which is read from the log too. Writing waits for the client, so a slow one holds a
page, and one that takes nothing is cut off and resumes. The end of the token, and of the server, end a stream between
two events.

Boundary: aiohttp, and the broad except of the session. `EventStream` knows neither sockets nor SQL.
Invariant: the numbers written to one stream grow by exactly 1 from where it began.
"""

import asyncio
import logging
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from auth.model import Identity
from server.edge.access import readable_room
from server.edge.authenticate import Authenticator
from server.edge.callers import bearer_or_ticket, events_path
from server.edge.decode import convert
from server.rooms.hub import Hub, RoomKey
from server.store import feed
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.aio import Scope, Signal
from streaming.errors import BadRequest, Draining, HistoryTruncated, RateLimited, Unavailable
from streaming.limits import Limits
from streaming.protocol.messages import ClientMessage, RoomName

log = logging.getLogger(__name__)

SEQ = re.compile(r"[0-9]{1,16}")
COMMENT = b": still here\n\n"
LOG_RETRY_S = 1.0
"""Between looks at a log whose database is away; each says with a comment that the stream is still there."""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Proxies neither keep the stream nor collect it (nginx would, in its buffers)."""

Read = Callable[[int], Awaitable[list[feed.Event]]]
"""The next events of the log after a number. Raises `HistoryTruncated`, `Unavailable`."""
Write = Callable[[bytes], Awaitable[None]]


class EventsQuery(ClientMessage, frozen=True):
    room: RoomName


class Encoder:
    """Server-sent events as bytes; what the hub tells to one member after the other is encoded once."""

    def __init__(self) -> None:
        self._last: tuple[dict[str, Any], bytes] | None = None

    def __call__(self, data: dict[str, Any]) -> bytes:
        """`data`: the object of a durable event."""
        if self._last is None or self._last[0] is not data:
            head = f"id: {data['seq']}\nevent: {data['event']}\ndata: ".encode()
            self._last = (data, head + msgspec.json.encode(data) + b"\n\n")
        return self._last[1]


class EventStream:
    """One client's place in a room's log; a `Member` of that room. `follow` runs until `close`.

    `cursor`: the last number that was written or is about to be; `behind`: the log may hold more after it."""

    def __init__(self, room: str, encode: Encoder, limits: Limits) -> None:
        self.cursor = 0
        self.closing = False
        self._room = room
        self._encode = encode
        self._limits = limits
        self._behind = True
        self._early: deque[tuple[int, bytes]] = deque(maxlen=limits.event_stream_early_max)
        self._truncated: int | None = None
        self._changed = Signal()

    # --- as a member ------------------------------------------------------------------------------------------
    def send_event(self, _event: str, data: dict[str, Any], *, durable: bool) -> None:
        if durable:
            self._early.append((data["seq"], self._encode(data)))  # a full one drops its oldest: then there is a gap
            self._changed.set()

    def room_truncated(self, _key: RoomKey, first_seq: int) -> None:
        self._truncated = first_seq
        self._changed.set()

    def close(self) -> None:
        """End after the event that is being written."""
        self.closing = True
        self._changed.set()

    # --- following --------------------------------------------------------------------------------------------
    async def follow(self, read: Read, write: Write) -> None:
        while not self.closing:
            try:
                blocks = await self._from_log(read) if self._behind else self._told()
            except HistoryTruncated as error:
                self._truncated = error.first_seq
            except Unavailable:
                await write(COMMENT)
                await self._changes(LOG_RETRY_S)
                continue
            if self._truncated is not None:
                gone = msgspec.json.encode({"room": self._room, "first_seq": self._truncated})
                await write(b"event: history_truncated\ndata: %s\n\n" % gone)
                return
            for block in blocks:
                await write(block)
                if self.closing:
                    return
            if not blocks and not self._behind and not await self._changes(self._limits.event_stream_idle_ms / 1000):
                await write(COMMENT)

    async def _from_log(self, read: Read) -> list[bytes]:
        events = await read(self.cursor)
        if events:
            self.cursor = events[-1].seq
        self._behind = len(events) == self._limits.event_stream_page_events
        return [self._encode(event.wire()) for event in events]

    def _told(self) -> list[bytes]:
        blocks = []
        while self._early and not self._behind:
            seq, block = self._early.popleft()
            if seq == self.cursor + 1:
                self.cursor = seq
                blocks.append(block)
            elif seq > self.cursor:
                self._behind = True
        return blocks

    async def _changes(self, timeout_s: float) -> bool:
        """Wait until something was told; False when nothing was for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
            return True
        return False


class EventDoors:
    """`attach` adds the route, `close` ends every stream: both also when the application shuts down by itself."""

    def __init__(self, *, authenticate: Authenticator, database: Database, hub: Hub, limits: Limits) -> None:
        self._authenticate = authenticate
        self._database = database
        self._hub = hub
        self._limits = limits
        self._encode = Encoder()
        self._streams: dict[EventStream, tuple[Identity, web.Request]] = {}
        self._closing = False
        self._ended = Signal()

    def attach(self, app: web.Application) -> None:
        app.add_routes([web.get("/v1/events", self._events)])
        app.on_shutdown.append(self._shutdown)

    async def _shutdown(self, _: web.Application) -> None:
        await self.close()

    async def close(self) -> None:
        """End all streams between two events; who does not take the end in time is cut off. Idempotent."""
        self._closing = True
        for stream in self._streams:
            stream.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.close_ms_max / 1000):
                while self._streams:
                    await self._ended.wait()
        for _, request in self._streams.values():
            _abort(request)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        rooms = request.query.getall("room", [])
        who = await bearer_or_ticket(request, self._authenticate, path=events_path(*rooms))
        if len(rooms) != 1:
            raise BadRequest("Name one room: ?room=...", field="room")
        wanted: EventsQuery = convert({"room": rooms[0]}, EventsQuery)
        after_seq = _position(request)
        key = await readable_room(self._database, who, wanted.room)
        stream = EventStream(wanted.room, self._encode, self._limits)
        self._admit(who)
        self._streams[stream] = (who, request)
        METRICS.event_streams.inc()
        try:
            return await self._stream(request, stream, key, who, after_seq)
        finally:
            self._hub.leave(stream, key)
            del self._streams[stream]
            METRICS.event_streams.dec()
            self._ended.set()

    def _admit(self, who: Identity) -> None:
        """Raises `Draining`, `RateLimited`. Streams whose client is gone and was not noticed yet do not count."""
        if self._closing:
            raise Draining("The server is shutting down.", retry_after_ms=self._limits.event_stream_retry_ms_min)
        theirs = sum(
            (other.tenant_id, other.user_id) == (who.tenant_id, who.user_id) and not _gone(request)
            for other, request in self._streams.values()
        )
        if len(self._streams) >= self._limits.event_streams_max or theirs >= self._limits.event_streams_per_user_max:
            raise RateLimited("Too many event streams are open.", retry_after_ms=self._limits.event_streams_retry_ms)

    async def _stream(
        self, request: web.Request, stream: EventStream, key: RoomKey, who: Identity, after_seq: int | None
    ) -> web.StreamResponse:
        head = await self._hub.join(stream, key, after_seq=None)
        if after_seq is not None and after_seq < head.first_seq - 1:
            raise HistoryTruncated("The oldest events of this room are gone.", first_seq=head.first_seq)
        stream.cursor = head.seq if after_seq is None else min(after_seq, head.seq)
        response = web.StreamResponse(headers=HEADERS)
        response.content_type = "text/event-stream"
        await response.prepare(request)
        if request.method == "HEAD":
            return response

        async def read(after: int) -> list[feed.Event]:
            async with self._database.tenant_tx(key[0]) as db:
                return (await feed.page(db, *key, after_seq=after, limit=self._limits.event_stream_page_events))[1]

        async def write(block: bytes) -> None:
            async with asyncio.timeout(self._limits.event_stream_write_ms_max / 1000):
                await response.write(block)

        loop = asyncio.get_running_loop()
        expiry = loop.call_later(max(0.0, who.expires_at - time.time()), stream.close)
        try:
            async with Scope("events", on_error=_task_failed) as scope:
                scope.spawn(self._hub.catch_up(stream, key), name="catch up")
                await write(b"retry: %d\n\n" % _retry_ms(self._limits))
                await stream.follow(read, write)
                async with asyncio.timeout(self._limits.event_stream_write_ms_max / 1000):
                    await response.write_eof()
        except TimeoutError:
            METRICS.slow_consumers.inc()
            log.warning("slow reader of an event stream cut off")
            _abort(request)
        except ConnectionError:
            log.debug("the client of an event stream went away")
        except Exception:  # the session boundary: the answer has begun, so it can only be cut off
            log.exception("event stream failed")
            _abort(request)
        finally:
            expiry.cancel()
        return response


def _position(request: web.Request) -> int | None:
    """The number to go on after; the header, which browsers send when they reconnect, outweighs the query.

    Raises `BadRequest`."""
    for name, given in (
        ("Last-Event-ID", request.headers.getall("Last-Event-ID", [])),
        ("after_seq", request.query.getall("after_seq", [])),
    ):
        if given:
            if len(given) > 1 or SEQ.fullmatch(given[0]) is None:
                raise BadRequest("The number of an event is expected.", field=name)
            return int(given[0])
    return None


def _retry_ms(limits: Limits) -> int:
    least = limits.event_stream_retry_ms_min
    return least + secrets.randbelow(limits.event_stream_retry_ms_max - least)


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _task_failed(name: str, error: BaseException) -> None:
    """Catching up failed: what the stream is not told it reads when it next looks at the log."""
    log.error("task of an event stream failed", extra={"task": name}, exc_info=error)
