"""Sounds that the tests make: a voice that silero takes for speech, noise, tones. int16, 16 kHz mono."""

import numpy as np
from numpy.typing import NDArray

from streaming.model import SAMPLE_RATE
from streaming.ports import Pcm16

_FORMANTS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""The vowels of "father", "see", "boot", "bed", "law" (Peterson and Barney 1952, men)."""
_BANDWIDTHS_HZ = (80, 100, 120)
_VOWEL_SAMPLES = 2_400


def _clip(samples: NDArray[np.float64]) -> Pcm16:
    return np.clip(np.rint(samples), -32_768, 32_767).astype(np.int16)


def _resonance(centre_hz: float, bandwidth_hz: float) -> NDArray[np.float64]:
    """Impulse response of one formant, 40 ms of it."""
    t = np.arange(640) / SAMPLE_RATE
    ring: NDArray[np.float64] = np.exp(-np.pi * bandwidth_hz * t) * np.sin(2 * np.pi * centre_hz * t)
    return ring


def voice(seconds: float, *, peak: float = 12_000, seed: int = 0) -> Pcm16:
    """Five vowels in turn, 150 ms each, on a pitch that moves around 120 Hz."""
    n = int(seconds * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    pitch_hz = 120 + 15 * np.sin(2 * np.pi * 2.3 * t) + 10 * np.sin(2 * np.pi * 0.7 * t)
    pulses = np.diff(np.floor(np.cumsum(pitch_hz) / SAMPLE_RATE), prepend=0.0)
    pulses += 0.01 * np.random.default_rng(seed).standard_normal(n)
    out = np.zeros(n)
    for i, at in enumerate(range(0, n, _VOWEL_SAMPLES)):
        vowel = pulses[at : at + _VOWEL_SAMPLES]
        length = len(vowel)
        for centre, bandwidth in zip(_FORMANTS_HZ[i % 5], _BANDWIDTHS_HZ, strict=True):
            vowel = np.convolve(vowel, _resonance(centre, bandwidth))[:length]
        swell = 0.15 + 0.85 * np.sin(np.pi * np.linspace(0, 1, length))
        out[at : at + length] = swell * vowel / np.abs(vowel).max()
    return _clip(out * peak)


def silence(seconds: float) -> Pcm16:
    return np.zeros(int(seconds * SAMPLE_RATE), np.int16)


def noise(seconds: float, dbfs: float, *, seed: int = 0) -> Pcm16:
    """White noise with the given RMS."""
    samples = np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE))
    return _clip(samples * 32_768 * 10 ** (dbfs / 20))


def tone(seconds: float, hz: float, dbfs: float) -> Pcm16:
    """A sine with the given RMS."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return _clip(32_768 * np.sqrt(2) * 10 ** (dbfs / 20) * np.sin(2 * np.pi * hz * t))
