"""Audio that is not what it claims to be: a clear answer that names the culprit, and the next recording is healthy."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from streaming.model import Encoding
from tests.fakes.opus import packed
from tests.fakes.tones import random_sentences, talk, write_wav
from tests.support.process import Account, ServerProcess
from tests.support.wire import Talk, Wire, wired

SAID = talk(random_sentences(60, 2), silence_ms=700)
SPEECH = SAID.audio.tobytes()
WEBM, OGG = packed(SAID.audio, Encoding.WEBM_OPUS), packed(SAID.audio, Encoding.OGG_OPUS)


@pytest.fixture
async def wire(parlance: ServerProcess, alice: Account) -> AsyncIterator[Wire]:
    """A connection on which every encoding still works at the end of the test."""
    async with wired(parlance.url, alice.token) as connected:
        yield connected
        assert not connected.closed.is_set(), "bad audio does not close a connection"
        for encoding, data in (("pcm_s16le", SPEECH), ("webm_opus", WEBM)):
            healthy = Talk(connected, data)
            await healthy.start(encoding=encoding)
            await healthy.send()
            await healthy.stop()
            assert await texts(healthy) == SAID.texts


async def texts(live: Talk) -> list[str]:
    return [event["text"] for event in await live.log() if event["event"] == "transcript:final"]


async def error_of(live: Talk) -> dict[str, object]:
    return dict(await live.wire.wait("voice:recording:error", lambda e: e["stream_id"] == live.stream_id))


async def failed(live: Talk, code: str) -> dict[str, object]:
    """The stream's end; its error was fatal and named the audio."""
    told = await error_of(live)
    error = told["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["field"], error["retryable"], told["fatal"]) == (code, "audio", False, True)
    ended = await live.wire.wait("recording:ended", lambda e: e["recording"]["id"] == live.recording_id)
    assert ended["reason"] == "failed"
    return error


def wav_file(tmp_path: Path) -> bytes:
    return write_wav(tmp_path / "a.wav", SAID.audio).read_bytes()


@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_f32le", "mulaw"])
@pytest.mark.parametrize("chunk", [1, 5, 3_200])
async def test_a_file_sent_as_samples_is_named(wire: Wire, tmp_path: Path, encoding: str, chunk: int) -> None:
    live = Talk(wire, wav_file(tmp_path)[: 20 * chunk])
    await live.start(encoding=encoding)
    for _ in range(20):
        await live.send(live.sent + chunk, chunk=chunk)
    error = await failed(live, "unsupported_media")
    assert "a WAV file" in str(error["message"])
    assert "without the header" in str(error["message"])
    assert await texts(live) == []


@pytest.mark.parametrize(("data", "name"), [(WEBM, "a WebM file"), (OGG, "an Ogg file"), (b"fLaC" + bytes(90), "FLAC")])
async def test_a_container_sent_as_samples_is_named(wire: Wire, data: bytes, name: str) -> None:
    live = Talk(wire, data[:3_000])
    await live.start()
    await live.send()
    assert name in str((await failed(live, "unsupported_media"))["message"])


async def test_a_file_header_later_in_the_samples_is_only_sound(wire: Wire, tmp_path: Path) -> None:
    live = Talk(wire, bytes(3_200) + wav_file(tmp_path))
    await live.start()
    await live.send()
    await live.stop()
    assert await texts(live) == SAID.texts


@pytest.mark.parametrize("encoding", ["webm_opus", "ogg_opus"])
@pytest.mark.parametrize("what", ["wav", "other", "noise", "zeros", "text"])
async def test_a_container_that_is_none(wire: Wire, tmp_path: Path, encoding: str, what: str) -> None:
    data = {
        "wav": wav_file(tmp_path),
        "other": OGG if encoding == "webm_opus" else WEBM,
        "noise": np.random.default_rng(1).bytes(400_000),
        "zeros": bytes(400_000),
        "text": b"GET / HTTP/1.1\r\n" * 20_000,
    }[what]
    live = Talk(wire, data)
    await live.start(encoding=encoding)
    await live.send(300_000)
    await failed(live, "decode_failed")
    assert await texts(live) == []


@pytest.mark.parametrize(("encoding", "data"), [("webm_opus", WEBM), ("ogg_opus", OGG)])
async def test_a_container_cut_anywhere_ends_well(wire: Wire, encoding: str, data: bytes) -> None:
    for cut in (1, 30, 200, 1_000, len(data) // 2, len(data) - 1):
        live = Talk(wire, data[:cut])
        await live.start(encoding=encoding)
        await live.send()
        ended = await live.stop()
        assert ended["reason"] == "stopped", cut
        said = " ".join(await texts(live))
        assert " ".join(SAID.texts).startswith(said)
        assert said or cut < len(data) // 2


async def test_a_damaged_middle_is_silence_and_the_rest_is_heard(wire: Wire) -> None:
    """In Ogg, whose pages are found again; the words before and after it are whole."""
    half = len(OGG) // 2
    live = Talk(wire, OGG[:half] + bytes(600) + OGG[half + 600 :])
    await live.start(encoding="ogg_opus")
    await live.send()
    ended = await live.stop()
    assert ended["reason"] == "stopped"
    heard, said = " ".join(await texts(live)).split(), " ".join(SAID.texts).split()
    assert heard[0] == said[0]
    assert heard[-1] == said[-1]


async def test_floats_that_are_no_numbers_are_silence_and_told_once(wire: Wire) -> None:
    floats = SAID.audio.astype("<f4") / 32_768
    gap = int(SAID.sentences[0][-1].end_ms + 300) * 16
    floats[gap : gap + 30] = [np.nan, np.inf, -np.inf] * 10
    floats[-3:] = np.nan
    live = Talk(wire, floats.astype("<f4").tobytes())
    await live.start(encoding="pcm_f32le", sample_rate=16_000)
    await live.send()
    ended = await live.stop()
    assert (ended["reason"], await texts(live)) == ("stopped", SAID.texts)
    told = [e for e in wire.named("voice:recording:error") if e["stream_id"] == live.stream_id]
    assert len(told) == 1
    assert (told[0]["error"]["code"], told[0]["error"]["field"], told[0]["fatal"]) == ("bad_request", "audio", False)
    assert any(word.isdigit() for word in told[0]["error"]["message"].split()), "how many"
    assert told[0]["expected_offset"] <= len(live.pcm)


async def test_floats_beyond_full_scale_are_clipped(wire: Wire) -> None:
    live = Talk(wire, np.full(16_000, 1e30, "<f4").tobytes())
    await live.start(encoding="pcm_f32le")
    await live.send()
    assert (await live.stop())["duration_ms"] == 1_000
    assert not [e for e in wire.named("voice:recording:error") if e["stream_id"] == live.stream_id]


@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_f32le", "mulaw"])
async def test_a_raw_stream_with_a_new_container_is_refused(wire: Wire, encoding: str) -> None:
    error = await wire.refused("voice:recording:start", {"encoding": encoding, "new_container": True})
    assert (error["code"], error["field"]) == ("bad_request", "new_container")
