"""Streams on a real database and disk: taken over, adopted, failed, and kept whole through all of it."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from server.edge.admission import Admission
from server.edge.connection import Connection, Expiries
from server.edge.delivery import Delivery, Line
from server.edge.handlers import Handlers
from server.store import recordings
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.errors import Conflict, QuotaExceeded, StreamEnded, Unavailable
from streaming.model import UtteranceSpec
from streaming.protocol.messages import EngineInfo, RecordingStart
from tests.contract.test_audio_log import file_size_limited
from tests.fakes.recogniser import Call, ToneRecogniser
from tests.fakes.tones import random_sentences, talk
from tests.support.door import searches_of
from tests.support.node import QUICK, Peer, feed_all, log_of, node, somebody, texts_of

SAID = talk(random_sentences(50, 3), silence_ms=800)
AUDIO = SAID.audio.tobytes()


def ended(peer: Peer) -> Any:
    return lambda: any(event["event"] == "recording:ended" for event in peer.events)


async def test_a_full_disk_leaves_no_hole(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        started = await one.start(peer, who)
        stream = started.stream
        await one.watch(peer, who, stream.row.room)
        stream.chunk(0, AUDIO[:32_000])
        with file_size_limited(40_000):
            stream.chunk(32_000, AUDIO[32_000:64_000])
        error, fatal, expected = peer.failures[-1]
        assert (type(error), fatal, expected) == (Unavailable, False, 32_000), "it has to come again from there"
        assert stream.ledger.received == 32_000
        feed_all(stream, AUDIO, start=32_000)
        stream.stop(len(AUDIO))
        await peer.until(ended(peer))
        assert await texts_of(database, who, stream.recording_id) == SAID.texts
        assert await one.media.read(who.tenant_id, stream.recording_id, 0, 2**30) == AUDIO


async def test_a_disk_that_cannot_sync_ends_the_stream_and_calls_nothing_durable(
    database: Database, tmp_path: Path
) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        stream.chunk(0, AUDIO[:32_000])
        await peer.until(lambda: peer.acks and peer.acks[-1].durable_bytes == 32_000)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, stream._log._descriptor)  # it takes bytes, refuses to sync, and has nothing to read
        os.close(null)
        stream.chunk(32_000, AUDIO[32_000:64_000])
        await peer.until(ended(peer))
        error, fatal, _ = peer.failures[0]
        assert (type(error), fatal) == (Unavailable, True)
        assert peer.events[-1]["reason"] == "failed"
        assert peer.acks[-1].durable_bytes == 32_000


async def test_one_failed_sync_is_enough_though_the_next_would_succeed(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux reports a failed write-back once and may drop the pages: a later success says nothing about them."""
    who = await somebody(database)
    sync, broken = os.fdatasync, threading.Event()

    def fail_once(descriptor: int) -> None:
        if broken.is_set():
            broken.clear()
            raise OSError(errno.EIO, "the disk is failing")
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", fail_once)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        stream.chunk(0, AUDIO[:32_000])
        await peer.until(lambda: peer.acks and peer.acks[-1].durable_bytes == 32_000)
        broken.set()
        stream.chunk(32_000, AUDIO[32_000:64_000])
        await peer.until(ended(peer))
        assert not broken.is_set()
        assert peer.events[-1]["reason"] == "failed"
        assert {ack.durable_bytes for ack in peer.acks} <= {0, 32_000}


async def test_a_stream_whose_tape_is_full_of_marks_can_still_be_stopped_and_fail(
    database: Database, tmp_path: Path
) -> None:
    who = await somebody(database)
    gate = asyncio.Event()
    limits = msgspec.structs.replace(QUICK, utterances_unfinished_max=1, flush_marks_max=3)
    recogniser = ToneRecogniser()
    take_part = recogniser.take_part

    async def held(call: Call, spec: UtteranceSpec) -> None:
        await gate.wait()
        await take_part(call, spec)

    recogniser.take_part = held  # type: ignore[method-assign]
    async with node(database, tmp_path, recogniser, limits=limits) as one:
        peers = [Peer(), Peer()]
        streams = [(await one.start(peer, who)).stream for peer in peers]
        for peer, stream in zip(peers, streams, strict=True):
            await one.watch(peer, who, stream.row.room)
            feed_all(stream, AUDIO)
            await peer.until(lambda peer=peer: any(ack.processed_ms > 1_000 for ack in peer.acks))
            for number in range(limits.flush_marks_max):
                stream.flush(str(number))
            with pytest.raises(Conflict):
                stream.flush("one too many")
        streams[0].stop(len(AUDIO))
        streams[1].fail(QuotaExceeded("too long"))
        gate.set()
        for peer, reason in zip(peers, ("stopped", "failed"), strict=True):
            await peer.until(ended(peer))
            assert peer.events[-1]["reason"] == reason
        for stream in streams:
            assert await texts_of(database, who, stream.recording_id) == SAID.texts


@pytest.mark.parametrize("takers", [2, 5])
async def test_takeovers_at_once_leave_one_stream(database: Database, tmp_path: Path, takers: int) -> None:
    """Two streams of one recording would write over each other's audio."""
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        first = Peer()
        started = await one.start(first, who)
        started.stream.chunk(0, AUDIO[:32_000])
        peers = [Peer() for _ in range(takers)]
        resumed = await asyncio.gather(*(one.resume(peer, who, started) for peer in peers))
        alive = [r.stream for r in resumed if not r.stream.ended]
        newest = max(resumed, key=lambda r: r.stream.epoch).stream
        assert alive == [newest]
        assert {r.offset for r in resumed} == {32_000}
        peer = peers[[r.stream for r in resumed].index(newest)]
        await one.watch(peer, who, newest.row.room)
        feed_all(newest, AUDIO, start=32_000)
        newest.stop(len(AUDIO))
        await peer.until(ended(peer))
        assert await texts_of(database, who, newest.recording_id) == SAID.texts
        assert await one.media.read(who.tenant_id, newest.recording_id, 0, 2**30) == AUDIO


async def test_the_engine_gets_its_context_back_after_a_takeover(database: Database, tmp_path: Path) -> None:
    """It counts the finals before: as without a takeover."""
    who = await somebody(database)
    recogniser = ToneRecogniser(in_order=True)
    async with node(database, tmp_path, recogniser) as one:
        peer = Peer()
        started = await one.start(peer, who)
        await one.watch(peer, who, started.stream.row.room)
        half = len(AUDIO) // 2
        feed_all(started.stream, AUDIO[:half])
        async with asyncio.timeout(30):
            while not (known := await texts_of(database, who, started.stream.recording_id)):
                await asyncio.sleep(0.01)
        before = len(recogniser.specs)
        resumed = (await one.resume(peer, who, started)).stream
        feed_all(resumed, AUDIO, start=half)
        resumed.stop(len(AUDIO))
        await peer.until(ended(peer))
        assert await texts_of(database, who, resumed.recording_id) == SAID.texts
        assert int(recogniser.specs[before].context) >= len(known), "of the finals that were committed"


async def test_a_third_takeover_that_comes_while_the_second_waits_for_its_ghost(
    database: Database, tmp_path: Path
) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:

        def disk_stands_still() -> threading.Event:
            """A ghost that seals its log takes until the event is set."""
            gate = threading.Event()
            for _ in range(one.executor._max_workers):
                one.executor.submit(gate.wait)
            return gate

        async def a_while() -> None:
            """As far as everybody gets without the disk."""
            for _ in range(40):
                async with database.tenant_tx(who.tenant_id) as connection:
                    await connection.fetchval("SELECT 1")

        started = await one.start(Peer(), who)
        gate = disk_stands_still()
        first = asyncio.ensure_future(one.resume(Peer(), who, started))
        await a_while()
        second = asyncio.ensure_future(one.resume(Peer(), who, started))
        await a_while()
        assert not first.done()
        gate.set()
        await first
        gate = disk_stands_still()
        third = asyncio.ensure_future(one.resume(Peer(), who, started))
        await a_while()
        gate.set()
        resumed = [(await task).stream for task in (first, second, third)]
        newest = max(resumed, key=lambda stream: stream.epoch)
        assert [stream for stream in resumed if not stream.ended] == [newest]
        assert one.desk._streams == {newest.stream_id: newest}


async def test_after_a_crash_the_client_goes_on_where_the_disk_ends(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    recogniser = ToneRecogniser()
    half = len(AUDIO) // 4 * 2 + 1  # inside a sample
    async with node(database, tmp_path, recogniser) as one:
        peer = Peer()
        started = await one.start(peer, who)
        await one.watch(peer, who, started.stream.row.room)
        feed_all(started.stream, AUDIO[:half])
        await peer.until(lambda: peer.events)
        await one.crash()
    async with node(database, tmp_path, recogniser, name="two") as two:
        again = Peer()
        resumed = await two.resume(again, who, started)
        assert resumed.offset == half
        await two.watch(again, who, resumed.stream.row.room)
        feed_all(resumed.stream, AUDIO, start=half)
        resumed.stream.stop(len(AUDIO))
        await again.until(ended(again))
        log = await log_of(database, who, resumed.stream.row.room)
    assert [event.body.get("text") for event in log[:-1]] == SAID.texts
    assert [event.seq for event in log] == [event["seq"] for event in again.events] == list(range(1, len(log) + 1))


async def test_a_node_that_lets_go_is_followed_at_once(database: Database, tmp_path: Path) -> None:
    """Everything durable is transcribed, and the stream ends as abandoned, without its client."""
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        started = await one.start(peer, who)
        feed_all(started.stream, AUDIO)
    watcher = Peer()
    limits = msgspec.structs.replace(QUICK, abandon_ms=300)
    async with node(database, tmp_path, ToneRecogniser(), name="two", limits=limits) as two:
        await two.watch(watcher, who, started.stream.row.room)
        await two.desk._sweep()
        assert len(two.desk._streams) == 1
        await watcher.until(ended(watcher))
        assert watcher.events[-1]["reason"] == "abandoned"
        assert await texts_of(database, who, started.stream.recording_id) == SAID.texts
        with pytest.raises(StreamEnded):
            await two.resume(Peer(), who, started)


async def test_a_sweep_survives_streams_that_ended_or_vanished_meanwhile(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the list and the takeover another node may have ended them: that must not end this one."""
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        over = await one.start(peer, who)
        await one.watch(peer, who, over.stream.row.room)
        over.stream.stop(0)
        await peer.until(ended(peer))
        waiting = await one.start(peer, who)
        await one.crash()
        names = [(who.tenant_id, over.stream.recording_id), (who.tenant_id, "gone"),
                 (who.tenant_id, waiting.stream.recording_id)]  # fmt: skip

        async def listed(*_: object, **__: object) -> list[tuple[str, str]]:
            return names

        monkeypatch.setattr(recordings, "expired", listed)
    async with database.tenant_tx(who.tenant_id) as connection:
        await recordings.release(connection, who.tenant_id, waiting.stream.recording_id, waiting.stream.epoch)
    async with node(database, tmp_path, ToneRecogniser(), name="two") as two:
        await two.desk._sweep()
        assert [live.recording_id for live in two.desk._streams.values()] == [waiting.stream.recording_id]


async def test_a_connection_that_ends_while_its_stream_starts_does_not_keep_it(
    database: Database, tmp_path: Path
) -> None:
    """An expired token closes the socket from the server's side, also in the middle of a handler."""

    class Nowhere:
        def tell_message(self, *_: object) -> bool:
            return False

    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        connection = Connection(
            "sid", who, line=cast(Line, None), delivery=cast(Delivery, Nowhere()), hub=one.hub,
            expiries=cast(Expiries, None), on_error=cast(Any, None), limits=QUICK,
            visit=Admission(QUICK).handshake(None),
        )  # fmt: skip
        handlers = Handlers(
            authenticate=cast(Any, None), database=database, hub=one.hub, desk=one.desk,
            searches=searches_of(one, QUICK), limits=QUICK,
            engine=lambda _tenant: EngineInfo(name="tones", model="tones", state="ready"),
        )  # fmt: skip
        starting = asyncio.ensure_future(
            handlers.handle(connection, "voice:recording:start", RecordingStart(encoding="pcm_s16le"))
        )
        await asyncio.sleep(0)
        handlers.client_gone(connection)
        await connection.end()
        assert not starting.done()
        await starting
        assert [stream.client for stream in one.desk._streams.values()] == [None]


async def test_skipped_hypotheses_are_counted(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    slow = ToneRecogniser(lambda call, _spec: 0.05 if call is Call.PARTIAL else 0.0)
    before = METRICS.hops_skipped._value.get()
    audio = talk(random_sentences(51, 1, words=(20, 20))).audio.tobytes()
    async with node(database, tmp_path, slow) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        feed_all(stream, audio[: len(audio) // 2])
        await peer.until(lambda: any(ack.processed_ms > 2_000 for ack in peer.acks))
        feed_all(stream, audio, start=len(audio) // 2)
        stream.stop(len(audio))
        await peer.until(ended(peer))
    assert METRICS.hops_skipped._value.get() > before


async def test_the_end_is_told_although_the_lease_is_renewed_right_after_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the commit of the end and its answer the renewal finds an ended stream: nobody took it over."""
    who = await somebody(database)
    end, transaction, committed = recordings.end, database.tenant_tx, asyncio.Event()

    async def ends(*args: Any, **named: Any) -> Any:
        row = await end(*args, **named)
        committed.set()
        return row

    @asynccontextmanager
    async def answered_late(tenant_id: str) -> AsyncIterator[Any]:
        async with transaction(tenant_id) as connection:
            yield connection
        if committed.is_set():
            committed.clear()
            await asyncio.sleep(5 * QUICK.lease_renew_ms / 1_000)

    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        monkeypatch.setattr(recordings, "end", ends)
        monkeypatch.setattr(database, "tenant_tx", answered_late)
        stream.stop(feed_all(stream, AUDIO))
        await peer.until(ended(peer))
        assert peer.failures == []


async def test_the_end_whose_answer_was_lost_is_told_all_the_same(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = await somebody(database)
    end, transaction, committed = recordings.end, database.tenant_tx, asyncio.Event()

    async def ends(*args: Any, **named: Any) -> Any:
        row = await end(*args, **named)
        committed.set()
        return row

    @asynccontextmanager
    async def never_answered(tenant_id: str) -> AsyncIterator[Any]:
        async with transaction(tenant_id) as connection:
            yield connection
        if committed.is_set():
            committed.clear()
            raise Unavailable("written, but nobody hears of it")

    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        monkeypatch.setattr(recordings, "end", ends)
        monkeypatch.setattr(database, "tenant_tx", never_answered)
        stream.stop(feed_all(stream, AUDIO))
        await peer.until(ended(peer))
        assert peer.failures == []
        assert [event["seq"] for event in peer.events] == list(range(1, len(SAID.texts) + 2))


async def test_a_defect_in_recognition_ends_its_own_stream_only(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)

    def conduct(call: Call, spec: UtteranceSpec) -> float:
        if call is Call.FEED and spec.utterance_id.startswith(broken):
            raise ZeroDivisionError
        return 0.0

    broken = "nobody"
    async with node(database, tmp_path, ToneRecogniser(conduct)) as one:
        bad, good = Peer(), Peer()
        streams = [(await one.start(peer, who)).stream for peer in (bad, good)]
        broken = streams[0].recording_id
        for peer, stream in zip((bad, good), streams, strict=True):
            await one.watch(peer, who, stream.row.room)
            feed_all(stream, AUDIO)
        await bad.until(lambda: any(fatal for _, fatal, _ in bad.failures))
        assert bad.failures[-1][0].code == "internal"
        streams[0].chunk(len(AUDIO), b"\0\0")
        assert isinstance(bad.failures[-1][0], StreamEnded), "nothing is taken after the fatal error"
        await bad.until(ended(bad))
        assert bad.events[-1]["reason"] == "failed"
        streams[1].stop(len(AUDIO))
        await good.until(ended(good))
        assert await texts_of(database, who, streams[1].recording_id) == SAID.texts
