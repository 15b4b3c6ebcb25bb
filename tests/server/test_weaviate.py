"""The index on a real Weaviate that dies, hangs, refuses and sleeps. What it finds is held by the contract suite."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from search.matching import expression
from search.model import (
    LATEST_US,
    Bounds,
    Edition,
    EditionState,
    EmbedderInfo,
    Held,
    IndexDocument,
    ModelVector,
    Position,
    QueryVector,
    Sort,
)
from search.ports import Rejected
from search.query import parse
from search.weaviate import schema as schema
from search.weaviate.index import WeaviateIndex
from search.weaviate.link import Address, Client, Link, Refused
from server.config import ConfigError, load
from server.doctor import Level, index
from streaming.errors import Unavailable
from streaming.limits import LIMITS
from tests.support.editions import editions_of, opened
from tests.support.proxy import Proxy, proxied
from tests.support.spawn import free_port
from tests.support.waiting import until
from tests.support.weaviate import WeaviateServer

INFO = EmbedderInfo("m", 8, 0.1)
QUICK = msgspec.structs.replace(LIMITS, index_answer_ms_max=1_500, index_retry_ms=50)
RNG = np.random.default_rng(1)
SECRET = "nobody shall read this in a log"


def document(number: int, text: str = "", *, dimensions: int = 8) -> IndexDocument:
    values = RNG.random(dimensions, dtype=np.float32) + np.float32(0.1)
    vector = ModelVector("m", values / np.linalg.norm(values))
    words = text or f"tea number {number}"
    return IndexDocument(f"s{number:04}", "talk", "anna", False, 1_000 * number, 1, words, "en", None, (vector,))


async def words(one: WeaviateIndex, tenant: str, typed: str = "tea ") -> set[str]:
    bounds = Bounds(user_id="anna", newest_us=LATEST_US, limit=500)
    return {found.segment_id for found in await one.match(tenant, expression(parse(typed), ("en",)), bounds)}


async def meaning(one: WeaviateIndex, tenant: str) -> set[str]:
    """All that has a vector: they point the same way."""
    ask = QueryVector(INFO, np.full(8, 1 / np.sqrt(8), dtype=np.float32))
    return {f.segment_id for f in await one.near(tenant, ask, Bounds(user_id="anna", newest_us=LATEST_US, limit=500))}


async def answers(one: WeaviateIndex) -> bool:
    try:
        await one.tenants()
    except Unavailable:
        return False
    return True


async def is_refused(link: Link) -> bool:
    try:
        await link.look()
    except Refused:
        return True
    except Unavailable:
        return False
    raise AssertionError("it was let in")


@pytest.fixture
def running(weaviate_server: WeaviateServer) -> Iterator[WeaviateServer]:
    """Runs afterwards again, whatever the test did."""
    yield weaviate_server
    if weaviate_server.running:
        weaviate_server.signal(signal.SIGCONT)
    else:
        weaviate_server.start()


@asynccontextmanager
async def through(server: WeaviateServer) -> AsyncIterator[tuple[WeaviateIndex, Proxy]]:
    """An index whose way to gRPC has a proxy."""
    with proxied(server.grpc_port) as proxy:
        link = Link(Address(server.url, f"127.0.0.1:{proxy.port}"), QUICK)
        one = WeaviateIndex(link, editions_of("m"), QUICK, prefix="Proxied")
        try:
            await one.begin(editions_of("m").editions[0])
            yield one, proxy
        finally:
            await one.close()


# --- lost and back ------------------------------------------------------------------------------------------------
async def test_nothing_that_was_put_is_lost_with_a_kill_and_nothing_removed_is_back(running: WeaviateServer) -> None:
    async with opened(running, ["m"], prefix="Killed", limits=QUICK) as one:
        for tenant in ("one", "two", "three"):
            for start in range(0, 60, 20):
                await one.put(tenant, [document(n) for n in range(start, start + 20)])
        await one.remove("three", ["s0007", "s0059"])
        await asyncio.to_thread(running.kill)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="away"):
            await words(one, "one")
        assert time.monotonic() - began < 60, "it is not tried again and again"
        assert not await one.works()
        await asyncio.to_thread(running.start)
        await until(one.works)
        every = {f"s{n:04}" for n in range(60)}
        for tenant, expected in (("one", every), ("two", every), ("three", every - {"s0007", "s0059"})):
            held = {h.segment_id for h in (await one.held(tenant, None, 100))[0]}
            assert (held, await words(one, tenant), await meaning(one, tenant)) == (expected,) * 3
        assert await one.tenants() == ["one", "three", "two"]


async def test_a_weaviate_that_hangs_costs_a_deadline(running: WeaviateServer) -> None:
    async with through(running) as (one, proxy):
        await one.put("hangs", [document(1)])
        proxy.stall()
        for call in (words(one, "hangs"), one.put("hangs", [document(2)])):
            with pytest.raises(Unavailable):
                await call
        assert not await one.works()
        proxy.heal()
        await until(one.works)
        await one.put("hangs", [document(2)])
        assert await words(one, "hangs") == {"s0001", "s0002"}


async def test_a_connection_that_is_cut_is_made_again(running: WeaviateServer) -> None:
    async with through(running) as (one, proxy):
        await one.put("cut", [document(1)])
        proxy.refuse()
        with pytest.raises(Unavailable):
            await words(one, "cut")
        proxy.heal()
        await until(lambda: answers(one))
        assert await words(one, "cut") == {"s0001"}


async def test_a_caller_that_gives_up_leaves_the_others_alone(running: WeaviateServer) -> None:
    async with through(running) as (one, proxy):
        await one.put("shared", [document(1)])
        proxy.slow(latency_s=0.3)
        async with asyncio.TaskGroup() as group:
            leaving, staying = (group.create_task(words(one, "shared")) for _ in range(2))
            await asyncio.sleep(0)
            leaving.cancel()
        assert leaving.cancelled()
        assert staying.result() == {"s0001"}


async def test_nobody_is_there(tmp_path: Path) -> None:
    told: list[bool] = []
    address = Address(f"http://127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    link = Link(address, QUICK, observe=lambda _seconds, done: told.append(done))
    one = WeaviateIndex(link, editions_of("m"), QUICK)
    try:
        for _ in range(3):
            with pytest.raises(Unavailable) as raised:
                await words(one, "any")
            assert raised.value.retry_after_ms == QUICK.index_retry_ms
        assert not await one.works()
        assert told == [False] * 4
    finally:
        await one.close()
    port = free_port()
    config = load({"PARLANCE_DATA_DIR": str(tmp_path), "PARLANCE_WEAVIATE_URL": f"http://127.0.0.1:{port}"})
    check = await index(config)
    assert (check.level, "PARLANCE_WEAVIATE_URL" in check.text) == (Level.FAIL, True)


async def test_only_who_has_the_key_is_let_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = WeaviateServer(tmp_path / "locked", key="the right key")
    try:
        await asyncio.to_thread(server.start)
        for key, level in (("the wrong key", Level.FAIL), ("the right key", Level.OK)):
            settings = {"DATA_DIR": str(tmp_path), "WEAVIATE_URL": server.url, "WEAVIATE_GRPC": server.grpc}
            config = load({f"PARLANCE_{k}": v for k, v in (settings | {"WEAVIATE_API_KEY": key}).items()})
            check = await index(config)
            assert (check.level, key in check.text) == (level, False)
        link = Link(Address(server.url, server.grpc, "the wrong key"), QUICK)
        for _ in range(2):
            await until(lambda: is_refused(link))
        await link.close()
        told = [r for r in caplog.records if "refuses our key" in r.message]
        assert len(told) == 2, "once for each link, not for each try"
        assert "wrong key" not in caplog.text
    finally:
        await asyncio.to_thread(server.stop)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("url", "weaviate:8080"),
        ("url", "http://weaviate"),
        ("url", "http://weaviate:0"),
        ("url", "http://key@weaviate:8080"),
        ("url", "http://weaviate:8080/v1"),
        ("grpc", "weaviate"),
        ("grpc", "weaviate:65536"),
        ("grpc", "http://weaviate:50051"),
        ("prefix", "lower"),
        ("prefix", "Under_score"),
    ],
)
def test_wrong_settings_are_named(setting: str, value: str) -> None:
    settings = {"PARLANCE_WEAVIATE_URL": "https://weaviate:8080", f"PARLANCE_WEAVIATE_{setting.upper()}": value}
    with pytest.raises(ConfigError, match=f"PARLANCE_WEAVIATE_{setting.upper()}"):
        load(settings)


def test_settings_that_do() -> None:
    for url in ("http://127.0.0.1:8080", "https://weaviate.example.org:443/", "http://[::1]:8080"):
        assert load({"PARLANCE_WEAVIATE_URL": url}).weaviate_url == url
    with pytest.raises(ConfigError, match="PARLANCE_WEAVIATE_API_KEY"):
        load({"PARLANCE_WEAVIATE_API_KEY": "of no use"})
    assert Address("https://weaviate:443").grpc_target == "weaviate:50051"


# --- objects that are refused -------------------------------------------------------------------------------------
async def test_of_a_batch_all_but_the_refused_are_in(
    running: WeaviateServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    nonsense = msgspec.structs.replace(document(4), vectors=(ModelVector("m", np.full(8, np.nan, dtype=np.float32)),))
    async with opened(running, ["m"], prefix="Refused") as one:
        await one.put("batch", [document(1)])
        with pytest.raises(Rejected) as raised:
            await one.put("batch", [document(2), document(3, SECRET, dimensions=5), nonsense, document(5)])
        assert {name: "length 5" in why for name, why in raised.value.reasons.items()} == {
            "s0003": True,
            "s0004": False,
        }
        assert await words(one, "batch") == await meaning(one, "batch") == {"s0001", "s0002", "s0005"}
        with pytest.raises(Rejected) as raised:
            await one.put("batch", [document(3, SECRET, dimensions=5), document(6, SECRET, dimensions=6)])
        assert {n: ("length 5" in w, "length 6" in w) for n, w in raised.value.reasons.items()} == {
            "s0003": (True, False),
            "s0006": (False, True),
        }
    said = caplog.text + "".join(capfd.readouterr())
    assert "nobody" not in said, "what was said stands in no log"


async def test_what_is_not_there_for_now_is_not_refused(running: WeaviateServer) -> None:
    async with opened(running, ["m"], prefix="Absent") as one:
        (edition,) = editions_of("m").editions
        await one.drop(edition)
        await one.drop(edition)
        for call in (one.put("any", [document(1)]), words(one, "any")):
            with pytest.raises(Unavailable):
                await call
        link = Link(Address(running.url, running.grpc))
        assert not await link.call(lambda client: client.collections.exists("Absent_1")), "nor made by the server"
        with pytest.raises(Unavailable):
            await one.put("any", [document(1)], only=99)
        await one.begin(edition)
        await one.put("any", [document(1)])
        await link.call(lambda client: client.collections.delete("Absent_1"))  # by another node
        for _ in range(2):
            with pytest.raises(Unavailable):
                await one.put("any", [document(1), document(2)])
        await link.close()
        await one.begin(edition)
        await one.put("any", [document(1)])
        assert await words(one, "any") == {"s0001"}


async def test_of_many_in_one_millisecond_the_lower_ids_come_first(running: WeaviateServer) -> None:
    documents = [msgspec.structs.replace(document(n), spoken_at_ms=7) for n in range(9, 0, -1)]
    wanted, names = expression(parse("tea "), ("en",)), [f"s000{n}" for n in range(1, 10)]
    async with opened(running, ["m"], prefix="Equal") as one:
        await one.put("any", documents)
        bounds = Bounds(user_id="anna", newest_us=LATEST_US, sort=Sort.NEWEST, limit=3)
        for start in range(0, 9, 3):
            page = await one.match("any", wanted, bounds)
            assert [found.segment_id for found in page] == names[start : start + 3]
            bounds = msgspec.structs.replace(bounds, after=Position(0.0, 7_000, page[-1].segment_id))
        assert await one.match("any", wanted, bounds) == []


# --- collections --------------------------------------------------------------------------------------------------
async def test_a_collection_gets_what_it_lacks(running: WeaviateServer) -> None:
    (edition,) = editions_of("m").editions
    name = schema.collection_of("Older", edition)
    link = Link(Address(running.url, running.grpc))

    async def older(client: Client) -> None:
        known = [p for p in schema.properties() if p.name != "voices"]
        await client.collections.create(name, properties=known, **schema.definition())

    async def by_itself(client: Client) -> None:
        await client.collections.delete(name)
        await client.collections.create(name)

    async def described(client: Client) -> tuple[bool, set[str]]:
        config = await client.collections.get(name).config.get()
        return config.multi_tenancy_config.enabled, {p.name for p in config.properties}

    one = WeaviateIndex(link, editions_of("m"), prefix="Older")
    try:
        for made, nodes in ((older, 3), (by_itself, 1)):
            await link.call(made, ms=LIMITS.index_change_ms_max)
            await asyncio.gather(*(one.begin(edition) for _ in range(nodes)))
            assert await link.call(described) == (True, {p.name for p in schema.properties()})
        await one.put("any", [document(1)])
        assert await words(one, "any") == {"s0001"}
    finally:
        await one.close()


async def test_words_are_looked_for_in_the_current_edition_and_meaning_in_that_of_the_model(
    running: WeaviateServer,
) -> None:
    async with opened(running, ["m", "n"], prefix="Two") as one:
        await one.put("any", [document(1)], only=1)
        await one.put("any", [document(2)], only=2)
        await one.put("any", [document(3)])
        assert await words(one, "any") == {"s0001", "s0003"}
        assert await meaning(one, "any") == {"s0001", "s0003"}
        assert await one.held_of("any", ["s0001", "s0002", "s0003"]) == [
            Held("s0001", 1, ("m",)),
            Held("s0003", 1, ("m",)),
        ]
        await one.drop(Edition(2, 1, "n", EditionState.BUILDING))
        with pytest.raises(Unavailable):
            await one.put("any", [document(4)], only=2)


# --- tenants that nobody uses -------------------------------------------------------------------------------------
async def test_tenants_nobody_uses_sleep_until_somebody_asks(running: WeaviateServer) -> None:
    now = 0.0
    limits = msgspec.structs.replace(LIMITS, index_tenant_idle_ms=60_000)
    editions = editions_of("m")
    name = schema.collection_of("Sleeping", editions.editions[0])
    link = Link(Address(running.url, running.grpc), limits)
    one, restarted = (WeaviateIndex(link, editions, limits, prefix="Sleeping", now=lambda: now) for _ in range(2))

    async def asleep() -> set[str]:
        found = await link.call(lambda client: client.collections.get(name).tenants.get())
        return {tenant for tenant, state in found.items() if state.activity_status.value == "INACTIVE"}

    try:
        await one.begin(editions.editions[0])
        for tenant in ("busy", "quiet", "gone"):
            await one.put(tenant, [document(1)])
        assert await one.rest.look([name]) == 0
        now = 59.0
        assert await words(one, "busy") == {"s0001"}
        assert await one.rest.look([name]) == 0
        now = 61.0
        await one.forget("gone")
        assert await one.rest.look([name]) == 1
        assert await asleep() == {"quiet"}
        assert await one.rest.look([name]) == 0, "each once"
        assert await words(one, "quiet") == await meaning(one, "quiet") == {"s0001"}
        assert await asleep() == set()
        assert await restarted.rest.look([name]) == 0, "who was awake before is noticed"
        now = 122.0
        assert await restarted.rest.look([name, "Sleeping_99"]) == 2
        assert await asleep() == {"quiet", "busy"}
        await asyncio.gather(*(one.put("quiet", [document(n)]) for n in range(2, 8)), one.remove("busy", ["s0001"]))
        assert len(await words(one, "quiet")) == 7
        assert await one.tenants() == ["quiet"], "a tenant without anything is none"
    finally:
        await link.close()


def test_the_latest_uses_are_remembered() -> None:
    limits = msgspec.structs.replace(LIMITS, index_tenants_awake_max=3)
    link = Link(Address("http://127.0.0.1:1"))
    rest = WeaviateIndex(link, editions_of("m"), limits, now=lambda: 0.0).rest
    for tenant in "abcdb":
        rest.note("C", tenant)
    assert [tenant for _, tenant in rest._used] == ["c", "d", "b"]
