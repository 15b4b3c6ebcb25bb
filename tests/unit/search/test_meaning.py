"""A query's vector while it is typed: remembered, bounded, and never waited for too long."""

import asyncio
from typing import Any

from search.meaning import QueryVectors
from search.query import parse
from streaming.aio import Scope
from streaming.limits import Limits
from tests.fakes.embedder import FakeEmbedder
from tests.sim import clock

LIMITS = Limits(query_vectors_max=3)


def play(script: Any) -> None:
    async def main() -> None:
        embedder = FakeEmbedder()
        await script(embedder, QueryVectors(lambda: [embedder], LIMITS))

    clock.run(main())


async def asked(vectors: QueryVectors, text: str) -> bool:
    return await vectors.of(parse(text)) != []


def test_the_text_is_embedded_as_it_was_typed_and_once() -> None:
    async def script(embedder: FakeEmbedder, vectors: QueryVectors) -> None:
        for text in ("Money, for the", "Money, for the j", "Money, for the"):
            (vector,) = await vectors.of(parse(f"  {text} "))
            assert vector.info == embedder.info
            assert vector.values.tolist() == embedder.query(text).values.tolist()
        assert embedder.seen == [["Money, for the"], ["Money, for the j"]]

    play(script)


def test_the_least_recently_used_is_forgotten() -> None:
    async def script(embedder: FakeEmbedder, vectors: QueryVectors) -> None:
        for text in ("one", "two", "three", "one", "four"):
            assert await asked(vectors, text)
        assert len(vectors._held) == 3
        embedder.seen.clear()
        for text in ("one", "three", "four"):
            assert await asked(vectors, text)
        assert embedder.seen == []
        assert await asked(vectors, "two")
        assert embedder.seen == [["two"]]

    play(script)


def test_without_a_model_there_is_none() -> None:
    async def script(embedder: FakeEmbedder, vectors: QueryVectors) -> None:
        assert not await asked(QueryVectors(list, LIMITS), "money")
        embedder.kill()
        assert not await asked(vectors, "money")
        embedder.start()
        assert await asked(vectors, "money")
        assert not await asked(vectors, "lethal")
        assert not await asked(vectors, "refused")
        assert await asked(vectors, "money")

    play(script)


def test_a_late_vector_is_not_waited_for() -> None:
    async def script(embedder: FakeEmbedder, vectors: QueryVectors) -> None:
        embedder.gate.clear()
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert not await asked(vectors, "money")
        assert loop.time() - began == LIMITS.embed_query_ms_max / 1000

    play(script)


def test_a_vector_of_a_model_that_was_replaced_meanwhile_is_none() -> None:
    async def script(embedder: FakeEmbedder, vectors: QueryVectors) -> None:
        embedder.gate.clear()
        async with Scope("test") as scope:
            asking = scope.spawn(asked(vectors, "money"), name="ask")
            while not embedder.running:
                await asyncio.sleep(0)
            embedder.info = FakeEmbedder("another", dimensions=10).info
            embedder.gate.set()
            assert not await asking
        assert vectors._held == {}

    play(script)


def test_while_a_model_changes_both_are_asked_and_one_may_be_late_alone() -> None:
    async def script(embedder: FakeEmbedder, _: QueryVectors) -> None:
        other = FakeEmbedder("another", dimensions=10)
        vectors = QueryVectors(lambda: [embedder, other], LIMITS)
        both = await vectors.of(parse("money"))
        assert [(v.info.model, len(v.values)) for v in both] == [("concepts", 384), ("another", 10)]
        embedder.gate.clear()
        assert [v.info.model for v in await vectors.of(parse("money"))] == ["concepts", "another"], "remembered"
        assert [v.info.model for v in await vectors.of(parse("cash"))] == ["another"]
        other.kill()
        assert await vectors.of(parse("cash")) == []

    play(script)
