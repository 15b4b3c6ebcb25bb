"""Commit, then announce, on a real database whose connections are killed under way; fencing and takeovers."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from auth.model import Identity, Visibility
from server.app import enqueue_finals
from server.live.desk import token_hash
from server.store import feed, recordings, segments
from server.store.commits import Committer
from server.store.pool import Connection, Database
from server.store.segments import FinalWrite
from streaming.aio import Scope
from streaming.errors import Fenced, NotFound, RecordingBusy, StreamEnded, Unavailable
from streaming.limits import LIMITS
from streaming.model import AudioFormat, Encoding, Segment, Word
from tests.support.node import log_of, somebody, texts_of

LEASE_MS = 60_000
TOKEN = token_hash("right")


async def begin(database: Database, who: Identity, recording_id: str, *, lease_ms: int = LEASE_MS) -> None:
    row = recordings.RecordingRow(
        tenant_id=who.tenant_id, recording_id=recording_id, owner_id=who.user_id, owner_name=who.user_name, title="t",
        visibility=Visibility.TENANT, language="en", state="live", engine="tones",
        format=AudioFormat(Encoding.PCM_S16LE, 16_000, 1), options=recordings.StreamOptions(),
        started_at=time.time_ns() // 1_000_000, ended_at=None, duration_ms=0, segment_count=0,
    )  # fmt: skip
    async with database.tenant_tx(who.tenant_id) as connection:
        await recordings.insert(
            connection, row, stream_id=f"st-{recording_id}", node="one", lease_ms=lease_ms, token_hash=TOKEN
        )


def final(who: Identity, recording_id: str, ordinal: int, *, epoch: int = 1) -> FinalWrite:
    text = f"{recording_id} {ordinal}"
    word = Word(text, ordinal * 1_000, ordinal * 1_000 + 500, 0.9)
    segment = Segment(
        f"{recording_id}.{epoch}.{ordinal}", ordinal, 1, word.start_ms, word.end_ms, text, (word,), None, "en", 0.9
    )
    return FinalWrite(who.tenant_id, recording_id, epoch, segment, ordinal * 16_000)


async def write(database: Database, who: Identity, *items: FinalWrite) -> segments.WriteResult:
    async with database.tenant_tx(who.tenant_id) as connection:
        return await segments.write(connection, who.tenant_id, items, at_ms=1)


async def take_over(
    database: Database, who: Identity, recording_id: str, hashed: bytes | None = TOKEN, **options: Any
) -> recordings.StreamRow:
    wanted = {"stream_id": "st2", "node": "two", "lease_ms": LEASE_MS, "client_seen": True, **options}
    async with database.tenant_tx(who.tenant_id) as connection:
        return await recordings.take_over(connection, who.tenant_id, recording_id, token_hash=hashed, **wanted)


async def end(database: Database, who: Identity, recording_id: str, epoch: int) -> recordings.RecordingRow:
    async with database.tenant_tx(who.tenant_id) as connection:
        return await recordings.end(connection, who.tenant_id, recording_id, epoch, reason="stopped", duration_ms=5_000)


# --- writing segments -------------------------------------------------------------------------------------------------
async def test_a_batch_of_several_streams_with_every_outcome(database: Database, who: Identity) -> None:
    for name in ("a", "b", "c", "d"):
        await begin(database, who, name)
    await write(database, who, final(who, "b", 1))
    await take_over(database, who, "c")
    await end(database, who, "d", 1)
    items = [final(who, "b", 1), final(who, "a", 1), final(who, "c", 1), final(who, "b", 2), final(who, "a", 2),
             final(who, "d", 1), final(who, "nowhere", 1), final(who, "c", 1, epoch=2)]  # fmt: skip
    result = await write(database, who, *items)
    assert (result.written, result.repeated, result.fenced) == ([1, 3, 4, 7], [0], [2, 5, 6])
    assert [(event.room, event.seq) for event in result.events] == [
        ("recording:a", 1), ("recording:b", 2), ("recording:a", 2), ("recording:c", 1)
    ]  # fmt: skip
    assert await texts_of(database, who, "a") == ["a 1", "a 2"]
    assert await texts_of(database, who, "b") == ["b 1", "b 2"]
    state = await take_over(database, who, "a")
    assert (state.committed_sample, state.next_ordinal) == (32_000, 3)


async def test_the_segment_is_what_the_event_says(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    result = await write(database, who, final(who, "a", 1))
    async with database.tenant_tx(who.tenant_id) as connection:
        assert await segments.of_recording(connection, who.tenant_id, "a") == [result.events[0].body]


async def test_a_hole_in_the_ordinals_is_a_defect_and_writes_nothing(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    with pytest.raises(AssertionError, match="in order"):
        await write(database, who, final(who, "a", 1), final(who, "a", 3))
    assert await texts_of(database, who, "a") == []
    assert await log_of(database, who, "recording:a") == []


async def test_the_committed_sample_never_falls(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    async with database.tenant_tx(who.tenant_id) as connection:
        for settled in (90_000, 40_000):
            await recordings.renew(
                connection, who.tenant_id, "a", 1, lease_ms=LEASE_MS, settled_sample=settled, client_seen=True
            )
    await write(database, who, final(who, "a", 1))
    assert (await take_over(database, who, "a")).committed_sample == 90_000


async def test_the_context_of_the_last_final_goes_with_the_stream(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    assert (await take_over(database, who, "a")).context == b""
    items = [msgspec.structs.replace(final(who, "a", n, epoch=2), context=f"mean {n}".encode()) for n in (1, 2)]
    await write(database, who, *items)
    assert (await take_over(database, who, "a")).context == b"mean 2"


async def test_another_tenants_stream_is_none(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    mallory = await somebody(database, "other")
    assert (await write(database, mallory, final(mallory, "a", 1))).fenced == [0]
    with pytest.raises(StreamEnded):
        await take_over(database, mallory, "a")
    with pytest.raises(Fenced):
        await end(database, mallory, "a", 1)
    assert await texts_of(database, who, "a") == []


# --- takeovers --------------------------------------------------------------------------------------------------------
async def test_the_token_takes_over_at_any_time_and_a_wrong_one_never(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    for wrong in (token_hash("wrong"), b"", TOKEN[:-1]):
        with pytest.raises(RecordingBusy) as busy:
            await take_over(database, who, "a", wrong)
        assert busy.value.field == "resume_token"
    assert [(await take_over(database, who, "a")).epoch for _ in range(3)] == [2, 3, 4]
    with pytest.raises(StreamEnded):
        await take_over(database, who, "nowhere")


async def test_the_server_adopts_only_what_has_no_lease(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    with pytest.raises(RecordingBusy):
        await take_over(database, who, "a", None)
    async with database.tenant_tx(who.tenant_id) as connection:
        await recordings.release(connection, who.tenant_id, "a", 1)
    assert (await take_over(database, who, "a", None, client_seen=False)).epoch == 2
    with pytest.raises(RecordingBusy):
        await take_over(database, who, "a", None)
    async with database.tenant_tx(who.tenant_id) as connection:
        await recordings.release(connection, who.tenant_id, "a", 1)  # by the old owner: it has nothing to give back
    with pytest.raises(RecordingBusy):
        await take_over(database, who, "a", None)


async def test_after_a_takeover_the_old_epoch_can_do_nothing(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    await take_over(database, who, "a")
    assert (await write(database, who, final(who, "a", 1))).fenced == [0]
    with pytest.raises(Fenced):
        await end(database, who, "a", 1)
    with pytest.raises(Fenced):
        async with database.tenant_tx(who.tenant_id) as connection:
            await recordings.renew(
                connection, who.tenant_id, "a", 1, lease_ms=1, settled_sample=9_999_999, client_seen=True
            )
    assert (await take_over(database, who, "a")).committed_sample == 0


async def test_nothing_leaves_the_end(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    await write(database, who, final(who, "a", 1))
    row = await end(database, who, "a", 1)
    assert (row.state, row.segment_count, row.duration_ms) == ("ended", 1, 5_000)
    for hashed in (TOKEN, None, token_hash("wrong")):
        with pytest.raises(StreamEnded):
            await take_over(database, who, "a", hashed)
    assert (await write(database, who, final(who, "a", 2))).fenced == [0]
    with pytest.raises(Fenced):
        await end(database, who, "a", 1)


async def test_of_takeovers_at_once_each_gets_its_own_epoch(database: Database, who: Identity) -> None:
    await begin(database, who, "a")
    rows = await asyncio.gather(*(take_over(database, who, "a") for _ in range(8)))
    assert sorted(row.epoch for row in rows) == list(range(2, 10))


async def test_of_adoptions_at_once_one_succeeds(database: Database, who: Identity) -> None:
    await begin(database, who, "a", lease_ms=-1)
    async with database.shared_tx() as connection:
        assert await recordings.expired(connection, limit=10) == [(who.tenant_id, "a")]
    results = await asyncio.gather(*(take_over(database, who, "a", None) for _ in range(5)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["RecordingBusy"] * 4 + ["StreamRow"]


async def test_the_idle_time_counts_from_when_the_client_was_seen(
    database: Database, who: Identity, owner: Connection
) -> None:
    await begin(database, who, "a", lease_ms=-1)
    await owner.execute("UPDATE streams SET client_seen_at = now() - interval '100 s'")
    assert (await take_over(database, who, "a", None, client_seen=False)).idle_ms >= 100_000
    assert (await take_over(database, who, "a", client_seen=True)).idle_ms == 0


@pytest.mark.parametrize("recording_id", ["nowhere", "a\0b", ""])
async def test_what_is_not_there_is_not_found(database: Database, who: Identity, recording_id: str) -> None:
    with pytest.raises(NotFound):
        async with database.tenant_tx(who.tenant_id) as connection:
            await recordings.get(connection, who.tenant_id, recording_id)


# --- the committer ----------------------------------------------------------------------------------------------------
class Heard:
    """An `Announcer` that checks that it hears of committed events only."""

    def __init__(self) -> None:
        self.events: list[feed.Event] = []
        self.resyncs: list[tuple[str, str]] = []

    def announce(self, events: Sequence[feed.Event]) -> None:
        self.events += events

    def resync(self, tenant_id: str, room: str) -> None:
        self.resyncs.append((tenant_id, room))


async def stream(committer: Committer, who: Identity, name: str, count: int) -> None:
    """Commit finals one after the other, as a pipeline does."""
    for ordinal in range(1, count + 1):
        await committer.commit(final(who, name, ordinal))


async def check(database: Database, who: Identity, heard: Heard, names: Sequence[str], count: int) -> None:
    """Nothing lost, nothing doubled; every event was announced once, or its room's log is to be read."""
    for name in names:
        room = f"recording:{name}"
        assert await texts_of(database, who, name) == [f"{name} {n}" for n in range(1, count + 1)]
        log = await log_of(database, who, room)
        assert [event.seq for event in log] == list(range(1, count + 1))
        announced = [event for event in heard.events if event.room == room]
        assert announced == [event for event in log if event in announced], "in order, each at most once"
        missing = len(log) - len(announced)
        assert missing <= heard.resyncs.count((who.tenant_id, room))


async def test_streams_commit_in_batches(database: Database, who: Identity) -> None:
    names, heard = [f"r{n}" for n in range(12)], Heard()
    for name in names:
        await begin(database, who, name)
    committer = Committer(database, heard, enqueue_finals, LIMITS)
    async with Scope("test") as scope, asyncio.timeout(60):
        scope.spawn(committer.run(), name="committer")
        await asyncio.gather(*(stream(committer, who, name, 5) for name in names))
    await check(database, who, heard, names, 5)
    assert not heard.resyncs
    assert len(heard.events) == 60
    async with database.shared_tx() as connection:
        assert await connection.fetchval("SELECT count(*) FROM pgqueuer") > 0, "index jobs went along"


async def test_fenced_finals_raise_and_others_of_the_batch_are_written(database: Database, who: Identity) -> None:
    heard = Heard()
    for name in ("a", "b"):
        await begin(database, who, name)
    await take_over(database, who, "a")
    committer = Committer(database, heard, enqueue_finals, LIMITS)
    async with Scope("test") as scope, asyncio.timeout(30):
        scope.spawn(committer.run(), name="committer")
        results = await asyncio.gather(
            committer.commit(final(who, "a", 1)), committer.commit(final(who, "b", 1)), return_exceptions=True
        )
    assert isinstance(results[0], Fenced)
    assert results[1] is None
    assert [event.room for event in heard.events] == ["recording:b"]


async def test_a_commit_given_up_before_its_turn_is_not_written(database: Database, who: Identity) -> None:
    heard = Heard()
    await begin(database, who, "a")
    committer = Committer(database, heard, enqueue_finals, LIMITS)
    given_up = asyncio.ensure_future(committer.commit(final(who, "a", 1)))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    async with Scope("test") as scope, asyncio.timeout(30):
        scope.spawn(committer.run(), name="committer")
        await committer.commit(final(who, "a", 1))
    await check(database, who, heard, ["a"], 1)


async def kill_connections(owner: Connection) -> int:
    """End every backend of the application; returns how many."""
    return int(
        await owner.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'parlance' AND datname = current_database()"
        )
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_connections_killed_at_random_lose_and_double_nothing(
    database_dsn: str, database: Database, who: Identity, owner: Connection, seed: int
) -> None:
    names, heard, rng = ["a", "b", "c"], Heard(), random.Random(seed)
    for name in names:
        await begin(database, who, name)
    committer = Committer(database, heard, enqueue_finals, LIMITS)
    killed = 0
    async with Scope("test") as scope, asyncio.timeout(60):
        running = scope.spawn(committer.run(), name="committer")
        streams = [scope.spawn(stream(committer, who, name, 12), name=name) for name in names]
        while not all(task.done() for task in streams):
            await asyncio.wait([*streams, running], timeout=rng.uniform(0.0, 0.08), return_when="FIRST_COMPLETED")
            assert not running.done(), f"the committer ended: {running}"
            if killed < 12:
                killed += await kill_connections(owner)
    assert killed
    fresh = Database(database_dsn)  # whose connections live
    await fresh.open()
    try:
        await check(fresh, who, heard, names, 12)
    finally:
        await fresh.close()


class AnswerLost(Database):
    """Its commits succeed, but of those with these numbers nobody hears."""

    def __init__(self, dsn: str, owner: Connection, lost: set[int]) -> None:
        super().__init__(dsn)
        self.owner = owner
        self.lost = lost
        self.commits = 0

    def tenant_tx(self, tenant_id: str) -> Any:
        return _LosingTx(self, super().tenant_tx(tenant_id))


class _LosingTx:
    def __init__(self, database: AnswerLost, inner: Any) -> None:
        self._database = database
        self._inner = inner

    async def __aenter__(self) -> Connection:
        return await self._inner.__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        result = await self._inner.__aexit__(*error)
        self._database.commits += 1
        if self._database.commits - 1 in self._database.lost:
            await kill_connections(self._database.owner)
            raise Unavailable("the connection broke before the answer came")
        return result


async def test_a_commit_whose_answer_was_lost_is_not_repeated(
    database_dsn: str, database: Database, who: Identity, owner: Connection
) -> None:
    """The hub is sent to the log instead: what was written is not in memory any more."""
    heard = Heard()
    await begin(database, who, "a")
    losing = AnswerLost(database_dsn, owner, {0, 3})
    await losing.open()
    committer = Committer(losing, heard, enqueue_finals, LIMITS)
    try:
        async with Scope("test") as scope, asyncio.timeout(30):
            scope.spawn(committer.run(), name="committer")
            await stream(committer, who, "a", 4)
    finally:
        await losing.close()
    await check(database, who, heard, ["a"], 4)
    assert heard.resyncs == [(who.tenant_id, "recording:a")] * 2
