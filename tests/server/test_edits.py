"""People correct segments over HTTP, on a real database: fenced by rev, kept from machines, told and indexed."""

import asyncio
from typing import Any

import msgspec
import pytest

from auth.model import Identity, Role
from server.store import revisions, speakers
from server.store.pool import Database
from streaming.limits import LIMITS
from streaming.model import Segment, Word
from tests.support.library import Library

SAID = [("S1", "we meat at the harbour"), ("S2", "at noon")]


@pytest.fixture
async def ann(library: Library) -> Identity:
    who = await library.member("ann")
    await library.recording(who, "talk", *SAID)
    return who


def path(segment: str = "talk.1", recording: str = "talk") -> str:
    return f"/v1/recordings/{recording}/segments/{segment}"


async def stored(library: Library, who: Identity, segment: str = "talk.1") -> Any:
    async with library.database.tenant_tx(who.tenant_id) as tx:
        return await tx.fetchrow("SELECT * FROM segments WHERE segment_id = $1", segment)


async def queued(database: Database, who: Identity) -> list[list[str]]:
    """Segments named by the index jobs that wait."""
    async with database.shared_tx() as tx:
        rows = await tx.fetch("SELECT payload FROM pgqueuer ORDER BY id")
    jobs = [msgspec.json.decode(row["payload"]) for row in rows]
    return [sorted(job["segment_ids"]) for job in jobs if job["tenant_id"] == who.tenant_id]


async def by_machine(library: Library, who: Identity, reason: revisions.Reason, **changes: object) -> revisions.Revised:
    """What a machine would write over the first segment as it is now."""
    row = await stored(library, who)
    words = (Word("machine", row["start_ms"], row["end_ms"], 1.0),)
    segment = Segment(
        "talk.1", row["ordinal"], row["rev"] + 1, row["start_ms"], row["end_ms"], "machine", words, "S9", "en", 1.0
    )
    async with library.database.tenant_tx(who.tenant_id) as tx:
        return await revisions.revise(
            tx, who.tenant_id, "talk", [msgspec.structs.replace(segment, **changes)],
            reason=reason, pass_id="m", at_ms=1,
        )  # fmt: skip


# --- text -------------------------------------------------------------------------------------------------------------
async def test_a_corrected_text_is_stored_told_and_indexed(library: Library, ann: Identity) -> None:
    answer = await library.ok(ann, "PATCH", path(), {"rev": 1, "text": "  We meet at the\nold harbour, "})
    segment = answer["segment"]
    assert (segment["rev"], segment["text"], segment["speaker"]) == (2, "We meet at the old harbour,", "S1")
    assert [(w["w"], w["start_ms"], w["end_ms"]) for w in segment["words"]] == [
        ("We", 1_000, 1_100), ("meet", 1_100, 1_200), ("at", 1_200, 1_300), ("the", 1_300, 1_400),
        ("old", 1_400, 1_400), ("harbour,", 1_400, 1_500),
    ]  # fmt: skip
    row = await stored(library, ann)
    assert (row["rev"], row["text"], row["edited"]) == (2, "We meet at the old harbour,", True)
    told = (await library.log(ann, "talk"))[2:]
    assert [event for event, _ in told] == ["transcript:revised"]
    assert (told[0][1]["reason"], told[0][1]["segments"]) == ("edit", [segment])
    assert [(e.event, e.seq) for e in library.events] == [("transcript:revised", 3)]
    assert await queued(library.database, ann) == [["talk.1"]]
    transcript = await library.ok(ann, "GET", "/v1/recordings/talk/transcript.json")
    assert transcript["segments"][0] == segment


async def test_the_same_text_changes_nothing(library: Library, ann: Identity) -> None:
    answer = await library.ok(ann, "PATCH", path(), {"rev": 1, "text": " we meat at the  harbour"})
    assert answer["segment"]["rev"] == 1
    assert (await stored(library, ann))["edited"] is False
    assert library.events == []


async def test_an_old_revision_is_refused_with_the_present_one(library: Library, ann: Identity) -> None:
    await library.ok(ann, "PATCH", path(), {"rev": 1, "text": "first"})
    for rev in (0, 1, 3, 2**40):
        status, answer = await library.call(ann, "PATCH", path(), {"rev": rev, "text": "second"})
        assert (status, answer["code"], answer["field"], answer["expected"]) == (409, "conflict", "rev", 2)
    assert (await stored(library, ann))["text"] == "first"
    assert len(library.events) == 1


async def test_of_two_at_once_one_is_told_that_it_came_too_late(library: Library, ann: Identity) -> None:
    answers = await asyncio.gather(
        *(library.call(ann, "PATCH", path(), {"rev": 1, "text": text}) for text in ("this one", "that one", "third"))
    )
    assert sorted(status for status, _ in answers) == [200, 409, 409]
    written = next(answer["segment"]["text"] for status, answer in answers if status == 200)
    assert (await stored(library, ann))["text"] == written


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"text": "x"}, "bad_request", "rev"),
        ({"rev": 1}, "bad_request", "text"),
        ({"rev": -1, "text": "x"}, "bad_request", "rev"),
        ({"rev": "1", "text": "x"}, "bad_request", "rev"),
        ({"rev": 1, "text": " \n "}, "bad_request", "text"),
        ({"rev": 1, "text": None}, "bad_request", "text"),
        ({"rev": 1, "text": "a\0b"}, "bad_request", "text"),
        ({"rev": 1, "text": "x", "words": []}, "bad_request", "words"),
        ({"rev": 1, "text": "x" * (LIMITS.edit_chars_max + 1)}, "bad_request", "text"),
        ({"rev": 1, "text": "x " * (LIMITS.edit_words_max + 1)}, "bad_request", "text"),
        ({"rev": 1, "speaker": "S7"}, "bad_request", "speaker"),
        ({"rev": 1, "speaker": ""}, "bad_request", "speaker"),
    ],
)
async def test_what_cannot_be_written_names_its_field(
    library: Library, ann: Identity, body: dict[str, Any], code: str, field: str
) -> None:
    assert await library.refused(ann, "PATCH", path(), body) == (400, code, field)
    assert (await stored(library, ann))["rev"] == 1


async def test_the_longest_text_is_taken(library: Library, ann: Identity) -> None:
    longest = " ".join(["x" * 7] * LIMITS.edit_words_max)
    assert len(longest) + 1 == LIMITS.edit_chars_max
    answer = await library.ok(ann, "PATCH", path(), {"rev": 1, "text": longest + "x"})
    assert len(answer["segment"]["words"]) == LIMITS.edit_words_max


# --- who may ----------------------------------------------------------------------------------------------------------
async def test_viewers_read_and_do_not_write(library: Library, ann: Identity) -> None:
    viewer = await library.member("vera", Role.VIEWER)
    assert await library.refused(viewer, "PATCH", path(), {"rev": 1, "text": "x"}) == (403, "forbidden", None)
    assert (await library.ok(viewer, "GET", path()))["segment"]["text"] == SAID[0][1]


async def test_strangers_and_other_members_of_a_private_talk_learn_nothing(library: Library, ann: Identity) -> None:
    stranger = await library.member("mallory", Role.OWNER, tenant="other")
    colleague = await library.member("bob", Role.OWNER)
    await library.recording(ann, "secret", ("S1", "hush"), private=True)
    for who, where in [(stranger, path()), (colleague, path("secret.1", "secret")), (ann, path("talk.9"))]:
        assert await library.refused(who, "GET", where) == (404, "not_found", None)
        assert await library.refused(who, "PATCH", where, {"rev": 1, "text": "x"}) == (404, "not_found", None)
    # A segment is reached through its own recording only
    assert await library.refused(ann, "GET", path("secret.1", "talk")) == (404, "not_found", None)
    assert await library.refused(ann, "GET", path("%00")) == (404, "not_found", None)
    await library.ok(ann, "PATCH", path("secret.1", "secret"), {"rev": 1, "text": "hush hush"})


# --- machines ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reason", ["alignment", "diarisation", "second_pass"])
async def test_no_machine_changes_what_a_person_edited(
    library: Library, ann: Identity, reason: revisions.Reason
) -> None:
    await library.ok(ann, "PATCH", path(), {"rev": 1, "text": "mine"})
    revised = await by_machine(library, ann, reason)
    assert (revised.written, revised.events) == (frozenset(), [])
    row = await stored(library, ann)
    assert (row["rev"], row["text"], row["speaker"]) == (2, "mine", "S1")


@pytest.mark.parametrize("reason", ["alignment", "diarisation", "second_pass"])
async def test_what_nobody_edited_machines_change(library: Library, ann: Identity, reason: revisions.Reason) -> None:
    assert (await by_machine(library, ann, reason)).written == {"talk.1"}
    assert (await stored(library, ann))["edited"] is False


async def test_no_machine_removes_what_a_person_edited(library: Library, ann: Identity) -> None:
    await library.ok(ann, "PATCH", path(), {"rev": 1, "text": "mine"})
    async with library.database.tenant_tx(ann.tenant_id) as tx:
        await revisions.hold(tx, ann.tenant_id, "talk")
        revised = await revisions.revise(
            tx, ann.tenant_id, "talk", [], removed=["talk.1", "talk.2"], reason="second_pass", pass_id="m", at_ms=1
        )
    assert [event.body["removed"] for event in revised.events] == [["talk.2"]]
    assert (await stored(library, ann))["text"] == "mine"


async def test_a_person_changes_what_a_person_edited(library: Library, ann: Identity) -> None:
    bob = await library.member("bob")
    await library.ok(ann, "PATCH", path(), {"rev": 1, "text": "mine"})
    await library.ok(bob, "PATCH", path(), {"rev": 2, "text": "ours"})
    assert (await stored(library, ann))["text"] == "ours"


async def test_an_edited_text_is_not_aligned(library: Library, ann: Identity) -> None:
    async def waiting() -> list[str]:
        async with library.database.shared_tx() as tx:
            found = await revisions.unaligned(tx, ["en"], age_s_max=60, tries_max=3, limit=9)
        return sorted(item.segment_id for item in found)

    assert await waiting() == ["talk.1", "talk.2"]
    await library.ok(ann, "PATCH", path(), {"rev": 1, "text": "mine"})
    assert await waiting() == ["talk.2"]


# --- the speaker ------------------------------------------------------------------------------------------------------
async def test_a_segment_is_given_to_another_speaker(library: Library, ann: Identity) -> None:
    segment = (await library.ok(ann, "PATCH", path(), {"rev": 1, "speaker": "S2"}))["segment"]
    assert (segment["rev"], segment["speaker"], segment["text"]) == (2, "S2", SAID[0][1])
    assert [word["start_ms"] for word in segment["words"]] == [1_000, 1_100, 1_200, 1_300, 1_400]
    assert (await by_machine(library, ann, "diarisation")).written == frozenset()
    segment = (await library.ok(ann, "PATCH", path(), {"rev": 2, "speaker": None}))["segment"]
    assert segment["speaker"] is None


async def test_somebody_without_a_label_gets_a_new_one_that_no_machine_gives(library: Library, ann: Identity) -> None:
    first = (await library.ok(ann, "PATCH", path(), {"rev": 1, "speaker": "new"}))["segment"]
    second = (await library.ok(ann, "PATCH", path("talk.2"), {"rev": 1, "speaker": "new"}))["segment"]
    assert (first["speaker"], second["speaker"]) == ("P1", "P2")
    speakers = (await library.ok(ann, "GET", "/v1/recordings/talk/speakers"))["speakers"]
    assert [(s["label"], s["spoken_ms"]) for s in speakers] == [("P1", 500), ("P2", 500)]


async def test_a_merge_and_a_correction_at_once_wait_for_each_other_in_one_order(
    library: Library, ann: Identity
) -> None:
    async with library.database.tenant_tx(ann.tenant_id) as tx:
        await speakers.held(tx, ann.tenant_id, "talk", "S1")
        correcting = asyncio.create_task(library.call(ann, "PATCH", path(), {"rev": 1, "text": "mine"}))
        await library.waits(correcting)
        await speakers.merge(tx, ann.tenant_id, "talk", "S1", "S2", 1)
    status, answer = await correcting
    assert (status, answer["expected"]) == (409, 2)


# --- history ----------------------------------------------------------------------------------------------------------
async def test_the_history_tells_every_version(library: Library, ann: Identity) -> None:
    await by_machine(library, ann, "second_pass", text="we meet at the harbor", speaker="S1")
    await library.ok(ann, "PATCH", path(), {"rev": 2, "text": "We meet.", "speaker": "S2"})
    await library.ok(ann, "PATCH", path("talk.2"), {"rev": 1, "text": "something else"})
    answer = await library.ok(ann, "GET", path())
    assert [(v["rev"], v["text"], v["speaker"], v["reason"]) for v in answer["history"]] == [
        (1, "we meat at the harbour", "S1", "final"),
        (2, "we meet at the harbor", "S1", "second_pass"),
        (3, "We meet.", "S2", "edit"),
    ]
    assert answer["history"][0]["at"] == 1
    assert (answer["complete"], answer["segment"]["edited"], answer["segment"]["rev"]) == (True, True, 3)


async def test_a_history_that_the_log_has_lost_says_so(library: Library, ann: Identity) -> None:
    await library.ok(ann, "PATCH", path(), {"rev": 1, "text": "later"})
    async with library.database.tenant_tx(ann.tenant_id) as tx:
        await tx.execute("DELETE FROM events WHERE seq <= 2")
        await tx.execute("UPDATE rooms SET first_seq = 3")
    answer = await library.ok(ann, "GET", path())
    assert [version["rev"] for version in answer["history"]] == [2]
    assert answer["complete"] is False
