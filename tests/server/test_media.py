"""`/media`: every encoding as one WAV file, any range of it, while it grows and afterwards."""

import random
from collections.abc import AsyncIterator

import aiohttp
import numpy as np
import pytest

from server.media.playback import wav_header
from streaming.model import Encoding
from tests.fakes.opus import length_48k, packed
from tests.fakes.tones import hear, labels_of, random_sentences, talk
from tests.support.process import Account, ServerProcess
from tests.support.wire import Talk, Wire

SAID = talk(random_sentences(80, 2), silence_ms=700)
WORDS = " ".join(SAID.texts).split()


@pytest.fixture
async def http(parlance: ServerProcess, alice: Account) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {alice.token}"}
    async with aiohttp.ClientSession(parlance.url, headers=headers) as session:
        yield session


def mulaw(samples: np.ndarray) -> bytes:
    """ITU-T G.711, from the definition."""
    x = np.clip(np.abs(samples.astype(np.int32)), 0, 32_635) + 132
    exponent = np.floor(np.log2(x)).astype(np.int32) - 7
    code = (np.where(samples < 0, 0x80, 0) | exponent << 4 | x >> exponent + 3 & 0x0F) ^ 0xFF
    return code.astype(np.uint8).tobytes()


async def recorded(wire: Wire, data: bytes, **options: object) -> Talk:
    """A whole recording."""
    live = Talk(wire, data)
    await live.start(**options)
    await live.send(chunk=4_001)
    await live.stop()
    return live


async def get(http: aiohttp.ClientSession, live: Talk, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    path = f"/v1/recordings/{live.recording_id}/media"
    async with http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()}) as response:
        return response.status, await response.read(), {k.lower(): v for k, v in response.headers.items()}


@pytest.mark.parametrize("encoding", ["webm_opus", "ogg_opus"])
async def test_a_container_is_heard_and_played(wire: Wire, http: aiohttp.ClientSession, encoding: str) -> None:
    data = packed(SAID.audio, Encoding(encoding))
    live = await recorded(wire, data, encoding=encoding)
    assert [e["text"] for e in (await live.log())[:-1]] == SAID.texts
    status, wav, headers = await get(http, live)
    samples = length_48k(data, Encoding(encoding))
    assert (status, headers["content-type"]) == (200, "audio/wav")
    assert wav[:44] == wav_header(2 * samples, 48_000, 1)
    assert len(wav) == 44 + 2 * samples == int(headers["content-length"])
    heard = np.frombuffer(wav[44:], "<i2")[::3].copy()
    assert [word for word, _, _ in hear(heard, labels_of(heard))] == WORDS


async def test_floats_are_heard_and_played(wire: Wire, http: aiohttp.ClientSession) -> None:
    stereo = (SAID.audio.repeat(2).astype(np.float32) / 32_768).astype("<f4")
    live = await recorded(wire, stereo.tobytes(), encoding="pcm_f32le", sample_rate=16_000, channels=2)
    assert [e["text"] for e in (await live.log())[:-1]] == SAID.texts
    _, wav, _ = await get(http, live)
    assert wav == wav_header(4 * len(SAID.audio), 16_000, 2) + SAID.audio.repeat(2).astype("<i2").tobytes()
    assert (await get(http, live, Range="bytes=47-1001"))[1] == wav[47:1002]


async def test_mulaw_is_heard_and_played(wire: Wire, http: aiohttp.ClientSession) -> None:
    said = talk(random_sentences(80, 2), silence_ms=700, sample_rate=8_000)
    live = Talk(wire, mulaw(said.audio))
    await wire.ok("voice:recording:start", {"encoding": "mulaw"})  # 8 kHz is meant
    await live.start(encoding="mulaw", sample_rate=8_000)
    await live.send()
    ended = await live.stop()
    assert ended["duration_ms"] == len(said.audio) // 8
    assert [e["text"] for e in (await live.log())[:-1]] == said.texts
    _, wav, _ = await get(http, live)
    assert wav[:44] == wav_header(2 * len(said.audio), 8_000, 1)
    played = np.frombuffer(wav[44:], "<i2").astype(int)
    assert np.abs(played - said.audio).max() <= 512, "no further away than the coarsest step of mu-law"
    assert (await get(http, live, Range="bytes=45-1000"))[1] == wav[45:1001]


@pytest.mark.parametrize("encoding", ["pcm_s16le", "webm_opus"])
async def test_ranges(wire: Wire, http: aiohttp.ClientSession, encoding: str) -> None:
    data = SAID.audio.tobytes() if encoding == "pcm_s16le" else packed(SAID.audio, Encoding(encoding))
    live = await recorded(wire, data, encoding=encoding)
    _, wav, headers = await get(http, live)
    total, etag = len(wav), headers["etag"]
    assert (headers["accept-ranges"], headers["cache-control"]) == ("bytes", "private")
    wanted = {
        "bytes=0-": (0, total),
        "bytes=0-0": (0, 1),
        "bytes=43-44": (43, 45),
        f"bytes={total - 1}-": (total - 1, total),
        f"bytes=100-{10 * total}": (100, total),
        "bytes=-1": (total - 1, total),
        "bytes=-70000": (total - 70_000, total),
        f"bytes=-{2 * total}": (0, total),
    }
    for header, (start, end) in wanted.items():
        status, body, told = await get(http, live, Range=header)
        assert (status, body) == (206, wav[start:end]), header
        assert told["content-range"] == f"bytes {start}-{end - 1}/{total}"
    for header in ("bytes=0-1,5-6", "lines=1-2"):
        assert (await get(http, live, Range=header))[:2] == (200, wav)
    for header in (f"bytes={total}-", "bytes=-0", f"bytes={total}-{total + 5}"):
        status, _, told = await get(http, live, Range=header)
        assert (status, told["content-range"]) == (416, f"bytes */{total}"), header
    for header in ("bytes=", "bytes=-", "bytes=5-3", "bytes=x-y", "bytes=1-2-3", "bytes=٣-", f"bytes={'9' * 30}-"):
        assert (await get(http, live, Range=header))[0] == 400, header
    assert (await get(http, live, Range="bytes=1-2", If_Range=etag))[:2] == (206, wav[1:3])
    for other in ('"other"', "Sat, 29 Oct 1994 19:43:31 GMT", f"W/{etag}"):
        assert (await get(http, live, Range="bytes=1-2", If_Range=other))[:2] == (200, wav)
    assert (await get(http, live, If_None_Match=etag))[:2] == (304, b"")
    path = f"/v1/recordings/{live.recording_id}/media"
    async with http.head(path, headers={"Range": "bytes=10-19"}) as response:
        assert (response.status, response.headers["Content-Length"]) == (206, "10")
        assert await response.read() == b""
    async with http.head(path) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, str(total))


@pytest.mark.parametrize("encoding", ["pcm_s16le", "mulaw", "webm_opus", "ogg_opus"])
async def test_while_it_is_recorded(wire: Wire, http: aiohttp.ClientSession, encoding: str) -> None:
    data = SAID.audio.tobytes() if not Encoding(encoding).is_container else packed(SAID.audio, Encoding(encoding))
    rng, live, seen = random.Random(3), Talk(wire, data), []
    await live.start(encoding=encoding)
    while live.sent < len(data):
        await live.send(live.sent + len(data) // 7)
        await wire.wait("voice:recording:ack", lambda ack: ack["received_bytes"] >= live.sent)
        status, wav, headers = await get(http, live)
        assert (status, headers["cache-control"]) == (200, "private, no-store")
        assert "etag" not in headers
        start = rng.randrange(44, max(45, len(wav)))
        if start < len(wav):
            status, body, told = await get(http, live, Range=f"bytes={start}-")
            assert status == 206
            assert int(told["content-range"].split("/")[1]) >= len(wav)
            seen += [(44, wav[44:]), (start, body)]
    await live.stop()
    _, whole, _ = await get(http, live)
    assert seen
    for start, body in seen:
        assert body == whole[start : start + len(body)]


async def test_nothing_kept_and_nothing_decodable(wire: Wire, http: aiohttp.ClientSession) -> None:
    for encoding, data in (("webm_opus", b""), ("webm_opus", b"\x1a\x45\xdf\xa3"), ("ogg_opus", b""), ("mulaw", b"")):
        live = await recorded(wire, data, encoding=encoding)
        status, wav, _ = await get(http, live)
        assert (status, len(wav)) == (200, 44), encoding
        assert (await get(http, live, Range="bytes=44-"))[0] == 416
