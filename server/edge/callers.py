"""Who calls over HTTP: a Bearer token in the header or, where a browser cannot set one, a ticket in the URL."""

import json

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from auth.errors import Unauthenticated
from auth.model import Identity
from server.edge.admission import ADMISSION
from server.edge.authenticate import Authenticator
from streaming.errors import BadRequest


async def bearer(request: web.Request, authenticate: Authenticator) -> Identity:
    """Raises `Unauthenticated`, `Unavailable`, `RateLimited`."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("An Authorization header with a Bearer token is needed.")
    return _counted(request, await authenticate(token.strip()))


async def bearer_or_ticket(request: web.Request, authenticate: Authenticator, *, path: str | None = None) -> Identity:
    """For GET and HEAD of what tickets are given for. A header outweighs a ticket. `path`: what the ticket must be for,
    None: this path with its query.

    Raises `Unauthenticated`, `Unavailable`, `RateLimited`."""
    ticket = request.query.get("ticket")
    if ticket is None or "Authorization" in request.headers:
        return await bearer(request, authenticate)
    who = await authenticate.by_ticket(ticket, _path_without_ticket(request) if path is None else path)
    return _counted(request, who)


def _counted(request: web.Request, who: Identity) -> Identity:
    if (admission := request.app.get(ADMISSION)) is not None:
        admission.request_of(who)
    return who


def events_path(*rooms: str) -> str:
    """What a ticket for a room's events is bound to, however its URL is encoded and wherever it begins to read."""
    return "/v1/events?" + "&".join(f"room={room}" for room in rooms)


def _path_without_ticket(request: web.Request) -> str:
    """What a ticket is bound to: the path with all the rest of its query."""
    query = request.rel_url.raw_query_string.split("&")
    rest = "&".join(item for item in query if item and item.partition("=")[0] != "ticket")
    return f"{request.path}?{rest}" if rest else request.path


async def json_body(request: web.Request) -> object:
    """Raises `BadRequest`."""
    try:
        body = await request.read()
    except (ConnectionError, HttpProcessingError, web.RequestPayloadError):
        raise BadRequest("The body did not arrive whole.") from None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
