"""Several nodes together: what one takes another shows, Redis may go and come back, and a node drains."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.fakes import tones
from tests.support.cluster import Cluster, clustered
from tests.support.scene import Scene, rerun_told, until_ready
from tests.support.wire import Talk, wired

TALKS = 8


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clustered(tmp_path_factory.mktemp("cluster")) as started:
        yield started


async def test_the_database_is_one_over_tcp_and_over_its_socket(cluster: Cluster) -> None:
    for url in (cluster.postgres.url, cluster.postgres.socket_url):
        connection = await asyncpg.connect(url)
        try:
            assert await connection.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == 1
        finally:
            await connection.close()


async def test_what_one_node_hears_the_other_shows(cluster: Cluster) -> None:
    """With the token of the first, and partials too."""
    alice = await cluster.account("alice")
    said = tones.talk(tones.random_sentences(1, 2))
    async with wired(cluster.urls[0], alice.token) as one, wired(cluster.urls[1], alice.token) as two:
        live = Talk(one, said.audio.tobytes())
        await live.start()
        await two.ok("room:join", {"room": live.room, "after_seq": 0})
        await live.send(speed=8)
        await two.wait("transcript:partial", lambda event: event["recording_id"] == live.recording_id)
        await live.stop()
        ended = await two.wait("recording:ended", lambda event: event["room"] == live.room)
        assert ended["segment_count"] == 2
        assert [event["text"] for event in two.named("transcript:final")] == said.texts


async def test_what_one_node_hears_subscribers_of_the_other_are_told_and_anywhere_again(cluster: Cluster) -> None:
    """Live at the other node, and from the first match's cursor at the first."""
    alice = await cluster.account("alice")
    sentences = tones.random_sentences(4, 3)
    words = [sentence[0] for sentence in sentences]
    said = tones.talk(sentences)
    async with wired(cluster.urls[0], alice.token) as one, wired(cluster.urls[1], alice.token) as two:
        for word in words:
            await two.ok("search:subscribe", {"subscription_id": word, "text": word})
        live = Talk(one, said.audio.tobytes())
        await live.start()
        await live.send(speed=8)
        for word, text in zip(words, said.texts, strict=True):
            match = await two.wait("search:match", lambda event, word=word: event["subscription_id"] == word)
            assert match["hit"]["text"] == text
        await live.stop()
        first = two.named("search:match")[0]
        after = {"text": words[1], "after": first["cursor"]}
        await one.ok("search:subscribe", {"subscription_id": words[1], **after})
        assert await one.wait("search:match") == two.named("search:match")[1]
        assert len(two.named("search:match")) == 3


async def test_redis_is_lost_under_load_and_comes_back(cluster: Cluster, request: pytest.FixtureRequest) -> None:
    """All watchers are at the other node: what Redis lost they hear late, from the log, and nothing twice."""
    redis = cluster.redis
    assert redis is not None
    async with rerun_told(request.node.nodeid):
        await until_ready(cluster.urls)
        alice = await cluster.account("alice")
        async with Scene(cluster.urls, alice.token, seed=1) as scene:
            talks = [scene.speak(10, speed=4) for _ in range(TALKS)]
            watchers = [await scene.watch(talk, first=1) for talk in talks]
            await scene.spoken(talks[0], 0.2)
            await asyncio.to_thread(redis.kill)
            try:
                await until_ready(cluster.urls, degraded=["redis"])
                reached = [watcher.seq for watcher in watchers]
                await scene.until(
                    lambda: all(
                        watcher.seq > before or talk.ended
                        for watcher, before, talk in zip(watchers, reached, talks, strict=True)
                    )
                )
            finally:
                await asyncio.to_thread(redis.start)
            await until_ready(cluster.urls)


async def test_a_node_drains_and_everybody_goes_on_elsewhere(cluster: Cluster, request: pytest.FixtureRequest) -> None:
    node = cluster.nodes[0]
    async with rerun_told(request.node.nodeid):
        await until_ready(cluster.urls)
        alice = await cluster.account("alice")
        async with Scene(cluster.urls, alice.token, seed=2) as scene:
            talks = [scene.speak(6) for _ in range(TALKS)]
            for talk in talks:
                await scene.watch(talk)
            await scene.spoken(talks[0], 0.4)
            children = node.children()
            assert await asyncio.to_thread(node.stop) == 0
            left = [command for pid, command in children.items() if Path(f"/proc/{pid}").exists()]
            assert not left, "processes stay behind"
            await asyncio.to_thread(cluster.start)
        assert all(talk.losses[0] == "node 0: server:draining" for talk in talks), "nobody was cut off unasked"
