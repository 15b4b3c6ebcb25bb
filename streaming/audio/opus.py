"""What Opus says about itself without being decoded: the head of a stream and how long a packet is (RFC 6716, 7845).

Pure. Invariant: `packet_samples` depends on the first two bytes only, so an index made without decoding and a decoder
agree on every position.
"""

import msgspec

from streaming.errors import DecodeFailed
from streaming.limits import LIMITS
from streaming.model import OPUS_SAMPLE_RATE

PACKET_SAMPLES_MAX = OPUS_SAMPLE_RATE * 120 // 1000
"""RFC 6716, 3.2.5: a packet holds at most 120 ms."""

_MS = OPUS_SAMPLE_RATE // 1000
_SILK = (10 * _MS, 20 * _MS, 40 * _MS, 60 * _MS)
_HYBRID = (10 * _MS, 20 * _MS)
_CELT = (_MS * 5 // 2, 5 * _MS, 10 * _MS, 20 * _MS)
_FRAME_SAMPLES = _SILK * 3 + _HYBRID * 2 + _CELT * 4
"""RFC 6716, table 2: samples of one frame for each of the 32 configurations."""

_MAGIC = b"OpusHead"


class OpusHead(msgspec.Struct, frozen=True):
    """The identification header. `preskip`: samples at 48 kHz to drop at the beginning; `data`: as it was sent."""

    channels: int
    preskip: int
    data: bytes

    @property
    def family(self) -> int:
        """Channel mapping: 0 is mono or stereo, anything else brings a table."""
        return self.data[18]


def is_head(data: bytes) -> bool:
    return data[: len(_MAGIC)] == _MAGIC


def read_head(data: bytes) -> OpusHead:
    """RFC 7845, 5.1. Raises `DecodeFailed` for a version or a number of channels that this server does not know."""
    if len(data) < 19 or not is_head(data) or data[8] >> 4:
        raise broken("The Opus header cannot be read.")
    channels, family = data[9], data[18]
    allowed = 2 if family == 0 else LIMITS.channels_max
    if not 1 <= channels <= allowed or (family and len(data) < 21 + channels):
        raise broken(f"Opus audio with {channels} channels of mapping family {family} is not supported.")
    return OpusHead(channels, int.from_bytes(data[10:12], "little"), data)


def make_head(channels: int, preskip: int) -> OpusHead:
    """The head of a stream that came without one. Raises `DecodeFailed` for more than two channels."""
    data = _MAGIC + bytes([1, min(channels, 255)]) + min(preskip, 0xFFFF).to_bytes(2, "little")
    return read_head(data + OPUS_SAMPLE_RATE.to_bytes(4, "little") + bytes(3))


def packet_samples(packet: bytes) -> int:
    """Samples at 48 kHz in a packet; 0 for a packet that cannot be Opus."""
    if not packet:
        return 0
    frames = (1, 2, 2, packet[1] & 0x3F if len(packet) > 1 else 0)[packet[0] & 3]
    samples = _FRAME_SAMPLES[packet[0] >> 3] * frames
    return samples if samples <= PACKET_SAMPLES_MAX else 0


def broken(message: str) -> DecodeFailed:
    return DecodeFailed(message, field="audio")
