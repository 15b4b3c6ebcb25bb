"""The Python client against a peer that misbehaves: order, credit, gaps, lost connections."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from parlance_client import (
    AudioLost,
    Backoff,
    CallFailed,
    CallTimeout,
    Client,
    ConnectFailed,
    ConnectRefused,
    Disconnected,
    Event,
    EventsLost,
    EventStream,
    RecordingFailed,
    Superseded,
)
from parlance_client.link import _OrderedEngine

from tests.fakes.tones import random_sentences, talk
from tests.fakes.wire import HANG_S, WirePeer, refusal, wire_peer
from tests.support.process import Account, ServerProcess

QUICK = Backoff(first_s=0.02, max_s=0.1, give_up_s=HANG_S)


@pytest.fixture
async def peer() -> AsyncIterator[WirePeer]:
    async with wire_peer() as made:
        yield made


def client_of(peer: WirePeer, **options: Any) -> Client:
    return Client(peer.url, "token-1", client="test/1", **{"backoff": QUICK, **options})


async def take(reader: EventStream, count: int, name: str = "transcript:final") -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(HANG_S):
        while len(events) < count:
            event = await anext(reader)
            if event.name == name:
                events.append(event)
    return events


# --- connecting -------------------------------------------------------------------------------------------------------
async def test_it_is_greeted(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        assert client.ready.user.name == "Ana"
        assert client.ready.engine.name == "fake"
    assert peer.connects == [{"token": "token-1", "protocol": 1, "client": "test/1"}]


async def test_a_refusal_says_why(peer: WirePeer) -> None:
    peer.refuse = [{"code": "unauthenticated", "message": "The token has expired."}]
    with pytest.raises(ConnectRefused, match="expired") as caught:
        async with client_of(peer):
            pass
    assert (caught.value.code, caught.value.retryable) == ("unauthenticated", False)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "not a url", "http://"])
async def test_an_absent_server_is_an_error(url: str) -> None:
    with pytest.raises(ConnectFailed):
        async with Client(url, "token"):
            pass


async def test_a_web_server_that_speaks_something_else_is_an_error() -> None:
    async with TestServer(web.Application()) as other:
        with pytest.raises(ConnectFailed):
            async with Client(str(other.make_url("/")), "token"):
                pass


async def test_a_fresh_token_is_asked_for_on_every_connection(peer: WirePeer) -> None:
    tokens = iter(["a", "b", "c"])
    async with Client(peer.url, lambda: next(tokens), backoff=QUICK) as client:
        await peer.cut()
        await peer.until(lambda: len(peer.sids) == 1)
        async with asyncio.timeout(HANG_S):
            await client.connected()
    assert [auth["token"] for auth in peer.connects] == ["a", "b"]


async def test_it_leaves_no_task_behind(peer: WirePeer) -> None:
    before = asyncio.all_tasks()
    async with client_of(peer) as client:
        await client.record()
    mine = {task for task in asyncio.all_tasks() - before if (task.get_name() or "").startswith("parlance client/")}
    assert not mine
    with pytest.raises(Disconnected):
        await client.call("x", {})


async def test_a_refused_reconnect_ends_the_client_loudly(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        reader = client.events()
        stream = await client.record()
        peer.refuse = [{"code": "unauthenticated", "message": "Gone."}]
        await peer.cut()
        with pytest.raises(ConnectRefused):
            await take(reader, 1)
        with pytest.raises(StopAsyncIteration):
            await anext(reader)
        with pytest.raises(ConnectRefused):
            await client.call("x", {})
        with pytest.raises(ConnectRefused):
            async with asyncio.timeout(HANG_S):
                await stream.stop()


async def test_an_overloaded_server_is_tried_again(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        peer.refuse = [{"code": "overloaded", "message": "Later."}] * 3
        await peer.cut()
        await peer.until(lambda: len(peer.sids) == 1)
        async with asyncio.timeout(HANG_S):
            await client.connected()
    assert len(peer.connects) == 5


async def test_a_draining_server_is_left(peer: WirePeer) -> None:
    async with client_of(peer):
        await peer.emit("server:draining", {"reconnect_after_ms": 10})
        await peer.until(lambda: len(peer.connects) == 2 and len(peer.sids) == 2)


# --- calls ------------------------------------------------------------------------------------------------------------
async def test_a_call_returns_the_acknowledgement_or_raises_its_error(peer: WirePeer) -> None:
    peer.answers["x"] = [{"ok": True, "y": 1}, refusal("overloaded", retryable=True, retry_after_ms=7, field="f"), 5]
    async with client_of(peer) as client:
        assert await client.call("x", {}) == {"ok": True, "y": 1}
        with pytest.raises(CallFailed) as caught:
            await client.call("x", {})
        error = caught.value
        assert (error.code, error.retryable, error.retry_after_ms, error.field) == ("overloaded", True, 7, "f")
        with pytest.raises(CallFailed, match="without an object"):
            await client.call("x", {})


async def test_a_call_without_an_answer_ends(peer: WirePeer) -> None:
    peer.silent = {"x"}
    async with client_of(peer, call_timeout_s=0.05) as client:
        with pytest.raises(CallTimeout):
            await client.call("x", {})


async def test_a_lost_connection_fails_the_calls_under_way(peer: WirePeer) -> None:
    peer.silent = {"x"}
    async with client_of(peer) as client:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(_outcome(client.call("x", {})))
            await peer.until(lambda: "x" in peer.names())
            await peer.cut()
        assert isinstance(call.result(), Disconnected)


async def _outcome(call: Any) -> BaseException | None:
    try:
        async with asyncio.timeout(HANG_S):
            await call
    except Exception as error:
        return error
    return None


# --- events -----------------------------------------------------------------------------------------------------------
async def test_a_burst_arrives_in_order(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        reader = client.events()
        await client.join("recording:r1", 0)
        for number in range(1_000):
            body = {"room": "recording:r1", "after_seq": 0, "n": number}
            await peer.emit("transcript:partial", body | ({"blob": b"x"} if number % 7 == 0 else {}))
        events = await take(reader, 1_000, "transcript:partial")
    assert [event.body["n"] for event in events] == list(range(1_000))


async def test_a_message_is_handled_where_it_is_read() -> None:
    engine = _OrderedEngine(handle_sigint=False)
    seen: list[str] = []

    async def handler(data: str) -> None:
        seen.append(data)

    engine.on("message", handler)
    await engine._trigger_event("message", "one", run_async=True)
    assert seen == ["one"]


async def test_events_before_a_close_are_not_overtaken_by_it(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        reader = client.events()
        sid = peer.sids[-1]
        for number in range(200):
            await peer.emit("transcript:partial", {"n": number})
        await peer.emit("server:closing", {"code": "slow_consumer", "message": "Too slow."})
        await peer.sio.disconnect(sid)
        assert len(await take(reader, 200, "transcript:partial")) == 200
        await take(reader, 1, "server:closing")
        await take(reader, 1, "ready")


async def test_every_reader_gets_every_event(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        first, second = client.events(), client.events()
        await client.join("recording:r1")
        await peer.tell("recording:r1", "hello")
        assert await take(first, 1) == await take(second, 1)


async def test_a_slow_reader_learns_what_it_lost(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        slow, quick = client.events(events_max=3), client.events()
        await client.join("recording:r1")
        for number in range(6):
            await peer.tell("recording:r1", str(number))
        assert len(await take(quick, 6)) == 6
        assert [event.body["text"] for event in await take(slow, 3)] == ["0", "1", "2"]
        with pytest.raises(EventsLost) as caught:
            await anext(slow)
        assert caught.value.room is None
        await peer.tell("recording:r1", "after")
        assert [event.body["text"] for event in await take(slow, 1)] == ["after"]


async def test_a_joined_room_is_followed_across_a_lost_connection(peer: WirePeer) -> None:
    for number in range(3):
        peer.write("recording:r1", str(number))
    async with client_of(peer) as client:
        reader = client.events()
        joined = await client.join("recording:r1", 1)
        assert (joined.seq, joined.first_seq) == (3, 1)
        assert [event.seq for event in await take(reader, 2)] == [2, 3]
        await peer.tell("recording:r1", "3")
        assert [event.seq for event in await take(reader, 1)] == [4]
        await peer.cut()
        peer.write("recording:r1", "4")
        peer.write("recording:r1", "5")
        assert [event.seq for event in await take(reader, 2)] == [5, 6]
        assert peer.received[-1] == ("room:join", {"room": "recording:r1", "after_seq": 4})


async def test_a_gap_is_filled_and_a_repetition_dropped(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        reader = client.events()
        await client.join("recording:r1", 0)
        first = peer.write("recording:r1", "1")
        await peer.emit("transcript:final", first)
        await peer.emit("transcript:final", first)
        peer.write("recording:r1", "2")
        await peer.tell("recording:r1", "3")
        assert [event.seq for event in await take(reader, 3)] == [1, 2, 3]
        await peer.tell("recording:r1", "4")
        assert [event.seq for event in await take(reader, 1)] == [4]


async def test_a_truncated_history_is_an_error_at_its_place(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        reader = client.events()
        await client.join("recording:r1", 0)
        await peer.tell("recording:r1", "1")
        await take(reader, 1)
        await peer.cut()
        for number in range(5):
            peer.write("recording:r1", str(number))
        peer.first_seq["recording:r1"] = 4
        with pytest.raises(EventsLost) as caught:
            await take(reader, 1)
        assert (caught.value.room, caught.value.first_seq) == ("recording:r1", 4)
        with pytest.raises(CallFailed, match="history_truncated"):
            await client.join("recording:r1", 1)
        await client.join("recording:r1", 3)
        assert [event.seq for event in await take(reader, 3)] == [4, 5, 6]


async def test_a_log_is_read_page_by_page(peer: WirePeer) -> None:
    for number in range(7):
        peer.write("recording:r1", str(number))
    async with client_of(peer) as client:
        pages = [page async for page in client.read_events("recording:r1", 2, limit=2)]
    assert [[event.seq for event in page.events] for page in pages] == [[3, 4], [5, 6], [7]]
    assert [page.more for page in pages] == [True, True, False]
    assert pages[0].events[0].name == "transcript:final"


# --- live audio -------------------------------------------------------------------------------------------------------
AUDIO = bytes(i % 251 for i in range(40_000))


async def test_audio_arrives_whole_and_the_stop_says_how_much(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record(title="Talk", language="en")
        for start in range(0, len(AUDIO), 3_200):
            await stream.send(AUDIO[start : start + 3_200])
        await stream.stop()
        with pytest.raises(ValueError, match="stopped"):
            await stream.send(b"xx")
    take_ = peer.takes[stream.recording_id]
    assert (bytes(take_.audio), take_.stopped) == (AUDIO, True)
    started = next(body for name, body in peer.received if name == "voice:recording:start")
    expected = {"encoding": "pcm_s16le", "sample_rate": 16_000, "channels": 1, "title": "Talk", "language": "en"}
    assert started == expected


async def test_no_byte_is_sent_beyond_the_credit(peer: WirePeer) -> None:
    peer.credit_bytes = 1_000
    async with client_of(peer) as client:
        stream = await client.record()
        record = peer.takes[stream.recording_id]
        record.acks = False
        await stream.send(AUDIO)
        await peer.until(lambda: len(record.audio) == 1_000)
        # The join is answered after everything that was sent before it.
        await client.join("recording:r1")
        assert len(record.audio) == 1_000
        record.acks = True
        await peer.acknowledge(record)
        async with asyncio.timeout(HANG_S):
            await stream.stop()
    assert bytes(record.audio) == AUDIO
    assert all(length <= 1_000 for _, length in record.chunks)


async def test_send_waits_while_the_ring_is_full(peer: WirePeer) -> None:
    peer.durable_lag = 1_000_000
    async with client_of(peer) as client:
        stream = await client.record(ring_bytes=8_000)
        record = peer.takes[stream.recording_id]
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(stream.send(AUDIO))
            await peer.until(lambda: len(record.audio) == 8_000)
            await client.join("recording:r1")
            assert not sending.done()
            assert stream.buffered_bytes == 8_000
            record.durable_lag = 0
            await peer.acknowledge(record)
        await stream.stop()
    assert bytes(record.audio) == AUDIO


async def test_a_lost_connection_loses_and_doubles_nothing(peer: WirePeer) -> None:
    peer.durable_lag = 5_000
    async with client_of(peer) as client:
        stream = await client.record()
        record = peer.takes[stream.recording_id]
        for start in range(0, len(AUDIO), 2_000):
            await stream.send(AUDIO[start : start + 2_000])
            if start % 8_000 == 0:
                wanted = start + 2_000
                await peer.until(lambda wanted=wanted: len(record.audio) >= wanted)
                await peer.cut()
                await peer.until(lambda: len(peer.sids) == 1)
        record.durable_lag = 0
        async with asyncio.timeout(HANG_S):
            await stream.stop()
    assert bytes(record.audio) == AUDIO
    again = [body for name, body in peer.received if name == "voice:recording:start"][1:]
    assert len(again) == 5
    assert all(body["resume_token"] == "secret-r1" and body["sample_rate"] == 16_000 for body in again)


async def test_a_disagreement_about_the_offset_is_healed(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        record = peer.takes[stream.recording_id]
        record.acks = False
        await stream.send(AUDIO[:4_000])
        await peer.until(lambda: len(record.audio) == 4_000)
        del record.audio[1_000:]
        record.acks = True
        await stream.send(AUDIO[4_000:])
        async with asyncio.timeout(HANG_S):
            await stream.stop()
    assert bytes(record.audio) == AUDIO


async def test_a_missing_tail_is_sent_again_before_the_stop(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        record = peer.takes[stream.recording_id]
        record.acks = False
        await stream.send(AUDIO)
        await peer.until(lambda: len(record.audio) == len(AUDIO))
        del record.audio[30_000:]
        async with asyncio.timeout(HANG_S):
            await stream.stop()
    assert bytes(record.audio) == AUDIO


async def test_a_server_that_never_agrees_fails_the_stream(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        peer.answers["voice:recording:stop"] = [refusal("offset_mismatch", expected=0)] * 50
        with pytest.raises(RecordingFailed, match="do not agree"):
            async with asyncio.timeout(HANG_S):
                await stream.stop()


async def test_a_fatal_error_is_raised(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        error = {"code": "decode_failed", "message": "No audio.", "retryable": False}
        body = {"stream_id": stream.stream_id, "error": error, "fatal": True}
        await peer.emit("voice:recording:error", body)
        await client.call("x", {})
        with pytest.raises(RecordingFailed, match="decode_failed"):
            await stream.send(AUDIO)
        with pytest.raises(RecordingFailed, match="decode_failed"):
            await stream.stop()


async def test_audio_that_was_freed_and_then_lost_is_an_error(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        record = peer.takes[stream.recording_id]
        await stream.send(AUDIO)
        async with asyncio.timeout(HANG_S):
            while stream.buffered_bytes:
                await client.call("x", {})
        record.durable = 10_000
        await peer.cut()
        with pytest.raises(AudioLost):
            async with asyncio.timeout(HANG_S):
                await stream.stop()


async def test_a_stop_whose_answer_was_lost_is_still_a_stop(peer: WirePeer) -> None:
    async def stop_and_cut(_body: Any) -> dict[str, Any]:
        peer.end(record)
        await peer.cut()
        return {"ok": True}

    async with client_of(peer) as client:
        stream = await client.record()
        record = peer.takes[stream.recording_id]
        peer.answers["voice:recording:stop"] = [stop_and_cut]
        async with asyncio.timeout(HANG_S):
            await stream.stop()
    assert peer.names().count("voice:recording:start") == 2


async def test_a_stream_that_ended_meanwhile_is_an_error(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        peer.end(peer.takes[stream.recording_id], "abandoned")
        await peer.cut()
        await peer.until(lambda: peer.names().count("voice:recording:start") == 2)
        with pytest.raises(RecordingFailed, match="stream_ended"):
            async with asyncio.timeout(HANG_S):
                await stream.stop()


async def test_marks_come_after_the_audio_before_them_and_survive_a_takeover(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        record = peer.takes[stream.recording_id]
        await stream.send(AUDIO[:1_000])
        await stream.flush("here")
        assert record.log == ["chunk", "flush"]
        await stream.pause()
        await peer.cut()
        await peer.until(lambda: record.log.count("pause") == 2)
        async with asyncio.timeout(HANG_S):
            await stream.resume()
            await stream.stop()
    assert record.log == ["chunk", "flush", "pause", "pause", "resume", "stop"]


async def test_an_overloaded_start_is_the_callers_business(peer: WirePeer) -> None:
    peer.answers["voice:recording:start"] = [refusal("overloaded", retryable=True, retry_after_ms=5)]
    async with client_of(peer) as client:
        with pytest.raises(CallFailed, match="overloaded"):
            await client.record()


async def test_a_takeover_waits_out_an_overloaded_server(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        peer.answers["voice:recording:start"] = [refusal("overloaded", retryable=True, retry_after_ms=5)] * 2
        await peer.cut()
        await stream.send(AUDIO)
        async with asyncio.timeout(HANG_S):
            await stream.stop()
    assert bytes(peer.takes["r1"].audio) == AUDIO


async def test_another_process_can_continue_a_stream(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        first = await client.record()
        await first.send(AUDIO[:10_000])
        await first.flush("all")
    async with client_of(peer) as client:
        second = await client.record(recording_id=first.recording_id, resume_token=first.resume_token)
        assert second.offset == 10_000
        await second.send(AUDIO[10_000:])
        await second.stop()
    assert bytes(peer.takes[first.recording_id].audio) == AUDIO


# --- search -----------------------------------------------------------------------------------------------------------
def results(request_id: str, phase: str) -> dict[str, Any]:
    hit = {
        "segment_id": "g1",
        "recording_id": "r1",
        "title": "Talk",
        "speaker": None,
        "start_ms": 0,
        "end_ms": 900,
        "text": "hello",
        "highlights": [[0, 5]],
        "score": 1.0,
    }
    return {"request_id": request_id, "phase": phase, "hits": [hit], "took_ms": 3}


def answering(peer: WirePeer, *events: tuple[str, dict[str, Any]]) -> None:
    async def answer(body: dict[str, Any]) -> dict[str, Any]:
        for name, extra in events:
            await peer.emit(name, {**results(body["request_id"], ""), **extra})
        return {"ok": True}

    peer.answers.setdefault("search:query", []).append(answer)


async def test_a_search_yields_its_phases(peer: WirePeer) -> None:
    answering(peer, ("search:results", {"phase": "instant"}), ("search:results", {"phase": "full", "degraded": True}))
    async with client_of(peer) as client:
        phases = [answer async for answer in client.search("hello", filters={"speakers": ["S1"]})]
    assert [(answer.phase, answer.degraded) for answer in phases] == [("instant", False), ("full", True)]
    assert phases[0].hits[0].highlights == [(0, 5)]
    assert peer.received[0][1]["filters"] == {"speakers": ["S1"]}
    assert "search:cancel" not in peer.names()


async def test_a_search_can_fail_be_superseded_or_lose_its_connection(peer: WirePeer) -> None:
    answering(peer, ("search:failed", {"error": {"code": "unavailable", "message": "No."}}))
    answering(peer, ("search:results", {"phase": "instant"}), ("search:superseded", {}))
    async with client_of(peer) as client:
        with pytest.raises(CallFailed, match="unavailable"):
            _ = [answer async for answer in client.search("hello")]
        with pytest.raises(Superseded):
            _ = [answer async for answer in client.search("hello")]
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(_outcome(anext(client.search("hello"))))
            await peer.until(lambda: peer.names().count("search:query") == 3)
            await peer.cut()
        assert isinstance(lost.result(), Disconnected)


async def test_a_search_left_early_is_cancelled(peer: WirePeer) -> None:
    answering(peer, ("search:results", {"phase": "instant"}))
    async with client_of(peer) as client:
        phases = client.search("hello")
        await anext(phases)
        await phases.aclose()  # type: ignore[attr-defined]
        await peer.until(lambda: "search:cancel" in peer.names())


# --- a real server ----------------------------------------------------------------------------------------------------
async def test_a_real_server_gets_everything_over_lost_connections(parlance: ServerProcess, alice: Account) -> None:
    said = talk(random_sentences(61, 5))
    pcm = said.audio.tobytes()
    async with Client(parlance.url, alice.token, backoff=QUICK) as client, client.events() as events:
        stream = await client.record(title="Talk")
        await client.join(stream.room, 0)
        step = len(pcm) // 8 // 2 * 2
        for number, start in enumerate(range(0, len(pcm), step)):
            await stream.send(pcm[start : start + step])
            if number in (2, 4, 6):
                # Between one chunk and the next, as a network would: the transport goes, nobody says a word.
                link = await client.connected()
                link._socket.eio.ws._response.connection.transport.abort()
                async with asyncio.timeout(HANG_S):
                    await link.closed.wait()
                    await client.connected()
        async with asyncio.timeout(HANG_S):
            await stream.stop()
            seen = [event async for event in _until_ended(events, stream.room)]
        log = [event async for page in client.read_events(stream.room, 0) for event in page.events]
    assert [event.body["text"] for event in seen if event.name == "transcript:final"] == said.texts
    assert [(event.name, event.seq) for event in seen] == [(event.name, event.seq) for event in log]
    assert seen[-1].body["duration_ms"] == len(said.audio) * 1_000 // 16_000


async def _until_ended(events: EventStream, room: str) -> AsyncIterator[Event]:
    """The room's durable events up to its end."""
    async for event in events:
        if event.room == room and event.seq is not None:
            yield event
            if event.name == "recording:ended":
                return


async def test_a_real_server_answers_a_search(parlance: ServerProcess, alice: Account) -> None:
    async with Client(parlance.url, alice.token) as client:
        assert "full" in [answer.phase async for answer in client.search("nothing")]
