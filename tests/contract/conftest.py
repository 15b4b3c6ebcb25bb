"""Fixtures of the suites that run on every adapter of `search.ports.Index`."""

import pytest

from tests.support.indexes import index, make_index, world
from tests.support.weaviate import program


@pytest.fixture(scope="module", autouse=True)
def servers_first(request: pytest.FixtureRequest) -> None:
    """A server that lives for the session starts before a test, or it would count as what the test left running."""
    here = [item for item in request.session.items if item.path == request.path]
    params = [value for item in here if hasattr(item, "callspec") for value in item.callspec.params.values()]
    if program() and any(isinstance(value, str) and value == "weaviate" for value in params):
        request.getfixturevalue("weaviate_server")


__all__ = ["index", "make_index", "servers_first", "world"]
