"""The composition root: the one place where parts are chosen and wired. Nothing here decides anything at run time.

embedded Postgres or a URL -> migrations -> Database
Recognition (engines, Whisper that comes by itself, remote finals) -> Desk
Database -> feed -> Hub, Committer -> Desk (audio log) -> sockets, HTTP
Database -> Indexing (the index, its editions) -> Searches, job runner -> Enrichment (vectors, exact word times)
"""

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from auth.model import Role
from server.config import Config, ConfigError
from server.edge.admission import Admission
from server.edge.authenticate import Authenticator
from server.edge.board import StatusBoard
from server.edge.events import EventDoors
from server.edge.handlers import Handlers
from server.edge.http import Http, add_headers, boundary
from server.edge.search.searches import Searches
from server.edge.sockets import Sockets
from server.enrichment import Enrichment
from server.health import Probe, Readiness, watch
from server.indexing import Indexing
from server.jobs.index import IndexSegments, enqueue_index, index_handler
from server.jobs.queue import JobRunner
from server.jobs.retention import Retention
from server.lifecycle import Components, StopRequest, first_of, open_database, secret_of
from server.live.desk import Desk
from server.live.speakers import LiveSpeakers
from server.media.audiolog import MediaStore
from server.media.playback import Playback
from server.media.ports import Media
from server.media.shared import shared_media
from server.recognition import Recognition
from server.rereading import Rereading
from server.rooms.bus import ALONE, RoomKey
from server.rooms.hub import Hub
from server.rooms.manager import BoundedManager, BoundedRedisManager
from server.rooms.marks import Marks
from server.rooms.redisbus import RedisBus
from server.store import feed
from server.store.commits import Committer
from server.store.embedded import EmbeddedPostgres
from server.store.identity import IdentityStore
from server.store.migrate import migrate
from server.store.pool import Connection, Database
from server.store.segments import FinalWrite
from server.telemetry import set_up_logging
from streaming.limits import LIMITS
from streaming.protocol.messages import EngineInfo, StatusTask

log = logging.getLogger(__name__)

PAGE_FOLDER = Path(__file__).resolve().parent.parent / "clients" / "js" / "app" / "dist"
FIRST_TENANT, FIRST_USER = "demo", "owner"
LOGIN_LINK_TTL_S = 3_600
GC_THRESHOLD = 50_000
"""New objects between two looks for cycles. With 1,000 connections the usual 700 look through all of them every few
seconds: pauses of 160 ms, which set the p99 of fan-out, and a quarter of its CPU (measured)."""
SYNC_THREADS = 4
"""fdatasync takes milliseconds and blocks its thread; four keep hundreds of streams within their second."""


class LogReader:
    """`server.rooms.hub.LogReader` and `server.rooms.marks.Heads` over the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def head(self, tenant_id: str, room: str) -> feed.Head:
        async with self._database.tenant_tx(tenant_id) as connection:
            return await feed.head(connection, tenant_id, room)

    async def read(self, tenant_id: str, room: str, after_seq: int, limit: int) -> list[feed.Event]:
        async with self._database.tenant_tx(tenant_id) as connection:
            return await feed.read(connection, tenant_id, room, after_seq=after_seq, limit=limit)

    async def behind(self, known: Sequence[tuple[RoomKey, int]]) -> list[RoomKey]:
        async with self._database.shared_tx() as connection:
            return await feed.behind(connection, [(*key, seq) for key, seq in known])


async def enqueue_finals(connection: Connection, tenant_id: str, finals: Sequence[FinalWrite]) -> None:
    """`server.store.commits.EnqueueIndex`: a job for each recording, in the finals' own transaction."""
    await enqueue_index(
        connection,
        [
            IndexSegments(tenant_id=tenant_id, recording_id=final.recording_id, segment_ids=(final.segment.segment_id,))
            for final in finals
        ],
    )


class App:
    """Everything one process runs. Built whole before anything opens."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.readiness = Readiness()
        self.database = Database()
        self.identities = IdentityStore(self.database)
        self.executor = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="disk")
        self.recognition = Recognition(config, LIMITS)
        self.authenticate = authenticate = Authenticator(self.identities, ttl_s=config.token_hours * 3_600)
        node = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        local = MediaStore(config.data_dir / "media", self.executor)
        self.storage = shared_media(config, node=node, local=local, executor=self.executor, limits=LIMITS)
        media: Media = self.storage or local
        playback = Playback(media)
        self._wire_rooms(node)
        self._wire_index()
        self.committer = Committer(self.database, self.hub, enqueue_finals, LIMITS)
        self.enrichment = Enrichment(
            config,
            database=self.database,
            indexing=self.indexing,
            media=media,
            playback=playback,
            hub=self.hub,
            limits=LIMITS,
        )
        self.jobs = JobRunner(self.database.connect, [index_handler(self.indexing.indexer, self.enrichment.indexed)])
        diariser = self.enrichment.diariser
        self.speakers = None if diariser is None else LiveSpeakers(diariser, self.database, self.hub, LIMITS)
        self.desk = Desk(
            database=self.database,
            media=media,
            hub=self.hub,
            bus=self.bus or ALONE,
            committer=self.committer,
            engines=self.recognition.engines,
            speakers=self.speakers,
            node=node,
            abandon_ms=config.abandon_ms,
            limits=LIMITS,
        )
        if self.bus is not None:
            self.bus.on_fence = self.desk.fence
        self._wire_second_pass(media, playback, node)
        self.board = StatusBoard(
            engine=self.recognition.info,
            vectors=lambda: self.enrichment.vectors,
            alignment=lambda: self.enrichment.languages,
            speakers=lambda: self.enrichment.speakers,
            tasks=self.tasks,
        )
        handlers = Handlers(
            authenticate=authenticate,
            database=self.database,
            hub=self.hub,
            desk=self.desk,
            searches=self._wire_searches(),
            engine=self.recognition.info,
            limits=LIMITS,
        )
        self.sockets = Sockets(
            authenticate=authenticate,
            handlers=handlers,
            hub=self.hub,
            board=self.board,
            admission=Admission.configured(config, LIMITS),
            client_manager=BoundedRedisManager(self.bus) if self.bus else BoundedManager(),
            origins=[config.url, *config.origins],
            limits=LIMITS,
        )
        self._wire_doors(media, playback)

    def _wire_rooms(self, node: str) -> None:
        """The hub, and what joins it to the other nodes' where there may be some."""
        self.rooms = reader = LogReader(self.database)
        self.bus = RedisBus(self.config.redis_url, node=node, limits=LIMITS) if self.config.redis_url else None
        self.hub = Hub(reader, LIMITS, self.bus or ALONE)
        self.marks = Marks(self.hub, reader, LIMITS)
        if self.bus is not None:
            self.bus.ears, self.bus.on_up = self.hub, self.marks.soon
            self.readiness.missing.add("redis")

    def _wire_index(self) -> None:
        self.indexing = Indexing(self.config, self.database, self.hub, LIMITS)
        if self.indexing.weaviate is not None:
            self.readiness.missing.add("index")

    def _wire_searches(self) -> Searches:
        self.searches = Searches(
            database=self.database,
            hub=self.hub,
            rooms=self.rooms,
            index=self.indexing.index,
            words=self.indexing.words,
            embedders=self.enrichment.embedders,
            embedder=self.enrichment.embedder,
            limits=LIMITS,
        )
        return self.searches

    def _wire_second_pass(self, media: Media, playback: Playback, node: str) -> None:
        self.rereading = Rereading(
            self.config,
            enrichment=self.enrichment,
            recognition=self.recognition,
            database=self.database,
            media=media,
            playback=playback,
            hub=self.hub,
            node=node,
            limits=LIMITS,
        )

    def _wire_doors(self, media: Media, playback: Playback) -> None:
        self.web = web.Application(middlewares=[boundary], client_max_size=LIMITS.http_body_bytes_max)
        self.web.on_response_prepare.append(add_headers)
        self.sockets.attach(self.web)
        Http(
            authenticate=self.authenticate,
            database=self.database,
            media=media,
            announcer=self.hub,
            readiness=self.readiness,
            page_folder=PAGE_FOLDER,
            playback=playback,
            speaker_model=self.enrichment.speaker_model,
            reread=self.rereading.nudge if self.rereading.enabled else None,
        ).attach(self.web)
        self.searches.doors(self.authenticate).attach(self.web)
        self.events = EventDoors(authenticate=self.authenticate, database=self.database, hub=self.hub, limits=LIMITS)
        self.events.attach(self.web)

    def tasks(self) -> list[StatusTask]:
        """Long work of the server on itself."""
        return [*self.recognition.tasks, *self.indexing.tasks, *self.enrichment.tasks, *self.rereading.tasks]

    def probes(self) -> dict[str, Probe]:
        """What `/readyz` looks at."""
        probes: dict[str, Probe] = {"database": self.database_works, "recogniser": self.recognition.works}
        if self.bus is not None:
            probes["redis"] = self.bus.works
        if self.storage is not None:
            probes["storage"] = self.storage.works
        if self.indexing.weaviate is not None:
            probes["index"] = self.indexing.weaviate.works
        return probes

    async def database_works(self) -> bool:
        async with self.database.shared_tx() as connection:
            return bool(await connection.fetchval("SELECT true"))

    async def drain(self) -> None:
        """Let clients and streams move to the other nodes, for as long as `drain_ms_max` allows."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMITS.drain_ms_max / 1000):
                await asyncio.gather(self.sockets.drain(), self.events.close(), self.desk.drain())

    async def login_url(self) -> str:
        """The page's address with a one-time login of the first tenant's owner."""
        tenant_id = await self.identities.ensure_tenant(FIRST_TENANT)
        user = await self.identities.ensure_user(tenant_id, FIRST_USER, Role.OWNER)
        code = await self.identities.create_login_link(tenant_id, user.user_id, LOGIN_LINK_TTL_S)
        return f"{self.config.url}/#login={code}"


async def run(config: Config) -> int:
    """Run the server until it is told to stop. Returns the exit status."""
    stop = StopRequest()
    components = Components()
    listener = _listen(config)
    config = msgspec.structs.replace(config, port=listener.getsockname()[1])
    app = App(config)
    runner = web.AppRunner(app.web, access_log=None, shutdown_timeout=2)
    postgres: EmbeddedPostgres | None = None
    failed = False
    try:
        if app.storage is not None:
            await app.storage.begin()
        await runner.setup()
        await web.SockSite(runner, listener).start()

        async def start() -> None:
            nonlocal postgres
            components.start("recognisers", app.recognition.engines.run())
            dsn = config.database_url
            if dsn is None:
                postgres = EmbeddedPostgres(config.data_dir / "postgres")
                dsn = await postgres.start()
                components.start("postgres", postgres.wait_failed())
            await open_database(app.database, dsn, migrate)
            secret = await secret_of(config, dsn)
            app.authenticate.open(secret)
            components.start("hub", app.hub.run())
            if app.bus is not None:
                app.bus.open(secret)
                components.start("bus", app.bus.run())
            if config.shared:
                components.start("marks", app.marks.run())
            components.start("committer", app.committer.run())
            components.start("jobs", app.jobs.run())
            components.start("index", app.indexing.run())
            components.start("searches", app.searches.run())
            components.start("retention", _retention(app).run())
            if app.storage is not None:
                await app.storage.answers()
            await app.recognition.engines.ready()
            _start_work(app, components)
            app.readiness.missing.discard("start")
            _tell_ready(await app.login_url(), app.recognition.info())
            await stop.wait()

        async def fail() -> None:
            nonlocal failed
            await components.wait_failed()
            failed = True

        await first_of(start(), stop.wait(), fail())
    finally:
        app.readiness.missing.add("stopping")
        if app.bus is not None and app.bus.others and not failed:
            await app.drain()
        await app.events.close()
        await app.sockets.close("draining", "The server is shutting down.")
        await components.stop()
        await app.searches.close()
        await runner.cleanup()
        if app.storage is not None:
            await app.storage.close()
        await app.recognition.close()
        await app.indexing.close()
        await app.database.close()
        if postgres is not None:
            await postgres.stop()
        app.executor.shutdown(wait=True)
    return 1 if failed else 0


def _retention(app: App) -> Retention:
    config = app.config
    return Retention(app.database, LIMITS, days=config.events_days, searches_days=config.searches_days)


def _start_work(app: App, components: Components) -> None:
    """Streams, and what works behind them."""
    if app.speakers is not None:
        components.start("speakers", app.speakers.run())
    components.start("desk", app.desk.run())
    components.start("whisper", app.recognition.fetch())
    components.start("enrichment", app.enrichment.run())
    components.start("second pass", app.rereading.run())
    components.start("board", app.board.run(app.sockets.tell_status))
    components.start("watch", watch(app.readiness, app.probes()))


def _listen(config: Config) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=1024)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ConfigError(f"PARLANCE_PORT: cannot listen on {config.host}:{config.port}: {why}") from error


def _tell_ready(url: str, engine: EngineInfo) -> None:
    lines = [f"\nParlance is ready. Open this link to sign in (it works once):\n\n  {url}\n"]
    if engine.notice:
        lines.append(f"  Note: {engine.notice}\n")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    log.info("ready", extra={"engine": engine.name, "model": engine.model, "tier": engine.tier})


def serve(config: Config) -> int:
    """Blocking; returns the exit status. Raises what a person can mend: `ConfigError`, `PostgresFailed`, ..."""
    set_up_logging(config.log_level, config.log_format)
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(config))
