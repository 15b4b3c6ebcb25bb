"""Editions of the index: which there are, which one is searched, and how far the next one is filled.

Policy: at most one edition is current and at most one is being built; both are written. A retired one is neither
written nor searched and only waits until its storage is freed. Nodes remember which editions are open for
`editions_ms_max`, so who begins or retires one waits as long before it relies on it.

Boundary: SQL on a table without a tenant. Invariant: a number is never given twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import msgspec

from search.model import Edition, EditionState, EmbedderInfo
from server.store.pool import Connection, Database, translated
from streaming.errors import Unavailable
from streaming.limits import LIMITS, Limits

LEASE_KEY = 0x7061726C65646974
"""The advisory lock of who builds: "parledit" in ASCII. It ends with its connection, so with its node."""
COLUMNS = (
    "number, adapter, schema, analysis, model, spec, dimensions, similarity_min, state, filled, place[1] AS tenant_id, "
    "place[2] AS segment_id, done"
)
PROGRESS = "UPDATE index_editions SET place = ARRAY[$2, $3], done = $4, filled = $5 WHERE number = $1"


class Shape(msgspec.Struct, frozen=True):
    """What an edition is made by: another shape needs another edition. `spec`: how the model was named in the
    configuration; `model` is "" while none is known."""

    adapter: str
    schema: int
    analysis: int
    model: str = ""
    spec: str = ""
    dimensions: int = 0
    similarity_min: float = 0.0


class StoredEdition(msgspec.Struct, frozen=True):
    """`tenant_id`, `segment_id`: up to where it is filled; `filled`: to the end; `done`: segments so far."""

    number: int
    shape: Shape
    state: str
    filled: bool
    tenant_id: str
    segment_id: str
    done: int

    @property
    def edition(self) -> Edition:
        """For an index, which never sees a retired one but to drop it."""
        state = EditionState.CURRENT if self.state == "current" else EditionState.BUILDING
        return Edition(self.number, self.shape.schema, self.shape.model, state, self.shape.adapter)


class StoredEditions:
    """`search.ports.Editions`, and what builds them."""

    def __init__(
        self, database: Database, limits: Limits = LIMITS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._known: tuple[float, tuple[Edition, ...]] | None = None

    async def open(self) -> tuple[Edition, ...]:
        now = self._clock()
        if self._known is None or now >= self._known[0]:
            found = [stored.edition for stored in await self.all() if stored.state != "retired"]
            found.sort(key=lambda edition: edition.state is not EditionState.CURRENT)
            if not found:
                return ()
            # Counted from before the look: what it did not see is known `editions_ms_max` later at most.
            self._known = (now + self._limits.editions_ms_max / 1000, tuple(found))
        return self._known[1]

    def forget(self) -> None:
        """Look again: this node changed something."""
        self._known = None

    async def all(self) -> list[StoredEdition]:
        """With those that are retired, in the order of their numbers."""
        async with self._database.shared_tx() as connection:
            rows = await connection.fetch(f"SELECT {COLUMNS} FROM index_editions ORDER BY number")  # noqa: S608
        return [_stored(dict(row)) for row in rows]

    async def number(self, shape: Shape) -> int:
        """A new edition that nobody writes yet: it counts as retired, so that one whose maker dies is dropped."""
        async with self._database.shared_tx() as connection:
            number: int = await connection.fetchval(
                """INSERT INTO index_editions (adapter, schema, analysis, model, spec, dimensions, similarity_min,
                                               state)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, 'retired') RETURNING number""",
                shape.adapter,
                shape.schema,
                shape.analysis,
                shape.model,
                shape.spec,
                shape.dimensions,
                shape.similarity_min,
            )
        return number

    async def begin(self, number: int, state: EditionState) -> bool:
        """There is room for it: it is written from now on; False where there is such an edition already."""
        try:
            async with self._database.shared_tx() as connection:
                await connection.execute("UPDATE index_editions SET state = $2 WHERE number = $1", number, state.value)
        except asyncpg.UniqueViolationError:
            return False
        finally:
            self.forget()
        return True

    async def adopt(self, number: int, info: EmbedderInfo, spec: str) -> None:
        """The model of an edition that had none: it is filled again, with its vectors."""
        async with self._database.shared_tx() as connection:
            await connection.execute(
                """UPDATE index_editions SET model = $2, spec = $3, dimensions = $4, similarity_min = $5,
                          filled = false, place = '{"",""}', done = 0
                   WHERE number = $1 AND model = ''""",
                number,
                info.model,
                spec,
                info.dimensions,
                info.similarity_min,
            )
        self.forget()

    async def promote(self, number: int) -> bool:
        """Search in it from now on, and no longer in the one before; False where it is not being built any more."""
        async with self._database.shared_tx() as connection:
            await connection.execute(
                """UPDATE index_editions SET state = 'retired' WHERE state = 'current'
                   AND EXISTS (SELECT FROM index_editions WHERE number = $1 AND state = 'building')""",
                number,
            )
            done = await connection.fetchval(
                "UPDATE index_editions SET state = 'current' WHERE number = $1 AND state = 'building' RETURNING true",
                number,
            )
        self.forget()
        return bool(done)

    async def retire(self, number: int) -> None:
        """Build it no longer; what it holds is dropped."""
        async with self._database.shared_tx() as connection:
            await connection.execute(
                "UPDATE index_editions SET state = 'retired' WHERE number = $1 AND state = 'building'", number
            )
        self.forget()

    async def delete(self, number: int) -> None:
        """What it held was dropped."""
        async with self._database.shared_tx() as connection:
            await connection.execute("DELETE FROM index_editions WHERE number = $1 AND state = 'retired'", number)

    async def tenants(self, after_id: str, limit: int) -> list[str]:
        """Ids of all tenants after this one, in order."""
        async with self._database.shared_tx() as connection:
            rows = await connection.fetch("SELECT tenant_id FROM search_tenants($1, $2)", after_id, limit)
        return [row["tenant_id"] for row in rows]

    async def segments(self) -> int:
        """How many segments there are, of all tenants."""
        async with self._database.shared_tx() as connection:
            return int(await connection.fetchval("SELECT search_segments_count()"))

    async def page(self, tenant_id: str, after_id: str, limit: int) -> list[tuple[str, str]]:
        """(segment, recording) of a tenant's segments after this one, in order."""
        async with self._database.tenant_tx(tenant_id) as connection:
            rows = await connection.fetch(
                """SELECT segment_id, recording_id FROM segments WHERE tenant_id = $1 AND segment_id > $2
                   ORDER BY segment_id LIMIT $3""",
                tenant_id,
                after_id,
                limit,
            )
        return [(row["segment_id"], row["recording_id"]) for row in rows]

    async def last_job(self) -> int:
        """The number of the newest job."""
        async with self._database.shared_tx() as connection:
            return int(await connection.fetchval("SELECT coalesce(max(id), 0) FROM pgqueuer"))

    async def jobs_done(self, upto: int) -> bool:
        """Whether no index job up to this one waits or runs."""
        async with self._database.shared_tx() as connection:
            return not await connection.fetchval(
                """SELECT EXISTS (SELECT FROM pgqueuer WHERE entrypoint = 'index_segments' AND id <= $1
                                  AND status IN ('queued', 'picked'))""",
                upto,
            )

    @asynccontextmanager
    async def lease(self) -> AsyncIterator["Lease | None"]:
        """The right to build, held by one node at a time; None where another has it. Raises `Unavailable`."""
        connection = await self._database.connect()
        try:
            with translated():
                held = await connection.fetchval("SELECT pg_try_advisory_lock($1)", LEASE_KEY, timeout=_timeout_s())
            yield Lease(connection) if held else None
        finally:
            connection.terminate()


class Lease:
    """Progress is noted on the connection that holds the lease, so that who has lost it notes nothing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def note(self, number: int, tenant_id: str, segment_id: str, *, done: int, filled: bool = False) -> None:
        """Filled up to this segment. Raises `Unavailable` when the lease is lost."""
        try:
            with translated():
                await self._connection.execute(
                    PROGRESS, number, tenant_id, segment_id, done, filled, timeout=_timeout_s()
                )
        except asyncio.CancelledError:
            raise
        except asyncpg.PostgresError as error:
            raise Unavailable("The lease of the index was lost.") from error

    async def expire(self, limit: int) -> int:
        """Delete vectors of models that no edition has; how many went."""
        with translated():
            return int(await self._connection.fetchval("SELECT vectors_expire($1)", limit, timeout=_timeout_s()))


def _timeout_s() -> float:
    return LIMITS.database_command_ms_max / 1000


def _stored(row: dict[str, object]) -> StoredEdition:
    shape = Shape(**{name: row.pop(name) for name in Shape.__struct_fields__})  # type: ignore[arg-type]
    return StoredEdition(shape=shape, **row)  # type: ignore[arg-type]


__all__ = ["Lease", "Shape", "StoredEdition", "StoredEditions"]
