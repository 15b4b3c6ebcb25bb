"""A node that is paused with SIGSTOP and continued after its stream went on elsewhere is a ghost and writes nothing.

What it must leave alone: rows, events, parts of audio, and what is told in rooms. Its client, whose connection never
broke, must hear that the stream is no longer its own.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from server.media.extents import chain
from tests.fakes import tones
from tests.support.cluster import Cluster, clustered
from tests.support.oracle import Account, Acks, complete, judge
from tests.support.scene import rerun_told, until_ready
from tests.support.speaker import Watcher
from tests.support.wire import HANG_S, Talk, Wire

SEEDS = [pytest.param(seed, marks=pytest.mark.soak if seed > 1 else ()) for seed in range(1, 21)]
TABLES = ("recordings", "streams", "segments", "rooms", "events")
GHOST, NODE = 0, 1
OPTIONS = {"encoding": "pcm_s16le", "sample_rate": 16_000, "channels": 1}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clustered(tmp_path_factory.mktemp("ghost")) as started:
        yield started


class Haunted:
    """One talk that begins at the ghost-to-be and goes on at the other node, with a watcher at each."""

    def __init__(self, cluster: Cluster, token: str, seed: int) -> None:
        self.cluster = cluster
        self.chance = random.Random(seed)
        self.said = tones.talk(tones.random_sentences(seed, 8, words=(2, 5)), silence_ms=700)
        self.before = Talk(Wire(), self.said.audio.tobytes())
        self.after = Talk(Wire(), self.said.audio.tobytes())
        self.watchers: list[Watcher] = []
        self.starts: list[dict[str, Any]] = []
        self._token = token
        self._watching = asyncio.TaskGroup()

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Connect; in the end wait for the watchers and judge."""
        try:
            await self.before.wire.connect(self.cluster.urls[GHOST], self._token)
            await self.after.wire.connect(self.cluster.urls[NODE], self._token)
            self.starts.append(await self.before.start())
            async with self._watching:
                for node in (GHOST, NODE):
                    watcher = Watcher([self.cluster.urls[node]], self._token, self.before.room)
                    self.watchers.append(watcher)
                    self._watching.create_task(watcher.run())
                yield
            await self._judge()
        finally:
            for talk in (self.before, self.after):
                await talk.wire.close()

    async def haunt(self) -> None:
        """Speak at the ghost, pause it at a random moment behind the first final; more audio waits in its socket."""
        first_end_ms = self.said.sentences[0][-1].end_ms
        await self.before.send((first_end_ms + 1_000) * 32, speed=8)
        await self.until(lambda: all(watcher.seq >= 1 for watcher in self.watchers))
        share = self.chance.uniform(0.35, 0.6)
        await self.before.send(int(len(self.before.pcm) * share) // 2 * 2, speed=8)
        self.cluster.nodes[GHOST].suspend()
        await self.before.send(self.before.sent + 16_000)

    async def take_over(self) -> None:
        """Try until it succeeds: the ghost may have been paused within a transaction, which holds a lock."""
        self.starts.append(await taken_over(self.before, self.after))

    async def ghost_is_told(self, code: str = "recording_busy") -> None:
        """Wait until it knows, and until its stream is gone there. Whose stream went on without a client, may take it
        over (`stream_ended`, not fatal); whose other connection has it, shall not (`recording_busy`)."""
        error = await self.before.wire.wait(
            "voice:recording:error", lambda error: error["stream_id"] == self.before.stream_id
        )
        assert (error["error"]["code"], error["fatal"]) == (code, code == "recording_busy")
        async with asyncio.timeout(HANG_S), aiohttp.ClientSession(self.cluster.urls[GHOST]) as http:
            while True:
                async with http.get("/metrics") as response:
                    lines = (await response.text()).splitlines()
                if "parlance_streams 0.0" in lines:
                    return
                await asyncio.sleep(0.05)

    def told_by_ghost(self) -> list[dict[str, Any]]:
        """Partials of the ghost's stream that came behind one of its successor's, at any watcher."""
        late = []
        for watcher in self.watchers:
            partials = [e for seen in watcher.seen for name, e in seen.events if name == "transcript:partial"]
            streams = [partial["stream_id"] for partial in partials]
            if self.after.stream_id in streams:
                first = streams.index(self.after.stream_id)
                late += [p for p in partials[first:] if p["stream_id"] == self.before.stream_id]
        return late

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(HANG_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def _judge(self) -> None:
        assert not self.told_by_ghost()
        log = await self.after.log()
        acks = [
            Acks(
                talk.stream_id,
                start["offset"],
                [a for a in talk.wire.named("voice:recording:ack") if a["stream_id"] == talk.stream_id],
            )
            for talk, start in zip((self.before, self.after), self.starts, strict=True)
        ]
        account = Account(self.before.recording_id, self.before.pcm, self.said.texts, acks=acks, log=log)
        account.watchers = [watcher.seen for watcher in self.watchers]
        judge([await complete(account, self.cluster.urls[NODE], self._token)])


async def written(cluster: Cluster) -> dict[str, str]:
    """A digest of every table and of every recording's audio in the storage, as far as it counts: what a ghost still
    had to bring there belongs to no chain."""
    connection = await asyncpg.connect(cluster.postgres.url)
    try:
        found = {
            table: await connection.fetchval(f"SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {table} t")
            for table in TABLES
        }
    finally:
        await connection.close()
    return found | await asyncio.to_thread(audio, cluster.storage)


def audio(storage: Path) -> dict[str, str]:
    found = {}
    for folder in storage.glob("*/*/"):
        digest = hashlib.sha256()
        for piece in chain(path.name for path in folder.iterdir()).pieces:
            digest.update(f"{piece}".encode() + (folder / piece.extent.name).read_bytes())
        found[str(folder)] = digest.hexdigest()
    assert found, "the storage is where it was"
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("when", ["while the other streams", "after the end"])
async def test_a_paused_node_whose_stream_was_taken_over(
    cluster: Cluster, request: pytest.FixtureRequest, when: str, seed: int
) -> None:
    async with rerun_told(request.node.nodeid):
        await until_ready(cluster.urls)
        alice = await cluster.account("alice")
        haunted = Haunted(cluster, alice.token, seed)
        ghost = cluster.nodes[GHOST]
        try:
            async with haunted.told():
                await haunted.haunt()
                await haunted.take_over()
                if when == "after the end":
                    await haunted.after.send(speed=8)
                    await haunted.after.stop()
                    before = await written(cluster)
                    ghost.resume()
                    await haunted.ghost_is_told()
                    now = await written(cluster)
                    changed = {what for what in before.keys() | now.keys() if before.get(what) != now.get(what)}
                    assert not changed, f"the ghost wrote {changed}"
                else:
                    await haunted.after.send(haunted.after.sent + 64_000, speed=8)
                    ghost.resume()
                    await haunted.ghost_is_told()
                    await haunted.after.send(speed=8)
                    await haunted.after.stop()
        finally:
            ghost.resume()


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_paused_node_whose_stream_was_adopted(
    cluster: Cluster, request: pytest.FixtureRequest, seed: int
) -> None:
    """Its lease ran out, and the other node's sweep took the stream, before anybody came back."""
    async with rerun_told(request.node.nodeid):
        await until_ready(cluster.urls)
        alice = await cluster.account("alice")
        haunted = Haunted(cluster, alice.token, seed)
        ghost = cluster.nodes[GHOST]
        try:
            async with haunted.told():
                await haunted.haunt()
                await adopted(cluster, haunted.before.recording_id)
                ghost.resume()
                await haunted.ghost_is_told("stream_ended")
                await haunted.take_over()
                await haunted.after.send(speed=8)
                await haunted.after.stop()
        finally:
            ghost.resume()


async def adopted(cluster: Cluster, recording_id: str) -> None:
    connection = await asyncpg.connect(cluster.postgres.url)
    try:
        async with asyncio.timeout(2 * HANG_S):
            while True:
                asking = "SELECT epoch FROM streams WHERE recording_id = $1"
                if await connection.fetchval(asking, recording_id) == 2:
                    return
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


async def test_a_node_paused_within_a_transaction_holds_nobody_up(
    cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    """Its locks go with its transaction, which the database ends, long before anybody gives up."""
    async with rerun_told(request.node.nodeid):
        await until_ready(cluster.urls)
        alice = await cluster.account("alice")
        ghost = cluster.nodes[GHOST]
        said = tones.talk(tones.random_sentences(5, 200, words=(1, 1)), silence_ms=700)
        before, after = Talk(Wire(), said.audio.tobytes()), Talk(Wire(), said.audio.tobytes())
        try:
            await before.wire.connect(cluster.urls[GHOST], alice.token)
            await after.wire.connect(cluster.urls[NODE], alice.token)
            await before.start()
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(before.send(speed=8))
                await paused_within_a_transaction(cluster, before.recording_id)
                sending.cancel()
            await taken_over(before, after)
            ghost.resume()
            await before.wire.wait("voice:recording:error", lambda error: error["fatal"])
            await after.send()
            await after.stop()
            assert [event["text"] for event in (await after.log())[:-1]] == said.texts
        finally:
            ghost.resume()
            await before.wire.close()
            await after.wire.close()


async def taken_over(before: Talk, after: Talk) -> dict[str, Any]:
    """The acknowledgement of `after`, once `before`'s stream is its own."""
    whose = {"recording_id": before.recording_id, "resume_token": before.resume_token}
    async with asyncio.timeout(3 * HANG_S):
        while not (answer := await after.wire.call("voice:recording:start", {**OPTIONS, **whose}))["ok"]:
            assert answer["error"]["code"] == "unavailable"
            await asyncio.sleep(0.1)
    after.took(answer)
    return answer


async def paused_within_a_transaction(cluster: Cluster, recording_id: str) -> None:
    """Pause the ghost again and again until it is paused with its stream's row locked."""
    ghost = cluster.nodes[GHOST]
    connection = await asyncpg.connect(cluster.postgres.url)
    try:
        async with asyncio.timeout(2 * HANG_S):
            while True:
                ghost.suspend()
                if all([await locked(connection, recording_id) for _ in range(20)]):  # not only for a moment
                    return
                ghost.resume()
                await asyncio.sleep(0.003)
    finally:
        await connection.close()


async def locked(connection: Any, recording_id: str) -> bool:
    try:
        await connection.fetchval("SELECT 1 FROM streams WHERE recording_id = $1 FOR UPDATE NOWAIT", recording_id)
    except asyncpg.LockNotAvailableError:
        return True
    return False
