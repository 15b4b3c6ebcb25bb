"""Search as a client meets it, on a real server: keystrokes in two slots, suggestions, history, analytics,
subscriptions, and the same over HTTP."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from auth.model import Role
from tests.fakes.tones import talk
from tests.support.process import Account, ServerProcess
from tests.support.waiting import until
from tests.support.wire import Talk, Wire, wired

SENTENCES = [["budget", "meeting", "monday"], ["weather", "rain", "today"], ["budgie", "and", "kitten"]]


async def spoken(wire: Wire, **options: Any) -> list[dict[str, Any]]:
    """Somebody says the sentences; they can be found when this returns."""
    live = Talk(wire, talk(SENTENCES).audio.tobytes())
    await live.start(title="About money", **options)
    await wire.ok("room:join", {"room": live.room})
    await live.send()
    await live.stop()
    finals = [event for event in wire.named("transcript:final") if event["recording_id"] == live.recording_id]
    await until(lambda: finds(wire, "kitten"))
    return finals


async def finds(wire: Wire, text: str) -> bool:
    return bool((await found(wire, text))["hits"])


async def found(wire: Wire, text: str, **wanted: Any) -> dict[str, Any]:
    """The full results."""
    request_id = f"q{len(wire.events)}"
    await wire.ok("search:query", {"request_id": request_id, "text": text, "slot": "test", **wanted})
    return await wire.wait("search:results", lambda e: e["request_id"] == request_id and e["phase"] == "full")


async def get(server: ServerProcess, who: Account, path: str, **options: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {who.token}"}) as http,
        http.request(options.pop("method", "GET"), f"{server.url}{path}", **options) as response,
    ):
        return response.status, await response.json(content_type=None) if response.status != 204 else None


# --- queries ------------------------------------------------------------------------------------------------------
async def test_keystrokes_in_two_slots_never_show_an_older_result_after_a_newer(wire: Wire) -> None:
    await spoken(wire)
    typed = "budget meeting monday"
    keys = [(slot, end) for end in range(1, 16) for slot in ("left", "right")]
    for number, (slot, end) in enumerate(keys):
        await wire.ok("search:query", {"request_id": f"{slot}-{end}", "slot": slot, "text": typed[:end]})
        if number % 3 == 0:  # as fast as it can, and at times as slowly as it is answered
            await wire.wait("search:results", lambda e, slot=slot, end=end: e["request_id"] == f"{slot}-{end}")
    ends = {"search:superseded", "search:failed"}
    for slot in ("left", "right"):
        await wire.wait("search:results", lambda e, s=slot: e["request_id"] == f"{s}-15" and e["phase"] == "full")
        told = [(name, data) for name, data in wire.events if str(data.get("request_id", "")).startswith(f"{slot}-")]
        order = [int(data["request_id"].split("-")[1]) for name, data in told if name == "search:results"]
        assert order == sorted(order), slot
        over = [data["request_id"] for name, data in told if name in ends or data.get("phase") == "full"]
        assert sorted(over) == sorted(f"{slot}-{end}" for end in range(1, 16)), "each ends once"
        instants = [data for name, data in told if data.get("phase") == "instant"]
        assert [hit["text"] for hit in instants[-1]["hits"]] == ["budget meeting monday"]
    assert not wire.named("search:failed")


async def test_hits_bring_their_neighbours_and_may_be_grouped(wire: Wire) -> None:
    finals = await spoken(wire)
    (hit,) = (await found(wire, "weather", neighbours=1))["hits"]
    assert (hit["rev"], hit["title"]) == (finals[1]["rev"], "About money")
    assert [beside["segment_id"] for beside in (*hit["before"], *hit["after"])] == [
        finals[0]["segment_id"], finals[2]["segment_id"],
    ]  # fmt: skip
    (best,) = (await found(wire, "budg", group_by="recording"))["hits"]
    assert best["more"] == 1
    assert "before" not in best


async def test_a_misspelled_word_is_told_with_what_was_looked_for(wire: Wire) -> None:
    await spoken(wire)
    page = await found(wire, "wheather ")
    assert page["corrections"] == [["wheather", "weather"]]
    assert [hit["text"] for hit in page["hits"]] == ["weather rain today"]


# --- suggestions, history, analytics ------------------------------------------------------------------------------
async def test_ones_own_queries_are_suggested_before_words_that_were_said(wire: Wire) -> None:
    await spoken(wire)
    await found(wire, "budget plan for monday")
    await wire.ok("search:history", {})
    assert (await wire.ok("search:suggest", {"text": "The budg"}))["suggestions"] == ["The budget", "The budgie"]
    own_first = (await wire.ok("search:suggest", {"text": "BUDG"}))["suggestions"]
    assert own_first == ["budget plan for monday", "budget", "budgie"]
    assert (await wire.ok("search:suggest", {"text": "budg", "limit": 2}))["suggestions"] == own_first[:2]
    assert (await wire.ok("search:suggest", {"text": "budget "}))["suggestions"] == ["budget plan for monday"]
    assert (await wire.ok("search:suggest", {"text": "budget plan for monday"}))["suggestions"] == []
    untyped = (await wire.ok("search:suggest", {"text": "!?"}))["suggestions"]
    assert sorted(untyped) == ["budget plan for monday", "kitten"], "one's own queries, while no word is typed"


async def test_the_history_is_what_settled_and_ones_own_and_can_be_cleared(wire: Wire, parlance: ServerProcess) -> None:
    await spoken(wire)
    colleague = await parlance.account(wire.named("ready")[0]["tenant"]["name"], "colleague", Role.MEMBER)
    for text in ("w", "wea", "weather"):
        await wire.ok("search:query", {"request_id": text, "text": text, "slot": "typing"})
    await wire.wait("search:results", lambda e: (e["request_id"], e["phase"]) == ("weather", "full"))
    await found(wire, "nobody said this")
    answer = await wire.ok("search:history", {})
    assert answer["queries"] == ["nobody said this", "weather", "kitten"]
    assert [(entry["text"], entry["hits"]) for entry in answer["entries"]] == [
        ("nobody said this", 0), ("weather", 1), ("kitten", 1),
    ]  # fmt: skip
    assert (await wire.ok("search:history", {"limit": 1}))["queries"] == ["nobody said this"]
    async with wired(parlance.url, colleague.token) as other:
        assert (await other.ok("search:history", {}))["queries"] == []
        assert (await other.ok("search:suggest", {"text": "nobody"}))["suggestions"] == []
    assert (await wire.ok("search:history", {"clear": True}))["queries"] == []
    assert (await wire.ok("search:history", {}))["entries"] == []


async def test_a_longer_query_takes_the_place_of_its_beginning(wire: Wire) -> None:
    await spoken(wire)
    await wire.ok("search:history", {"clear": True})
    for text in ("budget", "budget meeting"):
        await found(wire, text)
        assert (await wire.ok("search:history", {}))["queries"] == [text]


async def test_what_was_opened_counts_once_and_only_what_was_told(wire: Wire, other: Wire) -> None:
    await spoken(wire)
    page = await found(wire, "weather")
    opened = {"request_id": page["request_id"], "segment_id": page["hits"][0]["segment_id"]}
    for _ in range(2):
        await wire.ok("search:clicked", opened)
    for wrong in ({**opened, "request_id": "unknown"}, {**opened, "segment_id": "unknown"}):
        assert (await wire.refused("search:clicked", wrong))["code"] == "not_found"
    assert (await other.refused("search:clicked", opened))["code"] == "not_found"


async def test_analytics_are_the_tenants_and_name_nobody(
    wire: Wire, parlance: ServerProcess, alice: Account, mallory: Account
) -> None:
    await spoken(wire)
    await wire.ok("search:history", {"clear": True})
    for text in ("Weather", "nobody said this", "weather"):
        page = await found(wire, text)
    await wire.ok("search:clicked", {"request_id": page["request_id"], "segment_id": page["hits"][0]["segment_id"]})
    status, told = await get(parlance, alice, "/v1/search/analytics?days=7")
    assert status == 200
    assert told["top"][0] == {"text": "weather", "searches": 2, "without_hits": 0, "clicks": 1}
    assert told["without_hits"] == [{"text": "nobody said this", "searches": 1, "without_hits": 1, "clicks": 0}]
    assert sum(day["searches"] for day in told["days"]) == 3
    assert alice.user_id not in json.dumps(told)
    assert (await get(parlance, mallory, "/v1/search/analytics"))[1] == {"days": [], "top": [], "without_hits": []}
    for role, allowed in ((Role.ADMIN, True), (Role.MEMBER, False), (Role.VIEWER, False)):
        somebody = await parlance.account(wire.named("ready")[0]["tenant"]["name"], role.value, role)
        status, told = await get(parlance, somebody, "/v1/search/analytics")
        assert (status, told.get("code")) == ((200, None) if allowed else (403, "forbidden"))


# --- subscriptions ------------------------------------------------------------------------------------------------
async def test_a_subscription_is_told_while_they_talk_and_again_from_its_cursor(
    wire: Wire, parlance: ServerProcess, alice: Account, other: Wire
) -> None:
    cursor = (await wire.ok("search:subscribe", {"subscription_id": "s", "text": "budget"}))["cursor"]
    await other.ok("search:subscribe", {"subscription_id": "s", "text": "budget"})
    await spoken(wire)
    match = await wire.wait("search:match")
    assert (match["subscription_id"], match["hit"]["text"]) == ("s", "budget meeting monday")
    await wire.ok("search:subscribe", {"subscription_id": "t", "text": "kitten rain", "after": cursor})
    async with wired(parlance.url, alice.token) as again:
        await again.ok("search:subscribe", {"subscription_id": "s", "text": "budget", "after": cursor})
        assert await again.wait("search:match") == match
        await again.ok("search:subscribe", {"subscription_id": "s", "text": "kitten", "after": match["cursor"]})
        await again.wait("search:match", lambda e: e["hit"]["text"] == "budgie and kitten")
        await again.ok("search:unsubscribe", {"subscription_id": "s"})
    assert (await wire.refused("search:subscribe", {"subscription_id": "s", "text": "x", "after": "x.y"}))[
        "field"
    ] == "after"
    assert other.named("search:match") == []
    assert [event["subscription_id"] for event in wire.named("search:match")] == ["s"]


@pytest.mark.parametrize("of", ["own", "another"])
async def test_no_client_joins_or_reads_the_index_feed(
    wire: Wire, parlance: ServerProcess, alice: Account, mallory: Account, of: str
) -> None:
    """Every door that takes the name of a room."""
    await wire.ok("search:subscribe", {"subscription_id": "s", "text": "kitten"})
    await spoken(wire)
    room = f"index:{alice.tenant_id if of == 'own' else mallory.tenant_id}"
    for event, wanted in (
        ("room:join", {"room": room}),
        ("room:join", {"room": room, "after_seq": 0}),
        ("room:leave", {"room": room}),
        ("events:read", {"room": room, "after_seq": 0}),
    ):
        assert (await wire.refused(event, wanted))["code"] == "not_found", event
    assert (await get(parlance, alice, f"/v1/events?room={room}"))[0] == 404
    ticket = {"json": {"path": f"/v1/events?room={room}"}, "method": "POST"}
    assert (await get(parlance, alice, "/v1/tickets", **ticket))[0] == 404
    assert not [name for name, _ in wire.events if name == "segments:indexed"]


# --- over HTTP ----------------------------------------------------------------------------------------------------
async def test_search_over_http_is_the_same_search(wire: Wire, parlance: ServerProcess, alice: Account) -> None:
    finals = await spoken(wire)
    recording = finals[0]["recording_id"]
    status, page = await get(parlance, alice, "/v1/search?q=budg&sort=newest&neighbours=1&limit=1")
    assert (status, page["phase"]) == (200, "full")
    assert [hit["text"] for hit in page["hits"]] == ["budgie and kitten"]
    assert [beside["text"] for beside in page["hits"][0]["before"]] == ["weather rain today"]
    cursor = page["next_cursor"]
    status, page = await get(parlance, alice, f"/v1/search?q=budg&sort=newest&neighbours=1&limit=1&cursor={cursor}")
    assert [hit["text"] for hit in page["hits"]] == ["budget meeting monday"]
    status, page = await get(
        parlance, alice, f"/v1/search?q=budg&recording_ids=x&recording_ids={recording}&group_by=recording&from=0"
    )
    assert [hit["more"] for hit in page["hits"]] == [1]
    assert (await get(parlance, alice, "/v1/search?q=budg&recording_ids=x"))[1]["hits"] == []
    status, suggested = await get(parlance, alice, "/v1/search/suggest?q=kit")
    assert (status, suggested) == (200, {"suggestions": ["kitten"]})
    status, history = await get(parlance, alice, "/v1/search/history?limit=50")
    assert status == 200
    assert history["queries"] == [entry["text"] for entry in history["entries"]]
    assert "budg" in history["queries"]
    assert (await get(parlance, alice, "/v1/search/history", method="DELETE")) == (204, None)
    assert (await get(parlance, alice, "/v1/search/history"))[1] == {"queries": [], "entries": []}


async def test_both_phases_come_as_events(wire: Wire, parlance: ServerProcess, alice: Account) -> None:
    await spoken(wire)
    headers = {"Authorization": f"Bearer {alice.token}", "Accept": "text/event-stream"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{parlance.url}/v1/search?q=kitt") as response:
        assert response.content_type == "text/event-stream"
        blocks = [block.split("\n") for block in (await response.text()).split("\n\n") if block]
    assert [name for name, _ in blocks] == ["event: search:results"] * 2
    events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [(event["phase"], len(event["hits"])) for event in events] == [("instant", 1), ("full", 1)]
    assert len({event["request_id"] for event in events}) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "q"),
        ("q=a&q=b", "q"),
        ("q=" + "x" * 501, "q"),
        ("q=a&limit=0", "limit"),
        ("q=a&limit=many", "limit"),
        ("q=a&limit=1&limit=2", "limit"),
        ("q=a&mode=fuzzy", "mode"),
        ("q=a&sort=oldest", "sort"),
        ("q=a&neighbours=4", "neighbours"),
        ("q=a&group_by=speaker", "group_by"),
        ("q=a&from=-1", "from"),
        ("q=a&recording_ids=", "recording_ids"),
        ("q=a&cursor=nonsense", "cursor"),
        ("q=a&text=b", "text"),
        ("q=a&request_id=1", "request_id"),
        ("q=a&filters=x", "filters"),
        ("q=a&page=2", "page"),
        ("q=a%00", "q"),
    ],
)
async def test_a_wrong_parameter_is_named(parlance: ServerProcess, alice: Account, query: str, field: str) -> None:
    status, problem = await get(parlance, alice, f"/v1/search?{query}")
    assert (status, problem["code"], problem["field"]) == (400, "bad_request", field)


async def test_other_doors_name_what_is_wrong_too(parlance: ServerProcess, alice: Account) -> None:
    for path, field in (
        ("/v1/search/suggest", "q"),
        ("/v1/search/suggest?q=a&limit=x", "limit"),
        ("/v1/search/history?limit=0", "limit"),
        ("/v1/search/analytics?days=0", "days"),
        ("/v1/search/analytics?days=1000", "days"),
        ("/v1/search/analytics?weeks=2", "weeks"),
    ):
        status, problem = await get(parlance, alice, path)
        assert (status, problem["code"], problem["field"]) == (400, "bad_request", field), path


async def test_many_at_once_are_answered_in_turns(wire: Wire, parlance: ServerProcess, alice: Account) -> None:
    await spoken(wire)
    answers = await asyncio.gather(*(get(parlance, alice, f"/v1/search?q=kitten&limit={n}") for n in range(1, 30)))
    assert {status for status, _ in answers} == {200}
