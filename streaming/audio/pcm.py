"""Turn the bytes a client sends into mono int16 samples at 16 kHz.

    bytes -> whole frames (odd bytes carried) -> mean of the channels -> soxr -> round, clip -> Pcm16

Policy: samples stay float32 in int16 units until the end. soxr in float32 gives the same samples however its input is
split (measured at nine rates from 4 to 192 kHz; in int16 it dithers and does not), and 16 kHz mono passes bit by bit.
Quality HQ keeps the band up to 7.3 kHz for 0.13 to 0.24 ms of CPU per second of audio. It holds back 21 ms at 48 kHz
(37 at most) and 64 ms at 8 kHz (115 at most); LQ would halve that and lose everything above 5.4 kHz.

Pure. Invariant: the samples depend on the bytes only, never on how they were split; after `finish` their number is
round(source frames * 16000 / rate), within one sample.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, cast

import numpy as np
import soxr
from numpy.typing import NDArray

from streaming.errors import BadRequest, UnsupportedEncoding
from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, AudioFormat, Encoding

Pcm16 = NDArray[np.int16]
"""(n_samples,) int16, mono, 16 kHz: the type that `streaming.ports` means, which this layer may not import."""

Float32 = NDArray[np.float32]
"""(n,) float32 in int16 units: full scale is 32767, not 1."""


class AudioDecoder(Protocol):
    """Encoded bytes in, samples out. One per stream; it has to see every byte once and in order."""

    def feed(self, data: bytes) -> Pcm16:
        """Samples that are complete with `data`; may be empty. Raises `DecodeFailed` on damaged input."""
        ...

    def finish(self) -> Pcm16:
        """The end of the stream: samples still held back. The decoder is used up afterwards."""
        ...


def _from_s16le(data: bytes) -> Float32:
    return np.frombuffer(data, "<i2").astype(np.float32)


_READERS: Mapping[Encoding, Callable[[bytes], Float32]] = {Encoding.PCM_S16LE: _from_s16le}
"""Raw encodings of this version: whole samples to int16 units. Containers get a decoder of their own."""


class RawDecoder:
    """`AudioDecoder` for encodings without a container: every sample has the same number of bytes."""

    def __init__(self, fmt: AudioFormat, read: Callable[[bytes], Float32]) -> None:
        self._frame_bytes = fmt.frame_bytes
        self._channels = fmt.channels
        self._read = read
        self._resampler = (
            None
            if fmt.sample_rate == SAMPLE_RATE
            else soxr.ResampleStream(fmt.sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        )
        self._rest = b""
        self._finished = False

    def feed(self, data: bytes) -> Pcm16:
        """Samples that are complete with `data`; bytes of an unfinished frame wait for the next call."""
        assert not self._finished, "nothing follows finish"
        data = self._rest + data
        whole = len(data) // self._frame_bytes * self._frame_bytes
        self._rest = data[whole:]
        return self._convert(self._read(data[:whole]), last=False)

    def finish(self) -> Pcm16:
        """The resampler's tail. A last unfinished frame is dropped: it is no sample."""
        assert not self._finished, "finish comes once"
        self._finished = True
        return self._convert(np.empty(0, np.float32), last=True)

    def _convert(self, samples: Float32, *, last: bool) -> Pcm16:
        if self._channels > 1:
            samples = samples.reshape(-1, self._channels).mean(axis=1, dtype=np.float32)
        if self._resampler is not None:
            samples = cast(Float32, self._resampler.resample_chunk(samples, last=last))
        return np.clip(np.rint(samples), -32_768, 32_767).astype(np.int16)


def decoder_for(fmt: AudioFormat) -> AudioDecoder:
    """The decoder for what a client announced.

    Raises `UnsupportedEncoding` (field `encoding`) for anything but `pcm_s16le`, and `BadRequest` for a rate outside
    4..192 kHz (field `sample_rate`) or more than 8 channels (field `channels`)."""
    read = _READERS.get(fmt.encoding)
    if read is None:
        known = ", ".join(encoding.value for encoding in _READERS)
        raise UnsupportedEncoding(f"This server takes {known}, not {fmt.encoding.value}.", field="encoding")
    if not LIMITS.sample_rate_hz_min <= fmt.sample_rate <= LIMITS.sample_rate_hz_max:
        allowed = f"{LIMITS.sample_rate_hz_min}..{LIMITS.sample_rate_hz_max} Hz"
        raise BadRequest(f"The sample rate must lie in {allowed}.", field="sample_rate")
    if not 1 <= fmt.channels <= LIMITS.channels_max:
        raise BadRequest(f"The number of channels must lie in 1..{LIMITS.channels_max}.", field="channels")
    return RawDecoder(fmt, read)
