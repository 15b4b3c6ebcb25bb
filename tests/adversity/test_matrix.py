"""The kill matrix: whatever part is killed, at whatever moment, nothing is lost, doubled or out of order.

A cell is (victim, moment, seed). Two talks run, one at each node, each watched at both. One seed of the `QUICK` cells
in `make test`, 20 of each in `make soak`; a cell runs alone by its name, as
`tests/adversity/test_matrix.py::test_kill[server-committing-7]`.
"""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.fakes import tones
from tests.support.cluster import Cluster, clustered
from tests.support.oracle import Account
from tests.support.scene import Scene, rerun_told, until_ready
from tests.support.speaker import Speaker

VICTIMS = ("server", "worker", "postgres", "redis")
MOMENTS = ("speaking", "committing", "replaying", "draining")
SEEDS = 20
QUICK = {
    "server": MOMENTS,
    "worker": ("speaking", "committing"),
    "postgres": ("committing", "draining"),
    "redis": ("replaying",),
}
"""What `make test` plays: each moment, and each victim where most hangs on it. A decoder has no part in a replay, which
is what Redis serves; a final is lost with its database, or a lease."""
CELLS = [
    pytest.param(
        victim,
        moment,
        seed,
        id=f"{victim}-{moment}-{seed}",
        marks=() if seed == 1 and moment in QUICK[victim] else pytest.mark.soak,
    )
    for victim in VICTIMS
    for moment in MOMENTS
    for seed in range(1, SEEDS + 1)
]
DEFECTS = ("component failed", "stream crashed", "pipeline failed")
"""Lines of the log that no kill excuses."""
HISTORY = 300


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clustered(tmp_path_factory.mktemp("matrix")) as started:
        yield started


@pytest.fixture(scope="module")
def history() -> list[Account]:
    """A talk with a long log, spoken before: empty until the first cell needs it."""
    return []


async def remembered(cluster: Cluster, token: str, history: list[Account]) -> Account:
    if not history:
        said = tones.talk(tones.random_sentences(1, HISTORY, words=(1, 1)), silence_ms=600)
        async with Scene(cluster.urls, token, seed=1) as scene:
            speaker = scene.say(Speaker(cluster.urls, token, said.audio.tobytes(), said.texts, speed=0))
        history.append(speaker.account)
    return history[0]


class Kill:
    """Kills `victim`, and brings it back."""

    def __init__(self, cluster: Cluster, victim: str, chance: random.Random) -> None:
        self._cluster = cluster
        self._victim = victim
        self._chance = chance

    def strike(self, node: int) -> None:
        """At `node`, where the victim has one for each."""
        if self._victim == "server":
            self._cluster.nodes[node].kill()
        elif self._victim == "postgres":
            self._cluster.postgres.kill()
        elif self._victim == "redis":
            assert self._cluster.redis is not None
            self._cluster.redis.kill()
        else:
            workers = self._cluster.nodes[node].workers()
            for pid in self._chance.sample(workers, min(len(workers), self._chance.randint(1, 2))):
                _kill(pid)

    async def struck(self, node: int) -> None:
        await asyncio.to_thread(self.strike, node)
        await asyncio.to_thread(self._cluster.start)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


async def speaking(scene: Scene, talks: list[Speaker], kill: Kill, _cluster: Cluster) -> None:
    """While chunks flow."""
    await scene.spoken(talks[0], scene.chance.uniform(0.1, 0.8))
    await kill.struck(0)


async def committing(scene: Scene, talks: list[Speaker], kill: Kill, _cluster: Cluster) -> None:
    """When a final is due: around its commit, a little earlier or later with each seed."""
    await scene.due(talks[0], scene.chance.randrange(1, 4), scene.chance.uniform(300, 900))
    await kill.struck(0)


async def replaying(scene: Scene, talks: list[Speaker], kill: Kill, _cluster: Cluster) -> None:
    """While newcomers at both nodes read a log of some hundred events, and the log of what is spoken now."""
    await scene.spoken(talks[0], scene.chance.uniform(0.3, 0.8))
    newcomers = [scene.replay(account, first=number) for account in list(scene.past.values()) for number in range(6)]
    for number, talk in enumerate(talks):
        await scene.watch(talk, first=number)
    few = scene.chance.randrange(1, len(newcomers))
    await scene.until(lambda: sum(newcomer.seq > 0 for newcomer in newcomers) >= few)
    await kill.struck(0)


async def draining(scene: Scene, talks: list[Speaker], kill: Kill, cluster: Cluster) -> None:
    """While node 0 drains: it, or the node that takes its streams over."""
    await scene.spoken(talks[0], scene.chance.uniform(0.1, 0.6))
    started = asyncio.Event()

    async def drain() -> None:
        started.set()
        await asyncio.to_thread(cluster.nodes[0].stop)

    drained = scene.also(drain())
    await started.wait()
    await asyncio.sleep(scene.chance.uniform(0.0, 0.4))
    await asyncio.to_thread(kill.strike, scene.chance.randrange(2))
    await drained
    await asyncio.to_thread(cluster.start)


MOMENT: dict[str, Callable[[Scene, list[Speaker], Kill, Cluster], object]] = {
    "speaking": speaking,
    "committing": committing,
    "replaying": replaying,
    "draining": draining,
}


@pytest.mark.parametrize(("victim", "moment", "seed"), CELLS)
async def test_kill(
    cluster: Cluster, history: list[Account], request: pytest.FixtureRequest, victim: str, moment: str, seed: int
) -> None:
    chance = random.Random(f"{victim} {moment} {seed}")
    marks = [len(node.output) for node in cluster.nodes]
    async with rerun_told(request.node.nodeid):
        await until_ready(cluster.urls)
        alice = await cluster.account("alice")
        past = await remembered(cluster, alice.token, history) if moment == "replaying" else None
        async with Scene(cluster.urls, alice.token, seed=chance.randrange(2**31)) as scene:
            if past is not None:
                scene.replay(past)
            talks = [scene.speak(6, first=node) for node in range(2)]
            for talk in talks:
                for node in range(2):
                    await scene.watch(talk, first=node)
            await MOMENT[moment](scene, talks, Kill(cluster, victim, chance), cluster)
        await until_ready(cluster.urls)
    for node, mark in zip(cluster.nodes, marks, strict=True):
        told = [line for line in node.output[mark:] if any(defect in line for defect in DEFECTS)]
        assert not told, f"{request.node.name}: {told}"
