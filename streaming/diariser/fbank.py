"""Kaldi's filter bank features, which CAM++ was trained on: 80 logarithmic mel energies every 10 ms.

As in kaldi's feature-fbank with 25 ms frames, its "povey" window, pre-emphasis 0.97, 20 Hz to 8 kHz, without dither:
equal to torchaudio.compliance.kaldi.fbank to 1e-3 where there is sound, without importing it.

Pure: arrays in, arrays out.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from streaming.model import SAMPLE_RATE

BINS = 80
FRAME = SAMPLE_RATE * 25 // 1000
HOP = SAMPLE_RATE * 10 // 1000
FFT = 512
EMPHASIS = 0.97
LOW_HZ, HIGH_HZ = 20.0, SAMPLE_RATE / 2

Features = NDArray[np.float32]
"""(n_frames, BINS): frame i begins at sample `i * HOP`."""


def fbank(audio: NDArray[np.float32]) -> Features:
    """`audio`: (n,) at the scale of int16, so that quiet talk stays far above the floor."""
    count = 1 + (len(audio) - FRAME) // HOP
    if len(audio) < FRAME:
        return np.empty((0, BINS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(audio, FRAME)[: count * HOP : HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - EMPHASIS * before) * _window()
    power = np.abs(np.fft.rfft(frames, FFT, axis=1)).astype(np.float32) ** 2
    energies = power[:, : FFT // 2] @ _mel().T
    return np.asarray(np.log(np.maximum(energies, np.finfo(np.float32).eps)), np.float32)


@functools.cache
def _window() -> NDArray[np.float32]:
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))
    return np.asarray(hann**0.85, np.float32)


@functools.cache
def _mel() -> NDArray[np.float32]:
    """(BINS, FFT / 2): triangles of equal width on the mel scale."""

    def mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1127.0 * np.log1p(hz / 700.0)

    low, high = mel(np.array([LOW_HZ, HIGH_HZ])).tolist()
    edges = np.linspace(low, high, BINS + 2)
    at = mel(np.arange(FFT // 2, dtype=np.float64) * (SAMPLE_RATE / FFT))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    up, down = (at - left) / (centre - left), (right - at) / (right - centre)
    return np.asarray(np.maximum(0.0, np.minimum(up, down)), np.float32)
