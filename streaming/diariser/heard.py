"""What the diariser's worker and its callers share: a window in, who is active when and what they sound like out.

Policy: the worker knows nothing of streams, so a lost one costs the call and nothing else; who is who beyond a window
is decided by the pure code beside this module. Voices are unit vectors, to be compared by their product; those of two
models never meet (`DiariserInfo.model`).

Boundary: `streaming.calls` carries these types between processes.
Invariant: no text, no labels, no clocks: sample counts relative to the window's first sample.
"""

import msgspec

from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE

WINDOW_MS_MAX = LIMITS.diariser_window_ms_max
"""Longest window of one call."""


class DiariserInfo(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a worker says when it is ready. `model`: names the weights of voices, and changes with them; empty: there
    are none; `dim`: numbers in a voice; `window_ms`: what it likes best; `locals_max`: speakers it tells apart in one
    window."""

    model: str
    dim: int
    window_ms: int
    locals_max: int


class Listen(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`pcm`: int16, little-endian, mono, 16 kHz, at most `WINDOW_MS_MAX`."""

    pcm: bytes


class Voice(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One speaker of a window. `spans`: (start, end) samples from the window's beginning in which it is active, in
    order, not touching each other (two voices may overlap); `clean_ms`: of them in which nobody else speaks, from which
    the voice was taken; `vector`: float32, little-endian, `dim` numbers of unit length, empty where too little of it is
    clean."""

    spans: tuple[tuple[int, int], ...]
    clean_ms: int
    vector: bytes


class Heard(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The answer: voices in the order in which they first speak; none where nobody does."""

    samples: int
    voices: tuple[Voice, ...]

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE
