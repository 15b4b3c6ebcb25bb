"""Two nodes under load for minutes, one of them killed again and again: the oracle holds for every stream.

.venv/bin/python -m pytest -m soak -s 'tests/adversity/test_load.py::test_a_node_dies_every_minute[600s-200]'
"""

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streaming.model import SAMPLE_RATE
from tests.fakes import tones
from tests.support.cluster import Cluster, clustered
from tests.support.oracle import judge
from tests.support.process import ServerProcess
from tests.support.scene import rerun_told, until_ready
from tests.support.speaker import Speaker, Watcher

TALKS = 8
"""Different ones; several speakers share one, each in a recording of its own."""
WATCHED = 4
"""Every fourth stream has a watcher, at the other node."""
START_S = 20.0
"""Over which speakers begin."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clustered(tmp_path_factory.mktemp("load")) as started:
        yield started


def talk_of(seconds: float, seed: int) -> tones.Talk:
    """One to three words every 5 to 9 s: an engine of 32 places hears 200 such streams."""
    chance = random.Random(seed)
    pieces, said, length = [], [], 0.0
    words = iter(tones.random_sentences(seed, int(seconds / 5) + 1, words=(1, 3)))
    while length < seconds:
        piece = tones.talk([next(words)], silence_ms=chance.randint(5_000, 9_000), lead_ms=300)
        pieces.append(piece.audio)
        said += piece.sentences
        length += len(piece.audio) / SAMPLE_RATE
    return tones.Talk(np.concatenate(pieces), tuple(said))


def cpu_s(node: ServerProcess) -> float:
    """User and system time of a node: its own, its children's, and of those that ended."""
    total = 0
    for pid in (node.pid, *node.children()):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize(
    ("seconds", "streams", "every_s"),
    [pytest.param(60, 40, 20, id="60s-40"), pytest.param(600, 200, 60, id="600s-200")],
)
async def test_a_node_dies_every_minute(
    cluster: Cluster,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    seconds: int,
    streams: int,
    every_s: int,
) -> None:
    chance = random.Random(seconds)
    talks = [await asyncio.to_thread(talk_of, seconds, seed) for seed in range(TALKS)]
    pcms = [talk.audio.tobytes() for talk in talks]
    alice = await cluster.account("alice")
    speakers: list[Speaker] = []
    watchers: dict[int, Watcher] = {}
    kills, spent = 0, -sum(cpu_s(node) for node in cluster.nodes)
    loop = asyncio.get_running_loop()
    began, used = loop.time(), time.process_time()

    async def speak(number: int) -> None:
        late = began + START_S * number / streams
        while loop.time() < late:
            await asyncio.sleep(late - loop.time())
        talk = number % TALKS
        speaker = Speaker(
            cluster.urls, alice.token, pcms[talk], talks[talk].texts, speed=1, chunk=(6_400, 6_400), first=number
        )
        speaker.hang_s = 2 * seconds + 600
        speakers.append(speaker)
        async with asyncio.TaskGroup() as group:
            group.create_task(speaker.run())
            if number % WATCHED == 0:
                await speaker.known.wait()
                watcher = Watcher(cluster.urls, alice.token, speaker.room, first=number + 1)
                watcher.hang_s = speaker.hang_s
                watchers[id(speaker)] = watcher
                group.create_task(watcher.run())

    async def kill() -> None:
        nonlocal kills, spent
        while True:
            due = began + (kills + 1) * every_s
            if due > began + seconds:
                return
            await asyncio.sleep(max(0.0, due - loop.time()))
            node = chance.choice(cluster.nodes)
            spent += cpu_s(node)
            await asyncio.to_thread(node.kill)
            kills += 1
            await asyncio.to_thread(cluster.start)

    async with rerun_told(request.node.nodeid):
        async with asyncio.TaskGroup() as group:
            group.create_task(kill())
            for number in range(streams):
                group.create_task(speak(number))
        took = loop.time() - began
        spent += sum(cpu_s(node) for node in cluster.nodes)
        await until_ready(cluster.urls)
        for speaker in speakers:
            watched = [watchers[id(speaker)]] if id(speaker) in watchers else []
            judge([await speaker.judged(cluster.urls[0], *watched)])
            speaker.account.media = b""
    lost = sum(len(speaker.losses) for speaker in speakers)
    words = sum(len(" ".join(talks[number % TALKS].texts).split()) for number in range(streams))
    clients = (time.process_time() - used) / took
    with capsys.disabled():
        sys.stdout.write(
            f"\n{streams} streams, {took:.0f} s, {kills} kills, {lost} connections lost, {words} words: none lost, "
            f"doubled or out of order; CPU of clients and oracle {clients:.2f} cores, "
            f"of the nodes {spent / took:.2f} cores\n"
        )
