"""Bring the database's schema to this version: apply `migrations/NNNN_name.sql` in order, each in one transaction.

Policy: what was applied is recorded with a checksum in `schema_migrations` and must be the beginning of what this
version has. A file that changed after it was applied, or a migration that only a newer version knows, is refused:
guessing would ruin data. An advisory lock lets one node migrate while the others wait.

Boundary: connects as the database's owner, which the server never does elsewhere. `plan` is pure.
Invariant: the schema is that of a prefix of the files, never of half a file.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from server.store.pool import APP_ROLE, translated

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "migrations"
LOCK_KEY = 0x7061726C616E6365
"""The advisory lock's number: "parlance" in ASCII."""
LOCK_WAIT_S = 60
"""A node waits this long for another that migrates: each migration of today takes milliseconds."""
CONNECT_S_MAX = 10.0

HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


APPLIED = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"


class MigrationFailed(Exception):
    """The schema cannot be brought to this version. One sentence that says why and what to do."""


class Migration(msgspec.Struct, frozen=True):
    """`checksum`: sha256 of the file, in hex."""

    version: int
    name: str
    checksum: str
    sql: str = ""


async def migrate(dsn: str, folder: Path = FOLDER) -> list[str]:
    """Apply what is missing; returns the names of the migrations applied now, in order.

    Raises `MigrationFailed`, and `Unavailable` when the database cannot be reached."""
    files = read(folder)
    connection = await _connect(dsn)
    try:
        with translated():
            return await _apply(connection, files)
    finally:
        connection.terminate()


def read(folder: Path) -> list[Migration]:
    """The migrations of a folder in order. Raises `MigrationFailed` unless they are numbered 1, 2, 3 and so on."""
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_\w+", path.stem)
        if match is None or int(match[1]) != len(found) + 1:
            raise MigrationFailed(
                f"{path.name} is not named {len(found) + 1:04}_name.sql, as the next migration must be."
            )
        text = path.read_text()
        found.append(Migration(int(match[1]), path.stem, hashlib.sha256(text.encode()).hexdigest(), text))
    return found


def plan(files: Sequence[Migration], applied: Sequence[Migration]) -> list[Migration]:
    """What is still to apply. `applied`: in order of version. Raises `MigrationFailed` unless a prefix of `files`."""
    known = {migration.version: migration for migration in files}
    for position, past in enumerate(applied, start=1):
        now = known.get(past.version)
        if now is None:
            raise MigrationFailed(
                f"The database has the migration {past.name}, which this version does not know; "
                "a newer Parlance used it: install that one."
            )
        if now.checksum != past.checksum:
            raise MigrationFailed(
                f"The migration {past.name} was changed after this database applied it; restore the file and put the "
                "change into a new one."
            )
        if past.version != position:
            raise MigrationFailed(f"The database has {past.name} but lacks an earlier migration; restore a backup.")
    return list(files[len(applied) :])


async def _connect(dsn: str) -> Any:
    with translated():
        try:
            return await asyncpg.connect(
                dsn, timeout=CONNECT_S_MAX, server_settings={"application_name": "parlance-migrate"}
            )
        except asyncpg.InvalidAuthorizationSpecificationError as error:
            raise MigrationFailed(f"The database refuses this user or password: {_first_line(error)}.") from error
        except asyncpg.InvalidCatalogNameError as error:
            raise MigrationFailed(
                f"The database server has no such database: {_first_line(error)}; create it first."
            ) from error
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise MigrationFailed(f"PARLANCE_DATABASE_URL cannot be understood: {error}.") from error


async def _apply(connection: Any, files: Sequence[Migration]) -> list[str]:
    step = "schema_migrations"
    try:
        # An answer that never comes shall not hold the start up for ever; what a migration itself takes nobody knows.
        await connection.execute(f"SET lock_timeout = '{LOCK_WAIT_S}s'", timeout=CONNECT_S_MAX)
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY, timeout=LOCK_WAIT_S + CONNECT_S_MAX)
        await connection.execute("SET lock_timeout = 0", timeout=CONNECT_S_MAX)
        await connection.execute(HISTORY, timeout=CONNECT_S_MAX)
        rows = await connection.fetch(APPLIED, timeout=CONNECT_S_MAX)
        todo = plan(files, [Migration(row["version"], row["name"], row["checksum"]) for row in rows])
        for migration in todo:
            step = migration.name
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                    migration.version,
                    migration.name,
                    migration.checksum,
                )
            log.info("migration applied", extra={"migration": migration.name})
    except asyncpg.LockNotAvailableError as error:
        raise MigrationFailed(
            f"Another node has been migrating for {LOCK_WAIT_S} s; look at it, then retry."
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationFailed(
            f"The database user may not apply {step} ({_first_line(error)}): let it own the database and have "
            f"CREATEROLE, or let an administrator run: CREATE ROLE {APP_ROLE} NOLOGIN NOINHERIT; "
            f"GRANT {APP_ROLE} TO that user."
        ) from error
    except asyncpg.PostgresError as error:
        if isinstance(error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError):
            raise
        raise MigrationFailed(f"The migration {step} failed and was rolled back: {_first_line(error)}.") from error
    return [migration.name for migration in todo]


def _first_line(error: Exception) -> str:
    """Postgres puts details, which may be data, on further lines."""
    return str(error).partition("\n")[0]
