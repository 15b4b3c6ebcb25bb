"""The window against a plain list of everything that was ever appended."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.audio.window import AudioWindow


def ramp(start: int, n: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return (np.arange(start, start + n) % 30_011).astype(np.int16)


@settings(max_examples=60, deadline=None)
@given(
    base=st.integers(0, 10**9),
    steps=st.lists(st.tuples(st.integers(0, 3_000), st.floats(0, 1)), min_size=1, max_size=40),
)
def test_holds_exactly_what_was_not_dropped(base: int, steps: list[tuple[int, float]]) -> None:
    window = AudioWindow(base, 9_000)
    start = end = base
    for n, keep in steps:
        if end - start + n > 9_000:
            with pytest.raises(ValueError, match="do not fit"):
                window.append(ramp(end, n))
        else:
            window.append(ramp(end, n))
            end += n
        np.testing.assert_array_equal(window.slice(start, end), ramp(start, end - start))
        middle = start + int((end - start) * keep)
        window.drop_before(middle)
        start = middle
        assert (window.start_sample, window.end_sample) == (start, end)
        np.testing.assert_array_equal(window.slice(start, end), ramp(start, end - start))


def test_a_slice_stays_as_it_was_when_the_window_moves_on() -> None:
    window = AudioWindow(0, 1_000)
    window.append(ramp(0, 1_000))
    held = window.slice(100, 200)
    window.drop_before(1_000)
    window.append(ramp(5_000, 1_000))
    np.testing.assert_array_equal(held, ramp(100, 100))


def test_memory_follows_what_is_held_not_what_went_through() -> None:
    window = AudioWindow(0, 96_000)
    for at in range(0, 1_600_000, 512):
        window.append(ramp(at, 512))
        window.drop_before(window.end_sample - 5_000)
    assert len(window._ring) <= 2 * (5_000 + 512)


@pytest.mark.parametrize(("start", "end"), [(99, 120), (120, 151), (130, 120)])
def test_samples_that_are_not_held_are_refused(start: int, end: int) -> None:
    window = AudioWindow(100, 100)
    window.append(ramp(100, 50))
    with pytest.raises(ValueError, match="outside"):
        window.slice(start, end)


def test_dropping_goes_forward_only_and_not_past_the_end() -> None:
    window = AudioWindow(100, 100)
    window.append(ramp(100, 50))
    window.drop_before(120)
    window.drop_before(50)
    assert window.start_sample == 120
    with pytest.raises(ValueError, match="past the end"):
        window.drop_before(151)


def test_an_overfull_append_changes_nothing() -> None:
    window = AudioWindow(0, 100)
    window.append(ramp(0, 60))
    with pytest.raises(ValueError, match="do not fit"):
        window.append(ramp(60, 41))
    window.append(ramp(60, 40))
    np.testing.assert_array_equal(window.slice(0, 100), ramp(0, 100))
