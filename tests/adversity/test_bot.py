"""The durable bot of the examples, killed while people speak and the server dies: each event once, in order."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from auth.model import Role
from server.store.pool import Database
from tests.fakes import tones
from tests.support.process import ROOT, Account, ServerProcess, running
from tests.support.speaker import Speaker
from tests.support.wire import Talk, Wire, wired

SEEDS = [pytest.param(1), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 22))]
PROGRAM = ROOT / "clients/python/examples/durable_bot.py"
HANG_S = 90.0

Record = dict[str, Any]


class Bot:
    """The process, as a supervisor keeps it: started again whenever it ended."""

    def __init__(self, server: ServerProcess, who: Account, journal: Path) -> None:
        self.journal = journal
        self.kills = 0
        self._command = [sys.executable, str(PROGRAM), server.url, str(journal)]
        self._environ = {**os.environ, "PARLANCE_TOKEN": who.token}
        self._said = journal.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Start it if it does not run."""
        if self._process is None or self._process.poll() is not None:
            with self._said.open("ab") as said:
                self._process = subprocess.Popen(self._command, env=self._environ, stdout=said, stderr=said)

    def kill(self) -> None:
        if self._process is not None:
            self.kills += self._process.poll() is None
            self._process.kill()
            self._process.wait(20)
            self._process = None

    @property
    def said(self) -> str:
        return self._said.read_text() if self._said.exists() else ""

    def whole_lines(self) -> list[Record]:
        """What stands in the journal, but for a line that is being written."""
        text = self.journal.read_bytes() if self.journal.exists() else b""
        return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]

    async def until(self, condition: Any) -> None:
        """Keep it until `condition(records)` holds."""
        async with asyncio.timeout(HANG_S):
            while not condition(self.whole_lines()):
                self.keep()
                await asyncio.sleep(0.05)


@asynccontextmanager
async def a_bot(server: ServerProcess, who: Account, journal: Path) -> AsyncIterator[Bot]:
    bot = Bot(server, who, journal)
    try:
        yield bot
    finally:
        bot.kill()


async def log_of(wire: Wire, room: str) -> list[Record]:
    events: list[Record] = []
    more = True
    while more:
        page = await wire.ok("events:read", {"room": room, "after_seq": len(events), "limit": 1_000})
        events += page["events"]
        more = page["more"]
    return events


async def logs_of(server: ServerProcess, who: Account) -> dict[str, list[Record]]:
    """Every room that the bot follows, whole."""
    tenant = f"tenant:{who.tenant_id}"
    async with wired(server.url, who.token) as wire:
        logs = {tenant: await log_of(wire, tenant)}
        for event in logs[tenant]:
            room = f"recording:{event['recording']['id']}"
            logs[room] = await log_of(wire, room)
    return logs


def made_of(event: Record) -> Record:
    """What the example makes of an event."""
    record = {name: event[name] for name in ("room", "seq", "at", "event")}
    if event["event"] == "transcript:final":
        record["text"] = event["text"]
    elif event["event"] in ("recording:started", "recording:ended"):
        record |= {"recording": event["recording"]["id"], "title": event["recording"]["title"]}
    return record


def by_room(records: list[Record]) -> dict[str, list[Record]]:
    rooms: dict[str, list[Record]] = {}
    for record in records:
        rooms.setdefault(record["room"], []).append(record)
    return rooms


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_bot_killed_at_random_handles_every_event_once_and_in_order(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with running(tmp_path / "data") as server:
        alice = await server.account("alice")
        tenant = "alice"
        viewer = await server.account(tenant, "minutes-bot", Role.VIEWER)
        speakers = []
        for number in range(4):
            said = tones.talk(tones.random_sentences(1_000 * seed + number, 8), silence_ms=chance.choice([500, 900]))
            pcm = said.audio.tobytes()
            speed = len(pcm) / 32_000 / chance.uniform(3.0, 6.0)
            speakers.append(Speaker([server.url], alice.token, pcm, said.texts, speed=speed, seed=seed * 10 + number))

        async def murder(bot: Bot, over: asyncio.Event) -> None:
            server_dies_after = chance.randrange(1, 4)
            while not over.is_set():
                bot.keep()
                await asyncio.sleep(chance.uniform(0.1, 1.6))
                bot.kill()
                if bot.kills == server_dies_after:
                    server.kill()
                    bot.keep()  # it may meet a server that is not there
                    await asyncio.to_thread(server.start)
                    server_dies_after = -1

        async with a_bot(server, viewer, tmp_path / "minutes.jsonl") as bot:
            over = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(murder(bot, over))
                for delay in range(len(speakers)):
                    await asyncio.sleep(chance.uniform(0, delay / 4))
                    group.create_task(speakers[delay].run())
                async with asyncio.timeout(HANG_S):
                    while not all(speaker.ended for speaker in speakers) or bot.kills < 4:
                        await asyncio.sleep(0.05)
                over.set()
            logs = await logs_of(server, viewer)
            assert len(logs) == 1 + len(speakers)
            await bot.until(lambda records: len(records) >= sum(map(len, logs.values())))
            bot.kill()
            records = by_room(bot.whole_lines())
            assert records.keys() == logs.keys(), bot.said
            for room, log in logs.items():
                assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
                assert records[room] == [made_of(event) for event in log], f"seed {seed}: {room}\n{bot.said}"


async def test_a_bot_that_was_away_for_too_long_says_so_and_goes_on(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        alice = await server.account("alice")
        tenant = f"tenant:{alice.tenant_id}"

        async def recorded() -> None:
            async with wired(server.url, alice.token) as wire:
                live = Talk(wire, tones.talk(tones.random_sentences(60, 1)).audio.tobytes())
                await live.start()
                await live.send()
                await live.stop()

        async with a_bot(server, alice, tmp_path / "minutes.jsonl") as bot:
            await recorded()
            await bot.until(lambda records: len(records) == 4)
            bot.kill()
            for _ in range(3):
                await recorded()
            async with server._database_url() as dsn:
                database = Database(dsn)
                await database.open()
                async with database.tenant_tx(alice.tenant_id) as tx:
                    await tx.execute("DELETE FROM events WHERE room = $1 AND seq < 7", tenant)
                    await tx.execute("UPDATE rooms SET first_seq = 7 WHERE room = $1", tenant)
                await database.close()
            await bot.until(lambda records: len(records) == 4 + 1 + 4)
            await recorded()
            await bot.until(lambda records: len(records) == 4 + 1 + 8)
            records = by_room(bot.whole_lines())
            assert records[tenant][2] == {"room": tenant, "seq": 6, "skipped": 4}
            assert [record["seq"] for record in records[tenant]] == [1, 2, 6, 7, 8, 9, 10]
            assert f"4 events of {tenant} are gone" in bot.said
            assert len(records) == 4, "the recordings that it never heard of are not followed"
