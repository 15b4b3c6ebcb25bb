"""Migrations on a real server: order, record, refusal, races, and owners who are no superusers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from server.store.embedded import EmbeddedPostgres
from server.store.migrate import FOLDER, Migration, MigrationFailed, migrate, plan, read
from server.store.pool import APP_ROLE, Database
from streaming.errors import Unavailable

ALL = [path.stem for path in sorted(FOLDER.glob("*.sql"))]
FIRST = Migration(1, "0001_a", "x")
SECOND = Migration(2, "0002_b", "y")


def write(folder: Path, **files: str) -> Path:
    for name, sql in files.items():
        (folder / f"{name.removeprefix('m')}.sql").write_text(sql)
    return folder


async def fetchval(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def test_plan_goes_on_where_the_database_stands() -> None:
    assert plan([FIRST, SECOND], []) == [FIRST, SECOND]
    assert plan([FIRST, SECOND], [FIRST]) == [SECOND]
    assert plan([FIRST, SECOND], [FIRST, SECOND]) == []


@pytest.mark.parametrize(
    ("applied", "reason"),
    [
        ([FIRST, SECOND, Migration(3, "0003_c", "z")], "0003_c, which this version does not know"),
        ([Migration(1, "0001_a", "other")], "0001_a was changed"),
        ([SECOND], "lacks an earlier"),
    ],
)
def test_plan_refuses_a_database_that_is_no_past_of_ours(applied: list[Migration], reason: str) -> None:
    with pytest.raises(MigrationFailed, match=reason):
        plan([FIRST, SECOND], applied)


@pytest.mark.parametrize("name", ["m0002_b", "m1_b", "m0001"])
def test_files_are_numbered_without_gaps(tmp_path: Path, name: str) -> None:
    with pytest.raises(MigrationFailed, match=r"0001_name\.sql"):
        read(write(tmp_path, **{name: ""}))


async def test_all_are_applied_once(empty_dsn: str) -> None:
    assert await migrate(empty_dsn) == ALL
    assert await migrate(empty_dsn) == []
    assert await fetchval(empty_dsn, "SELECT array_agg(name ORDER BY version) FROM schema_migrations") == ALL


async def test_a_new_file_is_added(empty_dsn: str, tmp_path: Path) -> None:
    await migrate(empty_dsn, write(tmp_path, m0001_a="CREATE TABLE a ()"))
    added = await migrate(empty_dsn, write(tmp_path, m0002_b="CREATE TABLE b (); CREATE TABLE c ();"))
    assert added == ["0002_b"]
    assert await fetchval(empty_dsn, "SELECT to_regclass('c') IS NOT NULL")


async def test_a_changed_file_is_refused(empty_dsn: str, tmp_path: Path) -> None:
    await migrate(empty_dsn, write(tmp_path, m0001_a="CREATE TABLE a ()"))
    with pytest.raises(MigrationFailed, match="0001_a was changed"):
        await migrate(empty_dsn, write(tmp_path, m0001_a="CREATE TABLE a (n int)"))


async def test_a_newer_database_is_refused(empty_dsn: str, tmp_path: Path) -> None:
    await migrate(empty_dsn, write(tmp_path, m0001_a="SELECT 1", m0002_b="SELECT 1"))
    (tmp_path / "0002_b.sql").unlink()
    with pytest.raises(MigrationFailed, match="0002_b, which this version does not know"):
        await migrate(empty_dsn, tmp_path)


async def test_a_failing_file_leaves_nothing_and_keeps_the_earlier(empty_dsn: str, tmp_path: Path) -> None:
    write(tmp_path, m0001_a="CREATE TABLE a ()", m0002_b="CREATE TABLE b (); SELECT no_such_function();")
    with pytest.raises(MigrationFailed, match=r"0002_b failed and was rolled back: .*no_such_function"):
        await migrate(empty_dsn, tmp_path)
    assert await fetchval(empty_dsn, "SELECT to_regclass('a') IS NOT NULL AND to_regclass('b') IS NULL")
    assert await migrate(empty_dsn, write(tmp_path, m0002_b="CREATE TABLE b ()")) == ["0002_b"]


async def test_nodes_that_start_together_do_not_race(empty_dsn: str) -> None:
    results = await asyncio.gather(*(migrate(empty_dsn) for _ in range(5)))
    assert sorted(results) == [[], [], [], [], ALL]


async def test_an_absent_database_is_explained(postgres_dsn: str, tmp_path: Path) -> None:
    absent = urlsplit(postgres_dsn)._replace(path="/absent").geturl()
    with pytest.raises(MigrationFailed, match='"absent" does not exist'):
        await migrate(absent)
    with pytest.raises(Unavailable):
        await migrate(f"postgresql://x@/postgres?host={tmp_path}")
    with pytest.raises(MigrationFailed, match=r"role .* does not exist"):
        await migrate(urlsplit(postgres_dsn)._replace(netloc="stranger@").geturl())
    with pytest.raises(MigrationFailed, match="PARLANCE_DATABASE_URL"):
        await migrate("postgresql://host:port/")


class Cluster:
    """A server on which nobody migrated yet, as an administrator sees it: roles are made for the application."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def execute(self, *statements: str, database: str = "postgres") -> None:
        connection = await asyncpg.connect(urlsplit(self._dsn)._replace(path=f"/{database}").geturl())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def dsn(self, role: str, database: str) -> str:
        return urlsplit(self._dsn)._replace(netloc=f"{role}@", path=f"/{database}").geturl()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    server = EmbeddedPostgres(tmp_path / "postgres")
    yield Cluster(await server.start())
    await server.stop()


async def works(dsn: str) -> None:
    database = Database(dsn)
    await database.open()
    try:
        async with database.tenant_tx("t") as tx:
            await tx.execute("INSERT INTO tenants VALUES ('t', 'demo')")
            await tx.execute("INSERT INTO pgqueuer (priority, status, entrypoint) VALUES (0, 'queued', 'e')")
            assert await tx.fetchval("SELECT current_user") == APP_ROLE
        async with database.shared_tx() as tx:
            assert await tx.fetchval("SELECT count(*) FROM tenants") == 0
            assert await tx.fetchval("SELECT tenant_by_name('demo')") == "t"
            await tx.execute("RESET ROLE")
            assert await tx.fetchval("SELECT current_user") == APP_ROLE
    finally:
        await database.close()


async def test_owners_on_a_server_of_ones_own(cluster: Cluster) -> None:
    """What PARLANCE_DATABASE_URL may name: an owner without CREATEROLE, with it, and one served by an administrator.
    Only an administrator may install pgvector."""
    await cluster.execute(
        "CREATE ROLE plain LOGIN",
        "CREATE ROLE maker LOGIN CREATEROLE",
        "CREATE ROLE served LOGIN",
        "CREATE DATABASE plain OWNER plain",
        "CREATE DATABASE maker OWNER maker",
        "CREATE DATABASE served OWNER served",
    )
    with pytest.raises(MigrationFailed, match="CREATEROLE"):
        await migrate(cluster.dsn("plain", "plain"))
    with pytest.raises(MigrationFailed, match="own the database"):
        await migrate(cluster.dsn("plain", "maker"))
    with pytest.raises(MigrationFailed, match="CREATE EXTENSION vector"):
        await migrate(cluster.dsn("maker", "maker"))
    await cluster.execute("CREATE EXTENSION vector", database="maker")
    assert (await migrate(cluster.dsn("maker", "maker")))[0] == "0005_vectors"
    await works(cluster.dsn("maker", "maker"))

    with pytest.raises(MigrationFailed, match=f"GRANT {APP_ROLE}"):
        await migrate(cluster.dsn("served", "served"))
    await cluster.execute(f"GRANT {APP_ROLE} TO served", "CREATE EXTENSION vector", database="served")
    assert await migrate(cluster.dsn("served", "served")) == ALL
    await works(cluster.dsn("served", "served"))


async def test_the_superuser_of_an_embedded_server(database_dsn: str) -> None:
    await works(database_dsn)


async def test_a_wrong_dsn_is_a_defect_not_a_lost_database() -> None:
    with pytest.raises(ValueError, match="port"):
        await Database("postgresql://host:port/").open()


async def test_a_lost_database_is_unavailable_and_comes_back(database: Database, postgres_dsn: str) -> None:
    killer = await asyncpg.connect(postgres_dsn)

    async def lose() -> None:
        async with database.shared_tx() as tx:
            await killer.execute("SELECT pg_terminate_backend($1, 60000)", await tx.fetchval("SELECT pg_backend_pid()"))
            await tx.fetchval("SELECT 1")

    with pytest.raises(Unavailable):
        await lose()
    await killer.close()
    async with database.shared_tx() as tx:
        assert await tx.fetchval("SELECT 1") == 1
