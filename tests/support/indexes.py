"""Every adapter of `search.ports.Index` for the contract suites, and a tenant to try it with.

An adapter joins through `INDEXES`: a context manager that gives an index on what the test's request names (a session's
server by `request.getfixturevalue`), empty but for what other tenants put there. It may skip where its server cannot be
had. Truth lies in the segments table for all of them.
"""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from search.finding import Finder
from search.matching import expression
from search.model import (
    LATEST_US,
    Bounds,
    Filters,
    Found,
    Hit,
    IndexDocument,
    ModelVector,
    Page,
    Query,
    QueryVector,
    Sort,
)
from search.ports import Index
from search.postgres import PostgresIndex
from search.query import parse
from server.store.pool import Database
from server.store.transcripts import StoredTranscripts, note_languages
from streaming.limits import LIMITS, Limits
from tests.fakes.embedder import FakeEmbedder, vector_of
from tests.fakes.index import MemoryIndex, MemoryWords

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = itertools.count(1)

Maker = Callable[[pytest.FixtureRequest, Database, Limits], AbstractAsyncContextManager[Index]]
MakeIndex = Callable[..., Awaitable[Index]]


@asynccontextmanager
async def postgres_index(_request: pytest.FixtureRequest, database: Database, limits: Limits) -> AsyncIterator[Index]:
    yield PostgresIndex(database.tenant_tx, limits)


@asynccontextmanager
async def memory_index(_request: pytest.FixtureRequest, _database: Database, limits: Limits) -> AsyncIterator[Index]:
    """The fake of other tests, which is held to the contract too."""
    yield MemoryIndex(limits)


@asynccontextmanager
async def weaviate_index(request: pytest.FixtureRequest, _database: Database, limits: Limits) -> AsyncIterator[Index]:
    """An edition of each model that these suites use, as while a model changes; all tests share them."""
    server = request.getfixturevalue("weaviate_server")
    from tests.support.editions import opened  # importing the library takes 1.5 s

    async with opened(server, ("concepts", "another", "old", "new"), limits=limits) as index:
        yield index


INDEXES: dict[str, Maker] = {"memory": memory_index, "postgres": postgres_index, "weaviate": weaviate_index}


@pytest.fixture(params=sorted(INDEXES))
async def make_index(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[MakeIndex]:
    """`await make_index(limits)`: an index of each adapter in turn; it ends with the test."""
    async with AsyncExitStack() as stack:

        async def make(limits: Limits = LIMITS) -> Index:
            return await stack.enter_async_context(INDEXES[request.param](request, database, limits))

        yield make


@pytest.fixture
async def index(make_index: MakeIndex) -> Index:
    return await make_index()


@pytest.fixture
async def world(database: Database, index: Index) -> "World":
    return await World(database, index).begin()


class World:
    """Two users in a tenant of its own. Writes segments as streams do, and puts them into the index as jobs do, with a
    vector of each of `models`; asks the index itself, or a `Finder` on it."""

    def __init__(self, database: Database, index: Index, limits: Limits = LIMITS) -> None:
        self.database = database
        self.index = index
        self.limits = msgspec.structs.replace(limits, search_languages_ms_max=0)
        self.transcripts = StoredTranscripts(database.tenant_tx, self.limits)
        self.words = MemoryWords()
        self.finder = self.another_finder()
        self.models = [FakeEmbedder()]
        self.tenant = f"tenant-{next(_numbers)}-{id(self)}"
        self.ordinals = itertools.count(1)
        self.segments: dict[str, IndexDocument] = {}

    def another_finder(self) -> Finder:
        """As another node has."""
        return Finder(self.index, self.transcripts, self.words, self.limits)

    async def begin(self) -> "World":
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute("INSERT INTO tenants (tenant_id, name) VALUES ($1, $1)", self.tenant)
            for user in ("anna", "bert"):
                await connection.execute("INSERT INTO users VALUES ($1, $2, $2)", self.tenant, user)
        await self.recording("talk")
        return self

    async def another(self) -> "World":
        """Another tenant of the same index."""
        return await World(self.database, self.index, self.limits).begin()

    async def recording(self, name: str, *, owner: str = "anna", private: bool = False) -> None:
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute(
                """INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state,
                                           engine, encoding, sample_rate, channels, started_at)
                   VALUES ($1, $2, $3, 'About ' || $2, $4, 'auto', 'live', 'test', 'pcm_s16le', 16000, 1, $5)""",
                self.tenant, name, owner, "private" if private else "tenant", BEGIN,
            )  # fmt: skip

    async def call(self, label: str, name: str, *, recording: str = "talk") -> None:
        """Name a speaker; nothing is indexed anew for it."""
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute(
                """INSERT INTO recording_speakers (tenant_id, recording_id, label, name) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (tenant_id, recording_id, label) DO UPDATE SET name = excluded.name""",
                self.tenant, recording, label, name,
            )  # fmt: skip

    async def say(self, text: str, **fields: Any) -> str:
        """One more segment, a second after the one before; searchable when this returns."""
        (name,) = await self.say_all([text], **fields)
        return name

    async def say_all(self, texts: list[str], **fields: Any) -> list[str]:
        documents = await self.write_all(texts, **fields)
        await self.index.put(self.tenant, documents)
        return [document.segment_id for document in documents]

    async def write_all(self, texts: list[str], *, recording: str = "talk", language: str = "en", owner: str = "anna",
                        private: bool = False, speaker: str | None = None) -> list[IndexDocument]:  # fmt: skip
        """Segments that are not in the index yet."""
        ordinals = [next(self.ordinals) for _ in texts]
        documents = []
        for ordinal, text in zip(ordinals, texts, strict=True):
            spoken = (BEGIN + timedelta(seconds=ordinal)).timestamp() * 1000
            name = f"s{ordinal:05}"
            document = IndexDocument(name, recording, owner, private, int(spoken), 1, text, language, speaker)
            documents.append(msgspec.structs.replace(document, vectors=self.vectors(text)))
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.executemany(
                """INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text,
                                         words, speaker, language, confidence)
                   VALUES ($1, $2, $3, $4, 1, $5, $6, $7, '[]', $8, $9, 1)""",
                [
                    (self.tenant, recording, d.segment_id, n, n * 1000, n * 1000 + 900, d.text, speaker, language)
                    for n, d in zip(ordinals, documents, strict=True)
                ],
            )
            await note_languages(connection, self.tenant, [language])
        self.segments.update((d.segment_id, d) for d in documents)
        return documents

    def vectors(self, text: str) -> tuple[ModelVector, ...]:
        infos = [embedder.info for embedder in self.models if embedder.info is not None]
        return tuple(ModelVector(info.model, vector_of(text, info.dimensions)) for info in infos)

    async def set_text(self, name: str, text: str, rev: int) -> IndexDocument:
        """A revision, not in the index yet."""
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute(
                "UPDATE segments SET text = $3, rev = $4 WHERE tenant_id = $1 AND segment_id = $2",
                self.tenant, name, text, rev,
            )  # fmt: skip
        held = self.segments[name]
        return msgspec.structs.replace(held, text=text, rev=rev, vectors=self.vectors(text))

    # --- the index itself
    async def bounds(self, query: Query, user: str = "anna", **fields: Any) -> Bounds:
        named = await self.transcripts.spoken_by(self.tenant, query.filters.speakers or ())
        base = Bounds(user_id=user, filters=query.filters, named=tuple(named), newest_us=LATEST_US, sort=query.sort,
                      limit=self.limits.search_candidates_max)  # fmt: skip
        return msgspec.structs.replace(base, **fields)

    async def found(self, text: str, *, user: str = "anna", filters: Filters | None = None,
                    sort: Sort = Sort.RELEVANCE, **fields: Any) -> list[Found]:  # fmt: skip
        """What the index finds by words."""
        query = parse(text, filters=filters, sort=sort)
        wanted = expression(query, await self.transcripts.languages(self.tenant))
        return await self.index.match(self.tenant, wanted, await self.bounds(query, user, **fields))

    async def matched(self, text: str, **options: Any) -> list[str]:
        return [found.segment_id for found in await self.found(text, **options)]

    async def texts(self, text: str, **options: Any) -> set[str]:
        return {self.segments[name].text for name in await self.matched(text, **options)}

    async def nearest(self, text: str, *, user: str = "anna", model: FakeEmbedder | None = None,
                      filters: Filters | None = None, **fields: Any) -> list[Found]:  # fmt: skip
        """What the index finds by meaning."""
        bounds = await self.bounds(parse("any", filters=filters), user, **{"limit": 100} | fields)
        return await self.index.near(self.tenant, (model or self.models[0]).query(text), bounds)

    async def near(self, text: str, **options: Any) -> list[str]:
        return [found.segment_id for found in await self.nearest(text, **options)]

    # --- a Finder on it
    async def page(self, text: str, *, user: str = "anna", **options: Any) -> Page:
        return await self.finder.instant(self.tenant, user, parse(text, limits=self.limits, **options))

    async def hits(self, text: str, **options: Any) -> list[Hit]:
        return list((await self.page(text, **options)).hits)

    async def full_page(self, text: str, *, user: str = "anna", **options: Any) -> Page:
        query = parse(text, limits=self.limits, **options)
        return await self.finder.full(self.tenant, user, query, self.queries(text))

    async def full_hits(self, text: str, **options: Any) -> list[Hit]:
        return list((await self.full_page(text, **options)).hits)

    def queries(self, text: str) -> list[QueryVector]:
        return [embedder.query(text) for embedder in self.models]

    async def pages(self, text: str, *, full: bool = False, **options: Any) -> list[list[str]]:
        """The ids of all hits, page by page."""
        found: list[list[str]] = []
        cursor = None
        while True:
            ask = self.full_page if full else self.page
            page = await ask(text, cursor=cursor, **options)
            found.append([hit.segment_id for hit in page.hits])
            cursor = page.next_cursor
            if cursor is None:
                return found


def marked(hit: Hit) -> list[str]:
    return [hit.text[start:end] for start, end in hit.highlights]


__all__ = ["BEGIN", "INDEXES", "MakeIndex", "World", "index", "make_index", "marked", "world"]
