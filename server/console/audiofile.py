"""Read any audio file piece by piece, as interleaved s16le at the file's own rate; and when each piece is due.

Boundary: PyAV decodes; its errors end here as `CommandFailed`. Memory: one decoded frame and one chunk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.error

from server.console.failures import CommandFailed
from streaming.limits import LIMITS

CHUNK_MS = 100
SAMPLE_BYTES = 2
RATE_MIN, RATE_MAX = LIMITS.sample_rate_hz_min, LIMITS.sample_rate_hz_max
"""What `voice:recording:start` takes; files outside are resampled to `RATE_ELSE`."""
RATE_ELSE = 48_000


class AudioFile:
    """An open file. `sample_rate` in Hz, `channels` 1 or 2 (more are mixed down to 2)."""

    def __init__(self, container: Any, stream: Any, path: Path) -> None:
        self._container = container
        self._stream = stream
        self._path = path
        self.channels = 1 if stream.codec_context.channels == 1 else 2
        rate = int(stream.codec_context.sample_rate or 0)
        self.sample_rate = rate if RATE_MIN <= rate <= RATE_MAX else RATE_ELSE

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return SAMPLE_BYTES * self.channels

    def chunks(self) -> Iterator[bytes]:
        """The whole audio in pieces of 100 ms, the last one shorter. Raises `CommandFailed` for damaged audio."""
        size = self.sample_rate * CHUNK_MS // 1_000 * self.frame_bytes
        waiting = bytearray()
        for piece in self._decoded():
            waiting += piece
            while len(waiting) >= size:
                yield bytes(waiting[:size])
                del waiting[:size]
        if waiting:
            yield bytes(waiting)

    def _decoded(self) -> Iterator[bytes]:
        layout = "mono" if self.channels == 1 else "stereo"
        resampler = av.AudioResampler(format="s16", layout=layout, rate=self.sample_rate)
        try:
            for frame in self._container.decode(self._stream):
                for ready in resampler.resample(frame):
                    yield ready.to_ndarray().tobytes()
            for ready in resampler.resample(None):
                yield ready.to_ndarray().tobytes()
        except (av.error.FFmpegError, ValueError) as error:
            raise CommandFailed(f"{self._path}: the audio cannot be decoded: {_reason(error)}.") from error


@contextmanager
def open_audio(path: Path) -> Iterator[AudioFile]:
    """Open a file. Raises `CommandFailed` when it cannot be read or holds no audio."""
    try:
        container = av.open(str(path), mode="r")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise CommandFailed(f"{path}: cannot be opened as audio: {_reason(error)}.") from error
    with container:
        if not container.streams.audio:
            raise CommandFailed(f"{path}: there is no audio in this file.")
        yield AudioFile(container, container.streams.audio[0], path)


def due_s(sent_bytes: int, bytes_per_second: int, speed: float) -> float:
    """Seconds after the start at which audio up to byte `sent_bytes` has been spoken. Computed from the sample count
    each time, so that nothing drifts."""
    return sent_bytes / bytes_per_second / speed


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "its content is damaged"
