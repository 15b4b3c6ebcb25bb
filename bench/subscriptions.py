"""`python -m bench subscriptions`: thousands of people wait for what is said.

The pass alone, in this process: `search.live.Subscriptions` of one tenant with 1,000, 5,000 and 10,000 subscriptions of
one to three words of the talk's own, half of them with a vector as well, over segments of the same talk with theirs;
CPU a segment. Vectors are random around each other as sentences are: the time does not depend on what they mean.

The way across, on real processes: two nodes that share PostgreSQL and Redis. All subscriptions are at the second node,
by words (nodes have no model here); finals are committed as a third node would, index jobs run on either node, and
every final holds a word that one subscription waits for. From its commit to `search:match` in the client, and CPU of
the second node for a segment, beside the same with no subscriptions.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import socketio

from auth.model import Role
from bench import filling, livetalk
from bench.livetalk import coined
from bench.meter import cpu_s
from bench.report import Figure, Result, percentiles
from bench.spokentext import Library, Spoken
from search.live import Heard, Interest, Stage, Subscriptions, least_cosine
from search.model import EmbedderInfo, Mode, ModelVector
from search.query import parse
from server.store.pool import Database
from streaming.limits import LIMITS
from tests.support.cluster import Cluster
from tests.support.process import ServerProcess

COUNTS = (1_000, 5_000, 10_000)
PROMISED = 5_000
SEGMENT_CPU_MS, MATCH_P95_MS = 5.0, 1_000
MODEL = EmbedderInfo("bench", 384, 0.27)
TALK_SEGMENTS = 3_000
FINALS_PER_S = 10.0
CALLS_AT_ONCE = 20
CONNECT_S_MAX = 10
SETTLE_S = 1.0
AFTER_S = 3.0
"""After the last final, for its match."""
WATCHED = "qzwatched"


class Passed(msgspec.Struct, frozen=True):
    """`cpu_ms`: of every segment; `matches`: of all."""

    subscriptions: int
    cpu_ms: list[float]
    matches: int


class Crossed(msgspec.Struct):
    """`match_ms`: from a final's commit to its match; `cpu_ms`: of the second node, for a final."""

    subscriptions: int
    match_ms: list[float] = []
    cpu_ms: float = 0.0
    finals: int = 0
    subscribed_s: float = 0.0


async def benchmark(seed: int, *, quick: bool) -> Result:
    counts = COUNTS[:2] if quick else COUNTS
    passed = [one_pass(seed, count, segments=100 if quick else 500) for count in counts]
    crossed = await across((0, counts[0]) if quick else (0, *counts), seed, seconds=5.0 if quick else 30.0)
    figures = []
    for p in passed:
        name = f"{p.subscriptions:,} subscriptions"
        most = SEGMENT_CPU_MS if p.subscriptions == PROMISED else None
        mean = round(float(np.mean(p.cpu_ms)), 3)
        figures.append(Figure(f"{name}: CPU of the pass", mean, "ms/segment", len(p.cpu_ms), most))
        figures.append(Figure(f"{name}: matches", round(p.matches / len(p.cpu_ms), 1), "/segment", len(p.cpu_ms)))
    for c in crossed:
        name = f"{c.subscriptions:,} subscriptions, two nodes"
        figures += percentiles(f"{name}: final to its match", c.match_ms, "ms", p95_most=MATCH_P95_MS)
        figures.append(Figure(f"{name}: matches that did not come", c.finals - len(c.match_ms), "", c.finals, most=0))
        figures.append(Figure(f"{name}: CPU of their node", round(c.cpu_ms, 2), "ms/segment", c.finals))
    raw = {"passed": msgspec.to_builtins(passed), "crossed": msgspec.to_builtins(crossed)}
    return Result("subscriptions", figures, {"counts": list(counts), "finals_per_s": FINALS_PER_S}, raw)


# --- the pass alone
def one_pass(seed: int, count: int, segments: int) -> Passed:
    spoken = Spoken(seed)
    wanted = Library(spoken, "wanted", TALK_SEGMENTS)
    heard = Library(spoken, "heard", segments)
    subscriptions: Subscriptions[int] = Subscriptions(["de", "en"])
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((200, MODEL.dimensions)).astype(np.float32)
    for key, text in enumerate(itertools.islice(phrases(wanted, seed), count)):
        by_meaning = key % 2 == 0
        mode = Mode.HYBRID if by_meaning else Mode.KEYWORD
        subscriptions.add(key, Interest(filling.USER, parse(text, mode=mode), least_cosine(MODEL)))
        if by_meaning:
            subscriptions.give(MODEL, {key: near(topics, rng)})
    spent, matches = [], 0
    for place, said in enumerate(heard.said):
        segment = Heard(
            segment_id=said.segment_id, recording_id=said.recording_id, owner_id=filling.USER, private=False,
            title="Talk", speaker=said.speaker, speaker_name=None, start_ms=said.start_ms, end_ms=said.end_ms,
            spoken_at_ms=place, rev=1, text=said.text, language=heard.talks[place // 100].language, stage=Stage.ALL,
            vectors=(ModelVector(MODEL.model, near(topics, rng)),),
        )  # fmt: skip
        began = time.process_time()
        matches += len(subscriptions.matching([segment]))
        spent.append(round((time.process_time() - began) * 1_000, 4))
    return Passed(count, spent, matches)


def phrases(held: Library, seed: int) -> Any:
    """One to three words that stand side by side somewhere, again and again."""
    rng = np.random.default_rng(seed)
    while True:
        words = held.said[int(rng.integers(len(held.said)))].text.split()
        begin = int(rng.integers(len(words)))
        yield " ".join(words[begin : begin + int(rng.integers(1, 4))])


def near(topics: "np.ndarray[Any, np.dtype[np.float32]]", rng: np.random.Generator) -> Any:
    """A unit vector around one of the topics, as sentences are."""
    drawn = topics[int(rng.integers(len(topics)))] + 1.2 * rng.standard_normal(topics.shape[1]).astype(np.float32)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


# --- across two nodes
async def across(counts: Sequence[int], seed: int, seconds: float) -> list[Crossed]:
    with filling.temporary() as folder:
        cluster = Cluster(Path(folder))
        await asyncio.to_thread(cluster.start)
        try:
            return [await crossing(cluster, count, seed, seconds) for count in counts]
        finally:
            await asyncio.to_thread(cluster.stop)


async def crossing(cluster: Cluster, count: int, seed: int, seconds: float) -> Crossed:
    """One tenant of its own."""
    crossed = Crossed(count)
    tenant = f"subscribed-{count}"
    node = cluster.nodes[1]
    account = await cluster.account(tenant, filling.USER)
    spoken = Spoken(seed)
    texts = phrases(Library(spoken, "wanted", TALK_SEGMENTS), seed)
    arrived: dict[str, float] = {}
    database = Database(cluster.postgres.url)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        await database.open()
        stack.push_async_callback(database.close)
        began = time.perf_counter()
        sockets = await subscribed(stack, cluster, node, tenant, count, texts)
        crossed.subscribed_s = round(time.perf_counter() - began, 1)
        for socket in sockets:
            socket.on("search:match", noting(arrived))
        if sockets:
            await call(sockets[0], {"subscription_id": "watched", "text": WATCHED, "mode": "keyword"})
        talker = await livetalk.begun(database, account.tenant_id, account.user_id)
        committer = livetalk.committer(database)
        running = group.create_task(committer.run())
        await asyncio.sleep(SETTLE_S)
        committed: dict[str, float] = {}
        before, started = cpu_s([node.pid]), time.perf_counter()
        for number, (_, text) in enumerate(spoken.texts("en", int(seconds * FINALS_PER_S))):
            await asyncio.sleep(max(0.0, started + number / FINALS_PER_S - time.perf_counter()))
            item = talker.says(f"{text} {WATCHED} {coined(number)}")
            await committer.commit(item)
            committed[item.segment.segment_id] = time.perf_counter()
        await asyncio.sleep(AFTER_S)
        crossed.cpu_ms = (cpu_s([node.pid]) - before) / len(committed) * 1_000
        running.cancel()
    crossed.finals = len(committed) if sockets else 0
    crossed.match_ms = [round((arrived[name] - at) * 1_000, 2) for name, at in committed.items() if name in arrived]
    return crossed


async def subscribed(
    stack: AsyncExitStack, cluster: Cluster, node: ServerProcess, tenant: str, count: int, texts: Any
) -> list[socketio.AsyncClient]:
    """As many sockets and users as the limits ask for, each with its share of the subscriptions."""
    sockets: list[socketio.AsyncClient] = []
    left = count
    while left > 0:
        number = (count - left) // (LIMITS.subscriptions_per_user_max - LIMITS.subscriptions_per_socket_max)
        account = await cluster.account(tenant, f"listener-{number}", Role.MEMBER)
        socket = await stack.enter_async_context(connected(node, account.token))
        sockets.append(socket)
        share = min(left, LIMITS.subscriptions_per_socket_max - 1)  # one is kept for what is watched
        wanted = [
            {"subscription_id": f"s{number}", "text": text, "mode": "keyword"}
            for number, text in enumerate(itertools.islice(texts, share))
        ]
        for start in range(0, share, CALLS_AT_ONCE):
            await asyncio.gather(*(call(socket, one) for one in wanted[start : start + CALLS_AT_ONCE]))
        left -= share
    return sockets


async def call(socket: socketio.AsyncClient, wanted: dict[str, str]) -> None:
    """Subscribe, when the server has room for it."""
    while True:
        answer = await socket.call("search:subscribe", wanted, timeout=CONNECT_S_MAX)
        if answer["ok"]:
            return
        error = answer["error"]
        if not error["retryable"]:
            raise RuntimeError(f"a subscription was refused: {error['code']}")
        await asyncio.sleep(error.get("retry_after_ms", 100) / 1_000)


def noting(arrived: dict[str, float]) -> Any:
    async def note(body: dict[str, Any]) -> None:
        if body["subscription_id"] == "watched":
            arrived.setdefault(body["hit"]["segment_id"], time.perf_counter())

    return note


@asynccontextmanager
async def connected(node: ServerProcess, token: str) -> AsyncIterator[socketio.AsyncClient]:
    socket = socketio.AsyncClient(reconnection=False)
    await socket.connect(node.url, auth={"token": token}, transports=["websocket"], wait_timeout=CONNECT_S_MAX)
    try:
        yield socket
    finally:
        await socket.disconnect()
