"""An index while it moves from one adapter to another: both are written, the current edition's is searched.

Policy: an edition tells which adapter it belongs to. Words are looked for where the current edition is, meaning where
an edition with that model is, the current one first. An edition whose adapter is not here any more is left alone; if it
is the current one, the configured adapter answers with what it has.

Boundary: `Index`es by name; each gets `EditionsOf` its own. Invariant: what is put is put into every open edition that
can be reached.
"""

from collections.abc import Mapping, Sequence

from search.model import (
    Bounds,
    Edition,
    Expression,
    Found,
    Held,
    IndexCapabilities,
    IndexDocument,
    QueryVector,
)
from search.ports import Editions, Index


class EditionsOf:
    """The open editions of one adapter; the current one first where it is among them."""

    def __init__(self, editions: Editions, adapter: str) -> None:
        self._editions = editions
        self._adapter = adapter

    async def open(self) -> tuple[Edition, ...]:
        return tuple(edition for edition in await self._editions.open() if edition.adapter == self._adapter)


class SeveralIndexes:
    """`configured`: the adapter that new editions are made with."""

    def __init__(self, indexes: Mapping[str, Index], configured: str, editions: Editions) -> None:
        self._indexes = indexes
        self._configured = indexes[configured]
        self._editions = editions

    @property
    def capabilities(self) -> IndexCapabilities:
        return self._configured.capabilities

    async def put(self, tenant_id: str, documents: Sequence[IndexDocument], *, only: int | None = None) -> None:
        for index in await self._written(only):
            await index.put(tenant_id, documents, only=only)

    async def remove(self, tenant_id: str, segment_ids: Sequence[str]) -> None:
        for index in await self._written():
            await index.remove(tenant_id, segment_ids)

    async def forget(self, tenant_id: str) -> None:
        for index in await self._written():
            await index.forget(tenant_id)

    async def match(self, tenant_id: str, expression: Expression, bounds: Bounds) -> list[Found]:
        return await (await self._searched()).match(tenant_id, expression, bounds)

    async def near(self, tenant_id: str, vector: QueryVector, bounds: Bounds) -> list[Found]:
        for edition in await self._editions.open():
            if edition.model == vector.info.model and edition.adapter in self._indexes:
                return await self._indexes[edition.adapter].near(tenant_id, vector, bounds)
        return []

    async def held(self, tenant_id: str, after: str | None, limit: int) -> tuple[list[Held], str | None]:
        return await (await self._searched()).held(tenant_id, after, limit)

    async def held_of(self, tenant_id: str, segment_ids: Sequence[str]) -> list[Held]:
        return await (await self._searched()).held_of(tenant_id, segment_ids)

    async def tenants(self) -> list[str]:
        return await (await self._searched()).tenants()

    async def begin(self, edition: Edition) -> None:
        if (index := self._indexes.get(edition.adapter)) is not None:
            await index.begin(edition)

    async def drop(self, edition: Edition) -> None:
        if (index := self._indexes.get(edition.adapter)) is not None:
            await index.drop(edition)

    async def _written(self, only: int | None = None) -> list[Index]:
        """Those with open editions; the configured one where nothing is known, so that it says so itself."""
        adapters = dict.fromkeys(
            edition.adapter for edition in await self._editions.open() if only in (None, edition.number)
        )
        return [self._indexes[name] for name in adapters if name in self._indexes] or [self._configured]

    async def _searched(self) -> Index:
        editions = await self._editions.open()
        return self._indexes.get(editions[0].adapter, self._configured) if editions else self._configured
