"""Search over HTTP: one answer as JSON, or both phases as server-sent events; suggestions, history, analytics.

The parameters are the fields of `search:query`, lists by repeating theirs; what is wrong is `bad_request` with its
name. A request counts as four events, as `search:query` does, and waits for its turn as a query of a socket does.

Boundary: aiohttp. What is found, who may see it and what is remembered are decided elsewhere.
"""

import asyncio
import logging
import re
import secrets
import time
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta
from multidict import MultiMapping

from auth.model import Action, Identity, TenantRef
from auth.policy import access
from search.model import Page, Query
from server.edge.authenticate import Authenticator
from server.edge.callers import bearer
from server.edge.decode import convert
from server.edge.doors import json_answer
from server.edge.errors import as_known, wire_error
from server.edge.search.desk import SearchDesk, typed_of
from server.edge.search.suggesting import Suggestions
from server.edge.search.wire import Phase, parse_query, results
from streaming.errors import BadRequest
from streaming.limits import LIMITS, Limits
from streaming.protocol.base import ClientMessage
from streaming.protocol.searches import QueryText, SearchFailed, SearchFilters, SearchQuery, SearchResults

log = logging.getLogger(__name__)

FILTERS = {field.encode_name for field in msgspec.structs.fields(SearchFilters)}
LISTS = {"recording_ids", "speakers", "languages", "tags"}
NUMBERS = {"from", "to", "limit", "neighbours", "days"}
EVENTS = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class SuggestQuery(ClientMessage, frozen=True):
    q: QueryText
    limit: Annotated[int, Meta(ge=1)] = 8


class HistoryQuery(ClientMessage, frozen=True):
    limit: Annotated[int, Meta(ge=1)] = 20


class AnalyticsQuery(ClientMessage, frozen=True):
    days: Annotated[int, Meta(ge=1, le=LIMITS.search_analytics_days_max)] = 30


class SearchDoors:
    """`attach` adds the routes to the application."""

    def __init__(
        self, *, authenticate: Authenticator, desk: SearchDesk, suggestions: Suggestions, limits: Limits
    ) -> None:
        self._authenticate = authenticate
        self._desk = desk
        self._suggestions = suggestions
        self._limits = limits

    def attach(self, app: web.Application) -> None:
        app.add_routes(
            [
                web.get("/v1/search", self._search),
                web.get("/v1/search/suggest", self._suggest),
                web.get("/v1/search/history", self._history),
                web.delete("/v1/search/history", self._clear),
                web.get("/v1/search/analytics", self._analytics),
            ]
        )

    async def _search(self, request: web.Request) -> web.StreamResponse:
        who = await bearer(request, self._authenticate)
        query = parse_query(query_of(request.query), self._limits)
        asked = _Asked(who, query)
        if asked.typed is not None:
            self._desk.remembered.asked((who.user_id, "http"), asked.typed)
        if EVENTS in request.headers.get("Accept", ""):
            return await self._as_events(request, asked)
        vectors = await self._desk.answers.vectors(query)
        async with self._desk.turn(who):
            instant = None if vectors else await self._desk.answers.instant(who, query)
            page, degraded = await self._desk.answers.full(who, query, instant, vectors)
        return json_answer(asked.answered("full", page, degraded=degraded))

    async def _as_events(self, request: web.Request, asked: "_Asked") -> web.StreamResponse:
        """What goes wrong before the first event is a problem document, later `search:failed`."""
        desk, who, query = self._desk, asked.who, asked.query
        async with desk.turn(who):
            instant = await desk.answers.instant(who, query)
        response = web.StreamResponse(headers=HEADERS)
        response.content_type = EVENTS
        await response.prepare(request)
        try:
            async with asyncio.timeout(self._limits.event_stream_write_ms_max / 1000):
                if instant is not None:
                    await response.write(_event("search:results", asked.answered("instant", instant)))
                await response.write(await self._second(asked, instant))
                await response.write_eof()
        except (TimeoutError, ConnectionError):
            log.debug("the client of a search went away")
        return response

    async def _second(self, asked: "_Asked", instant: Page | None) -> bytes:
        desk, who, query = self._desk, asked.who, asked.query
        try:
            vectors = await desk.answers.vectors(query)
            async with desk.turn(who):
                page, degraded = await desk.answers.full(who, query, instant, vectors)
            return _event("search:results", asked.answered("full", page, degraded=degraded))
        except Exception as error:  # the message boundary: the answer has begun
            known = as_known(error)
            if known.code == "internal":
                log.exception("search failed")
            return _event("search:failed", SearchFailed(request_id=asked.request_id, error=wire_error(known)))

    async def _suggest(self, request: web.Request) -> web.Response:
        who = await bearer(request, self._authenticate)
        wanted: SuggestQuery = convert(plain(request.query), SuggestQuery)
        return json_answer({"suggestions": await self._suggestions.of(who, wanted.q, wanted.limit)})

    async def _history(self, request: web.Request) -> web.Response:
        who = await bearer(request, self._authenticate)
        wanted: HistoryQuery = convert(plain(request.query), HistoryQuery)
        entries = await self._desk.remembered.history(who, wanted.limit)
        return json_answer({"queries": [entry.text for entry in entries], "entries": entries})

    async def _clear(self, request: web.Request) -> web.Response:
        await self._desk.remembered.clear(await bearer(request, self._authenticate))
        return web.Response(status=204)

    async def _analytics(self, request: web.Request) -> web.Response:
        who = await bearer(request, self._authenticate)
        access(who, Action.ANALYSE, TenantRef(tenant_id=who.tenant_id))
        wanted: AnalyticsQuery = convert(plain(request.query), AnalyticsQuery)
        return json_answer(await self._desk.remembered.analytics(who.tenant_id, wanted.days))


class _Asked:
    """One request."""

    def __init__(self, who: Identity, query: Query) -> None:
        self.who = who
        self.query = query
        self.request_id = secrets.token_hex(8)
        self.typed = typed_of(who, query)
        self._began = time.perf_counter()

    def answered(self, phase: Phase, page: Page, *, degraded: bool = False) -> SearchResults:
        if self.typed is not None:
            self.typed.hits = len(page.hits)
        took_ms = round((time.perf_counter() - self._began) * 1_000)
        return results(self.request_id, phase, self.query, page, took_ms, degraded=degraded)


def query_of(given: MultiMapping[str]) -> SearchQuery:
    """The parameters as `search:query` has them. Raises `BadRequest`."""
    fields = plain(given)
    filters = {name: fields.pop(name) for name in FILTERS & fields.keys()}
    if "q" not in fields:
        raise BadRequest("Say what to look for: ?q=...", field="q")
    for name in {"text", "request_id", "slot", "filters"} & fields.keys():
        raise BadRequest("There is no such parameter.", field=name)
    fields |= {"text": fields.pop("q"), "request_id": "http"}
    if filters:
        fields["filters"] = filters
    try:
        wanted: SearchQuery = convert(fields, SearchQuery)
    except BadRequest as error:
        raise BadRequest(error.message, field=_parameter(error.field)) from None
    return wanted


def plain(given: MultiMapping[str]) -> dict[str, Any]:
    """Parameters as an object. Raises `BadRequest`: one is there twice, or should be a number."""
    fields: dict[str, Any] = {}
    for name in set(given):
        values = given.getall(name)
        if name in LISTS:
            fields[name] = list(values)
        elif len(values) > 1:
            raise BadRequest("This parameter is there more than once.", field=name)
        elif name in NUMBERS:
            fields[name] = _number(name, values[0])
        else:
            fields[name] = values[0]
    return fields


def _number(name: str, value: str) -> int:
    if re.fullmatch(r"[0-9]{1,16}", value) is None:
        raise BadRequest("A number is expected.", field=name)
    return int(value)


def _parameter(field: str | None) -> str | None:
    """How the field is called in a URL."""
    if field is None:
        return None
    name = field.removeprefix("filters.").partition("[")[0]
    return "q" if name == "text" else name


def _event(name: str, message: SearchResults | SearchFailed) -> bytes:
    return f"event: {name}\ndata: ".encode() + msgspec.json.encode(message) + b"\n\n"
