"""Voices put together and compared."""

import numpy as np
import pytest

from streaming.diariser.enrolment import likeness, mean


def vector(*direction: float) -> bytes:
    numbers = np.array(direction, "<f4")
    return bytes((numbers / np.linalg.norm(numbers)).astype("<f4").tobytes())


def test_two_recordings_of_a_voice_count_by_their_speech() -> None:
    both, clean_ms = mean(vector(1, 0), 3_000, vector(0, 1), 1_000)
    assert clean_ms == 4_000
    assert np.frombuffer(both, "<f4").tolist() == pytest.approx([3 / 10**0.5, 1 / 10**0.5])
    assert len(both) == 8


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((b"", 0), (vector(1, 0), 7), (vector(1, 0), 7)),
        ((vector(1, 0), 7), (b"", 900), (vector(1, 0), 7)),
        ((b"", 0), (b"", 0), (b"", 0)),
        ((vector(1, 0), 5), (vector(-1, 0), 5), (vector(1, 0), 5)),
    ],
)
def test_what_cannot_be_added_adds_nothing(
    first: tuple[bytes, int], second: tuple[bytes, int], expected: tuple[bytes, int]
) -> None:
    assert mean(*first, *second) == expected


def test_likeness_is_the_cosine() -> None:
    assert likeness(vector(1, 0), vector(1, 0)) == pytest.approx(1)
    assert likeness(vector(1, 0), vector(3, 4)) == pytest.approx(0.6)
    assert likeness(vector(1, 0), vector(-1, 0)) == pytest.approx(-1)
