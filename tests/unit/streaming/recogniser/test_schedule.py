"""Who is heard next."""

from streaming.recogniser.schedule import REQUESTS_MAX, Job, Schedule


def drain(schedule: Schedule) -> list[Job]:
    jobs = []
    while (job := schedule.take()) is not None:
        jobs.append(job)
    return jobs


def test_finals_come_before_partials_and_each_kind_in_order() -> None:
    schedule = Schedule()
    schedule.partial(1, 10)
    schedule.partial(2, 20)
    schedule.final(3)
    schedule.final(4)
    assert len(schedule) == 4
    assert drain(schedule) == [Job(3), Job(4), Job(1, (10,)), Job(2, (20,))]
    assert len(schedule) == 0


def test_a_newer_partial_joins_the_waiting_one_and_keeps_its_place() -> None:
    schedule = Schedule()
    schedule.partial(1, 10)
    schedule.partial(2, 20)
    schedule.partial(1, 11)
    assert drain(schedule) == [Job(1, (10, 11)), Job(2, (20,))]


def test_the_requests_of_one_job_are_bounded() -> None:
    schedule = Schedule()
    for request in range(100):
        schedule.partial(1, request)
    assert drain(schedule) == [Job(1, tuple(range(100 - REQUESTS_MAX, 100)))]


def test_a_final_takes_the_place_of_its_utterances_partial_and_comes_once() -> None:
    schedule = Schedule()
    schedule.partial(1, 10)
    schedule.final(1)
    schedule.final(1)
    schedule.partial(1, 11)
    assert drain(schedule) == [Job(1)]


def test_a_dropped_utterance_wants_nothing() -> None:
    schedule = Schedule()
    schedule.partial(1, 10)
    schedule.final(2)
    schedule.drop(1)
    schedule.drop(2)
    schedule.drop(3)
    assert drain(schedule) == []
    assert not Job(1, (1,)).is_final
    assert Job(1).is_final
