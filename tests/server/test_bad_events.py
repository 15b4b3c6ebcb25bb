"""Malformed, unknown and hostile events: a clear answer, and the connection goes on."""

import aiohttp
import pytest

from tests.fakes.tones import random_sentences, talk
from tests.support.process import Account, ServerProcess
from tests.support.wire import Talk, Wire

START = {"encoding": "pcm_s16le", "sample_rate": 16_000, "channels": 1}


@pytest.mark.parametrize(
    ("event", "obj", "field"),
    [
        ("room:join", {}, "room"),
        ("room:join", {"room": 7}, "room"),
        ("room:join", {"room": "recording:x", "extra": 1}, "extra"),
        ("room:join", {"room": "recording:x", "after_seq": -1}, "after_seq"),
        ("room:join", {"room": "recording:\0"}, "room"),
        ("events:read", {"room": "recording:x"}, "after_seq"),
        ("events:read", {"room": "recording:x", "after_seq": 1.5}, "after_seq"),
        ("voice:recording:start", {}, "encoding"),
        ("voice:recording:start", {"encoding": "mp3"}, "encoding"),
        ("voice:recording:start", {**START, "sample_rate": 10}, "sample_rate"),
        ("voice:recording:start", {**START, "channels": 99}, "channels"),
        ("voice:recording:start", {**START, "title": "x" * 1_000}, "title"),
        ("voice:recording:start", {**START, "title": "bad\0title"}, "title"),
        ("voice:recording:start", {**START, "vocabulary": ["ok", ""]}, "vocabulary[1]"),
        ("voice:recording:stop", {"stream_id": "x"}, "offset"),
        ("voice:recording:flush", {"stream_id": "x", "marker": ""}, "marker"),
        ("search:query", {"request_id": "q"}, "text"),
        ("search:query", {"request_id": "q", "text": "x" * 10_000}, "text"),
        ("search:query", {"request_id": "q", "text": "x", "filters": {"colour": 1}}, "filters.colour"),
        ("search:query", {"request_id": "q", "text": "x", "cursor": "nonsense"}, "cursor"),
        ("search:query", {"request_id": "q", "text": "x", "mode": "magic"}, "mode"),
        ("search:clicked", {"request_id": "q"}, "segment_id"),
        ("search:suggest", {"text": 7}, "text"),
        ("search:history", {"clear": "yes"}, "clear"),
        ("search:subscribe", {"subscription_id": "s", "text": "!?"}, "text"),
        ("search:subscribe", {"subscription_id": "s", "text": "x", "after": "nonsense"}, "after"),
        ("search:subscribe", {"subscription_id": "s", "text": "x", "min_score": 2}, "min_score"),
        ("auth:refresh", {"token": ""}, "token"),
    ],
)
async def test_the_field_is_named(wire: Wire, event: str, obj: dict[str, object], field: str) -> None:
    error = await wire.refused(event, obj)
    assert (error["code"], error.get("field"), error["retryable"]) == ("bad_request", field, False)


@pytest.mark.parametrize("payload", [None, 1, "text", [], [1, {}], True])
async def test_anything_but_one_object_is_refused(wire: Wire, payload: object) -> None:
    assert (await wire.refused("room:join", payload))["code"] == "bad_request"


@pytest.mark.parametrize("event", ["nothing:here", "connect", "disconnect", "connect_error", "ready", "*", ""])
async def test_unknown_and_reserved_events(wire: Wire, event: str) -> None:
    assert (await wire.refused(event, {"a": 1}))["code"] == "unknown_event"
    await wire.ok("events:read", {"room": f"user:{wire.named('ready')[0]['user']['id']}", "after_seq": 0})


async def test_refusals_of_what_is_not_supported(wire: Wire) -> None:
    error = await wire.refused("voice:recording:start", {"encoding": "mp3"})
    assert (error["code"], error["field"]) == ("bad_request", "encoding")


async def test_a_broken_client_in_a_loop_is_closed(wire: Wire) -> None:
    for _ in range(120):
        await wire.emit("room:join", {"room": 1})
    closing = await wire.wait("server:closing")
    assert closing["code"] == "bad_request"
    await wire.closed.wait()


async def test_too_large_a_message_closes_only_its_own_connection(
    wire: Wire, parlance: ServerProcess, other: Wire
) -> None:
    live = Talk(wire, b"")
    await live.start()
    await wire.emit("voice:recording:chunk", {"stream_id": live.stream_id, "offset": 0, "audio": b"\0" * 2_000_000})
    await wire.closed.wait()
    await other.ok("events:read", {"room": f"user:{other.named('ready')[0]['user']['id']}", "after_seq": 0})
    async with aiohttp.ClientSession(parlance.url) as http, http.get("/healthz") as response:
        assert response.status == 200


async def test_raw_garbage_on_the_socket_harms_nobody(parlance: ServerProcess, alice: Account, other: Wire) -> None:
    garbage = ["", "4", "42", "42[", "42{}", '42["x"', "451-", '451-["voice:recording:chunk",{"_placeholder":true}]',
               "4999", "4\x00", "42[1,2]", '42["connect",{},{}]', "5", "9", b"\x00\x01", b""]  # fmt: skip
    url = parlance.url + "/socket.io/?EIO=4&transport=websocket"
    async with aiohttp.ClientSession() as http:
        for frame in garbage:
            async with http.ws_connect(url) as ws:
                await ws.receive()
                await ws.send_str(f'40{{"token":"{alice.token}"}}')
                await ws.receive()
                await (ws.send_bytes(frame) if isinstance(frame, bytes) else ws.send_str(frame))
    said = talk(random_sentences(40, 1))
    live = Talk(other, said.audio.tobytes())
    await live.start()
    await live.send()
    await live.stop()
    assert [e["text"] for e in (await live.log())[:-1]] == said.texts


async def test_health_readiness_and_metrics(parlance: ServerProcess) -> None:
    async with aiohttp.ClientSession(parlance.url) as http:
        for path in ("/healthz", "/readyz"):
            async with http.get(path) as response:
                assert response.status == 200, await response.text()
        async with http.get("/metrics") as response:
            text = await response.text()
        async with http.get("/nothing") as response:
            assert (response.status, response.content_type) == (404, "application/problem+json")
    for name in ("parlance_streams", "parlance_finals_total", "parlance_lag_seconds_bucket"):
        assert name in text
