"""Decoding raw audio: any split, any rate, any number of channels."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.audio.pcm import decoder_for
from streaming.errors import BadRequest, UnsupportedEncoding
from streaming.model import AudioFormat, Encoding
from streaming.ports import Pcm16

RATES = [4_000, 8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000]


def decode(fmt: AudioFormat, pieces: list[bytes]) -> Pcm16:
    decoder = decoder_for(fmt)
    out = [decoder.feed(piece) for piece in pieces]
    out.append(decoder.finish())
    assert all(piece.dtype == np.int16 and piece.ndim == 1 for piece in out)
    return np.concatenate(out)


def s16(rate: int, channels: int = 1) -> AudioFormat:
    return AudioFormat(Encoding.PCM_S16LE, rate, channels)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from(RATES),
    channels=st.integers(1, 3),
    n=st.integers(0, 3_000),
    extra=st.integers(0, 5),
    cuts=st.lists(st.integers(0, 20_000), max_size=12),
    seed=st.integers(0, 1_000),
)
def test_any_split_of_the_bytes_gives_the_same_samples(
    rate: int, channels: int, n: int, extra: int, cuts: list[int], seed: int
) -> None:
    fmt = s16(rate, channels)
    extra = min(extra, fmt.frame_bytes - 1)
    data = np.random.default_rng(seed).integers(0, 256, n * fmt.frame_bytes + extra, dtype=np.uint8).tobytes()
    whole = decode(fmt, [data])
    np.testing.assert_array_equal(decode(fmt, cut(data, cuts)), whole)
    assert abs(len(whole) - round(n * 16_000 / rate)) <= 1


def test_byte_by_byte_is_the_same_too() -> None:
    data = np.random.default_rng(1).integers(0, 256, 4_001, dtype=np.uint8).tobytes()
    fmt = s16(48_000, 2)
    np.testing.assert_array_equal(decode(fmt, [bytes([b]) for b in data]), decode(fmt, [data]))


def test_16_khz_mono_passes_bit_by_bit() -> None:
    samples = np.arange(-32_768, 32_768).astype("<i2")
    np.testing.assert_array_equal(decode(s16(16_000), [samples.tobytes()]), samples)


@pytest.mark.parametrize("level", [32_767, -32_768])
def test_full_scale_channels_mix_without_overflow(level: int) -> None:
    samples = np.full(8 * 100, level, "<i2")
    np.testing.assert_array_equal(decode(s16(16_000, 8), [samples.tobytes()]), np.full(100, level))


def test_channels_are_averaged_and_rounded() -> None:
    samples = np.array([[100, 200, 300], [1, 2, 2], [-1, -2, -2], [32_767, 0, -32_767]], "<i2")
    assert decode(s16(16_000, 3), [samples.tobytes()]).tolist() == [200, 2, -2, 0]


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_keeps_its_pitch_level_and_place(rate: int) -> None:
    """1 kHz in, the same 1 kHz out: a wrong ratio, gain or delay would show as a difference."""
    tone = 8_000 * np.sin(2 * np.pi * 1_000 * np.arange(rate) / rate)
    heard = decode(s16(rate), [np.rint(tone).astype("<i2").tobytes()])
    expected = 8_000 * np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000)
    middle = slice(1_600, -1_600)
    assert np.abs(heard[middle] - expected[middle]).max() < 8


def test_loud_input_clips_instead_of_wrapping() -> None:
    square = np.where(np.arange(48_000) // 60 % 2, 32_767, -32_768).astype("<i2")
    heard = decode(s16(48_000), [square.tobytes()]).astype(int)
    overshoot = heard[(square[::3] > 0)[: len(heard)]]
    assert heard.max() == 32_767
    assert (overshoot > -20_000).all()


def test_an_unfinished_last_frame_is_no_sample() -> None:
    assert decode(s16(16_000, 2), [b"\x01\x00\x03\x00\x05\x00\x07"]).tolist() == [2]


@pytest.mark.parametrize("encoding", [e for e in Encoding if e is not Encoding.PCM_S16LE])
def test_other_encodings_are_refused_by_name(encoding: Encoding) -> None:
    with pytest.raises(UnsupportedEncoding, match=encoding.value) as refused:
        decoder_for(AudioFormat(encoding, 48_000, 1))
    assert refused.value.field == "encoding"


@pytest.mark.parametrize(
    ("rate", "channels", "field"),
    [(3_999, 1, "sample_rate"), (192_001, 1, "sample_rate"), (16_000, 0, "channels"), (16_000, 9, "channels")],
)
def test_impossible_formats_name_the_field(rate: int, channels: int, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        decoder_for(s16(rate, channels))
    assert refused.value.field == field
