"""Tenants, their users, and one-time login links.

Policy: a membership is the right to be here; whoever lost it is nobody, whatever their token says. A login link is
good for one login: only the hash of its code is stored, and redeeming deletes the row.

Boundary: SQL through `Database.tenant_tx`; the one look-up across tenants is the SECURITY DEFINER function
`tenant_by_name`, which returns an id and nothing else. Invariant: a code redeems at most once, also under races.
"""

import hashlib
import re
import secrets
import uuid

import msgspec

from auth.errors import Unauthenticated
from auth.model import Identity, Role
from server.store.pool import Database
from streaming.errors import BadRequest, NotFound, Unavailable
from streaming.limits import LIMITS

NAME_CHARS_MAX = 100
"""As the CHECK of the tables."""
CREATE_ATTEMPTS_MAX = 3
"""One loser of a race sees the winner's row on its second look; the third covers a winner that was deleted again."""
LINK_TTL_S_MAX = LIMITS.login_link_s_max
CODE = re.compile(r"([0-9a-f]{32})\.([A-Za-z0-9_-]{43})")
"""The tenant's id and 32 random bytes in base64url: without its tenant no row of a code is visible."""


class User(msgspec.Struct, frozen=True):
    """A member of a tenant."""

    tenant_id: str
    user_id: str
    name: str
    role: Role


class IdentityStore:
    """Reads and writes identities. Every method may raise `Unavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tenant_called(self, name: str) -> str | None:
        """The id of a tenant, by its name."""
        async with self._database.shared_tx() as connection:
            found: str | None = await connection.fetchval("SELECT tenant_by_name($1)", name)
        return found

    async def ensure_tenant(self, name: str) -> str:
        """The id of the tenant called `name`, created when missing. Raises `BadRequest` for an unusable name."""
        _check_name(name, "tenant")
        for _ in range(CREATE_ATTEMPTS_MAX):
            async with self._database.shared_tx() as connection:
                known: str | None = await connection.fetchval("SELECT tenant_by_name($1)", name)
            if known is not None:
                return known
            # The new row is only visible and writable to its own tenant, so the id comes first.
            created = uuid.uuid4().hex
            async with self._database.tenant_tx(created) as connection:
                inserted = await connection.fetchval(
                    "INSERT INTO tenants (tenant_id, name) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING RETURNING 1",
                    created,
                    name,
                )
            if inserted is not None:
                return created
        raise Unavailable("The tenant is being created and deleted by somebody else.", retry_after_ms=1_000)

    async def ensure_user(self, tenant_id: str, name: str, role: Role) -> User:
        """The user called `name`, created when missing; an existing one gets `role`.

        Raises `BadRequest` for an unusable name, `NotFound` without such a tenant."""
        _check_name(name, "user")
        async with self._database.tenant_tx(tenant_id) as connection:
            # FOR SHARE: the tenant cannot vanish before its user is written.
            if not await connection.fetchval("SELECT 1 FROM tenants WHERE tenant_id = $1 FOR SHARE", tenant_id):
                raise NotFound("There is no such tenant.")
            # DO UPDATE with the same name, because DO NOTHING would not return the row that is already there.
            user_id: str = await connection.fetchval(
                "INSERT INTO users (tenant_id, user_id, name) VALUES ($1, $2, $3) "
                "ON CONFLICT (tenant_id, name) DO UPDATE SET name = EXCLUDED.name RETURNING user_id",
                tenant_id,
                uuid.uuid4().hex,
                name,
            )
            await connection.execute(
                "INSERT INTO memberships (tenant_id, user_id, role) VALUES ($1, $2, $3) "
                "ON CONFLICT (tenant_id, user_id) DO UPDATE SET role = EXCLUDED.role",
                tenant_id,
                user_id,
                role.value,
            )
        return User(tenant_id=tenant_id, user_id=user_id, name=name, role=role)

    async def identity_of(self, tenant_id: str, user_id: str, *, expires_at: int = 0) -> Identity | None:
        """The user as of now, with the current role; None when the membership is gone.

        `expires_at` (Unix seconds) is passed through: how long a caller counts is its token's business."""
        async with self._database.tenant_tx(tenant_id) as connection:
            row = await connection.fetchrow(
                "SELECT u.name AS user_name, t.name AS tenant_name, m.role FROM memberships m "
                "JOIN users u USING (tenant_id, user_id) JOIN tenants t USING (tenant_id) "
                "WHERE m.tenant_id = $1 AND m.user_id = $2",
                tenant_id,
                user_id,
            )
        if row is None:
            return None
        return Identity(
            user_id=user_id,
            user_name=row["user_name"],
            tenant_id=tenant_id,
            tenant_name=row["tenant_name"],
            role=Role(row["role"]),
            expires_at=expires_at,
        )

    async def create_login_link(self, tenant_id: str, user_id: str, ttl_s: int) -> str:
        """A code that logs this user in once within `ttl_s` seconds (1 s to 7 days). Expired links go away here.

        Raises `NotFound` when there is no such member, `BadRequest` for another `ttl_s`."""
        if not 1 <= ttl_s <= LINK_TTL_S_MAX:
            raise BadRequest(f"A login link lives for 1 to {LINK_TTL_S_MAX} seconds.", field="ttl_s")
        code = secrets.token_urlsafe(32)
        async with self._database.tenant_tx(tenant_id) as connection:
            await connection.execute("DELETE FROM login_links WHERE tenant_id = $1 AND expires_at <= now()", tenant_id)
            inserted = await connection.fetchval(
                "INSERT INTO login_links (tenant_id, code_hash, user_id, expires_at) "
                "SELECT tenant_id, $3, user_id, now() + make_interval(secs => $4) FROM memberships "
                "WHERE tenant_id = $1 AND user_id = $2 RETURNING 1",
                tenant_id,
                user_id,
                _hash(code),
                float(ttl_s),
            )
        if inserted is None:
            raise NotFound("There is no such member.")
        return f"{tenant_id}.{code}"

    async def redeem_login_link(self, code: str) -> Identity:
        """Log in with a code. Raises `Unauthenticated` for one that is malformed, unknown, used or expired."""
        match = CODE.fullmatch(code)
        if match is None:
            raise Unauthenticated("The login link is malformed.", field="code")
        tenant_id, secret = match.groups()
        async with self._database.tenant_tx(tenant_id) as connection:
            # The row's lock decides a race: the second DELETE waits for the first and then finds nothing.
            row = await connection.fetchrow(
                "DELETE FROM login_links WHERE tenant_id = $1 AND code_hash = $2 "
                "RETURNING user_id, expires_at > now() AS fresh",
                tenant_id,
                _hash(secret),
            )
        if row is None:
            raise Unauthenticated("The login link is unknown or was already used.", field="code")
        if not row["fresh"]:
            raise Unauthenticated("The login link has expired.", field="code")
        identity = await self.identity_of(tenant_id, row["user_id"])
        if identity is None:
            raise Unauthenticated("The login link's user is no longer a member.", field="code")
        return identity


def _hash(code: str) -> bytes:
    # A plain hash suffices: the code has 256 random bits, there is nothing to guess.
    return hashlib.sha256(code.encode()).digest()


def _check_name(name: str, field: str) -> None:
    if not 1 <= len(name) <= NAME_CHARS_MAX or not name.isprintable() or name != name.strip():
        raise BadRequest(f"A {field}'s name has 1 to {NAME_CHARS_MAX} printable characters.", field=field)
