"""The way to the database. Tenant data is reached through `tenant_tx` only.

Connections start as the role `parlance_app` (a connection default, so even RESET ROLE stays there): it is subject to
row-level security and owns nothing. `tenant_tx` sets the tenant for one transaction; without it every policy is false.
`shared_tx` is for what has no tenant: the job queue and the two SECURITY DEFINER look-ups.

asyncpg's errors end here: a lost or refusing database is `Unavailable`, everything else is a defect and passes.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from streaming.errors import Unavailable
from streaming.limits import LIMITS

Connection = Any
"""asyncpg.Connection or its pool proxy; asyncpg ships no types."""

APP_ROLE = "parlance_app"
TRANSACTION_TIMEOUT_SINCE = 17
"""The first version of PostgreSQL that bounds a whole transaction."""

LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection whose backend was terminated while idle, before its end was read
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DiskFullError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
)
"""What a lost, restarting or overfull database raises; but where it is a ValueError too (asyncpg cannot read the
DSN), no retry mends it."""


class Database:
    """A pool of connections as `parlance_app`. `open` connects, `close` ends; both by the lifecycle. Until it is open
    every transaction is `Unavailable`, so the server can answer while it starts."""

    def __init__(self, dsn: str = "") -> None:
        self._dsn = dsn
        self._pool: Any = None
        self._ends_transactions = False

    @property
    def dsn(self) -> str:
        return self._dsn

    async def open(self, dsn: str | None = None) -> None:
        """Connect, to `dsn` when given here. Raises `Unavailable` when the database cannot be reached."""
        self._dsn = self._dsn if dsn is None else dsn
        with translated():
            self._ends_transactions = await _major(self._dsn) >= TRANSACTION_TIMEOUT_SINCE
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=1,
                max_size=LIMITS.database_connections_max,
                command_timeout=LIMITS.database_command_ms_max / 1000,
                server_settings={"role": APP_ROLE, "application_name": "parlance", **self._guards()},
            )

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def connect(self) -> Connection:
        """A connection of one's own as `parlance_app`, for LISTEN; the caller closes it."""
        with translated():
            return await asyncpg.connect(
                self._dsn, server_settings={"role": APP_ROLE, "application_name": "parlance-jobs"}
            )

    @asynccontextmanager
    async def tenant_tx(self, tenant_id: str, *, long: bool = False) -> AsyncIterator[Connection]:
        """One transaction that sees and writes only this tenant's rows. `long`: it writes a recording as a whole, and
        may take as long as a statement may. Raises `Unavailable`."""
        async with self._transaction() as connection:
            if long and self._ends_transactions:
                # A running timer keeps its end; the first of the two stops it.
                ending = f"SET LOCAL transaction_timeout = {LIMITS.database_command_ms_max}"
                await connection.execute(f"SET LOCAL transaction_timeout = 0; {ending}")
            await connection.execute("SELECT set_config('parlance.tenant', $1, true)", tenant_id)
            yield connection

    @asynccontextmanager
    async def shared_tx(self) -> AsyncIterator[Connection]:
        """One transaction that sees no tenant's rows. Raises `Unavailable`."""
        async with self._transaction() as connection:
            yield connection

    def _guards(self) -> dict[str, str]:
        """The database ends a transaction whose node was paused or cut off within it, and so frees its locks: between
        two statements soon; within a statement's messages too, which versions before 17 cannot."""
        guards = {"idle_in_transaction_session_timeout": LIMITS.database_idle_ms_max}
        if self._ends_transactions:
            guards["transaction_timeout"] = LIMITS.database_transaction_ms_max
        return {name: str(value) for name, value in guards.items()}

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        if self._pool is None:
            raise Unavailable("The database is not open.")
        with translated():
            timeout_s = LIMITS.database_acquire_ms_max / 1000
            async with self._pool.acquire(timeout=timeout_s) as connection, connection.transaction():
                yield connection


async def _major(dsn: str) -> int:
    """The database's version."""
    connection = await asyncpg.connect(dsn, timeout=LIMITS.database_command_ms_max / 1000)
    try:
        major: int = connection.get_server_version().major
    finally:
        connection.terminate()
    return major


def is_lost(error: BaseException | None) -> bool:
    """What a lost database raises, and what asyncpg stumbles over when bytes of the connection were damaged: any
    exception of Python's own in the reading of its protocol."""
    if isinstance(error, LOST):
        return not isinstance(error, ValueError)
    if not isinstance(error, Exception) or type(error).__module__ != "builtins":
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("asyncpg.protocol")


class translated:
    """Context manager: errors of a lost database become `Unavailable`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if is_lost(error):
            raise Unavailable("The database does not answer.", retry_after_ms=1_000) from error
