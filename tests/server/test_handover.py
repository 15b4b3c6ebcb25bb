"""Streams that go from one node to another: fenced, drained, doubtful after a pause; told to clients, and whole."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from server.rooms.bus import ALONE
from server.store import recordings
from server.store.pool import Database
from streaming.errors import Draining, QuotaExceeded, RecordingBusy, StreamEnded
from streaming.limits import LIMITS
from tests.fakes.recogniser import ToneRecogniser
from tests.fakes.tones import random_sentences, talk
from tests.support.node import HANG_S, Peer, feed_all, node, somebody, texts_of

SAID = talk(random_sentences(51, 3), silence_ms=800)
AUDIO = SAID.audio.tobytes()
HALF = len(AUDIO) // 4 * 2


def ended(peer: Peer) -> Any:
    return lambda: any(event["event"] == "recording:ended" for event in peer.events)


def ousted(peer: Peer) -> Any:
    return lambda: [(type(error), fatal) for error, fatal, _ in peer.failures] == [(RecordingBusy, True)]


class Noted:
    """A bus that notes who was fenced."""

    others = True

    def __init__(self) -> None:
        self.fenced: list[tuple[str, str, int]] = []

    def emit(self, room: str, event: str, data: dict[str, Any]) -> None:
        pass

    def fence(self, tenant_id: str, recording_id: str, epoch: int) -> None:
        self.fenced.append((tenant_id, recording_id, epoch))


async def test_a_takeover_here_tells_the_ghosts_client_at_once(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        old, new = Peer(), Peer()
        started = await one.start(old, who)
        await one.resume(new, who, started)
        await old.until(ousted(old))
        assert not new.failures


async def test_who_takes_its_own_stream_over_is_told_nothing(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        started = await one.start(peer, who)
        await one.resume(peer, who, started)
        assert started.stream.ended
        assert not peer.failures


async def test_a_client_with_all_its_streams_may_take_one_of_them_over(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        streams = [await one.start(peer, who) for _ in range(LIMITS.streams_per_socket_max)]
        await one.resume(peer, who, streams[0])
        with pytest.raises(QuotaExceeded):
            await one.start(peer, who)


async def test_a_takeover_is_told_to_the_other_nodes(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        one.desk._bus = bus = Noted()
        started = await one.start(Peer(), who)
        assert not bus.fenced
        resumed = await one.resume(Peer(), who, started)
        assert bus.fenced == [(who.tenant_id, started.stream.recording_id, resumed.stream.epoch)]
        one.desk._bus = ALONE


async def test_a_ghost_that_is_fenced_by_another_node_stops_and_says_so(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        one.desk.fence(who.tenant_id, stream.recording_id, stream.epoch)  # our own, come back to us
        one.desk.fence(who.tenant_id, "another", 99)
        assert not stream._overtaken.is_set()
        one.desk.fence(who.tenant_id, stream.recording_id, stream.epoch + 1)
        await peer.until(ousted(peer))


async def test_the_client_of_a_node_that_was_away_may_have_its_stream_back(database: Database, tmp_path: Path) -> None:
    """Nobody else has it: another node had only adopted it, and the client takes it over there or here."""
    who = await somebody(database)
    async with (
        node(database, tmp_path, ToneRecogniser()) as one,
        node(database, tmp_path, ToneRecogniser(), name="two") as two,
    ):
        peer = Peer()
        started = await one.start(peer, who)
        row = (who.tenant_id, started.stream.recording_id)
        async with database.tenant_tx(who.tenant_id) as connection:
            await recordings.release(connection, *row, started.stream.epoch)
        await two.desk._sweep()
        await peer.until(lambda: peer.failures)
        assert [(type(error), fatal) for error, fatal, _ in peer.failures] == [(StreamEnded, False)]
        resumed = await one.resume(peer, who, started)
        async with database.tenant_tx(who.tenant_id) as connection:
            assert not await recordings.adopted(connection, *row)
        assert resumed.stream.client is peer


async def test_a_drained_node_hands_each_stream_over_as_its_client_leaves(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    async with (
        node(database, tmp_path, ToneRecogniser()) as one,
        node(database, tmp_path, ToneRecogniser(), name="two") as two,
    ):
        peer, orphan, again = Peer(), Peer(), Peer()
        started = await one.start(peer, who)
        left = await one.start(orphan, who)
        feed_all(started.stream, AUDIO[:HALF])
        one.desk.client_gone(orphan)
        draining = asyncio.ensure_future(one.desk.drain())
        async with asyncio.timeout(HANG_S):
            while not left.stream.ended:
                await two.desk._sweep()
        with pytest.raises(Draining):
            await one.start(Peer(), who)
        with pytest.raises(Draining):
            await one.resume(Peer(), who, started)
        assert not started.stream.ended, "its client is still there"
        one.desk.client_gone(peer)
        async with asyncio.timeout(HANG_S):
            await draining
        assert not one.desk._tasks
        resumed = await two.resume(again, who, started)
        assert resumed.offset == HALF, "what it had was made durable"
        await two.watch(again, who, resumed.stream.row.room)
        feed_all(resumed.stream, AUDIO, start=HALF)
        resumed.stream.stop(len(AUDIO))
        await again.until(ended(again))
        assert await texts_of(database, who, resumed.stream.recording_id) == SAID.texts


async def test_after_a_pause_nothing_is_told_until_the_lease_is_renewed(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = await somebody(database)
    gate, renew = asyncio.Event(), recordings.renew

    async def held(*args: Any, **options: Any) -> None:
        await gate.wait()
        await renew(*args, **options)

    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        stream = (await one.start(peer, who)).stream
        await one.watch(peer, who, stream.row.room)
        monkeypatch.setattr(recordings, "renew", held)
        stream._ticked = time.monotonic() - 60
        async with asyncio.timeout(HANG_S):
            while not stream._sink.doubtful:
                await asyncio.sleep(0.01)
        told = len(peer.acks)
        stream.chunk(0, AUDIO[:HALF])
        await peer.until(lambda: peer.events)  # finals are fenced by their own transaction
        assert len(peer.acks) == told
        assert not peer.partials
        gate.set()
        await peer.until(lambda: len(peer.acks) > told)
        assert not stream._sink.doubtful
