"""Voices that people enrol: what several recordings of one person sound like together, and whether they can be one.

Pure. Vectors are what `streaming.diariser.heard.Voice` carries: float32, little-endian, of unit length, of one model.
"""

import numpy as np


def mean(first: bytes, first_ms: int, second: bytes, second_ms: int) -> tuple[bytes, int]:
    """(vector, clean_ms) of both together, each weighted by its speech. An empty one adds nothing."""
    if not first or not second:
        return (first, first_ms) if first else (second, second_ms)
    total = _numbers(first) * max(first_ms, 1) + _numbers(second) * max(second_ms, 1)
    length = float(np.linalg.norm(total))
    if length == 0.0:  # exact opposites of equal weight: no direction is theirs
        return first, first_ms
    return (total / length).astype("<f4").tobytes(), first_ms + second_ms


def likeness(first: bytes, second: bytes) -> float:
    """The cosine of the two: 1 for the same."""
    return float(_numbers(first) @ _numbers(second))


def _numbers(vector: bytes) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.frombuffer(vector, dtype="<f4").astype(np.float64)
