"""The library over HTTP: recordings, their transcripts, and what people correct in segments."""

import base64
import binascii
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from auth.model import Action
from server.edge.callers import json_body
from server.edge.decode import convert
from server.edge.doors import Doors, Opened, json_answer, named
from server.store import edits, feed, passes, recordings, segments, speakers
from server.store.edits import Edited
from streaming.errors import BadRequest, Conflict
from streaming.limits import LIMITS
from streaming.protocol.messages import ClientMessage


class SegmentPatch(ClientMessage, frozen=True):
    """`rev`: of the segment that the caller saw; `speaker`: a label of the recording, null for nobody, "new" for
    somebody who has no label yet."""

    rev: Annotated[int, Meta(ge=0)]
    text: str | UnsetType = UNSET
    speaker: Annotated[str, Meta(min_length=1, max_length=LIMITS.name_chars_max)] | UnsetType | None = UNSET


class LibraryDoors:
    """`attach` adds the routes to the application. `reread`: a second pass was asked for; None where there is none."""

    def __init__(self, doors: Doors, reread: Callable[[], None] | None = None) -> None:
        self._doors = doors
        self._reread = reread

    def attach(self, app: web.Application) -> None:
        app.add_routes(
            [
                web.get("/v1/recordings", self._recordings),
                web.get("/v1/recordings/{id}", self._recording),
                web.get("/v1/recordings/{id}/transcript.json", self._transcript_json),
                web.get("/v1/recordings/{id}/transcript.txt", self._transcript_txt),
                web.get("/v1/recordings/{id}/segments/{segment}", self._segment),
                web.patch("/v1/recordings/{id}/segments/{segment}", self._edit),
                web.post("/v1/recordings/{id}/pass", self._pass),
            ]
        )

    async def _recordings(self, request: web.Request) -> web.Response:
        who = await self._doors.who(request)
        limit = _limit(request.query.get("limit", "50"))
        before = _decode_cursor(request.query["cursor"]) if "cursor" in request.query else None
        async with self._doors.database.tenant_tx(who.tenant_id) as connection:
            rows = await recordings.newest(connection, who.tenant_id, who.user_id, before=before, limit=limit + 1)
        body: dict[str, Any] = {"recordings": [row.wire() for row in rows[:limit]]}
        if len(rows) > limit:
            body["next_cursor"] = _encode_cursor((rows[limit - 1].started_at, rows[limit - 1].recording_id))
        return json_answer(body)

    async def _recording(self, request: web.Request) -> web.Response:
        async with self._doors.opened(request) as opened:
            return json_answer({"recording": opened.row.wire()})

    async def _pass(self, request: web.Request) -> web.Response:
        """Read all of an ended recording once more."""
        async with self._doors.opened(request, Action.REREAD) as opened:
            if self._reread is None:
                raise Conflict("No recording is read again here: PARLANCE_SECOND_PASS is off.")
            if opened.row.state == "live":
                raise Conflict("This recording goes on; it is read again every few minutes, and when it ended.")
            if not await passes.ask(*opened.place):
                raise Conflict("This recording is being read again already.")
        self._reread()
        return json_answer({"recording_id": opened.row.recording_id})

    async def _transcript_json(self, request: web.Request) -> web.Response:
        async with self._doors.opened(request) as opened:
            # The head before the rest: what happens between the two is then told again, never missed.
            head = await feed.head(opened.connection, opened.who.tenant_id, opened.row.room)
            answer = {
                "recording": opened.row.wire(),
                "segments": await segments.of_recording(*opened.place),
                "speakers": await speakers.names(*opened.place),
                "merged": await speakers.merges(*opened.place),
                "seq": head.seq,
            }
        return json_answer(answer)

    async def _transcript_txt(self, request: web.Request) -> web.Response:
        async with self._doors.opened(request) as opened:
            bodies = await segments.of_recording(*opened.place)
            names = await speakers.names(*opened.place)
        lines = [f"[{_clock(body['start_ms'])}] {_said_by(body['speaker'], names)}{body['text']}" for body in bodies]
        return web.Response(text="\n".join(lines) + "\n" if lines else "", content_type="text/plain")

    async def _segment(self, request: web.Request) -> web.Response:
        async with self._doors.opened(request) as opened:
            segment, versions = await edits.history(*opened.place, named(request, "segment"))
            head = await feed.head(opened.connection, opened.who.tenant_id, opened.row.room)
        return json_answer({"segment": segment, "history": versions, "complete": head.first_seq == 1})

    async def _edit(self, request: web.Request) -> web.Response:
        given: SegmentPatch = convert(await json_body(request), SegmentPatch)
        if given.text is UNSET and given.speaker is UNSET:
            raise BadRequest("There is nothing to change: text or speaker is missing.", field="text")

        async def work(opened: Opened, at_ms: int) -> tuple[Edited, list[feed.Event]]:
            edited = await edits.edit(
                *opened.place,
                named(request, "segment"),
                rev=given.rev,
                text=given.text,
                speaker=given.speaker,
                at_ms=at_ms,
                limits=LIMITS,
            )
            return edited, edited.events

        edited = await self._doors.change(request, work)
        return json_answer({"segment": segments.final_body(request.match_info["id"], edited.segment)})


def _said_by(label: str | None, names: dict[str, str]) -> str:
    return "" if label is None else f"{names.get(label, label)}: "


def _limit(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise BadRequest("The limit is a number from 1 on.", field="limit")
    return min(int(text), LIMITS.http_page_items_max)


def _encode_cursor(at: tuple[int, str]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(at)).decode().rstrip("=")


def _decode_cursor(text: str) -> tuple[int, str]:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return msgspec.json.decode(raw, type=tuple[int, str])
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise BadRequest("This cursor was not given by this server.", field="cursor") from None


def _clock(ms: int) -> str:
    seconds = ms // 1000
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
