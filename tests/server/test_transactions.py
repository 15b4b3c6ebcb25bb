"""A node that is paused or cut off within a transaction keeps its locks only for so long: the database ends it."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from server.store import pool
from server.store.pool import Connection, Database
from streaming.errors import Unavailable
from streaming.limits import LIMITS
from tests.support.node import somebody

HANG_S = 20.0
QUICK_MS = 500
FOREVER_MS = 3_600_000


@pytest.fixture
async def quick(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """Ends whole transactions soon, and idle ones never."""
    limits = msgspec.structs.replace(LIMITS, database_idle_ms_max=FOREVER_MS, database_transaction_ms_max=QUICK_MS)
    monkeypatch.setattr(pool, "LIMITS", limits)
    opened = Database(database_dsn)
    await opened.open()
    yield opened
    await opened.close()


async def lock(connection: Connection) -> None:
    await connection.fetchval("SELECT 1 FROM tenants FOR UPDATE")


async def test_a_node_paused_between_the_messages_of_a_statement_frees_its_locks(
    quick: Database, database_dsn: str
) -> None:
    """To the database it is not idle: a statement was parsed and awaits its parameters."""
    who = await somebody(quick)
    other = await asyncpg.connect(database_dsn)
    try:
        with pytest.raises(Unavailable):
            await paused_in_a_statement(quick, who.tenant_id, other)
    finally:
        await other.close()


async def paused_in_a_statement(database: Database, tenant_id: str, other: Connection) -> None:
    async with asyncio.timeout(HANG_S), database.tenant_tx(tenant_id) as paused:
        await lock(paused)
        await paused.prepare("SELECT $1::int")
        waiting = "wait_event = 'ClientRead' AND state = 'active' AND xact_start IS NOT NULL"
        assert await other.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {waiting}") == 1
        await lock(other)
        await paused.fetchval("SELECT 1")


async def test_what_writes_a_recording_as_a_whole_has_as_long_as_a_statement(quick: Database) -> None:
    who = await somebody(quick)
    async with asyncio.timeout(HANG_S), quick.tenant_tx(who.tenant_id, long=True) as connection:
        assert await connection.fetchval("SELECT pg_sleep($1) IS NOT NULL", 2 * QUICK_MS / 1000)
    with pytest.raises(Unavailable):
        async with quick.tenant_tx(who.tenant_id) as connection:
            await connection.fetchval("SELECT pg_sleep($1)", 2 * QUICK_MS / 1000)
