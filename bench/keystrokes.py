"""`python -m bench keystrokes`: somebody types in two slots of one socket, faster than anybody reads.

30 keys, 12 a second, again and again, over a tenant of many segments on a real server with its model: in turn (every
other key in the other slot, so a slot's query stands for 167 ms) and in both at once (83 ms). Nothing but the stock
Socket.IO client stands between, so what is looked at is the order in which events arrived.

Counted: results of an older query after a newer one's in the same slot (there may be none); of the queries that no key
of their slot followed within 150 ms, those whose first results were there by then; CPU of the server for a key.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import socketio

from bench import searchload
from bench.quality.vectors import MISSING, MODELS_PYTHON
from bench.report import Figure, Result, percentiles
from bench.searching import Material, Served, Stand, served, stands
from bench.spokentext import Spoken

KEYS, KEYS_PER_S = 30, 12.0
WITHIN_MS, SHARE_LEAST = 150, 0.9
LAST_S = 1.0
"""After the last key, for its answers."""
SLOTS = ("left", "right")
PATTERNS = {"in turn": (("left",), ("right",)), "both at once": (SLOTS,)}
"""Into which slots the keys go, one after the other."""
CONNECT_S_MAX = 10
FULL, QUICK = searchload.Size(30_000, 20, 0.0, searchload.FULL.embedded, 0.0), searchload.QUICK
"""Fewer segments than `searchload`: filling 100,000 twice more would take longer than typing."""


class Key(msgspec.Struct):
    """One query: when it was sent, when its first results came, and the next key in its slot; milliseconds."""

    slot: str
    number: int
    at_ms: float
    next_ms: float | None = None
    instant_ms: float | None = None
    full_ms: float | None = None
    superseded: bool = False
    failed: bool = False

    @property
    def stood(self) -> bool:
        return self.next_ms is None or self.next_ms - self.at_ms > WITHIN_MS

    @property
    def in_time(self) -> bool:
        return self.instant_ms is not None and self.instant_ms - self.at_ms <= WITHIN_MS


class Typed(msgspec.Struct):
    """`late`: results of an older query after a newer one's in its slot; `cpu_s`: of the server."""

    keys: list[Key] = []
    late: int = 0
    cpu_s: float = 0.0


class Socket:
    """Sends keys and notes what comes of them."""

    def __init__(self, client: socketio.AsyncClient) -> None:
        self._client = client
        self._keys: dict[str, Key] = {}
        self._newest_answered: dict[str, int] = {}
        self.typed = Typed()
        client.on("search:results", self._results)
        client.on("search:superseded", self._superseded)
        client.on("search:failed", self._failed)

    async def key(self, slot: str, text: str) -> None:
        number = len(self.typed.keys)
        key = Key(slot, number, _now_ms())
        for before in reversed(self.typed.keys):
            if before.slot == slot:
                before.next_ms = key.at_ms
                break
        self.typed.keys.append(key)
        self._keys[str(number)] = key
        await self._client.emit("search:query", {"request_id": str(number), "text": text, "slot": slot})

    async def _results(self, body: dict[str, Any]) -> None:
        key = self._keys[body["request_id"]]
        if key.number < self._newest_answered.get(key.slot, 0):
            self.typed.late += 1
        self._newest_answered[key.slot] = max(key.number, self._newest_answered.get(key.slot, 0))
        if body["phase"] == "instant":
            key.instant_ms = _now_ms()
        else:
            key.full_ms = _now_ms()

    async def _superseded(self, body: dict[str, Any]) -> None:
        self._keys[body["request_id"]].superseded = True

    async def _failed(self, body: dict[str, Any]) -> None:
        self._keys[body["request_id"]].failed = True


async def benchmark(folder: Path, seed: int, size: searchload.Size, rounds: int) -> Result:
    if not MODELS_PYTHON.exists():
        return Result("keystrokes", [], {}, {}, skipped=MISSING)
    spoken = Spoken(seed)
    material = await searchload.prepared(spoken, folder, seed, size)
    missing: list[str] = []
    figures: list[Figure] = []
    raw: dict[str, object] = {}
    async for stand in stands(missing):
        for pattern, typed in (await measure(stand, material, rounds, **searchload.MEANING)).items():
            figures += told(f"{stand.name}, {pattern}", typed)
            raw[f"{stand.name}, {pattern}"] = kept(typed)
    settings = {"segments": size.segments, "tenants": size.tenants, "rounds": rounds, "keys_per_s": KEYS_PER_S}
    return Result("keystrokes", figures, settings, raw, skipped="; ".join(missing))


async def measure(stand: Stand, material: Material, rounds: int, **settings: str) -> dict[str, Typed]:
    async with served(stand, material, **settings) as place:
        return {name: await typing(place, material, slots, rounds) for name, slots in PATTERNS.items()}


async def typing(
    place: Served, material: Material, pattern: Sequence[Sequence[str]], rounds: int, keys: int = KEYS
) -> Typed:
    """In the largest tenant; each round types the beginning of something that was said."""
    held = material.libraries[0]
    async with opened(place, held.tenant) as socket:
        before = place.used()["server"]
        for turn in range(rounds):
            said = " ".join(s.text for s in held.said[7 * turn % len(held.said) :][:4])
            await one_round(socket, said, pattern, keys)
        socket.typed.cpu_s = round(place.used()["server"] - before, 2)
    return socket.typed


async def one_round(socket: Socket, said: str, pattern: Sequence[Sequence[str]], keys: int) -> None:
    began = time.perf_counter()
    for number in range(keys):
        await asyncio.sleep(max(0.0, began + number / KEYS_PER_S - time.perf_counter()))
        for slot in pattern[number % len(pattern)]:
            await socket.key(slot, said[: number + 1])
    await asyncio.sleep(LAST_S)


@asynccontextmanager
async def opened(place: Served, tenant: str) -> AsyncIterator[Socket]:
    account = await place.account(tenant)
    client = socketio.AsyncClient(reconnection=False)
    socket = Socket(client)
    await client.connect(
        place.server.url, auth={"token": account.token}, transports=["websocket"], wait_timeout=CONNECT_S_MAX
    )
    try:
        yield socket
    finally:
        await client.disconnect()


def told(name: str, typed: Typed) -> list[Figure]:
    keys = typed.keys
    stood = [key for key in keys if key.stood]
    share = sum(key.in_time for key in stood) / max(1, len(stood))
    firsts = [key.instant_ms - key.at_ms for key in stood if key.instant_ms is not None]
    return [
        Figure(f"{name}: older results after newer ones", typed.late, "", len(keys), most=0),
        Figure(f"{name}: first results within {WITHIN_MS} ms, of queries that stood so long", round(share, 4), "share",
               len(stood), least=SHARE_LEAST),
        *percentiles(f"{name}: first results of these", firsts, "ms"),
        Figure(f"{name}: queries that failed", sum(key.failed for key in keys), "", len(keys), most=0),
        Figure(f"{name}: CPU of the server", round(1_000 * typed.cpu_s / max(1, len(keys)), 2), "ms/key", len(keys)),
    ]  # fmt: skip


def kept(typed: Typed) -> dict[str, object]:
    """Everything that figures are made of, a line for each key: slot, sent, first results, full results (ms)."""
    began = typed.keys[0].at_ms if typed.keys else 0.0

    def since(at_ms: float | None) -> str:
        return "-" if at_ms is None else f"{at_ms - began:.1f}"

    lines = [f"{k.slot} {since(k.at_ms)} {since(k.instant_ms)} {since(k.full_ms)}" for k in typed.keys]
    return {"late": typed.late, "cpu_s": typed.cpu_s, "keys": lines}


def _now_ms() -> float:
    return time.perf_counter() * 1_000
