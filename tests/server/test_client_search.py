"""Search with the Python client: against a peer that misbehaves, and against a real server."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from parlance_client import (
    Backoff,
    Beside,
    CallFailed,
    Client,
    ConnectRefused,
    Disconnected,
    Match,
    MatchesLost,
    SearchEntry,
    Subscription,
)

from tests.fakes.tones import talk
from tests.fakes.wire import HANG_S, WirePeer, hit, match, refusal, wire_peer
from tests.support.process import ROOT, Account, ServerProcess
from tests.support.waiting import until

QUICK = Backoff(first_s=0.02, max_s=0.1, give_up_s=HANG_S)
ERROR = {"code": "unavailable", "message": "Later.", "retryable": True, "retry_after_ms": 1}


@pytest.fixture
async def peer() -> AsyncIterator[WirePeer]:
    async with wire_peer() as made:
        yield made


def client_of(peer: WirePeer) -> Client:
    return Client(peer.url, "token-1", client="test/1", backoff=QUICK)


def bodies(peer: WirePeer, event: str) -> list[dict[str, Any]]:
    return [body for name, body in peer.received if name == event]


async def take(matches: Subscription, count: int) -> list[str]:
    """The texts of so many matches."""
    async with asyncio.timeout(HANG_S):
        return [(await anext(matches)).hit.text for _ in range(count)]


# --- queries ----------------------------------------------------------------------------------------------------------
def answering(peer: WirePeer, *answers: dict[str, Any]) -> None:
    """The next query is answered by `full` with these fields."""

    def one(fields: dict[str, Any]) -> Any:
        async def answer(body: dict[str, Any]) -> dict[str, Any]:
            full = {"request_id": body["request_id"], "phase": "full", "hits": [hit("hello")], "took_ms": 3, **fields}
            await peer.emit("search:results", full)
            return {"ok": True}

        return answer

    peer.answers.setdefault("search:query", []).extend(map(one, answers))


async def test_a_hit_has_its_neighbours_and_what_else_there_is(peer: WirePeer) -> None:
    beside = {"segment_id": "g0", "speaker": "S2", "start_ms": 0, "end_ms": 5, "text": "oh", "later": 1}
    full = hit("hello", rev=3, before=[beside], after=[], more=2)
    answering(peer, {"hits": [full], "corrections": [["helo", "hello"]]}, {})
    async with client_of(peer) as client:
        (rich,) = [answer async for answer in client.search("helo", neighbours=1, group_by="recording")]
        (plain,) = [answer async for answer in client.search("hello")]
    first = rich.hits[0]
    assert (first.rev, first.before, first.after, first.more) == (3, [Beside("g0", "S2", 0, 5, "oh")], [], 2)
    assert rich.corrections == [("helo", "hello")]
    assert (plain.hits[0].before, plain.hits[0].more, plain.corrections) == ([], 0, [])
    asked = [{name for name in body if name != "request_id"} for body in bodies(peer, "search:query")]
    assert asked == [{"text", "neighbours", "group_by"}, {"text"}], "an older server knows what it is asked"


async def test_pages_follow_one_another_to_the_last(peer: WirePeer) -> None:
    answering(peer, {"next_cursor": "c1"}, {"next_cursor": "c2"}, {})
    async with client_of(peer) as client:
        pages = [page.next_cursor async for page in client.search_pages("hello", sort="newest", limit=7)]
    assert pages == ["c1", "c2", None]
    asked = bodies(peer, "search:query")
    assert [body.get("cursor") for body in asked] == [None, "c1", "c2"]
    assert {(body["text"], body["sort"], body["limit"]) for body in asked} == {("hello", "newest", 7)}


async def test_suggestions_history_and_clicks(peer: WirePeer) -> None:
    peer.answers["search:suggest"] = [{"ok": True, "suggestions": ["budget", "budapest"]}]
    entries = [{"text": "budget", "at": 5, "hits": 3, "later": 1}]
    peer.answers["search:history"] = [{"ok": True, "queries": ["budget"], "entries": entries}, refusal("forbidden")]
    async with client_of(peer) as client:
        assert await client.suggest("bud", limit=2) == ["budget", "budapest"]
        assert await client.search_history(limit=5) == [SearchEntry("budget", 5, 3)]
        await client.clicked("q1", "g1")
        with pytest.raises(CallFailed, match="forbidden"):
            await client.clear_search_history()
    assert peer.received == [
        ("search:suggest", {"text": "bud", "limit": 2}),
        ("search:history", {"limit": 5}),
        ("search:clicked", {"request_id": "q1", "segment_id": "g1"}),
        ("search:history", {"clear": True}),
    ]


# --- subscriptions ----------------------------------------------------------------------------------------------------
async def test_what_is_said_is_told_from_where_it_was_entered(peer: WirePeer) -> None:
    await peer.say("before")
    async with client_of(peer) as client:
        matches = client.subscribe("x", mode="keyword", filters={"speakers": ["Ann"], "from": 7}, min_score=0.5)
        assert matches.cursor is None
        async with matches:
            assert matches.cursor == "1.0"
            await peer.say("one", "two")
            assert await take(matches, 2) == ["one", "two"]
            assert matches.cursor == "3.0"
        await peer.until(lambda: "search:unsubscribe" in peer.names())
        with pytest.raises(StopAsyncIteration):
            await anext(matches)
    asked = bodies(peer, "search:subscribe")[0]
    assert asked == {
        "subscription_id": asked["subscription_id"],
        "text": "x",
        "mode": "keyword",
        "filters": {"speakers": ["Ann"], "from": 7},
        "min_score": 0.5,
    }
    assert not peer.subscriptions


async def test_it_goes_on_after_what_it_has_over_lost_connections(peer: WirePeer) -> None:
    async with client_of(peer) as client, client.subscribe("x") as matches:
        await peer.say("1", "2", "3")
        assert await take(matches, 2) == ["1", "2"]
        await peer.cut()
        await peer.say("4")
        assert await take(matches, 2) == ["3", "4"], "what was here is read first, the rest is asked for"
        await peer.cut()
        await peer.say("5", "6")
        assert await take(matches, 2) == ["5", "6"]
        assert matches.cursor == "6.0"
    first, *again = bodies(peer, "search:subscribe")
    assert "after" not in first
    assert [body["after"] for body in again] == ["3.0", "4.0"]
    assert len({body["subscription_id"] for body in (first, *again)}) == 3


async def test_another_process_goes_on_after_a_cursor(peer: WirePeer) -> None:
    async with client_of(peer) as client, client.subscribe("x") as matches:
        await peer.say("1", "2")
        await take(matches, 1)
        cursor = matches.cursor
    await peer.say("3")
    async with client_of(peer) as client, client.subscribe("x", after=cursor) as matches:
        assert await take(matches, 2) == ["2", "3"]


async def test_a_slow_reader_gets_all_and_holds_little(peer: WirePeer) -> None:
    texts = [str(number) for number in range(50)]
    async with client_of(peer) as client, client.subscribe("x", matches_max=4) as matches:
        await peer.say(*texts)
        await client.call("x", {})  # all of it has arrived
        assert len(matches._inbox._waiting) == 4
        assert await take(matches, 50) == texts
        await peer.say("live")
        assert await take(matches, 1) == ["live"]
        names = {body["subscription_id"] for body in bodies(peer, "search:subscribe")}
        left = {body["subscription_id"] for body in bodies(peer, "search:unsubscribe")}
        assert names - left == set(peer.subscriptions), "the server tells it once only"


async def test_what_an_earlier_attempt_is_told_is_nobodys(peer: WirePeer) -> None:
    async with client_of(peer) as client, client.subscribe("x") as matches:
        await peer.cut()
        await peer.say("1")
        assert await take(matches, 1) == ["1"]
        old, new = (body["subscription_id"] for body in bodies(peer, "search:subscribe"))
        for name, text in ((old, "stale"), ("other", "stale"), (new, "2")):
            await peer.emit("search:match", {**match(9, text), "subscription_id": name})
        assert await take(matches, 1) == ["2"]


async def test_a_wait_may_be_cancelled_without_loss(peer: WirePeer) -> None:
    read: list[str] = []
    async with client_of(peer) as client:
        matches = client.subscribe("x", after="0.0")
        await peer.say("1", "2", "3")
        async with asyncio.timeout(HANG_S):
            while len(read) < 3:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        read.append((await anext(matches)).hit.text)
    assert read == ["1", "2", "3"]
    assert len(bodies(peer, "search:subscribe")) == 1, "who waits for a short time only gets there too"


@pytest.mark.parametrize("cut", [False, True])
async def test_a_history_that_is_not_whole_ends_it(peer: WirePeer, cut: bool) -> None:
    """At the start, and after a connection was lost, once what was here has been read."""
    await peer.say("1", "2", "3")
    async with client_of(peer) as client:
        matches = client.subscribe("x", after="2.0")
        if cut:
            assert await take(matches, 1) == ["3"]
            await peer.say("4", "5", "6")
            await peer.until(lambda: len(peer.matches) == 6)
            await client.call("x", {})
            peer.first_match = 9
            await peer.cut()
            assert await take(matches, 3) == ["4", "5", "6"]
        else:
            peer.first_match = 4
        with pytest.raises(MatchesLost) as caught:
            await take(matches, 1)
        assert caught.value.after == ("6.0" if cut else "2.0")
        with pytest.raises(StopAsyncIteration):
            await anext(matches)
        with pytest.raises(MatchesLost):
            await client.subscribe("x", after="2.0").__aenter__()


async def test_the_server_may_end_it_for_now_or_for_good(peer: WirePeer) -> None:
    async with client_of(peer) as client, client.subscribe("x") as matches:
        for number, text in enumerate(("1", "2")):
            name = bodies(peer, "search:subscribe")[number]["subscription_id"]
            del peer.subscriptions[name]
            await peer.emit("search:unsubscribed", {"subscription_id": name, "error": ERROR})
            await peer.say(text)
            assert await take(matches, 1) == [text]
        name = bodies(peer, "search:subscribe")[-1]["subscription_id"]
        error = {**ERROR, "code": "forbidden", "retryable": False}
        await peer.emit("search:unsubscribed", {"subscription_id": name, "error": error})
        with pytest.raises(CallFailed, match="forbidden"):
            await take(matches, 1)


async def test_a_refusal_is_raised_or_waited_out(peer: WirePeer) -> None:
    peer.answers["search:subscribe"] = [
        refusal("overloaded", retryable=True, retry_after_ms=1),
        {"ok": False, "error": ERROR},
    ]
    async with client_of(peer) as client:
        async with client.subscribe("x", after="0.0") as matches:
            await peer.say("1")
            assert await take(matches, 1) == ["1"]
        peer.answers["search:subscribe"] = [refusal("bad_request", field="text")]
        with pytest.raises(CallFailed) as caught:
            async with client.subscribe(""):
                pass
        assert caught.value.field == "text"
    assert len(bodies(peer, "search:subscribe")) == 4


async def test_it_asks_again_when_it_was_told_to_and_can_be_closed_while_it_waits(peer: WirePeer) -> None:
    peer.answers["search:subscribe"] = [refusal("overloaded", retryable=True, retry_after_ms=3_600_000)]
    async with client_of(peer) as client:
        matches = client.subscribe("x")
        async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
            waiting = group.create_task(_all(matches))
            await peer.until(lambda: "search:subscribe" in peer.names())
            for _ in range(20):
                await client.call("x", {})
            assert len(bodies(peer, "search:subscribe")) == 1
            matches.close()
        assert waiting.result() == []


async def _all(matches: Subscription) -> list[Match]:
    return [found async for found in matches]


async def test_a_quota_that_counts_its_own_last_connection_is_waited_out(peer: WirePeer) -> None:
    full = refusal("quota_exceeded", retry_after_ms=1)
    async with client_of(peer) as client:
        async with client.subscribe("x") as matches:
            peer.answers["search:subscribe"] = [full, full]
            await peer.cut()
            await peer.say("1")
            assert await take(matches, 1) == ["1"]
        peer.answers["search:subscribe"] = [full]
        with pytest.raises(CallFailed, match="quota_exceeded"):
            await take(client.subscribe("x", after="0.0"), 1)


async def test_it_ends_with_its_client(peer: WirePeer) -> None:
    async with client_of(peer) as client:
        left = client.subscribe("x", after="0.0")
        await peer.say("1", "2")
        assert await take(left, 1) == ["1"]
        await client.call("x", {})
        refused = client.subscribe("x")
        peer.refuse = [{"code": "unauthenticated", "message": "Gone."}]
        await peer.cut()
        with pytest.raises(ConnectRefused):
            await take(refused, 1)
        with pytest.raises(ConnectRefused):
            await take(client.subscribe("x"), 1)
        assert await take(left, 1) == ["2"], "what was here still comes"
        with pytest.raises(ConnectRefused):
            await take(left, 1)
    with pytest.raises(StopAsyncIteration):
        await anext(left)


@pytest.mark.parametrize("silent", [False, True])
async def test_leaving_the_client_stops_whoever_waits(peer: WirePeer, silent: bool) -> None:
    """For a match, or for the answer to subscribing."""
    peer.silent = {"search:subscribe"} if silent else set()
    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group, client_of(peer) as client:
        matches = client.subscribe("x")
        reading = group.create_task(_all(matches))
        await peer.until(lambda: "search:subscribe" in peer.names())
    assert reading.result() == []
    with pytest.raises(Disconnected):
        await take(client.subscribe("x"), 1)


# --- a real server ----------------------------------------------------------------------------------------------------
SAID = [["the", "old", "harbour"], ["a", "quiet", "pilot"], ["harbour", "lights"]]
TEXTS = talk(SAID).texts
ABOUT_HARBOURS = [TEXTS[0], TEXTS[2]]


async def speak(client: Client, title: str) -> str:
    """Say it all; returns the recording's id. Its words come when they are recognised."""
    async with asyncio.timeout(HANG_S):
        stream = await client.record(title=title)
        await stream.send(talk(SAID).audio.tobytes())
        await stream.stop()
    return stream.recording_id


async def test_a_real_server_finds_suggests_and_remembers(parlance: ServerProcess, alice: Account) -> None:
    async with Client(parlance.url, alice.token) as client:
        recordings = {await speak(client, "One"), await speak(client, "Two")}

        async def all_found() -> bool:
            return sum([len(page.hits) async for page in client.search_pages("harbour", limit=1)]) == 4

        await until(all_found)
        pages = [page async for page in client.search_pages("harbour", limit=3)]
        assert [len(page.hits) for page in pages] == [3, 1]
        assert len({found.segment_id for page in pages for found in page.hits}) == 4
        grouped = [answer async for answer in client.search("harbour", group_by="recording")][-1]
        assert {found.recording_id for found in grouped.hits} == recordings
        assert [found.more for found in grouped.hits] == [1, 1]
        beside = [answer async for answer in client.search("quiet", neighbours=1)][-1]
        around = [([b.text for b in found.before], [b.text for b in found.after]) for found in beside.hits]
        assert around == [([TEXTS[0]], [TEXTS[2]])] * 2
        misspelled = [answer async for answer in client.search("habour")][-1]
        assert misspelled.corrections == [("habour", "harbour")]
        assert len(misspelled.hits) == 4
        assert await client.suggest("harb") == ["harbour"]
        await client.clicked(misspelled.request_id, misspelled.hits[0].segment_id)

        async def remembered() -> bool:
            return "habour" in [entry.text for entry in await client.search_history()]

        await until(remembered)
        await client.clear_search_history()
        assert await client.search_history() == []


async def test_a_real_server_tells_each_match_once_over_lost_connections(
    parlance: ServerProcess, alice: Account
) -> None:
    async with (
        Client(parlance.url, alice.token) as speaker,
        Client(parlance.url, alice.token, backoff=QUICK) as client,
        client.subscribe("harbour") as matches,
    ):
        begun = matches.cursor
        read: list[Match] = []
        for number in range(3):
            await speak(speaker, f"Talk {number}")
            async with asyncio.timeout(HANG_S):
                read.append(await anext(matches))
                link = await client.connected()
                link._socket.eio.ws._response.connection.transport.abort()
                read.append(await anext(matches))
        told = [(found.hit.title, found.hit.text) for found in read]
        assert told == [(f"Talk {number}", text) for number in range(3) for text in ABOUT_HARBOURS]
        async with client.subscribe("harbour", after=begun) as again:
            assert await take(again, 6) == ABOUT_HARBOURS * 3
        async with client.subscribe("harbour", after=read[2].cursor) as rest:
            assert await take(rest, 3) == (ABOUT_HARBOURS * 3)[3:]


async def test_the_alerting_bot_of_the_examples_may_be_killed(
    parlance: ServerProcess, alice: Account, tmp_path: Path
) -> None:
    """The alert at which it dies may come twice; none is left out."""
    said, cursor = tmp_path / "said", tmp_path / "harbour.cursor"
    program = ROOT / "clients/python/examples/keyword_alerts.py"
    command = [sys.executable, str(program), parlance.url, "harbour", str(cursor)]
    environ = {**os.environ, "PARLANCE_TOKEN": alice.token}
    wanted = [f"{title}, somebody: {text}" for title in ("One", "Two") for text in ABOUT_HARBOURS]

    @contextmanager
    def bot() -> Iterator[None]:
        with said.open("ab") as out:
            process = subprocess.Popen(command, env=environ, stdout=out, stderr=out)
        try:
            yield
        finally:
            process.kill()
            process.wait(20)

    def lines() -> list[str]:
        return said.read_text().splitlines()

    async with Client(parlance.url, alice.token) as client:
        with bot():
            await until(cursor.exists)
            await speak(client, "One")
            await until(lambda: len(lines()) >= 2)
        await speak(client, "Two")
        with bot():
            await until(lambda: len(set(lines())) >= 4)
    assert list(dict.fromkeys(lines())) == wanted
    assert len(lines()) <= len(wanted) + 1
