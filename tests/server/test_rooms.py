"""Joining, replaying and reading the event log."""

import asyncio

import aiohttp

from auth.model import Role
from tests.fakes.tones import random_sentences, talk
from tests.support.process import Account, ServerProcess
from tests.support.wire import Talk, Wire, wired


async def recorded(wire: Wire, seed: int, sentences: int = 4, **options: object) -> tuple[Talk, list[str]]:
    said = talk(random_sentences(seed, sentences), silence_ms=700)
    live = Talk(wire, said.audio.tobytes())
    await live.start(**options)
    await live.send()
    await live.stop()
    return live, said.texts


async def test_a_late_joiner_gets_everything_once_and_in_order(
    parlance: ServerProcess, alice: Account, wire: Wire
) -> None:
    said = talk(random_sentences(20, 6), silence_ms=700)
    live = Talk(wire, said.audio.tobytes())
    await live.start()
    half = len(live.pcm) // 4 * 2
    await live.send(half)
    async with wired(parlance.url, alice.token) as late:
        sending = asyncio.gather(live.send(speed=8))
        joined = await late.ok("room:join", {"room": live.room, "after_seq": 0})
        assert joined["first_seq"] == 1
        await sending
        await live.stop()
        await late.wait("recording:ended", lambda e: e["room"] == live.room)
        told = [e for _, e in late.events if e and e.get("room") == live.room and "seq" in e]
        assert [e["seq"] for e in told] == list(range(1, len(said.texts) + 2))
        assert [e["text"] for e in told[:-1]] == said.texts
        after = await late.ok("room:join", {"room": live.room, "after_seq": 3})
        assert after["seq"] == len(said.texts) + 1


async def test_join_without_after_seq_is_live_only(wire: Wire) -> None:
    live, texts = await recorded(wire, 21)
    before = len(wire.events)
    joined = await wire.ok("room:join", {"room": live.room})
    assert joined["seq"] == len(texts) + 1
    await wire.ok("room:leave", {"room": live.room})
    assert (await wire.refused("room:leave", {"room": live.room}))["code"] == "not_found"
    assert not [e for _, e in wire.events[before:] if e and e.get("room") == live.room]


async def test_events_read_pages(wire: Wire) -> None:
    live, texts = await recorded(wire, 22, 5)
    page = await wire.ok("events:read", {"room": live.room, "after_seq": 1, "limit": 2})
    assert [e["seq"] for e in page["events"]] == [2, 3]
    assert (page["more"], page["seq"]) == (True, 3), "the page's end is the next page's after_seq"
    rest = await wire.ok("events:read", {"room": live.room, "after_seq": 3, "limit": 1_000_000})
    assert [e["seq"] for e in rest["events"]] == list(range(4, len(texts) + 2))
    assert rest["more"] is False
    beyond = await wire.ok("events:read", {"room": live.room, "after_seq": 10_000})
    assert (beyond["events"], beyond["more"]) == ([], False)


async def test_tenant_members_hear_of_recordings_but_not_of_private_ones(
    parlance: ServerProcess, alice: Account, wire: Wire
) -> None:
    tenant = (await parlance_ready(parlance, alice))["tenant"]["name"]
    bob = await parlance.account(tenant, "bob", Role.VIEWER)
    async with wired(parlance.url, bob.token) as watcher:
        live, _ = await recorded(wire, 23)
        private, _ = await recorded(wire, 24, visibility="private")
        started = await watcher.wait("recording:started")
        assert started["recording"]["id"] == live.recording_id
        await watcher.wait("recording:ended", lambda e: e["recording"]["id"] == live.recording_id)
        own = await wire.wait("recording:started", lambda e: e["recording"]["id"] == private.recording_id)
        assert own["room"] == f"user:{alice.user_id}"
        assert private.recording_id not in str(watcher.events)
        assert (await watcher.refused("room:join", {"room": private.room}))["code"] == "not_found"
        forbidden = await watcher.refused("voice:recording:start", {"encoding": "pcm_s16le"})
        assert forbidden["code"] == "forbidden"


async def parlance_ready(parlance: ServerProcess, who: Account) -> dict[str, dict[str, str]]:
    async with wired(parlance.url, who.token) as wire:
        return wire.named("ready")[0]


async def test_library_transcript_and_media(parlance: ServerProcess, alice: Account, wire: Wire) -> None:
    live, texts = await recorded(wire, 25)
    headers = {"Authorization": f"Bearer {alice.token}"}
    async with aiohttp.ClientSession(parlance.url, headers=headers) as http:
        async with http.get("/v1/recordings") as response:
            assert [r["id"] for r in (await response.json())["recordings"]] == [live.recording_id]
        async with http.get(f"/v1/recordings/{live.recording_id}/transcript.json") as response:
            body = await response.json()
        assert [s["text"] for s in body["segments"]] == texts
        assert body["seq"] == len(texts) + 1
        async with http.get(f"/v1/recordings/{live.recording_id}/transcript.txt") as response:
            assert [line.split("] ")[1] for line in (await response.text()).splitlines()] == texts
        media = f"/v1/recordings/{live.recording_id}/media"
        async with http.get(media) as response:
            wav = await response.read()
        assert wav[:4] == b"RIFF"
        assert wav[44:] == live.pcm, "the kept audio is what was sent"
        async with http.get(media, headers={"Range": "bytes=100-199"}) as response:
            assert (response.status, await response.read()) == (206, wav[100:200])
        async with http.get(media, headers={"Range": f"bytes={len(wav)}-"}) as response:
            assert response.status == 416
