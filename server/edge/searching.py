"""Searches of connected clients: a query per keystroke, of which only the newest of a slot counts.

A newer query in a slot supersedes the older one at once: its task is cancelled before the newer one starts, so no
result of an older query arrives after one of a newer. `instant` is the text index; `full` would add what vectors find
and, while no vectors are there, repeats the text's answer and says `degraded`.
"""

import asyncio
import logging
import time

import msgspec

from search.model import Filters, Hit, Page, Query, Sort
from search.ports import Index
from search.query import parse
from server.edge.connection import Connection
from server.edge.errors import as_known, wire_error
from server.telemetry import METRICS
from streaming.errors import ParlanceError, QuotaExceeded, Unavailable
from streaming.limits import Limits
from streaming.protocol import messages as m

log = logging.getLogger(__name__)


class SearchDesk:
    """Offers queries to the index and tells the caller. `query` never waits."""

    def __init__(self, index: Index, limits: Limits) -> None:
        self._index = index
        self._limits = limits

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
        started = time.perf_counter()
        who = connection.identity
        try:
            async with asyncio.timeout(self._limits.search_ms_max / 1000):
                page = await self._index.search(who.tenant_id, who.user_id, query)
        except Exception as error:  # the message boundary of a search
            if isinstance(error, TimeoutError):
                error = Unavailable("The search took too long.", retry_after_ms=1_000)
            if not isinstance(error, ParlanceError):
                log.exception("search failed")
            failed = m.SearchFailed(request_id=wanted.request_id, error=wire_error(as_known(error)))
            connection.send("search:failed", failed)
            return
        seconds = time.perf_counter() - started
        METRICS.search_seconds.observe(seconds)
        took_ms = round(seconds * 1000)
        connection.send("search:results", results(wanted.request_id, "instant", page, took_ms))
        full = results(wanted.request_id, "full", page, took_ms)
        connection.send("search:results", msgspec.structs.replace(full, degraded=True))


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
