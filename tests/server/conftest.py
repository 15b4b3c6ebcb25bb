"""One real server for all tests of a session; every test works in tenants of its own."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

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
