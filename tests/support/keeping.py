"""The index as a server keeps it, without one: editions, indexer, vectors and words of a database; and talk in it.

`Keeper` is one node; several on one database are several nodes. `Talk` commits segments with their jobs, as streams do.
"""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import msgspec

from search.analysis import ANALYSIS
from search.finding import Finder
from search.indexer import Indexer
from search.matching import expression
from search.model import Bounds, EditionState, EmbedderInfo, Found, Held, Mode, TextVector
from search.ports import Index
from search.postgres import PostgresIndex
from search.query import parse
from server.jobs.index import IndexSegments, StoredSegments, enqueue_embedded, enqueue_index, index_handler
from server.jobs.queue import JobRunner
from server.jobs.rebuild import Rebuild
from server.store.editions import Shape, StoredEditions
from server.store.feed import Event
from server.store.pool import Connection, Database
from server.store.transcripts import StoredTranscripts
from server.store.vectors import StoredVectors
from server.store.words import StoredWords
from streaming.aio import Scope
from streaming.limits import LIMITS, Limits
from tests.fakes.embedder import FakeEmbedder
from tests.support.waiting import until

QUICK = msgspec.structs.replace(
    LIMITS, editions_ms_max=20, index_look_ms=20, index_behind_ms=0, search_languages_ms_max=0, index_fill_page=7
)
"""Waits of the policy, shortened; pages small enough that there are several."""
NEWEST_US = 4_000_000_000_000_000
_numbers = itertools.count(1)


class Told:
    """`server.store.commits.Announcer`: what was announced, and which rooms are to be read again."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.resynced: list[tuple[str, str]] = []

    def announce(self, events: Sequence[Event]) -> None:
        self.events += events

    def resync(self, tenant_id: str, room: str) -> None:
        self.resynced.append((tenant_id, room))

    @property
    def stages(self) -> list[tuple[str, int, str]]:
        """(segment, rev, stage) in the order in which they were told."""
        found = [entry for event in self.events for entry in event.body["segments"]]
        return [(name, rev, stage) for name, _, rev, stage in found]


class Keeper:
    """A node's part of the index. `model`: what it wants its editions to have, "" for none."""

    def __init__(self, database: Database, *, index: Index | None = None, limits: Limits = QUICK) -> None:
        self.database = database
        self.limits = limits
        self.told = Told()
        self.index: Index = index or PostgresIndex(database.tenant_tx, limits)
        self.editions = StoredEditions(database, limits)
        self.vectors = StoredVectors(database, enqueue_embedded)
        self.words = StoredWords(database.tenant_tx, limits)
        self.indexer = Indexer(StoredSegments(database, self.editions, self.told), self.index, limits)
        self.embedder: FakeEmbedder | None = None
        self.shape = Shape(self.index.capabilities.name, self.index.capabilities.schema, ANALYSIS)
        self.busy = False
        self.rebuild = Rebuild(
            editions=self.editions,
            vectors=self.vectors,
            indexes={self.index.capabilities.name: self.index},
            indexer=self.indexer,
            wanted=self.wanted,
            busy=lambda: self.busy,
            limits=limits,
        )
        self.finder = Finder(self.index, StoredTranscripts(database.tenant_tx, limits), self.words, limits)

    def wanted(self) -> Shape:
        info = None if self.embedder is None else self.embedder.info
        return self.shape if info is None else with_model(self.shape, info)

    async def open(self, model: str = "concepts") -> "Keeper":
        """Begin the first edition, which is the current one at once; nothing was said before."""
        shape = self.shape if not model else with_model(self.shape, EmbedderInfo(model, 384, 0.3))
        number = await self.editions.number(shape)
        assert await self.editions.begin(number, EditionState.CURRENT)
        async with self.editions.lease() as lease:
            assert lease is not None
            await lease.note(number, "", "", done=0, filled=True)
        return self

    async def states(self) -> list[tuple[int, str]]:
        return [(edition.number, edition.state) for edition in await self.editions.all()]

    @contextlib.asynccontextmanager
    async def working(self, on_indexed: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
        """Index jobs are done."""
        runner = JobRunner(self.database.connect, [index_handler(self.indexer, on_indexed, self.limits)])
        async with Scope("jobs") as scope:
            scope.spawn(runner.run(), name="runner")
            await until(lambda: runner.listening)
            yield

    async def drain(self) -> None:
        """Do all index jobs that there are."""
        async with self.working():
            await until(self.is_idle)

    async def is_idle(self) -> bool:
        async with self.database.shared_tx() as connection:
            return not await connection.fetchval("SELECT count(*) FROM pgqueuer WHERE status <> 'failed'")

    async def embed(self, tenant: str, names: Iterable[str], embedder: FakeEmbedder | None = None) -> int:
        """Give segments their vectors, as the filler does."""
        embedder = embedder or FakeEmbedder()
        assert embedder.info is not None
        texts = await self.vectors.due_texts(tenant, list(names))
        vectors = await embedder.embed([text.text for text in texts])
        return await self.vectors.put_vectors(
            tenant,
            embedder.info.model,
            [TextVector(text.segment_id, text.mark, v) for text, v in zip(texts, vectors, strict=True)],
        )

    async def match(self, tenant: str, text: str, user: str = "anna") -> set[str]:
        wanted = expression(parse(text), ("en",))
        bounds = Bounds(user_id=user, newest_us=NEWEST_US, limit=500)
        return _names(await self.index.match(tenant, wanted, bounds))

    async def near(self, tenant: str, text: str, embedder: FakeEmbedder | None = None, user: str = "anna") -> set[str]:
        vector = (embedder or FakeEmbedder()).query(text)
        bounds = Bounds(user_id=user, newest_us=NEWEST_US, limit=500)
        return _names(await self.index.near(tenant, vector, bounds))

    async def found(self, tenant: str, text: str, *models: FakeEmbedder, mode: Mode = Mode.SEMANTIC) -> set[str]:
        """What a user is shown, by meaning unless told otherwise."""
        vectors = [model.query(text) for model in models or (FakeEmbedder(),)]
        page = await self.finder.full(tenant, "anna", parse(text, mode=mode, limit=100), vectors)
        return {hit.segment_id for hit in page.hits}

    async def held(self, tenant: str) -> dict[str, Held]:
        found: dict[str, Held] = {}
        after: str | None = None
        while True:
            page, after = await self.index.held(tenant, after, 10)
            found.update((held.segment_id, held) for held in page)
            if after is None:
                return found


def with_model(shape: Shape, info: EmbedderInfo) -> Shape:
    return msgspec.structs.replace(
        shape, model=info.model, spec=info.model, dimensions=info.dimensions, similarity_min=info.similarity_min
    )


def _names(found: Sequence[Found]) -> set[str]:
    return {one.segment_id for one in found}


class Talk:
    """A tenant with the users anna and bert and one recording of anna's."""

    def __init__(self, database: Database, tenant: str = "t") -> None:
        self.database = database
        self.tenant = tenant

    async def begin(self) -> "Talk":
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute("INSERT INTO tenants (tenant_id, name) VALUES ($1, $1)", self.tenant)
            for user in ("anna", "bert"):
                await connection.execute("INSERT INTO users VALUES ($1, $2, $2)", self.tenant, user)
        await self.recording("r")
        return self

    async def recording(self, name: str, *, owner: str = "anna", private: bool = False) -> None:
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute(
                """INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state,
                                           engine, encoding, sample_rate, channels, started_at)
                   VALUES ($1, $2, $3, 'Talk', $4, 'en', 'live', 'test', 'pcm_s16le', 16000, 1,
                           now() - interval '1 day')""",
                self.tenant, name, owner, "private" if private else "tenant",
            )  # fmt: skip

    async def say(self, *texts: str, recording: str = "r", language: str = "en") -> list[str]:
        numbers = [next(_numbers) for _ in texts]
        names = [f"s{n:06}" for n in numbers]
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute(
                """INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text,
                                         words, language, confidence)
                   SELECT $1, $2, s.name, s.n, 1, s.n * 1000, s.n * 1000, s.text, '[]', $6, 1
                   FROM unnest($3::text[], $4::int[], $5::text[]) AS s (name, n, text)""",
                self.tenant, recording, names, numbers, list(texts), language,
            )  # fmt: skip
            await self.enqueue(connection, names, recording)
        return names

    async def revise(self, name: str, text: str | None = None, recording: str = "r") -> None:
        """Another text, or the same with other times."""
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute(
                "UPDATE segments SET text = coalesce($3, text), rev = rev + 1 WHERE tenant_id = $1 AND segment_id = $2",
                self.tenant, name, text,
            )  # fmt: skip
            await self.enqueue(connection, [name], recording)

    async def remove(self, name: str, recording: str = "r") -> None:
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute("DELETE FROM segments WHERE tenant_id = $1 AND segment_id = $2", self.tenant, name)
            await self.enqueue(connection, [name], recording)

    async def enqueue(self, connection: Connection, names: Sequence[str], recording: str = "r") -> None:
        job = IndexSegments(tenant_id=self.tenant, recording_id=recording, segment_ids=tuple(names))
        await enqueue_index(connection, [job])
