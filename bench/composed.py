"""Parlance's socket path as a process of its own, measured beside bench/node/server.js with the same commands.

Real are the web application, `Sockets`, `Connection`, `Delivery`, `Hub`, decoding, limits and the audio log; there is
no database, no engine and nobody to authenticate. Clients are members of their tenant's and their user's room. A stream
does what Node's does: check the message, check the offset, append, and acknowledge nothing.

Commands are lines of JSON on standard input, answers lines on standard output: `python -m bench.composed SETTINGS`.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from aiohttp import web

from auth.model import Identity, Role
from server.app import GC_THRESHOLD
from server.edge.board import StatusBoard
from server.edge.connection import Connection
from server.edge.http import add_headers, boundary
from server.edge.sockets import Sockets
from server.media.audiolog import FileLog, MediaStore
from server.rooms.bus import ALONE
from server.rooms.hub import Hub
from server.rooms.manager import BoundedManager, BoundedRedisManager
from server.rooms.redisbus import RedisBus
from server.store.feed import Event, Head
from streaming.errors import NotFound, PayloadTooLarge
from streaming.limits import LIMITS
from streaming.protocol.messages import ClientMessage, EngineInfo, RecordingChunk, SpeakersInfo
from streaming.protocol.offsets import OffsetLedger

TENANT, USER = "bench", "bench"
CREDIT_BYTES = 2**40
SECRET = "what the nodes of a benchmark share"


class Settings(msgspec.Struct, frozen=True):
    """`folder`: for audio; `redis`: where the other node is met."""

    folder: str
    redis: str | None = None


class Command(msgspec.Struct, frozen=True):
    """`count` events to a room, with growing `n` from `first` on, `per_s` of them a second (0: back to back);
    `durable`: in the order of the room's log, else past it."""

    room: str
    event: str
    body: dict[str, Any]
    first: int
    count: int
    per_s: float
    durable: bool = False


class Heads:
    """`server.rooms.hub.LogReader` of logs that nobody reads: who joins is told from then on."""

    def __init__(self) -> None:
        self._seqs: Counter[str] = Counter()

    def append(self, room: str) -> int:
        self._seqs[room] += 1
        return self._seqs[room]

    async def head(self, tenant_id: str, room: str) -> Head:
        return Head(seq=self._seqs[room], first_seq=1)

    async def read(self, tenant_id: str, room: str, after_seq: int, limit: int) -> list[Event]:
        raise AssertionError("nobody is behind")


class Stream:
    """`server.live.stream.LiveStream` that validates and appends, as bench/node/server.js does, and nothing else."""

    ended = False

    def __init__(self, stream_id: str, client: Connection, log: FileLog) -> None:
        self.stream_id = stream_id
        self.client = client
        self._log = log
        self._ledger = OffsetLedger(credit_bytes=CREDIT_BYTES)

    def chunk(self, offset: int, audio: bytes) -> None:
        if len(audio) > LIMITS.chunk_bytes_max:
            raise PayloadTooLarge(f"A chunk has at most {LIMITS.chunk_bytes_max} bytes.", field="audio")
        skip = self._ledger.accept(offset, len(audio)).skip
        self._log.append(audio[skip:] if skip else audio)

    def close(self) -> None:
        self._log.close()


class Rooms:
    """`server.edge.handlers.Handlers` with two rooms, streams of the kind above, and nothing else."""

    def __init__(self, hub: Hub, media: MediaStore) -> None:
        self._hub = hub
        self._media = media
        self._streams: list[Stream] = []

    async def handle(self, connection: Connection, event: str, message: ClientMessage) -> dict[str, Any]:
        if isinstance(message, RecordingChunk):
            stream = connection.stream(message.stream_id)
            if stream is None:
                raise NotFound("This connection has no such stream.", field="stream_id")
            stream.chunk(message.offset, message.audio)
            return {}
        assert event == "voice:recording:start", event
        stream_id = f"st_{connection.sid}_{len(self._streams)}"
        self._streams.append(Stream(stream_id, connection, await self._media.open(TENANT, stream_id)))
        connection.started(self._streams[-1])  # type: ignore[arg-type]
        return {"stream_id": stream_id, "offset": 0}

    def client_gone(self, connection: Connection) -> None:
        for stream in [stream for stream in self._streams if stream.client is connection]:
            self._streams.remove(stream)
            stream.close()

    async def join_own_rooms(self, connection: Connection) -> None:
        for room in (f"tenant:{TENANT}", f"user:{USER}"):
            key = (TENANT, room)
            connection.rooms.add(key)
            await self._hub.join(connection, key, after_seq=None)
            await self._hub.catch_up(connection, key)


async def authenticate(token: str) -> Identity:
    return Identity(USER, USER, TENANT, TENANT, Role.OWNER, int(time.time()) + 3_600)


def engine(_tenant: str) -> EngineInfo:
    return EngineInfo(name="none", model="none", state="ready")


class Composed:
    """One node. `run` serves until its standard input ends."""

    def __init__(self, settings: Settings) -> None:
        self._heads = Heads()
        self._bus = RedisBus(settings.redis, node=f"bench-{os.getpid()}", limits=LIMITS) if settings.redis else None
        self._hub = Hub(self._heads, LIMITS, self._bus or ALONE)
        if self._bus is not None:
            self._bus.open(SECRET)
            self._bus.ears = self._hub
        media = MediaStore(Path(settings.folder), ThreadPoolExecutor(1))
        self._sockets = Sockets(
            authenticate=authenticate,
            handlers=Rooms(self._hub, media),  # type: ignore[arg-type]
            hub=self._hub,
            board=StatusBoard(
                engine=engine,
                vectors=lambda: False,
                alignment=lambda: (),
                speakers=lambda: SpeakersInfo(state="off"),
                tasks=lambda: (),
            ),
            origins=[],
            limits=LIMITS,
            client_manager=BoundedRedisManager(self._bus) if self._bus else BoundedManager(),
        )

    async def run(self) -> None:
        app = web.Application(middlewares=[boundary], client_max_size=LIMITS.http_body_bytes_max)
        app.on_response_prepare.append(add_headers)
        self._sockets.attach(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        await web.SockSite(runner, listener).start()
        commands = await standard_input()
        answer({"port": listener.getsockname()[1]})
        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(self._hub.run())]
            if self._bus is not None:
                parts.append(group.create_task(self._bus.run()))
            while line := await commands.readline():
                await self.emit(msgspec.json.decode(line, type=Command))
                answer({"done": True})
            for part in parts:
                part.cancel()

    async def emit(self, command: Command) -> None:
        began = time.monotonic()
        for k in range(command.count):
            if command.per_s:
                wait_s = began + k / command.per_s - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
            n = command.first + k
            sent_us = time.monotonic_ns() // 1_000
            self.tell(command, {"n": n, "sent_us": sent_us, **command.body, "segment_id": f"seg_{n}"})

    def tell(self, command: Command, body: dict[str, Any]) -> None:
        if not command.durable:
            self._hub.tell((TENANT, command.room), command.event, body)
            return
        seq = self._heads.append(command.room)
        self._hub.announce([Event(TENANT, command.room, seq, time.time_ns() // 1_000_000, command.event, body)])


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def answer(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main() -> None:
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    logging.basicConfig(level=logging.ERROR)
    gc.freeze()  # as server.app does
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    uvloop.run(Composed(settings).run())


if __name__ == "__main__":
    main()
