"""The HTTP doors: health, metrics, signing in, the library, kept audio, the page.

Errors are RFC 9457 problem details with the codes of the protocol. A recording that the caller may not see is answered
like one that is not there.
"""

import base64
import binascii
import json
import logging
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from auth.errors import Unauthenticated
from auth.model import Action, Identity
from auth.policy import access
from server.edge.authenticate import Authenticator
from server.edge.decode import convert
from server.edge.errors import as_known, problem
from server.health import Readiness
from server.media.audiolog import MediaStore
from server.store import feed, recordings, segments
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.errors import BadRequest, NotFound
from streaming.limits import LIMITS
from streaming.model import Encoding
from streaming.protocol.messages import ClientMessage

log = logging.getLogger(__name__)

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; media-src 'self' blob:; "
        "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"
    ),
}
NO_PAGE = """<!doctype html><meta charset="utf-8"><title>Parlance</title>
<body style="font:16px/1.5 system-ui;max-width:40rem;margin:4rem auto">
<h1>Parlance is running.</h1><p>The web page has not been built, because Node.js 20 or newer was not found.
Install it and start again with <code>make run</code>,
or use the command line: <code>parlance stream FILE</code>.</p>"""


class LoginCode(ClientMessage, frozen=True):
    code: str


class Http:
    """Routes over the stores; `attach` adds them to the application."""

    def __init__(
        self,
        *,
        authenticate: Authenticator,
        database: Database,
        media: MediaStore,
        readiness: Readiness,
        page_folder: Path,
    ) -> None:
        self._authenticate = authenticate
        self._database = database
        self._media = media
        self._readiness = readiness
        self._page = page_folder

    def attach(self, app: web.Application) -> None:
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.post("/v1/auth/link", self._link),
                web.post("/v1/auth/refresh", self._refresh),
                web.get("/v1/recordings", self._recordings),
                web.get("/v1/recordings/{id}", self._recording),
                web.get("/v1/recordings/{id}/transcript.json", self._transcript_json),
                web.get("/v1/recordings/{id}/transcript.txt", self._transcript_txt),
                web.get("/v1/recordings/{id}/media", self._media_wav),
                web.get("/", self._index),
            ]
        )
        assets = self._page / "assets"
        if assets.is_dir():
            app.router.add_static("/assets", assets)

    # --- the process ------------------------------------------------------------------------------------------
    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        missing, degraded = sorted(self._readiness.missing), sorted(self._readiness.degraded)
        body: dict[str, Any] = {"status": "starting" if missing else "ready"}
        if missing:
            body["missing"] = missing
        if degraded:
            body["degraded"] = degraded
        return web.json_response(body, status=503 if missing else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(METRICS.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _index(self, _: web.Request) -> web.StreamResponse:
        index = self._page / "index.html"
        if not index.is_file():
            return web.Response(text=NO_PAGE, content_type="text/html")
        return web.FileResponse(index, headers={"Cache-Control": "no-cache"})

    # --- identity ---------------------------------------------------------------------------------------------
    async def _who(self, request: web.Request) -> Identity:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("An Authorization header with a Bearer token is needed.")
        return await self._authenticate(token.strip())

    async def _link(self, request: web.Request) -> web.Response:
        given: LoginCode = convert(await _json(request), LoginCode)
        return _session(*await self._authenticate.redeem(given.code))

    async def _refresh(self, request: web.Request) -> web.Response:
        return _session(*self._authenticate.token(await self._who(request)))

    # --- the library ------------------------------------------------------------------------------------------
    async def _recordings(self, request: web.Request) -> web.Response:
        who = await self._who(request)
        limit = _limit(request.query.get("limit", "50"))
        before = _decode_cursor(request.query["cursor"]) if "cursor" in request.query else None
        async with self._database.tenant_tx(who.tenant_id) as connection:
            rows = await recordings.newest(connection, who.tenant_id, who.user_id, before=before, limit=limit + 1)
        body: dict[str, Any] = {"recordings": [row.wire() for row in rows[:limit]]}
        if len(rows) > limit:
            body["next_cursor"] = _encode_cursor((rows[limit - 1].started_at, rows[limit - 1].recording_id))
        return _ok(body)

    async def _readable(self, connection: Any, who: Identity, request: web.Request) -> recordings.RecordingRow:
        row = await recordings.get(connection, who.tenant_id, request.match_info["id"])
        access(who, Action.READ, row.ref)
        return row

    async def _recording(self, request: web.Request) -> web.Response:
        who = await self._who(request)
        async with self._database.tenant_tx(who.tenant_id) as connection:
            row = await self._readable(connection, who, request)
        return _ok({"recording": row.wire()})

    async def _transcript_json(self, request: web.Request) -> web.Response:
        who = await self._who(request)
        async with self._database.tenant_tx(who.tenant_id) as connection:
            row = await self._readable(connection, who, request)
            # The head before the segments: a final between the two is then told again, never missed.
            head = await feed.head(connection, who.tenant_id, row.room)
            bodies = await segments.of_recording(connection, who.tenant_id, row.recording_id)
        return _ok({"recording": row.wire(), "segments": bodies, "seq": head.seq})

    async def _transcript_txt(self, request: web.Request) -> web.Response:
        who = await self._who(request)
        async with self._database.tenant_tx(who.tenant_id) as connection:
            row = await self._readable(connection, who, request)
            bodies = await segments.of_recording(connection, who.tenant_id, row.recording_id)
        lines = [f"[{_clock(body['start_ms'])}] {body['text']}" for body in bodies]
        return web.Response(text="\n".join(lines) + "\n" if lines else "", content_type="text/plain")

    async def _media_wav(self, request: web.Request) -> web.StreamResponse:
        """Kept audio as WAV, with Range, also while recording (then it ends at what is kept so far)."""
        who = await self._who(request)
        async with self._database.tenant_tx(who.tenant_id) as connection:
            row = await self._readable(connection, who, request)
        if row.format.encoding is not Encoding.PCM_S16LE:
            raise NotFound("There is no playable audio of this recording.")
        kept = self._media.size(row.tenant_id, row.recording_id) // row.format.frame_bytes * row.format.frame_bytes
        header = wav_header(kept, row.format.sample_rate, row.format.channels)
        total = len(header) + kept
        start, end = _range(request, total)
        partial = "Range" in request.headers
        response = web.StreamResponse(status=206 if partial else 200)
        response.content_type = "audio/wav"
        response.content_length = end - start
        response.headers["Accept-Ranges"] = "bytes"
        if partial:
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if start < len(header):
            await response.write(header[start:end])
        at = max(start, len(header))
        while at < end:
            upto = min(end, at + LIMITS.media_read_bytes)
            data = await self._media.read(row.tenant_id, row.recording_id, at - len(header), upto - len(header))
            await response.write(data)
            at = upto
        return response


@web.middleware
async def boundary(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The message boundary of HTTP: every failure is a problem document."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status == 404:
            return problem(NotFound("There is nothing here."))
        raise
    except Exception as error:  # the message boundary
        known = as_known(error)
        if known.code == "internal":
            log.exception("request failed", extra={"path": request.path})
        METRICS.refusals.labels(known.code).inc()
        return problem(known)


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Signal `on_response_prepare`."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)


def wav_header(data_bytes: int, sample_rate: int, channels: int) -> bytes:
    """RIFF header of 16-bit PCM (44 bytes); sizes above 4 GiB are written as the largest."""
    largest = 0xFFFF_FFFF
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        min(36 + data_bytes, largest),
        b"WAVE",
        b"fmt ",
        16,
        1,
        channels,
        sample_rate,
        sample_rate * channels * 2,
        channels * 2,
        16,
        b"data",
        min(data_bytes, largest),
    )


def _ok(body: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _session(token: str, who: Identity) -> web.Response:
    response = _ok(
        {
            "token": token,
            "expires_at": who.expires_at,
            "user": {"id": who.user_id, "name": who.user_name, "roles": [who.role.value]},
            "tenant": {"id": who.tenant_id, "name": who.tenant_name},
        }
    )
    response.headers["Cache-Control"] = "no-store"
    return response


async def _json(request: web.Request) -> object:
    try:
        return json.loads(await request.read())
    except (ValueError, UnicodeDecodeError):
        raise BadRequest("The body is not JSON.") from None


def _limit(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise BadRequest("The limit is a number from 1 on.", field="limit")
    return min(int(text), LIMITS.http_page_items_max)


def _range(request: web.Request, total: int) -> tuple[int, int]:
    """[start, end) that was asked for."""
    try:
        wanted = request.http_range
    except ValueError:
        raise BadRequest("The Range header is malformed.", field="Range") from None
    start = wanted.start or 0
    if start < 0:
        start = max(0, total + start)
    end = total if wanted.stop is None else min(wanted.stop, total)
    if start >= end:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{total}"})
    return start, end


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
