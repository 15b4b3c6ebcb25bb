"""Enrolled voices over HTTP, on a real database: opt-in, listed, deletable, of one tenant and one model."""

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest
from parlance_client import CallFailed, Client

from auth.model import Identity, Role
from server.store import speakers, voices
from streaming.errors import QuotaExceeded
from streaming.limits import LIMITS
from tests.server.test_speaker_names import told
from tests.support.library import MODEL, Library, vector
from tests.support.process import Account, ServerProcess

BASE = "/v1/recordings/talk/speakers"
ENOUGH = LIMITS.voice_clean_ms_min


@pytest.fixture
async def ann(library: Library) -> Identity:
    """With a talk of two people: S1 was heard for long enough, S2 was not."""
    who = await library.member("ann")
    await library.recording(who, "talk", ("S1", "good morning"), ("S2", "good evening"))
    await library.sounds(who, "talk", ("S1", (3, 4), ENOUGH), ("S2", (1, 0), ENOUGH - 1))
    return who


async def enrol(library: Library, who: Identity, name: str | None = "Ada", label: str = "S1", base: str = BASE) -> Any:
    body = {"enrol": True} if name is None else {"name": name, "enrol": True}
    return await library.ok(who, "PATCH", f"{base}/{label}", body)


async def listed(library: Library, who: Identity) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await library.ok(who, "GET", "/v1/voices"))["voices"]
    return found


async def known(library: Library, who: Identity, model: str = MODEL) -> dict[str, list[float]]:
    """What live streams and passes compare with, by voice."""
    async with library.database.tenant_tx(who.tenant_id) as tx:
        return {
            voice.voice_id: np.frombuffer(voice.vector, "<f4").astype(float).round(4).tolist()
            for voice in await speakers.known(tx, who.tenant_id, model)
        }


async def hears(library: Library, who: Identity, label: str, voice_id: str, name: str = "next") -> int:
    """A machine recognises a voice; how many events that makes."""
    async with library.database.tenant_tx(who.tenant_id) as tx:
        return len(await speakers.recognised(tx, who.tenant_id, name, label, voice_id, 7))


# --- enrolling --------------------------------------------------------------------------------------------------------
async def test_naming_alone_stores_no_voice(library: Library, ann: Identity) -> None:
    await library.ok(ann, "PATCH", f"{BASE}/S1", {"name": "Ada"})
    await library.ok(ann, "PATCH", f"{BASE}/S1", {"name": "Ada", "enrol": False})
    assert await listed(library, ann) == []


async def test_an_enrolled_voice_says_what_is_stored_and_who_asked_for_it(library: Library, ann: Identity) -> None:
    answer = await enrol(library, ann)
    voice = answer["voice"]
    assert voice["stored"] == "2 numbers that tell what the voice sounds like. No audio."
    assert (voice["name"], voice["enrolled_by"], voice["clean_ms"]) == ("Ada", "ann", ENOUGH)
    assert (voice["usable"], voice["model"]) == (True, MODEL)
    assert voice["enrolled_at"] > 1_600_000_000_000
    assert (answer["speaker"]["name"], answer["speaker"]["voice_id"]) == ("Ada", voice["id"])
    assert await listed(library, ann) == [voice]
    assert await told(library, ann) == [("speaker:renamed", "S1", "Ada")]
    assert await known(library, ann) == {voice["id"]: [0.6, 0.8]}


async def test_a_name_that_is_there_need_not_be_given_again(library: Library, ann: Identity) -> None:
    assert await library.refused(ann, "PATCH", f"{BASE}/S1", {"enrol": True}) == (400, "bad_request", "name")
    await library.ok(ann, "PATCH", f"{BASE}/S1", {"name": "Ada"})
    assert (await enrol(library, ann, None))["voice"]["name"] == "Ada"


async def test_too_little_clean_speech_is_refused(library: Library, ann: Identity) -> None:
    """One millisecond below the limit; the limit itself is taken above."""
    status, answer = await library.call(ann, "PATCH", f"{BASE}/S2", {"name": "Bob", "enrol": True})
    assert (status, answer["code"], answer["field"]) == (400, "bad_request", "enrol")
    assert "5 s" in answer["title"]
    assert await listed(library, ann) == []
    assert await told(library, ann) == [], "nothing of it was done"
    await library.sounds(ann, "talk", ("S2", (), 60_000))
    assert (await library.refused(ann, "PATCH", f"{BASE}/S2", {"name": "Bob", "enrol": True}))[2] == "enrol"


async def test_asking_twice_adds_nothing(library: Library, ann: Identity) -> None:
    first = (await enrol(library, ann))["voice"]
    assert (await enrol(library, ann))["voice"] == first
    assert await known(library, ann) == {first["id"]: [0.6, 0.8]}


async def test_the_same_name_in_another_recording_adds_to_the_voice(library: Library, ann: Identity) -> None:
    first = (await enrol(library, ann))["voice"]
    await library.recording(ann, "next", ("S4", "hello"))
    await library.sounds(ann, "next", ("S4", (4, 3), ENOUGH))
    second = (await enrol(library, ann, "ada", "S4", "/v1/recordings/next/speakers"))["voice"]
    assert (second["id"], second["name"], second["clean_ms"]) == (first["id"], "Ada", 2 * ENOUGH)
    assert await known(library, ann) == {first["id"]: [0.7071, 0.7071]}, "the mean of both, of unit length"


async def test_a_merged_speaker_is_enrolled_with_all_that_was_heard(library: Library, ann: Identity) -> None:
    await library.sounds(ann, "talk", ("S1", (1, 0), 3_000), ("S2", (0, 1), 2_000), ("S3", (9, 9), 999), model="m")
    await library.sounds(ann, "talk", ("S3", (9, 9), 999))
    await library.ok(ann, "POST", f"{BASE}/S1/merge", {"into": "S2"})
    await library.ok(ann, "POST", f"{BASE}/S3/merge", {"into": "S2"})
    voice = (await enrol(library, ann, "Ada", "S2"))["voice"]
    assert (voice["clean_ms"], voice["model"]) == (5_000, "m"), "another model's is left out"
    assert await known(library, ann, "m") == {voice["id"]: [0.8321, 0.5547]}


async def test_a_namesake_who_sounds_different_is_refused(library: Library, ann: Identity) -> None:
    await enrol(library, ann)
    await library.sounds(ann, "talk", ("S2", (4, -3), ENOUGH))
    refused = await library.refused(ann, "PATCH", f"{BASE}/S2", {"name": "ADA", "enrol": True})
    assert refused == (409, "conflict", "name")
    assert len(await told(library, ann)) == 1


async def test_two_who_enrol_one_name_at_once_make_one_voice(library: Library, ann: Identity) -> None:
    await library.sounds(ann, "talk", ("S2", (4, 3), ENOUGH))
    async with library.database.tenant_tx(ann.tenant_id) as tx:
        await voices.enrol(tx, ann.tenant_id, "talk", "S1", "Ada", by=ann.user_id, at_ms=1, limits=LIMITS)
        second = asyncio.create_task(enrol(library, ann, label="S2"))
        await library.waits(second)
    await second
    (voice,) = await listed(library, ann)
    assert voice["clean_ms"] == 2 * ENOUGH


async def test_a_tenant_has_at_most_so_many_voices(library: Library, ann: Identity) -> None:
    limits = msgspec.structs.replace(LIMITS, voices_per_tenant_max=1)
    await library.sounds(ann, "talk", ("S2", (4, 3), ENOUGH))

    async def put(label: str, name: str) -> None:
        async with library.database.tenant_tx(ann.tenant_id) as tx:
            await voices.enrol(tx, ann.tenant_id, "talk", label, name, by=ann.user_id, at_ms=1, limits=limits)

    await put("S1", "Ada")
    with pytest.raises(QuotaExceeded) as refusal:
        await put("S2", "Bob")
    assert refusal.value.field == "enrol"
    await put("S2", "Ada")


# --- other models -----------------------------------------------------------------------------------------------------
async def test_voices_of_another_model_are_listed_and_never_compared(library: Library, ann: Identity) -> None:
    voice = (await enrol(library, ann))["voice"]
    for model in ("voices-2", None):
        library.model = model
        assert [v["usable"] for v in await listed(library, ann)] == [False]
    assert await known(library, ann, "voices-2") == {}
    await library.sounds(ann, "talk", ("S2", (-3, -4), ENOUGH), model="voices-2")
    again = (await enrol(library, ann, "Ada", "S2"))["voice"]
    assert (again["id"], again["model"], again["clean_ms"]) == (voice["id"], "voices-2", ENOUGH), "heard anew"
    assert await known(library, ann) == {}


# --- recognising ------------------------------------------------------------------------------------------------------
async def test_a_recognised_voice_names_its_speaker(library: Library, ann: Identity) -> None:
    voice = (await enrol(library, ann))["voice"]
    await library.recording(ann, "next", ("S1", "hello"))
    assert await hears(library, ann, "S1", voice["id"]) == 1
    assert await hears(library, ann, "S1", voice["id"]) == 0, "told once"
    assert await told(library, ann, "next") == [("speaker:renamed", "S1", "Ada")]
    (speaker,) = (await library.ok(ann, "GET", "/v1/recordings/next/speakers"))["speakers"]
    assert (speaker["name"], speaker["voice_id"]) == ("Ada", voice["id"])


async def test_no_machine_renames_whom_a_person_named(library: Library, ann: Identity) -> None:
    voice = (await enrol(library, ann))["voice"]
    await library.recording(ann, "next", ("S1", "hello"), ("S2", "hi"))
    await library.ok(ann, "PATCH", "/v1/recordings/next/speakers/S1", {"name": "Bob"})
    await library.ok(ann, "PATCH", "/v1/recordings/next/speakers/S2", {"name": None})
    assert await hears(library, ann, "S1", voice["id"]) == 0
    assert await hears(library, ann, "S2", voice["id"]) == 0
    assert [event for event, _, name in await told(library, ann, "next") if name == "Ada"] == []


async def test_whom_a_person_names_otherwise_is_not_that_voice(library: Library, ann: Identity) -> None:
    voice = (await enrol(library, ann))["voice"]
    await library.recording(ann, "next", ("S1", "hello"))
    await hears(library, ann, "S1", voice["id"])
    path = "/v1/recordings/next/speakers/S1"
    assert (await library.ok(ann, "PATCH", path, {"name": "ADA"}))["speaker"]["voice_id"] == voice["id"]
    assert (await library.ok(ann, "PATCH", path, {"name": "Bob"}))["speaker"]["voice_id"] is None


async def test_a_recognised_speaker_that_was_merged_names_who_it_is(library: Library, ann: Identity) -> None:
    voice = (await enrol(library, ann))["voice"]
    await library.recording(ann, "next", ("S1", "hello"), ("S2", "hi"))
    await library.ok(ann, "POST", "/v1/recordings/next/speakers/S2/merge", {"into": "S1"})
    assert await hears(library, ann, "S2", voice["id"]) == 1
    assert (await told(library, ann, "next"))[-1] == ("speaker:renamed", "S1", "Ada")


# --- the list ---------------------------------------------------------------------------------------------------------
async def test_a_deleted_voice_is_forgotten_and_recordings_keep_its_name(library: Library, ann: Identity) -> None:
    voice = (await enrol(library, ann))["voice"]
    path = f"/v1/voices/{voice['id']}"
    assert await library.call(ann, "DELETE", path) == (204, "")
    assert await listed(library, ann) == []
    assert await known(library, ann) == {}
    (speaker, _) = (await library.ok(ann, "GET", BASE))["speakers"]
    assert (speaker["name"], speaker["voice_id"]) == ("Ada", None)
    assert await hears(library, ann, "S2", voice["id"], "talk") == 0, "a stream may have it in mind still"
    for method, body in (("DELETE", None), ("PATCH", {"name": "x"})):
        assert await library.refused(ann, method, path, body) == (404, "not_found", None)
    assert (await enrol(library, ann))["voice"]["clean_ms"] == ENOUGH, "and may be enrolled again"


async def test_a_renamed_voice_names_later_recordings(library: Library, ann: Identity) -> None:
    voice = (await enrol(library, ann))["voice"]
    await library.sounds(ann, "talk", ("S2", (4, -3), ENOUGH))
    other = (await enrol(library, ann, "Bob", "S2"))["voice"]
    path = f"/v1/voices/{voice['id']}"
    assert (await library.ok(ann, "PATCH", path, {"name": " ada  L. "}))["voice"]["name"] == "ada L."
    assert (await library.ok(ann, "PATCH", path, {"name": "Ada L."}))["voice"]["name"] == "Ada L."
    assert await library.refused(ann, "PATCH", path, {"name": "bob"}) == (409, "conflict", "name")
    for body in ({"name": ""}, {"name": "x" * 101}, {}):
        assert await library.refused(ann, "PATCH", path, body) == (400, "bad_request", "name")
    assert [v["id"] for v in await listed(library, ann)] == [voice["id"], other["id"]], "by name"
    assert [s["name"] for s in (await library.ok(ann, "GET", BASE))["speakers"]] == ["Ada", "Bob"]


async def test_who_may_see_and_change_voices(library: Library, ann: Identity) -> None:
    voice = (await enrol(library, ann))["voice"]
    viewer = await library.member("vera", Role.VIEWER)
    stranger = await library.member("mallory", Role.OWNER, tenant="other")
    path = f"/v1/voices/{voice['id']}"
    assert await listed(library, viewer) == [voice]
    assert await listed(library, stranger) == []
    assert await known(library, stranger) == {}
    for method, body in (("DELETE", None), ("PATCH", {"name": "x"})):
        assert await library.refused(viewer, method, path, body) == (403, "forbidden", None)
        assert await library.refused(stranger, method, path, body) == (404, "not_found", None)
        assert await library.refused(ann, method, "/v1/voices/%00", body) == (404, "not_found", None)
    await library.recording(stranger, "theirs", ("S1", "hello"))
    assert await hears(library, stranger, "S1", voice["id"], "theirs") == 0
    assert await listed(library, ann) == [voice]
    bob = await library.member("bob")
    assert await library.call(bob, "DELETE", path) == (204, ""), "any member, not only who enrolled it"


async def test_the_same_name_in_two_tenants_is_two_voices(library: Library, ann: Identity) -> None:
    await enrol(library, ann)
    other = await library.member("eve", tenant="other")
    await library.recording(other, "theirs", ("S1", "hello"))
    await library.sounds(other, "theirs", ("S1", (4, -3), ENOUGH))
    await enrol(library, other, "Ada", "S1", "/v1/recordings/theirs/speakers")
    assert list((await known(library, ann)).values()) == [[0.6, 0.8]]
    assert list((await known(library, other)).values()) == [[0.8, -0.6]]


async def test_who_enrolled_may_be_gone(library: Library, ann: Identity) -> None:
    async with library.database.tenant_tx(ann.tenant_id) as tx:
        await tx.execute(
            "INSERT INTO voices VALUES ($1, 'v', 'Ada', 'm', $2, 5000, 'u-gone')", ann.tenant_id, vector(1, 0)
        )
    assert [(v["id"], v["enrolled_by"]) for v in await listed(library, ann)] == [("v", None)]


async def test_the_client_asks_over_http(parlance: ServerProcess, alice: Account) -> None:
    """And the server has these doors."""
    async with Client(parlance.url, alice.token) as client:
        assert await client.request("GET", "/v1/voices") == {"voices": []}
        for method, path, body in [
            ("DELETE", "/v1/voices/v_1", None),
            ("PATCH", "/v1/recordings/r/speakers/S1", {"name": "Ada"}),
            ("PATCH", "/v1/recordings/r/segments/s", {"rev": 1, "text": "x"}),
        ]:
            with pytest.raises(CallFailed) as refusal:
                await client.request(method, path, body)
            assert (refusal.value.code, refusal.value.retryable) == ("not_found", False)
        with pytest.raises(CallFailed) as refusal:
            await client.request("PATCH", "/v1/voices/v_1", {"name": ""})
        assert (refusal.value.code, refusal.value.field) == ("bad_request", "name")
