"""Canaries of one tenant, in everything that search keeps, are never told to another tenant, nor private ones to a
colleague: by no event, by no path, with no index. Doors are taken from the protocol and from the routes, so a new one
without a case here fails."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from auth.model import Identity, Role
from search.model import IndexDocument
from server.app import LogReader
from server.edge.search.searches import Searches
from server.store import ledger
from server.store.pool import Database
from server.store.words import StoredWords
from streaming.limits import LIMITS
from streaming.protocol.messages import CLIENT_EVENTS
from tests.fakes.embedder import FakeEmbedder
from tests.fakes.recogniser import ToneRecogniser
from tests.support.door import Door, open_door
from tests.support.indexes import INDEXES, World
from tests.support.node import Node, node
from tests.support.waiting import until
from tests.support.weaviate import program
from tests.support.wire import Wire, wired

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = ("wordcanary", "titlecanary", "voicecanary", "querycanary", "wishcanary")
PRIVATE = ("hiddencanary", "hiddentitlecanary", "hiddenvoicecanary", "hiddenquerycanary")
PROBES = [probe.upper() for probe in (*PUBLIC, *PRIVATE, "word", "hidden", "wordcanarz", "money", "cash", "budget")]
"""In capitals, while everything that is planted is not: so what is only said back to who typed it is no leak."""
FILTERS: list[dict[str, Any]] = [
    {},
    {"recording_ids": ["titlecanary", "hiddentitlecanary"]},
    {"speakers": ["VOICEcanary", "HIDDENVOICEcanary", "S1"]},
]

EVENTS: dict[str, Any] = {
    "search:query": lambda text: [
        {"request_id": f"{text}/{mode}/{at}", "text": text, "mode": mode, "filters": filters, "neighbours": 3}
        for mode in ("hybrid", "keyword", "semantic")
        for at, filters in enumerate(FILTERS)
    ],
    "search:cancel": lambda text: [{"request_id": text}],
    "search:clicked": lambda text: [{"request_id": "theirs", "segment_id": name} for name in ("s00001", "s00002")],
    "search:suggest": lambda text: [{"text": text}, {"text": text[:3]}, {"text": ""}, {"text": f"the {text[:4]}"}],
    "search:history": lambda _: [{"limit": 100}],
    "search:subscribe": lambda text: [
        {"subscription_id": f"{text}/{mode}", "text": text, "mode": mode, "min_score": 0.0, "after": "1.0"}
        for mode in ("hybrid", "semantic")
    ],
    "search:unsubscribe": lambda text: [{"subscription_id": "theirs"}],
}
"""What is tried at each door with each text."""

PATHS: dict[str, Any] = {
    "/v1/search": lambda text: [
        {"q": text, "mode": "hybrid", "neighbours": "3"},
        {"q": text, "mode": "semantic", "speakers": "voicecanary"},
        {"q": text, "recording_ids": "titlecanary", "group_by": "recording"},
    ],
    "/v1/search/suggest": lambda text: [{"q": text[:4]}, {"q": ""}],
    "/v1/search/history": lambda _: [{}],
    "/v1/search/analytics": lambda _: [{"days": "366"}],
}


def test_every_door_of_search_has_its_case() -> None:
    assert EVENTS.keys() == {event for event in CLIENT_EVENTS if event.startswith("search:")}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "server" / "edge").rglob("*.py"))
    assert PATHS.keys() == set(re.findall(r'web\.get\("(/v1/search[^"]*)"', sources))


class Scene:
    """Two tenants on one index: what is said goes into everything that an index job fills."""

    def __init__(self, one: Node, theirs: World, ours: World) -> None:
        self.one = one
        self.theirs = theirs
        self.ours = ours

    async def say(self, world: World, text: str, **fields: Any) -> None:
        documents = await world.write_all([text], **fields)
        await world.index.put(world.tenant, documents)
        async with self.one.database.tenant_tx(world.tenant) as connection:
            names = [document.segment_id for document in documents]
            put = {document.segment_id: document for document in await _as_stored(connection, world.tenant, names)}
            settled = await ledger.settle(connection, world.tenant, put, [], tell=names)
        assert not settled.changed
        self.one.hub.announce(settled.events)

    def who(self, world: World, user: str, role: Role = Role.OWNER) -> Identity:
        return Identity(
            user_id=user, user_name=user, tenant_id=world.tenant, tenant_name=world.tenant, role=role, expires_at=2**40
        )


async def _as_stored(connection: Any, tenant: str, names: list[str]) -> list[IndexDocument]:
    return await ledger.documents(connection, tenant, names, [])


@pytest.fixture(scope="module", autouse=True)
def servers_first(request: pytest.FixtureRequest) -> None:
    """A server that lives for the session starts before a test, or it would count as what the test left running."""
    if program():
        request.getfixturevalue("weaviate_server")


@pytest.fixture(params=sorted(INDEXES))
async def scene(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        index = await stack.enter_async_context(INDEXES[request.param](request, database, LIMITS))
        theirs = await World(database, index).begin()
        ours = await theirs.another()
        one = await stack.enter_async_context(node(database, tmp_path, ToneRecogniser()))
        scene = Scene(one, theirs, ours)
        await theirs.recording("titlecanary")
        await theirs.recording("hiddentitlecanary", owner="bert", private=True)
        await theirs.call("S1", "voicecanary", recording="titlecanary")
        await theirs.call("S1", "hiddenvoicecanary", recording="hiddentitlecanary")
        for text in ("money wordcanary", "budget of canaries"):
            await scene.say(theirs, text, recording="titlecanary", speaker="S1")
        for text in ("money hiddencanary", "hidden budget"):
            await scene.say(theirs, text, recording="hiddentitlecanary", owner="bert", private=True, speaker="S1")
        await scene.say(ours, "money of our own")
        yield scene


@pytest.fixture
async def door(scene: Scene, database: Database) -> AsyncIterator[Door]:
    embedder = FakeEmbedder()
    limits = msgspec.structs.replace(LIMITS, search_languages_ms_max=0)
    searches = Searches(
        database=database, hub=scene.one.hub, rooms=LogReader(database), index=scene.theirs.index,
        words=StoredWords(database.tenant_tx, limits), embedders=lambda: [embedder], embedder=embedder, limits=limits,
    )  # fmt: skip
    people = {
        "bert": scene.who(scene.theirs, "bert"),
        "anna": scene.who(scene.theirs, "anna"),
        "stranger": scene.who(scene.ours, "bert"),
    }
    running = scene.one.scope.spawn(searches.run(), name="searches")
    async with open_door(scene.one, people, limits, searches) as opened:
        yield opened
    running.cancel()


async def plant(door: Door, scene: Scene) -> Wire:
    """Bert, whose private recording it is, asks, opens and subscribes."""
    wire = Wire()
    await wire.connect(door.url, "bert")
    for text in ("querycanary", "hiddenquerycanary", "wordcanary", "hiddencanary"):
        await wire.ok("search:query", {"request_id": f"mine {text}", "text": text})
        page = await wire.wait(
            "search:results", lambda e, t=text: e["request_id"] == f"mine {t}" and e["phase"] == "full"
        )
        for hit in page["hits"]:
            await wire.ok("search:clicked", {"request_id": page["request_id"], "segment_id": hit["segment_id"]})
    await wire.ok("search:subscribe", {"subscription_id": "theirs", "text": "wishcanary hiddencanary money"})
    await wire.ok("search:subscribe", {"subscription_id": "all", "text": "money", "after": "1.0"})
    await wire.wait("search:match", lambda e: "hiddencanary" in e["hit"]["text"])
    history = await wire.ok("search:history", {"limit": 100})
    assert {"querycanary", "hiddenquerycanary"} <= set(history["queries"])
    return wire


async def told_by_sockets(door: Door, token: str, scene: Scene, world: World) -> str:
    """Everything that somebody is told by all events, also later, while people of `world` talk."""
    async with wired(door.url, token) as wire:
        said: list[Any] = [
            await wire.call(event, payload)
            for event, payloads in EVENTS.items()
            for text in PROBES
            for payload in payloads(text)
        ]
        await until(lambda: _all_ended(wire))
        await scene.say(world, "the last money")
        await wire.wait("search:match", lambda e: e["hit"]["text"] == "the last money")
        said += [data for name, data in wire.events if name.startswith("search:")]
    return json.dumps(said)


def _all_ended(wire: Wire) -> bool:
    over = {
        data["request_id"]
        for name, data in wire.events
        if name in ("search:superseded", "search:failed") or data.get("phase") == "full"
    }
    asked = {payload["request_id"] for text in PROBES for payload in EVENTS["search:query"](text)}
    return asked <= over


async def told_over_http(door: Door, token: str) -> str:
    said = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
        for path, queries in PATHS.items():
            for text in PROBES:
                for query in queries(text):
                    for accept in ("application/json", "text/event-stream"):
                        async with http.get(f"{door.url}{path}", params=query, headers={"Accept": accept}) as response:
                            assert response.status == 200, (path, await response.text())
                            said.append(await response.text())
    return "\n".join(said)


async def test_another_tenant_is_told_nothing(door: Door, scene: Scene) -> None:
    """It has a user of the same id, and segments of the same ids."""
    theirs = await plant(door, scene)
    try:
        for said in (
            await told_by_sockets(door, "stranger", scene, scene.ours),
            await told_over_http(door, "stranger"),
        ):
            assert "money of our own" in said, "the doors are open"
            assert [canary for canary in (*PUBLIC, *PRIVATE, "canaries", "hidden") if canary in said] == []
        heard = [data["hit"]["text"] for name, data in theirs.events if name == "search:match"]
        assert "the last money" not in heard, "nor is what others say told here"
    finally:
        await theirs.close()


async def test_a_colleague_is_told_nothing_private(door: Door, scene: Scene) -> None:
    theirs = await plant(door, scene)
    try:
        by_sockets = await told_by_sockets(door, "anna", scene, scene.theirs)
        for said in (by_sockets, await told_over_http(door, "anna")):
            assert "money wordcanary" in said
            assert "About titlecanary" in said
            assert [canary for canary in (*PRIVATE, "hidden", "wishcanary") if canary in said] == []
    finally:
        await theirs.close()
