"""Where decoding of a kept stream may begin, and which place to choose.

A `Part` is a WebM cluster or an Ogg page. Opus needs a run-up: a packet builds on those before it, so one begins
earlier and throws the samples away.

Pure.
"""

from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from streaming.model import OPUS_SAMPLE_RATE, SAMPLE_RATE, Part

PREROLL_SAMPLES = OPUS_SAMPLE_RATE * 240 // 1000
"""48 kHz. RFC 7845, 4.6, asks for 80 ms at least; in recordings of browsers up to a quarter of the sound is still wrong
there (voiced speech at low rates), and less than 0.5% of full scale after 240 ms (measured at 24 parts)."""

OPUS_PER_SAMPLE = OPUS_SAMPLE_RATE // SAMPLE_RATE
"""Samples of a container for one sample of ours."""


class DecodeStart(msgspec.Struct, frozen=True):
    """Where decoding begins.

    `sample`: 16 kHz on the recording's clock, exactly the first sample handed out; `offset`: byte of the encoded stream
    at which feeding begins (raw: a border of frames; container: `part.offset`, or a container's first byte);
    `containers`: byte offsets, ascending, at which containers begin; `part`: the place to begin at, not behind
    `sample`; `header`: the init bytes of its container. Without a part, decoding at byte 0 begins at sample 0, at any
    other container's first byte at `sample`."""

    sample: int = 0
    offset: int = 0
    containers: tuple[int, ...] = (0,)
    part: Part | None = None
    header: bytes = b""

    @property
    def sample_48k(self) -> int:
        """Where the first byte of a container encoding stands on the clock."""
        if self.part is not None:
            return self.part.sample
        return self.sample * OPUS_PER_SAMPLE if self.offset else 0


def begin_at(parts: Sequence[Part], sample_48k: int, *, preroll: int = PREROLL_SAMPLES) -> Part | None:
    """The last of `parts` (ascending) from which `sample_48k` is reached with enough run-up; None: from byte 0."""
    index = bisect_right(parts, sample_48k - preroll, key=lambda part: part.sample)
    return parts[index - 1] if index else None
