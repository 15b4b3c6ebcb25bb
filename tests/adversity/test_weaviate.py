"""A server whose index is in Weaviate: it is there late, it is killed while people talk, it comes back."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes import tones
from tests.support.process import Account, ServerProcess, running
from tests.support.scene import readiness, until_ready
from tests.support.waiting import until
from tests.support.weaviate import WeaviateServer
from tests.support.wire import Talk, wired


@pytest.fixture
def weaviate(tmp_path: Path) -> Iterator[WeaviateServer]:
    """Its own, not started yet."""
    server = WeaviateServer(tmp_path / "weaviate")
    yield server
    server.stop()


async def searched(server: ServerProcess, account: Account, text: str) -> tuple[int, set[str]]:
    """HTTP status and texts of the hits."""
    headers = {"Authorization": f"Bearer {account.token}"}
    async with (
        aiohttp.ClientSession(server.url, headers=headers) as http,
        http.get("/v1/search", params={"q": text, "mode": "keyword"}) as response,
    ):
        body: dict[str, Any] = await response.json()
        return response.status, {hit["text"] for hit in body.get("hits", ())}


async def said(server: ServerProcess, account: Account, seed: int) -> list[str]:
    talk = tones.talk(tones.random_sentences(seed, 3))
    async with wired(server.url, account.token) as wire:
        live = Talk(wire, talk.audio.tobytes())
        await live.start()
        await live.send()
        await live.stop()
    return list(talk.texts)


async def found(server: ServerProcess, account: Account, texts: list[str]) -> bool:
    answers = [await searched(server, account, text) for text in texts]
    return all(status == 200 and text in hits for text, (status, hits) in zip(texts, answers, strict=True))


async def test_an_index_that_comes_late_is_killed_and_comes_back(weaviate: WeaviateServer, tmp_path: Path) -> None:
    settings = weaviate.settings | {"log_level": "debug"}
    with running(tmp_path / "data", **settings) as server:
        alice = await server.account("alice")
        first = await said(server, alice, 1)
        assert (await readiness(server.url))[0] == 503, "a configured part is absent"
        await asyncio.to_thread(weaviate.start)
        await until_ready([server.url])
        await until(lambda: found(server, alice, first))
        await asyncio.to_thread(weaviate.kill)
        second = await said(server, alice, 2)
        await until_ready([server.url], degraded=["index"])
        assert (await searched(server, alice, second[0]))[0] == 503
        await asyncio.to_thread(weaviate.start)
        await until_ready([server.url])
        await until(lambda: found(server, alice, first + second))
        assert server.workers(), "processes start and end beside gRPC"
        log = "".join(server.output)
    for text in first + second:
        assert text not in log, "what was said stands in no log"
