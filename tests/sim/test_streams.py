"""Whatever is cut, killed or lost, every word that was said is in the transcript once, in its place.

A failure is a seed. It is printed and runs again alone: `PARLANCE_SIM_SEED=17 pytest tests/sim`."""

import asyncio
import os
import random

import pytest

from streaming.model import SAMPLE_RATE, Encoding
from tests.fakes.opus import format_of, packed
from tests.fakes.recogniser import Call
from tests.fakes.tones import random_sentences, talk
from tests.sim import clock
from tests.sim.store import Trouble
from tests.sim.world import Listener, World, mono

KINDS = {
    "calm": Trouble(),
    "cuts": Trouble(cut=0.05, leave=0.1),
    "workers": Trouble(worker=0.05, cut=0.01),
    "database": Trouble(commit=0.3, answer=0.3, leave=0.05),
    "crashes": Trouble(crash=0.3, power=0.5, cut=0.02),
    "everything": Trouble(worker=0.03, commit=0.2, answer=0.2, cut=0.03, crash=0.15, power=0.5, leave=0.05),
}
CLUSTER = {
    "moves": Trouble(cut=0.05, leave=0.1),
    "hints": Trouble(cut=0.03, leave=0.05, bus=0.4),
    "ghosts": Trouble(cut=0.02, partition=0.4, storage=0.1),
    "storage": Trouble(cut=0.02, storage=0.4),
    "nodes": Trouble(cut=0.02, crash=0.4, bus=0.1),
    "all": Trouble(
        worker=0.02, commit=0.15, answer=0.15, cut=0.03, crash=0.15, leave=0.05, bus=0.2, storage=0.15, partition=0.15
    ),
}
"""Three nodes that share a database, storage and a bus that loses hints."""
OPUS = (format_of(Encoding.WEBM_OPUS), format_of(Encoding.OGG_OPUS))
QUICK_SEEDS, SOAK_SEEDS = 5, 200


def seeds() -> list[object]:
    """A handful as a rule, many in the soak, or the one that is asked for."""
    alone = os.environ.get("PARLANCE_SIM_SEED")
    if alone is not None:
        return [int(alone)]
    return [*range(QUICK_SEEDS), *(pytest.param(n, marks=pytest.mark.soak) for n in range(QUICK_SEEDS, SOAK_SEEDS))]


async def history(world: World) -> None:
    """Three recordings with a listener each, from their beginning to their end."""
    rng = random.Random(world.rng.random())
    world.boot()
    listeners: dict[str, Listener] = {}
    texts: dict[str, list[str]] = {}
    audios: dict[str, bytes] = {}
    tasks = []
    for number in range(3):
        name = f"recording:{number}"
        fmt = rng.choice([mono(8_000), mono(16_000), mono(44_100), mono(48_000), *OPUS])
        packs = fmt.encoding.is_container
        said = talk(
            random_sentences(rng.randrange(10**6), rng.randint(2, 5)), silence_ms=rng.randint(650, 2_500),
            sample_rate=SAMPLE_RATE if packs else fmt.sample_rate,
        )  # fmt: skip
        texts[name] = said.texts
        listeners[name] = Listener()
        audio = packed(said.audio, fmt.encoding) if packs else said.audio.tobytes()
        audios[name] = audio
        tasks.append(asyncio.ensure_future(world.talk(name, audio, fmt)))
        tasks.append(asyncio.ensure_future(world.listen(name, listeners[name])))
    tasks.append(asyncio.ensure_future(world.fate(list(tasks))))
    await asyncio.gather(*tasks)
    await world.shut_down()
    assert not world.errors, world.errors
    assert not world.recogniser.unended
    for name, expected in texts.items():
        segments = world.store.segments[name]
        assert [segment.text for segment in segments] == expected, "each word once, in order"
        assert [segment.ordinal for segment in segments] == list(range(1, len(segments) + 1))
        starts = [segment.start_ms for segment in segments]
        assert starts == sorted(starts)
        assert listeners[name].texts == expected, "the listener heard the log"
        assert listeners[name].seq == len(expected) + 1
        assert world.audio(name) == audios[name], "every byte is kept, once"


def play(kind: str, seed: int, trouble: Trouble, nodes: int) -> World:
    world = World(seed, trouble, nodes=nodes)
    try:
        clock.run(history(world))
    except BaseException:
        print(f"\nseed {seed} of {kind}: PARLANCE_SIM_SEED={seed} pytest tests/sim -k {kind}")  # noqa: T201
        raise
    return world


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", seeds())
def test_every_word_once(kind: str, seed: int) -> None:
    play(kind, seed, KINDS[kind], nodes=1)


@pytest.mark.parametrize("kind", CLUSTER)
@pytest.mark.parametrize("seed", seeds())
def test_every_word_once_on_several_nodes(kind: str, seed: int) -> None:
    play(kind, seed, CLUSTER[kind], nodes=3)


@pytest.mark.parametrize(("trouble", "nodes"), [(KINDS["everything"], 1), (CLUSTER["all"], 3)])
def test_the_same_seed_gives_the_same_history(trouble: Trouble, nodes: int) -> None:
    calls = []
    for _ in range(2):
        world = World(4, trouble, nodes=nodes)
        clock.run(history(world))
        calls.append((dict(world.recogniser.calls), world.restarts, [s.epoch for s in world.store.streams.values()]))
    assert calls[0] == calls[1]
    assert calls[0][1] > nodes, "and things do go wrong in it"
    assert calls[0][0][Call.OPEN] > 0
