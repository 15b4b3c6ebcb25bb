"""Who calls over HTTP: a Bearer token in the header or, where a browser cannot set one, a ticket in the URL."""

import json

from aiohttp import web

from auth.errors import Unauthenticated
from auth.model import Identity
from server.edge.authenticate import Authenticator
from streaming.errors import BadRequest


async def bearer(request: web.Request, authenticate: Authenticator) -> Identity:
    """Raises `Unauthenticated`, `Unavailable`."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("An Authorization header with a Bearer token is needed.")
    return await authenticate(token.strip())


async def bearer_or_ticket(request: web.Request, authenticate: Authenticator) -> Identity:
    """For GET and HEAD of what tickets are given for. A header outweighs a ticket.

    Raises `Unauthenticated`, `Unavailable`."""
    ticket = request.query.get("ticket")
    if ticket is None or "Authorization" in request.headers:
        return await bearer(request, authenticate)
    return await authenticate.by_ticket(ticket, _path_without_ticket(request))


def _path_without_ticket(request: web.Request) -> str:
    """What a ticket is bound to: the path with all the rest of its query."""
    query = request.rel_url.raw_query_string.split("&")
    rest = "&".join(item for item in query if item and item.partition("=")[0] != "ticket")
    return f"{request.path}?{rest}" if rest else request.path


async def json_body(request: web.Request) -> object:
    """Raises `BadRequest`."""
    try:
        return json.loads(await request.read())
    except (ValueError, UnicodeDecodeError):
        raise BadRequest("The body is not JSON.") from None
