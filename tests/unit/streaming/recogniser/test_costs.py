"""What a decode will take."""

import pytest

from streaming.recogniser.costs import OUTLIER, WEIGHT, Costs


def test_before_anything_was_learned_nothing_is_known() -> None:
    costs = Costs()
    assert costs.seconds(1_000, 4) == 0.0
    assert costs.fits(1_000, 8, 0.1) == 2, "and a batch is tried carefully"


def test_the_first_call_sets_the_pace_and_others_move_it() -> None:
    costs = Costs()
    costs.learn(1_000, 1, 0.1)
    assert costs.seconds(1_000) == pytest.approx(0.1)
    costs.learn(1_000, 1, 0.2)
    assert costs.seconds(1_000) == pytest.approx(0.1 * (1 + WEIGHT))
    for _ in range(50):
        costs.learn(1_000, 1, 0.2)
    assert costs.seconds(1_000) == pytest.approx(0.2, rel=0.01)


def test_short_windows_have_their_own_pace() -> None:
    costs = Costs()
    costs.learn(2_000, 1, 0.2)
    costs.learn(100, 1, 0.05)
    assert costs.seconds(2_000) == pytest.approx(0.2)
    assert costs.seconds(100) == pytest.approx(0.05)
    assert costs.seconds(3_000) == pytest.approx(0.3), "of the nearest length"


def test_an_outlier_moves_it_a_little() -> None:
    costs = Costs()
    costs.learn(1_000, 1, 0.1)
    costs.learn(1_000, 1, 1_000.0)
    assert costs.seconds(1_000) == pytest.approx(0.1 * (1 + WEIGHT * (OUTLIER - 1)))


def test_the_gain_of_batches_is_learned_size_by_size() -> None:
    costs = Costs()
    costs.learn(1_000, 1, 0.1)
    assert costs.seconds(1_000, 4) == pytest.approx(0.2), "the root of its size, until it is tried"
    costs.learn(1_000, 2, 0.11)
    assert costs.seconds(1_000, 2) == pytest.approx(0.11)
    assert costs.seconds(1_000) == pytest.approx(0.1)
    for _ in range(50):
        costs.learn(1_000, 4, 0.39)
    assert costs.seconds(1_000, 4) == pytest.approx(0.39, rel=0.01)


def test_a_batch_fits_its_time_and_at_least_one_window_goes() -> None:
    costs = Costs()
    costs.learn(1_000, 1, 0.1)
    for size in (2, 4, 8):
        costs.learn(1_000, size, 0.1 + 0.01 * size)
    assert costs.fits(1_000, 16, 0.15) == 4, "5 were not tried: the root says 156 ms"
    assert costs.fits(1_000, 3, 0.15) == 3
    assert costs.fits(1_000, 16, 0.01) == 1
    assert costs.fits(1_000, 16, 0.16) == 5
    assert costs.fits(1_000, 100, 1e9) == 16, "twice the largest that was tried"
