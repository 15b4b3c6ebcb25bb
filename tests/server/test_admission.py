"""At the edge of each place and rate, through real sockets: who is refused hears why and when to come again, and nobody
else notices."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from auth.model import Identity
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.errors import Overloaded, QuotaExceeded
from streaming.limits import LIMITS
from tests.fakes.recogniser import ToneRecogniser
from tests.support.door import Door, open_door
from tests.support.node import QUICK, Node, Peer, node, somebody
from tests.support.raw import HANG_S, RawSocket, raw_socket, text
from tests.support.waiting import until
from tests.support.wire import Talk, Wire, wired

PROXY = {"trusted_proxies": ["127.0.0.1"]}
"""So that the tests' own peers have the address that they claim."""
ASK = text('427["room:leave",{"room":"recording:x"}]')


class Town:
    """A node, its door, and three people: Ann and Bob of one tenant, Cyd of another."""

    def __init__(self, one: Node, door: Door, people: dict[str, Identity]) -> None:
        self.node = one
        self.door = door
        self.people = people


@asynccontextmanager
async def town(database: Database, folder: Path, *, places: Any = None, **limits: int) -> AsyncIterator[Town]:
    people = {
        "ann": await somebody(database, "acme", "ann"),
        "bob": await somebody(database, "acme", "bob"),
        "cyd": await somebody(database, "other", "cyd"),
    }
    changed = msgspec.structs.replace(QUICK, **limits)
    async with (
        node(database, folder, ToneRecogniser(), limits=changed) as one,
        open_door(one, people, changed, **(places or {})) as door,
    ):
        yield Town(one, door, people)


async def refusal(sock: RawSocket, token: str) -> dict[str, Any]:
    """Why this CONNECT is refused."""
    answer = await sock.connect({"token": token})
    assert answer is not None
    assert answer.startswith("44"), answer
    data: dict[str, Any] = json.loads(answer[2:])["data"]
    return data


async def enters(sock: RawSocket, token: str) -> None:
    answer = await sock.connect({"token": token})
    assert answer is not None
    assert answer.startswith("40{"), answer


async def ended(sock: RawSocket) -> None:
    await asyncio.wait_for(sock.closed.wait(), HANG_S)


# --- places -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("places", "token"), [({"per_user": 2}, "ann"), ({"per_tenant": 2}, "bob")], ids=["user", "tenant"]
)
async def test_a_full_user_or_tenant_is_told_so_at_connect(
    database: Database, tmp_path: Path, places: Any, token: str
) -> None:
    async with (
        town(database, tmp_path, places=places) as at,
        raw_socket(at.door.url) as first,
        raw_socket(at.door.url) as second,
        raw_socket(at.door.url) as third,
        raw_socket(at.door.url) as stranger,
    ):
        await enters(first, "ann")
        await enters(second, "ann")
        refused = await refusal(third, token)
        assert (refused["code"], refused["retryable"]) == ("rate_limited", True)
        assert refused["retry_after_ms"] > 0
        await enters(stranger, "cyd")
        first.abort()
        await until(lambda: at.door.admission.user_places.of(at.people["ann"].user_id) == 1)
        async with raw_socket(at.door.url) as again:
            await enters(again, token)


async def test_a_full_address_is_told_so_at_connect_and_inventions_do_not_help(
    database: Database, tmp_path: Path
) -> None:
    async with (
        town(database, tmp_path, places={**PROXY, "per_address": 1}) as at,
        raw_socket(at.door.url, X_Forwarded_For="192.0.2.7") as first,
        raw_socket(at.door.url, X_Forwarded_For="6.6.6.6, 192.0.2.7") as second,
        raw_socket(at.door.url, X_Forwarded_For="192.0.2.8") as neighbour,
    ):
        await enters(first, "ann")
        assert (await refusal(second, "ann"))["code"] == "rate_limited"
        await enters(neighbour, "ann")
        async with raw_socket(at.door.url, X_Forwarded_For="192.0.2.7") as third:
            assert third.status == 429
    await until(lambda: len(at.door.admission.address_places) == 0)


async def test_this_machine_has_as_many_places_as_it_wants(database: Database, tmp_path: Path) -> None:
    async with (
        town(database, tmp_path, places={"per_address": 1}) as at,
        raw_socket(at.door.url) as first,
        raw_socket(at.door.url) as second,
    ):
        await enters(first, "ann")
        await enters(second, "ann")


async def test_a_handshake_too_many_is_told_over_http(database: Database, tmp_path: Path) -> None:
    async with (
        town(database, tmp_path, sockets_max=1, handshakes_max=1) as at,
        raw_socket(at.door.url) as first,
        raw_socket(at.door.url) as second,
        aiohttp.ClientSession(at.door.url) as http,
    ):
        await enters(first, "ann")
        assert (await refusal(second, "bob"))["code"] == "overloaded"
        async with http.get("/socket.io/?EIO=4&transport=websocket") as response:
            assert (response.status, response.content_type) == (503, "application/problem+json")
            assert int(response.headers["Retry-After"]) > 0
            assert (await response.json())["code"] == "overloaded"


async def test_a_loop_of_connections_is_slowed(database: Database, tmp_path: Path) -> None:
    async with town(database, tmp_path, places={**PROXY, "per_address": 2}, connects_per_s=1, connects_burst=3) as at:
        codes = []
        for _ in range(6):
            async with raw_socket(at.door.url, X_Forwarded_For="192.0.2.7") as sock:
                answer = await sock.connect({"token": "ann"})
                assert answer is not None
                codes.append("too often" if "too often" in answer else answer[:2])
            await until(lambda: at.door.admission.visits == 0)
        assert codes[:5] == ["40"] * 5
        assert "too often" in codes or await slowed_later(at)


async def slowed_later(at: Town) -> bool:
    """On a machine so slow that the sixth came a second later: more of them at once."""
    for _ in range(50):
        async with raw_socket(at.door.url, X_Forwarded_For="192.0.2.7") as sock:
            if "too often" in (await sock.connect({"token": "ann"}) or ""):
                return True
    return False


# --- hello ------------------------------------------------------------------------------------------------------------
async def test_who_says_nothing_or_is_refused_is_closed_in_a_while(database: Database, tmp_path: Path) -> None:
    async with town(database, tmp_path, hello_ms_max=1_000) as at, raw_socket(at.door.url) as talker:
        await enters(talker, "ann")
        async with (
            raw_socket(at.door.url) as nobody,
            raw_socket(at.door.url) as silent,
            raw_socket(at.door.url) as chatty,
        ):
            assert (await refusal(nobody, "eve"))["code"] == "unauthenticated"
            while not chatty.closed.is_set():
                await chatty.send(text("3"))
                await asyncio.sleep(0.01)
            await ended(silent)
            await ended(nobody)
        await talker.send(ASK)
        assert await talker.until("437[")
        await until(lambda: at.door.admission.visits == 1)


async def test_connect_is_said_a_few_times_and_heard_once(database: Database, tmp_path: Path) -> None:
    async with (
        town(database, tmp_path) as at,
        raw_socket(at.door.url) as lost,
        raw_socket(at.door.url) as twice,
    ):
        for _ in range(LIMITS.hellos_max - 1):
            await lost.send(text("40/elsewhere,{}"))
        await lost.send(text('40{"token":"ann"}'))
        assert await lost.until("40{")
        assert sum(content.startswith("44/elsewhere,") for content in lost.texts) == LIMITS.hellos_max - 1
        await enters(twice, "bob")
        await twice.send(text('40{"token":"bob"}'))
        closing = await twice.until('42["server:closing"')
        assert closing is not None
        assert "bad_request" in closing
        await ended(twice)
        assert not lost.closed.is_set()


async def test_an_event_before_connect_ends_the_connection(database: Database, tmp_path: Path) -> None:
    async with town(database, tmp_path) as at, raw_socket(at.door.url) as sock:
        await sock.send(ASK)
        await ended(sock)


# --- events -----------------------------------------------------------------------------------------------------------
async def test_too_many_events_are_refused_and_asked_again_later(database: Database, tmp_path: Path) -> None:
    async with (
        town(database, tmp_path, events_per_s=1, events_burst=5) as at,
        wired(at.door.url, "ann") as wire,
        wired(at.door.url, "bob") as other,
    ):
        asked = {"room": "recording:x"}
        answers = await asyncio.gather(*(wire.call("room:leave", asked) for _ in range(30)))
        codes = [answer["error"]["code"] for answer in answers]
        assert codes[:5] == ["not_found"] * 5
        assert codes.count("rate_limited") > 10
        refused = next(answer["error"] for answer in answers if answer["error"]["code"] == "rate_limited")
        assert (refused["retryable"], refused["retry_after_ms"] > 0) == (True, True)
        assert (await other.refused("room:leave", asked))["code"] == "not_found"
        await asyncio.sleep(refused["retry_after_ms"] / 1_000)
        assert (await wire.refused("room:leave", asked))["code"] == "not_found"
        assert not wire.closed.is_set()


async def test_who_does_not_listen_is_closed(database: Database, tmp_path: Path) -> None:
    async with (
        town(database, tmp_path, events_per_s=1, events_burst=5, events_refused_max=20) as at,
        raw_socket(at.door.url) as runaway,
        wired(at.door.url, "bob") as other,
    ):
        await enters(runaway, "ann")
        await runaway.send(ASK * 60)
        closing = await runaway.until('42["server:closing"')
        assert closing is not None
        assert json.loads(closing[2:])[1]["code"] == "rate_limited"
        await ended(runaway)
        assert (await other.refused("room:leave", {"room": "recording:x"}))["code"] == "not_found"


# --- bytes ------------------------------------------------------------------------------------------------------------
async def test_audio_that_comes_too_fast_is_read_later_and_all_of_it(database: Database, tmp_path: Path) -> None:
    pcm = bytes(100_000)
    async with (
        town(
            database, tmp_path, received_bytes_per_s=50_000, received_burst_bytes=20_000, received_bytes_min=100
        ) as at,
        wired(at.door.url, "ann") as wire,
    ):
        slowed, began = METRICS.reads_slowed._value.get(), time.monotonic()
        live = Talk(wire, pcm)
        await live.start()
        await live.send(chunk=10_000)
        ended_as = await live.stop()
        assert (ended_as["reason"], ended_as["duration_ms"]) == ("stopped", len(pcm) // 32)
        assert METRICS.reads_slowed._value.get() > slowed
        assert time.monotonic() - began > 1.5, "80,000 bytes above the burst, at 50,000 a second"
        assert not wire.named("voice:recording:error")


# --- HTTP -------------------------------------------------------------------------------------------------------------
async def test_requests_have_a_rate_and_health_has_none(database: Database, tmp_path: Path) -> None:
    async with (
        town(database, tmp_path, places=PROXY, requests_per_s=1, requests_burst=4) as at,
        aiohttp.ClientSession(at.door.url, headers={"Authorization": "Bearer ann"}) as http,
    ):
        mine = {"X-Forwarded-For": "192.0.2.7"}

        async def get(path: str, **headers: str) -> aiohttp.ClientResponse:
            async with http.get(path, headers={**mine, **headers}) as response:
                await response.read()
                return response

        statuses = [(await get("/v1/who")).status for _ in range(4)]
        assert statuses == [200] * 4
        last = None
        async with asyncio.timeout(HANG_S):
            while last is None or last.status == 200:
                last = await get("/v1/who")
        assert (last.status, last.content_type) == (429, "application/problem+json")
        assert int(last.headers["Retry-After"]) >= 1
        assert (await get("/v1/who", **{"X-Forwarded-For": "192.0.2.8"})).status == 200
        assert [(await get("/healthz")).status for _ in range(20)] == [200] * 20


async def test_requests_of_a_user_have_a_rate_wherever_they_come_from(database: Database, tmp_path: Path) -> None:
    async with (
        town(database, tmp_path, events_per_user_per_s=1, events_per_user_burst=9) as at,
        aiohttp.ClientSession(at.door.url) as http,
    ):

        async def get(token: str) -> int:
            async with http.get("/v1/who", headers={"Authorization": f"Bearer {token}"}) as response:
                return response.status

        assert [await get("ann") for _ in range(2)] == [200, 200]
        assert await get("ann") == 429
        assert await get("bob") == 200


# --- streams ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"streams_per_user_max": 2}, QuotaExceeded),
        ({"streams_per_tenant_max": 2}, QuotaExceeded),
        ({"streams_max": 2}, Overloaded),
    ],
    ids=["user", "tenant", "node"],
)
async def test_live_streams_have_their_places(
    database: Database, tmp_path: Path, limits: dict[str, int], error: type[QuotaExceeded] | type[Overloaded]
) -> None:
    async with town(database, tmp_path, **limits) as at:
        desk, ann = at.node, at.people["ann"]
        first = await desk.start(Peer(), ann)
        results = await asyncio.gather(*(desk.start(Peer(), ann) for _ in range(3)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, error)]
        assert len(refused) == 2, "starts at the same moment have one place"
        assert refused[0].retry_after_ms == LIMITS.streams_retry_ms
        elsewhere = at.people["bob" if "streams_per_user_max" in limits else "cyd"]
        if error is Overloaded:
            with pytest.raises(Overloaded):
                await desk.start(Peer(), elsewhere)
        else:
            await desk.start(Peer(), elsewhere)
        peer = Peer()
        again = await desk.resume(peer, ann, first)  # what is there already always finds room
        again.stream.stop(0)
        await until(lambda: len(desk.desk._streams) == (1 if error is Overloaded else 2))
        await desk.start(Peer(), ann)


async def test_a_full_user_is_told_so_by_the_acknowledgement(database: Database, tmp_path: Path) -> None:
    async with town(database, tmp_path, streams_per_user_max=1) as at, wired(at.door.url, "ann") as wire:
        await Talk(wire, b"").start()
        error = await refused_start(wire)
        assert (error["code"], error["retry_after_ms"]) == ("quota_exceeded", LIMITS.streams_retry_ms)


async def refused_start(wire: Wire) -> dict[str, Any]:
    return await wire.refused("voice:recording:start", {"encoding": "pcm_s16le"})
