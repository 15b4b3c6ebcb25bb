"""The same talk in every encoding: what a microphone sends must not matter to what is understood.

One real server with the micro Whisper; the talk is spoken by voices that the model never heard, and encoded as the
command line encodes a file.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soxr

from server.console.encoder import encoder_for
from streaming.model import SAMPLE_RATE
from streaming.ports import Pcm16
from tests.support import corpus
from tests.support.process import ServerProcess, running
from tests.support.synth import Speech, needs_espeak, random_voice, talk
from tests.support.wire import Talk, wired

pytestmark = needs_espeak

MICRO = Path(__file__).resolve().parents[1] / "models" / "micro-whisper" / "en"
SENTENCES = 40
SEED = 20_261
NEAR, NEAR_MULAW = 0.02, 0.06
"""Share of the words by which an encoding may differ from plain samples; mulaw loses half of the band."""


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("encodings") / "data", engine="whisperx", model=str(MICRO)) as server:
        yield server


@pytest.fixture(scope="module")
def speech() -> Speech:
    rng = random.Random(SEED)
    return talk(
        list(itertools.islice(corpus.sentences(SEED), SENTENCES)),
        [random_voice(rng) for _ in range(SENTENCES)],
        seed=SEED,
    )


def encoded(audio: Pcm16, encoding: str, rate: int, channels: int) -> bytes:
    samples = soxr.resample(audio.astype(np.float32), SAMPLE_RATE, rate, quality="VHQ")
    pcm = np.repeat(np.clip(np.rint(samples), -32_768, 32_767).astype("<i2"), channels).tobytes()
    encoder = encoder_for(encoding, sample_rate=rate, channels=channels)
    return encoder.feed(pcm) + encoder.finish()


async def word_errors(server: ServerProcess, speech: Speech, encoding: str, rate: int, channels: int) -> float:
    data = encoded(speech.audio, encoding, rate, channels)
    account = await server.account("encodings")
    async with wired(server.url, account.token) as wire:
        live = Talk(wire, data, rate=rate)
        options = {} if encoding in ("webm_opus", "ogg_opus") else {"sample_rate": rate, "channels": channels}
        await live.start(encoding=encoding, **options)
        await live.send(chunk=8_000)
        ended = await live.stop()
        heard = [event["text"] for event in await live.log() if event["event"] == "transcript:final"]
    assert abs(ended["duration_ms"] - len(speech.audio) * 1000 // SAMPLE_RATE) <= 60
    said = corpus.plain(speech.text)
    return corpus.edits(said, corpus.plain(" ".join(heard))) / len(said)


async def test_every_encoding_is_understood_alike(whisper: ServerProcess, speech: Speech) -> None:
    plain = await word_errors(whisper, speech, "pcm_s16le", 16_000, 1)
    assert plain <= 0.05
    found = {
        (encoding, rate, channels): await word_errors(whisper, speech, encoding, rate, channels)
        for encoding, rate, channels in (
            ("pcm_s16le", 48_000, 2),
            ("pcm_f32le", 44_100, 1),
            ("mulaw", 8_000, 1),
            ("webm_opus", 48_000, 1),
            ("ogg_opus", 48_000, 1),
        )
    }
    for (encoding, _, _), errors in found.items():
        assert abs(errors - plain) <= (NEAR_MULAW if encoding == "mulaw" else NEAR), (plain, found)
