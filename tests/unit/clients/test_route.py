"""When and where to connect next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parlance_client.backoff import Backoff, Route

BACKOFF = Backoff(first_s=0.5, max_s=15)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_bounded_and_jittered(attempt: int, random: float) -> None:
    wait_s = BACKOFF.delay_s(attempt, random)
    assert 0 <= wait_s <= min(15, 0.5 * 2 ** min(attempt - 1, 30))
    assert BACKOFF.delay_s(attempt, 0.0) == 0.0
    assert BACKOFF.delay_s(30, 0.5) == 7.5


def test_addresses_take_turns_and_the_waits_grow_after_each_round() -> None:
    route = Route(["a", "b", "a"], BACKOFF)
    route.connected(0)
    route.lost(60, sent_away=False)
    seen = []
    for _ in range(5):
        seen.append((route.wait_s(0, 0.5), route.url))
        route.failed(0)
    assert seen == [(0.25, "b"), (0.25, "a"), (0.5, "b"), (0.5, "a"), (1.0, "b")]


def test_an_address_that_named_a_time_is_not_asked_before_it() -> None:
    one = Route(["a"], BACKOFF)
    one.failed(1, 5_000)
    assert [one.wait_s(1, 0), one.wait_s(4, 0), one.wait_s(7, 0)] == [5, 2, 0]
    two = Route(["a", "b"], BACKOFF)
    two.failed(0, 5_000)
    assert (two.wait_s(0, 0), two.url) == (0, "b")
    two.failed(0)
    assert (two.wait_s(0, 0), two.url) == (0, "b"), "a is not ready yet"
    two.failed(0, 9_000)
    assert (two.wait_s(1, 0), two.url) == (4, "a")


@pytest.mark.parametrize(
    ("sent_away", "lasts_s", "waits"),
    [(True, 0.05, [0.25, 0.5, 1.0]), (True, 60, [0.25] * 3), (False, 0.05, [0.25] * 3)],
)
def test_being_sent_away_again_and_again_is_failing_and_a_cut_line_is_not(
    sent_away: bool, lasts_s: float, waits: list[float]
) -> None:
    route = Route(["a"], BACKOFF)
    seen = []
    for start in (100.0, 200.0, 300.0):
        route.connected(start)
        route.lost(start + lasts_s, sent_away=sent_away)
        seen.append(route.wait_s(start, 0.5))
    assert seen == waits


def test_no_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="address"):
        Route([], BACKOFF)
