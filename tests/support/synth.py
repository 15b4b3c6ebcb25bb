"""Speech from espeak-ng for tests of real engines: sentences in, 16 kHz audio out.

Boundary: runs the program espeak-ng; tests that use it carry `needs_espeak`.
"""

import io
import random
import shutil
import subprocess
import wave
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
import soxr

from streaming.model import SAMPLE_RATE
from streaming.ports import Pcm16

PROGRAM = shutil.which("espeak-ng")
needs_espeak = pytest.mark.skipif(PROGRAM is None, reason="espeak-ng is not installed")

SPEEDS = (135, 205)
PITCHES = (32, 72)
NAMES = ("en-us", "en", "en-us+m4", "en-us+m8", "en-us+f3", "en-us+f5", "en+m4", "en+m8", "en+f3", "en+f5")
"""Voices with sounds that the micro Whisper was trained for; the variants m4, m8, f3 and f5 it has never heard."""


class Voice(msgspec.Struct, frozen=True):
    """`speed`: words per minute; `pitch`: 0 to 99; `level`: of the loudest sample, 1.0 is full scale."""

    name: str = "en-us"
    speed: int = 165
    pitch: int = 50
    level: float = 0.5


class Speech(msgspec.Struct, frozen=True):
    """Audio, and each sentence with its first and past-the-last sample."""

    audio: Pcm16
    sentences: tuple[tuple[str, int, int], ...]

    @property
    def text(self) -> str:
        return " ".join(text for text, _, _ in self.sentences)


def random_voice(rng: random.Random) -> Voice:
    return Voice(rng.choice(NAMES), rng.randint(*SPEEDS), rng.randint(*PITCHES), rng.uniform(0.25, 0.9))


def say(text: str, voice: Voice = Voice()) -> Pcm16:  # noqa: B008 - frozen
    """(n_samples,) int16, 16 kHz mono, without silence at its ends."""
    assert PROGRAM is not None, "tests that speak carry needs_espeak"
    command = [PROGRAM, "-v", voice.name, "-s", str(voice.speed), "-p", str(voice.pitch), "--stdout", text]
    data = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    with wave.open(io.BytesIO(data)) as file:  # the header of a stream claims any length: read what there is
        rate = file.getframerate()
    samples = np.frombuffer(data[44 : 44 + (len(data) - 44) // 2 * 2], "<i2").astype(np.float32)
    samples = soxr.resample(samples, rate, SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    return np.asarray(samples * (voice.level * 32_767 / np.abs(samples).max()), np.int16)


def talk(
    texts: Sequence[str],
    voices: Sequence[Voice],
    *,
    pauses_ms: tuple[int, int] = (900, 1_500),
    noise_dbfs: float = -70.0,
    seed: int = 0,
) -> Speech:
    """The sentences one after the other, voices in turn, with silence around each; a little noise over all, as every
    room has. `pauses_ms`: shortest and longest silence between two sentences."""
    rng = random.Random(seed)
    pieces: list[Pcm16] = []
    placed: list[tuple[str, int, int]] = []
    at = 0

    def add(samples: Pcm16) -> None:
        nonlocal at
        pieces.append(samples)
        at += len(samples)

    add(np.zeros(SAMPLE_RATE // 2, np.int16))
    for number, text in enumerate(texts):
        if number:
            add(np.zeros(rng.randint(*pauses_ms) * SAMPLE_RATE // 1000, np.int16))
        start = at
        add(say(text, voices[number % len(voices)]))
        placed.append((text, start, at))
    add(np.zeros(SAMPLE_RATE, np.int16))
    noise = np.random.default_rng(seed).standard_normal(at) * 32_768 * 10 ** (noise_dbfs / 20)
    audio = np.clip(np.concatenate(pieces) + noise, -32_768, 32_767).astype(np.int16)
    return Speech(audio, tuple(placed))
