"""Nodes that share a database sign with one secret, which nobody configured and the application role cannot read."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from auth.errors import Unauthenticated
from server.config import Config
from server.edge.authenticate import Authenticator
from server.lifecycle import secret_of
from server.secret import FILE_NAME, signing_secret
from server.store.identity import IdentityStore
from server.store.installation import shared_secret
from server.store.pool import Database
from streaming.errors import Unavailable
from tests.support.node import somebody


def node(folder: Path, dsn: str, **settings: str) -> Config:
    return Config(data_dir=folder, database_url=dsn, **settings)  # type: ignore[arg-type]


async def test_nodes_that_start_at_once_agree(database: Database, database_dsn: str, tmp_path: Path) -> None:
    nodes = [node(tmp_path / name, database_dsn) for name in ("a", "b", "c")]
    found = await asyncio.gather(*(secret_of(config, database_dsn) for config in nodes))
    assert len(set(found)) == 1
    assert len(found[0]) >= 64
    assert not (tmp_path / "a" / FILE_NAME).exists(), "the database holds it"


async def test_a_node_that_signed_before_keeps_its_tokens(
    database: Database, database_dsn: str, tmp_path: Path
) -> None:
    before = signing_secret(Config(data_dir=tmp_path / "a"))
    assert await secret_of(node(tmp_path / "a", database_dsn), database_dsn) == before
    assert await secret_of(node(tmp_path / "b", database_dsn), database_dsn) == before


async def test_a_configured_secret_counts_and_is_not_stored(
    database: Database, database_dsn: str, tmp_path: Path
) -> None:
    config = node(tmp_path / "a", database_dsn, secret="c" * 32)
    assert await secret_of(config, database_dsn) == "c" * 32
    assert await shared_secret(database_dsn, "d" * 64) == "d" * 64


async def test_the_application_role_cannot_read_it(database: Database, database_dsn: str) -> None:
    await shared_secret(database_dsn, "d" * 64)
    async with database.shared_tx() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval("SELECT secret FROM installation")


async def test_before_it_knows_the_secret_a_server_takes_no_token(database: Database) -> None:
    authenticate = Authenticator(IdentityStore(database), ttl_s=60)
    with pytest.raises(Unavailable):
        await authenticate("anything")
    with pytest.raises(Unavailable):
        authenticate.token(await somebody(database))
    authenticate.open("c" * 32)
    with pytest.raises(Unauthenticated):
        await authenticate("anything")
