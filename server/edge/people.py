"""Who speaks, over HTTP: names and merges of a recording's speakers, and the tenant's enrolled voices.

Policy: a name is the recording's; enrolling the voice is asked for in each call (`enrol: true`), and the answer says
what is stored. Everybody of the tenant may see the list of voices, because recordings show these names; whoever may
record may also delete one: the person whose voice it is need not be who enrolled it.
"""

import unicodedata
from collections.abc import Callable
from typing import Annotated, Any

from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from auth.model import Action, TenantRef
from auth.policy import access
from server.edge.callers import json_body
from server.edge.decode import convert
from server.edge.doors import Doors, Opened, json_answer, named
from server.store import feed, speakers, voices
from server.store.voices import VoiceRow
from streaming.errors import BadRequest
from streaming.limits import LIMITS
from streaming.protocol.messages import ClientMessage, RecordingSpeaker


class SpeakerPatch(ClientMessage, frozen=True):
    """`name`: null takes it away; `enrol`: store what this voice sounds like, to recognise it in later recordings."""

    name: str | UnsetType | None = UNSET
    enrol: bool = False


class MergeRequest(ClientMessage, frozen=True):
    into: Annotated[str, Meta(min_length=1, max_length=LIMITS.name_chars_max)]


class VoicePatch(ClientMessage, frozen=True):
    name: str


class PeopleDoors:
    """`attach` adds the routes to the application. `model`: of the diariser that works now, None without one."""

    def __init__(self, doors: Doors, model: Callable[[], str | None]) -> None:
        self._doors = doors
        self._model = model

    def attach(self, app: web.Application) -> None:
        app.add_routes(
            [
                web.get("/v1/recordings/{id}/speakers", self._speakers),
                web.patch("/v1/recordings/{id}/speakers/{label}", self._name),
                web.post("/v1/recordings/{id}/speakers/{label}/merge", self._merge),
                web.get("/v1/voices", self._voices),
                web.patch("/v1/voices/{voice}", self._rename_voice),
                web.delete("/v1/voices/{voice}", self._delete_voice),
            ]
        )

    # --- speakers of a recording ------------------------------------------------------------------------------
    async def _speakers(self, request: web.Request) -> web.Response:
        async with self._doors.opened(request) as opened:
            return json_answer({"speakers": await speakers.of_recording(*opened.place)})

    async def _name(self, request: web.Request) -> web.Response:
        given: SpeakerPatch = convert(await json_body(request), SpeakerPatch)
        name = _name_of(given.name) if isinstance(given.name, str) else given.name
        if name is UNSET and not given.enrol:
            raise BadRequest("There is nothing to change: a name is missing.", field="name")
        if name is None and given.enrol:
            raise BadRequest("A voice is enrolled under a name.", field="name")

        async def work(opened: Opened, at_ms: int) -> tuple[dict[str, Any], list[feed.Event]]:
            label = named(request, "label")
            answer: dict[str, Any] = {}
            if given.enrol:
                wanted = None if name is UNSET else name
                voice, events = await voices.enrol(
                    *opened.place, label, wanted, by=opened.who.user_id, at_ms=at_ms, limits=LIMITS
                )
                answer["voice"] = self._wire(voice)
            else:
                assert name is not UNSET
                events = await speakers.rename(*opened.place, label, name, at_ms)
            return {"speaker": await _speaker(opened, label)} | answer, events

        return json_answer(await self._doors.change(request, work))

    async def _merge(self, request: web.Request) -> web.Response:
        given: MergeRequest = convert(await json_body(request), MergeRequest)

        async def work(opened: Opened, at_ms: int) -> tuple[RecordingSpeaker | None, list[feed.Event]]:
            events = await speakers.merge(*opened.place, named(request, "label"), given.into, at_ms)
            return await _speaker(opened, given.into), events

        return json_answer({"speaker": await self._doors.change(request, work)})

    # --- voices of the tenant ---------------------------------------------------------------------------------
    def _wire(self, voice: VoiceRow) -> dict[str, Any]:
        return {
            "id": voice.voice_id,
            "name": voice.name,
            "usable": voice.model == self._model(),
            "model": voice.model,
            "clean_ms": voice.clean_ms,
            "enrolled_by": voice.enrolled_by,
            "enrolled_at": voice.enrolled_at,
            "stored": f"{voice.numbers} numbers that tell what the voice sounds like. No audio.",
        }

    async def _voices(self, request: web.Request) -> web.Response:
        who = await self._doors.who(request)
        async with self._doors.database.tenant_tx(who.tenant_id) as connection:
            rows = await voices.listed(connection, who.tenant_id)
        return json_answer({"voices": [self._wire(row) for row in rows]})

    async def _rename_voice(self, request: web.Request) -> web.Response:
        who = await self._doors.who(request)
        given: VoicePatch = convert(await json_body(request), VoicePatch)
        name = _name_of(given.name)
        access(who, Action.EDIT, TenantRef(tenant_id=who.tenant_id))
        async with self._doors.database.tenant_tx(who.tenant_id) as connection:
            row = await voices.rename(connection, who.tenant_id, named(request, "voice"), name)
        return json_answer({"voice": self._wire(row)})

    async def _delete_voice(self, request: web.Request) -> web.Response:
        who = await self._doors.who(request)
        access(who, Action.EDIT, TenantRef(tenant_id=who.tenant_id))
        async with self._doors.database.tenant_tx(who.tenant_id) as connection:
            await voices.delete(connection, who.tenant_id, named(request, "voice"))
        return web.Response(status=204)


async def _speaker(opened: Opened, label: str) -> RecordingSpeaker | None:
    """None for one that has neither words nor a name any more."""
    found = await speakers.of_recording(*opened.place)
    return next((speaker for speaker in found if speaker.label == label), None)


def _name_of(given: str) -> str:
    """The name on one line, without spaces around it. Raises `BadRequest`."""
    name = " ".join(given.split())
    if not 1 <= len(name) <= LIMITS.name_chars_max:
        raise BadRequest(f"A name has 1 to {LIMITS.name_chars_max} characters.", field="name")
    if any(unicodedata.category(char) == "Cc" for char in name):
        raise BadRequest("A name has no control characters.", field="name")
    return name
