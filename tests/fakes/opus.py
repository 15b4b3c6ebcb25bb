"""Speech of `tests.fakes.tones` as a browser sends it: Opus in WebM or Ogg, and how long it is by its own account."""

import io

import av
import numpy as np

from streaming.audio.decode import scan
from streaming.model import OPUS_SAMPLE_RATE, SAMPLE_RATE, AudioFormat, Encoding
from streaming.ports import Pcm16

FORMATS = {Encoding.WEBM_OPUS: "webm", Encoding.OGG_OPUS: "ogg"}
BIT_RATE = 32_000
"""A tenth of what s16le needs; the tones survive 24,000 without a wrong word."""


class _Pipe(io.RawIOBase):
    """Cannot be sought in, as the socket of a browser."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(bytes(data))  # type: ignore[call-overload]


def packed(audio: Pcm16, encoding: Encoding, *, cluster_ms: int = 500, channels: int = 1) -> bytes:
    """(n,) int16 at 16 kHz as a container, in clusters or pages of about `cluster_ms`."""
    layout = "mono" if channels == 1 else "stereo"
    pipe = _Pipe()
    option = {Encoding.WEBM_OPUS: ("cluster_time_limit", cluster_ms), Encoding.OGG_OPUS: ("page_duration", cluster_ms)}
    name, value = option[encoding]
    value *= 1_000 if encoding is Encoding.OGG_OPUS else 1
    with av.open(pipe, "w", format=FORMATS[encoding], options={name: str(value)}) as container:
        stream = container.add_stream("libopus", rate=OPUS_SAMPLE_RATE, layout=layout)
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = BIT_RATE
        resampler = av.AudioResampler("s16", layout, OPUS_SAMPLE_RATE)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio).reshape(1, -1), format="s16", layout="mono")
        frame.rate = SAMPLE_RATE
        for ready in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return bytes(pipe.data)


def format_of(encoding: Encoding) -> AudioFormat:
    return AudioFormat(encoding, OPUS_SAMPLE_RATE, 1)


def length_48k(data: bytes, encoding: Encoding) -> int:
    """Samples that all packets of one container hold together."""
    scanner = scan(format_of(encoding))
    scanner.feed(data)
    scanner.finish()
    return scanner.sample_end_48k
