"""The truth as searches need it: `server.store.transcripts`."""

import json

import pytest

from search.model import Beside
from search.postgres import PostgresIndex
from server.store import transcripts as module
from server.store.pool import Database
from server.store.transcripts import StoredTranscripts, note_languages
from streaming.limits import LIMITS, Limits
from tests.support.indexes import World


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database, PostgresIndex(database.tenant_tx)).begin()


async def test_what_is_shown_is_what_there_is_and_may_be_seen(world: World) -> None:
    await world.recording("diary", owner="bert", private=True)
    one = await world.say("cafe\u0301", speaker="S1")
    secret = await world.say("a secret", recording="diary", owner="bert", private=True)
    other = await world.another()
    theirs = await other.say_all(["one", "two", "three"])
    seen = await world.transcripts.shown(world.tenant, "anna", [one, secret, theirs[2], "unknown"], around=3)
    assert set(seen) == {one}
    assert (seen[one].text, seen[one].title, seen[one].speaker) == ("café", "About talk", "S1")
    assert (seen[one].before, seen[one].after) == ((), ()), "neighbours are of the same recording"
    assert set(await world.transcripts.shown(world.tenant, "bert", [one, secret])) == {one, secret}
    assert await world.transcripts.shown(world.tenant, "anna", []) == {}


async def test_neighbours_are_those_in_time(world: World) -> None:
    """A revision may have cut a segment into pieces that begin together."""
    names = await world.say_all([f"number {n}" for n in range(6)])
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute("UPDATE segments SET start_ms = 3000, end_ms = 3000 WHERE ordinal IN (3, 4, 5)")
        await connection.execute("UPDATE segments SET start_ms = 500, end_ms = 600 WHERE ordinal = 6")
    seen = await world.transcripts.shown(world.tenant, "anna", [names[3], names[5], names[0]], around=2)

    def ids(beside: tuple[Beside, ...]) -> list[str]:
        return [b.segment_id for b in beside]

    assert (ids(seen[names[3]].before), ids(seen[names[3]].after)) == ([names[1], names[2]], [names[4]])
    assert (ids(seen[names[5]].before), ids(seen[names[5]].after)) == ([], [names[0], names[1]])
    assert ids(seen[names[0]].before) == [names[5]]


async def test_neighbours_cost_no_more_than_themselves(world: World) -> None:
    names = await world.say_all([f"number {n}" for n in range(400)])
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        found = await connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {module.BESIDE}", world.tenant, [names[200]], 3
        )
    (plan,) = json.loads(found)
    assert plan["Plan"]["Actual Rows"] == 6
    assert "segments_order" in found
    assert "Rows Removed by Filter" not in found
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] <= 30, "20 were measured"


async def test_speakers_by_name_the_newest_recordings_first(world: World) -> None:
    for n in range(4):
        await world.recording(f"r{n}")
        await world.call("S1", "Ada", recording=f"r{n}")
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute(
            "UPDATE recordings SET started_at = started_at + interval '1 day' WHERE recording_id = 'r2'"
        )
    assert await world.transcripts.spoken_by(world.tenant, ["ADA", "nobody"]) == [
        ("r2", "S1"),
        ("r0", "S1"),
        ("r1", "S1"),
        ("r3", "S1"),
    ]
    few = StoredTranscripts(world.database.tenant_tx, Limits(search_named_max=2))
    assert await few.spoken_by(world.tenant, ["Ada"]) == [("r2", "S1"), ("r0", "S1")]
    assert await few.spoken_by("another", ["Ada"]) == []


async def test_languages_are_remembered_for_a_moment(world: World) -> None:
    now = 100.0
    held = StoredTranscripts(world.database.tenant_tx, LIMITS, clock=lambda: now)
    assert await held.languages(world.tenant) == ()
    async with world.database.tenant_tx(world.tenant) as connection:
        await note_languages(connection, world.tenant, ["de-CH"])
    now += LIMITS.search_languages_ms_max / 1000 - 0.01
    assert await held.languages(world.tenant) == ()
    now += 0.02
    assert await held.languages(world.tenant) == ("de",)


async def test_no_more_tenants_are_remembered_than_that(world: World) -> None:
    held = StoredTranscripts(world.database.tenant_tx, Limits(search_tenants_held_max=2))
    for tenant in ("a", "b", "c"):
        assert await held.languages(tenant) == ()
    assert list(held._languages) == ["b", "c"]
