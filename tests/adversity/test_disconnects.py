"""Connections that are lost again and again while people speak: no word is lost, doubled or out of order.

Every client speaks through a proxy of its own, which sends each new connection to the other node. Cuts fall at random
places of the talk, in five ways; 40 in `make test`, 1,000 in `make soak`, by seed.
"""

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from parlance_client import Client
from parlance_client.backoff import Backoff

from streaming.model import SAMPLE_RATE
from tests.fakes import tones
from tests.support import corpus
from tests.support.cluster import Cluster, clustered
from tests.support.oracle import Account, Seen, complete, judge
from tests.support.process import Account as Member
from tests.support.proxy import Proxy, Way, port_of, proxied
from tests.support.scene import Scene, rerun_told, until_ready
from tests.support.speaker import Speaker
from tests.support.synth import Speech, needs_espeak, random_voice, talk

QUICK = Backoff(first_s=0.02, max_s=0.2)
MICRO = Path(__file__).resolve().parents[1] / "models" / "micro-whisper" / "en"
CHUNK_BYTES = 3_200
SPEED = 8.0
GREETING_BYTES = 1_500
"""What a node sends while a client connects and takes its stream over: handshake, `ready`, the acknowledgement."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clustered(tmp_path_factory.mktemp("disconnects")) as started:
        yield started


class Cutter:
    """Cuts what goes through one proxy, and aims it at the other node each time."""

    def __init__(self, proxy: Proxy, ports: list[int], chance: random.Random) -> None:
        self.proxy = proxy
        self._ports = ports
        self._chance = chance

    def _other(self) -> None:
        self._ports = self._ports[1:] + self._ports[:1]
        self.proxy.aim(self._ports[0])

    def between_chunks(self) -> None:
        self._other()
        self.proxy.cut(reset=self._chance.random() < 0.5)

    def inside_a_chunk(self) -> None:
        """Within the next frame that the client sends."""
        self._other()
        self.proxy.cut_after(self._chance.randrange(1, 6_000))

    def before_it_resumed(self) -> None:
        """Again while the next connection greets or is told where to go on."""
        self._other()
        self.proxy.cut_after(self._chance.randrange(1, GREETING_BYTES), Way.DOWN)
        self.proxy.cut(reset=True)

    def any_way(self) -> None:
        self._chance.choice([self.between_chunks, self.inside_a_chunk, self.before_it_resumed])()


async def lose(scene: Scene, speaker: Speaker, cut: Callable[[], None]) -> None:
    """Cut, again where there was nothing to cut yet, until the speaker lost a connection."""
    lost = len(speaker.losses)
    while len(speaker.losses) == lost and not speaker.ended:
        await asyncio.to_thread(cut)
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await scene.until(lambda: len(speaker.losses) > lost or speaker.ended)


async def cuts(scene: Scene, speaker: Speaker, cutter: Cutter, count: int) -> None:
    """`count` times: at a random byte, around a commit, or some in a row."""
    chance = scene.chance
    places = sorted(chance.uniform(0.01, 0.85) for _ in range(count))
    sentences = len(speaker.account.texts)
    for place in places:
        await scene.spoken(speaker, place)
        await scene.until(lambda: speaker.streaming or speaker.ended)
        how = chance.random()
        if how < 0.25:  # when the final of the sentence that is spoken now is due
            await scene.due(speaker, min(int(place * sentences), sentences - 2), chance.uniform(300, 900))
            await lose(scene, speaker, cutter.between_chunks)
        elif how < 0.35:
            for _ in range(3):
                await lose(scene, speaker, cutter.any_way)
        else:
            await lose(scene, speaker, cutter.any_way)


async def watcher_cuts(scene: Scene, speaker: Speaker, cutter: Cutter, count: int) -> None:
    for place in sorted(scene.chance.uniform(0.05, 0.95) for _ in range(count)):
        await scene.spoken(speaker, place)
        await asyncio.to_thread(cutter.any_way)


async def disconnected(cluster: Cluster, who: Member, seed: int, *, clients: int, each: int, sentences: int) -> int:
    """Clients whose connections are cut; returns how many connections were lost. The oracle judges."""
    ports = [port_of(url) for url in cluster.urls]
    with ExitStack() as stack:
        async with Scene(cluster.urls, who.token, seed=seed, hang_s=900) as scene:
            for number in range(clients):
                aimed = ports[number % 2 :] + ports[: number % 2]
                spoken, watched = (stack.enter_context(proxied(aimed[0], seed=seed + number)) for _ in range(2))
                speaker = scene.speak(sentences, urls=[spoken.url])
                await scene.watch(speaker, first=number + 1)
                await scene.watch(speaker, urls=[watched.url])
                scene.also(cuts(scene, speaker, Cutter(spoken, aimed, scene.chance), each))
                scene.also(watcher_cuts(scene, speaker, Cutter(watched, aimed, scene.chance), each))
        return sum(len(speaker.losses) for speaker in scene.speakers)


async def test_some_disconnects(cluster: Cluster, request: pytest.FixtureRequest) -> None:
    async with rerun_told(request.node.nodeid):
        await until_ready(cluster.urls)
        alice = await cluster.account("alice")
        lost = await disconnected(cluster, alice, 1, clients=4, each=10, sentences=8)
        assert lost >= 40


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("seed", range(2, 5))
async def test_a_thousand_disconnects(
    cluster: Cluster, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    started = time.monotonic()
    async with rerun_told(request.node.nodeid):
        await until_ready(cluster.urls)
        alice = await cluster.account("alice")
        lost = await disconnected(cluster, alice, seed, clients=20, each=50, sentences=40)
        assert lost >= 1_000
    with capsys.disabled():
        took = time.monotonic() - started
        sys.stdout.write(f"\nseed {seed}: {lost} disconnects of 20 clients in {took:.0f} s, no word lost\n")


async def speak_with_the_client(
    client: Client, account: Account, seen: Seen, cuts: dict[int, Callable[[], None]]
) -> None:
    """The Python client as its users use it: nothing is said of connections. `cuts`: what happens at which chunk."""
    async with client.events() as events:
        stream = await client.record()
        account.recording_id = stream.recording_id
        await client.join(stream.room, 0)

        async def listen() -> None:
            async for event in events:
                if event.room == stream.room:
                    seen.events.append((event.name, dict(event.body)))
                    if event.name == "recording:ended":
                        return

        async with asyncio.TaskGroup() as group:
            group.create_task(listen())
            for number, start in enumerate(range(0, len(account.pcm), CHUNK_BYTES)):
                await stream.send(account.pcm[start : start + CHUNK_BYTES])
                await asyncio.sleep(CHUNK_BYTES / 32_000 / SPEED)
                if number in cuts:
                    await asyncio.to_thread(cuts[number])
            await stream.stop()


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.soak if seed > 1 else ()) for seed in range(1, 6)]
)
async def test_the_python_client_over_lost_connections(
    cluster: Cluster, request: pytest.FixtureRequest, seed: int
) -> None:
    chance = random.Random(seed)
    said = tones.talk(tones.random_sentences(seed, 8), silence_ms=700)
    account, seen = Account("", said.audio.tobytes(), said.texts), Seen(0, [])
    ports = [port_of(url) for url in cluster.urls]
    async with rerun_told(request.node.nodeid):
        await until_ready(cluster.urls)
        alice = await cluster.account("alice")
        with proxied(ports[0], seed=seed) as proxy:
            cutter = Cutter(proxy, ports, chance)
            where = chance.sample(range(len(account.pcm) // CHUNK_BYTES), 10)
            cuts: dict[int, Callable[[], None]] = dict.fromkeys(where, cutter.any_way)
            async with asyncio.timeout(120), Client(proxy.url, alice.token, backoff=QUICK) as client:
                await speak_with_the_client(client, account, seen, cuts)
                account.log = [
                    dict(event.body)
                    async for page in client.read_events(f"recording:{account.recording_id}", 0)
                    for event in page.events
                ]
            assert proxy.cuts >= 3, "a cut that meets no connection is none"
        account.watchers = [[seen]]
        judge([await complete(account, cluster.urls[0], alice.token)])


# --- real engines -----------------------------------------------------------------------------------------------------
@pytest.fixture(params=["pocketsphinx", "whisperx"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    settings = {"model": str(MICRO)} if request.param == "whisperx" else {}
    with clustered(tmp_path / request.param, engine=request.param, **settings) as started:
        yield started


async def heard(cluster: Cluster, who: Member, speech: Speech, seed: int, *, each: int) -> tuple[float, set[int], int]:
    """Word error rate of a talk, the seconds that its segments cover, and how many connections it lost."""
    ports = [port_of(url) for url in cluster.urls]
    pcm = speech.audio.astype("<i2").tobytes()
    with proxied(ports[0], seed=seed) as proxy:
        async with Scene(cluster.urls, who.token, seed=seed, hang_s=600) as scene:
            speaker = scene.say(Speaker([proxy.url], who.token, pcm, None, speed=3))
            await scene.watch(speaker)
            cutter, chance = Cutter(proxy, ports, scene.chance), scene.chance
            for place in sorted(chance.uniform(0.02, 0.95) for _ in range(each)):
                await scene.spoken(speaker, place)
                await scene.until(lambda: speaker.streaming or speaker.ended)
                await lose(scene, speaker, cutter.any_way)
    finals = [event for event in speaker.account.log if event["event"] == "transcript:final"]
    said = corpus.plain(speech.text)
    errors = corpus.edits(said, [word for final in finals for word in corpus.plain(final["text"])])
    seconds = {s for f in finals for s in range(f["start_ms"] // 1_000, -(-f["end_ms"] // 1_000))}
    return errors / len(said), seconds, len(speaker.losses)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@needs_espeak
@pytest.mark.parametrize("seed", range(1, 4))
async def test_real_engines_over_lost_connections(
    real: Cluster, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """Every second with speech is covered, and the words are as good as without a disturbance."""
    speech = talk(list(itertools.islice(corpus.sentences(seed), 24)), [random_voice(random.Random(seed))], seed=seed)
    spoken = {s for _, first, end in speech.sentences for s in range(first // SAMPLE_RATE + 1, end // SAMPLE_RATE)}
    async with rerun_told(request.node.nodeid):
        await until_ready(real.urls)
        alice = await real.account("alice")
        undisturbed, covered, _ = await heard(real, alice, speech, seed, each=0)
        disturbed, still, lost = await heard(real, alice, speech, seed, each=8)
        assert spoken - still <= spoken - covered, "seconds are missing"
        assert disturbed <= undisturbed + 0.01
        assert lost >= 8
    with capsys.disabled():
        sys.stdout.write(f"\n{request.node.name}: WER {undisturbed:.3f}, with {lost} disconnects {disturbed:.3f}\n")
