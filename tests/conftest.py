"""Fixtures for tests with a real database: one embedded PostgreSQL per session, one fresh database per test.

The server runs in a thread with its own event loop, because tests have a loop each; the thread lives until the
session ends (the kernel ends the server when the thread that spawned it ends, also after kill -9 of pytest).
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import settings

from server.store.embedded import EmbeddedPostgres
from server.store.migrate import migrate
from server.store.pool import Database

pytest_plugins = ["tests.support.leaks", "tests.support.weaviate"]

settings.register_profile("parlance", deadline=None, derandomize=True)
settings.load_profile("parlance")
"""No example fails for being slow, and a tree that passed once passes again."""

HANG_S = 60.0
TEMPLATE = "parlance_template"
_numbers = itertools.count(1)


def with_database(dsn: str, name: str) -> str:
    """The same server's other database."""
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


@pytest.fixture(scope="session")
def postgres_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The superuser's DSN of a server that holds the migrated template database."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = Future()
    folder = tmp_path_factory.mktemp("database") / "postgres"
    thread = threading.Thread(target=lambda: asyncio.run(_serve(folder, ready)), name="postgres", daemon=True)
    thread.start()
    loop, done, dsn = ready.result(HANG_S)
    yield dsn
    loop.call_soon_threadsafe(done.set)
    thread.join(HANG_S)
    assert not thread.is_alive(), "the database did not stop"


async def _serve(folder: Path, ready: "Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]]") -> None:
    server = EmbeddedPostgres(folder)
    try:
        dsn = await server.start()
        await _execute(dsn, f"CREATE DATABASE {TEMPLATE}")
        await migrate(with_database(dsn, TEMPLATE))
    except BaseException as error:
        ready.set_exception(error)
        await server.stop()
        return
    done = asyncio.Event()
    ready.set_result((asyncio.get_running_loop(), done, dsn))
    await done.wait()
    await server.stop()


@pytest.fixture
async def database_dsn(postgres_dsn: str) -> AsyncIterator[str]:
    """A migrated database of one's own, as its superuser."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres_dsn, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield with_database(postgres_dsn, name)
    await _execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_dsn(postgres_dsn: str) -> AsyncIterator[str]:
    """A database without any migration, as its superuser."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres_dsn, f"CREATE DATABASE {name}")
    yield with_database(postgres_dsn, name)
    await _execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    """An open `Database` on a fresh migrated database."""
    opened = Database(database_dsn)
    await opened.open()
    yield opened
    await opened.close()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
