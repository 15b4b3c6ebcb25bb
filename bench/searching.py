"""Real servers on filled indexes: Postgres always, Weaviate where scripts/weaviate-server.sh has built it.

A benchmark writes and drops whole collections, so it never takes a Weaviate that somebody else uses.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import numpy as np
from numpy.typing import NDArray
from parlance_client import Client

from bench import filling
from bench.filling import Said
from bench.meter import cpu_s
from bench.spokentext import Library
from search.model import EmbedderInfo, Vector
from search.ports import Index
from search.postgres import SCHEMA as POSTGRES_SCHEMA
from search.postgres import PostgresIndex
from search.weaviate.index import SCHEMA as WEAVIATE_SCHEMA
from search.weaviate.index import WeaviateIndex
from search.weaviate.link import Address, Link
from server.store.editions import StoredEditions
from server.store.migrate import migrate
from server.store.pool import Database
from tests.support.postgres import Postgres
from tests.support.process import Account, ServerProcess
from tests.support.weaviate import WeaviateServer, program

OpenIndex = Callable[[Database, EmbedderInfo], AbstractAsyncContextManager[Index]]
MEMORY = "4GiB"
"""For 100,000 segments with vectors; Weaviate's garbage collector works harder near it."""
FLUSHED = {"PERSISTENCE_MEMTABLES_FLUSH_DIRTY_AFTER_SECONDS": "5"}
"""As docs/operations.md recommends: words that are not flushed yet are slow to rank, and the default is a minute."""
READY_S_MAX = 120
LOOK_S = 0.2


class Stand(msgspec.Struct, frozen=True):
    """`index`: the adapter on a migrated database, with a current edition; `settings`: of a server process that uses
    it; `pids`: processes of its own, by a name, whose CPU is told."""

    name: str
    index: OpenIndex
    settings: dict[str, str]
    pids: dict[str, int]


async def stands(missing: list[str]) -> AsyncIterator[Stand]:
    """`missing`: gets a sentence for each that cannot be had."""
    yield Stand("postgres", _postgres, {}, {})
    if program() is None:
        missing.append("Weaviate: scripts/weaviate-server.sh has not built it")
        return
    with filling.temporary() as folder:
        server = WeaviateServer(Path(folder) / "weaviate", memory=MEMORY, **FLUSHED)
        await asyncio.to_thread(server.start)
        try:
            pids = {"weaviate": server.program.pid}
            yield Stand("weaviate", lambda database, info: _weaviate(server, database, info), server.settings, pids)
        finally:
            await asyncio.to_thread(server.stop)


@asynccontextmanager
async def _postgres(database: Database, info: EmbedderInfo) -> AsyncIterator[Index]:
    await filling.edition(database, "postgres", POSTGRES_SCHEMA, info)
    yield PostgresIndex(database.tenant_tx)


@asynccontextmanager
async def _weaviate(server: WeaviateServer, database: Database, info: EmbedderInfo) -> AsyncIterator[Index]:
    edition = await filling.edition(database, "weaviate", WEAVIATE_SCHEMA, info)
    index = WeaviateIndex(Link(Address(server.url, server.grpc)), StoredEditions(database))
    try:
        await index.begin(edition)
        yield index
    finally:
        await index.close()


class Material(msgspec.Struct, frozen=True):
    """The same for every index. `vectors`: a row for each segment, by tenant; `queries`: of questions, for recall."""

    libraries: list[Library]
    vectors: dict[str, NDArray[np.float32]]
    info: EmbedderInfo
    queries: list[Vector]


class Served:
    """A server that answers from a filled index. `whose`: processes by name, whose CPU is told beside the server's."""

    def __init__(self, server: ServerProcess, database: Database, index: Index, whose: dict[str, int]) -> None:
        self.server = server
        self.database = database
        self.index = index
        self.fill_s = 0.0
        self._whose = whose
        self._accounts: dict[str, Account] = {}

    @asynccontextmanager
    async def client(self, tenant: str) -> AsyncIterator[Client]:
        account = await self.account(tenant)
        async with Client(self.server.url, account.token) as client:
            yield client

    async def account(self, tenant: str) -> Account:
        if tenant not in self._accounts:
            self._accounts[tenant] = await self.server.account(tenant, filling.USER)
        return self._accounts[tenant]

    def used(self) -> dict[str, float]:
        """CPU seconds so far. A database has a process for each connection, which come and go; the server's own
        children, but for the embedder, have nothing to do here."""
        embedders = [pid for pid, command in self.server.children().items() if "embed_worker" in command]
        spent = {name: cpu_s(tree(pid), reaped=True) for name, pid in self._whose.items()}
        return {"server": cpu_s([self.server.pid]), **spent, "embedder": cpu_s(embedders)}


def tree(pid: int) -> list[int]:
    """A process and its children."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        found.append(parent)
        for task in Path(f"/proc/{parent}/task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return found


@asynccontextmanager
async def served(stand: Stand, material: Material, **settings: str) -> AsyncIterator[Served]:
    """A server process on a database and an index of its own, which hold the material; ready when queries are answered
    as they will be."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(filling.temporary()))
        postgres = Postgres(folder / "postgres")
        await asyncio.to_thread(postgres.start)
        stack.push_async_callback(asyncio.to_thread, postgres.stop)
        await migrate(postgres.url)
        database = Database(postgres.url)
        await database.open()
        stack.push_async_callback(database.close)
        index = await stack.enter_async_context(stand.index(database, material.info))
        began = time.perf_counter()
        await fill(database, index, material)
        options: dict[str, Any] = {"database_url": postgres.url, **settings, **stand.settings}
        server = ServerProcess(folder / "data", **options)
        place = Served(server, database, index, {"database": postgres.program.pid, **stand.pids})
        place.fill_s = time.perf_counter() - began
        await asyncio.to_thread(server.start)
        stack.push_async_callback(asyncio.to_thread, server.stop)
        await _ready(place, material.libraries[0].tenant, meaning="models_env" in settings)
        yield place


async def fill(database: Database, index: Index, material: Material) -> None:
    owner = await asyncpg.connect(database.dsn)
    try:
        for held in material.libraries:
            await filling.store(owner, held.tenant, held.talks, held.said)
            rows = dict(zip((s.segment_id for s in held.said), material.vectors[held.tenant], strict=True))
            documents = filling.documents(held.talks, held.said, material.info, partial(_row, rows))
            await filling.put(index, held.tenant, documents)
        await owner.execute("VACUUM ANALYZE")
    finally:
        await owner.close()


def _row(rows: dict[str, Vector], said: Said) -> Vector:
    return rows[said.segment_id]


async def _ready(place: Served, tenant: str, *, meaning: bool) -> None:
    """Until queries are answered, by meaning too where there is a model."""
    async with place.client(tenant) as client, asyncio.timeout(READY_S_MAX):
        degraded = True
        while degraded:
            async for answer in client.search("how deep is the water"):
                degraded = answer.degraded and meaning
            await asyncio.sleep(LOOK_S)
