"""Event logs that reach back for a limited time: beginnings go, numbers go on, nobody waits."""

import asyncio
import shutil
import time
from pathlib import Path

import aiohttp
import asyncpg
import msgspec
import pytest

from auth.model import Identity
from search.settling import Settled
from server.jobs.retention import DAY_S, Retention
from server.store import feed, searches
from server.store.feed import Draft, Head
from server.store.migrate import FOLDER, migrate
from server.store.pool import Database
from streaming.errors import HistoryTruncated
from streaming.limits import LIMITS
from tests.fakes import tones
from tests.support.node import log_of, somebody
from tests.support.process import running
from tests.support.wire import Talk, wired

HANG_S = 60.0
SMALL = msgspec.structs.replace(LIMITS, retention_batch_events=10, retention_look_ms=10)
ROOM = "recording:r"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def write(database: Database, who: Identity, count: int, *, days_ago: float, room: str = ROOM) -> None:
    """Events as they were logged then."""
    async with database.tenant_tx(who.tenant_id) as tx:
        at_ms = now_ms() - int(days_ago * DAY_S * 1_000)
        fresh = await feed.head(tx, who.tenant_id, room) == Head(0, 1)
        await feed.append(tx, who.tenant_id, [Draft(room, "e", {"n": n}) for n in range(count)], at_ms=at_ms)
        if fresh:
            await tx.execute(
                "UPDATE rooms SET oldest_at = to_timestamp($1 / 1000.0) WHERE room = $2", float(at_ms), room
            )


async def expire(database: Database, *, days: float = 1, limit: int = 1_000) -> tuple[int, bool]:
    async with database.shared_tx() as tx:
        return await feed.expire(tx, age_s=days * DAY_S, limit=limit)


async def head(database: Database, who: Identity, room: str = ROOM) -> Head:
    async with database.tenant_tx(who.tenant_id) as tx:
        return await feed.head(tx, who.tenant_id, room)


async def seqs(database: Database, who: Identity, room: str = ROOM) -> list[int]:
    return [event.seq for event in await log_of(database, who, room)]


async def test_what_is_older_goes_and_the_numbers_go_on(database: Database) -> None:
    who = await somebody(database)
    await write(database, who, 5, days_ago=3)
    await write(database, who, 2, days_ago=0.5)
    assert await expire(database, days=4) == (0, False)
    assert await expire(database) == (5, False)
    assert await head(database, who) == Head(7, 6)
    assert await seqs(database, who) == [6, 7]
    await write(database, who, 1, days_ago=0)
    assert await seqs(database, who) == [6, 7, 8]
    assert await expire(database) == (0, False)


async def test_a_room_whose_events_are_all_gone_keeps_its_number(database: Database) -> None:
    who = await somebody(database)
    await write(database, who, 4, days_ago=2)
    assert await expire(database) == (4, False)
    assert await head(database, who) == Head(4, 5)
    async with database.tenant_tx(who.tenant_id) as tx:
        assert await feed.page(tx, who.tenant_id, ROOM, after_seq=4, limit=10) == (Head(4, 5), [])
        with pytest.raises(HistoryTruncated) as raised:
            await feed.page(tx, who.tenant_id, ROOM, after_seq=3, limit=10)
        assert raised.value.first_seq == 5
    await write(database, who, 2, days_ago=1.5)
    assert await seqs(database, who) == [5, 6]
    assert await expire(database) == (0, False), "written just now, as the database's clock has it"
    async with database.tenant_tx(who.tenant_id) as tx:
        await tx.execute("UPDATE rooms SET oldest_at = oldest_at - interval '25 hours'")
    assert await expire(database) == (2, False), "an empty log that was written to again is looked at again"
    assert await head(database, who) == Head(6, 7)


async def test_every_tenant_is_cut_and_no_row_of_another_is_shown(database: Database) -> None:
    ann, bob = await somebody(database, "acme"), await somebody(database, "other")
    for who in (ann, bob):
        await write(database, who, 3, days_ago=2)
        await write(database, who, 1, days_ago=2, room=f"tenant:{who.tenant_id}")
    assert await expire(database) == (8, False)
    for who in (ann, bob):
        assert await head(database, who) == Head(3, 4)
    granted = "SELECT has_function_privilege($1, 'expire_events(float8, int)', 'EXECUTE')"
    async with database.shared_tx() as tx:
        assert await tx.fetchval(granted, "parlance_app")
        assert not await tx.fetchval(granted, "public")


async def test_batches_are_bounded_in_events_and_in_rooms(database: Database) -> None:
    who = await somebody(database)
    await write(database, who, 25, days_ago=2)
    assert [await expire(database, limit=10) for _ in range(3)] == [(10, True), (10, True), (5, False)]
    for number in range(7):
        await write(database, who, 2, days_ago=3, room=f"recording:{number}")
    results = [await expire(database, limit=3) for _ in range(5)]
    assert results == [(3, True)] * 4 + [(2, False)]
    for number in range(5):
        await write(database, who, 1, days_ago=0.5, room=f"recording:young {number}")
    async with database.tenant_tx(who.tenant_id) as tx:
        await tx.execute("UPDATE rooms SET oldest_at = now() - interval '2 days' WHERE room LIKE '%young%'")
    assert [await expire(database, limit=3) for _ in range(2)] == [(0, True), (0, False)], "looked at, nothing to do"


async def test_nobody_waits_for_it_and_it_waits_for_nobody(database: Database) -> None:
    who = await somebody(database)
    await write(database, who, 3, days_ago=2)
    await write(database, who, 3, days_ago=2, room="recording:other")
    async with asyncio.timeout(HANG_S), database.tenant_tx(who.tenant_id) as writer:
        await feed.append(writer, who.tenant_id, [Draft(ROOM, "e", {})], at_ms=now_ms())
        assert await expire(database) == (3, False), "the room that is being written to is passed over"
    assert await seqs(database, who) == [1, 2, 3, 4]
    assert await expire(database) == (3, False)
    assert await seqs(database, who) == [4]


async def test_two_nodes_and_writers_at_once(database: Database) -> None:
    who = await somebody(database)
    rooms = [f"recording:{number}" for number in range(6)]
    for room in rooms:
        await write(database, who, 30, days_ago=2, room=room)
    done = asyncio.Event()
    written = 0

    async def writer() -> None:
        nonlocal written
        while not done.is_set():
            for room in rooms:
                await write(database, who, 2, days_ago=0, room=room)
                written += 2

    async def node() -> int:
        total = 0
        while any([(await head(database, who, room)).first_seq < 31 for room in rooms]):
            total += await Retention(database, SMALL, days=1).catch_up()
        return total

    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
        writing = group.create_task(writer())
        nodes = [group.create_task(node()) for _ in range(2)]
        await asyncio.wait(nodes)
        done.set()
        await writing
    assert sum(task.result() for task in nodes) == 180, "each event is deleted, and counted, once"
    for room in rooms:
        last = 30 + written // len(rooms)
        assert await head(database, who, room) == Head(last, 31)
        assert await seqs(database, who, room) == list(range(31, last + 1))


async def test_an_event_from_the_future_ends_neither_the_round_nor_the_log(database: Database) -> None:
    """A node's clock was wrong: nothing is deleted before its time, and the round comes to its end."""
    who = await somebody(database)
    await write(database, who, 2, days_ago=2)
    await write(database, who, 1, days_ago=-1_000)
    await write(database, who, 2, days_ago=2)
    async with asyncio.timeout(HANG_S):
        assert await Retention(database, SMALL, days=1).catch_up() == 2
        assert await Retention(database, SMALL, days=1).catch_up() == 0
    assert await seqs(database, who) == [3, 4, 5]
    assert await expire(database, days=-2_000) == (3, False), "and once it is old it goes"


async def test_logs_from_before_the_migration_are_cut_too(empty_dsn: str, tmp_path: Path) -> None:
    for file in sorted(FOLDER.glob("*.sql"))[:7]:
        shutil.copy(file, tmp_path)
    await migrate(empty_dsn, tmp_path)
    owner = await asyncpg.connect(empty_dsn)
    await owner.execute("INSERT INTO tenants (tenant_id, name) VALUES ('t', 't')")
    await owner.execute("INSERT INTO rooms (tenant_id, room, seq) VALUES ('t', 'r', 2), ('t', 'never written', 0)")
    await owner.execute(
        "INSERT INTO events SELECT 't', 'r', n, now() - make_interval(days => 4 - 2 * n), 'e', '{}' "
        "FROM generate_series(1, 2) n"
    )
    await migrate(empty_dsn)
    opened = Database(empty_dsn)
    await opened.open()
    try:
        assert await expire(opened) == (1, False)
        assert await expire(opened) == (0, False)
        assert await owner.fetchval("SELECT first_seq FROM rooms WHERE room = 'r'") == 2
        assert await owner.fetchval("SELECT count(*) FROM rooms WHERE oldest_at < now() - interval '1 day'") == 0
    finally:
        await opened.close()
        await owner.close()


async def test_the_component_looks_again_and_waits_out_a_lost_database(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    who = await somebody(database)
    await write(database, who, 25, days_ago=2)
    away = Database(database.dsn)
    caplog.set_level("INFO")
    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
        running = group.create_task(Retention(away, SMALL, days=1).run())
        while "old events wait: the database is away" not in caplog.messages:
            await asyncio.sleep(0.01)
        await away.open()
        for round_ in (25, 50):
            while await seqs(database, who):
                await asyncio.sleep(0.01)
            assert await head(database, who) == Head(round_, round_ + 1)
            await write(database, who, 25, days_ago=2)
            async with database.tenant_tx(who.tenant_id) as tx:
                await tx.execute("UPDATE rooms SET oldest_at = now() - interval '2 days'")
        running.cancel()
    await away.close()
    assert {record.count for record in caplog.records if record.message == "old events deleted"} == {25}  # type: ignore[attr-defined]


async def test_for_ever_is_for_ever(database: Database) -> None:
    who = await somebody(database)
    await write(database, who, 2, days_ago=40_000)
    async with asyncio.timeout(HANG_S):
        await Retention(database, SMALL, days=0).run()
    assert await seqs(database, who) == [1, 2]


async def test_a_server_forgets_events_and_keeps_what_was_said(tmp_path: Path) -> None:
    said = tones.talk(tones.random_sentences(70, 3), silence_ms=700)
    with running(tmp_path / "data") as server:
        alice = await server.account("alice")
        async with wired(server.url, alice.token) as wire:
            live = Talk(wire, said.audio.tobytes())
            await live.start()
            await live.send()
            await live.stop()
        async with server._database_url() as dsn:
            opened = Database(dsn)
            await opened.open()
            async with opened.tenant_tx(alice.tenant_id) as tx:
                await tx.execute("UPDATE events SET at = at - interval '40 hours' WHERE room = $1", live.room)
                await tx.execute("UPDATE rooms SET oldest_at = oldest_at - interval '40 hours'")
            await opened.close()
    with running(tmp_path / "data", events_days="1") as server:
        async with aiohttp.ClientSession(server.url, headers={"Authorization": f"Bearer {alice.token}"}) as http:
            url = f"/v1/events?room={live.room}&after_seq=0"
            async with asyncio.timeout(HANG_S):
                while True:
                    async with http.get(url) as response:
                        if response.status == 410:
                            assert (await response.json())["first_seq"] == 5
                            break
                    await asyncio.sleep(0.05)
            async with http.get(f"/v1/recordings/{live.recording_id}/transcript.json") as response:
                body = await response.json()
            assert ([segment["text"] for segment in body["segments"]], body["seq"]) == (said.texts, 4)
            async with http.get("/metrics") as response:
                assert "parlance_events_expired_total 4.0" in await response.text()
        async with wired(server.url, alice.token) as wire:
            error = await wire.refused("events:read", {"room": live.room, "after_seq": 3})
            assert (error["code"], error["first_seq"]) == ("history_truncated", 5)
            page = await wire.ok("events:read", {"room": f"tenant:{alice.tenant_id}", "after_seq": 0})
            assert [event["seq"] for event in page["events"]] == [1, 2], "what is young enough stays"


async def test_searches_are_forgotten_after_their_days_and_events_are_not(database: Database) -> None:
    who = await somebody(database)
    now = now_ms()
    asked = [
        Settled(who.tenant_id, who.user_id, f"id{days}", f"query {days}", f"query {days}", now - days * 86_400_000, 1)
        for days in range(7)
    ]
    async with database.tenant_tx(who.tenant_id) as connection:
        await searches.write(connection, who.tenant_id, asked)
    limits = msgspec.structs.replace(LIMITS, retention_batch_events=2)
    assert await Retention(database, limits, days=0, searches_days=0).forget_searches() == 0
    assert await Retention(database, limits, days=0, searches_days=2).forget_searches() == 5
    async with database.tenant_tx(who.tenant_id) as connection:
        left = await searches.history(connection, who.tenant_id, who.user_id, 10)
    assert [entry.text for entry in left] == ["query 0", "query 1"]
