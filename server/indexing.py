"""The index and all that keeps it: which adapter, its editions, what fills it, and how far it is behind.

Policy: every installation has the index in its database; another adapter is written beside it only while an edition of
it is there. Boundary: a part of the composition (`server.app`, `server.console`); it decides nothing at run time.
"""

import asyncio
from typing import TYPE_CHECKING

from search.analysis import ANALYSIS
from search.indexer import Indexer
from search.ports import Embedder, Index
from search.postgres import PostgresIndex
from search.several import EditionsOf, SeveralIndexes
from server.config import Config
from server.jobs.index import StoredSegments, enqueue_embedded
from server.jobs.indexwatch import IndexWatch
from server.jobs.rebuild import Rebuild
from server.store.commits import Announcer
from server.store.editions import Shape, StoredEditions
from server.store.pool import Database
from server.store.vectors import StoredVectors
from server.store.words import StoredWords
from server.telemetry import METRICS
from streaming.limits import Limits
from streaming.protocol.messages import StatusTask

if TYPE_CHECKING:
    from search.weaviate.index import WeaviateIndex


class Indexing:
    """`embedder` is set by whoever has one; until its model is known, editions keep theirs."""

    def __init__(self, config: Config, database: Database, announcer: Announcer, limits: Limits) -> None:
        self._spec = config.embedding_model or ""
        self.embedder: Embedder | None = None
        self.editions = StoredEditions(database, limits)
        self.vectors = StoredVectors(database, enqueue_embedded)
        self.words = StoredWords(database.tenant_tx, limits)
        postgres = PostgresIndex(database.tenant_tx, limits)
        name = postgres.capabilities.name
        indexes: dict[str, Index] = {name: postgres}
        self.weaviate = _weaviate(config, self.editions, limits)
        if self.weaviate is not None:
            name = self.weaviate.capabilities.name
            indexes[name] = self.weaviate
        self.index: Index = SeveralIndexes(indexes, name, self.editions)
        self.segments = StoredSegments(database, self.editions, announcer)
        self.indexer = Indexer(self.segments, self.index, limits)
        self.watch = IndexWatch(database, limits)
        self.rebuild = Rebuild(
            editions=self.editions,
            vectors=self.vectors,
            indexes=indexes,
            indexer=self.indexer,
            wanted=self.wanted,
            busy=lambda: self.watch.busy,
            limits=limits,
        )

    @property
    def tasks(self) -> list[StatusTask]:
        task = self.rebuild.task
        return [] if task is None else [task]

    async def run(self) -> None:
        """Build what is to be built, and look how far the index is behind."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.rebuild.run(), name="rebuild")
            group.create_task(self.watch.run(), name="index watch")
            if self.weaviate is not None:
                group.create_task(self.weaviate.run(), name="weaviate")

    async def close(self) -> None:
        if self.weaviate is not None:
            await self.weaviate.close()

    def wanted(self) -> Shape:
        """What this installation's editions are made by, as far as it is known."""
        made_by = self.index.capabilities
        info = None if self.embedder is None else self.embedder.info
        if info is None:
            return Shape(made_by.name, made_by.schema, ANALYSIS)
        return Shape(
            made_by.name, made_by.schema, ANALYSIS, info.model, self._spec, info.dimensions, info.similarity_min
        )


def _weaviate(config: Config, editions: StoredEditions, limits: Limits) -> "WeaviateIndex | None":
    """Its library takes a second and some 40 MB: only where it is configured."""
    if config.weaviate_url is None:
        return None
    from search.weaviate.index import NAME, WeaviateIndex
    from search.weaviate.link import Address, Link

    address = Address(config.weaviate_url, config.weaviate_grpc, config.weaviate_api_key)
    link = Link(address, limits, observe=_observe)
    return WeaviateIndex(link, EditionsOf(editions, NAME), limits, prefix=config.weaviate_prefix)


def _observe(seconds: float, done: bool) -> None:
    METRICS.index.weaviate_seconds.observe(seconds)
    if not done:
        METRICS.index.weaviate_failures.inc()


class Silent:
    """`server.store.commits.Announcer` of a process without clients: servers find what it logged by themselves."""

    def announce(self, events: object) -> None:
        return None

    def resync(self, tenant_id: str, room: str) -> None:
        return None
