"""Decoding raw audio: any split, any rate, any number of channels."""

from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streaming.audio.decode import DecodeStart, decoder_for
from streaming.audio.pcm import raw_decoder
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


@pytest.mark.parametrize("encoding", [Encoding.WEBM_OPUS, Encoding.OGG_OPUS])
def test_containers_are_no_raw_samples(encoding: Encoding) -> None:
    with pytest.raises(UnsupportedEncoding, match=encoding.value) as refused:
        raw_decoder(AudioFormat(encoding, 48_000, 1), DecodeStart())
    assert refused.value.field == "encoding"


@pytest.mark.parametrize(
    ("rate", "channels", "field"),
    [(3_999, 1, "sample_rate"), (192_001, 1, "sample_rate"), (16_000, 0, "channels"), (16_000, 9, "channels")],
)
def test_impossible_formats_name_the_field(rate: int, channels: int, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        decoder_for(s16(rate, channels))
    assert refused.value.field == field


def f32(samples: list[float]) -> bytes:
    return np.array(samples, "<f4").tobytes()


def test_floats_have_a_full_scale_of_one_and_clip_beyond() -> None:
    fmt = AudioFormat(Encoding.PCM_F32LE, 16_000, 1)
    heard = decode(fmt, [f32([0, 0.5, -0.5, 1, -1, 1.5, -3e38, 1e-40, 1 / 32_768])])
    assert heard.tolist() == [0, 16_384, -16_384, 32_767, -32_768, 32_767, -32_768, 0, 1]


def test_int16_sent_as_floats_comes_back_bit_by_bit() -> None:
    samples = np.arange(-32_768, 32_768)
    data = (samples / 32_768).astype("<f4").tobytes()
    np.testing.assert_array_equal(decode(AudioFormat(Encoding.PCM_F32LE, 16_000, 1), [data]), samples)


def test_what_is_no_number_is_silence_and_counted() -> None:
    """Also before mixing and resampling: one NaN must not spread over its neighbours."""
    decoder = decoder_for(AudioFormat(Encoding.PCM_F32LE, 48_000, 2))
    bad = [float("nan"), float("inf"), float("-inf"), 0.25]
    heard = np.concatenate([decoder.feed(f32([0.25, 0.25] * 300 + bad + [0.25, 0.25] * 300)), decoder.finish()])
    assert decoder.damaged_samples == 3
    assert len(heard) == 201
    assert np.abs(heard.astype(int)).max() < 12_000, "no full scale"
    assert np.abs(heard[30:90].astype(int) - 8_192).max() < 200, "two frames of silence ring, no more"


def test_mulaw_is_what_ffmpeg_hears() -> None:
    data = bytes(range(256))
    codec = av.CodecContext.create("pcm_mulaw", "r")
    codec.sample_rate, codec.layout = 8_000, "mono"
    expected = codec.decode(av.Packet(data))[0].to_ndarray()[0]
    heard = decode(AudioFormat(Encoding.MULAW, 16_000, 1), [data])
    np.testing.assert_array_equal(heard, expected)
    assert heard[[0x00, 0x80, 0x7F, 0xFF]].tolist() == [-32_124, 32_124, 0, 0]


@pytest.mark.parametrize("encoding", [Encoding.PCM_F32LE, Encoding.MULAW])
@settings(max_examples=20, deadline=None)
@given(data=st.binary(max_size=600), cuts=st.lists(st.integers(0, 600), max_size=8))
def test_any_bytes_in_any_split_are_samples(encoding: Encoding, data: bytes, cuts: list[int]) -> None:
    fmt = AudioFormat(encoding, 8_000, 2)
    np.testing.assert_array_equal(decode(fmt, cut(data, cuts)), decode(fmt, [data]))


def mulaw(samples: NDArray[np.float64]) -> bytes:
    """The nearest code for every sample."""
    levels = decode(AudioFormat(Encoding.MULAW, 16_000, 1), [bytes(range(256))]).astype(int)
    return np.abs(samples[:, None] - levels).argmin(axis=1).astype(np.uint8).tobytes()


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("encoding", [Encoding.PCM_S16LE, Encoding.PCM_F32LE, Encoding.MULAW])
def test_decoding_may_begin_in_the_middle(rate: int, encoding: Encoding) -> None:
    """A tone, so that a wrong place shows; the run-up of the resampler is left out."""
    fmt = AudioFormat(encoding, rate, 1)
    tone = np.sin(2 * np.pi * 300 * np.arange(rate) / rate)
    data = {
        Encoding.PCM_S16LE: np.rint(8_000 * tone).astype("<i2").tobytes(),
        Encoding.PCM_F32LE: (tone / 4).astype("<f4").tobytes(),
        Encoding.MULAW: mulaw(8_000 * tone),
    }[encoding]
    whole = decode(fmt, [data])
    sample = 7_001
    frame = (sample - 4_000) * rate // 16_000
    offset = frame * fmt.frame_bytes
    decoder = decoder_for(fmt, DecodeStart(sample=sample, offset=offset))
    heard = np.concatenate([decoder.feed(data[offset:]), decoder.finish()])
    assert abs(len(heard) - (len(whole) - sample)) <= 1
    assert abs(decoder.sample_end - len(whole)) <= 1
    assert decoder.take_parts() == []
    n = min(len(heard), len(whole) - sample)
    allowed = 500 if rate == 44_100 else 1  # its samples stand up to half a sample of ours beside
    assert np.abs(heard[:n].astype(int) - whole[sample : sample + n]).max() <= allowed


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 16_000, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("sample", [1, 7, 1_600, 8_191])
def test_the_frame_of_a_sample_is_a_place_to_begin_at(rate: int, sample: int) -> None:
    fmt = s16(rate)
    offset = sample * rate // 16_000 * fmt.frame_bytes
    decoder = decoder_for(fmt, DecodeStart(sample=sample, offset=offset))
    heard = np.concatenate([decoder.feed(bytes(rate * 2 - offset)), decoder.finish()])
    assert abs(len(heard) - (16_000 - sample)) <= 1
    assert decoder.sample_end == 16_000
