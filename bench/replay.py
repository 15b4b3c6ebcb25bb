"""A room's whole log into one client: joined from the beginning, read page by page, and as server-sent events.

The log is filled by SQL, because its making is not measured. Every event must come, each once, in order.
"""

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import msgspec

from bench.crowd import HANG_S, Crowd, Lost
from bench.meter import Cpu, cpu_of
from bench.report import Figure, Result
from server.store import embedded
from tests.support.process import Account, ServerProcess

EVENT = "transcript:final"
BODY = {
    "sent_us": 0,
    "recording_id": "rec_0123456789abcdef0123",
    "segment_id": "seg_0123456789abcdef0123",
    "start_ms": 61_200,
    "end_ms": 63_480,
    "text": "what was said so far what was said so far what was said",
    "speaker": "S1",
    "language": "en",
    "confidence": 0.9,
}
PAGE = 1_000
ID = re.compile(rb"\nid: ([0-9]+)\n")
ID_CHARS_MAX = 24
READ_BYTES = 256 * 1024


class Replayed(msgspec.Struct, frozen=True):
    """`wrong`: events missing or out of order."""

    events: int
    seconds: float
    cpu: Cpu
    wrong: int


async def benchmark(server: ServerProcess, events: int) -> Result:
    account = await server.account("bench")
    room = f"user:{account.user_id}"
    async with embedded.use(server.data_dir / "postgres") as url:
        await fill(url, account.tenant_id, room, events)
    ways: dict[str, Callable[[], Awaitable[Replayed]]] = {
        "room:join": lambda: joined(server, account, room, events),
        "events:read": lambda: read(server, account, room, events),
        "/v1/events": lambda: streamed(server, account, room, events),
    }
    rows: list[Figure] = []
    raw: dict[str, Any] = {}
    for name, way in ways.items():
        found = await way()
        raw[name] = msgspec.to_builtins(found)
        rows += [
            Figure(f"{name}: events", round(found.events / found.seconds), "1/s", found.events),
            Figure(f"{name}: CPU of the server", round(1e6 * found.cpu.server_s / events, 1), "us/event", found.events),
            Figure(f"{name}: CPU of the database", round(1e6 * found.cpu.database_s / events, 1), "us/event",
                   found.events),
            Figure(f"{name}: missing or out of order", found.wrong, "events", found.events, most=0),
        ]  # fmt: skip
    return Result("replay", rows, {"events": events, "event_bytes": len(json.dumps(BODY))}, raw)


async def fill(url: str, tenant_id: str, room: str, events: int) -> None:
    """`events` in a room that is as good as new."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO rooms (tenant_id, room) VALUES ($1, $2) ON CONFLICT DO NOTHING", tenant_id, room
            )
            before = await connection.fetchval(
                "UPDATE rooms SET seq = seq + $3 WHERE tenant_id = $1 AND room = $2 RETURNING seq - $3",
                *(tenant_id, room, events),
            )
            assert before == 0, "nothing has happened in this room"
            await connection.execute(
                """INSERT INTO events (tenant_id, room, seq, at, event, body)
                   SELECT $1, $2, g, now(), $3, $4::text::jsonb || jsonb_build_object('n', g)
                   FROM generate_series(1, $5::bigint) AS g""",
                *(tenant_id, room, EVENT, json.dumps(BODY), events),
            )
        await connection.execute("ANALYZE events")
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def connected(server: ServerProcess, account: Account) -> AsyncIterator[Crowd]:
    crowd = Crowd(account.token, subject=EVENT)
    await crowd.connect(server.url, 1)
    try:
        yield crowd
    finally:
        crowd.close()


async def joined(server: ServerProcess, account: Account, room: str, events: int) -> Replayed:
    async with connected(server, account) as crowd:
        before, began = cpu_of(server), time.perf_counter()
        await crowd.links[0].call("room:join", {"room": room, "after_seq": 0})
        await crowd.until_delivered(events)
        seconds = time.perf_counter() - began
        wrong = crowd.disorder + abs(crowd.links[0].last - events)
        return Replayed(crowd.delivered, seconds, cpu_of(server).since(before), wrong)


async def read(server: ServerProcess, account: Account, room: str, events: int) -> Replayed:
    async with connected(server, account) as crowd:
        before, began = cpu_of(server), time.perf_counter()
        seen = wrong = 0
        more = True
        while more:
            asked = {"room": room, "after_seq": seen, "limit": PAGE}
            page = await crowd.links[0].call("events:read", asked)
            wrong += sum(event["seq"] != seen + k for k, event in enumerate(page["events"], 1))
            seen, more = page["seq"], page["more"]
        seconds = time.perf_counter() - began
        return Replayed(seen, seconds, cpu_of(server).since(before), wrong + abs(seen - events))


async def streamed(server: ServerProcess, account: Account, room: str, events: int) -> Replayed:
    """Ids are read out of the bytes: parsing the stream is not what is measured."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
    before, began = cpu_of(server), time.perf_counter()
    writer.write(
        (
            f"GET /v1/events?room={room} HTTP/1.1\r\nHost: {host}:{port}\r\nLast-Event-ID: 0\r\n"
            f"Authorization: Bearer {account.token}\r\nAccept: text/event-stream\r\n\r\n"
        ).encode()
    )
    last, wrong, rest = 0, 0, b""
    while last < events:
        async with asyncio.timeout(HANG_S):
            data = await reader.read(READ_BYTES)
        if not data:
            raise Lost(f"the stream ended after {last} events: {rest[:200]!r}")
        ids, rest = ids_in(rest + data)
        wrong += sum(other != one + 1 for one, other in itertools.pairwise([last, *ids]))
        last = ids[-1] if ids else last
    seconds = time.perf_counter() - began
    writer.close()
    return Replayed(last, seconds, cpu_of(server).since(before), wrong)


def ids_in(data: bytes) -> tuple[list[int], bytes]:
    """The ids of whole lines in a piece of a stream, and what may hold the beginning of the next one."""
    ids, end = [], max(0, len(data) - ID_CHARS_MAX)
    for found in ID.finditer(data):
        ids.append(int(found[1]))
        end = max(end, found.end() - 1)
    return ids, data[end:]
