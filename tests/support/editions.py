"""Editions without a database, and Weaviate's index on them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from search.model import Edition, EditionState
from search.weaviate.index import WeaviateIndex
from search.weaviate.link import Address, Link
from streaming.limits import LIMITS, Limits
from tests.support.weaviate import WeaviateServer


class Editions:
    """`search.ports.Editions` without a database; a test may change `editions`."""

    def __init__(self, *editions: Edition) -> None:
        self.editions = editions

    async def open(self) -> tuple[Edition, ...]:
        return self.editions


def editions_of(*models: str, schema: int = 1) -> Editions:
    """One for each model; the first is the current one."""
    states = [EditionState.CURRENT, *[EditionState.BUILDING] * len(models)]
    return Editions(
        *(
            Edition(n, schema, model, state, "weaviate")
            for n, (model, state) in enumerate(zip(models, states, strict=False), 1)
        )
    )


@asynccontextmanager
async def opened(
    server: WeaviateServer, models: Sequence[str], *, limits: Limits = LIMITS, prefix: str = "Tests"
) -> AsyncIterator[WeaviateIndex]:
    """An index with an edition of each model, begun."""
    editions = editions_of(*models)
    index = WeaviateIndex(Link(Address(server.url, server.grpc), limits), editions, limits, prefix=prefix)
    try:
        for edition in editions.editions:
            await index.begin(edition)
        yield index
    finally:
        await index.close()
