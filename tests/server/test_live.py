"""The main job through the real doors: audio in, captions, events and hits out."""

import asyncio
from pathlib import Path

import pytest
from parlance_client import Backoff, Client, LiveStream

from streaming.model import Encoding
from tests.fakes.opus import packed
from tests.fakes.tones import random_sentences, talk, write_wav
from tests.server.test_cli import of_server, parlance_command
from tests.support.process import Account, ServerProcess
from tests.support.wire import Talk, Wire, wired


def spoken(seed: int, sentences: int = 3) -> tuple[bytes, list[str]]:
    said = talk(random_sentences(seed, sentences))
    return said.audio.tobytes(), said.texts


async def test_captions_events_and_search_while_the_stream_runs(wire: Wire) -> None:
    pcm, texts = spoken(1)
    live = Talk(wire, pcm)
    await live.start(title="Stand-up")
    await wire.ok("room:join", {"room": live.room, "after_seq": 0})
    await live.send(speed=4)
    first = await wire.wait("transcript:final", lambda e: e["ordinal"] == 1)
    word = first["text"].split()[0]
    hits: list[dict[str, object]] = []
    attempts = 0
    while not hits:
        attempts += 1
        await wire.ok("search:query", {"request_id": f"q{attempts}", "text": word[:-1]})
        found = await wire.wait(
            "search:results", lambda e, wanted=f"q{attempts}": e["request_id"] == wanted and e["phase"] == "full"
        )
        hits = found["hits"]
        assert found["degraded"] is True
    assert [hit["segment_id"] for hit in hits] == [first["segment_id"]]
    assert hits[0]["highlights"] == [[0, len(word)]]
    assert not wire.named("recording:ended"), "the stream still runs"
    ended = await live.stop()
    assert (ended["reason"], ended["segment_count"]) == ("stopped", len(texts))
    log = await live.log()
    assert [event["text"] for event in log if event["event"] == "transcript:final"] == texts
    assert [event["seq"] for event in log] == list(range(1, len(texts) + 2))
    seen = [e for name, e in wire.events if e and e.get("room") == live.room and "seq" in e]
    assert [e["seq"] for e in seen] == [e["seq"] for e in log], "live delivery is the log, once and in order"


async def test_partials_keep_their_promise(wire: Wire) -> None:
    pcm, _ = spoken(2)
    live = Talk(wire, pcm)
    await live.start(words=True)
    await wire.ok("room:join", {"room": live.room})
    await live.send(speed=3)
    await live.stop()
    partials, finals = wire.named("transcript:partial"), wire.named("transcript:final")
    assert partials
    stable: dict[str, str] = {}
    finished: set[str] = set()
    for name, event in wire.events:
        if name == "transcript:partial":
            assert event["segment_id"] not in finished, "no partial follows its final"
            assert event["stable"].startswith(stable.get(event["segment_id"], ""))
            stable[event["segment_id"]] = event["stable"]
            assert " ".join(word["w"] for word in event["words"]) == event["stable"] + event["unstable"]
            times = [(word["start_ms"], word["end_ms"]) for word in event["words"]]
            assert times == sorted(times)
        elif name == "transcript:final":
            finished.add(event["segment_id"])
            assert event["text"].startswith(stable.get(event["segment_id"], ""))
            assert [word["w"] for word in event["words"]] == event["text"].split()
    assert len(finished) == len(finals)


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (48_000, 2), (44_100, 1)])
async def test_any_rate_and_stereo(wire: Wire, rate: int, channels: int) -> None:
    said = talk(random_sentences(3, 2), sample_rate=rate)
    pcm = said.audio.repeat(channels).tobytes()
    live = Talk(wire, pcm, rate=rate * channels)
    answer = await live.start(sample_rate=rate, channels=channels)
    assert answer["engine"]["name"] == "tones"
    await live.send()
    ended = await live.stop()
    assert abs(ended["duration_ms"] - 1000 * len(said.audio) / rate) <= 1
    assert [e["text"] for e in (await live.log())[:-1]] == said.texts


async def test_acknowledgements_tell_where_everything_stands(wire: Wire) -> None:
    pcm, _ = spoken(4, 2)
    live = Talk(wire, pcm)
    await live.start()
    await live.send()
    ack = await wire.wait("voice:recording:ack", lambda a: a["durable_bytes"] == len(pcm))
    assert ack["received_bytes"] == len(pcm)
    assert ack["received_ms"] == len(pcm) // 32
    assert ack["credit_bytes"] > 0
    done = await wire.wait("voice:recording:ack", lambda a: a["lag_ms"] < 100)
    assert done["committed_ms"] <= done["processed_ms"] <= done["received_ms"]
    await live.stop()
    acks = wire.named("voice:recording:ack")
    for field in ("received_bytes", "durable_bytes", "processed_ms", "committed_ms"):
        values = [a[field] for a in acks]
        assert values == sorted(values), f"{field} never falls"


async def test_flush_ends_the_utterance_and_tells_after_its_finals(wire: Wire) -> None:
    words = random_sentences(5, 1)[0]
    pcm = talk([words], silence_ms=0).audio.tobytes()
    live = Talk(wire, pcm)
    await live.start()
    await wire.ok("room:join", {"room": live.room})
    await live.send()
    await wire.ok("voice:recording:flush", {"stream_id": live.stream_id, "marker": "m1"})
    flushed = await wire.wait("transcript:flushed")
    assert flushed["marker"] == "m1"
    names = [name for name, _ in wire.events]
    assert names.index("transcript:final") < names.index("transcript:flushed")
    assert wire.named("transcript:final")[0]["text"] == " ".join(words)
    await live.stop()


async def test_pause_stops_media_time(wire: Wire) -> None:
    pcm, texts = spoken(6, 2)
    live = Talk(wire, pcm)
    await live.start()
    await live.send(len(pcm) // 2 // 2 * 2)
    await wire.ok("voice:recording:pause", {"stream_id": live.stream_id})
    await wire.emit("voice:recording:chunk", {"stream_id": live.stream_id, "offset": live.sent, "audio": b"\0" * 320})
    refused = await wire.wait("voice:recording:error")
    assert (refused["error"]["code"], refused["fatal"]) == ("conflict", False)
    assert refused["expected_offset"] == live.sent
    await wire.ok("voice:recording:resume", {"stream_id": live.stream_id})
    await live.send()
    ended = await live.stop()
    assert ended["duration_ms"] == len(pcm) // 32
    heard = " ".join(e["text"] for e in (await live.log())[:-1]).split()
    missing = [word for word in " ".join(texts).split() if word not in heard]
    assert len(missing) <= 1, "a pause may cut one word in two, nothing else"


async def test_offsets_overlap_gap_and_a_missing_tail(wire: Wire) -> None:
    pcm, texts = spoken(7, 2)
    live = Talk(wire, pcm)
    await live.start()
    await live.send(32_000)
    live.sent -= 6_400
    await live.send(64_000)  # begins with bytes that are there already
    chunk = {"stream_id": live.stream_id, "offset": 100_000, "audio": b"\0\0"}
    await wire.emit("voice:recording:chunk", chunk)
    gap = await wire.wait("voice:recording:error")
    assert (gap["error"]["code"], gap["expected_offset"], gap["fatal"]) == ("offset_mismatch", 64_000, False)
    error = await wire.refused("voice:recording:stop", {"stream_id": live.stream_id, "offset": len(pcm)})
    assert (error["code"], error["expected"]) == ("offset_mismatch", 64_000)
    await live.send()
    await live.stop()
    assert [e["text"] for e in (await live.log())[:-1]] == texts


async def test_credit_is_enforced(wire: Wire) -> None:
    live = Talk(wire, b"")
    answer = await live.start()
    offset, block = 0, b"\0" * 262_144
    while offset <= answer["credit_bytes"]:
        await wire.emit("voice:recording:chunk", {"stream_id": live.stream_id, "offset": offset, "audio": block})
        offset += len(block)
    # Either everything was synced in between, or the overdraft was refused and named the place to go on.
    await wire.wait("voice:recording:ack", lambda a: a["durable_bytes"] == a["received_bytes"] > 0)
    for refused in wire.named("voice:recording:error"):
        assert refused["error"]["code"] in ("credit_exceeded", "offset_mismatch")
        assert refused["expected_offset"] <= offset


async def test_a_fifth_stream_and_a_chunk_after_the_stop(wire: Wire) -> None:
    talks = [Talk(wire, b"\0" * 3_200) for _ in range(4)]
    for live in talks:
        await live.start()
    error = await wire.refused("voice:recording:start", {"encoding": "pcm_s16le", "sample_rate": 16_000})
    assert error["code"] == "quota_exceeded"
    for live in talks:
        await live.send()
        await live.stop()
    await wire.emit("voice:recording:chunk", {"stream_id": talks[0].stream_id, "offset": 3_200, "audio": b"\0\0"})
    late = await wire.wait("voice:recording:error")
    assert late["error"]["code"] == "stream_ended"


async def test_a_stream_waits_for_its_client_and_goes_on(parlance: ServerProcess, alice: Account, wire: Wire) -> None:
    pcm, texts = spoken(8, 4)
    live = Talk(wire, pcm)
    await live.start()
    await live.send(len(pcm) // 3 // 2 * 2)
    await wire.vanish()
    async with wired(parlance.url, alice.token) as again:
        answer = await live.resume(again)
        assert answer["offset"] <= len(pcm) // 3
        await live.send()
        await live.stop()
        log = await live.log()
    assert [e["text"] for e in log[:-1]] == texts
    assert [e["ordinal"] for e in log[:-1]] == list(range(1, len(texts) + 1))


async def test_a_takeover_fences_the_ghost(parlance: ServerProcess, alice: Account, wire: Wire) -> None:
    pcm, texts = spoken(9, 3)
    live = Talk(wire, pcm)
    await live.start()
    old_stream = live.stream_id
    await live.send(len(pcm) // 2 // 2 * 2)
    busy = await wire.refused(
        "voice:recording:start", {"encoding": "pcm_s16le", "sample_rate": 16_000, "recording_id": live.recording_id}
    )
    assert busy["code"] == "recording_busy"
    wrong = await wire.refused(
        "voice:recording:start",
        {
            "encoding": "pcm_s16le",
            "sample_rate": 16_000,
            "channels": 1,
            "recording_id": live.recording_id,
            "resume_token": "x" * 32,
        },
    )
    assert wrong["code"] == "recording_busy"
    async with wired(parlance.url, alice.token) as again:
        await live.resume(again)
        await wire.emit("voice:recording:chunk", {"stream_id": old_stream, "offset": live.sent, "audio": b"\1" * 640})
        ghost = await wire.wait("voice:recording:error")
        assert (ghost["fatal"], ghost["error"]["code"]) == (True, "recording_busy")
        await live.send()
        await live.stop()
        assert [e["text"] for e in (await live.log())[:-1]] == texts
        ended = await again.refused(
            "voice:recording:start",
            {
                "encoding": "pcm_s16le",
                "sample_rate": 16_000,
                "channels": 1,
                "recording_id": live.recording_id,
                "resume_token": live.resume_token,
            },
        )
        assert ended["code"] == "stream_ended"


async def test_two_talks_on_one_socket_do_not_mix(wire: Wire) -> None:
    (one, texts_one), (two, texts_two) = spoken(10), spoken(11)
    talks = [Talk(wire, one), Talk(wire, two)]
    for live in talks:
        await live.start()
    await asyncio.gather(*(live.send() for live in talks))
    for live, texts in zip(talks, (texts_one, texts_two), strict=True):
        await live.stop()
        assert [e["text"] for e in (await live.log())[:-1]] == texts


async def final_texts(client: Client, stream: LiveStream) -> str:
    events = [event async for page in client.read_events(stream.room, 0) for event in page.events]
    return " ".join(event.body["text"] for event in events if event.name == "transcript:final")


@pytest.mark.parametrize("encoding", [Encoding.WEBM_OPUS, Encoding.OGG_OPUS])
async def test_our_client_carries_a_container_through_lost_connections(
    parlance: ServerProcess, alice: Account, encoding: Encoding
) -> None:
    said = talk(random_sentences(12, 4), silence_ms=700)
    data = packed(said.audio, encoding)
    backoff = Backoff(first_s=0.01, max_s=0.1)
    async with Client(parlance.url, alice.token, backoff=backoff) as client, client.events() as events:
        stream = await client.record(encoding=encoding.value, new_container=True)
        await client.join(stream.room, 0)
        for at in range(0, len(data), len(data) // 9):
            await stream.send(data[at : at + len(data) // 9])
            link = await client.connected()
            link._socket.eio.ws._response.connection.transport.abort()
        await stream.stop()
        async for event in events:
            if event.name == "recording:ended" and event.room == stream.room:
                break
        assert await final_texts(client, stream) == " ".join(said.texts)


@pytest.mark.parametrize("encoding", [Encoding.WEBM_OPUS, Encoding.OGG_OPUS])
async def test_a_program_that_died_goes_on_with_a_new_container(
    parlance: ServerProcess, alice: Account, encoding: Encoding
) -> None:
    said = [talk(random_sentences(seed, 2), silence_ms=900) for seed in (13, 14)]
    pieces = [packed(one.audio, encoding) for one in said]
    async with Client(parlance.url, alice.token) as client:
        stream = await client.record(encoding=encoding.value)
        known = {"recording_id": stream.recording_id, "resume_token": stream.resume_token}
        await stream.send(pieces[0])
        while stream.buffered_bytes:
            await client.call("events:read", {"room": stream.room, "after_seq": 0})
    async with Client(parlance.url, alice.token) as client, client.events() as events:
        stream = await client.record(encoding=encoding.value, new_container=True, **known)
        await client.join(stream.room, 0)
        assert stream.offset == len(pieces[0])
        await stream.send(pieces[1])
        await stream.stop()
        async for event in events:
            if event.name == "recording:ended" and event.room == stream.room:
                break
        assert await final_texts(client, stream) == " ".join(text for one in said for text in one.texts)


@pytest.mark.parametrize("encoding", ["pcm_f32le", "mulaw", "webm_opus", "ogg_opus"])
async def test_the_command_line_streams_in_every_encoding(
    parlance: ServerProcess, alice: Account, tmp_path: Path, encoding: str
) -> None:
    said = talk(random_sentences(15, 2))
    file = write_wav(tmp_path / "talk.wav", said.audio)
    ran = await parlance_command(of_server(parlance, alice), "stream", str(file), "--encoding", encoding)
    assert ran.status == 0, ran.err
    for text in said.texts:
        assert text in ran.out
