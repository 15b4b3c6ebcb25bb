"""The indexer reads when it runs, removes what is gone, and takes turns per recording."""

import asyncio
from collections.abc import Sequence

import pytest

from search.indexer import Indexer
from search.model import IndexCapabilities, IndexDocument, Page, Query
from streaming.aio import Scope
from streaming.errors import Unavailable


class Store:
    """Segments and index in one: what is true, what is indexed, and who is inside."""

    capabilities = IndexCapabilities("memory", vectors=False)

    def __init__(self) -> None:
        self.truth: dict[str, int] = {}
        self.indexed: dict[str, int] = {}
        self.reads: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False

    async def current(self, tenant_id: str, recording_id: str, segment_ids: Sequence[str]) -> list[IndexDocument]:
        self.reads.append(recording_id)
        found = [
            IndexDocument(name, recording_id, "u", False, 0, self.truth[name], "text", "en")
            for name in segment_ids
            if name in self.truth
        ]
        await self.gate.wait()
        return found

    async def put(self, tenant_id: str, documents: Sequence[IndexDocument]) -> None:
        if self.away:
            raise Unavailable("away")
        self.indexed.update((d.segment_id, d.rev) for d in documents)

    async def remove(self, tenant_id: str, segment_ids: Sequence[str]) -> None:
        for name in segment_ids:
            self.indexed.pop(name, None)

    async def search(self, tenant_id: str, user_id: str, query: Query) -> Page:
        return Page(())


async def test_the_index_follows_the_truth() -> None:
    store = Store()
    indexer = Indexer(store, store)
    store.truth = {"a": 1, "b": 2}
    await indexer.refresh("t", "r", ["a", "b", "a"])
    assert store.indexed == {"a": 1, "b": 2}
    store.truth = {"b": 3}
    await indexer.refresh("t", "r", ["a", "b"])
    assert store.indexed == {"b": 3}


async def test_a_recording_is_refreshed_by_one_at_a_time_and_others_meanwhile() -> None:
    store = Store()
    indexer = Indexer(store, store)
    store.gate.clear()
    async with Scope("test") as scope:
        tasks = [scope.spawn(indexer.refresh("t", name, ["a"]), name=name) for name in ("r", "r", "s")]
        async with asyncio.timeout(10):
            while len(store.reads) < 2:
                await asyncio.sleep(0)
        assert sorted(store.reads) == ["r", "s"]
        store.truth["a"] = 5
        store.gate.set()
        await asyncio.gather(*tasks)
    assert store.indexed == {"a": 5}
    assert indexer._turns == {}


async def test_a_failure_passes_and_frees_the_turn() -> None:
    store = Store()
    indexer = Indexer(store, store)
    store.truth, store.away = {"a": 1}, True
    with pytest.raises(Unavailable):
        await indexer.refresh("t", "r", ["a"])
    store.away = False
    await indexer.refresh("t", "r", ["a"])
    assert store.indexed == {"a": 1}
