"""The bus between nodes on a real Redis: order, bounds, presence, and every way in which Redis may go and come back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import socketio
from redis.asyncio import Redis as Client

from server.config import ConfigError
from server.rooms.bus import HERE, RoomKey
from server.rooms.redisbus import RedisBus
from server.rooms.redislink import Execute, RedisLink, Traffic
from server.telemetry import METRICS
from streaming.aio import Scope
from streaming.limits import LIMITS, Limits
from tests.fakes.tones import random_sentences, talk
from tests.support.cluster import Cluster, clustered
from tests.support.process import Account, ServerProcess
from tests.support.proxy import Proxy, Way, proxied
from tests.support.redis import Redis
from tests.support.spawn import free_port
from tests.support.waiting import until
from tests.support.wire import HANG_S, Talk, wired

SECRET = "the secret of the installation under test"
KEY: RoomKey = ("t1", "recording:r")
QUICK = msgspec.structs.replace(LIMITS, node_beat_ms=50, node_expiry_ms=120_000, redis_answer_ms_max=60_000)
"""So that a test need not wait for beats; and a busy machine is no lost Redis."""
IMPATIENT = msgspec.structs.replace(QUICK, node_expiry_ms=1_000, redis_answer_ms_max=500)
"""For tests of silence."""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis") / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def through(redis: Redis) -> Iterator[Proxy]:
    """A proxy before Redis."""
    with proxied(redis.port) as proxy:
        yield proxy


class Ears:
    """The hub's side of a bus."""

    def __init__(self) -> None:
        self.heard: list[tuple[RoomKey, str, dict[str, Any], str]] = []
        self.owners: list[tuple[str, str, int, str]] = []

    def hear(self, key: RoomKey, event: str, data: dict[str, Any], *, node: str) -> None:
        self.heard.append((key, event, data, node))

    def owned(self, tenant_id: str, recording_id: str, epoch: int, *, node: str) -> None:
        self.owners.append((tenant_id, recording_id, epoch, node))


class Node:
    """A bus with what it tells."""

    def __init__(self, url: str, name: str, limits: Limits) -> None:
        self.ears = Ears()
        self.fences: list[tuple[str, str, int]] = []
        self.ups = 0
        self.bus = RedisBus(url, node=name, limits=limits)
        self.bus.ears = self.ears
        self.bus.on_up = self._up
        self.bus.on_fence = lambda *fence: self.fences.append(fence)
        self.bus.open(SECRET)

    def _up(self) -> None:
        self.ups += 1

    @property
    def numbers(self) -> list[int]:
        return [data["n"] for _, _, data, _ in self.ears.heard]


Start = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start(redis: Redis) -> AsyncIterator[Start]:
    """Starts nodes by name; `stop` of a node is the end of its scope."""
    errors: list[BaseException] = []
    async with contextlib.AsyncExitStack() as stack:

        async def made(name: str, *, url: str = "", limits: Limits = QUICK, up: bool = True) -> Node:
            node = Node(url or redis.url, name, limits)
            scope = await stack.enter_async_context(Scope(name, on_error=lambda _, error: errors.append(error)))
            scope.spawn(node.bus.run(), name="bus")
            node.stop = scope.close  # type: ignore[attr-defined]
            if up:
                await until(lambda: node.ups == 1)
            return node

        yield made
    assert not errors, errors


def dropped(why: str) -> float:
    return METRICS.hints_dropped.labels(why)._value.get()


async def test_hints_arrive_in_order_with_all_they_are(start: Start) -> None:
    """Durable and ephemeral, far more than Redis takes at once."""
    one, two = await start("one"), await start("two")
    await until(lambda: one.bus.others and two.bus.others)
    text = "Grüße, \U0001f600 " * 10
    for n in range(3_000):
        one.bus.emit(KEY, "transcript:partial", {"n": n, "text": text} | ({"seq": n} if n % 3 else {}))
        if n % 7 == 0:
            await asyncio.sleep(0)
    await until(lambda: two.numbers[-1:] == [2_999])
    assert two.numbers == list(range(3_000))
    assert two.ears.heard[1] == (KEY, "transcript:partial", {"n": 1, "text": text, "seq": 1}, "one")
    assert one.ears.heard == [], "a node does not hear itself"


async def test_a_takeover_is_told_to_everybody(start: Start) -> None:
    one, two = await start("one"), await start("two")
    one.bus.fence("t1", "r", 7)
    await until(lambda: two.fences)
    assert two.fences == [("t1", "r", 7)]
    assert two.ears.owners == [("t1", "r", 7, "one")]
    assert (one.fences, one.ears.owners) == ([], [("t1", "r", 7, HERE)])


async def test_nodes_know_each_other(start: Start, redis: Redis) -> None:
    one = await start("one")
    assert [node.id for node in one.bus.nodes()] == ["one"]
    assert not one.bus.others
    two, three = await start("two"), await start("three")
    await until(lambda: {node.id for node in one.bus.nodes()} == {"one", "two", "three"})
    assert METRICS.nodes._value.get() == 3
    assert all(node.version and node.started_at for node in two.bus.nodes())
    async with client(redis) as looking:
        assert 0 < await looking.pttl(f"{one.bus._channel}:node:one") <= QUICK.node_expiry_ms
        # A killed node leaves its name, and a key that runs out.
        ghosts = {"sock": b'{"id": "sock", "started_at": 1, "version": "9", "later": true}', "odd": b"no JSON"}
        for name, value in ghosts.items():
            await looking.set(f"{one.bus._channel}:node:{name}", value)
            await looking.sadd(f"{one.bus._channel}:nodes", name)
        await until(lambda: len(one.bus.nodes()) == 4)
        for name in ghosts:
            await looking.delete(f"{one.bus._channel}:node:{name}")
        await until(lambda: len(one.bus.nodes()) == 3)
        await until_async(lambda: looking.smembers(f"{one.bus._channel}:nodes"), {b"one", b"two", b"three"})
        await three.stop()  # type: ignore[attr-defined]
        await until_async(lambda: looking.smembers(f"{one.bus._channel}:nodes"), {b"one", b"two"})
        assert await looking.get(f"{one.bus._channel}:node:three") is None, "a node that ends says so"
    await two.stop()  # type: ignore[attr-defined]
    await until(lambda: not one.bus.others)


async def test_a_newcomer_counts_before_the_next_beat(start: Start) -> None:
    slow = msgspec.structs.replace(LIMITS, node_beat_ms=2_000_000, node_expiry_ms=6_000_000)
    one = await start("one", limits=slow)
    assert not one.bus.others
    two = await start("two")
    await until(lambda: one.bus.others)
    one.bus.emit(KEY, "transcript:partial", {"n": 1})
    await until(lambda: two.numbers == [1])


async def until_async(ask: Callable[[], Any], wanted: object) -> None:
    async with asyncio.timeout(HANG_S):
        while await ask() != wanted:
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def client(redis: Redis) -> AsyncIterator[Any]:
    made = Client.from_url(redis.url)
    try:
        yield made
    finally:
        await made.aclose()


async def test_installations_on_one_redis_do_not_meet(start: Start, redis: Redis) -> None:
    one = await start("one")
    stranger = Node(redis.url, "stranger", QUICK)
    stranger.bus.open("the secret of another installation")
    async with Scope("stranger") as scope:
        scope.spawn(stranger.bus.run(), name="bus")
        await until(lambda: stranger.ups)
        two = await start("two")
        await until(lambda: one.bus.others)
        stranger.bus.emit(KEY, "transcript:partial", {"n": 1})
        one.bus.emit(KEY, "transcript:partial", {"n": 2})
        await until(lambda: two.numbers == [2])
        assert [node.id for node in stranger.bus.nodes()] == ["stranger"]
        assert stranger.ears.heard == []


# --- Redis goes and comes back ----------------------------------------------------------------------------------------
async def test_killed_and_started_again(start: Start, redis: Redis) -> None:
    one, two = await start("one"), await start("two")
    await until(lambda: one.bus.others)
    await asyncio.to_thread(redis.kill)
    try:
        await until(lambda: not one.bus._link.up and not two.bus._link.up)
        assert not await one.bus.works()
        assert not one.bus.others, "nothing is encoded for nobody"
        assert METRICS.nodes._value.get() == 1
        before = dropped("away")
        one.bus.emit(KEY, "transcript:final", {"n": 1, "seq": 1})
        assert dropped("away") == before + 1
    finally:
        await asyncio.to_thread(redis.start)
    await until(lambda: (one.ups, two.ups) == (2, 2))
    await until(lambda: one.bus.others and len(one.bus.nodes()) == 2)
    one.bus.emit(KEY, "transcript:final", {"n": 2, "seq": 2})
    await until(lambda: two.numbers == [2])


async def test_absent_at_the_start(start: Start, redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Tried for ever, told once."""
    with proxied(redis.port) as way:
        way.refuse()
        quick = msgspec.structs.replace(QUICK, redis_retry_ms_max=50)
        one = await start("one", url=redis.url_at(way.port), limits=quick, up=False)
        connected = way.accepted
        await until(lambda: any("redis is away" in record.message for record in caplog.records))
        await asyncio.sleep(quick.redis_retry_ms_max * 3 / 1000)
        assert not await one.bus.works()
        way.heal()
        await until(lambda: one.ups == 1)
        assert connected < way.accepted
        assert len([record for record in caplog.records if "redis is away" in record.message]) == 1
        await one.stop()  # type: ignore[attr-defined]


@pytest.mark.parametrize("reset", [True, False])
async def test_cut_connections_are_made_anew_and_all_is_looked_for(start: Start, through: Proxy, reset: bool) -> None:
    one, two = await start("one", url=f"redis://127.0.0.1:{through.port}"), await start("two")
    await until(lambda: two.bus.others)
    for times in range(2, 5):
        assert await asyncio.to_thread(through.cut, reset=reset)
        await until(lambda times=times: one.ups == times)
    two.bus.emit(KEY, "transcript:final", {"n": 1, "seq": 1})
    await until(lambda: one.numbers == [1])
    assert two.ups == 1


async def test_a_silent_connection_is_noticed(start: Start, through: Proxy) -> None:
    """A firewall that forgot it: nothing comes, nobody is told. This node hears its own beats, or it is deaf."""
    one = await start("one", url=f"redis://127.0.0.1:{through.port}", limits=IMPATIENT)
    await asyncio.to_thread(through.stall, Way.DOWN)
    await until(lambda: not one.bus._link.up)
    await asyncio.to_thread(through.heal)
    await until(lambda: one.ups >= 2)


async def test_who_does_not_hear_himself_is_deaf(redis: Redis) -> None:
    """Redis answers on one connection; the other, which listens, is silent for ever."""

    class Silent(Traffic):
        channels = ("a",)
        ups = downs = 0

        def up(self) -> None:
            self.ups += 1

        def down(self) -> None:
            self.downs += 1

    traffic = Silent()
    quick = msgspec.structs.replace(QUICK, node_expiry_ms=200)
    async with Scope("link") as scope:
        scope.spawn(RedisLink(redis.url, traffic, quick).run(), name="run")
        await until(lambda: (traffic.ups, traffic.downs) >= (3, 2))


async def test_deaf_and_not_dumb(start: Start, redis: Redis) -> None:
    """Only the listening connection lost its subscription."""
    one = await start("one")
    two = await start("two")
    await until(lambda: two.bus.others)
    listen = one.bus._link._traffic
    assert listen is one.bus
    async with client(redis) as looking:
        for connection in await looking.client_list():
            if int(connection["sub"]):
                await looking.client_kill_filter(_id=connection["id"])
    await until(lambda: (one.ups, two.ups) == (2, 2))
    one.bus.emit(KEY, "transcript:final", {"n": 1, "seq": 1})
    await until(lambda: two.numbers == [1])


async def test_what_waits_for_a_stalled_redis_is_bounded_and_finals_go_last(start: Start, through: Proxy) -> None:
    small = msgspec.structs.replace(
        QUICK,
        hints_bytes_max=20_000,
        hint_bytes_max=10_000,
        hints_batch_bytes=5_000,
        node_beat_ms=2_000_000,  # a beat in between would wait for its answer, too
    )
    one = await start("one", url=f"redis://127.0.0.1:{through.port}", limits=small)
    two = await start("two")
    await until(lambda: one.bus.others)
    await asyncio.to_thread(through.stall, Way.DOWN)
    one.bus.emit(KEY, "transcript:partial", {"n": -1})  # on its way: no answer comes
    await until(lambda: not len(one.bus._link._waiting))
    before = dropped("full"), dropped("too_large")
    for n in range(1_000):
        one.bus.emit(KEY, "transcript:partial", {"n": n, "text": "x" * 100})
    for n in range(1_000, 1_020):
        one.bus.emit(KEY, "transcript:final", {"n": n, "seq": n, "text": "x" * 500})
    one.bus.emit(KEY, "transcript:final", {"n": 2_000, "seq": 2_000, "text": "x" * 20_000})
    waiting = one.bus._link._waiting
    assert waiting.waiting_bytes <= small.hints_bytes_max
    assert dropped("too_large") == before[1] + 1
    assert dropped("full") > before[0] + 800
    await asyncio.to_thread(through.heal)
    await until(lambda: 1_019 in two.numbers)
    assert [n for n in two.numbers if n >= 1_000] == list(range(1_000, 1_020))
    assert two.numbers == sorted(two.numbers)


async def test_what_was_told_before_the_end_is_still_told(start: Start) -> None:
    one, two = await start("one"), await start("two")
    await until(lambda: one.bus.others)
    for n in range(100):
        one.bus.emit(KEY, "transcript:final", {"n": n, "seq": n})
    await one.stop()  # type: ignore[attr-defined]
    await until(lambda: two.numbers == list(range(100)))


async def test_a_connection_that_fails_as_it_ends_does_not_go_on(redis: Redis) -> None:
    class Stubborn(Traffic):
        channels = ("a",)
        beating = False

        async def beat(self, _execute: Execute) -> None:
            self.beating = True
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionError("cut while it ends") from None

    traffic = Stubborn()
    async with asyncio.timeout(HANG_S), Scope("link") as scope:
        scope.spawn(RedisLink(redis.url, traffic, QUICK).run(), name="run")
        await until(lambda: traffic.beating)


async def test_a_password_is_wanted(start: Start, redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    async with client(redis) as admin:
        await admin.config_set("requirepass", "sesame")
        try:
            one = await start("one", up=False)
            await until(lambda: any("redis is away" in record.message for record in caplog.records))
            assert not await one.bus.works()
            two = await start("two", url=f"redis://:sesame@127.0.0.1:{redis.port}/0")
            assert await two.bus.works()
            assert "sesame" not in caplog.text
        finally:
            await admin.auth("sesame")
            await admin.config_set("requirepass", "")
    await until(lambda: one.ups)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:port/0",
        "redis://:hunter2@h:99999/0",
        "redis://:hunter2@[h/0",
        "redis://h/0?nonsense=hunter2",
    ],
)
def test_an_address_that_cannot_be_read_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="PARLANCE_REDIS_URL") as failure:
        RedisBus(url, node="one", limits=QUICK)
    assert "hunter2" not in str(failure.value)


# --- whole servers ----------------------------------------------------------------------------------------------------
async def readiness(node: ServerProcess) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.get(f"{node.url}/readyz") as response:
        return response.status, await response.json()


async def test_a_server_whose_redis_is_absent_is_not_ready_and_serves_when_it_comes(tmp_path: Path) -> None:
    redis = Redis(tmp_path / "redis")
    server = ServerProcess(tmp_path / "data", port=free_port(), redis_url=redis.url)
    try:
        await asyncio.to_thread(server.start)
        assert await readiness(server) == (503, {"status": "starting", "missing": ["redis"]})
        await asyncio.to_thread(redis.start)
        await until_async(lambda: readiness(server), (200, {"status": "ready"}))
        await asyncio.to_thread(redis.kill)
        await until_async(lambda: readiness(server), (200, {"status": "ready", "degraded": ["redis"]}))
        alice = await server.account("acme")
        async with wired(server.url, alice.token) as wire:
            said = talk(random_sentences(5, 2), silence_ms=700)
            live = Talk(wire, said.audio.tobytes())
            await live.start()
            await wire.ok("room:join", {"room": live.room, "after_seq": 0})
            await live.send()
            await live.stop()
            await wire.wait("recording:ended", lambda event: event["room"] == live.room)
            assert [event["text"] for event in wire.named("transcript:final")] == said.texts
        await asyncio.to_thread(redis.start)
        await until_async(lambda: readiness(server), (200, {"status": "ready"}))
        await heard_from_outside(server, redis, alice)
    finally:
        assert await asyncio.to_thread(server.stop) == 0
        await asyncio.to_thread(redis.stop)


async def heard_from_outside(server: ServerProcess, redis: Redis, who: Account) -> None:
    """A program that only writes reaches the members of a room, with any value and through the server's own queues."""
    room = f"tenant:{who.tenant_id}"
    manager = socketio.AsyncRedisManager(redis.url, write_only=True)
    async with wired(server.url, who.token) as wire:
        seq = (await wire.ok("room:join", {"room": room}))["seq"]
        await manager.emit("my:object", {"x": b"\x00\xff", "seq": 10_000}, room=room)
        await manager.emit("my:bytes", b"\x00\xff", room=room)
        await manager.emit("my:all", ["a", {"b": b"c"}])
        assert await wire.wait("my:object") == {"room": room, "after_seq": seq, "x": b"\x00\xff"}
        assert await wire.wait("my:bytes") == b"\x00\xff"
        assert await wire.wait("my:all") == ["a", {"b": b"c"}]
    await manager.redis.aclose()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes that share a database and have no Redis."""
    with clustered(tmp_path_factory.mktemp("quiet") / "cluster", redis=False) as cluster:
        yield cluster


async def test_nodes_without_redis_still_miss_nothing(quiet: Cluster) -> None:
    """A watcher at the other node, in its tenant's room and in the recording's, gets every event once and in order."""
    alice = await quiet.account("acme")
    async with wired(quiet.urls[0], alice.token) as speaker, wired(quiet.urls[1], alice.token) as watcher:
        said = talk(random_sentences(7, 5), silence_ms=700)
        live = Talk(speaker, said.audio.tobytes())
        await live.start()
        await watcher.wait("recording:started", lambda event: event["recording"]["id"] == live.recording_id)
        await watcher.ok("room:join", {"room": live.room, "after_seq": 0})
        await live.send(speed=8)
        await live.stop()
        await watcher.wait("recording:ended", lambda event: event["room"] == live.room)
        told = [data for _, data in watcher.events if data and data.get("room") == live.room and "seq" in data]
        assert [event["seq"] for event in told] == list(range(1, len(said.texts) + 2))
        assert [event["text"] for event in told[:-1]] == said.texts
        assert watcher.named("transcript:partial") == [], "partials need Redis"
