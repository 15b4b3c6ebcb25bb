"""Streams whose audio goes to shared storage: any node goes on with them and plays them, and a storage that is away
costs nothing but time."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import socketio

from auth.model import Identity
from server.jobs.audio import RecordedAudio
from server.media.playback import HEADER_BYTES, Playback, Track
from server.store import recordings
from server.store.pool import Database
from streaming.errors import CreditExceeded, Unavailable
from streaming.limits import Limits
from streaming.model import Encoding
from tests.fakes.opus import length_48k, packed
from tests.fakes.recogniser import ToneRecogniser
from tests.fakes.tones import random_sentences, talk
from tests.support.cluster import clustered
from tests.support.kept import Storage, shared, stored
from tests.support.node import QUICK, Node, Peer, feed_all, log_of, node, somebody, texts_of
from tests.support.process import ServerProcess
from tests.support.spawn import free_port
from tests.support.wire import Talk, Wire, wired

SAID = talk(random_sentences(60, 3), silence_ms=800)
RAW = SAID.audio.tobytes()
SMALL = msgspec.structs.replace(
    QUICK, seal_interval_ms=50, extent_bytes_max=20_000, merge_extents=4, storage_answer_ms_max=5_000
)
"""So that a short talk is many objects, and some of them are merged."""
ENCODINGS = [Encoding.PCM_S16LE, Encoding.WEBM_OPUS, Encoding.OGG_OPUS]


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    with stored(request.param, tmp_path / "there") as made:
        for name, value in made.environ.items():
            monkeypatch.setenv(name, value)
        yield made


@asynccontextmanager
async def using(
    storage: Storage,
    database: Database,
    folder: Path,
    name: str,
    recogniser: ToneRecogniser | None = None,
    limits: Limits = SMALL,
) -> AsyncIterator[Node]:
    """A node with a data folder of its own."""
    async with (
        shared(storage, folder / name, node=name, limits=limits) as media,
        node(database, folder, recogniser or ToneRecogniser(), name=name, limits=limits, media=media) as made,
    ):
        yield made


def ended(peer: Peer) -> Any:
    return lambda: any(event["event"] == "recording:ended" for event in peer.events)


def durable(peer: Peer, n_bytes: int) -> Any:
    return lambda: peer.acks and peer.acks[-1].durable_bytes >= n_bytes


async def played(one: Node, database: Database, who: Identity, recording_id: str) -> bytes:
    async with database.tenant_tx(who.tenant_id) as connection:
        row = await recordings.get(connection, who.tenant_id, recording_id)
    kept = await one.media.kept(who.tenant_id, recording_id)
    track = Track(who.tenant_id, recording_id, row.format, row.containers, kept.size, row.state == "ended")
    wav = await Playback(one.media).open(track)
    return b"".join([piece async for piece in wav.pieces(HEADER_BYTES, wav.total_bytes)])


async def until_lost(one: Node) -> None:
    async with asyncio.timeout(60):
        while await one.media.works():  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 10))])
async def test_a_stream_goes_on_at_any_node(
    database: Database, storage: Storage, tmp_path: Path, encoding: Encoding, seed: int
) -> None:
    who, rng = await somebody(database), random.Random(seed)
    data = RAW if encoding is Encoding.PCM_S16LE else packed(SAID.audio, encoding)
    wanted = {"encoding": encoding.value}
    async with using(storage, database, tmp_path, "one") as one, using(storage, database, tmp_path, "two") as two:
        started, offset, at = None, 0, 0
        for number in range(5):
            here = rng.choice([one, two])
            peer = Peer()
            started = await (here.resume(peer, who, started, **wanted) if started else here.start(peer, who, **wanted))
            offset = started.offset
            assert offset >= at, "what was durable is here"
            upto = rng.randrange(offset, len(data) + 1) if number < 4 else len(data)
            feed_all(started.stream, data[:upto], start=offset, chunk=1_700)
            at = rng.randrange(offset, upto + 1)
            await peer.until(durable(peer, at)) if at > offset else None
        await here.watch(peer, who, started.stream.row.room)
        started.stream.stop(len(data))
        await peer.until(ended(peer))
        recording_id = started.stream.recording_id
        assert " ".join(await texts_of(database, who, recording_id)) == " ".join(SAID.texts)
        log = await log_of(database, who, started.stream.row.room)
        assert [event.seq for event in log] == list(range(1, len(log) + 1))
        assert await one.media.read(who.tenant_id, recording_id, 0, 2**30) == data
        assert await two.media.read(who.tenant_id, recording_id, 0, 2**30) == data
        sound = await played(one, database, who, recording_id)
        assert await played(two, database, who, recording_id) == sound
        samples = len(SAID.audio) if encoding is Encoding.PCM_S16LE else length_48k(data, encoding)
        assert len(sound) == 2 * samples
    assert not [path for path in tmp_path.rglob("spool/*") if path.name != "all.lock"], "nothing is left on the nodes"


async def test_a_storage_that_is_away_stops_what_is_durable_and_heals(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    who = await somebody(database)
    async with using(storage, database, tmp_path, "one") as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        sent = feed_all(stream, RAW[:64_000])
        await peer.until(durable(peer, sent))
        assert await one.media.works()  # type: ignore[attr-defined]
        await asyncio.to_thread(storage.stop)
        endless = RAW * 4
        while not peer.failures:
            stream.chunk(sent, endless[sent : sent + 16_000])
            sent = stream.ledger.received
        error, fatal, expected = peer.failures[0]
        assert (type(error), fatal, expected) == (CreditExceeded, False, sent), "20 s are taken, and no more"
        await until_lost(one)
        assert stream.ledger.durable == 64_000 < 64_000 + 640_000 - 16_000 <= sent
        await asyncio.to_thread(storage.start)
        await peer.until(durable(peer, sent))
        assert await one.media.works()  # type: ignore[attr-defined]
        stream.stop(sent)
        await peer.until(ended(peer))
        assert await one.media.read(who.tenant_id, stream.recording_id, 0, 2**30) == endless[:sent]


async def test_a_recording_ends_when_its_last_bytes_are_durable(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    who = await somebody(database)
    async with using(storage, database, tmp_path, "one") as one, using(storage, database, tmp_path, "two") as two:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        feed_all(stream, RAW[:32_000])
        await peer.until(durable(peer, 32_000))
        await asyncio.to_thread(storage.stop)
        feed_all(stream, RAW, start=32_000)
        stream.stop(len(RAW))
        segments = len(SAID.texts)
        await peer.until(lambda: len([e for e in peer.events if e["event"] == "transcript:final"]) == segments)
        await peer.until(lambda: peer.acks[-1].lag_ms == 0)
        assert not ended(peer)(), "recognised, and not kept yet"
        await asyncio.to_thread(storage.start)
        await peer.until(ended(peer))
        assert await two.media.read(who.tenant_id, stream.recording_id, 0, 2**30) == RAW


async def test_nobody_goes_on_with_a_stream_while_its_storage_is_away(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    who = await somebody(database)
    async with using(storage, database, tmp_path, "one") as one, using(storage, database, tmp_path, "two") as two:
        peer = Peer()
        started = await one.start(peer, who)
        feed_all(started.stream, RAW[:64_000])
        await peer.until(durable(peer, 64_000))
        await asyncio.to_thread(storage.stop)
        with pytest.raises(Unavailable) as raised:
            await two.resume(Peer(), who, started)
        assert raised.value.retry_after_ms
        await two.desk._sweep()  # finds nothing to adopt, and fails over nothing
        await asyncio.to_thread(storage.start)
        peer = Peer()
        started = await two.resume(peer, who, started)
        assert started.offset >= 64_000
        feed_all(started.stream, RAW, start=started.offset)
        started.stream.stop(len(RAW))
        await two.watch(peer, who, started.stream.row.room)
        await peer.until(ended(peer))
        assert await texts_of(database, who, started.stream.recording_id) == SAID.texts
        assert await two.media.read(who.tenant_id, started.stream.recording_id, 0, 2**30) == RAW


async def test_a_storage_that_comes_back_while_kept_audio_is_fetched(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    """The stream is open, takes audio, and is heard when what lay before can be read."""
    who = await somebody(database)
    held = ToneRecogniser()
    gate = asyncio.Event()

    async def wait(*_: object) -> None:
        await gate.wait()

    held.take_part = wait  # type: ignore[method-assign]
    async with using(storage, database, tmp_path, "one", held) as one:
        peer = Peer()
        started = await one.start(peer, who)
        feed_all(started.stream, RAW[: len(RAW) // 4 * 2])
        await peer.until(durable(peer, len(RAW) // 4 * 2))
        async with using(storage, database, tmp_path, "two") as two:
            fetch = two.media._objects.get  # type: ignore[attr-defined]
            asked = asyncio.Event()
            stopped: list[asyncio.Task[None]] = []

            async def first_away(path: str, start: int, end: int) -> bytes:
                if not stopped:
                    stopped.append(asyncio.ensure_future(asyncio.to_thread(storage.stop)))
                await asyncio.shield(stopped[0])
                asked.set()
                return await fetch(path, start, end)

            two.media._objects.get = first_away  # type: ignore[attr-defined]
            peer = Peer()
            started = await two.resume(peer, who, started)
            await two.watch(peer, who, started.stream.row.room)
            await asyncio.wait_for(asked.wait(), 60)
            feed_all(started.stream, RAW, start=started.offset)
            started.stream.stop(len(RAW))
            await asyncio.to_thread(storage.start)
            await peer.until(ended(peer))
            assert await texts_of(database, who, started.stream.recording_id) == SAID.texts
        gate.set()


async def test_a_spool_that_failed_to_write_back_seals_nothing_more(
    database: Database, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited for long may have been dropped by the kernel, which says so once."""
    who = await somebody(database)
    async with using(storage, database, tmp_path, "one") as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        feed_all(stream, RAW[:32_000])
        await peer.until(durable(peer, 32_000))
        await asyncio.to_thread(storage.stop)
        feed_all(stream, RAW[:64_000], start=32_000)
        await until_lost(one)
        sync = os.fdatasync

        def fail(descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(tmp_path / "one" / "spool")):
                raise OSError(5, "the disk is failing")
            sync(descriptor)

        monkeypatch.setattr(os, "fdatasync", fail)
        await asyncio.to_thread(storage.start)
        await peer.until(ended(peer))
        assert peer.events[-1]["reason"] == "failed"
        assert {ack.durable_bytes for ack in peer.acks} <= {0, 20_000, 32_000}
        async with shared(storage, tmp_path / "two", node="two") as media:
            assert await media.read(who.tenant_id, stream.recording_id, 0, 2**30) == RAW[:32_000]


async def test_audio_of_before_the_storage_stays_where_it_is(
    database: Database, storage: Storage, tmp_path: Path
) -> None:
    who = await somebody(database)
    async with node(database, tmp_path / "one" / "media", ToneRecogniser(), name="before") as before:
        peer = Peer()
        started = await before.start(peer, who)
        feed_all(started.stream, RAW[:64_000])
        await peer.until(durable(peer, 64_000))
    async with using(storage, database, tmp_path, "one") as one:
        peer = Peer()
        started = await one.resume(peer, who, started)
        assert started.offset == 64_000
        await one.watch(peer, who, started.stream.row.room)
        feed_all(started.stream, RAW, start=64_000)
        started.stream.stop(len(RAW))
        await peer.until(ended(peer))
        assert await one.media.read(who.tenant_id, started.stream.recording_id, 0, 2**30) == RAW
        assert await played(one, database, who, started.stream.recording_id) == RAW


async def test_a_final_is_aligned_when_its_audio_is_there(database: Database, storage: Storage, tmp_path: Path) -> None:
    """The stream's own node has it at once; another one waits for what is on its way."""
    who = await somebody(database)
    late = msgspec.structs.replace(SMALL, seal_interval_ms=600_000)  # it puts when it is told
    async with (
        using(storage, database, tmp_path, "one", limits=late) as one,
        using(storage, database, tmp_path, "two") as two,
    ):
        here, there = (RecordedAudio(database, each.media, Playback(each.media)) for each in (one, two))
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        asked = (who.tenant_id, stream.recording_id)
        await one.watch(peer, who, stream.row.room)
        feed_all(stream, RAW[:64_000])
        await stream._log.settle()
        feed_all(stream, RAW[:128_000], start=64_000)
        assert (await here.samples(*asked, 0, 4_000)).tobytes() == RAW[:128_000]
        with pytest.raises(Unavailable):
            await there.samples(*asked, 0, 4_000)
        assert (await there.samples(*asked, 0, 2_100)).tobytes() == RAW[:64_000], "a margin is not waited for"
        stream.sync_soon()
        await peer.until(durable(peer, 128_000))
        assert (await there.samples(*asked, 0, 4_000)).tobytes() == RAW[:128_000]
        stream.stop(128_000)
        await peer.until(ended(peer))
        assert not len(await there.samples(*asked, 60_000, 61_000))


# --- real processes ---------------------------------------------------------------------------------------------------
async def media_of(url: str, token: str, recording_id: str) -> bytes:
    headers = {"Authorization": f"Bearer {token}"}
    path = f"{url}/v1/recordings/{recording_id}/media"
    async with aiohttp.ClientSession(headers=headers) as http, http.get(path) as response:
        return (await response.read())[HEADER_BYTES:] if response.status == 200 else b""


async def durable_at(wire: Wire, live: Talk, n_bytes: int) -> int:
    ack = await wire.wait(
        "voice:recording:ack",
        lambda ack: ack["stream_id"] == live.stream_id and ack["durable_bytes"] >= n_bytes,
    )
    return int(ack["durable_bytes"])


async def test_killed_nodes_leave_what_they_called_durable_and_another_plays_it_meanwhile(tmp_path: Path) -> None:
    rng = random.Random(7)
    cluster = clustered(tmp_path, nodes=2, redis=False)
    nodes = await asyncio.to_thread(cluster.__enter__)
    try:
        account = await nodes.account("acme")
        here, there = nodes.nodes
        live: Talk | None = None
        known = 0
        for kill in (True, True, False):
            async with wired(here.url, account.token) as wire:
                if live is None:
                    live = Talk(wire, RAW)
                    await live.start()
                else:
                    await live.resume(wire)
                    assert live.sent >= known, "what was durable is there"
                left = len(RAW) - live.sent
                await live.send(live.sent + (rng.randrange(left // 4, left // 2) if kill else left))
                known = await durable_at(wire, live, live.sent - rng.randrange(1, 20_000))
                playing = await media_of(there.url, account.token, live.recording_id)
                assert len(playing) >= known // 2 * 2, "while the other node records"
                assert playing == RAW[: len(playing)]
                if kill:
                    await asyncio.to_thread(here.kill)
                else:
                    await live.stop()
                    texts = [event["text"] for event in (await live.log())[:-1]]
            if kill:
                here, there = there, here
                await asyncio.to_thread(nodes.start_nodes)
        assert live is not None
        assert texts == SAID.texts
        for one in (here, there):
            assert await media_of(one.url, account.token, live.recording_id) == RAW
    finally:
        await asyncio.to_thread(cluster.__exit__, None, None, None)


@pytest.mark.parametrize("storage", ["s3"], indirect=True)
async def test_who_comes_before_the_storage_has_answered_is_taken(storage: Storage, tmp_path: Path) -> None:
    """Tokens can be read before the node is ready, and clients of a node that died do not wait."""
    cluster = clustered(tmp_path, nodes=1, redis=False, storage_url=storage.url)
    nodes = await asyncio.to_thread(cluster.__enter__)
    try:
        account = await nodes.account("acme")
        [one] = nodes.nodes
        await asyncio.to_thread(one.kill)
        await asyncio.to_thread(storage.stop)
        starting = asyncio.create_task(asyncio.to_thread(one.start))
        wire = await early(one.url, account.token)
        live = Talk(wire, RAW)
        async with asyncio.timeout(60):
            while not (answer := await wire.call("voice:recording:start", {"encoding": "pcm_s16le"}))["ok"]:
                await asyncio.sleep(0.05)  # The recogniser is not there yet.
        live.took(answer)
        await live.send(len(RAW) // 2)
        assert not starting.done()
        await asyncio.to_thread(storage.start)
        await starting
        await live.send(len(RAW))
        await durable_at(wire, live, len(RAW))
        await live.stop()
        assert [event["text"] for event in (await live.log())[:-1]] == SAID.texts
        await wire.close()
    finally:
        await asyncio.to_thread(cluster.__exit__, None, None, None)


async def test_nobody_is_let_in_before_there_is_a_place_for_audio(tmp_path: Path) -> None:
    """A server listens before its database is there; clients of a node that died come at once."""
    (tmp_path / "storage").mkdir()
    port = free_port()
    server = ServerProcess(
        tmp_path / "node",
        port=port,
        database_url=f"postgresql://nobody:none@127.0.0.1:{free_port()}/none",
        storage_url=(tmp_path / "storage").as_uri(),
        secret="s" * 64,
    )
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            while True:
                try:
                    async with http.get(f"http://127.0.0.1:{port}/healthz") as response:
                        assert response.status == 200
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.02)
        assert [path for path in (tmp_path / "node" / "spool").iterdir() if path.is_dir()]
    finally:
        await asyncio.to_thread(server.kill)
        with pytest.raises(AssertionError, match="the server ended"):
            await starting


async def early(url: str, token: str) -> Wire:
    """Connected as soon as the server takes anybody and can record."""
    async with asyncio.timeout(60):
        while True:
            wire = Wire()
            try:
                await wire.connect(url, token)
            except socketio.exceptions.ConnectionError:
                await wire.close()
                await asyncio.sleep(0.02)
            else:
                return wire
