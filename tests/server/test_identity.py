"""Identities and login links on a real database, always beside a second tenant."""

import asyncio

import pytest

from auth.errors import Unauthenticated
from auth.model import Role
from server.store.identity import IdentityStore
from server.store.pool import Database
from streaming.errors import BadRequest, NotFound

HANG_S = 30.0


@pytest.fixture
def store(database: Database) -> IdentityStore:
    return IdentityStore(database)


async def test_a_tenant_is_made_once_and_found_again(store: IdentityStore) -> None:
    demo, other = await store.ensure_tenant("demo"), await store.ensure_tenant("other")
    assert demo != other
    assert await store.ensure_tenant("demo") == demo


async def test_everybody_who_races_for_a_name_gets_the_same_tenant(store: IdentityStore) -> None:
    async with asyncio.timeout(HANG_S):
        ids = await asyncio.gather(*(store.ensure_tenant("race") for _ in range(12)))
    assert len(set(ids)) == 1


@pytest.mark.parametrize("name", ["", "n" * 101, "a\x00b", "a\nb", " padded "])
async def test_unusable_names_are_refused(store: IdentityStore, name: str) -> None:
    tenant = await store.ensure_tenant("demo")
    with pytest.raises(BadRequest):
        await store.ensure_tenant(name)
    with pytest.raises(BadRequest):
        await store.ensure_user(tenant, name, Role.MEMBER)


async def test_a_user_is_made_once_and_takes_the_newest_role(store: IdentityStore) -> None:
    tenant = await store.ensure_tenant("demo")
    first = await store.ensure_user(tenant, "ana", Role.MEMBER)
    again = await store.ensure_user(tenant, "ana", Role.ADMIN)
    assert (again.user_id, again.role) == (first.user_id, Role.ADMIN)
    async with asyncio.timeout(HANG_S):
        racers = await asyncio.gather(*(store.ensure_user(tenant, "ben", Role.VIEWER) for _ in range(8)))
    assert len({user.user_id for user in racers}) == 1


async def test_a_user_needs_a_tenant(store: IdentityStore) -> None:
    with pytest.raises(NotFound):
        await store.ensure_user("0" * 32, "ana", Role.MEMBER)


async def test_an_identity_is_the_membership_as_of_now(store: IdentityStore, database: Database) -> None:
    tenant = await store.ensure_tenant("demo")
    user = await store.ensure_user(tenant, "ana", Role.MEMBER)
    who = await store.identity_of(tenant, user.user_id, expires_at=17)
    assert who is not None
    assert (who.user_id, who.user_name, who.tenant_id, who.tenant_name, who.role, who.expires_at) == (
        user.user_id,
        "ana",
        tenant,
        "demo",
        Role.MEMBER,
        17,
    )
    await store.ensure_user(tenant, "ana", Role.VIEWER)
    who = await store.identity_of(tenant, user.user_id)
    assert who is not None
    assert who.role is Role.VIEWER
    async with database.tenant_tx(tenant) as connection:
        await connection.execute("DELETE FROM memberships WHERE user_id = $1", user.user_id)
    assert await store.identity_of(tenant, user.user_id) is None


async def test_two_tenants_never_see_each_other(store: IdentityStore) -> None:
    one, two = await store.ensure_tenant("one"), await store.ensure_tenant("two")
    ana_one = await store.ensure_user(one, "ana", Role.OWNER)
    ana_two = await store.ensure_user(two, "ana", Role.VIEWER)
    assert ana_one.user_id != ana_two.user_id, "the same name in two tenants is two people"
    assert await store.identity_of(two, ana_one.user_id) is None
    assert await store.identity_of(one, ana_two.user_id) is None
    with pytest.raises(NotFound):
        await store.create_login_link(two, ana_one.user_id, 60)
    code = await store.create_login_link(one, ana_one.user_id, 60)
    with pytest.raises(Unauthenticated):
        await store.redeem_login_link(f"{two}.{code.partition('.')[2]}")
    assert (await store.redeem_login_link(code)).tenant_id == one


async def test_a_login_link_works_once_even_in_a_race(store: IdentityStore) -> None:
    tenant = await store.ensure_tenant("demo")
    user = await store.ensure_user(tenant, "ana", Role.OWNER)
    code = await store.create_login_link(tenant, user.user_id, 60)
    async with asyncio.timeout(HANG_S):
        outcomes = await asyncio.gather(*(store.redeem_login_link(code) for _ in range(8)), return_exceptions=True)
    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert [who.user_id for who in won] == [user.user_id]
    assert all(isinstance(outcome, Unauthenticated) for outcome in outcomes if isinstance(outcome, BaseException))


async def test_only_the_hash_of_a_code_is_stored(store: IdentityStore, database: Database) -> None:
    tenant = await store.ensure_tenant("demo")
    user = await store.ensure_user(tenant, "ana", Role.OWNER)
    code = await store.create_login_link(tenant, user.user_id, 60)
    async with database.tenant_tx(tenant) as connection:
        row = await connection.fetchrow("SELECT * FROM login_links")
    assert len(row["code_hash"]) == 32
    assert code.partition(".")[2].encode() not in row["code_hash"]


async def test_an_expired_link_is_refused_and_swept(store: IdentityStore, database: Database) -> None:
    tenant = await store.ensure_tenant("demo")
    user = await store.ensure_user(tenant, "ana", Role.OWNER)
    codes = [await store.create_login_link(tenant, user.user_id, 60) for _ in range(2)]
    async with database.tenant_tx(tenant) as connection:
        await connection.execute("UPDATE login_links SET expires_at = now()")
    with pytest.raises(Unauthenticated, match="expired"):
        await store.redeem_login_link(codes[0])
    await store.create_login_link(tenant, user.user_id, 60)
    async with database.tenant_tx(tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM login_links") == 1


async def test_a_link_of_a_former_member_is_refused(store: IdentityStore, database: Database) -> None:
    tenant = await store.ensure_tenant("demo")
    user = await store.ensure_user(tenant, "ana", Role.OWNER)
    code = await store.create_login_link(tenant, user.user_id, 60)
    async with database.tenant_tx(tenant) as connection:
        await connection.execute("DELETE FROM memberships")
    with pytest.raises(Unauthenticated, match="no longer a member"):
        await store.redeem_login_link(code)


@pytest.mark.parametrize("code", ["", "x", "." * 76, "'; DROP TABLE users; --", "0" * 32 + "." + "é" * 43, "a\x00b"])
async def test_malformed_codes_are_refused(store: IdentityStore, code: str) -> None:
    with pytest.raises(Unauthenticated, match="malformed"):
        await store.redeem_login_link(code)


@pytest.mark.parametrize("ttl_s", [0, -1, 7 * 86_400 + 1])
async def test_a_link_has_a_bounded_life(store: IdentityStore, ttl_s: int) -> None:
    tenant = await store.ensure_tenant("demo")
    user = await store.ensure_user(tenant, "ana", Role.OWNER)
    with pytest.raises(BadRequest):
        await store.create_login_link(tenant, user.user_id, ttl_s)
