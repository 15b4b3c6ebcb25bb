"""kill -9 of the server while a browser's container arrives: the same words, and audio without a hole."""

import random
from collections.abc import Iterator
from typing import Any

import aiohttp
import numpy as np
import pytest

from streaming.model import Encoding
from tests.fakes.opus import length_48k, packed
from tests.fakes.tones import hear, labels_of, random_sentences, talk
from tests.support.process import Account, ServerProcess, running
from tests.support.wire import Talk, Wire

SEEDS = [
    pytest.param(1, Encoding.WEBM_OPUS, 2),
    pytest.param(2, Encoding.OGG_OPUS, 1),
    *(
        pytest.param(seed, encoding, 3, marks=pytest.mark.soak)
        for seed in range(1, 23)
        for encoding in (Encoding.WEBM_OPUS, Encoding.OGG_OPUS)
    ),
]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("containers") / "data") as process:
        yield process


@pytest.fixture
def server(started: ServerProcess) -> ServerProcess:
    """One for all tests: its data folder survives what they do to it. It runs, whatever the one before left."""
    if not started.running:
        started.start()
    return started


class OpusTalk(Talk):
    """A recording in a container; `rate` is that of its nominal bytes, which the credit is reckoned with."""

    def __init__(self, wire: Wire, data: bytes, encoding: Encoding) -> None:
        super().__init__(wire, data, rate=16_000)
        self.encoding = encoding

    async def start(self, **options: Any) -> dict[str, Any]:
        return await super().start(encoding=self.encoding.value, **options)

    async def texts(self) -> list[str]:
        return [event["text"] for event in await self.log() if event["event"] == "transcript:final"]


async def connected(server: ServerProcess, who: Account) -> Wire:
    wire = Wire()
    await wire.connect(server.url, who.token)
    return wire


async def media(server: ServerProcess, who: Account, live: Talk) -> bytes:
    """The samples that `/media` plays, 48 kHz s16le."""
    headers = {"Authorization": f"Bearer {who.token}"}
    async with (
        aiohttp.ClientSession(server.url, headers=headers) as http,
        http.get(f"/v1/recordings/{live.recording_id}/media") as response,
    ):
        assert response.status == 200
        return (await response.read())[44:]


def words_in(pcm_48k: bytes) -> list[str]:
    audio = np.frombuffer(pcm_48k, "<i2")[::3].copy()
    return [word for word, _, _ in hear(audio, labels_of(audio))]


async def undisturbed(server: ServerProcess, who: Account, data: bytes, encoding: Encoding) -> tuple[list[str], bytes]:
    """Transcript and audio when nothing happens."""
    wire = await connected(server, who)
    live = OpusTalk(wire, data, encoding)
    await live.start()
    await live.send()
    await live.stop()
    found = await live.texts(), await media(server, who, live)
    await wire.close()
    return found


@pytest.mark.parametrize(("seed", "encoding", "kills"), SEEDS)
async def test_the_server_dies_and_the_words_and_the_audio_are_the_same(
    server: ServerProcess, seed: int, encoding: Encoding, kills: int
) -> None:
    chance = random.Random(seed)
    said = talk(random_sentences(seed, 6), silence_ms=chance.choice([650, 900, 1_300]))
    data = packed(said.audio, encoding, cluster_ms=chance.choice([250, 1_000, 5_000]))
    alice = await server.account("alice")
    expected, sound = await undisturbed(server, alice, data, encoding)
    assert " ".join(expected) == " ".join(said.texts)
    assert len(sound) == 2 * length_48k(data, encoding)

    wire = await connected(server, alice)
    live = OpusTalk(wire, data, encoding)
    await live.start()
    durable = 0
    early = b""
    for _ in range(kills):
        upto = min(len(data), live.sent + chance.randrange(len(data) // 8, len(data) // 3))
        await live.send(upto, chunk=1_000, speed=40)
        early = await media(server, alice, live)
        server.kill()
        await wire.closed.wait()
        durable = max([durable, *(ack["durable_bytes"] for ack in wire.named("voice:recording:ack"))])
        await wire.close()
        server.start()
        wire = await connected(server, alice)
        answer = await live.resume(wire)
        assert durable <= answer["offset"] <= upto, "every byte that was called durable is kept"
    await live.send()
    ended = await live.stop()
    assert ended["duration_ms"] == len(sound) // 96
    assert await live.texts() == expected
    log = await live.log()
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    heard = await media(server, alice, live)
    assert heard == sound, "sample for sample: no hole, no seam"
    assert heard.startswith(early), "what was played while it was recorded"
    await wire.close()


async def test_after_a_kill_the_recorder_begins_anew(server: ServerProcess) -> None:
    """Its page was reloaded: the rest of the old container is gone, the new one follows what is kept."""
    encoding = Encoding.WEBM_OPUS
    first, second = (talk(random_sentences(n, 3), silence_ms=700) for n in (31, 32))
    old, new = packed(first.audio, encoding, cluster_ms=5_000), packed(second.audio, encoding)
    alice = await server.account("alice")
    wire = await connected(server, alice)
    live = OpusTalk(wire, old, encoding)
    await live.start()
    cut = len(old) * 3 // 5
    await live.send(cut)
    await wire.wait("voice:recording:ack", lambda ack: ack["durable_bytes"] == cut)
    server.kill()
    await wire.close()
    server.start()
    wire = await connected(server, alice)
    live.wire = wire
    answer = await live.start(recording_id=live.recording_id, resume_token=live.resume_token, new_container=True)
    assert answer["offset"] == cut
    live.pcm = old[:cut] + new
    await live.send()
    ended = await live.stop()
    words = " ".join(await live.texts()).split()
    heard = words_in(await media(server, alice, live))
    assert words == heard
    spoken = " ".join(first.texts).split()
    count = len(words) - len(" ".join(second.texts).split())
    assert count >= len(spoken) // 3
    assert words == spoken[:count] + " ".join(second.texts).split()
    assert ended["duration_ms"] == (length_48k(old[:cut], encoding) + length_48k(new, encoding)) * 1_000 // 48_000
    await wire.close()
