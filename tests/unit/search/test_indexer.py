"""The indexer ends with the truth whatever two nodes do in whatever order; in a node, jobs of a tenant share puts."""

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Generator, Mapping, Sequence
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from search.indexer import Indexer, Truth
from search.model import IndexDocument, ModelVector
from search.ports import Index, Rejected
from streaming.aio import Scope
from streaming.errors import Unavailable
from streaming.limits import LIMITS
from tests.support.waiting import until

Fact = tuple[int, bool]
"""A revision, and whether its vector is there."""


class Step:
    """Awaited where another node may come between."""

    def __await__(self) -> Generator["Step", None, None]:
        yield self


class World:
    """The truth, one index, and what was told. Every call is a message to a server: it takes effect at one moment,
    after others may have had theirs."""

    def __init__(self, steps: bool = False) -> None:
        self.truth: dict[str, Fact] = {}
        self.indexed: dict[str, Fact] = {}
        self.told: list[tuple[str, Fact]] = []
        self.puts: list[list[str]] = []
        self.refused: dict[str, str] = {}
        self.broken: set[str] = set()
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self._steps = steps

    async def _come(self) -> None:
        if self._steps:
            await Step()
        else:
            await self.gate.wait()

    async def current(self, _tenant_id: str, segment_ids: Sequence[str]) -> list[IndexDocument]:
        await self._come()
        return [_document(name, self.truth[name]) for name in segment_ids if name in self.truth]

    async def put(self, _tenant_id: str, documents: Sequence[IndexDocument], *, only: int | None = None) -> None:
        self.puts.append([document.segment_id for document in documents])
        await self._come()
        if self.away:
            raise Unavailable("away")
        if self.broken.intersection(document.segment_id for document in documents):
            raise ValueError("a defect")
        self.indexed.update((d.segment_id, _fact(d)) for d in documents if d.segment_id not in self.refused)
        if refused := {d.segment_id: self.refused[d.segment_id] for d in documents if d.segment_id in self.refused}:
            raise Rejected("no", refused)

    async def remove(self, _tenant_id: str, segment_ids: Sequence[str]) -> None:
        await self._come()
        for name in segment_ids:
            self.indexed.pop(name, None)

    async def settle(
        self, _tenant_id: str, put: Mapping[str, IndexDocument | None], *, tell: Collection[str]
    ) -> Collection[str]:
        await self._come()
        changed = []
        for name, document in put.items():
            if self.truth.get(name) != (document and _fact(document)):
                changed.append(name)
            elif document is not None and name in tell:
                self.told.append((name, _fact(document)))
        return changed

    def indexer(self) -> Indexer:
        """As a node has."""
        return Indexer(cast(Truth, self), cast(Index, self))


def _document(name: str, fact: Fact) -> IndexDocument:
    vectors = (ModelVector("m", np.ones(1, dtype=np.float32)),) if fact[1] else ()
    return IndexDocument(name, "r", "u", False, 0, fact[0], "text", "en", vectors=vectors)


def _fact(document: IndexDocument) -> Fact:
    return document.rev, bool(document.vectors)


# --- two nodes, every order -----------------------------------------------------------------------------------------
def play(changes: Sequence[Fact | None], order: Sequence[int]) -> tuple[World, list[int]]:
    """Run one job for each change. `order`: which of what may go on does; its index at each choice, 0 past its end.
    Returns the world at its end, and how many there were to choose from at each choice."""
    world = World(steps=True)
    waiting = list(changes)
    jobs: list[Coroutine[Any, Any, None]] = []
    choices: list[int] = []
    while waiting or jobs:
        open_moves = len(jobs) + bool(waiting)
        pick = order[len(choices)] if len(choices) < len(order) else 0
        choices.append(open_moves)
        if pick == len(jobs):
            fact = waiting.pop(0)
            if fact is None:
                world.truth.pop("s", None)
            else:
                world.truth["s"] = fact
            jobs.append(world.indexer().refresh("t", ["s"]))
            continue
        try:
            jobs[pick].send(None)
        except StopIteration:
            del jobs[pick]
    return world, choices


def orders(changes: Sequence[Fact | None]) -> Generator[World, None, None]:
    """Every order, depth first."""
    order: list[int] = []
    while True:
        world, choices = play(changes, order)
        yield world
        order = [*order, *[0] * (len(choices) - len(order))]
        while order and order[-1] + 1 >= choices[len(order) - 1]:
            order.pop()
        if not order:
            return
        order[-1] += 1


@pytest.mark.parametrize(
    "changes",
    [
        [(1, False), (2, False)],
        [(1, False), (1, True)],
        [(1, False), None],
        [(1, True), (2, False)],
    ],
    ids=["revised", "embedded", "removed", "text lost its vector"],
)
def test_two_nodes_in_any_order_end_with_the_truth(changes: list[Fact | None]) -> None:
    count = 0
    for world in orders(changes):
        assert world.indexed == world.truth, "the index is behind, for ever"
        if changes[-1] is not None:
            assert ("s", changes[-1]) in world.told
        count += 1
    assert count > 100, "every order was tried"


def test_a_put_without_a_look_afterwards_would_be_caught() -> None:
    """The orders above do hold the one that needs the second look."""

    class Careless(Indexer):
        async def _put(self, tenant_id: str, wanted: Any, *, tell: Any, only: int | None) -> dict[str, str]:
            await self._index.put(tenant_id, await self._truth.current(tenant_id, list(wanted)))
            return {}

    world = World(steps=True)
    world.truth["s"] = (1, False)
    old, new = (Careless(cast(Truth, world), cast(Index, world)).refresh("t", ["s"]) for _ in range(2))
    for _ in range(2):
        old.send(None)  # has read, and is about to put
    world.truth["s"] = (2, False)
    for job in (new, old):
        with contextlib.suppress(StopIteration):
            while True:
                job.send(None)
    assert world.indexed != world.truth


# --- one node ---------------------------------------------------------------------------------------------------------
async def test_the_index_follows_the_truth() -> None:
    world = World()
    indexer = world.indexer()
    world.truth = {"a": (1, False), "b": (2, False)}
    await indexer.refresh("t", ["a", "b", "a"])
    assert world.indexed == {"a": (1, False), "b": (2, False)}
    assert sorted(world.told) == [("a", (1, False)), ("b", (2, False))]
    world.truth = {"b": (3, True)}
    await indexer.refresh("t", ["a", "b"])
    assert world.indexed == {"b": (3, True)}


async def test_a_tenants_jobs_that_wait_together_share_a_put_and_others_go_on() -> None:
    world = World()
    indexer = world.indexer()
    names = [f"s{n}" for n in range(5)]
    world.truth = dict.fromkeys([*names, "other"], (1, False))
    world.gate.clear()
    async with Scope("test") as scope:
        first = scope.spawn(indexer.refresh("t", names[:1]), name="first")
        await until(lambda: "t" in indexer._turns and indexer._turns["t"].lock.locked())
        rest = [scope.spawn(indexer.refresh("t", [name]), name=name) for name in names[1:]]
        other = scope.spawn(indexer.refresh("u", ["other"]), name="other")
        await until(lambda: len(indexer._turns["t"].waiting) == 4)
        world.gate.set()
        await asyncio.gather(first, other, *rest)
    assert sorted(map(sorted, world.puts)) == [["other"], ["s0"], names[1:]]
    assert world.indexed == world.truth
    assert indexer._turns == {}


async def test_a_put_has_a_limit() -> None:
    world = World()
    limits = msgspec.structs.replace(LIMITS, index_batch_max=2)
    indexer = Indexer(cast(Truth, world), cast(Index, world), limits)
    world.gate.clear()
    async with Scope("test") as scope:
        jobs = [scope.spawn(indexer.refresh("t", [f"s{n}"]), name=str(n)) for n in range(5)]
        await until(lambda: "t" in indexer._turns and len(indexer._turns["t"].waiting) == 4)
        world.truth = {f"s{n}": (1, False) for n in range(5)}
        world.gate.set()
        await asyncio.gather(*jobs)
    assert [len(put) for put in world.puts] == [1, 2, 2]


async def test_a_failure_passes_to_all_who_shared_it_and_frees_the_turn() -> None:
    world = World()
    indexer = world.indexer()
    world.truth, world.away = {"a": (1, False), "b": (1, False)}, True
    found = await asyncio.gather(*(indexer.refresh("t", [name]) for name in ("a", "b", "b")), return_exceptions=True)
    assert [type(error) for error in found] == [Unavailable] * 3
    assert world.told == []
    world.away = False
    await indexer.refresh("t", ["a", "b"])
    assert world.indexed == world.truth
    assert indexer._turns == {}


async def test_a_defect_of_one_job_is_not_anothers() -> None:
    world = World()
    indexer = world.indexer()
    world.truth = dict.fromkeys("abcd", (1, False))
    world.broken = {"c"}
    found = await asyncio.gather(*(indexer.refresh("t", [name]) for name in "abcd"), return_exceptions=True)
    assert [type(error) for error in found] == [type(None), type(None), ValueError, type(None)]
    assert sorted(world.indexed) == ["a", "b", "d"]


async def test_what_the_index_refuses_fails_its_own_job_alone() -> None:
    world = World()
    indexer = world.indexer()
    world.truth = dict.fromkeys("abcd", (1, False))
    world.refused = {"c": "too large"}
    found = await asyncio.gather(*(indexer.refresh("t", [name]) for name in "abcd"), return_exceptions=True)
    assert [type(error) for error in found] == [type(None), type(None), Rejected, type(None)]
    assert cast(Rejected, found[2]).reasons == {"c": "too large"}
    assert sorted(world.indexed) == ["a", "b", "d"]
    assert sorted(name for name, _ in world.told) == ["a", "b", "d"]


async def test_a_cancelled_job_leaves_the_others_theirs() -> None:
    world = World()
    indexer = world.indexer()
    world.truth = dict.fromkeys("abc", (1, False))
    world.gate.clear()
    async with Scope("test") as scope:
        jobs = [scope.spawn(indexer.refresh("t", [name]), name=name) for name in "abc"]
        await until(lambda: "t" in indexer._turns and len(indexer._turns["t"].waiting) == 2)
        jobs[0].cancel()
        await asyncio.wait({jobs[0]})
        await until(lambda: indexer._turns["t"].waiting == [])
        jobs[1].cancel()  # it leads, with "c" aboard
        await asyncio.wait({jobs[1]})
        world.gate.set()
        await jobs[2]
    assert world.indexed == {"c": (1, False)}
    assert indexer._turns == {}


async def test_segments_that_never_rest_are_tried_again_later() -> None:
    class Restless(World):
        async def settle(
            self, tenant_id: str, put: Mapping[str, IndexDocument | None], *, tell: Collection[str]
        ) -> Collection[str]:
            self.truth = {name: (rev + 1, False) for name, (rev, _) in self.truth.items()}
            return await super().settle(tenant_id, put, tell=tell)

    world = Restless()
    world.truth = {"a": (1, False)}
    with pytest.raises(Unavailable):
        await world.indexer().refresh("t", ["a"])
    assert len(world.puts) == LIMITS.index_rounds_max


async def test_filling_tells_nobody() -> None:
    world = World()
    world.truth = {"a": (1, False)}
    await world.indexer().fill("t", ["a"], 7)
    assert world.indexed == world.truth
    assert world.told == []
