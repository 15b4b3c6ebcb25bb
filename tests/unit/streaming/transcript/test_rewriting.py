"""Words of a corrected text: the same ones keep their times, the others share what is between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.model import Segment, Word
from streaming.transcript.rewriting import placed, rewritten

OLD = tuple(
    Word(text, at * 100, at * 100 + 80, 0.5) for at, text in enumerate(["we", "meat", "at", "the", "harbour"], 1)
)


def times(text: str, old: tuple[Word, ...] = OLD) -> list[tuple[str, int, int]]:
    return [(word.text, word.start_ms, word.end_ms) for word in placed(old, text.split(), 0, 1_000)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("We meat, at THE harbour!", [("We", 100, 180), ("meat,", 200, 280), ("at", 300, 380), ("THE", 400, 480),
                                      ("harbour!", 500, 580)]),
        ("we meet at the harbour", [("we", 100, 180), ("meet", 200, 280), ("at", 300, 380), ("the", 400, 480),
                                    ("harbour", 500, 580)]),
        ("we the harbour", [("we", 100, 180), ("the", 400, 480), ("harbour", 500, 580)]),
        ("we m eet at the harbour", [("we", 100, 180), ("m", 200, 220), ("eet", 220, 280), ("at", 300, 380),
                                     ("the", 400, 480), ("harbour", 500, 580)]),
        ("so we meat at the old harbour today", [("so", 0, 100), ("we", 100, 180), ("meat", 200, 280), ("at", 300, 380),
                                                 ("the", 400, 480), ("old", 480, 500), ("harbour", 500, 580),
                                                 ("today", 580, 1_000)]),
        ("nothing alike", [("nothing", 100, 380), ("alike", 380, 580)]),
        ("the", [("the", 400, 480)]),
    ],
)  # fmt: skip
def test_words_that_are_the_same_keep_their_times(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert times(text) == expected


def test_a_segment_without_words_shares_its_whole_time() -> None:
    assert times("one two", ()) == [("one", 0, 500), ("two", 500, 1_000)]


def test_the_next_revision_is_whole() -> None:
    old = Segment("s", 3, 4, 100, 580, "we meat at the harbour", OLD, "S1", "en", 0.5)
    new = rewritten(old, " we meet\tat  the\nharbour ")
    assert (new.segment_id, new.ordinal, new.rev, new.start_ms, new.end_ms) == ("s", 3, 5, 100, 580)
    assert (new.text, new.speaker, new.language) == ("we meet at the harbour", "S1", "en")
    assert [word.p for word in new.words] == [0.5, 1.0, 0.5, 0.5, 0.5], "a person is sure"
    assert new.confidence == pytest.approx(0.6)


WORDS = st.lists(st.sampled_from(["a", "b", "A,", "cc", "."]), max_size=12)


@given(old=WORDS, new=WORDS, gaps=st.lists(st.integers(0, 50), min_size=24, max_size=24))
def test_times_stay_in_order_and_inside(old: list[str], new: list[str], gaps: list[int]) -> None:
    at, before = 100, []
    for text, (pause, length) in zip(old, zip(gaps[::2], gaps[1::2], strict=True), strict=False):
        before.append(Word(text, at + pause, at + pause + length, 0.5))
        at += pause + length
    words = placed(before, new, 100, at)
    assert [word.text for word in words] == new
    edges = [100, *(edge for word in words for edge in (word.start_ms, word.end_ms)), at]
    assert edges == sorted(edges)
