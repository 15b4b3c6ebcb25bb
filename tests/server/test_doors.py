"""Every door, tried by somebody of another tenant with a valid token of her own."""

import uuid

import aiohttp
import pytest
import socketio
from yarl import URL

from tests.fakes.tones import random_sentences, talk
from tests.support.process import Account, ServerProcess
from tests.support.wire import Talk, Wire, wired


@pytest.fixture
async def secret(wire: Wire) -> Talk:
    """A live recording of Alice with one final."""
    said = talk(random_sentences(30, 2))
    live = Talk(wire, said.audio.tobytes())
    await live.start()
    await wire.ok("room:join", {"room": live.room})
    await live.send()
    await wire.wait("transcript:final", lambda e: e["ordinal"] == 2)
    return live


async def test_no_socket_door_opens(secret: Talk, other: Wire, alice: Account, wire: Wire) -> None:
    stream = {"stream_id": secret.stream_id}
    takeover = {
        "encoding": "pcm_s16le",
        "sample_rate": 16_000,
        "channels": 1,
        "recording_id": secret.recording_id,
        "resume_token": secret.resume_token,
    }
    tried = [
        ("room:join", {"room": secret.room, "after_seq": 0}),
        ("room:join", {"room": f"tenant:{alice.tenant_id}"}),
        ("room:join", {"room": f"user:{alice.user_id}"}),
        ("room:leave", {"room": secret.room}),
        ("events:read", {"room": secret.room, "after_seq": 0}),
        ("events:read", {"room": f"tenant:{alice.tenant_id}", "after_seq": 0}),
        ("events:read", {"room": f"user:{alice.user_id}", "after_seq": 0}),
        ("voice:recording:start", takeover),
        ("voice:recording:start", {**takeover, "encoding": "webm_opus", "new_container": True}),
        ("voice:recording:flush", {**stream, "marker": "m"}),
        ("voice:recording:pause", stream),
        ("voice:recording:resume", stream),
        ("voice:recording:stop", {**stream, "offset": secret.sent}),
    ]
    for event, obj in tried:
        error = await other.refused(event, obj)
        assert error["code"] == "not_found", (event, error)
    before = len(secret.pcm)
    await other.emit("voice:recording:chunk", {**stream, "offset": before, "audio": b"\1\1"})
    refused = await other.wait("voice:recording:error")
    assert refused["error"]["code"] == "not_found"
    word = wire.named("transcript:final")[0]["text"].split()[0]
    for filters in (None, {"recording_ids": [secret.recording_id]}):
        await other.ok("search:query", {"request_id": f"q{bool(filters)}", "text": word, "filters": filters})
        found = await other.wait(
            "search:results", lambda e, f=filters: e["request_id"] == f"q{bool(f)}" and e["phase"] == "full"
        )
        assert found["hits"] == []
    refresh = await other.refused("auth:refresh", {"token": alice.token})
    assert refresh["code"] == "unauthenticated"
    ended = await secret.stop()
    assert ended["duration_ms"] == before // 32, "nothing of the stranger entered the recording"
    assert secret.recording_id not in str(other.events)


async def test_no_http_door_opens(secret: Talk, parlance: ServerProcess, alice: Account, mallory: Account) -> None:
    base = f"/v1/recordings/{secret.recording_id}"
    paths = [base, f"{base}/transcript.json", f"{base}/transcript.txt", f"{base}/media",
             f"{base}/speakers", f"{base}/segments/s"]  # fmt: skip
    headers = {"Authorization": f"Bearer {mallory.token}"}
    async with aiohttp.ClientSession(parlance.url) as http:
        for path in paths:
            async with http.get(path, headers=headers) as response:
                assert (response.status, (await response.json())["code"]) == (404, "not_found"), path
            async with http.get(path) as response:
                assert (response.status, (await response.json())["code"]) == (401, "unauthenticated"), path
        async with http.get("/v1/recordings", headers=headers) as response:
            assert (await response.json())["recordings"] == []
        async with http.get("/v1/recordings/%00x", headers=headers) as response:
            assert response.status == 404
        async with http.head(f"{base}/media", headers=headers) as response:
            assert response.status == 404
        async with http.post("/v1/tickets", json={"path": f"{base}/media"}, headers=headers) as response:
            assert (response.status, (await response.json())["code"]) == (404, "not_found")
        hostile = [
            f"../{alice.tenant_id}/{secret.recording_id}", f"..%2F{alice.tenant_id}%2F{secret.recording_id}", "%00",
            "..", "%2e%2e", ".", "x" * 5_000, "%ff", "a%0Ab", f"{secret.recording_id}%20", f"{secret.recording_id}/../x"
        ]  # fmt: skip
        for name in hostile:
            url = URL(f"{parlance.url}/v1/recordings/{name}/media", encoded=True)
            async with http.get(url, headers=headers) as response:
                assert response.status in (400, 404), name
                assert b"RIFF" not in await response.read()


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c", 7, "x" * 10_000])
async def test_sockets_without_a_valid_token_are_refused(parlance: ServerProcess, token: object) -> None:
    client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
    refusals: list[object] = []
    client.on("connect_error", refusals.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(parlance.url, auth={"token": token} if token != "" else None, transports=["websocket"])
    await client.disconnect()
    assert len(refusals) == 1
    refusal = refusals[0]
    assert isinstance(refusal, dict)
    assert refusal["data"]["code"] in ("unauthenticated", "bad_request")
    assert refusal["data"]["message"] == refusal["message"]


async def test_login_link_works_once(parlance: ServerProcess) -> None:
    code = parlance.login_url.split("#login=")[1]
    async with aiohttp.ClientSession(parlance.url) as http:
        async with http.post("/v1/auth/link", json={"code": code}) as response:
            assert response.status == 200
            session = await response.json()
        assert session["tenant"]["name"] == "demo"
        headers = {"Authorization": f"Bearer {session['token']}"}
        async with http.post("/v1/auth/refresh", headers=headers) as response:
            assert (await response.json())["user"] == session["user"]
        for body in ({"code": code}, {"code": "x"}):
            async with http.post("/v1/auth/link", json=body) as response:
                assert response.status == 401
        async with http.post("/v1/auth/link", json={"kode": code}) as response:
            assert (response.status, (await response.json())["field"]) == (400, "kode")


async def test_an_expired_token_ends_the_connection_and_a_refreshed_one_keeps_it(parlance: ServerProcess) -> None:
    tenant = f"t-{uuid.uuid4().hex}"
    short = await parlance.account(tenant, ttl_s=3)
    long = await parlance.account(tenant)
    async with wired(parlance.url, short.token) as kept, wired(parlance.url, short.token) as lost:
        await kept.ok("auth:refresh", {"token": long.token})
        closing = await lost.wait("server:closing")
        assert closing["code"] == "unauthenticated"
        await lost.closed.wait()
        await kept.ok("events:read", {"room": f"tenant:{long.tenant_id}", "after_seq": 0})
        assert not kept.named("server:closing")


async def test_only_pages_of_this_host_may_open_sockets(parlance: ServerProcess) -> None:
    url = parlance.url + "/socket.io/?EIO=4&transport=websocket"
    port = parlance.url.rsplit(":", 1)[1]
    async with aiohttp.ClientSession() as http:
        for host in ("127.0.0.1", "localhost"):
            named = url.replace("127.0.0.1", host)
            async with http.ws_connect(named, headers={"Origin": f"http://{host}:{port}"}) as ws:
                assert (await ws.receive_str()).startswith("0{")
        for origin in ("http://evil.example", f"http://evil.example:{port}", "null"):
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await http.ws_connect(url, headers={"Origin": origin})
