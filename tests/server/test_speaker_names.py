"""Who speaks in a recording, on a real database: named, merged and recognised; what people said no machine changes."""

import asyncio

import pytest

from auth.model import Identity, Role
from server.store import segments, speakers
from streaming.limits import LIMITS
from tests.server.test_edits import by_machine, queued, stored
from tests.support.library import Library, spoken

BASE = "/v1/recordings/talk/speakers"
SAID = [("S1", "good morning"), ("S2", "good evening"), ("S1", "how are you"), (None, "music")]


@pytest.fixture
async def ann(library: Library) -> Identity:
    who = await library.member("ann")
    await library.recording(who, "talk", *SAID)
    return who


async def labels_of(library: Library, who: Identity, name: str = "talk") -> list[str | None]:
    transcript = await library.ok(who, "GET", f"/v1/recordings/{name}/transcript.json")
    return [segment["speaker"] for segment in transcript["segments"]]


async def told(library: Library, who: Identity, name: str = "talk") -> list[tuple[str, object, object]]:
    """What the room was told of speakers."""
    return [
        (event, body.get("speaker", body.get("from")), body.get("name", body.get("into")))
        for event, body in await library.log(who, name)
        if event.startswith("speaker:")
    ]


# --- names ------------------------------------------------------------------------------------------------------------
async def test_a_named_speaker_is_shown_to_everybody(library: Library, ann: Identity) -> None:
    answer = await library.ok(ann, "PATCH", f"{BASE}/S1", {"name": "  Ada\n Lovelace "})
    expected = {"label": "S1", "name": "Ada Lovelace", "voice_id": None, "spoken_ms": 998, "clean_ms": 0}
    assert answer == {"speaker": expected}
    assert await told(library, ann) == [("speaker:renamed", "S1", "Ada Lovelace")]
    assert [event.event for event in library.events] == ["speaker:renamed"]
    listed = await library.ok(ann, "GET", BASE)
    assert listed["speakers"][0] == expected
    assert [(s["label"], s["name"], s["spoken_ms"]) for s in listed["speakers"][1:]] == [("S2", None, 500)]
    transcript = await library.ok(ann, "GET", "/v1/recordings/talk/transcript.json")
    assert transcript["speakers"] == {"S1": "Ada Lovelace"}
    assert [s["speaker"] for s in transcript["segments"]] == ["S1", "S2", "S1", None], "labels stay"
    assert (await library.ok(ann, "GET", "/v1/recordings/talk/transcript.txt")).splitlines() == [
        "[00:00:01] Ada Lovelace: good morning",
        "[00:00:02] S2: good evening",
        "[00:00:03] Ada Lovelace: how are you",
        "[00:00:04] music",
    ]


async def test_a_name_is_told_once_and_can_be_taken_away(library: Library, ann: Identity) -> None:
    for name in ("Ada", "Ada", None, None):
        await library.ok(ann, "PATCH", f"{BASE}/S1", {"name": name})
    assert await told(library, ann) == [("speaker:renamed", "S1", "Ada"), ("speaker:renamed", "S1", None)]
    transcript = await library.ok(ann, "GET", "/v1/recordings/talk/transcript.json")
    assert transcript["speakers"] == {}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": " \t"}, "name"),
        ({"name": 5}, "name"),
        ({"name": "x" * (LIMITS.name_chars_max + 1)}, "name"),
        ({"name": "a\x01b"}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "a", "label": "S1"}, "label"),
        ({"enrol": "yes"}, "enrol"),
        ({"name": None, "enrol": True}, "name"),
    ],
)
async def test_what_is_no_name_is_refused(library: Library, ann: Identity, body: object, field: str) -> None:
    assert await library.refused(ann, "PATCH", f"{BASE}/S1", body) == (400, "bad_request", field)
    assert await told(library, ann) == []


async def test_the_longest_name_is_taken(library: Library, ann: Identity) -> None:
    name = "ä" * LIMITS.name_chars_max
    assert (await library.ok(ann, "PATCH", f"{BASE}/S1", {"name": name}))["speaker"]["name"] == name


async def test_who_may_name(library: Library, ann: Identity) -> None:
    await library.recording(ann, "secret", ("S1", "hush"), private=True)
    viewer = await library.member("vera", Role.VIEWER)
    stranger = await library.member("mallory", Role.OWNER, tenant="other")
    assert len((await library.ok(viewer, "GET", BASE))["speakers"]) == 2
    refusals = [
        ("PATCH", "/S1", {"name": "x"}), ("PATCH", "/S1", {"name": "x", "enrol": True}),
        ("POST", "/S1/merge", {"into": "S2"}),
    ]  # fmt: skip
    for method, rest, body in refusals:
        assert await library.refused(viewer, method, BASE + rest, body) == (403, "forbidden", None)
    for who, base in [(stranger, BASE), (viewer, "/v1/recordings/secret/speakers"), (ann, BASE.replace("talk", "x"))]:
        assert await library.refused(who, "GET", base) == (404, "not_found", None)
        for method, rest, body in refusals:
            assert await library.refused(who, method, base + rest, body) == (404, "not_found", None)
    await library.ok(ann, "PATCH", "/v1/recordings/secret/speakers/S1", {"name": "Bob"})
    assert await told(library, ann) == []


@pytest.mark.parametrize("label", ["S3", "s1", "%00", "%ff", "S1%20", "x" * 101])
async def test_a_label_that_is_not_there_is_not_found(library: Library, ann: Identity, label: str) -> None:
    status, _, _ = await library.refused(ann, "PATCH", f"{BASE}/{label}", {"name": "x"})
    assert status == 404
    status, _, _ = await library.refused(ann, "POST", f"{BASE}/{label}/merge", {"into": "S2"})
    assert status == 404


# --- merges -----------------------------------------------------------------------------------------------------------
async def test_a_merge_renames_the_label_in_all_segments(library: Library, ann: Identity) -> None:
    answer = await library.ok(ann, "POST", f"{BASE}/S1/merge", {"into": "S2"})
    assert (answer["speaker"]["label"], answer["speaker"]["spoken_ms"]) == ("S2", 1_498)
    assert await labels_of(library, ann) == ["S2", "S2", "S2", None]
    merged, revised = (await library.log(ann, "talk"))[4:]
    assert merged == ("speaker:merged", {"recording_id": "talk", "from": "S1", "into": "S2"})
    assert (revised[0], revised[1]["reason"]) == ("transcript:revised", "edit")
    assert [(s["segment_id"], s["rev"], s["speaker"]) for s in revised[1]["segments"]] == [
        ("talk.1", 2, "S2"), ("talk.3", 2, "S2")
    ]  # fmt: skip
    assert [event.event for event in library.events] == ["speaker:merged", "transcript:revised"]
    assert await queued(library.database, ann) == [["talk.1", "talk.3"]]
    assert [s["label"] for s in (await library.ok(ann, "GET", BASE))["speakers"]] == ["S2"]


async def test_whoever_still_says_the_old_label_means_the_new_one(library: Library, ann: Identity) -> None:
    await library.ok(ann, "POST", f"{BASE}/S2/merge", {"into": "S1"})
    async with library.database.tenant_tx(ann.tenant_id) as tx:
        result = await segments.write(tx, ann.tenant_id, [spoken(ann, "talk", 5, "S2", "late")], at_ms=1)
    assert result.events[0].body["speaker"] == "S1", "a stream"
    revised = await by_machine(library, ann, "second_pass", speaker="S2")
    assert revised.events[0].body["segments"][0]["speaker"] == "S1", "a pass"
    assert await labels_of(library, ann) == ["S1", "S1", "S1", None, "S1"]
    await library.sounds(ann, "talk", ("S2", (1, 0), 9_000))
    assert [s["label"] for s in (await library.ok(ann, "GET", BASE))["speakers"]] == ["S1"]
    for method, rest, body in [("PATCH", "/S2", {"name": "x"}), ("POST", "/S2/merge", {"into": "S1"})]:
        assert await library.refused(ann, method, BASE + rest, body) == (409, "conflict", "label")


async def test_a_chain_of_merges_ends_at_the_last(library: Library, ann: Identity) -> None:
    await library.ok(ann, "PATCH", "/v1/recordings/talk/segments/talk.4", {"rev": 1, "speaker": "new"})
    await library.ok(ann, "POST", f"{BASE}/S1/merge", {"into": "S2"})
    await library.ok(ann, "POST", f"{BASE}/S2/merge", {"into": "P1"})
    async with library.database.tenant_tx(ann.tenant_id) as tx:
        await segments.write(
            tx, ann.tenant_id, [spoken(ann, "talk", 5, "S1", "a"), spoken(ann, "talk", 6, "S2", "b")], at_ms=1
        )
    assert await labels_of(library, ann) == ["P1"] * 6
    transcript = await library.ok(ann, "GET", "/v1/recordings/talk/transcript.json")
    assert transcript["merged"] == {"S1": "P1", "S2": "P1"}


async def test_a_stream_that_writes_during_a_merge_is_renamed_too(library: Library, ann: Identity) -> None:
    """Its final waits for the merge, or the merge for its final; in neither order is the old label left."""

    async def write() -> None:
        async with library.database.tenant_tx(ann.tenant_id) as tx:
            await segments.write(tx, ann.tenant_id, [spoken(ann, "talk", 5, "S2", "late")], at_ms=1)
            started.set()
            await proceed.wait()

    started, proceed = asyncio.Event(), asyncio.Event()
    writing = asyncio.create_task(write())
    await started.wait()
    merging = asyncio.create_task(library.ok(ann, "POST", f"{BASE}/S2/merge", {"into": "S1"}))
    await library.waits(merging)
    proceed.set()
    await asyncio.gather(writing, merging)
    assert await labels_of(library, ann) == ["S1", "S1", "S1", None, "S1"]


async def test_what_cannot_be_merged(library: Library, ann: Identity) -> None:
    for into, expected in [("S1", (400, "bad_request", "into")), ("S9", (404, "not_found", "into"))]:
        assert await library.refused(ann, "POST", f"{BASE}/S1/merge", {"into": into}) == expected
    assert await library.refused(ann, "POST", f"{BASE}/S1/merge", {}) == (400, "bad_request", "into")
    assert await labels_of(library, ann) == ["S1", "S2", "S1", None]


async def test_a_merge_keeps_names_and_edited_texts(library: Library, ann: Identity) -> None:
    await library.ok(ann, "PATCH", f"{BASE}/S1", {"name": "Ada"})
    await library.ok(ann, "PATCH", "/v1/recordings/talk/segments/talk.1", {"rev": 1, "text": "mine"})
    answer = await library.ok(ann, "POST", f"{BASE}/S1/merge", {"into": "S2"})
    assert answer["speaker"]["name"] == "Ada", "S2 had no name"
    row = await stored(library, ann)
    assert (row["text"], row["speaker"], row["rev"], row["edited"]) == ("mine", "S2", 3, True)
    assert not (await stored(library, ann, "talk.3"))["edited"], "a merge makes no segment a person's"
    assert (await told(library, ann))[1:] == [("speaker:merged", "S1", "S2"), ("speaker:renamed", "S2", "Ada")]


async def test_of_two_names_the_one_that_is_merged_into_stays(library: Library, ann: Identity) -> None:
    for label, name in [("S1", "Ada"), ("S2", "Bob")]:
        await library.ok(ann, "PATCH", f"{BASE}/{label}", {"name": name})
    assert (await library.ok(ann, "POST", f"{BASE}/S1/merge", {"into": "S2"}))["speaker"]["name"] == "Bob"


# --- machines ---------------------------------------------------------------------------------------------------------
async def machine_merges(library: Library, who: Identity, from_: str, into: str) -> list[str]:
    async with library.database.tenant_tx(who.tenant_id) as tx:
        events = await speakers.merged(tx, who.tenant_id, "talk", from_, into, 7)
    assert speakers.segments_in(events) == tuple(
        s["segment_id"] for e in events if e.event == "transcript:revised" for s in e.body["segments"]
    )
    return [event.event for event in events]


async def test_two_labels_that_prove_one_are_merged(library: Library, ann: Identity) -> None:
    assert await machine_merges(library, ann, "S2", "S1") == ["speaker:merged", "transcript:revised"]
    assert await machine_merges(library, ann, "S2", "S1") == []
    assert (await library.log(ann, "talk"))[-1][1]["reason"] == "diarisation"
    assert await labels_of(library, ann) == ["S1", "S1", "S1", None]
    assert await machine_merges(library, ann, "S8", "S9") == ["speaker:merged"], "nobody has heard of them yet"


async def test_no_machine_merges_whom_people_gave_different_names(library: Library, ann: Identity) -> None:
    for label, name in [("S1", "Ada"), ("S2", "Bob")]:
        await library.ok(ann, "PATCH", f"{BASE}/{label}", {"name": name})
    assert await machine_merges(library, ann, "S2", "S1") == []
    assert await labels_of(library, ann) == ["S1", "S2", "S1", None]


async def test_a_name_given_by_hand_survives_the_merge_of_a_machine(library: Library, ann: Identity) -> None:
    await library.ok(ann, "PATCH", f"{BASE}/S2", {"name": "Bob"})
    assert await machine_merges(library, ann, "S2", "S1") == [
        "speaker:merged", "speaker:renamed", "transcript:revised"
    ]  # fmt: skip
    transcript = await library.ok(ann, "GET", "/v1/recordings/talk/transcript.json")
    assert transcript["speakers"] == {"S1": "Bob"}


async def test_what_labels_sound_like_is_kept_for_whoever_goes_on(library: Library, ann: Identity) -> None:
    await library.sounds(ann, "talk", ("S10", (1, 0), 2_000), ("S2", (0, 1), 9_000), ("S1", (), 0))
    await library.sounds(ann, "talk", ("S2", (1, 1), 9_500))
    async with library.database.tenant_tx(ann.tenant_id) as tx:
        same = await speakers.of_model(tx, ann.tenant_id, "talk", "voices-1")
        other = await speakers.of_model(tx, ann.tenant_id, "talk", "voices-2")
        await speakers.merge(tx, ann.tenant_id, "talk", "S2", "S1", 1)
        after = await speakers.of_model(tx, ann.tenant_id, "talk", "voices-1")
    assert [(s.label, len(s.vector), s.clean_ms) for s in same] == [("S1", 0, 0), ("S2", 8, 9_500), ("S10", 8, 2_000)]
    assert [(s.label, s.vector) for s in other] == [("S1", b""), ("S2", b""), ("S10", b"")]
    assert after == same, "a pass that hears the voice of S2 again says S2, and not a new label"
    (speaker,) = (await library.ok(ann, "GET", BASE))["speakers"][:1]
    assert (speaker["label"], speaker["clean_ms"]) == ("S1", 0 + 9_500)
