"""kill -9 of the server and of the recogniser while somebody speaks, and what must still be true afterwards."""

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes import tones
from tests.support.process import Account, ServerProcess, running
from tests.support.wire import HANG_S, Talk, Wire, wired

SEEDS = [pytest.param(1), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 22))]


IMPATIENT = "from server.store import embedded; embedded.OWN_S_MAX = 1.0; from server.cli import main; main()"
"""The server, which waits 1 s for who holds its folder."""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("kill") / "data") as process:
        yield process


@pytest.fixture
def server(started: ServerProcess) -> ServerProcess:
    """One for all tests: its data folder survives what they do to it. It runs, whatever the one before left."""
    if not started.running:
        started.start()
    return started


async def undisturbed(server: ServerProcess, who: Account, pcm: bytes) -> list[str]:
    """The transcript of the same audio when nothing happens."""
    async with wired(server.url, who.token) as wire:
        live = Talk(wire, pcm)
        await live.start()
        await live.send()
        await live.stop()
        return [event["text"] for event in (await live.log())[:-1]]


@asynccontextmanager
async def watching(server: ServerProcess, who: Account, room: str) -> AsyncIterator[Wire]:
    async with wired(server.url, who.token) as wire:
        await wire.ok("room:join", {"room": room, "after_seq": 0})
        yield wire


async def reconnected(server: ServerProcess, who: Account) -> Wire:
    wire = Wire()
    await wire.connect(server.url, who.token)
    return wire


def finals_of(wire: Wire) -> list[dict[str, Any]]:
    return wire.named("transcript:final")


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_server_dies_and_nothing_is_lost_or_doubled(server: ServerProcess, seed: int) -> None:
    chance = random.Random(seed)
    said = tones.talk(tones.random_sentences(seed, 8), silence_ms=chance.choice([600, 900, 1_300]))
    pcm = said.audio.tobytes()
    alice, mallory = await server.account("alice"), await server.account("mallory")
    expected = await undisturbed(server, alice, pcm)
    assert " ".join(expected) == " ".join(said.texts)

    wire = await reconnected(server, alice)
    live = Talk(wire, pcm)
    await live.start()
    seen: dict[int, dict[str, Any]] = {}
    durable = 0
    for _ in range(3):
        upto = min(len(pcm), live.sent + chance.randrange(len(pcm) // 8, len(pcm) // 3) // 2 * 2)
        async with watching(server, alice, live.room) as watcher:
            await live.send(upto, speed=8)
            server.kill()
            await watcher.closed.wait()
            for final in finals_of(watcher):
                assert seen.setdefault(final["seq"], final) == final, "a number is never given twice"
        durable = max([durable, *(ack["durable_bytes"] for ack in wire.named("voice:recording:ack"))])
        await wire.close()
        server.start()
        wire = await reconnected(server, alice)
        answer = await live.resume(wire)
        assert durable <= answer["offset"] <= upto, "every byte that was called durable is kept"
    await live.send()
    await live.stop()
    log = await live.log()
    finals = log[:-1]
    assert [event["text"] for event in finals] == expected
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    assert [event["ordinal"] for event in finals] == list(range(1, len(finals) + 1))
    by_seq = {event["seq"]: event for event in log}
    for seq, final in seen.items():
        assert by_seq[seq] == final, "what a client saw is in the log, as it saw it"
    headers = {"Authorization": f"Bearer {alice.token}"}
    async with (
        aiohttp.ClientSession(server.url, headers=headers) as http,
        http.get(f"/v1/recordings/{live.recording_id}/media") as response,
    ):
        assert (await response.read())[44:] == pcm, "the kept audio holds every byte"
    async with wired(server.url, mallory.token) as stranger:
        assert (await stranger.refused("room:join", {"room": live.room}))["code"] == "not_found"
    await wire.close()


async def test_a_stream_whose_client_never_comes_back_is_transcribed_and_abandoned(tmp_path: Path) -> None:
    said = tones.talk(tones.random_sentences(50, 4))
    with running(tmp_path / "data", abandon_ms="1000") as server:
        alice = await server.account("alice")
        wire = await reconnected(server, alice)
        live = Talk(wire, said.audio.tobytes())
        await live.start()
        await live.send()
        await wire.wait("voice:recording:ack", lambda ack: ack["durable_bytes"] == len(live.pcm))
        server.kill()
        await wire.close()
        server.start()
        async with wired(server.url, alice.token) as watcher:
            await watcher.ok("room:join", {"room": live.room, "after_seq": 0})
            ended = await watcher.wait("recording:ended", lambda e: e["recording"]["id"] == live.recording_id)
            assert (ended["reason"], ended["duration_ms"]) == ("abandoned", len(live.pcm) // 32)
            live.wire = watcher
            assert [event["text"] for event in (await live.log())[:-1]] == said.texts
            error = await watcher.refused(
                "voice:recording:start",
                {
                    "encoding": "pcm_s16le",
                    "sample_rate": 16_000,
                    "channels": 1,
                    "recording_id": live.recording_id,
                    "resume_token": live.resume_token,
                },
            )
            assert error["code"] == "stream_ended"


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_recogniser_dies_and_the_transcript_is_the_same(server: ServerProcess, seed: int) -> None:
    chance = random.Random(seed)
    said = tones.talk(tones.random_sentences(seed + 100, 6), silence_ms=700)
    pcm = said.audio.tobytes()
    alice = await server.account("alice")
    await server.account("mallory")
    assert await undisturbed(server, alice, pcm) == said.texts
    async with wired(server.url, alice.token) as wire:
        live = Talk(wire, pcm)
        await live.start()
        await wire.ok("room:join", {"room": live.room})
        for _ in range(4):
            await live.send(live.sent + chance.randrange(16_000, len(pcm) // 5) // 2 * 2, speed=6)
            workers = server.workers()
            victim = chance.choice(workers) if workers else None
            if victim is not None:
                with_signal(victim)
        await live.send(speed=6)
        await live.stop()
        log = await live.log()
        assert [event["text"] for event in log[:-1]] == said.texts
        stable: dict[str, str] = {}
        for name, event in wire.events:
            if name == "transcript:partial":
                assert event["stable"].startswith(stable.get(event["segment_id"], "")), "stable text survives a worker"
                stable[event["segment_id"]] = event["stable"]
            elif name == "transcript:final":
                assert event["text"].startswith(stable.get(event["segment_id"], ""))


def with_signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


async def test_the_database_dies_and_captions_are_late_not_lost(server: ServerProcess) -> None:
    said = tones.talk(tones.random_sentences(300, 6), silence_ms=700)
    pcm = said.audio.tobytes()
    alice = await server.account("alice")
    async with wired(server.url, alice.token) as wire:
        live = Talk(wire, pcm)
        await live.start()
        await wire.ok("room:join", {"room": live.room})
        await live.send(len(pcm) // 3 // 2 * 2, speed=6)
        postgres = [pid for pid, command in server.children().items() if "postgres" in command.split(" ")[0]]
        assert postgres, "the embedded database runs as a child"
        for pid in postgres:
            os.kill(pid, signal.SIGSTOP)  # it hangs first, so that the loss is seen
        assert await ready_says(server, "degraded", ["database"]) == 200
        for pid in postgres:
            with_signal(pid)
        await live.send(speed=6)
        await wire.wait("voice:recording:ack", lambda ack: ack["durable_bytes"] == len(pcm))
        ended = await live.stop()
        assert ended["segment_count"] == len(said.texts)
        assert [event["text"] for event in finals_of(wire)] == said.texts
        assert [event["text"] for event in (await live.log())[:-1]] == said.texts
    assert await ready_says(server, "degraded", None) == 200


async def ready_says(server: ServerProcess, field: str, value: object) -> int:
    """Wait until `/readyz` says so; its status then."""
    async with asyncio.timeout(HANG_S), aiohttp.ClientSession(server.url) as http:
        while True:
            async with http.get("/readyz") as response:
                if (await response.json()).get(field) == value:
                    return response.status
            await asyncio.sleep(0.05)


async def test_an_orderly_stop_loses_nothing_either(server: ServerProcess) -> None:
    said = tones.talk(tones.random_sentences(400, 4))
    pcm = said.audio.tobytes()
    alice = await server.account("alice")
    wire = await reconnected(server, alice)
    live = Talk(wire, pcm)
    await live.start()
    await live.send(len(pcm) // 2 // 2 * 2)
    children = server.children()
    assert await asyncio.to_thread(server.stop) == 0  # a client that sleeps would not hear the goodbye
    assert (await wire.wait("server:draining"))["reconnect_after_ms"] > 0
    assert (await wire.wait("server:closing"))["code"] == "draining"
    left = [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert left == [], f"processes stay behind: {[children[pid] for pid in left]}"
    await wire.close()
    server.start()
    wire = await reconnected(server, alice)
    await live.resume(wire)
    await live.send()
    await live.stop()
    assert [event["text"] for event in (await live.log())[:-1]] == said.texts
    await wire.close()


async def test_a_client_that_does_not_read_is_cut_off_and_harms_nobody(server: ServerProcess) -> None:
    alice, mallory = await server.account("alice"), await server.account("mallory")
    async with wired(server.url, mallory.token) as wire:
        for _ in range(4):
            live = Talk(wire, b"\0" * 3_200)
            await live.start(title="x" * 200, visibility="private")
            await live.send()
            await live.stop()
    url = server.url + "/socket.io/?EIO=4&transport=websocket"
    ask = f'42["events:read",{{"room":"user:{mallory.user_id}","after_seq":0}}]'
    async with aiohttp.ClientSession() as http, wired(server.url, alice.token) as wire:
        stalled = await http.ws_connect(url)
        await stalled.receive()
        await stalled.send_str(f'40{{"token":"{mallory.token}"}}')
        await stalled.receive()
        transport = stalled._response.connection.transport  # type: ignore[union-attr]
        transport.pause_reading()
        asking, before = 0, await slow_consumers(server)
        with contextlib.suppress(OSError):
            async with asyncio.timeout(60):
                while not stalled.closed and await slow_consumers(server) == before:
                    for _ in range(200):
                        asking += 1
                        await stalled.send_str(ask.replace("42[", f"42{asking}[", 1))
        assert await slow_consumers(server) == before + 1
        said = tones.talk(tones.random_sentences(500, 2))
        live = Talk(wire, said.audio.tobytes())
        await live.start()
        await live.send()
        await live.stop()
        assert [event["text"] for event in (await live.log())[:-1]] == said.texts
        transport.abort()


async def slow_consumers(server: ServerProcess) -> float:
    async with aiohttp.ClientSession(server.url) as http, http.get("/metrics") as response:
        text = await response.text()
    lines = [line.split() for line in text.splitlines()]
    return next(float(line[1]) for line in lines if line[0] == "parlance_slow_consumers_total")


async def test_two_servers_on_one_data_folder_explain_themselves(server: ServerProcess) -> None:
    second = ServerProcess(server.data_dir)
    command = (sys.executable, "-c", IMPATIENT, "serve")
    process = await asyncio.create_subprocess_exec(
        *command, env=second.environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode not in (0, None)
    text = output.decode()
    assert "already runs the database" in text
    assert "Traceback" not in text
