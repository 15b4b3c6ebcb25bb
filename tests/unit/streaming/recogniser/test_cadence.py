"""How many hops apart each tenant's partials are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.recogniser.cadence import (
    CALM,
    CALM_STEPS,
    EACH,
    FULL,
    HOPS_MAX,
    PACE_MIN,
    PARTS,
    QUARTERS,
    SPARE,
    Cadence,
    Turns,
    Want,
    even_share,
    hops_within,
    on_time,
    pace_of,
)

wants = st.dictionaries(
    st.sampled_from("abcdef"), st.builds(Want, st.floats(0, 5), st.floats(0, 2)), min_size=1, max_size=6
)


class TestShares:
    def test_what_one_leaves_goes_to_the_others(self) -> None:
        assert even_share([0.1, 0.1], 0.9) == math.inf
        assert even_share([0.1, 2.0], 0.9) == pytest.approx(0.8)
        assert even_share([0.1, 2.0, 3.0], 0.9) == pytest.approx(0.4)
        assert even_share([2.0, 3.0], 0.9) == pytest.approx(0.45)
        assert even_share([], 0.9) == math.inf

    @given(st.lists(st.floats(0, 10), max_size=20), st.floats(0.1, 2))
    def test_all_parts_fit_and_nothing_is_left_over(self, wanted: list[float], capacity: float) -> None:
        share = even_share(wanted, capacity)
        given_away = sum(min(want, share) for want in wanted)
        assert given_away <= capacity + 1e-9
        assert given_away == pytest.approx(min(capacity, sum(wanted)))

    def test_finals_come_off_first(self) -> None:
        assert hops_within(Want(0.5, 0.1), 0.6) == 1
        assert hops_within(Want(0.5, 0.1), 0.36) == 2
        assert hops_within(Want(0.5, 0.4), 0.4) == HOPS_MAX
        assert hops_within(Want(50.0, 0.0), 0.4) == HOPS_MAX


class TestCadence:
    def test_who_wants_too_much_is_thinned_out_at_once_and_nobody_else(self) -> None:
        cadence = Cadence()
        cadence.step({"many": Want(3.0, 0.2), "one": Want(0.1, 0.01)})
        assert cadence.thinned == {"many": 4.5}
        assert cadence.hops("one") == cadence.hops("unknown") == 1

    def test_at_its_edges(self) -> None:
        cadence = Cadence()
        cadence.step({"a": Want(FULL)})
        assert cadence.hops("a") == 1
        cadence.step({"a": Want(FULL + 0.01)})
        assert cadence.hops("a") == 1.25, "no more than is needed"

    def test_what_fits_comes_back_after_a_calm_time(self) -> None:
        cadence = Cadence()
        cadence.step({"a": Want(2.5 * FULL)})
        for fits in (1.5, 1.0):
            before = cadence.hops("a")
            for _ in range(CALM_STEPS):
                assert cadence.hops("a") == before
                cadence.step({"a": Want(fits * CALM)})
            assert cadence.hops("a") == fits
        assert cadence.thinned == {}

    def test_between_full_and_calm_it_stays_as_it_is(self) -> None:
        cadence = Cadence()
        between = {"a": Want((FULL + CALM) / 2)}
        for _ in range(10):
            cadence.step(between)
        assert cadence.hops("a") == 1
        cadence.step({"a": Want(FULL + 0.1)})
        for _ in range(10):
            cadence.step(between)
        assert cadence.hops("a") == 1.25

    def test_a_moment_of_calm_is_not_enough(self) -> None:
        cadence = Cadence()
        cadence.step({"a": Want(FULL + 0.1)})
        for _ in range(5):
            for _ in range(CALM_STEPS - 1):
                cadence.step({"a": Want(0.1)})
            cadence.step({"a": Want(FULL)})
        assert cadence.hops("a") == 1.25

    def test_who_left_is_forgotten(self) -> None:
        cadence = Cadence()
        cadence.step({"a": Want(100.0)})
        for _ in range(HOPS_MAX * CALM_STEPS):
            cadence.step({})
        assert (cadence.thinned, cadence._calm) == ({}, {})

    @given(st.lists(wants, max_size=30))
    def test_always_quarters_within_bounds(self, history: list[dict[str, Want]]) -> None:
        first, second = Cadence(), Cadence()
        for wanted in history:
            first.step(wanted)
            second.step(wanted)
            assert all(1 < hops <= HOPS_MAX and QUARTERS * hops % 1 == 0 for hops in first.thinned.values())
            assert first.thinned == second.thinned
            if sum(want.total for want in wanted.values()) <= CALM:
                assert all(first.hops(tenant) == 1 for tenant in wanted if tenant not in second.thinned)


class TestTurns:
    @given(st.lists(st.integers(QUARTERS, QUARTERS * HOPS_MAX), min_size=1, max_size=50))
    def test_whole_hops_that_keep_to_what_is_wanted(self, wanted: list[int]) -> None:
        turns, given_away, owed = Turns(1), 0.0, 0.0
        for quarters in wanted:
            hops = quarters / QUARTERS
            owed += hops
            given = turns.next(hops)
            given_away += given
            assert int(hops) <= given <= int(hops) + 1
            assert given == int(given)
            assert 0 <= owed - given_away < 1

    @given(st.lists(st.integers(1, 2 * PARTS), min_size=1, max_size=50))
    def test_parts_of_a_hop_are_given_as_they_are(self, wanted: list[int]) -> None:
        turns = Turns()
        assert [round(turns.next(parts / PARTS) * PARTS, 6) for parts in wanted] == wanted


class TestPace:
    """`EACH` is 0.22 and `SPARE` 0.6 of the model's time."""

    @pytest.mark.parametrize(
        ("each", "streams", "pace"),
        [
            (0.01, 1, PACE_MIN),
            (EACH / 2, 1, 0.5),
            (EACH, 1, 1),
            (0.5, 1, 1),
            (0, 1, 1),
            (SPARE / 20, 5, 0.25),
            (SPARE / 20, 15, 0.75),
            (SPARE / 20, 20, 1),
            (SPARE / 20, 30, 1),
        ],
    )
    def test_as_quick_as_there_is_room(self, each: float, streams: int, pace: float) -> None:
        cadence = Cadence()
        cadence.step({f"tenant {n}": Want(each) for n in range(streams)}, each)
        assert cadence.hops("tenant 0") == pytest.approx(pace)
        assert cadence.thinned == {}

    def test_finals_come_first(self) -> None:
        assert pace_of([Want(0.05, 0.6)], 0.05) == 1
        assert pace_of([Want(0.05, 0.5)], 0.05) == pytest.approx(0.5)

    def test_who_wants_little_stays_quick_beside_who_wants_too_much(self) -> None:
        cadence = Cadence()
        cadence.step({"many": Want(3.0, 0.3), "one": Want(0.05, 0.01)}, EACH / 2)
        assert cadence.hops("one") == 0.5
        assert cadence.hops("many") > 3
        cadence.step({"many": Want(0.9), "one": Want(0.05)}, EACH / 2)
        assert cadence.hops("one") == 1, "it would cost the others theirs"

    @given(st.lists(wants, max_size=10), st.floats(0, 1))
    def test_no_more_is_given_away_than_there_is(self, history: list[dict[str, Want]], each: float) -> None:
        cadence = Cadence()
        for wanted in history:
            cadence.step(wanted, each)
            quick = {tenant: want for tenant, want in wanted.items() if cadence.hops(tenant) < 1}
            assert all(cadence.hops(tenant) >= PACE_MIN for tenant in quick)
            taken = sum(want.partials / cadence.hops(tenant) + want.finals for tenant, want in quick.items())
            assert taken <= FULL + 1e-6
            if sum(want.total for want in wanted.values()) <= FULL:
                assert taken <= SPARE + 1e-6


class TestRoom:
    def test_a_tenant_alone_may_fill_two_hops(self) -> None:
        assert on_time("a", {}, 0.5)
        assert on_time("a", {"a": Want(1.5)}, 0.3)
        assert not on_time("a", {"a": Want(1.5)}, 0.31)

    def test_a_full_tenant_does_not_keep_others_out(self) -> None:
        wanted = {"many": Want(20.0, 1.0)}
        assert not on_time("many", wanted, 0.1)
        assert on_time("one", wanted, 0.1)

    def test_many_small_tenants_fill_it_too(self) -> None:
        wanted = {f"tenant {n}": Want(0.2) for n in range(20)}
        assert not on_time("one more", wanted, 0.2)

    def test_an_engine_that_says_nothing_has_room(self) -> None:
        assert on_time("a", {}, 0.0)
