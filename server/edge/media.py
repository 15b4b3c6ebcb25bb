"""Kept audio over HTTP, and the tickets with which browsers open it, and a room's events.

The audio is one WAV file with Range, also while recording: then it ends at what is complete so far, and has no ETag,
because its header still changes. Range as in RFC 9110: several ranges, or another unit, give the whole file.

A ticket opens one path for ten minutes; who asked for it must still be a member when it is used.
"""

import re
from contextlib import suppress
from urllib.parse import unquote

import msgspec
from aiohttp import web

from server.edge.access import readable_recording, readable_room
from server.edge.authenticate import Authenticator
from server.edge.callers import bearer, bearer_or_ticket, events_path, json_body
from server.edge.decode import convert
from server.media.playback import Playback, Track, WavFile
from server.media.ports import Kept, Media
from server.store.pool import Database
from streaming.errors import BadRequest, NotFound
from streaming.protocol.messages import ClientMessage

MEDIA_PATH = re.compile(r"/v1/recordings/([A-Za-z0-9_-]{1,100})/media")
EVENTS_PATH = re.compile(r"/v1/events\?room=([A-Za-z0-9_:%-]{3,200})")
ROOM = re.compile(r"[A-Za-z0-9_:-]{3,116}")
PATH_CHARS_MAX = 300
RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


class TicketRequest(ClientMessage, frozen=True):
    path: str


class MediaDoors:
    """`attach` adds the routes to the application."""

    def __init__(self, *, authenticate: Authenticator, database: Database, media: Media, playback: Playback) -> None:
        self._authenticate = authenticate
        self._database = database
        self._media = media
        self._playback = playback

    def attach(self, app: web.Application) -> None:
        app.add_routes(
            [
                web.get("/v1/recordings/{id}/media", self._wav),
                web.post("/v1/tickets", self._ticket),
            ]
        )

    async def _ticket(self, request: web.Request) -> web.Response:
        who = await bearer(request, self._authenticate)
        wanted: TicketRequest = convert(await json_body(request), TicketRequest)
        path = wanted.path if len(wanted.path) <= PATH_CHARS_MAX else ""
        if media := MEDIA_PATH.fullmatch(path):
            await readable_recording(self._database, who, media[1])
        elif (events := EVENTS_PATH.fullmatch(path)) and ROOM.fullmatch(room := unquote(events[1])):
            await readable_room(self._database, who, room)
            path = events_path(room)
        else:
            raise BadRequest("Tickets are given for a recording's media and for events?room= only.", field="path")
        ticket, expires_at = self._authenticate.ticket(who, path)
        body = msgspec.json.encode({"ticket": ticket, "expires_at": expires_at})
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})

    async def _wav(self, request: web.Request) -> web.StreamResponse:
        who = await bearer_or_ticket(request, self._authenticate)
        recording_id = request.match_info["id"]
        if not MEDIA_PATH.fullmatch(request.path):
            raise NotFound("There is no such recording.")
        # Before the row, so that no container can begin in these bytes of which the row does not know; when the
        # recording has ended, nothing begins any more.
        kept: Kept | None = None
        with suppress(NotFound):
            kept = await self._media.kept(who.tenant_id, recording_id)
        row = await readable_recording(self._database, who, recording_id)
        ended = row.state != "live"
        if ended or kept is None:
            kept = await self._media.kept(who.tenant_id, recording_id)
        wav = await self._playback.open(
            Track(
                tenant_id=row.tenant_id,
                recording_id=row.recording_id,
                format=row.format,
                containers=row.containers,
                kept_bytes=kept.size,
                ended=ended,
            )
        )
        etag = f'"{kept.size:x}-{kept.version:x}-{wav.total_bytes:x}"' if ended else None
        return await _respond(request, wav, etag)


async def _respond(request: web.Request, wav: WavFile, etag: str | None) -> web.StreamResponse:
    headers = {"Accept-Ranges": "bytes", "Cache-Control": "private" if etag else "private, no-store"}
    if etag is not None:
        headers["ETag"] = etag
        if etag in [item.strip() for item in request.headers.get("If-None-Match", "").split(",")]:
            return web.Response(status=304, headers=headers)
    total = wav.total_bytes
    asked = None
    if request.headers.get("If-Range", etag) == etag:
        asked = range_of(request.headers.get("Range"), total)
    start, end = asked or (0, total)
    if asked is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
    response = web.StreamResponse(status=200 if asked is None else 206, headers=headers)
    response.content_type = "audio/wav"
    response.content_length = end - start
    await response.prepare(request)
    if request.method != "HEAD":
        with suppress(ConnectionError):  # players hang up when they have enough
            async for piece in wav.pieces(start, end):
                await response.write(piece)
    return response


def range_of(header: str | None, total: int) -> tuple[int, int] | None:
    """[start, end) that was asked for, None for everything. Raises `BadRequest` for a malformed header, and HTTP's 416
    when nothing of the range is there."""
    if header is None or "," in header or not header.strip().startswith("bytes="):
        return None
    found = RANGE.fullmatch(header.strip())
    if found is None or found[0] == "bytes=-":
        raise BadRequest("The Range header is malformed.", field="Range")
    first, last = found[1], found[2]
    if not first:
        start, end = max(0, total - int(last)), total
    else:
        start, end = int(first), min(total, int(last) + 1) if last else total
        if last and int(last) < start:
            raise BadRequest("The Range header is malformed.", field="Range")
    if start >= end:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{total}"})
    return start, end
