"""Bad audio and bad manners on a stream: a clear answer that names the culprit, nothing lost, and the server goes on.

`docs/bad-input.md` is the table of all of it. Each test ends with a healthy recording on the same connection.
"""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.data.containers.build import block, cluster, element, packets, track, webm_header
from tests.fakes.tones import random_sentences, talk
from tests.support.process import Account, ServerProcess
from tests.support.wire import Talk, Wire, wired

SAID = talk(random_sentences(30, 1))
SPEECH = SAID.audio.tobytes()


@pytest.fixture
async def wire(parlance: ServerProcess, alice: Account) -> AsyncIterator[Wire]:
    """A connection whose owner still gets captions at the end of the test."""
    async with wired(parlance.url, alice.token) as connected:
        yield connected
        assert not connected.closed.is_set(), "bad input does not close a connection"
        healthy = Talk(connected, SPEECH)
        await healthy.start()
        await healthy.send()
        await healthy.stop()
        assert await texts(healthy) == SAID.texts


async def texts(live: Talk) -> list[str]:
    return [event["text"] for event in await live.log() if event["event"] == "transcript:final"]


async def chunk(live: Talk, offset: int, audio: object) -> None:
    await live.wire.emit("voice:recording:chunk", {"stream_id": live.stream_id, "offset": offset, "audio": audio})


async def error(live: Talk, code: str) -> dict[str, object]:
    """The stream's error of this code."""
    told = await live.wire.wait(
        "voice:recording:error", lambda e: e["stream_id"] == live.stream_id and e["error"]["code"] == code
    )
    return dict(told)


async def test_odd_bytes_are_carried_to_the_next_chunk(wire: Wire) -> None:
    live = Talk(wire, SPEECH)
    await live.start()
    await live.send(chunk=3_201)
    await live.stop()
    assert await texts(live) == SAID.texts


async def test_half_a_sample_at_the_end_is_no_sample(wire: Wire) -> None:
    live = Talk(wire, SPEECH + b"\x7f")
    await live.start()
    await live.send()
    ended = await live.stop()
    assert await texts(live) == SAID.texts
    assert ended["duration_ms"] == len(SPEECH) // 32


@pytest.mark.parametrize("audio", [None, "text", 7, [1, 2], {}])
async def test_audio_that_is_no_binary_names_its_field(wire: Wire, audio: object) -> None:
    live = Talk(wire, SPEECH)
    await live.start()
    await chunk(live, 0, audio)
    told = await error(live, "bad_request")
    assert (told["error"]["field"], told["fatal"]) == ("audio", False)  # type: ignore[index]
    await live.send()
    await live.stop()
    assert await texts(live) == SAID.texts


@pytest.mark.parametrize(
    ("offset", "code", "field"),
    [
        (-1, "bad_request", "offset"),
        (1.5, "bad_request", "offset"),
        ("0", "bad_request", "offset"),
        (2**60, "bad_request", "offset"),
        (2**53, "offset_mismatch", "offset"),
        (2, "offset_mismatch", "offset"),
    ],
)
async def test_offsets_that_jump(wire: Wire, offset: object, code: str, field: str) -> None:
    live = Talk(wire, SPEECH)
    await live.start()
    await wire.emit("voice:recording:chunk", {"stream_id": live.stream_id, "offset": offset, "audio": bytes(3_200)})
    told = await error(live, code)
    assert (told["error"]["field"], told["fatal"]) == (field, False)  # type: ignore[index]
    assert code == "bad_request" or told["expected_offset"] == 0
    await live.send()
    await live.stop()
    assert await texts(live) == SAID.texts


async def test_text_sent_as_samples_is_sound_without_words(wire: Wire) -> None:
    """A text file under the name of a WAV file: without a header there is nothing to know it by."""
    live = Talk(wire, b"This is a letter and no sound at all.\n" * 20_000)
    await live.start()
    await live.send(chunk=64_000)
    ended = await live.stop()
    assert (ended["reason"], await texts(live)) == ("stopped", [])


async def test_compressed_metadata_is_refused_and_never_inflated(wire: Wire) -> None:
    compressed = element(0x6D80, element(0x6240, bytes(20)))
    live = Talk(wire, webm_header(track(extra=compressed)) + cluster(block(packets(1)[0])))
    await live.start(encoding="webm_opus")
    await live.send()
    told = await error(live, "decode_failed")
    assert told["fatal"] is True
    assert "compressed" in str(told["error"]["message"])  # type: ignore[index]
    ended = await wire.wait("recording:ended", lambda e: e["recording"]["id"] == live.recording_id)
    assert ended["reason"] == "failed"


@pytest.mark.parametrize("hours", [2, pytest.param(10, marks=pytest.mark.soak)])
async def test_hours_of_silence_are_no_captions(wire: Wire, hours: int) -> None:
    live = Talk(wire, bytes(4_000 * 2 * 3_600 * hours), rate=4_000)
    await live.start()
    await live.send(chunk=160_000)
    ended = await live.stop()
    assert ended["duration_ms"] == hours * 3_600_000
    assert (ended["segment_count"], await texts(live)) == (0, [])


@pytest.mark.parametrize("sound", ["full-scale noise", "dc", "square wave"])
async def test_what_is_no_speech_does_no_harm(wire: Wire, sound: str) -> None:
    n = 16_000 * 45
    samples = {
        "full-scale noise": np.random.default_rng(1).integers(-32_768, 32_767, n),
        "dc": np.full(n, 32_767),
        "square wave": np.where(np.arange(n) // 40 % 2, 32_767, -32_768),
    }[sound]
    live = Talk(wire, samples.astype("<i2").tobytes())
    await live.start()
    await live.send(chunk=64_000)
    ended = await live.stop()
    assert ended["duration_ms"] == 45_000
    assert await texts(live) == []


async def test_two_starts_are_two_recordings(wire: Wire) -> None:
    first, second = Talk(wire, SPEECH), Talk(wire, SPEECH)
    await first.start()
    await second.start()
    assert first.recording_id != second.recording_id
    for live in (first, second):
        await live.send()
    for live in (second, first):
        await live.stop()
        assert await texts(live) == SAID.texts


async def test_a_stream_of_another_connection_cannot_be_fed(wire: Wire, other: Wire) -> None:
    live = Talk(wire, SPEECH)
    await live.start()
    await other.emit("voice:recording:chunk", {"stream_id": live.stream_id, "offset": 0, "audio": bytes(3_200)})
    told = await other.wait("voice:recording:error", lambda e: e["stream_id"] == live.stream_id)
    assert (told["error"]["code"], told["fatal"]) == ("not_found", True)
    await live.send()
    await live.stop()
    assert await texts(live) == SAID.texts
