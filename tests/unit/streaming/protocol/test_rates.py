"""Token buckets: what they give in any stretch of time, and what they remember."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.protocol.rates import Bucket, Buckets, Places, Rate

RATE = Rate(per_s=10, burst=5)


def test_a_burst_then_the_rate() -> None:
    bucket = Bucket(RATE)
    assert [bucket.take(0) for _ in range(6)] == [0, 0, 0, 0, 0, 100]
    assert [bucket.take(99), bucket.take(100), bucket.take(100)] == [1, 0, 100]
    assert [bucket.take(10_000) for _ in range(6)] == [0, 0, 0, 0, 0, 100]


def test_several_at_once() -> None:
    bucket = Bucket(RATE)
    assert bucket.take(0, 4) == 0
    assert bucket.take(0, 3) == 200
    assert bucket.take(0, 1) == 0, "what was refused was not taken"


def test_more_than_the_burst_is_taken_as_the_burst() -> None:
    bucket = Bucket(RATE)
    assert bucket.take(0, 1_000) == 0
    assert bucket.take(0, 1_000) == 500
    assert bucket.take(500, 1_000) == 0


@given(
    rate=st.builds(Rate, per_s=st.integers(1, 1_000), burst=st.integers(1, 100)),
    steps=st.lists(st.tuples(st.integers(0, 2_000), st.integers(1, 120)), max_size=60),
)
def test_no_stretch_of_time_gives_more_than_its_share(rate: Rate, steps: list[tuple[int, int]]) -> None:
    bucket, now = Bucket(rate), 0
    taken: list[tuple[int, int]] = []
    for pause, n in steps:
        now += pause
        if wait := bucket.take(now, n):
            assert bucket.take(now + wait - 1, n), "not sooner than it said"
            now += wait
            assert bucket.take(now, n) == 0, "and not later"
        taken.append((now, min(n, rate.burst)))
    for first, (start, _) in enumerate(taken):
        for end, _ in taken[first:]:
            inside = sum(n for at, n in taken if start <= at <= end)
            assert inside <= rate.burst + (end - start) * rate.per_s / 1_000 + 1e-6


@given(st.lists(st.integers(1, 50), min_size=1, max_size=100))
def test_who_waits_as_told_keeps_to_the_rate(amounts: list[int]) -> None:
    bucket, now = Bucket(RATE), 0.0
    for n in amounts:
        now += bucket.owe(now, n, wait_ms_max=1_000_000)
    assert sum(amounts) <= RATE.burst + now * RATE.per_s / 1_000 + 1e-6


def test_a_debt_is_never_longer_than_its_limit() -> None:
    bucket = Bucket(RATE)
    assert bucket.owe(0, 5, wait_ms_max=2_000) == 0
    assert bucket.owe(0, 10, wait_ms_max=2_000) == 1_000
    assert bucket.owe(0, 1_000, wait_ms_max=2_000) == 2_000
    assert bucket.owe(2_500, 5, wait_ms_max=2_000) == 0, "the rest was forgiven"


def test_keys_do_not_share_and_a_key_keeps_its_bucket() -> None:
    buckets = Buckets(RATE, keys_max=10)
    assert buckets.of("a", 0).take(0, 5) == 0
    assert buckets.of("a", 0).take(0) == 100
    assert buckets.of("b", 0).take(0) == 0


def test_idle_keys_are_forgotten() -> None:
    buckets = Buckets(RATE, keys_max=1_000)
    for n in range(100):
        buckets.of(f"k{n}", 0).take(0)
    assert len(buckets) == 100
    for _ in range(60):
        buckets.of("again", 1_000).take(1_000)
    assert len(buckets) == 1


def test_many_keys_take_the_room_of_a_few() -> None:
    buckets = Buckets(RATE, keys_max=100)
    for n in range(100_000):
        buckets.of(str(n), 0).take(0)
    assert len(buckets) == 100


def test_a_key_that_is_used_is_not_pushed_out() -> None:
    buckets = Buckets(RATE, keys_max=100)
    assert buckets.of("runaway", 0).take(0, 5) == 0
    for n in range(1_000):
        buckets.of(str(n), 0).take(0)
        assert buckets.of("runaway", 0).take(0) == 100


def test_places_are_counted_by_key_and_leave_nothing_behind() -> None:
    places = Places()
    for _ in range(3):
        places.take("a")
    places.take("b")
    assert (places.of("a"), places.of("b"), places.of("c")) == (3, 1, 0)
    for _ in range(3):
        places.free("a")
    places.free("b")
    assert len(places) == 0
    with pytest.raises(KeyError):
        places.free("a")
