"""One real server for all tests of a session; every test works in tenants of its own. And for parts of one without a
server: a member, a superuser's connection, kept audio."""

import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from auth.model import Identity
from server.media.audiolog import MediaStore
from server.store.pool import Connection, Database
from tests.support.library import Library, open_library
from tests.support.node import somebody
from tests.support.process import Account, ServerProcess, running
from tests.support.wire import Wire, wired


@pytest.fixture(scope="session")
def parlance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the tone engine."""
    with running(tmp_path_factory.mktemp("parlance") / "data") as server:
        yield server


@pytest.fixture
async def alice(parlance: ServerProcess) -> Account:
    """The owner of a tenant of this test."""
    return await parlance.account(f"a-{uuid.uuid4().hex}")


@pytest.fixture
async def mallory(parlance: ServerProcess) -> Account:
    """The owner of another tenant, with a valid token of her own."""
    return await parlance.account(f"m-{uuid.uuid4().hex}")


@pytest.fixture
async def wire(parlance: ServerProcess, alice: Account) -> AsyncIterator[Wire]:
    async with wired(parlance.url, alice.token) as connected:
        yield connected


@pytest.fixture
async def other(parlance: ServerProcess, mallory: Account) -> AsyncIterator[Wire]:
    async with wired(parlance.url, mallory.token) as connected:
        yield connected


@pytest.fixture
async def who(database: Database) -> Identity:
    """A member of a tenant of this test."""
    return await somebody(database)


@pytest.fixture
async def owner(database_dsn: str) -> AsyncIterator[Connection]:
    """A superuser's connection."""
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def media(tmp_path: Path) -> Iterator[MediaStore]:
    executor = ThreadPoolExecutor(1)
    yield MediaStore(tmp_path / "media", executor)
    executor.shutdown()


@pytest.fixture
async def library(database: Database) -> AsyncIterator[Library]:
    """The recordings' and voices' HTTP part."""
    async with open_library(database) as opened:
        yield opened
