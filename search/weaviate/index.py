"""The index in Weaviate: a collection for each edition, a tenant in it for each tenant, behind `search.ports.Index`.

Policy: filters decide what is found, BM25 over our tokens in which order; who has only the beginning of a word follows,
newest first. Meaning is asked of the edition that holds the model's vectors, and fused by the caller: Weaviate's own
hybrid query takes as long (14 ms) as the two at once (14 ms), knows no order by time and fuses in its own way. Measured
at 30,000 segments of one tenant (CPU of Weaviate, and ours): the best 200 by BM25 4 to 15 ms and 3 to 6, the newest 21
2 to 5 ms and 1.5, the nearest 100 12 to 16 ms; a put 1.25 ms a segment, with its vector, and 0.17. What came
within the last minute is not on its disk yet and costs more: 160 to 250 ms for BM25 just after 30,000 were put at once,
by that some 6 ms for 1,000.

Weaviate answers a put before the vectors' own log is written: what it said it had was lost with a kill -9 (the last
batch of each tenant, measured). Its last object is put again, which changes nothing and writes that log.

Boundary: `search.weaviate.link`; every error is `Unavailable`, but what Weaviate will refuse again is `Rejected`.
Invariant: every call names a tenant, and a filter its user (`search.weaviate.schema`).
"""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from weaviate.classes.data import DataObject
from weaviate.classes.query import Filter, MetadataQuery
from weaviate.classes.query import Sort as SortBy
from weaviate.exceptions import (
    WeaviateBaseError,
    WeaviateDeleteManyError,
    WeaviateInsertManyAllFailedError,
    WeaviateQueryError,
)

from search.model import (
    Bounds,
    Edition,
    Expression,
    Found,
    Held,
    IndexCapabilities,
    IndexDocument,
    Position,
    QueryVector,
    Sort,
)
from search.ports import Editions, Rejected
from search.weaviate import schema as schema
from search.weaviate.link import Client, Link
from search.weaviate.schema import Condition
from search.weaviate.tenants import Resting
from streaming.errors import Unavailable
from streaming.limits import LIMITS, Limits

SCHEMA = schema.SCHEMA
NAME = "weaviate"
PREFIX = "Parlance"
BEGINNING = 1e-3
"""The score of a segment that has only the beginning of a word: below BM25's of any whole one."""
EQUALS = 50  # hits that are fetched at least: among equal ones the newest stay
LOOSE_ROUNDS = 10
"""Pages that are read for one of segments in which three words stand side by side."""
TENANTS_AT_ONCE = 8
TENANTS_PER_CHANGE = 100
IDS_PER_CALL = 500
FOR_EVER = re.compile(r"dimension|vector with length|wrong size|^invalid .*propert", re.IGNORECASE)
"""What Weaviate says of an object that it will never take."""
NO_TENANT = "tenant not found"
NO_COLLECTION = re.compile(r"could not find class|multi-tenancy disabled")
"""Where a server makes collections by itself, it makes one without tenants for an object that has none."""
ALL_FAILED = "set of all errors: "
EXISTS = re.compile("already exists|already in use")
NEWEST = SortBy.by_property("spoken_at", ascending=False)
BY_ID = SortBy.by_property("segment_id", ascending=True)
FIRST = str(uuid.UUID(int=0))
"""Objects are read in the order of their ids."""

T = TypeVar("T")
Objects = list[Any]
Ask = Callable[..., Awaitable[Objects]]


class WeaviateIndex:
    """`prefix`: of its collections' names, for servers that several installations share. `now`: seconds."""

    def __init__(
        self,
        link: Link,
        editions: Editions,
        limits: Limits = LIMITS,
        *,
        prefix: str = PREFIX,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._editions = editions
        self._limits = limits
        self._prefix = prefix
        self._there: set[str] = set()
        self.rest = Resting(link, limits, now)

    @property
    def capabilities(self) -> IndexCapabilities:
        return IndexCapabilities(name=NAME, vectors=True, schema=SCHEMA)

    async def run(self) -> None:
        """A component."""
        await self.rest.run(self._names)

    async def works(self) -> bool:
        return await self._link.works()

    async def close(self) -> None:
        await self._link.close()

    # --- writing --------------------------------------------------------------------------------------------------
    async def put(self, tenant_id: str, documents: Sequence[IndexDocument], *, only: int | None = None) -> None:
        latest = {document.segment_id: document for document in documents}
        if not latest:
            return
        editions = [edition for edition in await self._editions.open() if only in (None, edition.number)]
        if not editions:
            raise Unavailable("This edition of the search index is not open here yet.")
        refused: dict[str, str] = {}
        for edition in editions:
            refused |= await self._put(tenant_id, edition, list(latest.values()))
        if refused:
            raise Rejected("The index refused segments.", refused)

    async def _put(self, tenant_id: str, edition: Edition, documents: Sequence[IndexDocument]) -> dict[str, str]:
        """Returns what will never be taken, and why."""
        refused: dict[str, str] = {}
        objects: list[Any] = []
        for document in documents:
            vector = schema.vector_for(document, edition.model)
            if (why := schema.unfit(vector)) is not None:
                refused[document.segment_id] = why
                continue
            objects.append(
                DataObject(
                    uuid=schema.object_id(document.segment_id),
                    properties=schema.values_of(document, "" if vector is None else edition.model),
                    vector=None if vector is None else vector.tolist(),
                )
            )
        name = self._name(edition)

        async def insert(client: Client) -> dict[str, str]:
            await self._expect(client, name)
            collection = client.collections.get(name).with_tenant(tenant_id)
            errors = await _insert(collection, objects)
            taken = [o for at, o in enumerate(objects) if at not in errors and o.vector is not None]
            if taken:
                await collection.data.insert_many(taken[-1:])
            return {str(objects[at].properties["segment_id"]): why for at, why in errors.items()}

        if objects:
            said = await self._used(name, tenant_id, insert)
            passing = [why for why in said.values() if not FOR_EVER.search(why)]
            if passing:
                self._lost(name, passing)
                raise Unavailable("The search index did not take segments.")
            refused |= said
        return refused

    async def remove(self, tenant_id: str, segment_ids: Sequence[str]) -> None:
        for edition in await self._editions.open() if segment_ids else ():
            name = self._name(edition)
            for at in range(0, len(segment_ids), IDS_PER_CALL):
                which = Filter.by_property("segment_id").contains_any(list(segment_ids[at : at + IDS_PER_CALL]))
                await self._used(name, tenant_id, partial(_delete, name=name, tenant_id=tenant_id, which=which))

    async def forget(self, tenant_id: str) -> None:
        for edition in await self._editions.open():
            name = self._name(edition)

            async def forget(client: Client, name: str = name) -> None:
                if await client.collections.exists(name):
                    await client.collections.get(name).tenants.remove([tenant_id])

            await self._link.call(forget, ms=self._limits.index_change_ms_max)
            self.rest.forget(name, tenant_id)

    # --- finding --------------------------------------------------------------------------------------------------
    async def match(self, tenant_id: str, expression: Expression, bounds: Bounds) -> list[Found]:
        if not expression.clauses or schema.nothing_fits(bounds):
            return []
        ask = self._asker((await self._open())[0], tenant_id, loose=schema.is_loose(expression))
        wanted = schema.allowed(bounds) & schema.worded(expression)
        if bounds.sort is Sort.NEWEST:
            return await self._newest(ask, wanted, expression, bounds)
        return await self._best(ask, wanted, expression, bounds)

    async def near(self, tenant_id: str, vector: QueryVector, bounds: Bounds) -> list[Found]:
        if schema.nothing_fits(bounds):
            return []
        info = vector.info
        edition = next((e for e in await self._editions.open() if e.model == info.model), None)
        if edition is None:
            return []
        objects = await self._asker(edition, tenant_id)(
            "near_vector",
            near_vector=vector.values.tolist(),
            distance=max(0.0, 1 - info.similarity_min),
            filters=schema.allowed(bounds),
            limit=bounds.limit,
            return_metadata=MetadataQuery(distance=True),
        )
        found = [_found(one, 1 - one.metadata.distance) for one in objects]
        return _ordered([one for one in found if one.score >= info.similarity_min])

    async def _best(self, ask: Ask, wanted: Condition, expression: Expression, bounds: Bounds) -> list[Found]:
        """By BM25; then those of which it knows nothing. More than are wanted: of equal ones the newest stay."""
        loose, limit = schema.is_loose(expression), self._limits.search_candidates_max
        wanted_max = min(bounds.limit, limit)
        if not loose:
            limit = min(limit, max(bounds.limit, EQUALS))
        ranked = ask(
            "bm25",
            query=schema.ranked_by(expression),
            query_properties=["tokens"],
            filters=wanted,
            limit=limit,
            return_metadata=MetadataQuery(score=True),
        )
        if schema.finds_beginnings(expression):
            best, newest = await asyncio.gather(ranked, ask("fetch_objects", filters=wanted, limit=limit, sort=NEWEST))
        else:
            best, newest = await ranked, []
        found = {
            one.properties["segment_id"]: _found(one, score)
            for objects, score in ((newest, BEGINNING), (best, None))
            for one in objects
            if not loose or schema.fits(expression, one.properties["tokens"])
        }
        return _ordered(list(found.values()))[:wanted_max]

    async def _newest(self, ask: Ask, wanted: Condition, expression: Expression, bounds: Bounds) -> list[Found]:
        if not schema.is_loose(expression):
            return [_found(one, 0.0) for one in await _newest_page(ask, wanted, bounds.after, bounds.limit)]
        kept: list[Found] = []
        after = bounds.after
        for _round in range(LOOSE_ROUNDS):
            page = await _newest_page(ask, wanted, after, bounds.limit)
            kept += [_found(one, 0.0) for one in page if schema.fits(expression, one.properties["tokens"])]
            if len(page) < bounds.limit or len(kept) >= bounds.limit:
                break
            last = _found(page[-1], 0.0)
            after = Position(0.0, last.spoken_at_us, last.segment_id)
        return kept[: bounds.limit]

    def _asker(self, edition: Edition, tenant_id: str, *, loose: bool = False) -> Ask:
        """Queries of a tenant in an edition; a tenant that is not there has nothing."""
        name = self._name(edition)
        shown = [*schema.SHOWN, "tokens"] if loose else schema.SHOWN

        async def ask(kind: str, **arguments: Any) -> Objects:
            async def work(client: Client) -> Objects:
                query = client.collections.get(name).with_tenant(tenant_id).query
                try:
                    answer = await getattr(query, kind)(**{"return_properties": shown} | arguments)
                except WeaviateQueryError as error:
                    if NO_TENANT in str(error):
                        return []
                    raise
                return list(answer.objects)

            return await self._used(name, tenant_id, work)

        return ask

    # --- what is there --------------------------------------------------------------------------------------------
    async def held(self, tenant_id: str, after: str | None, limit: int) -> tuple[list[Held], str | None]:
        current, *others = await self._open()
        objects = await self._asker(current, tenant_id)(
            "fetch_objects", limit=limit, after=uuid.UUID(after or FIRST), return_properties=schema.HELD
        )
        page = [_held(one) for one in objects]
        page = await self._with_models(tenant_id, page, others)
        return page, str(objects[-1].uuid) if len(objects) == limit else None

    async def held_of(self, tenant_id: str, segment_ids: Sequence[str]) -> list[Held]:
        current, *others = await self._open()
        return await self._with_models(tenant_id, await self._held_in(current, tenant_id, segment_ids), others)

    async def _held_in(self, edition: Edition, tenant_id: str, segment_ids: Sequence[str]) -> list[Held]:
        ask, found = self._asker(edition, tenant_id), list[Held]()
        for at in range(0, len(segment_ids), IDS_PER_CALL):
            some = list(segment_ids[at : at + IDS_PER_CALL])
            which = Filter.by_property("segment_id").contains_any(some)
            objects = await ask("fetch_objects", filters=which, limit=len(some), return_properties=schema.HELD)
            found += [_held(one) for one in objects]
        return found

    async def _with_models(self, tenant_id: str, page: list[Held], others: Sequence[Edition]) -> list[Held]:
        """And the models by whose vectors they are found in the other editions."""
        models = {held.segment_id: set(held.models) for held in page}
        for edition in others:
            for held in await self._held_in(edition, tenant_id, list(models)):
                models[held.segment_id].update(held.models)
        return [Held(held.segment_id, held.rev, tuple(sorted(models[held.segment_id]))) for held in page]

    async def tenants(self) -> list[str]:
        edition, *_ = await self._open()
        name, turns = self._name(edition), asyncio.Semaphore(TENANTS_AT_ONCE)

        async def there(client: Client) -> list[str]:
            return list(await client.collections.get(name).tenants.get())

        async def holds(tenant_id: str) -> bool:
            async with turns:
                return bool(await self._asker(edition, tenant_id)("fetch_objects", limit=1))

        known = sorted(await self._link.call(there, ms=self._limits.index_change_ms_max))
        holding = await asyncio.gather(*map(holds, known))
        return [tenant_id for tenant_id, holds_any in zip(known, holding, strict=True) if holds_any]

    # --- editions -------------------------------------------------------------------------------------------------
    async def begin(self, edition: Edition) -> None:
        name = self._name(edition)
        await self._link.call(lambda client: _make(client, name), ms=self._limits.index_change_ms_max)
        self._there.add(name)

    async def drop(self, edition: Edition) -> None:
        name = self._name(edition)
        self._there.discard(name)
        await self._link.call(lambda client: client.collections.delete(name), ms=self._limits.index_change_ms_max)
        self.rest.forget(name)

    async def _open(self) -> tuple[Edition, ...]:
        """The current one first."""
        editions = await self._editions.open()
        if not editions:
            raise Unavailable("The search index has no edition yet.")
        return editions

    async def _names(self) -> list[str]:
        return [self._name(edition) for edition in await self._editions.open()]

    def _name(self, edition: Edition) -> str:
        return schema.collection_of(self._prefix, edition)

    async def _expect(self, client: Client, name: str) -> None:
        """A server that makes collections by itself shall not make this one."""
        if name in self._there:
            return
        if not await client.collections.exists(name):
            raise Unavailable("This edition of the search index is not there.")
        self._there.add(name)

    def _lost(self, name: str, said: Sequence[str]) -> None:
        if any(NO_COLLECTION.search(why) for why in said):
            self._there.discard(name)

    async def _used(self, name: str, tenant_id: str, work: Callable[[Client], Awaitable[T]]) -> T:
        try:
            return await self._link.call(work)
        finally:
            self.rest.note(name, tenant_id)


async def _insert(collection: Any, objects: Sequence[Any]) -> dict[int, str]:
    """Returns why objects were not taken, by their place."""
    try:
        answer = await collection.data.insert_many(objects)
    except WeaviateInsertManyAllFailedError as error:
        said = str(error).partition(ALL_FAILED)[2] or str(error)
        if len(objects) == 1 or not FOR_EVER.search(said):
            return dict.fromkeys(range(len(objects)), said)
        return {at: why for at, one in enumerate(objects) for why in (await _insert(collection, [one])).values()}
    return {at: error.message for at, error in answer.errors.items()}


async def _delete(client: Client, name: str, tenant_id: str, which: Condition) -> None:
    try:
        answer = await client.collections.get(name).with_tenant(tenant_id).data.delete_many(where=which)
    except WeaviateDeleteManyError as error:
        if NO_TENANT in str(error):
            return
        raise
    if answer.failed:
        raise Unavailable("The search index did not remove segments.")


async def _make(client: Client, name: str) -> None:
    """The collection, or what it lacks."""
    if not await client.collections.exists(name):
        await _once(client.collections.create(name, properties=schema.properties(), **schema.definition()))
    config = await client.collections.get(name).config.get()
    if not config.multi_tenancy_config.enabled:  # made by the server itself, for an object without a collection
        await client.collections.delete(name)
        return await _make(client, name)
    known = {one.name for one in config.properties}
    for one in schema.properties():
        if one.name not in known:
            await _once(client.collections.get(name).config.add_property(one))
    return None


async def _once(change: Awaitable[Any]) -> None:
    """Another node may have been faster."""
    try:
        await change
    except WeaviateBaseError as error:
        if not EXISTS.search(str(error)):
            raise


async def _newest_page(ask: Ask, wanted: Condition, after: Position | None, limit: int) -> Objects:
    """Newest first, then by id. Weaviate sorts by one property in a millisecond or two, by two in half a second: those
    of the last millisecond, where the page may end, are put in order here."""
    page: Objects = []
    older = wanted
    if after is not None:
        same, before = schema.followers(after)
        older = wanted & before
        page = await ask("fetch_objects", filters=wanted & same, limit=limit, sort=BY_ID)
    left = limit - len(page)
    if left <= 0:
        return page
    rest = sorted(await ask("fetch_objects", filters=older, limit=left + 1, sort=NEWEST), key=_by_time)
    if len(rest) <= left:
        return page + rest
    last_ms = rest[left - 1].properties["spoken_at"]
    if rest[left].properties["spoken_at"] == last_ms:
        rest = [one for one in rest if one.properties["spoken_at"] != last_ms]
        at_last = wanted & Filter.by_property("spoken_at").equal(last_ms)
        rest += await ask("fetch_objects", filters=at_last, limit=left - len(rest), sort=BY_ID)
    return page + rest[:left]


def _by_time(one: Any) -> tuple[int, str]:
    return -one.properties["spoken_at"], one.properties["segment_id"]


def _found(one: Any, score: float | None) -> Found:
    """`score`: None for the one it was found with."""
    values = one.properties
    score = one.metadata.score if score is None else score
    return Found(values["segment_id"], values["recording_id"], int(values["spoken_at"]) * 1_000, float(score))


def _held(one: Any) -> Held:
    model = one.properties.get("model")
    return Held(one.properties["segment_id"], int(one.properties["rev"]), (model,) if model else ())


def _ordered(found: list[Found]) -> list[Found]:
    return sorted(found, key=lambda f: (-f.score, -f.spoken_at_us, f.segment_id))
