"""kill -9 of the server while it reads kept audio again: it goes on at the piece, and tells what it found once."""

import os
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.store import embedded
from tests.fakes import tones
from tests.support.process import Account, ServerProcess, running
from tests.support.waiting import until
from tests.support.wire import Talk, wired

PIECES = "SELECT count(*) FROM pass_pieces"
MOMENTS = {
    "in a piece": "tries > 0",
    "between pieces": f"({PIECES}) >= 1",
    "late in a piece": f"({PIECES}) >= 2 AND tries > 0",
    "before the merge": "(SELECT max(end_sample) / 16 >= (SELECT duration_ms FROM recordings) FROM pass_pieces)",
    "behind the merge": "merges > 0",
}
QUICK = ("late in a piece", "before the merge")
"""With seed 1: a start takes seconds."""
SEEDS = [pytest.param(1), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))]


async def ask(data: Path, question: str) -> Any:
    async with embedded.use(data / "postgres") as dsn:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()


async def recorded(data: Path, said: tones.Talk) -> tuple[Account, Talk]:
    """A talk whose live recognition died: nothing of it is there but its audio."""
    with running(data) as server:
        alice = await server.account("alice")
        async with wired(server.url, alice.token) as wire:
            live = Talk(wire, said.audio.tobytes())
            await live.start()
            await live.send()
            await live.stop()
            assert len(await live.log()) - 1 == len(said.texts)
    await ask(data, "DELETE FROM segments")
    return alice, live


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_server_that_is_killed_in_a_second_pass_goes_on_and_tells_once(tmp_path: Path, seed: int) -> None:
    data = tmp_path / "data"
    said = tones.talk(tones.random_sentences(seed, 45, words=(4, 9)), silence_ms=800)
    alice, live = await recorded(data, said)
    server = ServerProcess(data, second_pass="auto")
    server.start()
    try:
        for moment in QUICK if seed == 1 else MOMENTS:
            question = f"SELECT ({MOMENTS[moment]}) OR merges > 0 FROM passes"  # whoever is too late kills behind it
            await until(lambda question=question: ask(data, question))  # type: ignore[misc]
            held = await ask(data, PIECES)
            server.kill()
            server.start()
            assert await ask(data, PIECES) >= held or moment == "behind the merge"
        await until(lambda: ask(data, "SELECT state = 'done' FROM passes"))
        async with wired(server.url, alice.token) as wire:
            live.wire = wire
            told = [event for event in await live.log() if event["event"] == "transcript:revised"]
        assert len({event["pass_id"] for event in told}) == 1
        assert [event["part"] for event in told] == list(range(1, told[0]["parts"] + 1)), "each part once"
        segments = [segment for event in told for segment in event["segments"]]
        assert len({segment["segment_id"] for segment in segments}) == len(segments)
        words = [word["w"] for segment in segments for word in segment["words"]]
        assert words == " ".join(said.texts).split(), "no word lost or doubled, at any joint"
        assert await ask(data, PIECES) == 0
    finally:
        server.stop()


@pytest.mark.soak
async def test_a_recogniser_killed_under_a_second_pass_costs_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    said = tones.talk(tones.random_sentences(20, 40, words=(4, 9)), silence_ms=800)
    await recorded(data, said)
    with running(data, second_pass="auto") as server:
        for _ in range(2):
            await until(lambda: ask(data, "SELECT tries > 0 OR state = 'done' FROM passes"))
            for worker in server.workers():
                try:
                    os.kill(worker, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        await until(lambda: ask(data, "SELECT state = 'done' FROM passes"))
        texts = await ask(data, "SELECT string_agg(text, ' ' ORDER BY start_ms) FROM segments")
    assert texts == " ".join(said.texts)
