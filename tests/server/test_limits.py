"""At the limit of each buffer: real sockets and streams, with limits made small."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import socketio
from aiohttp import web

from auth.model import Identity
from server.edge.board import StatusBoard
from server.edge.handlers import Handlers
from server.edge.sockets import Sockets
from server.store import feed
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.errors import PayloadTooLarge, QuotaExceeded
from streaming.limits import KIB, Limits
from streaming.protocol.messages import EngineInfo, SpeakersInfo
from tests.fakes.recogniser import ToneRecogniser
from tests.support.door import searches_of
from tests.support.node import QUICK, Node, Peer, node, somebody
from tests.support.wire import Talk, wired


@asynccontextmanager
async def door(
    one: Node, who: Identity, limits: Limits, *, origins: Sequence[str] = ()
) -> AsyncIterator[tuple[str, Sockets]]:
    """The node's sockets on a free port; every token is this person's."""

    async def authenticate(_: str) -> Identity:
        return who

    def engine(_tenant: str) -> EngineInfo:
        return EngineInfo(name="tones", model="tones", state="ready")

    handlers = Handlers(
        authenticate=authenticate, database=one.database, hub=one.hub, desk=one.desk,
        searches=searches_of(one, limits), engine=engine, limits=limits,
    )  # fmt: skip
    board = StatusBoard(
        engine=engine, vectors=lambda: False, alignment=list, speakers=lambda: SpeakersInfo(state="off"), tasks=list
    )
    sockets = Sockets(
        authenticate=authenticate, handlers=handlers, hub=one.hub, board=board, origins=list(origins), limits=limits
    )
    app = web.Application()
    sockets.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}", sockets
    finally:
        await sockets.close("draining", "The test ends.")
        await runner.cleanup()


async def test_a_full_outbox_cuts_its_client_off_and_nobody_else(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    limits = msgspec.structs.replace(QUICK, outbox_bytes_max=100 * KIB)
    async with (
        node(database, tmp_path, ToneRecogniser(), limits=limits) as one,
        door(one, who, limits) as (url, doors),
        wired(url, "t") as slow,
        wired(url, "t") as other,
    ):
        before = METRICS.slow_consumers._value.get()
        connection = doors._connections[slow.named("ready")[0]["session_id"]]
        sent = 0
        while not connection._line.ended:  # in one step of the loop, so the client cannot read meanwhile
            connection.send_event("notice", {"text": "x" * KIB}, durable=True)
            assert connection._line.queued_bytes <= limits.outbox_bytes_max
            sent += 1
        assert sent * KIB > 60 * KIB, "as much fitted into its outbox alone"
        await slow.closed.wait()
        assert METRICS.slow_consumers._value.get() == before + 1
        assert len(slow.named("notice")) < sent
        await other.ok("events:read", {"room": f"user:{who.user_id}", "after_seq": 0})


async def test_an_answer_has_a_largest_size(database: Database, tmp_path: Path) -> None:
    """`events:read` gives fewer events than were asked for, and goes on from there; one alone is always given."""
    who = await somebody(database)
    room = f"user:{who.user_id}"
    limits = msgspec.structs.replace(QUICK, answer_bytes_max=10_000)
    async with (
        node(database, tmp_path, ToneRecogniser(), limits=limits) as one,
        door(one, who, limits) as (url, _),
        wired(url, "t") as wire,
    ):
        sizes = [2_000] * 12 + [20_000, 1]
        drafts = [feed.Draft(room, "recording:updated", {"text": "x" * size}) for size in sizes]
        async with one.database.tenant_tx(who.tenant_id) as connection:
            await feed.append(connection, who.tenant_id, drafts, at_ms=0)
        pages, seq = [], 0
        while not pages or pages[-1]["more"]:
            pages.append(await wire.ok("events:read", {"room": room, "after_seq": seq}))
            seq = pages[-1]["seq"]
        assert [len(event["text"]) for page in pages for event in page["events"]] == sizes
        assert [len(page["events"]) for page in pages] == [4, 4, 4, 1, 1]


async def test_a_full_node_refuses_and_says_when_to_come_back(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    limits = msgspec.structs.replace(QUICK, sockets_max=1)
    async with (
        node(database, tmp_path, ToneRecogniser(), limits=limits) as one,
        door(one, who, limits) as (url, _),
        wired(url, "t") as first,
    ):
        client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        refusals: list[Any] = []
        client.on("connect_error", refusals.append)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(url, auth={"token": "t"}, transports=["websocket"])
        await client.disconnect()
        assert refusals[0]["data"]["code"] == "overloaded"
        assert refusals[0]["data"]["retry_after_ms"] > 0
        await first.ok("events:read", {"room": f"user:{who.user_id}", "after_seq": 0})


async def test_rooms_per_socket(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    limits = msgspec.structs.replace(QUICK, rooms_per_socket_max=3)  # its own two, and one more
    async with (
        node(database, tmp_path, ToneRecogniser(), limits=limits) as one,
        door(one, who, limits) as (url, _),
        wired(url, "t") as wire,
    ):
        for room in (f"tenant:{who.tenant_id}", f"user:{who.user_id}"):
            await wire.ok("room:join", {"room": room})
        talks = [Talk(wire, b""), Talk(wire, b"")]
        for live in talks:
            await live.start()
        await wire.ok("room:join", {"room": talks[0].room})
        refused = await wire.refused("room:join", {"room": talks[1].room})
        assert (refused["code"], refused["field"]) == ("quota_exceeded", "room")
        await wire.ok("room:leave", {"room": talks[0].room})
        await wire.ok("room:join", {"room": talks[1].room})


async def test_too_large_a_chunk_is_refused_whole(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    limits = msgspec.structs.replace(QUICK, chunk_bytes_max=1_000)
    async with node(database, tmp_path, ToneRecogniser(), limits=limits) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        stream.chunk(0, bytes(1_002))
        error, fatal, expected = peer.failures[-1]
        assert (type(error), error.field, fatal, expected) == (PayloadTooLarge, "audio", False, 0)
        stream.chunk(0, bytes(1_000))
        assert (stream.ledger.received, len(peer.failures)) == (1_000, 1)


async def test_a_recording_has_a_longest_length(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    limits = msgspec.structs.replace(QUICK, recording_ms_max=1_000)
    async with node(database, tmp_path, ToneRecogniser(), limits=limits) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        stream.chunk(0, bytes(33_600))
        stream.chunk(33_600, bytes(3_200))
        error, fatal, _ = peer.failures[-1]
        assert (type(error), fatal) == (QuotaExceeded, True)
        await peer.until(lambda: any(event["event"] == "recording:ended" for event in peer.events))
        assert (peer.events[-1]["reason"], peer.events[-1]["duration_ms"]) == ("failed", 1_050)


async def test_a_client_that_only_errs_loses_its_stream(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    limits = msgspec.structs.replace(QUICK, stream_errors_max=3)
    async with node(database, tmp_path, ToneRecogniser(), limits=limits) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        for _ in range(4):
            stream.chunk(10_000, b"\0\0")
        assert [fatal for _, fatal, _ in peer.failures] == [False, False, False, True]
        await peer.until(lambda: any(event["event"] == "recording:ended" for event in peer.events))
