"""Access to this installation's own data: the database, and tokens signed with its secret.

Whoever can read the data folder (or the database) is its administrator, so no login is asked for. Works with the
server up or down: the embedded PostgreSQL is attached to when it runs, else started for the moment.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

from auth.model import Role
from auth.tokens import issue
from server.config import Config
from server.console.failures import USAGE, CommandFailed
from server.lifecycle import secret_of
from server.store import embedded
from server.store.identity import IdentityStore
from server.store.migrate import migrate
from server.store.pool import Database

DEMO_TENANT = "demo"
DEMO_USER = "owner"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@asynccontextmanager
async def local_database(config: Config) -> AsyncIterator[Database]:
    """The installation's database, migrated and open."""
    async with AsyncExitStack() as stack:
        dsn = config.database_url
        if dsn is None:
            dsn = await stack.enter_async_context(embedded.use(config.data_dir / "postgres"))
        await migrate(dsn)
        database = Database()
        await database.open(dsn)
        stack.push_async_callback(database.close)
        yield database


async def mint(config: Config, *, tenant: str, user: str, role: Role, hours: int) -> str:
    """An access token for `user` of `tenant`, both created when missing; an existing user gets `role`."""
    async with local_database(config) as database:
        secret = await secret_of(config, database.dsn)
        identities = IdentityStore(database)
        member = await identities.ensure_user(await identities.ensure_tenant(tenant), user, role)
        identity = await identities.identity_of(member.tenant_id, member.user_id)
    if identity is None:
        raise CommandFailed(f"{user} was removed from {tenant} at this moment.")
    return issue(identity, secret=secret, now=int(time.time()), ttl_s=hours * 3_600)


async def token_for(config: Config, url: str, given: str | None) -> str:
    """The token to connect with: the given one, else one for the demo tenant's owner of this installation.

    Raises `CommandFailed` when `url` is on another machine: its server would not know our signature."""
    if given:
        return given
    host = urlsplit(url).hostname
    if host not in LOOPBACK and host != urlsplit(config.url).hostname:
        raise CommandFailed(f"A token is needed for {url}: use --token or PARLANCE_TOKEN.", USAGE)
    return await mint(config, tenant=DEMO_TENANT, user=DEMO_USER, role=Role.OWNER, hours=config.token_hours)
