"""`parlance search`: what it asks, prints and refuses; as a process: following, and going on after a cursor."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from server.cli import cli
from server.console.failures import explain
from server.console.searching import wanted_of
from server.console.session import follow
from tests.fakes.wire import HANG_S, WirePeer, hit, refusal, wire_peer
from tests.server.test_cli import Ran, environment, start


@pytest.fixture
async def peer() -> AsyncIterator[WirePeer]:
    async with wire_peer() as made:
        yield made


@pytest.fixture
def environ(peer: WirePeer, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, PARLANCE_URL=peer.url, PARLANCE_TOKEN="x")


async def search(environ: dict[str, str], *arguments: str) -> Ran:
    """The command without a process of its own."""
    ran = await asyncio.to_thread(CliRunner().invoke, cli, ["search", *arguments], env=environ)
    assert isinstance(ran.exception, SystemExit | None), "no traceback"
    return Ran(ran.exit_code, ran.stdout, ran.stderr)


def answering(peer: WirePeer, *pages: dict[str, Any]) -> None:
    """The next queries are answered so."""

    def one(page: dict[str, Any]) -> Any:
        async def answer(body: dict[str, Any]) -> dict[str, Any]:
            for phase in ("instant", "full"):
                named = {"request_id": body["request_id"], "phase": phase, "took_ms": 1, "hits": [], **page}
                await peer.emit("search:results", named)
            return {"ok": True}

        return answer

    peer.answers.setdefault("search:query", []).extend(map(one, pages))


def asked(peer: WirePeer, event: str = "search:query") -> dict[str, Any]:
    body = next(body for name, body in reversed(peer.received) if name == event)
    return {name: value for name, value in body.items() if name not in ("request_id", "subscription_id")}


# --- a query ----------------------------------------------------------------------------------------------------------
async def test_every_option_reaches_the_server(peer: WirePeer, environ: dict[str, str]) -> None:
    answering(peer, {})
    options = ["--mode", "semantic", "--recording", "r1", "--recording", "r2", "--speaker", "Ann", "--speaker", "S2"]
    options += ["--language", "de", "--since", "2026-11-20T12:00Z", "--until", "2026-11-21T12:00Z"]
    options += ["--sort", "newest", "--limit", "3", "--around", "2", "--grouped"]
    ran = await search(environ, "hello", *options)
    assert (ran.status, ran.out, ran.err) == (0, "", "Nothing was found.\n")
    assert asked(peer) == {
        "text": "hello",
        "mode": "semantic",
        "filters": {
            "recording_ids": ["r1", "r2"],
            "speakers": ["Ann", "S2"],
            "languages": ["de"],
            "from": 1_795_176_000_000,
            "to": 1_795_262_400_000,
        },
        "sort": "newest",
        "limit": 3,
        "neighbours": 2,
        "group_by": "recording",
    }


async def test_all_pages_are_printed_and_corrections_told_aside(peer: WirePeer, environ: dict[str, str]) -> None:
    beside = {"segment_id": "g0", "speaker": "S2", "start_ms": 65_000, "end_ms": 66_000, "text": "hear hear"}
    answering(
        peer,
        {"hits": [hit("harbour", before=[beside], more=2)], "next_cursor": "c", "corrections": [["habour", "harbour"]]},
        {"hits": [hit("old harbour", after=[beside])], "corrections": [["habour", "harbour"]]},
    )
    ran = await search(environ, "habour", "--all")
    assert (ran.status, ran.err) == (0, "also looked for: harbour\n")
    assert ran.out.splitlines() == [
        "Talk  [00:00]  (2 more)",
        "  [01:05] S2: hear hear",
        "  harbour",
        "Talk  [00:00]",
        "  old harbour",
        "  [01:05] S2: hear hear",
    ]
    assert asked(peer) == {"text": "habour", "mode": "hybrid", "limit": 100, "cursor": "c"}


@pytest.mark.parametrize(
    ("error", "says", "status"),
    [
        ({"code": "bad_request", "field": "filters.recording_ids[1]"}, "--recording: No.", 2),
        ({"code": "unavailable"}, "unavailable: No.", 1),
    ],
)
async def test_a_refusal_is_one_sentence_that_names_the_option(
    peer: WirePeer, environ: dict[str, str], error: dict[str, str], says: str, status: int
) -> None:
    peer.answers["search:query"] = [refusal(**error)]
    ran = await search(environ, "hello", "--recording", "r" * 101)
    assert (ran.status, ran.out, ran.err) == (status, "", f"parlance: {says}\n")


# --- following --------------------------------------------------------------------------------------------------------
async def followed(peer: WirePeer, environ: dict[str, str], count: int, *options: str, say: list[str]) -> Ran:
    """Follow, have it said once that is so, and interrupt after so many lines."""
    process = await start(environ, "search", "--follow", "harbour", *options)
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(HANG_S):
        err = await process.stderr.readline()
        await peer.say(*say)
        out = b"".join([await process.stdout.readline() for _ in range(count)])
        process.send_signal(signal.SIGINT)
        rest, more = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, (out + rest).decode(), (err + more).decode())


async def test_what_matches_is_printed_as_it_is_said_and_another_goes_on_after_it(
    peer: WirePeer, environ: dict[str, str]
) -> None:
    await peer.say("before")
    options = ["--mode", "keyword", "--speaker", "Ann", "--since", "2026-11-20T12:00Z"]
    ran = await followed(peer, environ, 1, "--json", *options, say=["one"])
    assert (ran.status, ran.err) == (0, "Waiting for what is said. Ctrl-C ends.\n")
    line = json.loads(ran.out)
    assert (line["text"], line["cursor"]) == ("one", "2.0")
    wanted = {
        "text": "harbour",
        "mode": "keyword",
        "filters": {"speakers": ["Ann"], "from": 1_795_176_000_000},
    }
    assert asked(peer, "search:subscribe") == wanted

    await peer.say("two")
    ran = await followed(peer, environ, 4, *options, "--after", line["cursor"], say=["three"])
    assert (ran.status, ran.err) == (0, "Waiting for what is said. Ctrl-C ends.\n")
    assert ran.out.splitlines() == ["Talk  [00:00]", "  two", "Talk  [00:00]", "  three"]
    assert asked(peer, "search:subscribe") == {**wanted, "after": "2.0"}


@pytest.mark.parametrize(
    ("error", "says", "status"),
    [
        ({"code": "bad_request", "field": "after"}, "--after: No.", 2),
        ({"code": "history_truncated"}, "--after 17: what was said then is not kept any more.", 1),
        ({"code": "unknown_event"}, "unknown_event: No.", 1),
    ],
)
async def test_following_is_refused_in_one_sentence(
    peer: WirePeer, error: dict[str, str], says: str, status: int
) -> None:
    peer.answers["search:subscribe"] = [refusal(**error)]
    with pytest.raises(ExceptionGroup) as caught:
        await follow(peer.url, "x", wanted_of("hello", follow=True, after="17"), as_json=False)
    assert explain(caught.value) == (says, status)
