"""Turn a file's samples into what a telephone or a browser would send, to try a server's encodings.

Boundary: PyAV encodes Opus; its errors end here as `CommandFailed`.
"""

import io
from typing import Any, Protocol

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from server.console.failures import CommandFailed

CONTAINERS = {"webm_opus": "webm", "ogg_opus": "ogg"}
OPUS_RATE = 48_000
OPUS_BITS_PER_SECOND = 32_000
"""As a browser's recorder: clear speech."""
PIECE_MS = 250
"""Clusters and pages of this length, so that audio leaves about as it is spoken."""


class Encoder(Protocol):
    """`sample_rate` and `channels` as they are announced; None where the encoding tells them itself."""

    sample_rate: int | None
    channels: int | None

    def feed(self, pcm: bytes) -> bytes:
        """What is ready after these interleaved s16le samples; may be empty."""
        ...

    def finish(self) -> bytes:
        """The rest."""
        ...


def encoder_for(encoding: str, *, sample_rate: int, channels: int) -> Encoder:
    """An encoder for s16le at this rate. Raises `CommandFailed` when this installation lacks the codec."""
    if encoding in CONTAINERS:
        return _Container(CONTAINERS[encoding], sample_rate, channels)
    return _Raw(encoding, sample_rate, channels)


class _Raw:
    def __init__(self, encoding: str, sample_rate: int, channels: int) -> None:
        self._encoding = encoding
        self.sample_rate: int | None = sample_rate
        self.channels: int | None = channels

    def feed(self, pcm: bytes) -> bytes:
        if self._encoding == "pcm_s16le":
            return pcm
        samples = np.frombuffer(pcm, "<i2")
        if self._encoding == "pcm_f32le":
            return (samples.astype("<f4") / 32_768).tobytes()
        return _mulaw(samples.astype(np.int32))

    def finish(self) -> bytes:
        return b""


def _mulaw(samples: NDArray[np.int32]) -> bytes:
    """ITU-T G.711: the sign, the power of two, four bits below it, all inverted."""
    biased = np.minimum(np.abs(samples), 32_635) + 132
    exponent = np.floor(np.log2(biased)).astype(np.int32) - 7
    code = np.where(samples < 0, 0x80, 0) | (exponent << 4) | (biased >> (exponent + 3) & 0x0F)
    return bytes((code ^ 0xFF).astype(np.uint8))


class _Pipe(io.RawIOBase):
    """Collects what a muxer writes; cannot be sought in, as no connection can."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._waiting += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._waiting)
        self._waiting.clear()
        return data


class _Container:
    sample_rate: int | None = None
    channels: int | None = None

    def __init__(self, kind: str, sample_rate: int, channels: int) -> None:
        layout = "mono" if channels == 1 else "stereo"
        self._layout, self._rate = layout, sample_rate
        self._pipe = _Pipe()
        options = {"cluster_time_limit": str(PIECE_MS)} if kind == "webm" else {"page_duration": str(PIECE_MS * 1_000)}
        try:
            self._file = av.open(self._pipe, "w", format=kind, options=options)
            stream = self._file.add_stream("libopus", rate=OPUS_RATE, layout=layout)
        except (av.error.FFmpegError, ValueError) as error:
            raise CommandFailed("This installation cannot encode Opus.") from error
        assert isinstance(stream, av.AudioStream)
        self._stream = stream
        self._stream.bit_rate = OPUS_BITS_PER_SECOND
        self._resampler = av.AudioResampler("s16", layout, OPUS_RATE)

    def feed(self, pcm: bytes) -> bytes:
        samples = np.frombuffer(pcm, "<i2").reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=self._layout)
        frame.rate = self._rate
        self._encode(frame)
        return self._pipe.take()

    def finish(self) -> bytes:
        self._encode(None)
        self._file.mux(self._stream.encode(None))
        self._file.close()
        return self._pipe.take()

    def _encode(self, frame: av.AudioFrame | None) -> None:
        for ready in self._resampler.resample(frame):
            self._file.mux(self._stream.encode(ready))
