"""Find segments by words and by meaning: what an index finds, as the truth has it now.

Policy: the index names candidates (the newest `search_candidates_max` matches, the `search_nearest_max` nearest of each
model); they are ordered here (`search.ranking`), alike for every index. Words that nobody said are looked for in other
spellings when there are few hits; the last word, which may still go on, only when there are none. Where no segment has
all of the words, those that have any of them are found (nDCG@10 of keywords 0.16 better on half of `bench/quality`),
but not beside meaning, which knows better then (0.03 worse). The full answer to a query goes on with the matches that
its instant answer found.

Pages repeat and skip nothing while the index grows: the node that gave a cursor out remembers what was shown until
then, within bounds; another node continues after the last position.

Boundary: `Index`, `Transcripts`, `Words`; their `Unavailable` passes. Invariant: nothing is shown but what
`Transcripts.shown` gives to this user, with its words as they are now.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from search.analysis import analyse
from search.matching import expression, loosened, marks
from search.model import (
    LATEST_US,
    Bounds,
    Cursor,
    Expression,
    Found,
    Hit,
    Mode,
    Page,
    Position,
    Query,
    QueryVector,
    Shown,
    Sort,
)
from search.ports import Index, Transcripts, Words
from search.query import encode_cursor, query_key
from search.ranking import aged, by_time, either, following, fused, grouped, order_key, positions
from streaming.errors import BadRequest, Unavailable
from streaming.limits import LIMITS, Limits

AS_TYPED, CORRECTED, LAST_CORRECTED, LOOSENED = 0, 1, 2, 3
"""`Cursor.corrected`."""
FIRST_PAGES = 4
"""Pages of candidates for a first page: what age or meaning lifts onto it from behind them would be seen by nobody, and
each takes the index some 20 us."""
BEGUN_MAX = 64
"""Matches that are kept until their query's full answer: more queries are never between the two at one node."""


class Worded(msgspec.Struct, frozen=True):
    """What the words of a query found. `corrected`: as in `Cursor`."""

    expression: Expression
    found: list[Found]
    corrected: int = AS_TYPED
    corrections: tuple[tuple[str, str], ...] = ()


class Ordered(msgspec.Struct, frozen=True):
    """What is to be shown, best first. `recordings`: of each segment; `more`: further hits there, when grouped."""

    order: Sequence[Position]
    recordings: Mapping[str, str]
    more: Mapping[str, int] = {}


def now_us() -> int:
    return time.time_ns() // 1_000


class Finder:
    """Answers queries of users whose identity is verified. `now`: microseconds since 1970."""

    def __init__(
        self,
        index: Index,
        transcripts: Transcripts,
        words: Words,
        limits: Limits = LIMITS,
        now: Callable[[], int] = now_us,
    ) -> None:
        self._index = index
        self._transcripts = transcripts
        self._words = words
        self._limits = limits
        self._now = now
        self._memory = Memory(limits.search_shown_max)
        self._begun: dict[tuple[str, str, int], tuple[Query, Worded]] = {}

    async def instant(self, tenant_id: str, user_id: str, query: Query) -> Page:
        """A page by words alone, whatever the query's mode is. An empty query has no hits. Raises `Unavailable`, and
        `BadRequest` (field "cursor") when the cursor's order was made with vectors (`query.cursor.fused`)."""
        if query.is_empty:
            return Page(())
        if query.cursor is not None and query.cursor.fused:
            raise BadRequest("The next page of this order needs meaning too.", field="cursor")
        bounds = await self._bounds(tenant_id, user_id, query)
        worded = await self._by_words(tenant_id, query, bounds)
        if query.cursor is None:
            self._keep(tenant_id, user_id, query, worded)
        return await self._page(tenant_id, user_id, query, worded, ())

    async def full(self, tenant_id: str, user_id: str, query: Query, vectors: Sequence[QueryVector]) -> Page:
        """A page by words and meaning, or by meaning alone, as the query's mode has it; by words alone without vectors,
        and where its cursor began so (`not query.cursor.fused`). Several vectors: of several models. Raises
        `Unavailable`, also when an order that was made with vectors is to be continued without."""
        if query.is_empty:
            return Page(())
        if query.cursor is not None and query.cursor.fused and not vectors:
            raise Unavailable("The embedding model is away; the next page needs it.", retry_after_ms=1_000)
        if not vectors or (query.cursor is not None and not query.cursor.fused):
            begun = self._taken(tenant_id, user_id, query)
            if begun is None:
                return await self.instant(tenant_id, user_id, query)
            return await self._page(tenant_id, user_id, query, begun, ())
        bounds = await self._bounds(tenant_id, user_id, query)
        worded = Worded(Expression(()), [])
        if query.mode is not Mode.SEMANTIC:
            worded = self._taken(tenant_id, user_id, query) or await self._by_words(tenant_id, query, bounds)
        if worded.corrected == LOOSENED:
            worded = Worded(Expression(()), [])
        wide = msgspec.structs.replace(bounds, sort=Sort.RELEVANCE, after=None, limit=self._limits.search_nearest_max)
        near = [await self._index.near(tenant_id, vector, wide) for vector in vectors]
        return await self._page(tenant_id, user_id, query, worded, near)

    async def _bounds(self, tenant_id: str, user_id: str, query: Query) -> Bounds:
        """Of the candidates; when the newest are wanted, of one page and one more."""
        cursor, speakers = query.cursor, query.filters.speakers
        named = await self._transcripts.spoken_by(tenant_id, speakers) if speakers else ()
        limit, after = self._limits.search_candidates_max, None
        if cursor is None and not query.grouped:
            limit = min(self._limits.search_first_max, max(FIRST_PAGES * query.limit, self._limits.search_few_hits))
        if _by_position(query):
            limit, after = max(query.limit + 1, self._limits.search_few_hits), cursor.last if cursor else None
        return Bounds(
            user_id=user_id,
            filters=query.filters,
            named=tuple(named),
            newest_us=cursor.newest_us if cursor else LATEST_US,
            sort=query.sort,
            after=after,
            limit=limit,
        )

    async def _by_words(self, tenant_id: str, query: Query, bounds: Bounds) -> Worded:
        """As they were typed, and when that is too little, as they may have been meant."""
        languages = await self._transcripts.languages(tenant_id)
        typed = Worded(expression(query, languages), [])
        cursor = query.cursor
        corrected = cursor.corrected if cursor else AS_TYPED
        if not corrected:
            typed = Worded(typed.expression, await self._index.match(tenant_id, typed.expression, bounds))
            if cursor is not None or len(typed.found) >= self._limits.search_few_hits:
                return typed
            corrected = CORRECTED if typed.found else LAST_CORRECTED
        wanted = self._correctable(query, corrected)
        said = await self._words.similar(tenant_id, bounds.user_id, wanted) if wanted else {}
        pairs = tuple((word, other) for word in wanted for other in said.get(word, ()))
        meant = Worded(expression(query, languages, said), [], corrected, pairs)
        if cursor is not None or pairs:
            if corrected == LOOSENED:
                meant = msgspec.structs.replace(meant, expression=loosened(meant.expression))
            found = await self._index.match(tenant_id, meant.expression, bounds)
            meant = msgspec.structs.replace(meant, found=found)
            if cursor is not None or len(found) > len(typed.found):
                return meant
        if typed.found:
            return typed
        return await self._by_any(tenant_id, meant, bounds) or typed

    async def _by_any(self, tenant_id: str, meant: Worded, bounds: Bounds) -> Worded | None:
        """What has any of the words, where nothing has all; None: it is one word, or nobody said any."""
        other = loosened(meant.expression)
        if other == meant.expression:
            return None
        found = await self._index.match(tenant_id, other, bounds)
        return Worded(other, found, LOOSENED, meant.corrections) if found else None

    def _correctable(self, query: Query, corrected: int) -> list[str]:
        """Words of a query that may be misspelled."""
        if corrected == AS_TYPED:
            return []
        goes_on = query.prefix and corrected == CORRECTED
        words = query.words[:-1] if goes_on else query.words
        least = self._limits.search_correct_chars_min
        return list(dict.fromkeys(w for w in words if len(w) >= least and w.isalpha()))

    async def _page(
        self, tenant_id: str, user_id: str, query: Query, worded: Worded, near: Sequence[Sequence[Found]]
    ) -> Page:
        """The page of the query's cursor, without what this user may not see any more."""
        cursor = query.cursor
        every = [found for ranking in (worded.found, *near) for found in ranking]
        newest_us = cursor.newest_us if cursor else max([self._now(), *(f.spoken_at_us for f in every)])
        ordered = _ordered(query, worded.found, near, newest_us)
        shown_before: frozenset[str] | None = None
        order = ordered.order
        if cursor is not None:
            shown_before = self._memory.of(tenant_id, user_id, cursor.shown)
            order = _rest(query, cursor, ordered, shown_before)
        page = order[: query.limit]
        names = [position.segment_id for position in page]
        now = await self._transcripts.shown(tenant_id, user_id, names, around=query.around)
        by_words = {found.segment_id for found in worded.found}
        hits = tuple(
            _hit(now[p.segment_id], p.score, worded.expression if p.segment_id in by_words else None, ordered.more)
            for p in page
            if p.segment_id in now
        )
        if len(order) <= query.limit:
            return Page(hits, None, worded.corrections, worded.corrected == LOOSENED)
        key = 0
        if not _by_position(query) and (cursor is None or shown_before is not None):
            shown = (shown_before or frozenset()).union(_shown_as(query, ordered, name) for name in names)
            key = self._memory.keep(tenant_id, user_id, shown)
        following_page = Cursor(query_key(query), page[-1], newest_us, bool(near), worded.corrected, key)
        return Page(hits, encode_cursor(following_page), worded.corrections, worded.corrected == LOOSENED)

    def _keep(self, tenant_id: str, user_id: str, query: Query, worded: Worded) -> None:
        while len(self._begun) >= BEGUN_MAX:
            del self._begun[next(iter(self._begun))]
        self._begun[tenant_id, user_id, id(query)] = (query, worded)

    def _taken(self, tenant_id: str, user_id: str, query: Query) -> Worded | None:
        """What the instant answer to this very query found: the query is held with it, so its id is no other's."""
        held = self._begun.pop((tenant_id, user_id, id(query)), None)
        return None if held is None else held[1]


class Memory:
    """What was shown to users under keys that cannot be guessed; the oldest is forgotten past `ids_max` ids."""

    def __init__(self, ids_max: int) -> None:
        self._ids_max = ids_max
        self._held: dict[tuple[str, str, int], frozenset[str]] = {}
        self._ids = 0

    def keep(self, tenant_id: str, user_id: str, shown: frozenset[str]) -> int:
        key = secrets.randbits(48)
        self._held[tenant_id, user_id, key] = shown
        self._ids += len(shown)
        while self._ids > self._ids_max:
            self._ids -= len(self._held.pop(next(iter(self._held))))
        return key

    def of(self, tenant_id: str, user_id: str, key: int) -> frozenset[str] | None:
        """None: never kept here, or forgotten."""
        return self._held.get((tenant_id, user_id, key))


def _by_position(query: Query) -> bool:
    """Its pages are ranges of time: nothing has to be remembered, and there is no last candidate."""
    return query.sort is Sort.NEWEST and not query.grouped


def _ordered(query: Query, worded: Sequence[Found], near: Sequence[Sequence[Found]], newest_us: int) -> Ordered:
    recordings = {found.segment_id: found.recording_id for ranking in (worded, *near) for found in ranking}
    nearest = either([positions(ranking) for ranking in near]) if near else []
    if query.sort is Sort.NEWEST:
        order = by_time(positions(worded), nearest)
    elif near and query.mode is Mode.SEMANTIC:
        order = nearest
    elif near:
        order = fused(aged(worded, newest_us), nearest)
    else:
        order = aged(worded, newest_us)
    if not query.grouped:
        return Ordered(order, recordings)
    best, more = grouped(order, recordings)
    return Ordered(best, recordings, more)


def _rest(query: Query, cursor: Cursor, ordered: Ordered, shown: frozenset[str] | None) -> Sequence[Position]:
    """What follows the cursor."""
    if _by_position(query):
        return [p for p in ordered.order if order_key(p) > order_key(cursor.last)]
    if shown is None:
        return following(ordered.order, cursor.last)
    return [p for p in ordered.order if _shown_as(query, ordered, p.segment_id) not in shown]


def _shown_as(query: Query, ordered: Ordered, segment_id: str) -> str:
    """A group is its recording, whichever hit is its best."""
    return ordered.recordings[segment_id] if query.grouped else segment_id


def _hit(shown: Shown, score: float, wanted: Expression | None, more: Mapping[str, int]) -> Hit:
    """`wanted`: None where no words are marked."""
    return Hit(
        segment_id=shown.segment_id,
        recording_id=shown.recording_id,
        title=shown.title,
        speaker=shown.speaker,
        start_ms=shown.start_ms,
        end_ms=shown.end_ms,
        rev=shown.rev,
        text=shown.text,
        highlights=() if wanted is None else marks(wanted, analyse(shown.text, shown.language)),
        score=score,
        before=shown.before,
        after=shown.after,
        more=more.get(shown.segment_id, 0),
    )


__all__ = ["Finder", "Memory"]
