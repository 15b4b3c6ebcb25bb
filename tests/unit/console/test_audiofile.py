"""Reading audio files piece by piece, and when each piece is due."""

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from server.console.audiofile import due_s, open_audio
from server.console.failures import CommandFailed


def write(path: Path, codec: str, rate: int, layout: str, samples: NDArray[np.int16]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def noise(samples: int) -> NDArray[np.int16]:
    return np.random.default_rng(1).integers(-9_000, 9_000, samples, dtype=np.int16)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "channels"),
    [
        ("a.wav", "pcm_s16le", 16_000, "mono", 1),
        ("b.flac", "flac", 22_050, "stereo", 2),
        ("c.wav", "pcm_s16le", 44_100, "stereo", 2),
    ],
)
def test_lossless_files_come_out_sample_for_sample(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str, channels: int
) -> None:
    samples = noise(rate * channels)
    write(tmp_path / name, codec, rate, layout, samples)
    with open_audio(tmp_path / name) as audio:
        assert (audio.sample_rate, audio.channels, audio.frame_bytes) == (rate, channels, 2 * channels)
        chunks = list(audio.chunks())
    assert b"".join(chunks) == samples.tobytes()
    assert {len(chunk) for chunk in chunks[:-1]} == {rate // 10 * 2 * channels}


def test_more_than_two_channels_are_mixed_to_two(tmp_path: Path) -> None:
    write(tmp_path / "six.wav", "pcm_s16le", 16_000, "5.1", noise(6 * 16_000))
    with open_audio(tmp_path / "six.wav") as audio:
        assert audio.channels == 2
        assert sum(map(len, audio.chunks())) == 16_000 * 4


def test_a_file_that_is_no_audio_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    for name in ("text.wav", "absent.wav"):
        with pytest.raises(CommandFailed, match=name), open_audio(tmp_path / name):
            pass


def test_a_file_cut_short_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    write(path, "pcm_s16le", 16_000, "mono", noise(16_000))
    path.write_bytes(path.read_bytes()[:20_000])
    with open_audio(path) as audio:
        assert 19_000 < sum(map(len, audio.chunks())) < 20_000


def test_time_comes_from_the_sample_count_and_does_not_drift() -> None:
    # 11,025 Hz: 100 ms are 1,102.5 samples, so chunks of 1,102 samples are not quite 100 ms.
    sent = 36_000 * 1_102 * 2
    assert due_s(sent, 22_050, 1.0) == sent / 22_050
    assert due_s(sent, 22_050, 2.0) == sent / 22_050 / 2
