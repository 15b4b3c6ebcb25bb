"""The picture of sound, compared with faster-whisper's."""

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

from streaming.recogniser.features import frames_of, log_mel

THEIRS = FeatureExtractor()
FILTERS = np.asarray(THEIRS.mel_filters, np.float32)


@pytest.mark.parametrize("n_samples", [1, 160, 399, 401, 1_600, 1_601, 16_000, 77_777])
def test_the_same_picture(n_samples: int) -> None:
    audio = (np.random.default_rng(n_samples).standard_normal(n_samples) * 0.1).astype(np.float32)
    ours = log_mel(audio, FILTERS)
    assert (ours.shape, ours.dtype) == ((80, frames_of(n_samples)), np.float32)
    if n_samples >= 400:  # theirs mirrors what is shorter several times
        assert np.allclose(ours, THEIRS(audio)[:, : ours.shape[1]], atol=1e-5)


def test_silence_is_flat() -> None:
    assert np.unique(log_mel(np.zeros(16_000, np.float32), FILTERS)).tolist() == [pytest.approx(-1.5)]
