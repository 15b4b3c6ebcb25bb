"""Opus packets to samples, through PyAV.

Policy: libopus decodes, the reference; FFmpeg's own decoder puts speech two samples elsewhere. Mono and stereo decode
to one channel inside libopus, which takes the mean there (measured: within one step of the mean of its two channels,
for 30% less CPU); more channels are averaged here. The skip at the beginning of a stream is the timeline's business.

Boundary: nothing of FFmpeg but this codec sees a stranger's bytes. Invariant: a packet gives as many samples as its
first bytes say, whatever the codec makes of it.
"""

from typing import cast

import av
import av.error
import numpy as np

from streaming.audio.opus import OpusHead, broken
from streaming.audio.pcm import Float32

_CODEC = "libopus"


def available() -> bool:
    """Whether this build of PyAV can decode Opus."""
    return _CODEC in av.codecs_available


class PacketDecoder:
    """Decodes the packets of one container. Raises `DecodeFailed` for a head that libopus refuses."""

    def __init__(self, head: OpusHead) -> None:
        extradata = bytearray(head.data)
        extradata[10:12] = bytes(2)
        if head.family == 0:
            extradata[9] = 1
        self._channels = 1 if head.family == 0 else head.channels
        self._codec = cast(av.AudioCodecContext, av.CodecContext.create(_CODEC, "r"))
        self._codec.extradata = bytes(extradata)
        try:
            self._codec.open(strict=False)
        except (av.error.FFmpegError, ValueError) as error:
            raise broken("The Opus header makes no sense.") from error

    def decode(self, packet: bytes, samples: int) -> Float32 | None:
        """(samples,) float32 in int16 units, 48 kHz mono; None when the packet cannot be read."""
        if samples == 0:
            return None
        try:
            frames = self._codec.decode(av.Packet(packet))
        except av.error.FFmpegError:
            return None
        heard = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]) if frames else np.empty(0)
        sound = heard.astype(np.float32)
        if self._channels > 1:
            sound = sound.reshape(-1, self._channels).mean(axis=1, dtype=np.float32)
        if len(sound) != samples:
            sound = np.concatenate([sound, np.zeros(samples, np.float32)])[:samples]
        return sound
