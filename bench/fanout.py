"""Fan-out beside Node's socket.io: events to a room, from one node and across two.

All clients are members of one room and get every event of `EVENT_BYTES`. Paced: `PER_S` events a second, CPU of the
server per delivered message, which counts everything the server does for it. Unpaced: `BURST` events back to back, the
next burst when the last one has arrived everywhere; the rate is what server and clients reach together.

Every message is counted at its client, and its number must follow the last one's.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import msgspec

from bench.beside import OURS, Peer, Runs, alternate, peer, sides, versions
from bench.crowd import HANG_S, Crowd, Lost, room_for
from bench.report import Figure, Result

ROOM = "tenant:bench"
EVENT, DURABLE = "transcript:partial", "transcript:final"
EVENT_BYTES = 300
PER_S = 20
BURST = 20
JOIN_LOOK_S = 1.0
MOST, MOST_ACROSS = 1.1, 1.3
"""The promise: server CPU per delivered message, ours over Node's."""


def body_of(size: int) -> dict[str, Any]:
    """An event's object that makes the whole message about `size` bytes, with everything that a partial has."""
    body = {
        "room": ROOM,
        "after_seq": 0,
        "recording_id": "rec_0123456789abcdef0123",
        "stream_id": "st_0123456789abcdef0123",
        "rev": 7,
        "start_ms": 61_200,
        "end_ms": 63_480,
        "stable": "",
        "unstable": "and so on",
    }
    sample = {"n": 1_000, "sent_us": 1_000_000_000, **body, "segment_id": "seg_1000"}
    empty = len("42") + len(json.dumps([EVENT, sample], separators=(",", ":")))
    return body | {"stable": ("what was said so far " * (size // 20 + 1))[: size - empty]}


class Sender:
    """Tells a server what to emit; `n` grows over the whole run. `durable`: what our hub delivers in the log's order
    and never merges; to Node's rooms it is all the same."""

    def __init__(self, server: Peer, side: str, size: int, *, durable: bool = False) -> None:
        self._server = server
        self._event = DURABLE if durable else EVENT
        self._more = {"durable": durable} if side == OURS else {}
        body = body_of(size)
        if side == OURS:  # the hub adds these two itself
            body = {name: value for name, value in body.items() if name not in ("room", "after_seq")}
        self._body = body
        self.last = 0
        """The number of the last event."""

    async def emit(self, count: int, per_s: float = 0) -> None:
        first = self.last + 1
        self.last += count
        await self._server.do(
            room=ROOM, event=self._event, body=self._body, first=first, count=count, per_s=per_s, **self._more
        )


async def until_members(crowd: Crowd, sender: Sender) -> None:
    """Emit until everybody is in the room, because joining takes a moment after the greeting; afterwards nothing that
    was emitted is on its way any more."""
    end = time.monotonic() + HANG_S
    while not all(link.last == sender.last > 0 for link in crowd.links):
        if time.monotonic() > end:
            raise Lost("not everybody came into the room")
        crowd.forget()
        await sender.emit(1)
        with contextlib.suppress(Lost):
            await crowd.until_delivered(len(crowd.links), hang_s=JOIN_LOOK_S)


class Measured(msgspec.Struct):
    """Of one phase."""

    cpu_us: float
    delivered: int
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    bytes_each: float
    disorder: int
    lost: int
    own_share: float

    def values(self, phase: str) -> dict[str, float]:
        return {f"{phase}_{name}": value for name, value in msgspec.to_builtins(self).items()}


async def paced(crowd: Crowd, sender: Sender, servers: list[Peer], seconds: float) -> Measured:
    count = int(PER_S * seconds)
    return await phase(crowd, servers, count, sender.emit(count, PER_S))


async def unpaced(crowd: Crowd, sender: Sender, servers: list[Peer], bursts: int) -> Measured:
    async def emit() -> None:
        for n in range(bursts):
            await sender.emit(BURST)
            await crowd.until_delivered((n + 1) * BURST * len(crowd.links))

    return await phase(crowd, servers, bursts * BURST, emit())


async def phase(crowd: Crowd, servers: list[Peer], count: int, emit: Awaitable[None]) -> Measured:
    """Measure the servers until everything is delivered."""
    crowd.forget()
    before, own, began = sum(s.cpu_s for s in servers), time.process_time(), time.perf_counter()
    await emit
    await crowd.until_delivered(count * len(crowd.links))
    took_s = time.perf_counter() - began
    cpu_s = sum(s.cpu_s for s in servers) - before
    return Measured(
        cpu_us=cpu_s * 1e6 / crowd.delivered,
        delivered=crowd.delivered,
        per_s=crowd.delivered / took_s,
        p50_ms=crowd.latency_ms(50),
        p95_ms=crowd.latency_ms(95),
        p99_ms=crowd.latency_ms(99),
        bytes_each=crowd.bytes / crowd.delivered,
        disorder=crowd.disorder,
        lost=crowd.lost,
        own_share=(time.process_time() - own) / took_s,
    )


async def one_node(side: str, clients: int, seconds: float, bursts: int) -> dict[str, float]:
    """One run of one side."""
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
        async with peer(side, folder=Path(folder)) as server:
            crowd = Crowd("bench")
            await crowd.connect(server.url, clients)
            sender = Sender(server, side, EVENT_BYTES)
            await until_members(crowd, sender)
            calm = await paced(crowd, sender, [server], seconds)
            storm = await unpaced(crowd, sender, [server], bursts)
            crowd.close()
    return calm.values("paced") | storm.values("unpaced")


async def benchmark(clients: int, seconds: float, bursts: int, rounds: int) -> Result:
    """Fan-out at one node."""
    room_for(clients)
    who, skipped = sides()
    runs = await alternate(who, rounds, lambda side: one_node(side, clients, seconds, bursts))
    rows = [
        *runs.figures("paced_cpu_us", f"{clients:,} clients, {PER_S} events/s: CPU of a delivered message", "us",
                      most=MOST),
        *runs.figures("unpaced_cpu_us", "back to back: CPU of a delivered message", "us"),
        *runs.figures("unpaced_per_s", "back to back: delivered", "messages/s"),
        *runs.figures("paced_p50_ms", "emitted to received, p50", "ms"),
        *runs.figures("paced_p95_ms", "emitted to received, p95", "ms"),
        *correct(runs, ("paced", "unpaced")),
    ]  # fmt: skip
    return Result(
        "fanout", rows, settings(clients, seconds, rounds, skipped) | {"bursts": bursts}, {"runs": runs.of}, skipped
    )


def correct(runs: Runs, phases: tuple[str, ...]) -> list[Figure]:
    """What was delivered, and what was wrong with it: nothing may be."""
    every = [run for side in runs.of.values() for run in side]
    delivered = int(sum(run[f"{name}_delivered"] for run in every for name in phases))
    wrong = int(sum(run[f"{name}_{kind}"] for run in every for name in phases for kind in ("disorder", "lost")))
    return [Figure("messages out of order, connections lost", wrong, "of all", delivered, most=0)]


def settings(clients: int, seconds: float, rounds: int, skipped: str) -> dict[str, Any]:
    return {
        "clients": clients,
        "seconds": seconds,
        "rounds": rounds,
        "event_bytes": EVENT_BYTES,
        "per_s": PER_S,
        "versions": versions(skipped),
    }
