"""Turn raw samples that a client sends into mono int16 samples at 16 kHz.

    bytes -> whole frames (odd bytes carried) -> mean of the channels -> soxr -> round, clip -> Pcm16

Policy: samples stay float32 in int16 units until the end. soxr in float32 gives the same samples however its input is
split (measured at nine rates from 4 to 192 kHz; in int16 it dithers and does not), and 16 kHz mono passes bit by bit.
Quality HQ keeps the band up to 7.3 kHz for 0.13 to 0.24 ms of CPU per second of audio. It holds back 21 ms at 48 kHz
(37 at most) and 64 ms at 8 kHz (115 at most); LQ would halve that and lose everything above 5.4 kHz.

Pure. Invariant: the samples depend on the bytes only, never on how they were split; after `finish` their number is
round(source frames * 16000 / rate), within one sample.
"""

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import soxr
from numpy.typing import NDArray

from streaming.audio.parts import DecodeStart
from streaming.errors import BadRequest, UnsupportedEncoding
from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, AudioFormat, Encoding, Part

Pcm16 = NDArray[np.int16]
"""(n_samples,) int16, mono, 16 kHz: the type that `streaming.ports` means, which this layer may not import."""

Float32 = NDArray[np.float32]
"""(n,) float32 in int16 units: full scale is 32767, not 1."""


def _from_s16le(data: bytes) -> Float32:
    return np.frombuffer(data, "<i2").astype(np.float32)


def _from_f32le(data: bytes) -> Float32:
    """Full scale is +-1, beyond is clipped; 32768 steps, so samples that were int16 before come back exactly. What is
    no finite number stays so: the decoder counts it."""
    samples = np.frombuffer(data, "<f4").astype(np.float32)
    return np.where(np.isfinite(samples), np.clip(samples, -1, 1) * np.float32(32_768), samples)


def _mulaw_table() -> Float32:
    """ITU-T G.711: sign, three bits of exponent, four of mantissa, all inverted, over a bias of 33 (in 14 bits)."""
    code = ~np.arange(256, dtype=np.uint8)
    magnitude = (((code & 0x0F).astype(np.int32) << 3) + 0x84 << ((code & 0x70) >> 4).astype(np.int32)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float32)


_MULAW = _mulaw_table()


def _from_mulaw(data: bytes) -> Float32:
    return _MULAW[np.frombuffer(data, np.uint8)]


_READERS: Mapping[Encoding, Callable[[bytes], Float32]] = {
    Encoding.PCM_S16LE: _from_s16le,
    Encoding.PCM_F32LE: _from_f32le,
    Encoding.MULAW: _from_mulaw,
}
"""Raw encodings: whole samples to int16 units. Containers are decoded in `streaming.audio.decode`."""


def to_int16(samples: Float32) -> NDArray[np.int16]:
    """Rounded and clipped; any rate."""
    return np.clip(np.rint(samples), -32_768, 32_767).astype(np.int16)


class RawDecoder:
    """`AudioDecoder` for encodings without a container: every sample has the same number of bytes."""

    def __init__(self, fmt: AudioFormat, read: Callable[[bytes], Float32], start: DecodeStart) -> None:
        self._frame_bytes = fmt.frame_bytes
        self._channels = fmt.channels
        self._rate = fmt.sample_rate
        self._read = read
        self._resampler = (
            None
            if fmt.sample_rate == SAMPLE_RATE
            else soxr.ResampleStream(fmt.sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        )
        assert start.offset % self._frame_bytes == 0, "decoding begins at a border of frames"
        self._frames = start.offset // self._frame_bytes
        self._drop = start.sample - self.sample_end
        assert self._drop >= 0, "decoding begins at or before its first sample"
        self._damaged = 0
        self._rest = b""
        self._finished = False

    @property
    def damaged_samples(self) -> int:
        """Values that were no finite numbers and became 0."""
        return self._damaged

    @property
    def sample_end(self) -> int:
        return round(self._frames * SAMPLE_RATE / self._rate)

    def take_parts(self) -> list[Part]:
        return []

    def feed(self, data: bytes) -> Pcm16:
        """Samples that are complete with `data`; bytes of an unfinished frame wait for the next call."""
        assert not self._finished, "nothing follows finish"
        data = self._rest + data
        whole = len(data) // self._frame_bytes * self._frame_bytes
        self._rest = data[whole:]
        self._frames += whole // self._frame_bytes
        return self._convert(self._whole(self._read(data[:whole])), last=False)

    def finish(self) -> Pcm16:
        """The resampler's tail. A last unfinished frame is dropped: it is no sample."""
        assert not self._finished, "finish comes once"
        self._finished = True
        return self._convert(np.empty(0, np.float32), last=True)

    def _whole(self, samples: Float32) -> Float32:
        finite = np.isfinite(samples)
        if finite.all():
            return samples
        self._damaged += len(samples) - int(np.count_nonzero(finite))
        return np.where(finite, samples, np.float32(0))

    def _convert(self, samples: Float32, *, last: bool) -> Pcm16:
        if self._channels > 1:
            samples = samples.reshape(-1, self._channels).mean(axis=1, dtype=np.float32)
        if self._resampler is not None:
            samples = cast(Float32, self._resampler.resample_chunk(samples, last=last))
        kept = samples[min(self._drop, len(samples)) :]
        self._drop -= len(samples) - len(kept)
        return to_int16(kept)


def raw_decoder(fmt: AudioFormat, start: DecodeStart) -> RawDecoder:
    """Raises `UnsupportedEncoding` (field `encoding`) for a container, and `BadRequest` for a rate outside 4..192 kHz
    (field `sample_rate`) or more than 8 channels (field `channels`)."""
    read = _READERS.get(fmt.encoding)
    if read is None:
        known = ", ".join(encoding.value for encoding in _READERS)
        raise UnsupportedEncoding(f"Raw samples are {known}, not {fmt.encoding.value}.", field="encoding")
    if not LIMITS.sample_rate_hz_min <= fmt.sample_rate <= LIMITS.sample_rate_hz_max:
        allowed = f"{LIMITS.sample_rate_hz_min}..{LIMITS.sample_rate_hz_max} Hz"
        raise BadRequest(f"The sample rate must lie in {allowed}.", field="sample_rate")
    if not 1 <= fmt.channels <= LIMITS.channels_max:
        raise BadRequest(f"The number of channels must lie in 1..{LIMITS.channels_max}.", field="channels")
    return RawDecoder(fmt, read, start)
