"""What people searched for, as far as it is remembered: their own history and the tenant's analytics.

Policy: nothing of this waits within a search. What settled (`search.settling`) and what was opened goes into a queue
that is written in batches, twice a second; when the database is away the queue fills and drops what is newest, because
a history is no truth. Who asks for the history, or for the analytics, sees what has just been typed and answered too.
A hit counts as opened once for a query, and only where this connection was told of it.

Boundary: `server.store.searches`. Invariant: at most `searches_unwritten_max` entries wait, and of a connection the
answers of `search_clicks_remembered` queries are known.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager

from auth.model import Identity
from search.model import Page
from search.settling import Settled, Settling, Typed
from server.store import searches
from server.store.pool import Connection, Database
from server.telemetry import METRICS
from streaming.errors import Unavailable
from streaming.limits import Limits

log = logging.getLogger(__name__)

Place = tuple[Hashable, str]
"""Where somebody types: a connection, or whoever else asks, and its slot."""


class _Answer:
    """What a query found, in both phases, and what was opened of it."""

    __slots__ = ("found", "opened", "typed")

    def __init__(self, typed: Typed | None) -> None:
        self.typed = typed
        self.found: set[str] = set()
        self.opened: set[str] = set()


class _Unwritten:
    """Of one tenant."""

    def __init__(self) -> None:
        self.searches: list[Settled] = []
        self.clicks: list[str] = []

    def __len__(self) -> int:
        return len(self.searches) + len(self.clicks)


class SearchLog:
    """`run` is a component. `clock`: Unix seconds."""

    def __init__(self, database: Database, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._settling = Settling(limits, new_id=lambda: secrets.token_hex(12))
        self._slots: dict[Hashable, set[str]] = {}
        self._answers: dict[Hashable, dict[str, _Answer]] = {}
        self._unwritten: dict[str, _Unwritten] = {}
        self._waiting = 0
        self._writing = asyncio.Lock()

    # --- what is told of a search -----------------------------------------------------------------------------
    def asked(self, place: Place, typed: Typed) -> None:
        owner, slot = place
        self._slots.setdefault(owner, set()).add(slot)
        self._keep(self._settling.asked(place, typed, self._now_ms()))

    def answered(self, owner: Hashable, request_id: str, typed: Typed | None, page: Page) -> None:
        """A phase of it was."""
        if typed is not None:
            typed.hits = len(page.hits)
        answers = self._answers.setdefault(owner, {})
        answer = answers.get(request_id)
        if answer is None or answer.typed is not typed:
            answers.pop(request_id, None)
            answer = answers[request_id] = _Answer(typed)
            if len(answers) > self._limits.search_clicks_remembered:
                del answers[next(iter(answers))]
        answer.found.update(hit.segment_id for hit in page.hits)

    def clicked(self, owner: Hashable, request_id: str, segment_id: str) -> bool:
        """False: it was not told of such a hit."""
        answer = self._answers.get(owner, {}).get(request_id)
        if answer is None or segment_id not in answer.found:
            return False
        if segment_id in answer.opened:
            return True
        answer.opened.add(segment_id)
        typed = answer.typed
        if typed is None:
            return True  # a later page: its query is remembered by its first
        settled = None if typed.told else typed.settle()
        self._keep([settled] if settled is not None else [])
        if self._has_room():
            self._of(typed.tenant_id).clicks.append(typed.search_id)
        return True

    def gone(self, owner: Hashable) -> None:
        """It asks no more."""
        self._answers.pop(owner, None)
        slots = self._slots.pop(owner, set())
        self._keep(self._settling.left((owner, slot) for slot in sorted(slots)))

    # --- what is asked of it ----------------------------------------------------------------------------------
    async def history(self, who: Identity, limit: int) -> list[searches.Entry]:
        """One's own queries, the newest first. Raises `Unavailable`."""
        self._keep(self._settling.answered_of(who.tenant_id, who.user_id))
        async with self._written(who.tenant_id) as connection:
            limit = min(limit, self._limits.search_history_max)
            return await searches.history(connection, who.tenant_id, who.user_id, limit)

    async def clear(self, who: Identity) -> None:
        """Forget one's own queries. Raises `Unavailable`."""
        self._settling.forget(who.tenant_id, who.user_id)
        async with self._written(who.tenant_id) as connection:
            await searches.clear(connection, who.tenant_id, who.user_id)

    async def begun(self, who: Identity, folded: str, limit: int) -> list[str]:
        """One's own queries that begin so. Raises `Unavailable`."""
        async with self._database.tenant_tx(who.tenant_id) as connection:
            return await searches.begun(connection, who.tenant_id, who.user_id, folded, limit)

    async def analytics(self, tenant_id: str, days: int) -> searches.Analytics:
        """Raises `Unavailable`."""
        self._keep(self._settling.answered_of(tenant_id))
        async with self._written(tenant_id) as connection:
            rows = self._limits.search_analytics_rows_max
            return await searches.analytics(connection, tenant_id, days=days, rows=rows)

    # --- writing ----------------------------------------------------------------------------------------------
    async def run(self) -> None:
        lost = False
        while True:
            await asyncio.sleep(self._limits.searches_write_ms / 1000)
            try:
                await self.write()
                lost = False
            except Unavailable:
                if not lost:
                    log.warning("searches are not remembered: the database is away")
                lost = True

    async def write(self) -> None:
        """What has settled, and what waits. Raises `Unavailable`."""
        self._keep(self._settling.due(self._now_ms()))
        for tenant_id in list(self._unwritten):
            async with self._written(tenant_id):
                pass

    @asynccontextmanager
    async def _written(self, tenant_id: str) -> AsyncIterator[Connection]:
        """A transaction that begins with what waits of this tenant; what was not committed waits on."""
        async with self._writing:
            batch = self._unwritten.pop(tenant_id, None) or _Unwritten()
            try:
                async with self._database.tenant_tx(tenant_id) as connection:
                    await searches.write(connection, tenant_id, batch.searches, batch.clicks)
                    yield connection
            except (Unavailable, asyncio.CancelledError):
                newer = self._unwritten.pop(tenant_id, None) or _Unwritten()
                batch.searches += newer.searches
                batch.clicks += newer.clicks
                if len(batch):
                    self._unwritten[tenant_id] = batch
                raise
            self._waiting -= len(batch)

    def _keep(self, settled: Sequence[Settled]) -> None:
        for search in settled:
            if self._has_room():
                self._of(search.tenant_id).searches.append(search)

    def _of(self, tenant_id: str) -> _Unwritten:
        self._waiting += 1
        return self._unwritten.setdefault(tenant_id, _Unwritten())

    def _has_room(self) -> bool:
        if self._waiting < self._limits.searches_unwritten_max:
            return True
        METRICS.searches.forgotten.inc()
        return False

    def _now_ms(self) -> int:
        return int(self._clock() * 1_000)
