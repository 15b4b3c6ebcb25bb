"""The event log on a real database: one gapless sequence per room, whoever writes."""

import asyncio
import random

import pytest

from server.app import LogReader
from server.rooms.hub import LogReader as Port
from server.rooms.marks import Heads
from server.store import feed
from server.store.feed import Draft, Head
from server.store.pool import Database
from tests.support.node import log_of, somebody


class Abort(Exception):
    """Ends a transaction without a commit."""


async def write(database: Database, tenant_id: str, rooms: list[str], *, abort: bool = False) -> list[feed.Event]:
    async with database.tenant_tx(tenant_id) as connection:
        events = await feed.append(
            connection, tenant_id, [Draft(room, "e", {"n": n}) for n, room in enumerate(rooms)], at_ms=1_700_000_000_123
        )
        if abort:
            raise Abort
    return events


async def test_a_room_begins_at_one_and_each_room_counts_for_itself(database: Database) -> None:
    who = await somebody(database)
    events = await write(database, who.tenant_id, ["b", "a", "b", "c", "b"])
    assert [(event.room, event.seq) for event in events] == [("b", 1), ("a", 1), ("b", 2), ("c", 1), ("b", 3)]
    assert [event.body["n"] for event in await log_of(database, who, "b")] == [0, 2, 4], "in the order of the drafts"
    assert await write(database, who.tenant_id, []) == []


async def test_what_is_read_is_what_was_written(database: Database) -> None:
    who = await somebody(database)
    body = {"text": 'Grüße, "Welt" \\ \U0001f600', "words": [{"w": "x", "p": 0.5}], "none": None, "big": 2**53}
    async with database.tenant_tx(who.tenant_id) as connection:
        written = await feed.append(connection, who.tenant_id, [Draft("r", "e", body)], at_ms=1_700_000_000_999)
    assert await log_of(database, who, "r") == written
    assert written[0].wire() == {"event": "e", "room": "r", "seq": 1, "at": 1_700_000_000_999, **body}


async def test_an_aborted_transaction_leaves_no_gap(database: Database) -> None:
    who = await somebody(database)
    for _ in range(3):
        await write(database, who.tenant_id, ["r"])
        with pytest.raises(Abort):
            await write(database, who.tenant_id, ["r", "r", "new"], abort=True)
    assert [event.seq for event in await log_of(database, who, "r")] == [1, 2, 3]
    assert await log_of(database, who, "new") == []


async def test_concurrent_writers_leave_neither_gap_nor_double_nor_deadlock(database: Database) -> None:
    """They take the same rooms in opposite orders, and some abort."""
    who = await somebody(database)
    rng = random.Random(1)
    rooms = [f"room {name}" for name in "zaZéB_1"]
    expected = dict.fromkeys(rooms, 0)
    turns = []
    for _ in range(60):
        picked = rng.choices(rooms, k=rng.randint(1, 6))
        abort = rng.random() < 0.3
        turns.append(write(database, who.tenant_id, picked, abort=abort))
        for room in picked:
            expected[room] += not abort
    async with asyncio.timeout(30):
        results = await asyncio.gather(*turns, return_exceptions=True)
    assert {type(result) for result in results} <= {list, Abort}
    for room in rooms:
        assert [event.seq for event in await log_of(database, who, room)] == list(range(1, expected[room] + 1))


async def test_two_writers_in_opposite_order_do_not_deadlock(database: Database) -> None:
    """The second waits for the first; taking rooms as they come would make each wait for the other."""
    who = await somebody(database)
    first_has_written, may_commit = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with database.tenant_tx(who.tenant_id) as connection:
            await feed.append(connection, who.tenant_id, [Draft("b", "e", {})], at_ms=0)
            first_has_written.set()
            await may_commit.wait()

    async def second() -> None:
        await first_has_written.wait()
        await write(database, who.tenant_id, ["c", "b", "a"])

    async def third() -> None:
        await first_has_written.wait()
        may_commit.set()
        await write(database, who.tenant_id, ["a", "b", "c"])

    async with asyncio.timeout(30):
        await asyncio.gather(first(), second(), third())
    for room, count in (("a", 2), ("b", 3), ("c", 2)):
        assert [event.seq for event in await log_of(database, who, room)] == list(range(1, count + 1))


async def test_two_tenants_with_the_same_room_name(database: Database) -> None:
    ann, bob = await somebody(database, "acme"), await somebody(database, "other")
    await asyncio.gather(*(write(database, who.tenant_id, ["r"]) for who in (ann, bob) for _ in range(5)))
    for who in (ann, bob):
        log = await log_of(database, who, "r")
        assert [(event.tenant_id, event.seq) for event in log] == [(who.tenant_id, seq) for seq in range(1, 6)]
    async with database.tenant_tx(ann.tenant_id) as connection:
        assert await feed.read(connection, bob.tenant_id, "r", after_seq=0, limit=10) == []
        assert await feed.head(connection, bob.tenant_id, "r") == Head(0, 1)


async def test_rooms_that_are_behind_are_found_at_once_over_all_tenants(database: Database) -> None:
    ann, bob = await somebody(database, "acme"), await somebody(database, "other")
    for who in (ann, bob):
        await write(database, who.tenant_id, ["r"] * 5 + ["s"])
    reader: Heads = LogReader(database)
    known = [((ann.tenant_id, "r"), 5), ((bob.tenant_id, "r"), 4), ((ann.tenant_id, "s"), 0), ((ann.tenant_id, "x"), 0)]
    assert sorted(await reader.behind(known)) == sorted([(bob.tenant_id, "r"), (ann.tenant_id, "s")])
    assert await reader.behind([((ann.tenant_id, "r"), 6), ((bob.tenant_id, "s"), 1)]) == []
    assert await reader.behind([]) == []


async def test_the_log_reader_reads_pages(database: Database) -> None:
    who = await somebody(database)
    reader: Port = LogReader(database)
    assert await reader.head(who.tenant_id, "r") == Head(0, 1)
    assert await reader.read(who.tenant_id, "r", 0, 10) == []
    await write(database, who.tenant_id, ["r"] * 7)
    assert await reader.head(who.tenant_id, "r") == Head(7, 1)
    assert [event.seq for event in await reader.read(who.tenant_id, "r", 2, 3)] == [3, 4, 5]
    assert [event.seq for event in await reader.read(who.tenant_id, "r", 5, 3)] == [6, 7]
    assert await reader.read(who.tenant_id, "r", 7, 3) == []
