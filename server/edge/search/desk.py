"""Searches of clients: a query per keystroke, of which only the newest of a slot counts.

`instant` is what the words find, `full` adds what is near in meaning. Without a vector in time `full` is the words'
answer again and says `degraded`; a query by keywords, or of function words only, wants none. In semantic mode `instant`
has no hits, because words are not what was asked for. The next page of a fused order has no honest answer by words
alone: it comes as `full` only, or fails as `unavailable`; a cursor of words alone goes on with words alone.

Policy: whose turn it is says `search.turns`. A query that a newer one waits for is not broken off in the database,
which asyncpg would do by a new connection: its instant answer is still told, its second phase is left out, and it ends
as superseded before the newer one begins. While it only waits for its vector it ends at once.

Measured (CPU for a keystroke, two slots at 12 keys a second each, no vectors, two busy cores at 2 GHz): 2.7 ms of the
server and 1.4 ms of Postgres, every key answered in both phases; as fast as they are acknowledged (600 keys in 3.8 s)
0.9 and 0.4 ms, because three of four keys are superseded before they run.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from auth.model import Identity
from search.finding import Finder
from search.meaning import QueryVectors
from search.model import Mode, Page, Query, QueryVector
from search.query import has_meaning, parse
from search.settling import Typed
from search.turns import Asked, Turns
from server.edge.connection import Connection
from server.edge.errors import as_known, wire_error
from server.edge.search.remembered import SearchLog
from server.edge.search.wire import parse_query, results
from server.telemetry import METRICS
from streaming.errors import BadRequest, Overloaded, ParlanceError, Unavailable
from streaming.limits import LIMITS, Limits
from streaming.protocol import searches as s

log = logging.getLogger(__name__)


class Answers:
    """The two phases of a query's answer."""

    def __init__(self, finder: Finder, vectors: QueryVectors) -> None:
        self._finder = finder
        self._vectors = vectors

    async def instant(self, who: Identity, query: Query) -> Page | None:
        """None: it goes on with an order that vectors made."""
        if _is_fused(query):
            return None
        if query.mode is Mode.SEMANTIC:
            return Page(())
        return await self._finder.instant(who.tenant_id, who.user_id, query)

    async def vectors(self, query: Query) -> list[QueryVector]:
        """What the meaning is found by; none in time, or none wanted: go on with words alone."""
        if not wants_meaning(query) or (query.cursor is not None and not _is_fused(query)):
            return []
        return await self._vectors.of(query)

    async def full(
        self, who: Identity, query: Query, instant: Page | None, vectors: list[QueryVector]
    ) -> tuple[Page, bool]:
        """The page, and whether it is degraded. Raises `Unavailable` where only a vector can continue what was begun,
        `BadRequest` where none could have begun it."""
        if not wants_meaning(query):
            if instant is None:
                raise BadRequest("This cursor belongs to another query.", field="cursor")
            return instant, False
        if not vectors and instant is None:
            raise Unavailable("The embedding model is away; the next page needs it.", retry_after_ms=1_000)
        if not vectors and instant is not None and query.mode is Mode.HYBRID:
            return instant, True
        return await self._finder.full(who.tenant_id, who.user_id, query, vectors), not vectors


class Run:
    """A query that waits for its turns or has one. `begin`: the first has come; `refuse`: it waited too long.
    `only_waits`: for its vector, or for the turn after it, so that its task may be cancelled."""

    __slots__ = ("_again", "_begin", "_refuse", "begun", "only_waits", "query", "task", "typed")

    def __init__(
        self, query: Query, typed: Typed | None, begin: Callable[[], None], refuse: Callable[[ParlanceError], None]
    ) -> None:
        self.query = query
        self.typed = typed
        self._begin = begin
        self._refuse = refuse
        self._again: asyncio.Future[None] | None = None
        self.begun = False
        self.only_waits = False
        self.task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """A turn has come."""
        if not self.begun:
            self.begun = True
            self._begin()
        elif self._again is not None and not self._again.done():
            self._again.set_result(None)

    def refuse(self, error: ParlanceError) -> None:
        """No turn has come."""
        if not self.begun:
            self._refuse(error)
        elif self._again is not None and not self._again.done():
            self._again.set_exception(error)

    def again(self) -> asyncio.Future[None]:
        """To be awaited: the turn after the first."""
        self._again = asyncio.get_running_loop().create_future()
        return self._again


class SearchDesk:
    """Offers queries to the index and tells the caller. `query` never waits."""

    def __init__(self, answers: Answers, remembered: SearchLog, limits: Limits) -> None:
        self.answers = answers
        self.remembered = remembered
        self._limits = limits
        self._turns: Turns[Run] = Turns(limits)
        self._looking: asyncio.TimerHandle | None = None

    # --- of connections ---------------------------------------------------------------------------------------
    def query(self, connection: Connection, wanted: s.SearchQuery) -> None:
        """Begin a search. Raises `BadRequest` for a bad cursor or filter, `QuotaExceeded` for too many slots,
        `Overloaded`."""
        who = connection.identity
        query = parse_query(wanted, self._limits)
        typed = typed_of(who, query)
        run = Run(
            query,
            typed,
            begin=lambda: self._begin(connection, asked),
            refuse=lambda error: self._fail(connection, wanted.request_id, error),
        )
        asked = Asked(who.tenant_id, connection, wanted.slot, wanted.request_id, run)
        older = self._turns.offer(asked, _now_ms())
        if older is not None:
            self._supersede(connection, older)
        if typed is not None:
            self.remembered.asked((connection, wanted.slot), typed)
        running = self._turns.running_in(connection, wanted.slot)
        if running is not None and not running.cancelled and self._abandon(running):
            self._supersede(connection, running)
        self._pump()

    def cancel(self, connection: Connection, request_id: str) -> None:
        """Stop a search; nothing more is told of it. Unknown ids are fine: it may just have ended."""
        running = self._turns.cancel(connection, request_id)
        if running is not None:
            self._abandon(running)

    def gone(self, connection: Connection) -> None:
        """The connection has ended; its tasks are cancelled after this."""
        self._turns.gone(connection)
        self.remembered.gone(connection)

    def _begin(self, connection: Connection, asked: Asked[Run]) -> None:
        asked.what.task = connection.scope.spawn(self._run(connection, asked), name="search")

    async def _run(self, connection: Connection, asked: Asked[Run]) -> None:
        over = False
        try:
            async with asyncio.timeout(self._limits.search_ms_max / 1000):
                over = await self._tell(connection, asked)
        except Exception as error:  # the message boundary of a search
            if not asked.stale:
                self._fail(connection, asked.request_id, error)
                over = True
        finally:
            if not over and not asked.cancelled:
                self._supersede(connection, asked)
            self._turns.done(asked)
            self._pump()

    async def _tell(self, connection: Connection, asked: Asked[Run]) -> bool:
        """Both phases, as far as there are two; False when it became stale before its end."""
        started = time.perf_counter()
        who, query, run = connection.identity, asked.what.query, asked.what
        instant = await self.answers.instant(who, query)
        if instant is not None and not asked.cancelled:
            METRICS.search_seconds.observe(time.perf_counter() - started)
            connection.send("search:results", results(asked.request_id, "instant", query, instant, _ms_since(started)))
            self.remembered.answered(connection, asked.request_id, run.typed, instant)
        if asked.stale:
            return False
        vectors = await self._vectors(asked)
        page, degraded = await self.answers.full(who, query, instant, vectors)
        if asked.stale:
            return False
        full = results(asked.request_id, "full", query, page, _ms_since(started), degraded=degraded)
        connection.send("search:results", full)
        self.remembered.answered(connection, asked.request_id, run.typed, page)
        return True

    async def _vectors(self, asked: Asked[Run]) -> list[QueryVector]:
        """The query's, without a turn until they are there. Raises `Overloaded` when no turn comes then."""
        run = asked.what
        if not wants_meaning(run.query):
            return []
        self._turns.rest(asked)
        self._pump()
        run.only_waits = True
        try:
            vectors = await self.answers.vectors(run.query)
            turn = run.again()
            self._turns.again(asked, _now_ms())
            self._pump()
            await turn
            return vectors
        finally:
            run.only_waits = False

    def _abandon(self, asked: Asked[Run]) -> bool:
        """End a query that only waits for its vector: nothing more is told of it. False when it does more."""
        if not asked.what.only_waits or asked.what.task is None:
            return False
        asked.stale = asked.cancelled = True
        asked.what.task.cancel()
        return True

    def _supersede(self, connection: Connection, asked: Asked[Run]) -> None:
        METRICS.searches.superseded.inc()
        connection.send("search:superseded", s.SearchSuperseded(request_id=asked.request_id))

    def _fail(self, connection: Connection, request_id: str, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            error = Unavailable("The search took too long.", retry_after_ms=1_000)
        if not isinstance(error, ParlanceError):
            log.error("search failed", exc_info=error)
        connection.send("search:failed", s.SearchFailed(request_id=request_id, error=wire_error(as_known(error))))

    # --- turns ------------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def turn(self, who: Identity) -> AsyncIterator[None]:
        """A turn for who asks otherwise than by a connection. Raises `Overloaded`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run = Run(parse(""), None, begin=lambda: turn.set_result(None), refuse=turn.set_exception)
        owner = object()
        asked = Asked(who.tenant_id, owner, "", "", run)
        self._turns.offer(asked, _now_ms())
        self._pump()
        try:
            await turn
            async with asyncio.timeout(self._limits.search_ms_max / 1000):
                yield
        except TimeoutError:
            raise Unavailable("The search took too long.", retry_after_ms=1_000) from None
        finally:
            if run.begun:
                self._turns.done(asked)
            else:
                self._turns.gone(owner)
            self._pump()

    def _pump(self) -> None:
        for asked in self._turns.start():
            asked.what.begin()
        if self._turns.waiting and self._looking is None:
            delay_s = self._limits.search_wait_ms_max / 4_000
            self._looking = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        """Tell who waited too long."""
        self._looking = None
        for asked in self._turns.late(_now_ms()):
            asked.what.refuse(
                Overloaded("This node has no time for the search.", retry_after_ms=self._limits.search_retry_ms)
            )
        self._pump()


def typed_of(who: Identity, query: Query) -> Typed | None:
    """What may be remembered of a query; None for its next pages, and where no word was typed."""
    if query.cursor is not None or not query.words:
        return None
    return Typed(who.tenant_id, who.user_id, query.text[: LIMITS.query_chars_max], " ".join(query.words))


def wants_meaning(query: Query) -> bool:
    return query.mode is not Mode.KEYWORD and has_meaning(query) and not query.is_empty


def _is_fused(query: Query) -> bool:
    """It continues an order that was made with vectors."""
    return query.cursor is not None and query.cursor.fused


def _now_ms() -> float:
    return asyncio.get_running_loop().time() * 1_000


def _ms_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1_000)
