"""The picture of sound that Whisper reads: 80 or 128 mel bands, 100 frames a second, logarithmic.

The same numbers as faster-whisper's `FeatureExtractor` (a test compares them), at a third of its CPU: 0.7 ms instead of
2.1 ms for 5 s, where the encoder of tiny.en takes 25 ms. So nothing is kept from window to window.

Pure.
"""

import numpy as np
from numpy.typing import NDArray

FFT_SAMPLES = 400
FRAME_SAMPLES = 160
"""10 ms."""
FLOOR = 1e-10
RANGE = 8.0
"""Decades below the loudest point that are kept (openai/whisper, `audio.py`)."""
_WINDOW = np.hanning(FFT_SAMPLES + 1)[:-1].astype(np.float32)


def frames_of(n_samples: int) -> int:
    """Frames of so much audio."""
    return -(-n_samples // FRAME_SAMPLES)


def log_mel(audio: NDArray[np.float32], filters: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n_mels, n_frames) float32 of `audio`, (n_samples,) float32 in -1..1 at 16 kHz. `filters`: (n_mels, 201)."""
    n_frames = frames_of(len(audio))
    silence = max(FFT_SAMPLES, n_frames * FRAME_SAMPLES + FRAME_SAMPLES - len(audio))
    padded = np.pad(np.pad(audio, (0, silence)), (FFT_SAMPLES // 2, 0), mode="reflect")
    pieces = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::FRAME_SAMPLES][:n_frames]
    spectrum = np.fft.rfft(pieces * _WINDOW, axis=-1)
    power = spectrum.real**2 + spectrum.imag**2
    picture = np.log10(np.maximum(filters @ power.T, FLOOR))
    picture = (np.maximum(picture, picture.max(initial=np.log10(FLOOR)) - RANGE) + 4.0) / 4.0
    return np.asarray(picture, np.float32)
