"""Numbered events: each once, in order."""

from hypothesis import given
from hypothesis import strategies as st
from parlance_client.rooms import Cursor, Verdict


def verdicts(cursor: Cursor, *seqs: int) -> list[Verdict]:
    return [cursor.offer(seq) for seq in seqs]


def test_a_replay_that_overlaps_is_delivered_once() -> None:
    cursor = Cursor(3)
    cursor.joined(6)
    assert verdicts(cursor, 3, 4, 5, 5, 4, 6, 7) == [
        Verdict.DUPLICATE,
        Verdict.DELIVER,
        Verdict.DELIVER,
        Verdict.DUPLICATE,
        Verdict.DUPLICATE,
        Verdict.DELIVER,
        Verdict.DELIVER,
    ]


def test_without_a_position_it_begins_after_the_join() -> None:
    cursor = Cursor(None)
    cursor.joined(10)
    assert verdicts(cursor, 10, 11) == [Verdict.DUPLICATE, Verdict.DELIVER]


def test_an_event_before_the_confirmation_sets_the_position() -> None:
    cursor = Cursor(None)
    assert cursor.offer(11) is Verdict.DELIVER
    cursor.joined(10)
    assert verdicts(cursor, 11, 12) == [Verdict.DUPLICATE, Verdict.DELIVER]


def test_a_gap_is_healed_by_joining_again() -> None:
    cursor = Cursor(0)
    cursor.joined(1)
    assert verdicts(cursor, 1, 3, 4) == [Verdict.DELIVER, Verdict.GAP, Verdict.GAP]
    assert cursor.seen == 1
    cursor.joined(4)
    assert verdicts(cursor, 2, 3, 4) == [Verdict.DELIVER] * 3


def test_a_gap_that_joining_again_does_not_fill_is_a_loss() -> None:
    cursor = Cursor(1)
    cursor.joined(4)
    assert verdicts(cursor, 3, 4) == [Verdict.GAP, Verdict.GAP]
    cursor.joined(4)
    assert cursor.offer(3) is Verdict.LOST
    assert verdicts(cursor, 2, 3, 5) == [Verdict.DELIVER, Verdict.DELIVER, Verdict.GAP]


@given(st.lists(st.integers(1, 30), max_size=80))
def test_what_is_delivered_grows_by_exactly_one(seqs: list[int]) -> None:
    cursor = Cursor(0)
    delivered = [seq for seq in seqs if cursor.offer(seq) is Verdict.DELIVER]
    assert delivered == list(range(1, len(delivered) + 1))
