"""One client that never reads in a busy room: what it costs the server, and whether the others notice.

Runs with and without it take turns. All clients of the room get `PER_S` durable events of `EVENT_BYTES` a second, which
may neither be merged nor dropped, so a stalled client's share grows until the server cuts it off. Memory is the peak
of the server's resident size over what it had before the first event; the others' p99 is from emission to receipt.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator

from bench.beside import OURS, Peer, alternate, peer
from bench.crowd import Crowd
from bench.fanout import DURABLE, Sender, phase, until_members
from bench.report import Figure, Result

EVENT_BYTES, PER_S = 2_000, 200
RECEIVE_BYTES = 4_096
"""The stalled client's own buffer: the kernel shall not hide it."""
MOST_MIB = 2.0
LOOK_S = 0.05
WITHOUT, WITH = "control", "stalled"


async def benchmark(clients: int, seconds: float, rounds: int) -> Result:
    runs = await alternate((WITHOUT, WITH), rounds, lambda which: one(which, clients, seconds))
    costs = runs.median(WITH, "grown_mib") - runs.median(WITHOUT, "grown_mib")
    least_ms, most_ms = runs.spread(WITHOUT, "p99_ms")
    rows = [
        Figure("a client that does not read: memory it costs", round(costs, 2), "MiB", rounds, most=MOST_MIB),
        Figure("runs in which it was cut off", sum(r["cut_off"] for r in runs.of[WITH]), "runs", rounds, least=rounds),
        Figure("the others, p99, control runs, least", round(least_ms, 2), "ms", rounds),
        Figure("the others, p99, control runs, most", round(most_ms, 2), "ms", rounds),
        Figure("the others, p99, with it", round(runs.median(WITH, "p99_ms"), 2), "ms", rounds, most=round(most_ms, 2)),
        Figure("messages out of order", sum(r["disorder"] for side in runs.of.values() for r in side), "of all",
               int(sum(r["delivered"] for side in runs.of.values() for r in side)), most=0),
    ]  # fmt: skip
    settings = {
        "clients": clients,
        "seconds": seconds,
        "rounds": rounds,
        "event_bytes": EVENT_BYTES,
        "per_s": PER_S,
    }
    return Result("stalled", rows, settings, {"runs": runs.of})


async def one(which: str, clients: int, seconds: float) -> dict[str, float]:
    """One run. `cut_off`: 1 when the server ended the stalled client."""
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
        async with peer(OURS, folder=folder) as server:
            crowd = Crowd("bench", subject=DURABLE)
            await crowd.connect(server.url, clients)
            sender = Sender(server, OURS, EVENT_BYTES, durable=True)
            await until_members(crowd, sender)
            deaf = Crowd("bench", subject=DURABLE)
            if which == WITH:
                await deaf.connect(server.url, 1, receive_bytes=RECEIVE_BYTES)
                await until_members(deaf, sender)
                deaf.links[0].transport.pause_reading()
                await until_members(crowd, sender)  # and the others have what let it in
            count = int(PER_S * seconds)
            before_kib = server.resident_kib
            async with peak(server) as most_kib:
                found = await phase(crowd, [server], count, sender.emit(count, PER_S))
            for link in deaf.links:
                link.transport.resume_reading()  # only now does it hear that it was cut off
                await deaf.until_delivered(2 + count, or_lost=True)
            deaf.close()
            crowd.close()
    return {
        "grown_mib": (most_kib[0] - before_kib) / 1024,
        "p99_ms": found.p99_ms,
        "p50_ms": found.p50_ms,
        "delivered": found.delivered,
        "disorder": found.disorder,
        "cut_off": deaf.lost,
        "own_share": found.own_share,
    }


@contextlib.asynccontextmanager
async def peak(server: Peer) -> AsyncIterator[list[int]]:
    """The most resident KiB seen while the block runs, in a list of one."""
    most = [0]

    async def watch() -> None:
        while True:
            most[0] = max(most[0], server.resident_kib)
            await asyncio.sleep(LOOK_S)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        yield most
        watching.cancel()
