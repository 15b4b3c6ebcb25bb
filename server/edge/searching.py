"""Searches of connected clients: a query per keystroke, of which only the newest of a slot counts.

A newer query in a slot supersedes the older one at once: its task is cancelled before the newer one starts, so no
result of an older query arrives after one of a newer, whatever it was waiting for.

`instant` is what the words find, `full` adds what is near in meaning. Without a vector in time `full` is the words'
answer again and says `degraded`; a query by keywords, or of function words only, wants none. In semantic mode `instant`
has no hits, because words are not what was asked for. The next page of a fused order has no honest answer by words
alone: it comes as `full` only, or fails as `unavailable`; a cursor of words alone goes on with words alone.
"""

import asyncio
import logging
import time

import msgspec

from search.meaning import QueryVectors
from search.model import Filters, Hit, Mode, Page, Query, QueryVector, Sort
from search.ports import Embedder, Index
from search.query import has_meaning, parse
from server.edge.connection import Connection
from server.edge.errors import as_known, wire_error
from server.telemetry import METRICS
from streaming.errors import BadRequest, ParlanceError, QuotaExceeded, Unavailable
from streaming.limits import Limits
from streaming.protocol import messages as m

log = logging.getLogger(__name__)


class SearchDesk:
    """Offers queries to the index and tells the caller. `query` never waits. `embedder`: None for a server that never
    gets one."""

    def __init__(self, index: Index, limits: Limits, embedder: Embedder | None = None) -> None:
        self._index = index
        self._limits = limits
        self._vectors = QueryVectors(embedder, limits)

    def query(self, connection: Connection, wanted: m.SearchQuery) -> None:
        """Begin a search. Raises `BadRequest` for a bad cursor or filter, `QuotaExceeded` for too many slots."""
        parsed = parse_query(wanted, self._limits)
        slots = connection.searches
        for slot in [slot for slot, (_, task) in slots.items() if task.done()]:
            del slots[slot]
        if wanted.slot not in slots and len(slots) >= self._limits.search_slots_per_socket_max:
            raise QuotaExceeded(
                f"At most {self._limits.search_slots_per_socket_max} search slots per socket.", field="slot"
            )
        older = slots.pop(wanted.slot, None)
        if older is not None:
            older[1].cancel()
            connection.send("search:superseded", m.SearchSuperseded(request_id=older[0]))
        task = connection.scope.spawn(self._run(connection, wanted, parsed), name="search")
        slots[wanted.slot] = (wanted.request_id, task)

    def cancel(self, connection: Connection, request_id: str) -> None:
        """Stop a search; nothing more is told of it. Unknown ids are fine: it may just have ended."""
        for slot, (running, task) in list(connection.searches.items()):
            if running == request_id:
                task.cancel()
                del connection.searches[slot]

    async def _run(self, connection: Connection, wanted: m.SearchQuery, query: Query) -> None:
        try:
            async with asyncio.timeout(self._limits.search_ms_max / 1000):
                await self._answer(connection, wanted.request_id, query)
        except Exception as error:  # the message boundary of a search
            if isinstance(error, TimeoutError):
                error = Unavailable("The search took too long.", retry_after_ms=1_000)
            if not isinstance(error, ParlanceError):
                log.exception("search failed")
            failed = m.SearchFailed(request_id=wanted.request_id, error=wire_error(as_known(error)))
            connection.send("search:failed", failed)

    async def _answer(self, connection: Connection, request_id: str, query: Query) -> None:
        """Both phases, as far as there are two."""
        started = time.perf_counter()
        who = connection.identity
        page: Page | None = None
        if not _is_fused(query):
            page = Page(())
            if query.mode is not Mode.SEMANTIC:
                page = await self._index.search(who.tenant_id, who.user_id, query)
            METRICS.search_seconds.observe(time.perf_counter() - started)
            connection.send("search:results", results(request_id, "instant", page, _ms_since(started)))
        degraded = False
        if query.mode is not Mode.KEYWORD and has_meaning(query) and not query.is_empty:
            vector = await self._vector(query)
            degraded = vector is None
            if vector is not None:
                page = await self._index.search_near(who.tenant_id, who.user_id, query, vector)
            elif query.mode is Mode.SEMANTIC:
                page = await self._index.search(who.tenant_id, who.user_id, query)
        if page is None:
            raise BadRequest("This cursor belongs to another query.", field="cursor")
        full = results(request_id, "full", page, _ms_since(started))
        connection.send("search:results", msgspec.structs.replace(full, degraded=True) if degraded else full)

    async def _vector(self, query: Query) -> QueryVector | None:
        """None: go on with words alone. Raises `Unavailable` where only a vector can continue what was begun."""
        if query.cursor is not None and not _is_fused(query):
            return None
        vector = await self._vectors.of(query)
        if vector is None and _is_fused(query):
            raise Unavailable("The embedding model is away; the next page needs it.", retry_after_ms=1_000)
        return vector


def _is_fused(query: Query) -> bool:
    """It continues an order that was made with vectors."""
    return query.cursor is not None and query.cursor.nearest_newest_us is not None


def _ms_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)


def parse_query(wanted: m.SearchQuery, limits: Limits) -> Query:
    """The typed query of a message."""
    given = wanted.filters
    filters = Filters()
    if given is not None:
        filters = Filters(
            recording_ids=None if given.recording_ids is None else tuple(given.recording_ids),
            speakers=None if given.speakers is None else tuple(given.speakers),
            languages=None if given.languages is None else tuple(given.languages),
            tags=None if given.tags is None else tuple(given.tags),
            from_ms=given.from_,
            to_ms=given.to,
        )
    return parse(
        wanted.text,
        filters=filters,
        mode=Mode(wanted.mode),
        sort=Sort(wanted.sort),
        limit=min(wanted.limit, limits.search_hits_max),
        cursor=wanted.cursor,
    )


def results(request_id: str, phase: str, page: Page, took_ms: int) -> m.SearchResults:
    return m.SearchResults(
        request_id=request_id,
        phase="instant" if phase == "instant" else "full",
        hits=[wire_hit(hit) for hit in page.hits],
        took_ms=took_ms,
        next_cursor=msgspec.UNSET if page.next_cursor is None else page.next_cursor,
    )


def wire_hit(hit: Hit) -> m.SearchHit:
    return m.SearchHit(
        segment_id=hit.segment_id,
        recording_id=hit.recording_id,
        title=hit.title,
        speaker=hit.speaker,
        start_ms=hit.start_ms,
        end_ms=hit.end_ms,
        text=hit.text,
        highlights=list(hit.highlights),
        score=hit.score,
    )
