"""Compare the index with the database: what is missing in it, what it holds too much, and what is of another revision.

Policy: both are read page by page, so memory is bounded whatever there is: the database's segments are looked up in the
index, and what the index holds in the database. Talk goes on meanwhile, so what differs is looked at once more, after
the index jobs that wait have been done, where somebody does them. Only the edition that is searched is compared.

Boundary: `Index`, and SQL through `server.store.ledger`. Repairing is indexing again (`search.indexer`), and tells
whoever was not told yet. Invariant: nothing is counted that is right when it is looked at last.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress

import msgspec

from search.indexer import Indexer
from search.model import Held
from search.ports import Index, Rejected
from server.store import ledger
from server.store.editions import StoredEditions
from server.store.ledger import Fact
from server.store.pool import Database
from streaming.limits import LIMITS, Limits

PAGE = 200
TENANTS_PAGE = 100
NAMED_MAX = 20
"""Ids of each kind that a report names."""
JOBS_S_MAX = 10.0
"""For index jobs that wait to be done."""
LOOK_S = 0.1


class Difference(msgspec.Struct):
    """Of one tenant. `missing`, `extra`, `stale`: how many segments, and some of their ids."""

    tenant_id: str
    segments: int = 0
    missing: int = 0
    extra: int = 0
    stale: int = 0
    ids: dict[str, list[str]] = msgspec.field(default_factory=dict)

    @property
    def differs(self) -> bool:
        return bool(self.missing or self.extra or self.stale)

    def count(self, kind: str, names: Collection[str]) -> None:
        setattr(self, kind, getattr(self, kind) + len(names))
        if names:
            known = self.ids.setdefault(kind, [])
            known += sorted(names)[: NAMED_MAX - len(known)]


def compared(facts: Sequence[Fact], held: Sequence[Held], models: Collection[str]) -> dict[str, str]:
    """What is wrong with segments, of which either side has told all it knows: "missing", "extra" or "stale". Pure."""
    there = {one.segment_id: one for one in held}
    wrong: dict[str, str] = {}
    for fact in facts:
        one = there.pop(fact.segment_id, None)
        if one is None:
            wrong[fact.segment_id] = "missing"
        elif one.rev != fact.rev or set(models).intersection(one.models) != set(models).intersection(fact.models):
            wrong[fact.segment_id] = "stale"
    return wrong | dict.fromkeys(there, "extra")


class Verification:
    """`repair`: mend what differs; a report then counts what is still wrong."""

    def __init__(
        self,
        database: Database,
        *,
        editions: StoredEditions,
        index: Index,
        indexer: Indexer,
        repair: bool = False,
        limits: Limits = LIMITS,
    ) -> None:
        self._database = database
        self._editions = editions
        self._index = index
        self._indexer = indexer
        self._repair = repair
        self._limits = limits
        self._patient = True
        self.repaired = 0

    async def run(self) -> AsyncIterator[Difference]:
        """Every tenant that the database or the index knows, in turn."""
        models = sorted({e.model for e in await self._editions.open() if e.model})
        async for tenant_id in self._tenants():
            yield await self.tenant(tenant_id, models)

    async def _tenants(self) -> AsyncIterator[str]:
        indexed = set(await self._index.tenants())
        after = ""
        while page := await self._editions.tenants(after, TENANTS_PAGE):
            for tenant_id in page:
                indexed.discard(tenant_id)
                yield tenant_id
            after = page[-1]
        for tenant_id in sorted(indexed):
            yield tenant_id

    async def tenant(self, tenant_id: str, models: Sequence[str]) -> Difference:
        """Raises `Unavailable`."""
        found = Difference(tenant_id)
        after: str | None = ""
        while names := [name for name, _ in await self._editions.page(tenant_id, after or "", PAGE)]:
            found.segments += len(names)
            await self._differing(tenant_id, names, models, found)
            after = names[-1]
        after = None
        while True:
            held, after = await self._index.held(tenant_id, after, PAGE)
            facts = {fact.segment_id for fact in await self._facts(tenant_id, [h.segment_id for h in held], models)}
            extra = [one.segment_id for one in held if one.segment_id not in facts]
            await self._differing(tenant_id, extra, models, found)
            if after is None:
                return found

    async def _differing(self, tenant_id: str, names: Sequence[str], models: Sequence[str], found: Difference) -> None:
        """Compare, and again what differs; count what is wrong in the end."""
        wrong = await self._look(tenant_id, names, models)
        if wrong:
            await self._jobs_done()
            wrong = await self._look(tenant_id, list(wrong), models)
        if wrong and self._repair:
            before = len(wrong)
            with suppress(Rejected):  # counted below, and logged by its own job
                await self._indexer.refresh(tenant_id, list(wrong))
            wrong = await self._look(tenant_id, list(wrong), models)
            self.repaired += before - len(wrong)
        for kind in ("missing", "extra", "stale"):
            found.count(kind, [name for name, what in wrong.items() if what == kind])

    async def _look(self, tenant_id: str, names: Sequence[str], models: Sequence[str]) -> dict[str, str]:
        if not names:
            return {}
        facts = await self._facts(tenant_id, names, models)
        return compared(facts, await self._index.held_of(tenant_id, names), models)

    async def _facts(self, tenant_id: str, names: Sequence[str], models: Sequence[str]) -> list[Fact]:
        async with self._database.tenant_tx(tenant_id) as connection:
            return await ledger.facts(connection, tenant_id, names, models)

    async def _jobs_done(self) -> None:
        """Wait until the index jobs of now are done; once in vain is enough."""
        if not self._patient:
            return
        upto = await self._editions.last_job()
        try:
            async with asyncio.timeout(JOBS_S_MAX):
                while not await self._editions.jobs_done(upto):  # noqa: ASYNC110 (in the database)
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            self._patient = False
