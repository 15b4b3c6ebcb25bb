"""An index while it moves from one adapter to another."""

from collections.abc import Sequence

import pytest

from search.matching import expression
from search.model import Bounds, Edition, EditionState, EmbedderInfo, IndexDocument, ModelVector, QueryVector
from search.query import parse
from search.several import EditionsOf, SeveralIndexes
from streaming.errors import Unavailable
from tests.fakes.embedder import DIMENSIONS, SIMILARITY_MIN, vector_of
from tests.fakes.index import MemoryIndex

OLD = Edition(1, 1, "older", EditionState.CURRENT, "old")
NEW = Edition(2, 1, "newer", EditionState.BUILDING, "new")


class Known:
    """`search.ports.Editions` of a test."""

    def __init__(self, *editions: Edition) -> None:
        self.editions: tuple[Edition, ...] = editions

    async def open(self) -> tuple[Edition, ...]:
        return self.editions


class Move:
    def __init__(self, *editions: Edition) -> None:
        self.editions = Known(*editions)
        self.old, self.new = MemoryIndex(), MemoryIndex()
        self.both = SeveralIndexes({"old": self.old, "new": self.new}, "new", self.editions)

    async def holding(self) -> tuple[set[str], set[str]]:
        """What the adapters hold."""
        old, new = [(await index.held("t", None, 100))[0] for index in (self.old, self.new)]
        return {one.segment_id for one in old}, {one.segment_id for one in new}

    async def match(self) -> set[str]:
        bounds = Bounds(user_id="u", newest_us=2**50, limit=10)
        return {one.segment_id for one in await self.both.match("t", expression(parse("budget"), ("en",)), bounds)}

    async def near(self, model: str) -> set[str]:
        vector = QueryVector(EmbedderInfo(model, DIMENSIONS, SIMILARITY_MIN), vector_of("money"))
        bounds = Bounds(user_id="u", newest_us=2**50, limit=10)
        return {one.segment_id for one in await self.both.near("t", vector, bounds)}


def documents(*names: str, models: Sequence[str] = ()) -> list[IndexDocument]:
    vectors = tuple(ModelVector(model, vector_of("budget")) for model in models)
    return [IndexDocument(name, "r", "u", False, 0, 1, "the budget", "en", vectors=vectors) for name in names]


async def test_both_are_written_and_the_current_one_is_searched() -> None:
    move = Move(OLD, NEW)
    await move.both.put("t", documents("a"))
    assert await move.holding() == ({"a"}, {"a"})
    await move.both.put("t", documents("b"), only=NEW.number)
    assert await move.holding() == ({"a"}, {"a", "b"})
    assert await move.match() == {"a"}
    move.editions.editions = (Edition(2, 1, "newer", EditionState.CURRENT, "new"),)
    assert await move.match() == {"a", "b"}
    await move.both.remove("t", ["a"])
    assert await move.holding() == ({"a"}, {"b"}), "what is not open any more is not written"


async def test_meaning_is_asked_of_the_edition_with_that_model() -> None:
    move = Move(OLD, NEW)
    await move.both.put("t", documents("a", models=("older",)), only=OLD.number)
    await move.both.put("t", documents("b", models=("newer",)), only=NEW.number)
    assert (await move.near("older"), await move.near("newer"), await move.near("another")) == ({"a"}, {"b"}, set())


async def test_an_adapter_that_is_not_here_any_more_is_left_alone() -> None:
    gone = Edition(1, 1, "older", EditionState.CURRENT, "gone")
    move = Move(gone, NEW)
    await move.both.put("t", documents("a"))
    assert await move.holding() == (set(), {"a"})
    assert await move.match() == {"a"}, "the configured one answers with what it has"
    assert await move.near("older") == set()
    await move.both.begin(gone)
    await move.both.drop(gone)


async def test_without_editions_the_configured_one_says_so_itself() -> None:
    move = Move()
    move.new.lost = True
    assert move.both.capabilities == move.new.capabilities
    await move.old.put("t", documents("a"))
    with pytest.raises(Unavailable):
        await move.both.put("t", documents("b"))
    move.new.lost = False
    assert await move.holding() == ({"a"}, set())


async def test_editions_of_one_adapter() -> None:
    editions = Known(OLD, NEW)
    assert await EditionsOf(editions, "new").open() == (NEW,)
    assert await EditionsOf(editions, "old").open() == (OLD,)
