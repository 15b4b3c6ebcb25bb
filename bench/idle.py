"""Memory of connections that do nothing, beside Node's socket.io: clients that offer compression, as browsers do.

The whole server with its database, and bench/node/server.js. Each client connects, is greeted, and is in its tenant's
and its user's room: that all of them are shows one event to the tenant's room, which must reach everybody. Then the
resident memory of the server's process counts, less that with one connection.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from bench.beside import OURS, alternate, peer, sides, versions
from bench.crowd import HANG_S, Crowd, Lost, room_for
from bench.fanout import ROOM
from bench.intake import FORMAT
from bench.meter import cpu_s, resident_kib
from bench.report import Figure, Result
from tests.support.process import ServerProcess

MOST_KB = 30
"""The promise: kB a connection."""
SETTLE_S = 1.0
NOTICE = "recording:started"


async def benchmark(connections: int, rounds: int) -> Result:
    room_for(connections)
    who, skipped = sides()
    runs = await alternate(who, rounds, lambda side: (ours if side == OURS else node)(connections))
    every = [run for side in runs.of.values() for run in side]
    wrong = int(sum(run["compressed"] + run["lost"] for run in every))
    most = {OURS: MOST_KB}
    rows = [
        Figure(f"{connections:,} connections: memory of each, {side}", round(runs.median(side, "kb"), 1), "kB",
               len(runs.of[side]), most.get(side))
        for side in runs.of
    ]  # fmt: skip
    rows += [
        Figure(f"CPU of a connection's beginning, {side}", round(runs.median(side, "connect_us")), "us", rounds)
        for side in runs.of
    ]
    rows.append(Figure("connections lost, or compressed", wrong, "of all", connections * len(every), most=0))
    settings = {"connections": connections, "rounds": rounds, "versions": versions(skipped)}
    return Result("idle", rows, settings, {"runs": runs.of}, skipped)


async def ours(connections: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
        server = await asyncio.to_thread(started, Path(folder) / "data", connections)
        try:
            crowd = Crowd((await server.account("bench")).token, deflate=True)
            values = await grown(crowd, server.url, connections, server.pid)
            await crowd.links[0].call("voice:recording:start", FORMAT)
            await crowd.until(lambda: len(crowd.heard_by(NOTICE)) == connections)
            values |= await settled(crowd, values, server.pid)
            await asyncio.to_thread(nobody_left, server.url)
            return values
        finally:
            await asyncio.to_thread(server.stop)


def nobody_left(url: str) -> None:
    """Wait until the server has seen all connections end; an orderly stop has seconds for everything."""
    end = time.monotonic() + HANG_S
    while time.monotonic() < end:
        with urlopen(f"{url}/metrics") as answer:
            if b"\nparlance_sockets 0.0\n" in answer.read():
                return
        time.sleep(0.1)
    raise Lost("the server still counts connections that ended")


def started(data_dir: Path, connections: int) -> ServerProcess:
    """All come from one user and one address, or nearly."""
    most = str(2 * connections)
    server = ServerProcess(
        data_dir, connections_per_user=most, connections_per_tenant=most, connections_per_address=most
    )
    server.start()
    return server


async def node(connections: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
        async with peer("node", folder=folder) as server:
            crowd = Crowd("bench", deflate=True, subject=NOTICE)
            values = await grown(crowd, server.url, connections, server.pid)
            await server.do(room=ROOM, event=NOTICE, body={}, first=1, count=1, per_s=0)
            await crowd.until_delivered(connections)
            return values | await settled(crowd, values, server.pid)


async def grown(crowd: Crowd, url: str, connections: int, pid: int) -> dict[str, float]:
    """All connected: the memory with one of them, the CPU that it took."""
    await crowd.connect(url, 1)
    first_kib, before, began = resident_kib(pid), cpu_s([pid]), time.perf_counter()
    await crowd.connect(url, connections - 1)
    took_s = time.perf_counter() - began
    return {
        "first_kib": first_kib,
        "connect_us": 1e6 * (cpu_s([pid]) - before) / connections,
        "connect_per_s": connections / took_s,
        "asked_back": crowd.asked_back,
    }


async def settled(crowd: Crowd, values: dict[str, float], pid: int) -> dict[str, float]:
    await asyncio.sleep(SETTLE_S)
    kib = resident_kib(pid) - values["first_kib"]
    found = {
        "kb": kib * 1.024 / (len(crowd.links) - 1),
        "compressed": sum(link.compressed for link in crowd.links),
        "lost": crowd.lost,
    }
    crowd.close()
    return found
