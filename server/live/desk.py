"""The desk of live streams on this node: starts them, hands them over, adopts the orphaned, ends them.

A takeover and the adoption of a stream whose node died are the same path as a start: fence (epoch + 1), open the audio
log, run a pipeline from the committed sample. A client that comes back gets the byte offset at which to go on; when it
sends a new container from there, that is written down before it hears so.

Invariant: at most one `LiveStream` per recording runs here; its predecessor has stopped before it reads the log.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from weakref import WeakValueDictionary

import msgspec

from auth.model import Action, Identity, TenantRef, Visibility
from auth.policy import access
from server.media.ports import Media
from server.rooms.bus import ALONE, Bus
from server.rooms.hub import Hub
from server.store import feed, recordings
from server.store.commits import Committer
from server.store.pool import Database
from streaming.aio import Scope, cancel_and_wait
from streaming.audio.endpoint import PRESETS, with_endpointing, within
from streaming.audio.vad import detector_for
from streaming.errors import (
    Draining,
    Fenced,
    NotFound,
    QuotaExceeded,
    RecordingBusy,
    StreamEnded,
    Unavailable,
)
from streaming.limits import Limits
from streaming.model import AudioFormat
from streaming.pipeline import StreamPlan
from streaming.protocol.messages import RecordingStart

from .engines import EngineLease, EnginePool
from .opening import Opening, check_engine, check_same, format_of, open_stream
from .places import Owner, check_room
from .sink import RoomSink
from .speakers import LiveSpeakers
from .stream import Client, EndReason, LiveStream

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 2.0
SWEEP_ROWS_MAX = 50
END_RETRY_S_MAX = 5.0
DRAINING_RETRY_MS = 500
"""Another node may be asked at once; the same address leads to another one, or to the successor in about 2 s."""


class Started(msgspec.Struct, frozen=True):
    """The acknowledgement of `voice:recording:start`."""

    stream: LiveStream
    resume_token: str
    offset: int
    credit_bytes: int


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(10)}"


def token_hash(token: str) -> bytes:
    """What is stored of a resume token."""
    return hashlib.sha256(token.encode()).digest()


class Desk:
    """`start`, `of_client`, `client_gone` serve the edge; `run` is a component. No `speakers`: nobody is told apart."""

    def __init__(
        self,
        *,
        database: Database,
        media: Media,
        hub: Hub,
        committer: Committer,
        engines: EnginePool,
        speakers: LiveSpeakers | None = None,
        bus: Bus = ALONE,
        node: str,
        abandon_ms: int,
        limits: Limits,
    ) -> None:
        self._database = database
        self._media = media
        self._hub = hub
        self._committer = committer
        self._engines = engines
        self._speakers = speakers
        self._bus = bus
        self._node = node
        self._abandon_ms = abandon_ms
        self._limits = limits
        self._scope = Scope("streams", on_error=self._stream_crashed)
        self._streams: dict[str, LiveStream] = {}
        self._starting: list[Owner] = []
        """Whose streams are being started: they have their place already."""
        self._tasks: dict[tuple[str, str], tuple[LiveStream, asyncio.Task[None]]] = {}
        self._draining = False
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        """Takeovers of one recording, one after the other; a lock lives while somebody holds it or waits for it."""

    # --- for the edge -----------------------------------------------------------------------------------------
    async def start(self, who: Identity, client: Client, wanted: RecordingStart) -> Started:
        """Start a recording, or take its stream over. Raises any of the tree's request errors."""
        if self._draining:
            raise Draining("This server is about to stop; connect again.", retry_after_ms=DRAINING_RETRY_MS)
        self._need_engine()
        own = [stream for stream in self._streams.values() if stream.client is client]
        if sum(stream.recording_id != wanted.recording_id for stream in own) >= self._limits.streams_per_socket_max:
            raise QuotaExceeded(f"At most {self._limits.streams_per_socket_max} streams per socket.")
        if wanted.recording_id is not None:
            return await self._resume(who, client, wanted)
        access(who, Action.RECORD, TenantRef(tenant_id=who.tenant_id))
        fmt = format_of(wanted)
        check_engine(wanted, self._engines.capabilities)
        live = [(stream.row.tenant_id, stream.row.owner_id) for stream in self._streams.values()]
        check_room(who, live + self._starting, self._limits)
        self._engines.admit(who.tenant_id)
        self._starting.append((who.tenant_id, who.user_id))
        try:
            return await self._begin(who, client, wanted, fmt)
        finally:
            self._starting.remove((who.tenant_id, who.user_id))

    async def _begin(self, who: Identity, client: Client, wanted: RecordingStart, fmt: AudioFormat) -> Started:
        resume_token = secrets.token_urlsafe(24)
        row = recordings.RecordingRow(
            tenant_id=who.tenant_id,
            recording_id=new_id("rec"),
            owner_id=who.user_id,
            owner_name=who.user_name,
            title=(wanted.title or "").strip() or time.strftime("Recording of %Y-%m-%d %H:%M"),
            visibility=Visibility(wanted.visibility),
            language=wanted.language,
            state="live",
            engine=self._engines.capabilities.name,
            format=fmt,
            options=recordings.StreamOptions(
                endpointing_ms=wanted.endpointing_ms,
                vocabulary=tuple(wanted.vocabulary),
                words=wanted.words,
                task=wanted.task,
                preset=wanted.preset,
                diarize=wanted.diarize,
                remote=who.tenant_name if self._engines.remote_allowed(who.tenant_name) else "",
            ),
            started_at=time.time_ns() // 1_000_000,
            ended_at=None,
            duration_ms=0,
            segment_count=0,
        )
        stream = recordings.StreamRow(stream_id=new_id("st"), epoch=1, committed_sample=0, next_ordinal=1, idle_ms=0)
        async with self._database.tenant_tx(who.tenant_id) as connection:
            await recordings.insert(
                connection,
                row,
                stream_id=stream.stream_id,
                node=self._node,
                lease_ms=self._limits.lease_ms,
                token_hash=token_hash(resume_token),
            )
            events = await self._notice(connection, row, "recording:started", {})
        self._hub.announce(events)
        live = await self._open(row, stream, client)
        return Started(live, resume_token, live.ledger.received, live.ledger.credit)

    async def _resume(self, who: Identity, client: Client, wanted: RecordingStart) -> Started:
        assert wanted.recording_id is not None
        async with self._database.tenant_tx(who.tenant_id) as connection:
            row = await recordings.get(connection, who.tenant_id, wanted.recording_id)
        access(who, Action.RECORD, row.ref)
        if wanted.resume_token is None:
            raise RecordingBusy("Continuing a recording needs its resume_token.", field="resume_token")
        check_same(wanted, row.format)
        if wanted.new_container and len(row.containers) >= self._limits.containers_max:
            raise QuotaExceeded(f"A recording has at most {self._limits.containers_max} containers.")
        hashed = token_hash(wanted.resume_token)
        live = await self._take_over(row, client, hashed, new_container=wanted.new_container)
        return Started(live, wanted.resume_token, live.ledger.received, live.ledger.credit)

    def of_client(self, client: Client, stream_id: str) -> LiveStream:
        """The client's own stream. Raises `NotFound`."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.client is not client:
            raise NotFound("This connection has no such stream.", field="stream_id")
        return stream

    def client_gone(self, client: Client) -> None:
        """Its streams wait for their client, or for the abandon time."""
        for stream in self._streams.values():
            if stream.client is client:
                stream.attend(None)
                if self._draining:
                    self._scope.spawn(self._let_go(stream), name="hand over")

    def fence(self, tenant_id: str, recording_id: str, epoch: int) -> None:
        """Another node took this stream over; its transactions are refused anyway, so this only saves time."""
        live, _ = self._tasks.get((tenant_id, recording_id), (None, None))
        if live is not None and live.epoch < epoch:
            live.overtaken()

    def _need_engine(self) -> None:
        """Raises `Unavailable` before the first engine is ready: no stream is taken from a node that can run it."""
        _ = self._engines.capabilities

    async def _notice(
        self, connection: object, row: recordings.RecordingRow, event: str, extra: dict[str, object]
    ) -> list[feed.Event]:
        body = {"recording": msgspec.to_builtins(row.wire()), **extra}
        drafts = [feed.Draft(row.notice_room, event, body)]
        if event == "recording:ended":
            drafts.insert(0, feed.Draft(row.room, event, body))
        return await feed.append(connection, row.tenant_id, drafts, at_ms=time.time_ns() // 1_000_000)

    # --- running streams --------------------------------------------------------------------------------------
    async def _open(
        self,
        row: recordings.RecordingRow,
        stream: recordings.StreamRow,
        client: Client | None,
        *,
        new_container: bool = False,
    ) -> LiveStream:
        """Run what was started or taken over. Raises `Unavailable`, `Fenced`."""
        log_ = await self._media.open(row.tenant_id, row.recording_id, epoch=stream.epoch)
        try:
            if client is not None and stream.epoch > 1 and log_.end:
                # What is here is about to be called durable: no ghost of an epoch between may undo that.
                end = await log_.claim()
            if new_container and log_.end:
                async with self._database.tenant_tx(row.tenant_id) as connection:
                    containers = await recordings.begin_container(
                        connection, row.tenant_id, row.recording_id, stream.epoch, end
                    )
                stream = msgspec.structs.replace(stream, containers=containers)
            listener = None if self._speakers is None else await self._speakers.listener(row, stream)
            opening = await open_stream(self._media, row, stream, log_)
            return self._launch(row, stream, client, msgspec.structs.replace(opening, listener=listener))
        except BaseException:
            log_.close()
            raise

    def _launch(
        self, row: recordings.RecordingRow, stream: recordings.StreamRow, client: Client | None, opening: Opening
    ) -> LiveStream:
        lease = self._engines.lease(remote=row.options.remote)
        capabilities = lease.recogniser.capabilities
        rules = with_endpointing(PRESETS[row.options.preset], row.options.endpointing_ms)
        live = LiveStream(
            row=row,
            stream=stream,
            plan=StreamPlan(
                name=f"{row.recording_id}.{stream.epoch}",
                format=row.format,
                language=row.language,
                vocabulary=row.options.vocabulary,
                rules=within(rules, min(capabilities.utterance_ms_max, self._limits.utterance_ms_max)),
                start_sample=stream.committed_sample,
                next_ordinal=stream.next_ordinal,
                begin=opening.begin,
                context=stream.context,
                tenant=row.tenant_id,
                task=row.options.task,
                words=row.options.words,
            ),
            opening=opening,
            sink=RoomSink(
                tenant_id=row.tenant_id,
                recording_id=row.recording_id,
                stream_id=stream.stream_id,
                epoch=stream.epoch,
                words=row.options.words,
                hub=self._hub,
                committer=self._committer,
            ),
            lease=lease,
            detector=detector_for(capabilities.activity),
            database=self._database,
            ender=self._end,
            client=client,
            abandon_ms=self._abandon_ms,
            limits=self._limits,
        )
        self._streams[live.stream_id] = live
        task = self._scope.spawn(self._mind(live, lease), name=live.stream_id)
        self._tasks[(row.tenant_id, row.recording_id)] = (live, task)
        return live

    async def _mind(self, live: LiveStream, lease: EngineLease) -> None:
        if live.listener is not None:
            self._scope.spawn(live.listener.run(), name=f"{live.stream_id} speakers")
        try:
            await live.run()
        finally:
            if live.listener is not None:
                live.listener.close()  # it listens on for a while, to what was said last
            lease.release()
            self._streams.pop(live.stream_id, None)
            key = (live.tenant_id, live.recording_id)
            if self._tasks.get(key, (None,))[0] is live:
                del self._tasks[key]

    def _stream_crashed(self, name: str, error: BaseException) -> None:
        log.error("stream crashed", extra={"task": name}, exc_info=error)

    async def _take_over(
        self,
        row: recordings.RecordingRow,
        client: Client | None,
        hashed: bytes | None,
        *,
        new_container: bool = False,
    ) -> LiveStream:
        """Fence the present owner, evict its ghost here, and go on from what is committed."""
        key = (row.tenant_id, row.recording_id)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            async with self._database.tenant_tx(row.tenant_id) as connection:
                stream = await recordings.take_over(
                    connection,
                    row.tenant_id,
                    row.recording_id,
                    stream_id=new_id("st"),
                    node=self._node,
                    lease_ms=self._limits.lease_ms,
                    token_hash=hashed,
                    client_seen=client is not None,
                )
            self._bus.fence(row.tenant_id, row.recording_id, stream.epoch)
            ghost = self._tasks.get(key)
            if ghost is not None:
                if ghost[0].client is client:
                    ghost[0].attend(None)  # it knows
                ghost[0].overtaken()
                await asyncio.wait([ghost[1]])
            return await self._open(row, stream, client, new_container=new_container)

    async def _end(self, live: LiveStream, reason: EndReason, duration_ms: int) -> None:
        """The last transaction of a stream; waits out a lost database. Raises `Fenced`."""
        retry_s, tried = 0.1, False
        fenced: Fenced | None = None
        while True:
            try:
                if fenced is not None:
                    if await self._ended_before(live):
                        return
                    raise fenced
                async with self._database.tenant_tx(live.tenant_id) as connection:
                    row = await recordings.end(
                        connection,
                        live.tenant_id,
                        live.recording_id,
                        live.epoch,
                        reason=reason.value,
                        duration_ms=duration_ms,
                    )
                    extra: dict[str, object] = {
                        "reason": reason.value,
                        "duration_ms": row.duration_ms,
                        "segment_count": row.segment_count,
                    }
                    events = await self._notice(connection, row, "recording:ended", extra)
                break
            except Fenced as error:
                if fenced is not None or not tried:
                    raise
                fenced = error
            except Unavailable:
                tried = True
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, END_RETRY_S_MAX)
        self._hub.announce(events)

    async def _ended_before(self, live: LiveStream) -> bool:
        """Whether an attempt whose answer was lost did end the stream; then its events are read from the log."""
        async with self._database.tenant_tx(live.tenant_id) as connection:
            row = await recordings.get(connection, live.tenant_id, live.recording_id)
        for room in (row.room, row.notice_room):
            self._hub.resync(live.tenant_id, room)
        return row.state == "ended"

    # --- the component ----------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Adopt streams whose node died; on cancellation let go of all streams so that another may adopt them."""
        async with self._scope:
            try:
                while True:
                    if not self._draining:
                        await self._sweep()
                    await asyncio.sleep(SWEEP_INTERVAL_S)
            finally:
                await self.release_all()

    async def drain(self) -> None:
        """From now on nothing begins here, and each stream is handed over as its client leaves; returns when none is
        left. The caller's deadline cancels it, and the end of `run` hands over the rest."""
        self._draining = True
        tasks = list(self._tasks.values())
        for live, _ in tasks:
            if live.client is None:
                self._scope.spawn(self._let_go(live), name="hand over")
            else:
                live.sync_soon()
        if tasks:
            await asyncio.wait([task for _, task in tasks])

    async def _sweep(self) -> None:
        try:
            async with self._database.shared_tx() as connection:
                orphans = await recordings.expired(connection, limit=SWEEP_ROWS_MAX)
            for tenant_id, recording_id in orphans:
                if (tenant_id, recording_id) in self._tasks:
                    continue  # ours, and late with its renewal
                try:
                    async with self._database.tenant_tx(tenant_id) as connection:
                        row = await recordings.get(connection, tenant_id, recording_id)
                    await self._take_over(row, None, None)
                    log.info("stream adopted", extra={"recording_id": recording_id})
                except (RecordingBusy, StreamEnded, NotFound):
                    continue  # another node or its client was faster
        except Unavailable:
            log.warning("sweep skipped, the database is away")

    async def release_all(self) -> None:
        """Let go of every stream."""
        await asyncio.gather(*(self._let_go(live) for live, _ in list(self._tasks.values())))

    async def _let_go(self, live: LiveStream) -> None:
        """Stop running a stream, with its audio durable, so that another node adopts it at once."""
        task = self._tasks.get((live.tenant_id, live.recording_id), (None, None))
        if task[0] is not live or task[1] is None:
            return
        await cancel_and_wait(task[1])
        try:
            async with self._database.tenant_tx(live.tenant_id) as connection:
                await recordings.release(connection, live.tenant_id, live.recording_id, live.epoch)
        except Unavailable:
            log.warning("lease not released, it will run out", extra={"recording_id": live.recording_id})
