"""Between messages of search and what the program works with: queries and interests in, hits and errors out.

Pure.
"""

import re
from typing import Literal, TypeVar

import msgspec

from search.live import Heard, Interest, Match
from search.model import Beside, Filters, Hit, Mode, Page, Query, Sort
from search.query import parse
from streaming.errors import BadRequest
from streaming.limits import LIMITS, Limits
from streaming.protocol import searches as s

POSITION = re.compile(r"([0-9]{1,16})\.([0-9]{1,16})")

Key = TypeVar("Key")
Phase = Literal["instant", "full"]

Position = tuple[int, int]
"""Of a subscription in its tenant's index feed: (seq, place) stands behind all events before `seq`, and behind the
first `place` segments of that one."""


def parse_query(wanted: s.SearchQuery, limits: Limits = LIMITS) -> Query:
    """The typed query of a message. Raises `BadRequest`."""
    return parse(
        wanted.text,
        filters=_filters(wanted.filters),
        mode=Mode(wanted.mode),
        sort=Sort(wanted.sort),
        limit=min(wanted.limit, limits.search_hits_max),
        cursor=wanted.cursor,
        around=wanted.neighbours,
        grouped=wanted.group_by is not None,
        limits=limits,
    )


def parse_interest(user_id: str, wanted: s.SearchSubscribe) -> Interest:
    """What a subscription asks for. Raises `BadRequest`."""
    query = parse(wanted.text, filters=_filters(wanted.filters), mode=Mode(wanted.mode))
    if not query.words:
        raise BadRequest("There is no word in it.", field="text")
    return Interest(user_id, msgspec.structs.replace(query, prefix=False), wanted.min_score)


def parse_position(text: str) -> Position:
    """A cursor of a subscription. Raises `BadRequest`."""
    found = POSITION.fullmatch(text)
    if found is None:
        raise BadRequest("This cursor was not given out by this server.", field="after")
    return int(found[1]), int(found[2])


def cursor(position: Position) -> str:
    return f"{position[0]}.{position[1]}"


def results(
    request_id: str,
    phase: Literal["instant", "full"],
    query: Query,
    page: Page,
    took_ms: int,
    *,
    degraded: bool = False,
) -> s.SearchResults:
    return s.SearchResults(
        request_id=request_id,
        phase=phase,
        hits=[_wire_hit(hit, query) for hit in page.hits],
        took_ms=took_ms,
        next_cursor=msgspec.UNSET if page.next_cursor is None else page.next_cursor,
        degraded=degraded or msgspec.UNSET,
        corrections=list(page.corrections) or msgspec.UNSET,
        loosened=page.loosened or msgspec.UNSET,
    )


def _wire_hit(hit: Hit, query: Query) -> s.SearchHit:
    return s.SearchHit(
        segment_id=hit.segment_id,
        recording_id=hit.recording_id,
        title=hit.title,
        speaker=hit.speaker,
        start_ms=hit.start_ms,
        end_ms=hit.end_ms,
        rev=hit.rev,
        text=hit.text,
        highlights=list(hit.highlights),
        score=hit.score,
        before=[_wire_beside(beside) for beside in hit.before] if query.around else msgspec.UNSET,
        after=[_wire_beside(beside) for beside in hit.after] if query.around else msgspec.UNSET,
        more=hit.more if query.grouped else msgspec.UNSET,
    )


def wire_match(match: Match[Key], heard: Heard) -> s.SearchHit:
    """The hit of a `search:match`."""
    return s.SearchHit(
        segment_id=heard.segment_id,
        recording_id=heard.recording_id,
        title=heard.title,
        speaker=heard.speaker,
        start_ms=heard.start_ms,
        end_ms=heard.end_ms,
        rev=heard.rev,
        text=heard.text,
        highlights=list(match.highlights),
        score=match.score,
    )


def _wire_beside(beside: Beside) -> s.SearchBeside:
    return s.SearchBeside(
        segment_id=beside.segment_id,
        speaker=beside.speaker,
        start_ms=beside.start_ms,
        end_ms=beside.end_ms,
        text=beside.text,
    )


def _filters(given: s.SearchFilters | None) -> Filters:
    if given is None:
        return Filters()
    return Filters(
        recording_ids=None if given.recording_ids is None else tuple(given.recording_ids),
        speakers=None if given.speakers is None else tuple(given.speakers),
        languages=None if given.languages is None else tuple(given.languages),
        tags=None if given.tags is None else tuple(given.tags),
        from_ms=given.from_,
        to_ms=given.to,
    )
