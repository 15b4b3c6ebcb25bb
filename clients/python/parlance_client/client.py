"""The client: requests, rooms, events, live streams and searches over one logical connection that outlives its sockets.

Policy: after a lost connection it joins its rooms after the last number seen, and its streams take their recordings
over. Events of a joined room reach the readers once each and in order; what cannot be had any more is an `EventsLost`,
never a silence.

Boundary: connecting is `connection`'s, numbers `rooms`', bytes `flow`'s, queries and subscriptions are `searches`'.
Invariant: leaving the client leaves no task behind.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, Unpack

import aiohttp
import msgspec

from parlance_client.backoff import Backoff
from parlance_client.connection import Connection
from parlance_client.errors import (
    CallFailed,
    CallTimeout,
    Disconnected,
    EventsLost,
    ParlanceClientError,
)
from parlance_client.events import EventStream
from parlance_client.flow import Flow
from parlance_client.link import CALL_TIMEOUT_S, Link
from parlance_client.model import (
    Ack,
    Event,
    EventsPage,
    Joined,
    Ready,
    SearchEntry,
    SearchFilters,
    SearchMode,
    SearchOptions,
    SearchResults,
    StreamStarted,
)
from parlance_client.recording import RETRY_MS, RING_BYTES, LiveStream
from parlance_client.rooms import Cursor, Verdict
from parlance_client.searches import Searches, Subscription
from parlance_client.tokens import TokenSource
from parlance_client.version import VERSION

EVENTS_MAX = 4_096
"""Events that wait for one reader: at 50 a second, a reader may stall for more than a minute."""
MATCHES_MAX = 1_000
"""Matches that wait for the reader of a subscription: 1 MB; what is beyond is asked for again."""
SAMPLE_BYTES = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1}
PCM_RATE, MULAW_RATE = 16_000, 8_000
"""Hz, where the caller names none."""


class Client:
    """`async with Client(url, token) as client:`; enter and leave it in the same task.

    `url`, `urls`: the addresses of one service, tried in turn when a connection is lost. `token`: an access token or an
    API key, or a function, plain or async, that gives a fresh token: it is asked for each connection and before the
    token ends. Entering raises `ConnectFailed` or one of its kin; later connections are the client's own business,
    until `backoff.give_up_s`.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        urls: Sequence[str] = (),
        client: str = f"parlance-client/{VERSION}",
        backoff: Backoff | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._connection = Connection(
            [url, *urls],
            token,
            client,
            backoff or Backoff(),
            on_event=self._dispatch,
            on_up=self._connected,
            on_down=self._disconnected,
        )
        self._bell = self._connection.bell
        self._call_timeout_s = call_timeout_s
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rooms: dict[str, Cursor] = {}
        self._behind: dict[str, None] = {}
        self._streams: dict[str, LiveStream] = {}
        self._searches = Searches(self._connection, call_timeout_s, self._spawn)
        self._readers: set[EventStream] = set()

    @property
    def ready(self) -> Ready:
        """What the server said on the newest connection."""
        assert self._connection.ready is not None, "enter the client first"
        return self._connection.ready

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._connection.link is not None

    # --- life -----------------------------------------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession())
            stack.push_async_callback(self._connection.close)
            await self._connection.open(http)
            self._group = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(self._shut, None)
            self._spawn(self._keep(), "connection")
            self._spawn(self._connection.keep_token(), "token")
            self._spawn(self._follow(), "rooms")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def connected(self) -> Link:
        """Wait for a connection. Raises the reason when the client has ended."""
        return await self._connection.wait()

    # --- requests -------------------------------------------------------------------------------------------------
    async def call(self, event: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send an event, return its acknowledgement `{ok: true, ...}`.

        Raises `CallFailed`, `CallTimeout`, `Disconnected` (also at once while there is no connection)."""
        return await self._connection.now().call(event, body, timeout_s=self._call_timeout_s)

    async def request(self, method: str, path: str, body: object = None) -> Any:
        """Ask over HTTP what has no event: `await client.request("PATCH", f"/v1/recordings/{id}/speakers/S1", {"name":
        "Ada"})`. Returns the decoded answer, None where there is none.

        Raises `CallFailed`, `CallTimeout`, `Disconnected` (also at once while there is no connection)."""
        return await self._connection.request(method, path, body, timeout_s=self._call_timeout_s)

    async def refresh(self, token: str) -> None:
        """Give the server a newer token before the old one expires; reconnects use it too."""
        await self._connection.refresh(token)

    def events(self, *, events_max: int = EVENTS_MAX) -> EventStream:
        """Every server event from now on, for one reader of its own. See `EventStream`."""
        reader = EventStream(events_max, self._readers)
        if self._connection.ended is not None:
            reader.close(self._connection.ended)
        return reader

    async def join(self, room: str, after_seq: int | None = None) -> Joined:
        """Follow a room: its durable events after `after_seq` (None: from now on), each once, also across reconnects.

        Raises as `call`; `history_truncated` carries `first_seq`."""
        cursor = self._rooms[room] = Cursor(after_seq)
        try:
            return await self._join(self._connection.now(), room, cursor)
        except BaseException:
            if self._rooms.get(room) is cursor:
                del self._rooms[room]
            raise

    async def leave(self, room: str) -> None:
        self._rooms.pop(room, None)
        self._behind.pop(room, None)
        await self.call("room:leave", {"room": room})

    async def read_events(self, room: str, after_seq: int, *, limit: int = 1_000) -> AsyncIterator[EventsPage]:
        """The room's log after `after_seq`, page by page, to its end. Raises as `call`."""
        more = True
        while more:
            reply = await self.call("events:read", {"room": room, "after_seq": after_seq, "limit": limit})
            events = [Event(str(body.get("event")), body) for body in reply["events"]]
            more = bool(reply["more"]) and bool(events)
            if events:
                after_seq = events[-1].seq or after_seq
            yield EventsPage(events=events, seq=reply["seq"], more=more)

    async def record(
        self,
        *,
        encoding: str = "pcm_s16le",
        sample_rate: int | None = None,
        channels: int | None = None,
        new_container: bool = False,
        ring_bytes: int = RING_BYTES,
        **options: Any,
    ) -> LiveStream:
        """Start a live stream. `encoding`: pcm_s16le, pcm_f32le, mulaw, webm_opus or ogg_opus; `sample_rate` and
        `channels` of raw samples (None: 16 kHz, mulaw 8 kHz, mono; a container knows its own). `options`: title,
        visibility, language, diarize, endpointing_ms, preset (conversation, dictation, lecture), vocabulary, words,
        task (transcribe, translate); `recording_id` with `resume_token` continue a stream of an earlier process at the
        stream's `offset`: with the same container, or, with `new_container`, with another one that begins there. After
        a lost connection the same container goes on by itself.

        Raises as `call`."""
        wanted: dict[str, Any] = {"encoding": encoding, **options}
        frame_bytes = 1
        if encoding in SAMPLE_BYTES:
            wanted["sample_rate"] = sample_rate or (MULAW_RATE if encoding == "mulaw" else PCM_RATE)
            wanted["channels"] = channels or 1
            frame_bytes = SAMPLE_BYTES[encoding] * wanted["channels"]
        wanted = {key: value for key, value in wanted.items() if value is not None}
        again = {key: value for key, value in wanted.items() if key not in ("recording_id", "resume_token")}
        if new_container:
            wanted["new_container"] = True  # once: a take-over goes on inside it
        link = self._connection.now()
        streams: list[LiveStream] = []

        def started(reply: dict[str, Any]) -> None:
            # Within the acknowledgement, so that no event of the stream can come before it is known.
            info = msgspec.convert(reply, StreamStarted)
            flow = Flow(ring_bytes, frame_bytes=frame_bytes, origin=info.offset)
            streams.append(LiveStream(self, link, again, info, flow))

        await link.call("voice:recording:start", wanted, timeout_s=self._call_timeout_s, on_ack=started)
        stream = streams[0]
        self._spawn(stream.run(), f"stream {stream.recording_id}").add_done_callback(lambda _: stream.on_closed())
        return stream

    def search(
        self, text: str, *, cursor: str | None = None, **options: Unpack[SearchOptions]
    ) -> AsyncIterator[SearchResults]:
        """The phases of a query's answer, "full" last. Leaving early cancels the query. `cursor`: `next_cursor` of the
        page before, with the same text and options.

        Raises as `call`; `CallFailed` for `search:failed`, `Superseded` when a newer query took the slot."""
        return self._searches.query(text, cursor=cursor, **options)

    def search_pages(self, text: str, **options: Unpack[SearchOptions]) -> AsyncIterator[SearchResults]:
        """All pages of a query's answer, each as its last phase has it. Raises as `search`."""
        return self._searches.pages(text, **options)

    async def clicked(self, request_id: str, segment_id: str) -> None:
        """Tell that somebody opened a hit of a query (`SearchResults.request_id`). Raises as `call`."""
        await self.call("search:clicked", {"request_id": request_id, "segment_id": segment_id})

    async def suggest(self, text: str, *, limit: int = 8) -> list[str]:
        """What a query that begins so may become. Raises as `call`."""
        reply = await self.call("search:suggest", {"text": text, "limit": limit})
        return [str(suggestion) for suggestion in reply["suggestions"]]

    async def search_history(self, *, limit: int = 20) -> list[SearchEntry]:
        """One's own queries, the newest first. Raises as `call`."""
        reply = await self.call("search:history", {"limit": limit})
        return msgspec.convert(reply["entries"], list[SearchEntry])

    async def clear_search_history(self) -> None:
        """Forget all of one's own queries. Raises as `call`."""
        await self.call("search:history", {"clear": True})

    def subscribe(
        self,
        text: str,
        *,
        mode: SearchMode = "hybrid",
        filters: SearchFilters | None = None,
        min_score: float | None = None,
        after: str | None = None,
        matches_max: int = MATCHES_MAX,
    ) -> Subscription:
        """What matches a query as it is said: `async with client.subscribe("budget") as matches: async for match in
        matches`. `after`: a cursor of an earlier subscription to the same; without one it begins when it is entered.
        Each match comes once, over lost connections too. `min_score`: the least cosine of a match by meaning;
        `matches_max`: so many wait here, and what is beyond them waits in the server's log.

        Entering and iterating raise `MatchesLost`, a `CallFailed` that is not retryable, or why the client ended."""
        wanted = {"text": text, "mode": mode, "filters": filters, "min_score": min_score}
        return self._searches.subscribe(wanted, after, matches_max)

    # --- as the streams' host -------------------------------------------------------------------------------------
    def move(self, after_ms: int) -> None:
        """Connect anew: this server is about to stop."""
        self._connection.move(after_ms)

    def register(self, stream_id: str, stream: LiveStream) -> None:
        self._streams[stream_id] = stream

    def unregister(self, stream_id: str) -> None:
        self._streams.pop(stream_id, None)

    # --- what arrives, in order -----------------------------------------------------------------------------------
    def _dispatch(self, name: str, body: dict[str, Any]) -> None:
        event = Event(name, body)
        if not self._in_order(event):
            return
        stream = self._streams.get(str(body.get("stream_id")))
        match name:
            case "history_truncated" if event.room in self._rooms:
                first_seq = body.get("first_seq")
                self._lose(
                    EventsLost(f"The oldest events of {event.room} are gone.", room=event.room, first_seq=first_seq)
                )
            case "voice:recording:ack" if stream is not None:
                stream.on_ack(msgspec.convert(body, Ack))
            case "voice:recording:error" if stream is not None:
                stream.on_error(body)
            case _ if name.startswith("search:"):
                self._searches.on_event(event)
        for reader in tuple(self._readers):
            reader.offer(event)

    def _in_order(self, event: Event) -> bool:
        cursor = self._rooms.get(event.room or "")
        if cursor is None or event.seq is None or event.room is None:
            return True
        match cursor.offer(event.seq):
            case Verdict.DELIVER:
                return True
            case Verdict.GAP:
                self._behind[event.room] = None
                self._bell.ring()
            case Verdict.LOST:
                self._lose(EventsLost(f"Events of {event.room} are missing from its log.", room=event.room))
            case Verdict.DUPLICATE:
                pass
        return False

    def _connected(self) -> None:
        self._behind = dict.fromkeys(self._rooms)
        self._searches.on_up()

    def _disconnected(self) -> None:
        self._searches.on_down()
        for stream in tuple(self._streams.values()):
            stream.on_disconnected()

    async def _keep(self) -> None:
        await self._connection.keep()
        self._shut(self._connection.ended)

    # --- the rooms' task ------------------------------------------------------------------------------------------
    async def _follow(self) -> None:
        """Join again what is behind: every room after a reconnect, one room after a gap."""
        while True:
            ticket = self._bell.ticket()
            link = self._connection.link
            if link is None or not self._behind:
                await ticket.wait()
                continue
            room = next(iter(self._behind))
            del self._behind[room]
            cursor = self._rooms.get(room)
            if cursor is not None:
                await self._rejoin(link, room, cursor)

    async def _rejoin(self, link: Link, room: str, cursor: Cursor) -> None:
        try:
            await self._join(link, room, cursor)
        except Disconnected:
            return  # the next connection joins every room
        except (CallTimeout, CallFailed) as error:
            if not error.retryable:
                first_seq = error.first_seq if isinstance(error, CallFailed) else None
                self._lose(EventsLost(f"{room} cannot be followed: {error}", room=room, first_seq=first_seq))
                return
            self._behind[room] = None
            wait_ms = error.retry_after_ms if isinstance(error, CallFailed) else None
            await asyncio.sleep((wait_ms or RETRY_MS) / 1_000)

    async def _join(self, link: Link, room: str, cursor: Cursor) -> Joined:
        body: dict[str, Any] = {"room": room}
        if cursor.seen is not None:
            body["after_seq"] = cursor.seen

        def joined(reply: dict[str, Any]) -> None:
            cursor.joined(int(reply["seq"]))

        return msgspec.convert(
            await link.call("room:join", body, timeout_s=self._call_timeout_s, on_ack=joined), Joined
        )

    def _lose(self, error: EventsLost) -> None:
        if error.room is not None:
            self._rooms.pop(error.room, None)
            self._behind.pop(error.room, None)
        for reader in tuple(self._readers):
            reader.fail(error)

    # --- end ------------------------------------------------------------------------------------------------------
    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._group.create_task(work, name=f"parlance client/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _shut(self, error: ParlanceClientError | None) -> None:
        """No more connections: readers and waiters learn it; without an error the tasks end too."""
        self._connection.end(error)
        for reader in tuple(self._readers):
            reader.close(error)
        self._searches.close(error)
        if error is None:
            for task in self._tasks:
                task.cancel()
