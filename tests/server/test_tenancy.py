"""Two tenants in one database: row-level security holds also where a query forgets its tenant."""

import asyncpg
import pytest

from server.store.pool import APP_ROLE, Connection, Database

TENANTS = ("tenant-a", "tenant-b")
SHARED = {"pgqueuer", "pgqueuer_log", "pgqueuer_schedules", "pgqueuer_statistics", "index_editions"}
"""The job queue and the index serve all tenants; `schema_migrations` is not the application's to see."""


@pytest.fixture
async def two(database: Database) -> Database:
    """A database in which each tenant has one row in every table that has a tenant."""
    for tenant in TENANTS:
        async with database.tenant_tx(tenant) as tx:
            await populate(tx, tenant)
    return database


async def populate(tx: Connection, tenant: str) -> None:
    user, recording, segment = f"u-{tenant}", f"r-{tenant}", f"s-{tenant}"
    await tx.execute("INSERT INTO tenants (tenant_id, name) VALUES ($1, $1)", tenant)
    await tx.execute("INSERT INTO users VALUES ($1, $2, 'ann')", tenant, user)
    await tx.execute("INSERT INTO memberships VALUES ($1, $2, 'owner')", tenant, user)
    await tx.execute("INSERT INTO login_links VALUES ($1, $2, $3, now())", tenant, tenant.encode(), user)
    await tx.execute(
        "INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state, engine, "
        "encoding, sample_rate, channels) VALUES ($1, $2, $3, 't', 'tenant', 'en', 'live', 'e', 'pcm_s16le', 16000, 1)",
        tenant,
        recording,
        user,
    )
    await tx.execute(
        "INSERT INTO streams (tenant_id, recording_id, stream_id, epoch, node, lease_until, resume_token_hash) "
        "VALUES ($1, $2, 'x', 1, 'n', now() - interval '1 hour', '')",
        tenant,
        recording,
    )
    await tx.execute(
        "INSERT INTO segments VALUES ($1, $2, $3, 1, 1, 0, 10, 'hello', '[]', NULL, 'en', 1)",
        tenant,
        recording,
        segment,
    )
    await tx.execute("INSERT INTO rooms VALUES ($1, 'room')", tenant)
    await tx.execute("INSERT INTO events VALUES ($1, 'room', 1, now(), 'e', '{}')", tenant)
    await tx.execute(
        "INSERT INTO segment_index (tenant_id, segment_id, recording_id, owner_id, private, spoken_at, rev, tsv, "
        "language) VALUES ($1, $2, $3, $4, false, now(), 1, 'hello'::tsvector, 'en')",
        tenant,
        segment,
        recording,
        user,
    )
    await tx.execute("INSERT INTO search_languages VALUES ($1, 'en')", tenant)
    await tx.execute("INSERT INTO voices VALUES ($1, 'v', 'Ann', 'm', '', 5000, $2)", tenant, user)
    await tx.execute("INSERT INTO recording_speakers VALUES ($1, $2, 'S1', 'Ann', true, 'v')", tenant, recording)
    await tx.execute("INSERT INTO passes VALUES ($1, $2) ON CONFLICT DO NOTHING", tenant, recording)
    await tx.execute("INSERT INTO pass_pieces VALUES ($1, $2, 1, 1, 0, 16000, '')", tenant, recording)
    await tx.execute(
        "INSERT INTO segment_vectors (tenant_id, segment_id, model, spoken_at, text_key) "
        "VALUES ($1, $2, 'due', now(), 0)",
        tenant,
        segment,
    )
    await tx.execute("INSERT INTO segment_ledger VALUES ($1, $2, $3, 1)", tenant, segment, recording)
    await tx.execute("INSERT INTO search_words VALUES ($1, 'hi', $2, 1)", tenant, recording)  # and search_vocabulary
    await tx.execute("INSERT INTO searches VALUES ($1, 'x', $2, 'hello', 'hello', now(), 1)", tenant, user)
    await tx.execute("INSERT INTO search_word_keys VALUES ($1, 'hell', 'hello')", tenant)


async def tables_with_tenant(tx: Connection) -> list[str]:
    rows = await tx.fetch(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attname = 'tenant_id' "
        "ORDER BY 1"
    )
    return [row[0] for row in rows]


async def test_every_table_with_a_tenant_is_guarded(owner: Connection) -> None:
    tables = await tables_with_tenant(owner)
    assert {"tenants", "segments", "events"} <= set(tables), "the catalogue query finds nothing"
    for table in tables:
        assert await owner.fetchval("SELECT relrowsecurity FROM pg_class WHERE oid = $1::text::regclass", table), table
        policies = await owner.fetch(
            "SELECT cmd, permissive, roles::text[] AS roles, qual, with_check FROM pg_policies WHERE tablename = $1",
            table,
        )
        permissive = [p for p in policies if p["permissive"] == "PERMISSIVE"]
        assert permissive, f"{table} has no policy"
        for policy in permissive:  # permissive policies are OR-ed: one loose one opens the table
            assert (policy["cmd"], policy["roles"]) == ("ALL", [APP_ROLE]), table
            assert policy["qual"] == policy["with_check"] == "(tenant_id = parlance_tenant())", table


async def test_the_application_reaches_no_table_without_a_tenant_but_those_of_the_server(owner: Connection) -> None:
    guarded = set(await tables_with_tenant(owner))
    rows = await owner.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') "
        "AND has_table_privilege($1, oid, 'SELECT, INSERT, UPDATE, DELETE')",
        APP_ROLE,
    )
    assert {row[0] for row in rows} - guarded == SHARED


async def test_the_application_role_is_weak(owner: Connection) -> None:
    role = await owner.fetchrow("SELECT * FROM pg_roles WHERE rolname = $1", APP_ROLE)
    assert not any(role[key] for key in ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolcanlogin"))
    assert await owner.fetchval("SELECT count(*) FROM pg_class WHERE relowner = $1::text::regrole", APP_ROLE) == 0


async def test_a_query_without_its_tenant_sees_only_own_rows(two: Database) -> None:
    for tenant in TENANTS:
        async with two.tenant_tx(tenant) as tx:
            for table in await tables_with_tenant(tx):
                seen = [row[0] for row in await tx.fetch(f"SELECT tenant_id FROM {table}")]
                assert seen == [tenant], f"{table}: every table with a tenant gets one row each from populate()"


async def test_without_a_tenant_nothing_is_seen(two: Database) -> None:
    async with two.tenant_tx(TENANTS[0]) as tx:
        tables = await tables_with_tenant(tx)
    async with two.shared_tx() as tx:  # the pool has one connection: the tenant before must not linger on it
        for table in tables:
            assert await tx.fetchval(f"SELECT count(*) FROM {table}") == 0, table


async def test_an_empty_tenant_is_none(two: Database) -> None:
    async with two.tenant_tx("") as tx:
        assert await tx.fetchval("SELECT count(*) FROM segments") == 0


async def test_the_tenant_ends_with_a_transaction_that_failed(two: Database) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with two.tenant_tx(TENANTS[0]) as tx:
            await tx.fetchval("SELECT 1 / 0")
    async with two.shared_tx() as tx:
        assert await tx.fetchval("SELECT count(*) FROM segments") == 0


async def test_other_tenants_rows_cannot_be_written(two: Database) -> None:
    a, b = TENANTS
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with two.tenant_tx(a) as tx:
            await tx.execute("INSERT INTO rooms VALUES ($1, 'mine')", b)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with two.tenant_tx(a) as tx:
            await tx.execute("UPDATE rooms SET tenant_id = $1", b)
    async with two.tenant_tx(a) as tx:
        assert await tx.execute("UPDATE segments SET text = 'stolen' WHERE tenant_id = $1", b) == "UPDATE 0"
        assert await tx.execute("DELETE FROM events") == "DELETE 1"
    async with two.tenant_tx(b) as tx:
        assert await tx.fetchval("SELECT text FROM segments") == "hello"
        assert await tx.fetchval("SELECT count(*) FROM events") == 1


async def test_rows_without_a_tenant_cannot_be_written(two: Database) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with two.shared_tx() as tx:
            await tx.execute("INSERT INTO tenants VALUES ('c', 'c')")


async def test_the_guard_cannot_be_switched_off(two: Database) -> None:
    for statement in (
        "ALTER TABLE segments DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant ON segments",
        f"ALTER ROLE {APP_ROLE} BYPASSRLS",
        "SELECT * FROM schema_migrations",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with two.tenant_tx(TENANTS[0]) as tx:
                await tx.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with two.tenant_tx(TENANTS[0]) as tx:
            await tx.execute("SET LOCAL row_security = off; SELECT * FROM segments")


async def test_resetting_the_role_stays(two: Database) -> None:
    async with two.shared_tx() as tx:
        assert await tx.fetchval("SELECT current_user") == APP_ROLE
        for statement in ("RESET ROLE", "RESET ALL"):
            await tx.execute(statement)
            assert await tx.fetchval("SELECT current_user") == APP_ROLE, statement
            assert await tx.fetchval("SELECT count(*) FROM segments") == 0


async def test_a_connection_of_ones_own_is_the_application_too(two: Database) -> None:
    connection = await two.connect()
    try:
        assert await connection.fetchval("SELECT current_user") == APP_ROLE
        assert await connection.fetchval("SELECT count(*) FROM segments") == 0
    finally:
        await connection.close()


async def test_the_reads_across_tenants_tell_names_only(two: Database) -> None:
    async with two.shared_tx() as tx:
        rows = await tx.fetch("SELECT * FROM expired_streams(10)")
        assert {tuple(row) for row in rows} == {(tenant, f"r-{tenant}") for tenant in TENANTS}
        heads = await tx.fetch("SELECT * FROM rooms_behind($1, $2, $3)", [*TENANTS, "c"], ["room"] * 3, [-1, 0, -1])
        assert [tuple(row) for row in heads] == [(1, 0)], "a number, for who knows tenant and room"
        due = await tx.fetch("SELECT * FROM vectors_due('due', 10)")
        assert {tuple(row) for row in due} == {(tenant, f"s-{tenant}") for tenant in TENANTS}
        assert await tx.fetchval("SELECT vectors_due_count('due')") == len(TENANTS)
        assert await tx.fetchval("SELECT vectors_behind('due', -60)") is True
        assert [tuple(row) for row in await tx.fetch("SELECT * FROM search_tenants('tenant-a', 9)")] == [("tenant-b",)]
        assert await tx.fetchval("SELECT search_segments_count()") == len(TENANTS)
        held = await tx.fetch("SELECT * FROM index_tenants()")
        assert [tuple(row) for row in held] == [(tenant,) for tenant in TENANTS]
        assert await tx.fetchval("SELECT tenant_by_name('tenant-b')") == "tenant-b"
        assert await tx.fetchval("SELECT tenant_by_name('tenant-c')") is None
