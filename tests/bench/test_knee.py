"""The search for the number of streams that a machine serves."""

import pytest

from bench.knee import STEP_SHARE, knee_of, next_count


@pytest.mark.parametrize("true", [*range(1, 40), 64, 100, 255, 256, 1_000])
def test_the_search_ends_close_below_the_edge(true: int) -> None:
    kept: dict[int, bool] = {}
    while (count := next_count(kept, 256)) is not None:
        assert count not in kept, "nothing is measured twice"
        assert len(kept) < 16
        kept[count] = count <= true
    knee = knee_of(kept)
    assert knee <= true
    assert knee >= min(256, true) * (1 - STEP_SHARE) - 1
    assert max(kept) <= 256


def test_no_stream_at_all() -> None:
    assert next_count({}, 8) == 1
    assert next_count({1: False}, 8) is None
    assert (knee_of({}), knee_of({1: False})) == (0, 0)


def test_a_number_above_one_that_is_too_many_is_none() -> None:
    assert knee_of({1: True, 2: True, 4: False, 8: True}) == 2
