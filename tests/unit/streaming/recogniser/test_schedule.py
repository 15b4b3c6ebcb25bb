"""Who is heard next, and together with whom."""

import random
from collections import Counter

import pytest

from streaming.recogniser.schedule import OLDEST_EVERY, OVERTAKES_MAX, REQUESTS_MAX, Job, Schedule


def opened(**tenants: int) -> Schedule:
    """`a=2, b=1`: utterances 1 and 2 of tenant a, 3 of b."""
    schedule, number = Schedule(), 0
    for tenant, count in tenants.items():
        for _ in range(count):
            number += 1
            schedule.open(number, tenant)
    return schedule


def drain(schedule: Schedule) -> list[Job]:
    jobs = []
    while taken := schedule.take():
        jobs += taken
    return jobs


class TestOneTenant:
    def test_finals_come_before_partials_and_each_kind_in_order(self) -> None:
        schedule = opened(a=4)
        schedule.partial(1, 10)
        schedule.partial(2, 20)
        schedule.final(3)
        schedule.final(4)
        assert len(schedule) == 4
        assert drain(schedule) == [Job(3), Job(4), Job(1, (10,)), Job(2, (20,))]
        assert (len(schedule), bool(schedule)) == (0, False)
        assert not Job(1, (1,)).is_final
        assert Job(1).is_final

    def test_a_newer_partial_joins_the_waiting_one_and_keeps_its_place(self) -> None:
        schedule = opened(a=2)
        schedule.partial(1, 10)
        schedule.partial(2, 20)
        schedule.partial(1, 11)
        assert drain(schedule) == [Job(1, (10, 11)), Job(2, (20,))]

    def test_the_requests_of_one_job_are_bounded(self) -> None:
        schedule = opened(a=1)
        for request in range(100):
            schedule.partial(1, request)
        assert drain(schedule) == [Job(1, tuple(range(100 - REQUESTS_MAX, 100)))]

    def test_a_final_takes_the_place_of_its_utterances_partial_and_comes_once(self) -> None:
        schedule = opened(a=1)
        schedule.partial(1, 10)
        schedule.final(1)
        schedule.final(1)
        schedule.partial(1, 11)
        assert drain(schedule) == [Job(1)]

    def test_a_dropped_utterance_wants_nothing(self) -> None:
        schedule = opened(a=2)
        schedule.partial(1, 10)
        schedule.final(2)
        for number in (1, 2, 2, 3):
            schedule.drop(number)
        assert drain(schedule) == []


class TestExpiry:
    def test_what_waited_too_long_is_handed_back_and_keeps_its_place(self) -> None:
        schedule = opened(a=3)
        schedule.partial(1, 10, now=0.0)
        schedule.partial(2, 20, now=1.0)
        schedule.partial(3, 30, now=1.0)
        assert schedule.expired(before=0.0) == []
        assert schedule.expired(before=0.5) == [Job(1, (10,))]
        assert schedule.expired(before=0.5) == []
        assert len(schedule) == 2
        schedule.partial(1, 11, now=1.1)
        assert drain(schedule) == [Job(1, (11,)), Job(2, (20,)), Job(3, (30,))]

    def test_a_newer_request_renews_it(self) -> None:
        schedule = opened(a=1)
        schedule.partial(1, 10, now=0.0)
        schedule.partial(1, 11, now=2.0)
        assert schedule.expired(before=1.0) == []

    def test_a_final_never_expires_and_what_was_handed_back_is_not_decoded(self) -> None:
        schedule = opened(a=2)
        schedule.partial(1, 10, now=0.0)
        schedule.partial(2, 20, now=0.0)
        schedule.final(2)
        assert schedule.expired(before=9.0) == [Job(1, (10,))]
        assert drain(schedule) == [Job(2)]


class TestTenants:
    def test_turns_go_by_frames_and_not_by_windows(self) -> None:
        schedule = opened(long=1, short=1)
        lengths, had = {1: 300, 2: 100}, Counter[int]()
        for request in range(40):
            for number in lengths:
                schedule.partial(number, request)
            had[schedule.take(lengths.__getitem__)[0].utterance] += 1
        assert had == {1: 10, 2: 30}

    def test_who_comes_back_goes_first_and_has_saved_nothing_up(self) -> None:
        schedule = opened(busy=1, rare=2)
        for request in range(100):
            schedule.partial(1, request)
            schedule.take()
        schedule.partial(1, 100)
        schedule.partial(2, 1)
        schedule.partial(3, 1)
        assert schedule.take() == [Job(2, (1,))]
        assert schedule.take() == [Job(1, (100,))], "a hundred turns ago is no credit"

    def test_finals_are_shared_out_too(self) -> None:
        schedule = opened(many=30, one=1)
        for number in range(1, 31):
            schedule.final(number)
        schedule.take()
        schedule.final(31)
        assert schedule.take() == [Job(31)]

    def test_a_flood_of_finals_lets_a_partial_through(self) -> None:
        schedule = opened(flood=30, one=1)
        for number in range(1, 31):
            schedule.final(number)
        schedule.partial(31, 1)
        order = [job.utterance for job in drain(schedule)]
        assert order.index(31) == OVERTAKES_MAX + 1, "the first final overtakes nobody: both had nothing"

    def test_a_final_does_not_wait_until_accounts_are_even(self) -> None:
        """A tenant that had much, among others whose finals keep coming: every third call is the oldest's."""
        schedule = opened(much=2, others=500)
        schedule.partial(1, 1)
        schedule.partial(3, 1)
        assert schedule.take(lambda _: 10**6) == [Job(1, (1,))]
        schedule.final(1)
        for number in range(10, 400):
            schedule.final(number)
        calls = 0
        while schedule.take() != [Job(1)]:
            calls += 1
        assert calls <= OLDEST_EVERY

    def test_debts_are_forgotten_when_nothing_waits(self) -> None:
        schedule = opened(a=1, b=1)
        schedule.partial(1, 1)
        schedule.take(lambda _: 1_000)
        assert schedule.take() == []
        schedule.partial(1, 2)
        schedule.partial(2, 2)
        assert schedule.spread == 0

    def test_a_debt_outlives_its_utterance(self) -> None:
        """Or a stream that catches up would begin anew with each of them."""
        schedule = opened(other=1, a=2)
        schedule.final(2)
        schedule.partial(1, 1)
        assert schedule.take(lambda _: 100) == [Job(2)]
        schedule.drop(2)
        schedule.drop(3)
        schedule.open(4, "a")
        schedule.partial(4, 1)
        assert schedule.spread == 100
        assert schedule.take() == [Job(1, (1,))]

    def test_tenants_that_left_are_forgotten(self) -> None:
        schedule = Schedule()
        for number in range(1_000):
            schedule.open(number, f"tenant {number}")
            schedule.final(number)
            schedule.take()
            schedule.drop(number)
        schedule.take()
        assert not schedule._tenants
        assert not schedule._left
        assert not schedule._owing


class TestBatches:
    def test_windows_of_equal_length_ride_along_finals_first_and_each_is_charged(self) -> None:
        schedule = opened(a=4, b=2)
        lengths = {1: 5, 2: 5, 3: 7, 4: 5, 5: 5, 6: 5}
        for number in (1, 2, 3, 5):
            schedule.partial(number, 1)
        schedule.final(4)
        schedule.final(6)
        assert [job.utterance for job in schedule.take(lengths.__getitem__, lambda _: 4)] == [4, 6, 1, 5]
        assert [job.utterance for job in schedule.take(lengths.__getitem__, lambda _: 4)] == [2]
        assert [job.utterance for job in schedule.take(lengths.__getitem__, lambda _: 4)] == [3]

    @pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1)])
    def test_a_suspect_is_alone(self, order: tuple[int, ...]) -> None:
        schedule = opened(a=2)
        schedule.open(3, "b", alone=True)
        for number in order:
            schedule.partial(number, 1)
        calls = [[job.utterance for job in schedule.take(room=lambda _: 8)] for _ in range(2)]
        assert sorted(map(sorted, calls)) == [[1, 2], [3]]

    def test_what_failed_together_is_tried_one_by_one_before_anything_else(self) -> None:
        schedule = opened(a=4)
        for number in (1, 2, 3):
            schedule.partial(number, 1)
        jobs = schedule.take(room=lambda _: 8)
        schedule.final(4)
        schedule.final(3)
        schedule.again(jobs)
        schedule.drop(2)
        assert [schedule.take(room=lambda _: 8) for _ in range(2)] == [[Job(1, (1,))], [Job(4), Job(3)]]


def test_whatever_happens_every_final_comes_once_and_nothing_is_left() -> None:
    rng = random.Random(1)
    schedule = Schedule()
    open_, finals, got = set[int](), set[int](), Counter[int]()
    for number in range(3_000):
        schedule.open(number, f"tenant {rng.randrange(9)}", alone=rng.random() < 0.1)
        open_.add(number)
        for _ in range(rng.randrange(4)):
            other = rng.choice(sorted(open_))
            if rng.random() < 0.3:
                schedule.final(other)
                finals.add(other)
            else:
                schedule.partial(other, number, now=number)
        schedule.expired(number - 50)
        jobs = schedule.take(lambda utterance: utterance % 3 + 1, lambda _: rng.randrange(1, 5))
        if len(jobs) > 1 and rng.random() < 0.1:
            schedule.again(jobs)
            continue
        for job in jobs:
            got[job.utterance] += job.is_final
            if job.is_final:
                schedule.drop(job.utterance)
                open_.discard(job.utterance)
    for job in drain(schedule):
        got[job.utterance] += job.is_final
    assert set(got.elements()) == finals
    assert set(got.values()) <= {0, 1}
