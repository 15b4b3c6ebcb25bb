"""One node of the server without its sockets: hub, committer, desk and audio logs on a real database."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from auth.model import Identity, Role
from server.app import LogReader, enqueue_finals
from server.live.desk import Desk, Started
from server.live.speakers import LiveSpeakers
from server.live.stream import LiveStream
from server.media.audiolog import MediaStore
from server.media.ports import Media
from server.rooms.hub import Hub
from server.store import feed, segments
from server.store.commits import Committer
from server.store.identity import IdentityStore
from server.store.pool import Database
from streaming.aio import Scope
from streaming.errors import ParlanceError
from streaming.limits import LIMITS, Limits
from streaming.listener import Diariser
from streaming.model import Capabilities
from streaming.ports import Recogniser
from streaming.protocol.messages import RecordingAck, RecordingStart

HANG_S = 30.0

QUICK = msgspec.structs.replace(LIMITS, lease_renew_ms=100, ack_interval_ms=20)
"""So that a test need not wait for the next renewal."""


class Peer:
    """A connection as the desk and the hub see it: the `Client` of its streams and a `Member` of rooms."""

    def __init__(self) -> None:
        self.acks: list[RecordingAck] = []
        self.failures: list[tuple[ParlanceError, bool, int | None]] = []
        self.events: list[dict[str, Any]] = []
        self.partials = 0
        self._changed = asyncio.Condition()
        self._wakers: set[asyncio.Event] = set()

    def acknowledge(self, ack: RecordingAck) -> None:
        self.acks.append(ack)
        self._wake()

    def stream_failed(self, _stream_id: str, error: ParlanceError, *, fatal: bool, expected_offset: int | None) -> None:
        self.failures.append((error, fatal, expected_offset))
        self._wake()

    def send_event(self, _event: str, data: dict[str, Any], *, durable: bool) -> None:
        if durable:
            self.events.append(data)
            self._wake()
        else:
            self.partials += 1

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()

    async def until(self, condition: Any) -> None:
        """Wait until `condition()` holds after something was told."""
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            async with asyncio.timeout(HANG_S):
                while not condition():
                    waker.clear()
                    await waker.wait()
        finally:
            self._wakers.discard(waker)


class Always:
    """The desk's `EnginePool` with one recogniser for ever."""

    def __init__(self, recogniser: Recogniser) -> None:
        self.recogniser = recogniser

    @property
    def capabilities(self) -> Capabilities:
        return self.recogniser.capabilities

    def admit(self, tenant_id: str) -> None:
        pass

    def is_thinned(self, _tenant_id: str) -> bool:
        return False

    def remote_allowed(self, _tenant_name: str) -> bool:
        return False

    def lease(self, *, remote: str) -> "Always":
        assert not remote
        return self

    def release(self) -> None:
        pass


class Node:
    """`crash` drops everything without a goodbye; leaving the context is an orderly shutdown."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        recogniser: Recogniser,
        *,
        name: str,
        limits: Limits,
        media: Media | None = None,
        diariser: Diariser | None = None,
    ) -> None:
        self.database = database
        self.errors: list[BaseException] = []
        self.executor = ThreadPoolExecutor(2)
        self.media: Media = media or MediaStore(folder, self.executor)
        self.hub = Hub(LogReader(database), limits)
        self.committer = Committer(database, self.hub, enqueue_finals, limits)
        self.speakers = None if diariser is None else LiveSpeakers(diariser, database, self.hub, limits)
        self.desk = Desk(
            database=database,
            media=self.media,
            hub=self.hub,
            committer=self.committer,
            engines=Always(recogniser),
            speakers=self.speakers,
            node=name,
            abandon_ms=limits.abandon_ms,
            limits=limits,
        )
        self.scope = Scope(name, on_error=lambda _, error: self.errors.append(error))

    async def watch(self, peer: Peer, who: Identity, room: str) -> None:
        """Join a room from its beginning."""
        await self.hub.join(peer, (who.tenant_id, room), after_seq=0)
        self.scope.spawn(self.hub.catch_up(peer, (who.tenant_id, room)), name="catch up")

    async def start(self, peer: Peer, who: Identity, **options: Any) -> Started:
        wanted = {"encoding": "pcm_s16le", "sample_rate": 16_000, **options}
        return await self.desk.start(who, peer, RecordingStart(**wanted))

    async def resume(self, peer: Peer, who: Identity, started: Started, **options: Any) -> Started:
        known = {"recording_id": started.stream.recording_id, "resume_token": started.resume_token}
        return await self.start(peer, who, **known, **options)

    async def crash(self) -> None:
        """Nothing is released, nothing more is written."""
        for _, task in self.desk._tasks.values():
            task.cancel()
        await self.desk._scope.close()
        self.desk._tasks.clear()
        await self.scope.close()


@asynccontextmanager
async def node(
    database: Database,
    folder: Path,
    recogniser: Recogniser,
    *,
    name: str = "one",
    limits: Limits = QUICK,
    media: Media | None = None,
    diariser: Diariser | None = None,
) -> AsyncIterator[Node]:
    """A node whose hub and committer run; the desk's sweep is called by the test."""
    made = Node(database, folder, recogniser, name=name, limits=limits, media=media, diariser=diariser)
    try:
        async with made.scope:
            made.scope.spawn(made.hub.run(), name="hub")
            made.scope.spawn(made.committer.run(), name="committer")
            if made.speakers is not None:
                made.scope.spawn(made.speakers.run(), name="speakers")
            try:
                yield made
            finally:
                await made.desk.release_all()
                await made.desk._scope.close()
    finally:
        made.executor.shutdown()
    assert not made.errors, made.errors


async def somebody(database: Database, tenant: str = "acme", name: str = "ann") -> Identity:
    """The owner of a tenant, created when missing."""
    store = IdentityStore(database)
    tenant_id = await store.ensure_tenant(tenant)
    user = await store.ensure_user(tenant_id, name, Role.OWNER)
    return Identity(
        user_id=user.user_id, user_name=name, tenant_id=tenant_id, tenant_name=tenant, role=Role.OWNER, expires_at=2**40
    )


async def log_of(database: Database, who: Identity, room: str) -> list[feed.Event]:
    """A room's whole log."""
    async with database.tenant_tx(who.tenant_id) as connection:
        return await feed.read(connection, who.tenant_id, room, after_seq=0, limit=100_000)


async def texts_of(database: Database, who: Identity, recording_id: str) -> list[str]:
    """The texts of a recording's segments, in order."""
    async with database.tenant_tx(who.tenant_id) as connection:
        return [row["text"] for row in await segments.of_recording(connection, who.tenant_id, recording_id)]


def feed_all(stream: LiveStream, audio: bytes, *, start: int = 0, chunk: int = 16_000) -> int:
    """Give a stream audio from byte `start` on; returns the end."""
    for at in range(start, len(audio), chunk):
        stream.chunk(at, audio[at : at + chunk])
    return len(audio)
