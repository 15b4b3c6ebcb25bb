"""Revisions of segments on a real database: whole segments or nothing, fenced by rev; who is tried for alignment."""

import asyncio

import msgspec
import pytest

from auth.model import Identity
from server.store import revisions, segments
from server.store.pool import Connection, Database
from server.store.segments import FinalWrite
from streaming.model import Segment, Word
from tests.server.test_commits import begin, write
from tests.support.node import log_of, somebody

DAY_S = 86_400


@pytest.fixture
async def who(database: Database) -> Identity:
    made = await somebody(database)
    await begin(database, made, "a")
    return made


def segment(name: str, ordinal: int, *, language: str = "en") -> Segment:
    words = (Word("good", ordinal * 1_000, ordinal * 1_000 + 300, 0.5), Word(name, ordinal * 1_000 + 400, 1_900, 0.5))
    return Segment(
        name, ordinal, 1, words[0].start_ms, ordinal * 1_000 + 900, f"good {name}", words, None, language, 0.5
    )


async def add(database: Database, who: Identity, *made: Segment, recording: str = "a") -> None:
    await write(database, who, *(FinalWrite(who.tenant_id, recording, 1, s, s.ordinal * 16_000) for s in made))


def next_of(old: Segment, **changes: object) -> Segment:
    return msgspec.structs.replace(old, rev=old.rev + 1, **changes)


async def revise(
    database: Database, who: Identity, *made: Segment, reason: revisions.Reason = "alignment", recording: str = "a"
) -> revisions.Revised:
    async with database.tenant_tx(who.tenant_id) as connection:
        return await revisions.revise(
            connection, who.tenant_id, recording, made, reason=reason, pass_id="p1", at_ms=1_000
        )


async def stored(database: Database, who: Identity, recording: str = "a") -> dict[str, tuple[int, int, str]]:
    async with database.tenant_tx(who.tenant_id) as connection:
        rows = await segments.of_recording(connection, who.tenant_id, recording)
    return {row["segment_id"]: (row["rev"], row["start_ms"], row["text"]) for row in rows}


async def waiting(database: Database, *languages: str, tries_max: int = 3, age_s_max: int = DAY_S) -> list[str]:
    async with database.shared_tx() as connection:
        found = await revisions.unaligned(
            connection, languages or ("en",), age_s_max=age_s_max, tries_max=tries_max, limit=10
        )
    return [item.segment_id for item in found]


async def claim(database: Database, who: Identity, name: str, hold_s: float = 60.0) -> revisions.Claimed | None:
    async with database.tenant_tx(who.tenant_id) as connection:
        return await revisions.claim(connection, who.tenant_id, name, hold_s=hold_s)


# --- revising ---------------------------------------------------------------------------------------------------------
async def test_a_revision_replaces_segments_and_tells_them_whole(database: Database, who: Identity) -> None:
    first, second = segment("one", 1), segment("two", 2)
    await add(database, who, first, second)
    better = [next_of(s, start_ms=s.start_ms + 50, words=(s.words[0],)) for s in (second, first)]
    result = await revise(database, who, *better)
    assert result.written == {"one", "two"}
    assert await stored(database, who) == {"one": (2, 1_050, "good one"), "two": (2, 2_050, "good two")}
    (event,) = [event for event in await log_of(database, who, "recording:a") if event.event == "transcript:revised"]
    assert event == result.events[0]
    assert event.seq == 3
    assert {key: event.body[key] for key in ("recording_id", "pass_id", "part", "parts", "removed", "reason")} == {
        "recording_id": "a", "pass_id": "p1", "part": 1, "parts": 1, "removed": [], "reason": "alignment"
    }  # fmt: skip
    async with database.tenant_tx(who.tenant_id) as connection:
        rows = {row["segment_id"]: row for row in await segments.of_recording(connection, who.tenant_id, "a")}
    assert event.body["segments"] == [rows["one"], rows["two"]], "in their order"


async def test_what_changed_meanwhile_keeps_what_it_has(database: Database, who: Identity) -> None:
    first, second = segment("one", 1), segment("two", 2)
    await add(database, who, first, second)
    edited = next_of(first, text="good day")
    await revise(database, who, edited, reason="edit")
    late = await revise(database, who, next_of(first, start_ms=5), next_of(second, start_ms=2_005))
    assert late.written == {"two"}
    assert [s["segment_id"] for s in late.events[0].body["segments"]] == ["two"]
    again = await revise(database, who, next_of(second, start_ms=7))
    assert (again.written, again.events) == (frozenset(), [])
    assert await stored(database, who) == {"one": (2, 1_000, "good day"), "two": (2, 2_005, "good two")}


async def test_of_two_revisions_at_once_one_wins(database: Database, who: Identity) -> None:
    made = [segment(f"s{n}", n) for n in range(1, 6)]
    await add(database, who, *made)
    orders = [made, made[::-1], made]
    results = await asyncio.gather(
        *(revise(database, who, *(next_of(s, text=f"by {n}") for s in order)) for n, order in enumerate(orders))
    )
    assert sorted(name for result in results for name in result.written) == [s.segment_id for s in made]
    assert {rev for rev, _, _ in (await stored(database, who)).values()} == {2}


async def test_it_needs_neither_a_stream_nor_its_epoch(database: Database, who: Identity, owner: Connection) -> None:
    await add(database, who, segment("one", 1))
    await owner.execute("UPDATE streams SET epoch = 9, ended = true")
    assert (await revise(database, who, next_of(segment("one", 1)))).written == {"one"}
    await owner.execute("DELETE FROM recordings")
    assert (await revise(database, who, next_of(next_of(segment("one", 1))))).events == []


async def test_another_tenants_or_recordings_segment_is_none(database: Database, who: Identity) -> None:
    await add(database, who, segment("one", 1))
    await begin(database, who, "b")
    mallory = await somebody(database, "other")
    assert (await revise(database, mallory, next_of(segment("one", 1)))).written == frozenset()
    assert (await revise(database, who, next_of(segment("one", 1)), recording="b")).written == frozenset()
    assert await stored(database, who) == {"one": (1, 1_000, "good one")}


def test_many_segments_come_in_parts() -> None:
    made = [segment(f"s{n}", n) for n in range(1, 402)]
    parts = revisions.bodies("a", made, reason="second_pass", pass_id="p")
    assert [(body.part, body.parts, len(body.segments)) for body in parts] == [(1, 3, 200), (2, 3, 200), (3, 3, 1)]
    assert revisions.bodies("a", [], reason="edit", pass_id="p") == []


# --- who is tried -----------------------------------------------------------------------------------------------------
async def test_the_newest_unaligned_finals_of_all_tenants_are_named(
    database: Database, who: Identity, owner: Connection
) -> None:
    mallory = await somebody(database, "other")
    await begin(database, mallory, "m")
    await add(database, who, segment("old", 1), segment("german", 2, language="de-AT"), segment("new", 3))
    await add(database, mallory, segment("theirs", 1, language="EN-us"), recording="m")
    for age_s, name in ((50, "old"), (20, "new"), (30, "theirs"), (10, "german")):
        await owner.execute("UPDATE segments SET created_at = now() - make_interval(secs => $1) WHERE segment_id = $2",
                            age_s, name)  # fmt: skip
    assert await waiting(database) == ["new", "theirs", "old"]
    assert await waiting(database, "de", "en") == ["german", "new", "theirs", "old"]
    assert await waiting(database, "fr") == []
    assert await waiting(database, age_s_max=40) == ["new", "theirs"]


async def test_a_claim_counts_and_holds(database: Database, who: Identity) -> None:
    await add(database, who, segment("one", 1), segment("two", 2), segment("three", 3))
    claimed = await claim(database, who, "two")
    assert claimed is not None
    assert (claimed.segment, claimed.tries) == (segment("two", 2), 1)
    assert (claimed.after_ms, claimed.before_ms) == (1_900, 3_000)
    assert await claim(database, who, "two") is None
    assert await waiting(database) == ["one", "three"]
    async with database.tenant_tx(who.tenant_id) as connection:
        await revisions.give_back(connection, who.tenant_id, {"two": True})
    again = await claim(database, who, "two")
    assert again is not None
    assert again.tries == 2
    async with database.tenant_tx(who.tenant_id) as connection:
        await revisions.give_back(connection, who.tenant_id, {"two": False})
    assert await waiting(database, tries_max=2) == ["one", "three", "two"]
    assert await waiting(database, tries_max=1) == ["one", "three"]
    edge = await claim(database, who, "one")
    assert edge is not None
    assert (edge.after_ms, edge.before_ms) == (None, 2_000)


async def test_a_settled_or_aligned_final_is_not_tried_until_its_text_changes(
    database: Database, who: Identity
) -> None:
    made = [segment("one", 1), segment("two", 2), segment("three", 3)]
    await add(database, who, *made)
    async with database.tenant_tx(who.tenant_id) as connection:
        await revisions.settle(connection, who.tenant_id, {("one", 1): "failed", ("two", 7): "none"})
    await revise(database, who, next_of(made[2]))
    assert await waiting(database) == ["two"], "a settlement is fenced by rev too"
    await revise(database, who, next_of(made[0], speaker="S1"), reason="diarisation")
    assert await waiting(database) == ["two"]
    for _ in range(3):
        assert await claim(database, who, "two", hold_s=0.0)
    assert await waiting(database) == []
    for old in (next_of(made[0]), made[1], next_of(made[2])):
        await revise(database, who, next_of(old, text="other words"), reason="second_pass")
    assert sorted(await waiting(database)) == ["one", "three", "two"]


async def test_names_are_found_through_the_index_of_their_language(database: Database, owner: Connection) -> None:
    await owner.execute("SET enable_seqscan = off")
    plan = await owner.fetch(
        """EXPLAIN SELECT segment_id FROM segments c WHERE alignment IS NULL
           AND split_part(lower(c.language), '-', 1) = 'en' AND created_at > now() - make_interval(secs => 5)
           ORDER BY created_at DESC LIMIT 8"""
    )
    text = "\n".join(row[0] for row in plan)
    assert "segments_unaligned" in text
    assert "Sort" not in text
