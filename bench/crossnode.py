"""Fan-out across two nodes and Redis, beside Node's socket.io with its Redis adapter.

Events are emitted at one node; half of the clients are at the other. CPU is that of both servers' processes together
per delivered message; Redis itself is listed by its side. The latency from one node to a client of the other is taken
twice: with a client at each node and nothing else to do, and with the whole room.
"""

import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from bench.beside import Peer, alternate, peer, sides
from bench.crowd import Crowd, room_for
from bench.fanout import (
    EVENT_BYTES,
    MOST_ACROSS,
    PER_S,
    Sender,
    correct,
    paced,
    phase,
    settings,
    until_members,
)
from bench.meter import cpu_s
from bench.report import Result
from tests.support.redis import PROGRAM, Redis

CALM_PER_S, CALM_EVENTS = 100, 150


async def benchmark(clients: int, seconds: float, rounds: int) -> Result:
    if shutil.which(PROGRAM) is None:
        return Result("crossnode", [], {}, {}, skipped=f"{PROGRAM} is not installed")
    room_for(clients)
    who, skipped = sides()
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
        redis = Redis(Path(folder) / "redis")
        redis.start()
        try:
            runs = await alternate(who, rounds, lambda side: two_nodes(side, redis, clients, seconds))
        finally:
            redis.stop()
    half = clients // 2
    rows = [
        *runs.figures("paced_cpu_us", f"2 x {half:,} clients, {PER_S} events/s: CPU of a delivered message", "us",
                      most=MOST_ACROSS),
        *runs.figures("redis_cpu_us", "the same: CPU of Redis", "us"),
        *runs.figures("paced_far_p50_ms", "emitted to received at the other node, p50", "ms"),
        *runs.figures("paced_far_p95_ms", "emitted to received at the other node, p95", "ms"),
        *runs.figures("calm_far_p50_ms", "one client at each node: to the other node, p50", "ms"),
        *runs.figures("calm_far_p95_ms", "one client at each node: to the other node, p95", "ms"),
        *correct(runs, ("calm", "paced")),
    ]  # fmt: skip
    return Result("crossnode", rows, settings(clients, seconds, rounds, skipped), {"runs": runs.of}, skipped)


async def two_nodes(side: str, redis: Redis, clients: int, seconds: float) -> dict[str, float]:
    """One run of one side."""
    async with AsyncExitStack() as stack:
        nodes: list[Peer] = []
        for _ in range(2):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="parlance-bench-"))
            nodes.append(await stack.enter_async_context(peer(side, folder=folder, redis=redis.url)))
        near, far = nodes
        crowd = Crowd("bench")
        sender = Sender(near, side, EVENT_BYTES)
        for node in nodes:
            await crowd.connect(node.url, 1)
        await until_members(crowd, sender)
        calm = await phase(crowd, nodes, CALM_EVENTS, sender.emit(CALM_EVENTS, CALM_PER_S))
        calm_far = {f"calm_far_p{q}_ms": crowd.latency_ms(q, far.url) for q in (50, 95)}
        for node in nodes:
            await crowd.connect(node.url, clients // 2 - 1)
        await until_members(crowd, sender)
        before_s = cpu_s([redis.program.pid])
        full = await paced(crowd, sender, nodes, seconds)
        redis_s = cpu_s([redis.program.pid]) - before_s
        far_ms = {f"paced_far_p{q}_ms": crowd.latency_ms(q, far.url) for q in (50, 95)}
        crowd.close()
    return (
        calm.values("calm")
        | calm_far
        | full.values("paced")
        | far_ms
        | {"redis_cpu_us": redis_s * 1e6 / full.delivered}
    )
