"""What the Python client's streams survive, and what they say about it."""

import asyncio
import base64
import gc
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from parlance_client import (
    AudioLost,
    Backoff,
    Client,
    ConnectRefused,
    Event,
    EventsLost,
    EventStream,
    LiveStream,
    RecordingFailed,
    StreamState,
    TokenFailed,
)
from parlance_client.link import Link

from tests.fakes.tones import random_sentences, talk
from tests.fakes.wire import HANG_S, WirePeer, refusal, wire_peer
from tests.support.process import Account, ServerProcess
from tests.support.proxy import Proxy

QUICK = Backoff(first_s=0.02, max_s=0.1, give_up_s=HANG_S)
PATIENT = Backoff(first_s=0.02, max_s=0.5)
AUDIO = bytes(i % 251 for i in range(40_000))
LONG_S = 240.0
"""A generous bound on ten minutes of speech through a server on a slow machine."""


@pytest.fixture
async def peer() -> AsyncIterator[WirePeer]:
    async with wire_peer() as made:
        yield made


@pytest.fixture
async def second() -> AsyncIterator[WirePeer]:
    async with wire_peer() as made:
        yield made


def client_of(peer: WirePeer, **options: Any) -> Client:
    return Client(peer.url, "token-1", **{"backoff": QUICK, **options})


async def until_state(stream: LiveStream, *wanted: StreamState, within_s: float = HANG_S) -> list[StreamState]:
    """The states up to the first of `wanted`."""
    seen: list[StreamState] = []
    async with asyncio.timeout(within_s):
        async for state in stream.states():
            seen.append(state)
            if state in wanted:
                break
    return seen


def jwt(seconds: float, name: str) -> str:
    claims = json.dumps({"exp": time.time() + seconds, "name": name}).encode()
    return f"x.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.x"


# --- ten minutes ------------------------------------------------------------------------------------------------------
async def test_ten_minutes_without_a_network_end_in_a_complete_transcript(
    parlance: ServerProcess, alice: Account
) -> None:
    said = await asyncio.to_thread(talk, random_sentences(41, 185, words=(5, 9)), sample_rate=48_000)
    pcm = said.audio.tobytes()
    before = 20 * 96_000
    assert len(pcm) - before > 600 * 96_000
    proxy = Proxy(int(parlance.url.rsplit(":", 1)[1]))
    await asyncio.to_thread(proxy.start)
    try:
        async with Client(proxy.url, alice.token, backoff=PATIENT) as client, client.events() as events:
            stream = await client.record(title="Lecture", sample_rate=48_000)
            await client.join(stream.room, 0)
            await stream.send(pcm[:before])
            await until_state(stream, StreamState.LIVE)
            await asyncio.to_thread(proxy.refuse)
            await until_state(stream, StreamState.RECONNECTING)
            async with asyncio.timeout(HANG_S):
                await stream.send(pcm[before : before + 600 * 96_000])  # The ring takes all of it.
            assert stream.buffered_bytes >= 600 * 96_000
            assert stream.state is StreamState.RECONNECTING
            await asyncio.to_thread(proxy.heal)
            seen = await until_state(stream, StreamState.LIVE, within_s=LONG_S)
            assert seen == [StreamState.RECONNECTING, StreamState.CATCHING_UP, StreamState.LIVE]
            await stream.send(pcm[before + 600 * 96_000 :])
            async with asyncio.timeout(LONG_S):
                await stream.stop()
                assert stream.state is StreamState.STOPPED
                finals = [event async for event in _until_ended(events, stream.room)]
    finally:
        await asyncio.to_thread(proxy.stop)
    assert [event.body["text"] for event in finals if event.name == "transcript:final"] == said.texts
    assert finals[-1].body["duration_ms"] == len(said.audio) * 1_000 // 48_000


async def _until_ended(events: EventStream, room: str) -> AsyncIterator[Event]:
    async for event in events:
        if event.room == room and event.seq is not None:
            yield event
            if event.name == "recording:ended":
                return


# --- states -----------------------------------------------------------------------------------------------------------
async def test_states_are_told_until_the_end(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        async with asyncio.TaskGroup() as group:
            seen = group.create_task(until_state(stream, StreamState.STOPPED))
            await stream.send(AUDIO[:1_000])
            await stream.pause()
            await until_state(stream, StreamState.PAUSED)
            await peer.cut()
            await until_state(stream, StreamState.RECONNECTING)
            await until_state(stream, StreamState.PAUSED)
            await stream.resume()
            await client.call("x", {})  # A reader is told of the last change only: let it read.
            await stream.stop()
        names = [state.value for state in seen.result()]
    assert names == ["live", "paused", "reconnecting", "paused", "live", "stopping", "stopped"]
    assert (stream.state, stream.error) == (StreamState.STOPPED, None)


async def test_a_closed_client_loses_what_was_not_delivered(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
    assert stream.state is StreamState.LOST
    assert [state async for state in stream.states()] == [StreamState.LOST]


# --- take-overs -------------------------------------------------------------------------------------------------------
async def test_two_clients_with_one_token_do_not_take_the_stream_from_each_other_for_ever(
    parlance: ServerProcess, alice: Account
) -> None:
    async with Client(parlance.url, alice.token, backoff=QUICK) as one:
        first = await one.record()
        await first.send(AUDIO)
        await first.flush("all")
        async with Client(parlance.url, alice.token, backoff=QUICK) as two:
            second = await two.record(recording_id=first.recording_id, resume_token=first.resume_token)
            await until_state(first, StreamState.LOST)
            with pytest.raises(RecordingFailed, match=r"recording_busy.*Safe at the server: .* known to be safe: "):
                await first.send(b"xx")
            for client in (one, two):
                link = await client.connected()
                link._socket.eio.ws._response.connection.transport.abort()
                async with asyncio.timeout(HANG_S):
                    await link.closed.wait()
                    await client.connected()
            await until_state(second, StreamState.LIVE)
            await second.send(AUDIO)
            await second.stop()
            assert (first.state, second.state) == (StreamState.LOST, StreamState.STOPPED)


async def test_somebody_elses_bytes_are_not_mixed_with_ours(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        record = peer.takes[stream.recording_id]
        await stream.send(AUDIO[:1_000])
        await peer.until(lambda: len(record.audio) == 1_000)
        record.audio += bytes(20)
        record.durable = len(record.audio)
        await peer.cut()
        await until_state(stream, StreamState.LOST)
        with pytest.raises(AudioLost, match="somebody else") as caught:
            await stream.send(AUDIO[1_000:])
        assert (caught.value.start, caught.value.end) == (1_000, 1_020)
        await peer.until(lambda: record.stopped)  # It does not wait for this client for ever.


async def test_bytes_that_nobody_has_any_more_are_named(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        record = peer.takes[stream.recording_id]
        await stream.send(AUDIO)
        async with asyncio.timeout(HANG_S):
            while stream.buffered_bytes:
                await client.call("x", {})
        record.durable = 10_000
        await peer.cut()
        await until_state(stream, StreamState.LOST)
        with pytest.raises(AudioLost, match="bytes 10000 to 40000"):
            await stream.stop()


async def test_interruptions_without_a_byte_in_between_are_no_disagreement(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        await stream.send(AUDIO[:1_000])
        await stream.pause()
        for cuts in range(1, 13):
            await peer.cut()
            await peer.until(lambda cuts=cuts: peer.names().count("voice:recording:pause") == 1 + cuts)
        async with asyncio.timeout(HANG_S):
            await stream.resume()
            await stream.send(AUDIO[1_000:])
            await stream.stop()
    assert bytes(peer.takes[stream.recording_id].audio) == AUDIO


async def test_a_server_that_cannot_take_sound_for_a_while_gets_all_of_it(peer: WirePeer) -> None:
    async def full(body: dict[str, Any]) -> None:
        error = {"code": "unavailable", "message": "The disk is full.", "retryable": True, "retry_after_ms": 5}
        told = {"stream_id": body["stream_id"], "error": error, "fatal": False, "expected_offset": 0}
        await peer.emit("voice:recording:error", told)

    async with client_of(peer) as client:
        stream = await client.record()
        peer.answers["voice:recording:chunk"] = [full] * 20  # More often than two sides may disagree.
        await stream.send(AUDIO)
        await until_state(stream, StreamState.RECONNECTING)
        async with asyncio.timeout(HANG_S):
            await stream.stop()
    assert bytes(peer.takes[stream.recording_id].audio) == AUDIO


async def test_a_stream_that_this_connection_does_not_have_any_more_is_taken_over(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        error = {"code": "stream_ended", "message": "No.", "retryable": False}
        await peer.emit("voice:recording:error", {"stream_id": stream.stream_id, "error": error, "fatal": False})
        await peer.until(lambda: peer.names().count("voice:recording:start") == 2)
        peer.answers["voice:recording:pause"] = [refusal("stream_ended")]
        async with asyncio.timeout(HANG_S):
            await stream.pause()
            await stream.resume()
            await stream.send(AUDIO)
            await stream.stop()
    assert peer.names().count("voice:recording:start") == 3
    assert bytes(peer.takes[stream.recording_id].audio) == AUDIO


async def test_late_words_about_an_old_stream_count_for_nothing(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        record = peer.takes[stream.recording_id]
        old = stream.stream_id
        await peer.cut()
        await peer.until(lambda: peer.names().count("voice:recording:start") == 2)
        await stream.send(AUDIO)
        await peer.until(lambda: len(record.audio) == len(AUDIO))
        error = {"code": "internal", "message": "No.", "retryable": False}
        await peer.emit("voice:recording:error", {"stream_id": old, "error": error, "fatal": True})
        ack = {"stream_id": old, "received_bytes": 9, "durable_bytes": 9, "credit_bytes": 0}
        await peer.emit("voice:recording:ack", ack)
        await client.call("x", {})
        assert stream.ack is not None
        assert stream.ack.stream_id == stream.stream_id
        await stream.stop()


async def test_a_stop_that_never_arrived_before_the_stream_was_given_up_is_no_stop(peer: WirePeer) -> None:
    async def gone(_body: Any) -> dict[str, Any]:
        peer.end(peer.takes[stream.recording_id], "abandoned")
        for _ in range(250):
            peer.write(stream.room, "revised later")
        await peer.cut()
        return {"ok": True}

    async with client_of(peer) as client:
        stream = await client.record()
        await stream.send(AUDIO)
        peer.answers["voice:recording:stop"] = [gone]
        with pytest.raises(RecordingFailed, match="stream_ended"):
            async with asyncio.timeout(HANG_S):
                await stream.stop()
        assert stream.state is StreamState.LOST


async def test_a_server_that_is_about_to_stop_is_left(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        stream = await client.record()
        peer.answers["voice:recording:start"] = [refusal("draining", retryable=True, retry_after_ms=20)]
        await peer.cut()
        await peer.until(lambda: len(peer.connects) == 3)
        await stream.send(AUDIO)
        async with asyncio.timeout(HANG_S):
            await stream.stop()
    assert bytes(peer.takes[stream.recording_id].audio) == AUDIO


# --- where to connect -------------------------------------------------------------------------------------------------
async def test_addresses_are_tried_in_turn(peer: WirePeer, second: WirePeer) -> None:
    async with client_of(peer, urls=[second.url]) as client:
        await client.join("recording:r1", 0)
        await peer.cut()
        await second.until(lambda: "room:join" in second.names())
    assert (len(peer.connects), len(second.connects)) == (1, 1)


async def test_an_address_that_does_not_answer_is_passed_over_at_the_first_connection_too(peer: WirePeer) -> None:
    async with Client("http://127.0.0.1:1", "token", urls=[peer.url], backoff=QUICK) as client:
        assert client.is_connected


async def test_one_that_is_full_is_not_asked_before_the_time_that_it_named(peer: WirePeer) -> None:
    clock = asyncio.get_running_loop().time
    async with client_of(peer) as client:
        peer.refuse = [{"code": "overloaded", "message": "Later.", "retry_after_ms": 400}]
        since = clock()
        await peer.cut()
        await peer.until(lambda: len(peer.connects) == 3 and len(peer.sids) == 1)
        assert clock() - since >= 0.4
        async with asyncio.timeout(HANG_S):
            await client.connected()


async def test_a_draining_one_may_be_left_at_once(peer: WirePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parlance_client.connection.random.random", lambda: 0.0)
    async with client_of(peer):
        await peer.emit("server:draining", {"reconnect_after_ms": 3_600_000})
        await peer.until(lambda: len(peer.connects) == 2)


@pytest.mark.parametrize("closes", [False, True])
async def test_a_draining_one_is_left_at_a_moment_that_chance_chooses(
    peer: WirePeer, closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parlance_client.connection.random.random", lambda: 0.5)
    clock = asyncio.get_running_loop().time
    async with client_of(peer) as client:
        since = clock()
        await peer.emit("server:draining", {"reconnect_after_ms": 600})
        await client.call("x", {})
        if closes:
            await peer.emit("server:closing", {"code": "draining", "message": "Bye."})
            await peer.cut()
        await peer.until(lambda: len(peer.connects) == 2 and len(peer.sids) >= 1)
        assert clock() - since >= 0.3


# --- tokens -----------------------------------------------------------------------------------------------------------
def refreshed(peer: WirePeer) -> list[str]:
    return [body["token"] for name, body in peer.received if name == "auth:refresh"]


async def test_a_token_is_renewed_before_it_ends_and_the_connection_stays(peer: WirePeer) -> None:
    given: list[str] = []

    async def source() -> str:
        given.append(jwt(1.4, f"token {len(given)}"))
        return given[-1]

    async with Client(peer.url, source, backoff=QUICK) as client:
        stream = await client.record()
        await stream.send(AUDIO)
        await peer.until(lambda: len(refreshed(peer)) == 2)
        assert stream.state is StreamState.LIVE
        await stream.stop()
    assert refreshed(peer)[:2] == given[1:3]
    assert len(peer.connects) == 1


async def test_a_source_that_fails_is_asked_again_while_the_old_token_holds(peer: WirePeer) -> None:
    answers: list[Any] = [jwt(2, "old"), OSError("no network"), KeyError("oops"), jwt(600, "fresh")]
    fresh = answers[-1]

    def source() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    async with Client(peer.url, source, backoff=QUICK):
        await peer.until(lambda: refreshed(peer) == [fresh])
    assert len(peer.connects) == 1


async def test_an_ended_token_without_a_new_one_is_lost_with_its_reason(peer: WirePeer) -> None:
    answers = [jwt(1.5, "old")]

    def source() -> str:
        if answers:
            return answers.pop()
        raise ConnectRefused("unauthenticated", "Signed out.")

    async with Client(peer.url, source, backoff=QUICK) as client:
        stream = await client.record()
        tokens = client._connection._tokens  # what it believes of the server's clock is late by the network's latency
        while (tokens.left_s(time.time()) or 0) > 0:
            await client.call("x", {})
        await peer.emit("server:closing", {"code": "unauthenticated", "message": "The access token has expired."})
        await peer.cut()
        await until_state(stream, StreamState.LOST)
        assert isinstance(stream.error, TokenFailed)
        assert "Signed out" in str(stream.error)


async def test_a_source_that_cannot_be_reached_is_waited_for(peer: WirePeer) -> None:
    answers: list[Any] = [jwt(0, "one"), OSError(), OSError(), "two"]

    def source() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    async with Client(peer.url, source, backoff=QUICK) as client:
        peer.refuse = [{"code": "unavailable", "message": "Restarting."}]
        await peer.cut()
        await peer.until(lambda: len(peer.sids) == 1)
        async with asyncio.timeout(HANG_S):
            await client.connected()
    assert answers == []
    assert peer.connects[-1]["token"] == "two"


async def test_a_recording_goes_on_across_the_end_of_its_token(parlance: ServerProcess, alice: Account) -> None:
    """A real server, tokens of three seconds: it closes the socket of whoever does not renew."""
    said = talk(random_sentences(17, 6))
    pcm, at = said.audio.tobytes(), 0
    tokens = 0

    async def source() -> str:
        nonlocal tokens
        tokens += 1
        return (await parlance.account(tenant, ttl_s=3)).token

    tenant = f"short-{alice.tenant_id}"
    async with Client(parlance.url, source, backoff=QUICK) as client, client.events() as events:
        link = await client.connected()
        stream = await client.record()
        await client.join(stream.room, 0)
        while tokens < 4:
            await stream.send(pcm[at : at + 640])
            at = min(at + 640, len(pcm) - 2)
            await client.call("events:read", {"room": stream.room, "after_seq": 0})
            await asyncio.sleep(0.05)  # As many calls a second as anybody may make.
        await stream.send(pcm[at:])
        await stream.stop()
        finals = [event async for event in _until_ended(events, stream.room)]
        assert await client.connected() is link
    assert [event.body["text"] for event in finals if event.name == "transcript:final"] == said.texts


# --- rooms, and days --------------------------------------------------------------------------------------------------
async def test_a_room_whose_oldest_events_are_gone_is_told_at_its_place(peer: WirePeer) -> None:
    async with client_of(peer) as client, client.events() as reader:
        await client.join("recording:r1", 0)
        await peer.tell("recording:r1", "1")
        await peer.emit("history_truncated", {"room": "recording:other", "first_seq": 9})
        await peer.emit("history_truncated", {"room": "recording:r1", "first_seq": 5})
        with pytest.raises(EventsLost, match="gone") as caught:
            await _drained(reader)
        assert (caught.value.room, caught.value.first_seq) == ("recording:r1", 5)


async def _drained(reader: EventStream) -> None:
    async with asyncio.timeout(HANG_S):
        async for _ in reader:
            pass


async def test_events_and_answers_keep_their_order_across_reconnects(peer: WirePeer) -> None:
    async with client_of(peer) as client, client.events() as reader:
        await client.join("recording:r1", 0)
        seen: list[int] = []
        for round_ in range(5):
            for _ in range(20):
                await peer.tell("recording:r1", "x")
            await client.call("x", {})
            await peer.cut()
            peer.write("recording:r1", "while away")
            async with asyncio.timeout(HANG_S):
                while len(seen) < 21 * (round_ + 1):
                    event = await anext(reader)
                    if event.name == "transcript:final":
                        seen.append(event.seq or 0)
    assert seen == list(range(1, 106))


async def test_a_client_for_days_does_not_grow(peer: WirePeer) -> None:
    async def day(rounds: int) -> tuple[int, int, int]:
        for _ in range(rounds):
            stream = await client.record()
            await stream.send(AUDIO[:100])
            await peer.cut()
            async with asyncio.timeout(HANG_S):
                await stream.stop()
                async with client.events():
                    await client.join("recording:r1")
                await client.leave("recording:r1")
        gc.collect()
        counts = [0, 0]
        for thing in gc.get_objects():
            counts[0] += isinstance(thing, Link)
            counts[1] += isinstance(thing, LiveStream)
        tasks = [str(task.get_coro()) for task in asyncio.all_tasks()]
        mine = [name for name in tasks if "AsyncSocket" not in name and "RequestHandler" not in name]  # not the peer's
        return len(mine), counts[0], counts[1]

    async with client_of(peer, backoff=Backoff(first_s=0.001, max_s=0.001)) as client:
        first = await day(3)
        later = await day(25)
    assert all(now <= before + 3 for now, before in zip(later, first, strict=True)), (first, later)
