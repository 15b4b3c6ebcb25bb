"""Container encodings on a real database and disk: taken over at any byte, begun anew, ended wherever they are cut.

What is heard and what is played afterwards must be what an undisturbed stream gives."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auth.model import Identity
from server.live.desk import Started
from server.media.parts import record_of
from server.media.playback import HEADER_BYTES, Playback, Track
from server.store import recordings
from server.store.pool import Database
from streaming.audio.decode import decoder_for
from streaming.errors import BadRequest, DecodeFailed, Fenced, QuotaExceeded
from streaming.limits import LIMITS
from streaming.model import OPUS_SAMPLE_RATE, Encoding, Part
from tests.fakes.opus import format_of, length_48k, packed
from tests.fakes.recogniser import ToneRecogniser
from tests.fakes.tones import hear, labels_of, random_sentences, talk
from tests.support.node import Node, Peer, feed_all, log_of, node, somebody, texts_of

CONTAINERS = [Encoding.WEBM_OPUS, Encoding.OGG_OPUS]
SAID = talk(random_sentences(70, 4), silence_ms=800)
OPUS = {encoding: packed(SAID.audio, encoding) for encoding in CONTAINERS}


def ended(peer: Peer) -> Any:
    return lambda: any(event["event"] == "recording:ended" for event in peer.events)


def has(peer: Peer, n_bytes: int) -> Any:
    return lambda: peer.acks and peer.acks[-1].received_bytes == n_bytes


async def played(one: Node, database: Database, who: Identity, recording_id: str) -> bytes:
    """The samples of `/media`, s16le."""
    async with database.tenant_tx(who.tenant_id) as connection:
        row = await recordings.get(connection, who.tenant_id, recording_id)
    kept = (await one.media.kept(who.tenant_id, recording_id)).size
    wav = await Playback(one.media).open(
        Track(who.tenant_id, recording_id, row.format, row.containers, kept, row.state == "ended")
    )
    return b"".join([piece async for piece in wav.pieces(HEADER_BYTES, wav.total_bytes)])


def words_in(pcm_48k: bytes) -> list[str]:
    """What the tone engine hears in 48 kHz s16le: every third sample is enough for tones below 3.3 kHz."""
    audio = np.frombuffer(pcm_48k, "<i2")[::3].copy()
    return [word for word, _, _ in hear(audio, labels_of(audio))]


def words_of(data: bytes, encoding: Encoding) -> list[str]:
    """What is said in one container, however it was cut."""
    decoder = decoder_for(format_of(encoding))
    audio = np.concatenate([decoder.feed(data), decoder.finish()])
    return [word for word, _, _ in hear(audio, labels_of(audio))]


async def finish(one: Node, peer: Peer, who: Identity, started: Started, data: bytes, start: int) -> None:
    stream = started.stream
    await one.watch(peer, who, stream.row.room)
    feed_all(stream, data, start=start, chunk=1_500)
    stream.stop(len(data))
    await peer.until(ended(peer))
    assert peer.failures == []


@pytest.mark.parametrize("encoding", CONTAINERS)
async def test_a_stream_from_its_first_to_its_last_byte(database: Database, tmp_path: Path, encoding: Encoding) -> None:
    who, data = await somebody(database), OPUS[encoding]
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        started = await one.start(peer, who, encoding=encoding.value)
        await finish(one, peer, who, started, data, 0)
        recording_id = started.stream.recording_id
        assert await texts_of(database, who, recording_id) == SAID.texts
        samples = length_48k(data, encoding)
        assert peer.events[-1]["duration_ms"] == samples * 1_000 // OPUS_SAMPLE_RATE
        assert abs(samples - 3 * len(SAID.audio)) < OPUS_SAMPLE_RATE // 10
        pcm = await played(one, database, who, recording_id)
        assert len(pcm) == 2 * samples
        assert words_in(pcm) == " ".join(SAID.texts).split()
        acks = peer.acks
        for field in ("received_bytes", "durable_bytes", "processed_ms", "committed_ms"):
            values = [getattr(ack, field) for ack in acks]
            assert values == sorted(values), f"{field} never falls"
        assert all(ack.committed_ms <= ack.processed_ms <= ack.received_ms for ack in acks)
        assert acks[-1].received_ms == peer.events[-1]["duration_ms"]


@pytest.mark.parametrize("encoding", CONTAINERS)
@pytest.mark.parametrize("seed", range(4))
async def test_taken_over_anywhere_no_word_is_lost_and_no_hole_is_heard(
    database: Database, tmp_path: Path, encoding: Encoding, seed: int
) -> None:
    """By its own client, by another node after a crash, and again; the list of parts is lost or damaged meanwhile."""
    who, data, rng = await somebody(database), OPUS[encoding], random.Random(seed)
    cuts = sorted(rng.sample(range(1, len(data)), 3))
    first, at = Peer(), 0
    started: Started | None = None
    for number, cut in enumerate(cuts):
        async with node(database, tmp_path, ToneRecogniser(), name=f"n{number}") as one:
            peer = Peer() if number else first
            wanted = {"encoding": encoding.value}
            started = await (one.resume(peer, who, started, **wanted) if started else one.start(peer, who, **wanted))
            assert started.offset == at
            at = feed_all(started.stream, data[:cut], start=at, chunk=2_000)
            await peer.until(lambda peer=peer: peer.acks and peer.acks[-1].lag_ms < 200)
            again = await one.resume(Peer(), who, started, **wanted)
            assert again.offset == cut
            started = again
            if rng.random() < 0.7:
                await one.crash()
        parts = tmp_path / who.tenant_id / started.stream.recording_id / "audio.parts"
        known = parts.read_bytes()
        damage = rng.choice(["none", "lost", "torn", "changed", "zeros", "other"])
        if damage == "lost":
            parts.unlink()
        elif damage == "torn":
            parts.write_bytes(known[: rng.randrange(len(known) + 1)])
        elif damage == "changed" and known:
            place = rng.randrange(len(known))
            parts.write_bytes(known[:place] + bytes([known[place] ^ 0x55]) + known[place + 1 :])
        elif damage == "other":
            parts.write_bytes(record_of(Part(150, 4_000, 0, 140)))
        elif damage == "zeros":
            parts.write_bytes(known + bytes(4_000))
    assert started is not None
    async with node(database, tmp_path, ToneRecogniser(), name="last") as one:
        peer = Peer()
        started = await one.resume(peer, who, started, encoding=encoding.value)
        await finish(one, peer, who, started, data, at)
        recording_id = started.stream.recording_id
        assert " ".join(await texts_of(database, who, recording_id)) == " ".join(SAID.texts)
        log = await log_of(database, who, started.stream.row.room)
        assert [event.seq for event in log] == list(range(1, len(log) + 1))
        pcm = await played(one, database, who, recording_id)
        assert len(pcm) == 2 * length_48k(data, encoding)
        assert words_in(pcm) == " ".join(SAID.texts).split()
        assert peer.events[-1]["duration_ms"] == len(pcm) // 2 * 1_000 // OPUS_SAMPLE_RATE


@pytest.mark.parametrize("encoding", CONTAINERS)
@pytest.mark.parametrize("seed", range(4))
async def test_a_recorder_that_began_anew_goes_on_behind_what_was_cut_off(
    database: Database, tmp_path: Path, encoding: Encoding, seed: int
) -> None:
    """The old container ends in the middle of a cluster; another one follows, and once more."""
    who, rng = await somebody(database), random.Random(seed)
    talks = [talk(random_sentences(seed * 10 + n, 2), silence_ms=800) for n in range(3)]
    pieces = [packed(said.audio, encoding) for said in talks]
    pieces = [piece[: -rng.randrange(200, 1_500)] for piece in pieces[:2]] + pieces[2:]
    expected = " ".join(word for piece in pieces for word in words_of(piece, encoding))
    whole, borders = b"", [0]
    started: Started | None = None
    for number, piece in enumerate(pieces):
        async with node(database, tmp_path, ToneRecogniser(), name=f"n{number}") as one:
            peer = Peer()
            wanted = {"encoding": encoding.value, "new_container": True}
            started = await (one.resume(peer, who, started, **wanted) if started else one.start(peer, who, **wanted))
            assert started.offset == len(whole)
            borders.append(started.offset)
            twice = await one.resume(peer, who, started, **wanted)
            assert twice.offset == len(whole), "the acknowledgement may have been lost"
            started = twice
            whole += piece
            feed_all(started.stream, whole, start=borders[-1], chunk=1_700)
            if number < len(pieces) - 1:
                await peer.until(has(peer, len(whole)))
                await one.crash()
                continue
            await one.watch(peer, who, started.stream.row.room)
            started.stream.stop(len(whole))
            await peer.until(ended(peer))
            assert peer.failures == []
            recording_id = started.stream.recording_id
            assert " ".join(await texts_of(database, who, recording_id)) == expected
            async with database.tenant_tx(who.tenant_id) as connection:
                row = await recordings.get(connection, who.tenant_id, recording_id)
            assert row.containers == tuple(sorted(set(borders)))
            pcm = await played(one, database, who, recording_id)
            assert words_in(pcm) == expected.split()
            assert len(pcm) == 2 * sum(length_48k(piece, encoding) for piece in pieces)
            assert row.duration_ms == len(pcm) // 2 * 1_000 // OPUS_SAMPLE_RATE


async def test_a_power_cut_between_two_containers_leaves_no_part_of_the_lost_one(
    database: Database, tmp_path: Path
) -> None:
    """The log lost its tail, the list of parts did not; then other audio comes to the same bytes."""
    encoding, who = Encoding.WEBM_OPUS, await somebody(database)
    data = OPUS[encoding]
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        started = await one.start(peer, who, encoding=encoding.value)
        feed_all(started.stream, data)
        await peer.until(lambda: peer.acks and peer.acks[-1].durable_bytes == len(data))
        await one.crash()
    folder = tmp_path / who.tenant_id / started.stream.recording_id
    kept = len(data) // 3
    with (folder / "audio.raw").open("r+b") as file:
        file.truncate(kept)
    said = talk(random_sentences(99, 3))
    other = packed(said.audio, encoding, cluster_ms=1_300)
    async with node(database, tmp_path, ToneRecogniser(), name="two") as two:
        peer = Peer()
        resumed = await two.resume(peer, who, started, encoding=encoding.value, new_container=True)
        assert resumed.offset == kept
        await finish(two, peer, who, resumed, data[:kept] + other, kept)
        pcm = await played(two, database, who, started.stream.recording_id)
        assert len(pcm) == 2 * (length_48k(data[:kept], encoding) + length_48k(other, encoding))
        assert words_in(pcm)[-len(" ".join(said.texts).split()) :] == " ".join(said.texts).split()


@pytest.mark.parametrize("encoding", CONTAINERS)
async def test_any_range_while_it_grows_is_the_range_of_the_whole(
    database: Database, tmp_path: Path, encoding: Encoding
) -> None:
    who, data, rng = await somebody(database), OPUS[encoding], random.Random(1)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        playback, seen = Playback(one.media), []
        peer = Peer()
        started = await one.start(peer, who, encoding=encoding.value)
        stream, length = started.stream, 0
        await one.watch(peer, who, stream.row.room)

        async def now(*, over: bool = False) -> tuple[Any, int]:
            kept = (await one.media.kept(who.tenant_id, stream.recording_id)).size
            wav = await playback.open(Track(who.tenant_id, stream.recording_id, stream.row.format, (0,), kept, over))
            return wav, wav.total_bytes

        for at in range(0, len(data), 4_001):
            stream.chunk(at, data[at : at + 4_001])
            wav, total = await now()
            assert total >= length, "it only grows"
            length = total
            if total > HEADER_BYTES:
                start = rng.randrange(HEADER_BYTES, total)
                end = rng.randrange(start, total) + 1
                seen.append((start, end, b"".join([piece async for piece in wav.pieces(start, end)])))
        stream.stop(len(data))
        await peer.until(ended(peer))
        wav, total = await now(over=True)
        assert total == HEADER_BYTES + 2 * length_48k(data, encoding)
        whole = b"".join([piece async for piece in wav.pieces(0, total)])
        assert len(whole) == total
        for start, end, got in seen:
            assert got == whole[start:end], "the same byte always has the same value"
        fresh = await Playback(one.media).open(
            Track(who.tenant_id, stream.recording_id, stream.row.format, (0,), len(data), True)
        )
        (tmp_path / who.tenant_id / stream.recording_id / "audio.parts").unlink()
        for _ in range(30):
            start = rng.randrange(total)
            end = min(total, start + rng.choice([1, 2, 4_096, 700_000]))
            assert b"".join([piece async for piece in fresh.pieces(start, end)]) == whole[start:end]
        bare = await Playback(one.media).open(
            Track(who.tenant_id, stream.recording_id, stream.row.format, (0,), len(data), True)
        )
        assert b"".join([piece async for piece in bare.pieces(0, total)]) == whole, "the list of parts is only a cache"


async def test_what_is_no_container_fails_its_stream_and_no_other(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    good = OPUS[Encoding.WEBM_OPUS]
    async with node(database, tmp_path, ToneRecogniser()) as one:
        peer = Peer()
        started = await one.start(peer, who, encoding="webm_opus")
        stream = started.stream
        await one.watch(peer, who, stream.row.room)
        cut = len(good) // 2
        feed_all(stream, good[:cut] + bytes([0xFF]) * 4_000, chunk=1_000)
        await peer.until(ended(peer))
        error, fatal, _ = peer.failures[-1]
        assert (type(error), error.field, fatal) == (DecodeFailed, "audio", True)
        heard = " ".join(await texts_of(database, who, stream.recording_id))
        assert heard, "what came before is transcribed"
        assert " ".join(SAID.texts).startswith(heard)
        assert peer.events[-1]["reason"] == "failed"
        pcm = await played(one, database, who, stream.recording_id)
        assert abs(len(pcm) // 96 - peer.events[-1]["duration_ms"]) <= 1
        assert " ".join(words_in(pcm)).startswith(heard)


async def test_new_container_is_for_containers_and_not_for_ever(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        with pytest.raises(BadRequest) as refused:
            await one.start(Peer(), who, new_container=True)
        assert refused.value.field == "new_container"
        started = await one.start(Peer(), who, encoding="ogg_opus", sample_rate=8_000, channels=7)
        with pytest.raises(BadRequest):
            await one.resume(Peer(), who, started, encoding="webm_opus")
        async with database.tenant_tx(who.tenant_id) as connection:
            await connection.execute(
                "UPDATE streams SET containers = (SELECT array_agg(n) FROM generate_series(1, $1) n)",
                LIMITS.containers_max,
            )
        with pytest.raises(QuotaExceeded):
            await one.resume(Peer(), who, started, encoding="ogg_opus", new_container=True)
        await one.resume(Peer(), who, started, encoding="ogg_opus")


async def test_only_the_owner_of_a_stream_writes_its_borders(database: Database, tmp_path: Path) -> None:
    who, stranger = await somebody(database), await somebody(database, "other", "eve")
    async with node(database, tmp_path, ToneRecogniser()) as one:
        started = await one.start(Peer(), who, encoding="webm_opus")
        recording_id, epoch = started.stream.recording_id, started.stream.epoch

        async def border(identity: Identity, number: int, offset: int) -> tuple[int, ...]:
            async with database.tenant_tx(identity.tenant_id) as connection:
                return await recordings.begin_container(connection, who.tenant_id, recording_id, number, offset)

        assert await border(who, epoch, 10) == (0, 10)
        assert await border(who, epoch, 10) == await border(who, epoch, 9) == (0, 10), "once, and ascending"
        assert await border(who, epoch, 2**40) == (0, 10, 2**40)
        for identity, number in ((who, epoch - 1), (who, epoch + 1), (stranger, epoch)):
            with pytest.raises(Fenced):
                await border(identity, number, 2**41)
