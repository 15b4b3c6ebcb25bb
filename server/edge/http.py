"""The HTTP doors: health, metrics, signing in, the page. Recordings are in `library`, who speaks in them in `people`,
kept audio and tickets in `media`.

Errors are RFC 9457 problem details with the codes of the protocol. A recording that the caller may not see is answered
like one that is not there.
"""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from auth.model import Identity
from server.edge.authenticate import Authenticator
from server.edge.callers import bearer, json_body
from server.edge.decode import convert
from server.edge.doors import Doors, json_answer
from server.edge.errors import as_known, problem
from server.edge.library import LibraryDoors
from server.edge.media import MediaDoors
from server.edge.people import PeopleDoors
from server.health import Readiness
from server.media.playback import Playback
from server.media.ports import Media
from server.store.commits import Announcer
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.errors import NotFound, PayloadTooLarge
from streaming.limits import LIMITS
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
        media: Media,
        announcer: Announcer,
        readiness: Readiness,
        page_folder: Path,
        playback: Playback | None = None,
        speaker_model: Callable[[], str | None] = lambda: None,
        reread: Callable[[], None] | None = None,
    ) -> None:
        """`playback`: shared with others that read kept audio; None: one of its own. `speaker_model`: of the diariser
        that works now. `reread`: a second pass was asked for; None where there is none."""
        self._authenticate = authenticate
        doors = Doors(authenticate=authenticate, database=database, announcer=announcer)
        self._library = LibraryDoors(doors, reread)
        self._people = PeopleDoors(doors, speaker_model)
        self._media = MediaDoors(
            authenticate=authenticate, database=database, media=media, playback=playback or Playback(media)
        )
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
                web.get("/", self._index),
            ]
        )
        self._library.attach(app)
        self._people.attach(app)
        self._media.attach(app)
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
    async def _link(self, request: web.Request) -> web.Response:
        given: LoginCode = convert(await json_body(request), LoginCode)
        return _session(*await self._authenticate.redeem(given.code))

    async def _refresh(self, request: web.Request) -> web.Response:
        return _session(*self._authenticate.token(await bearer(request, self._authenticate)))


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
        if error.status == 413:
            return problem(PayloadTooLarge(f"A body has at most {LIMITS.http_body_bytes_max} bytes."))
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


def _session(token: str, who: Identity) -> web.Response:
    response = json_answer(
        {
            "token": token,
            "expires_at": who.expires_at,
            "user": {"id": who.user_id, "name": who.user_name, "roles": [who.role.value]},
            "tenant": {"id": who.tenant_id, "name": who.tenant_name},
        }
    )
    response.headers["Cache-Control"] = "no-store"
    return response
