"""What each client event does. Called by `sockets` with a decoded message; returns the acknowledgement's fields.

A handler checks access through the one door (`auth.policy.access`, behind `edge.access`), offers the work, and returns.
What takes longer runs in the connection's scope and ends in an event.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from auth.errors import Unauthenticated
from auth.model import Identity
from server.edge.access import readable_room
from server.edge.connection import Connection
from server.edge.search.searches import Searches
from server.live.desk import Desk
from server.live.stream import LiveStream
from server.rooms.hub import Hub, RoomKey
from server.store import feed
from server.store.pool import Database
from streaming.errors import NotFound, QuotaExceeded, StreamEnded, Unavailable
from streaming.limits import Limits
from streaming.protocol import messages as m
from streaming.protocol import searches as s
from streaming.protocol.messages import ClientMessage, EngineInfo

log = logging.getLogger(__name__)

JOINING_MAX = 4
"""Own rooms looked up at once: with as many connects (`sockets`) fewer than the database has connections."""

Answer = dict[str, Any]
Handler = Callable[[Connection, Any], Awaitable[Answer]]


class Handlers:
    """The table of events and what they need."""

    def __init__(
        self,
        *,
        authenticate: Callable[[str], Awaitable[Identity]],
        database: Database,
        hub: Hub,
        desk: Desk,
        searches: Searches,
        engine: Callable[[str], EngineInfo],
        limits: Limits,
    ) -> None:
        self._authenticate = authenticate
        self._database = database
        self._hub = hub
        self._desk = desk
        self._searches = searches
        self._engine = engine
        self._limits = limits
        self._joining = asyncio.Semaphore(JOINING_MAX)
        self._table: dict[str, Handler] = {
            "auth:refresh": self._auth_refresh,
            "room:join": self._room_join,
            "room:leave": self._room_leave,
            "events:read": self._events_read,
            "voice:recording:start": self._recording_start,
            "voice:recording:chunk": self._recording_chunk,
            "voice:recording:flush": self._recording_flush,
            "voice:recording:pause": self._recording_pause,
            "voice:recording:resume": self._recording_resume,
            "voice:recording:stop": self._recording_stop,
            "search:query": self._search_query,
            "search:cancel": self._search_cancel,
            "search:clicked": self._search_clicked,
            "search:suggest": self._search_suggest,
            "search:history": self._search_history,
            "search:subscribe": self._search_subscribe,
            "search:unsubscribe": self._search_unsubscribe,
        }
        assert self._table.keys() == m.CLIENT_EVENTS.keys(), "every event of the protocol has its handler"

    async def handle(self, connection: Connection, event: str, message: ClientMessage) -> Answer:
        return await self._table[event](connection, message)

    def client_gone(self, connection: Connection) -> None:
        self._desk.client_gone(connection)
        self._searches.desk.gone(connection)
        self._searches.subscriptions.gone(connection)

    # --- identity ---------------------------------------------------------------------------------------------
    async def _auth_refresh(self, connection: Connection, message: m.AuthRefresh) -> Answer:
        identity = await self._authenticate(message.token)
        who = connection.identity
        if (identity.tenant_id, identity.user_id) != (who.tenant_id, who.user_id):
            raise Unauthenticated("The new token belongs to somebody else.", field="token")
        connection.identity = identity
        connection.expire_at(identity.expires_at)
        return {"expires_at": identity.expires_at}

    # --- rooms ------------------------------------------------------------------------------------------------
    async def join_own_rooms(self, connection: Connection) -> None:
        """PROTOCOL.md: after the connect the socket is in its tenant's and its user's room."""
        who = connection.identity
        for room in (f"tenant:{who.tenant_id}", f"user:{who.user_id}"):
            key = (who.tenant_id, room)
            while key not in connection.rooms:
                if not await self._enter(connection, key):
                    await asyncio.sleep(1)

    async def _enter(self, connection: Connection, key: RoomKey) -> bool:
        """Join for what happens from now on; False while the database is away."""
        async with self._joining:
            if key in connection.rooms:
                return True
            connection.rooms.add(key)
            if self._hub.enter(connection, key):
                return True
            try:
                await self._hub.join(connection, key, after_seq=None)
            except Unavailable:
                connection.rooms.discard(key)
                return False
        await self._hub.catch_up(connection, key)
        return True

    async def _catch_up(self, connection: Connection, key: RoomKey) -> None:
        """One room at a time and at the client's pace: of a client that does not read one page is held."""
        async with connection.replaying:
            await self._hub.catch_up(connection, key, ready=connection.ready)

    async def _room_join(self, connection: Connection, message: m.RoomJoin) -> Answer:
        key = await readable_room(self._database, connection.identity, message.room)
        if key not in connection.rooms and len(connection.rooms) >= self._limits.rooms_per_socket_max:
            raise QuotaExceeded(f"At most {self._limits.rooms_per_socket_max} rooms per socket.", field="room")
        connection.rooms.add(key)
        try:
            head = await self._hub.join(connection, key, after_seq=message.after_seq)
        except BaseException:
            connection.rooms.discard(key)
            raise
        connection.scope.spawn(self._catch_up(connection, key), name="catch up")
        return {"room": message.room, "seq": head.seq, "first_seq": head.first_seq}

    async def _room_leave(self, connection: Connection, message: m.RoomLeave) -> Answer:
        key = (connection.identity.tenant_id, message.room)
        if key not in connection.rooms:
            raise NotFound("This connection is not in that room.", field="room")
        connection.rooms.discard(key)
        self._hub.leave(connection, key)
        return {"room": message.room}

    async def _events_read(self, connection: Connection, message: m.EventsRead) -> Answer:
        key = await readable_room(self._database, connection.identity, message.room)
        limit = min(message.limit, self._limits.events_read_max)
        async with self._database.tenant_tx(key[0]) as db:
            head, events = await feed.page(db, *key, after_seq=message.after_seq, limit=limit)
        told, size = [], 0
        for event in events:
            told.append(msgspec.Raw(msgspec.json.encode(event.wire())))
            size += len(told[-1])
            if size > self._limits.answer_bytes_max and len(told) > 1:
                told.pop()
                break
        # `seq` is where this page ends, so that it can be the next `after_seq`.
        seq = events[len(told) - 1].seq if events else head.seq
        return {
            "events": told,
            "seq": seq,
            "first_seq": head.first_seq,
            "more": seq < head.seq,
        }

    # --- live audio -------------------------------------------------------------------------------------------
    async def _recording_start(self, connection: Connection, message: m.RecordingStart) -> Answer:
        started = await self._desk.start(connection.identity, connection, message)
        if connection.ended:  # meanwhile: nobody else tells the stream that it has no client
            self._desk.client_gone(connection)
        connection.started(started.stream)
        return {
            "recording_id": started.stream.recording_id,
            "stream_id": started.stream.stream_id,
            "resume_token": started.resume_token,
            "offset": started.offset,
            "credit_bytes": started.credit_bytes,
            "engine": msgspec.to_builtins(self._engine(connection.identity.tenant_name)),
        }

    def _stream(self, connection: Connection, stream_id: str) -> LiveStream:
        try:
            return self._desk.of_client(connection, stream_id)
        except NotFound:
            if connection.once_fed(stream_id):
                raise StreamEnded("This stream has ended.", field="stream_id") from None
            raise

    async def _recording_chunk(self, connection: Connection, message: m.RecordingChunk) -> Answer:
        self._stream(connection, message.stream_id).chunk(message.offset, message.audio)
        return {}

    async def _recording_flush(self, connection: Connection, message: m.RecordingFlush) -> Answer:
        self._stream(connection, message.stream_id).flush(message.marker)
        return {}

    async def _recording_pause(self, connection: Connection, message: m.RecordingPause) -> Answer:
        self._stream(connection, message.stream_id).pause()
        return {}

    async def _recording_resume(self, connection: Connection, message: m.RecordingResume) -> Answer:
        self._stream(connection, message.stream_id).resume()
        return {}

    async def _recording_stop(self, connection: Connection, message: m.RecordingStop) -> Answer:
        self._stream(connection, message.stream_id).stop(message.offset)
        return {}

    # --- search -----------------------------------------------------------------------------------------------
    async def _search_query(self, connection: Connection, message: s.SearchQuery) -> Answer:
        self._searches.desk.query(connection, message)
        return {}

    async def _search_cancel(self, connection: Connection, message: s.SearchCancel) -> Answer:
        self._searches.desk.cancel(connection, message.request_id)
        return {}

    async def _search_clicked(self, connection: Connection, message: s.SearchClicked) -> Answer:
        if not self._searches.remembered.clicked(connection, message.request_id, message.segment_id):
            raise NotFound("This connection was told of no such hit.", field="segment_id")
        return {}

    async def _search_suggest(self, connection: Connection, message: s.SearchSuggest) -> Answer:
        return {"suggestions": await self._searches.suggestions.of(connection.identity, message.text, message.limit)}

    async def _search_history(self, connection: Connection, message: s.SearchHistory) -> Answer:
        if message.clear:
            await self._searches.remembered.clear(connection.identity)
            return {"queries": [], "entries": []}
        entries = await self._searches.remembered.history(connection.identity, message.limit)
        return {"queries": [entry.text for entry in entries], "entries": msgspec.to_builtins(entries)}

    async def _search_subscribe(self, connection: Connection, message: s.SearchSubscribe) -> Answer:
        return {"cursor": await self._searches.subscriptions.subscribe(connection, message)}

    async def _search_unsubscribe(self, connection: Connection, message: s.SearchUnsubscribe) -> Answer:
        self._searches.subscriptions.unsubscribe(connection, message.subscription_id)
        return {}
