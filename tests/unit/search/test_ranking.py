"""The order of hits and highlight ranges."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from search.model import Position
from search.query import words_of
from search.ranking import MARK_START, MARK_STOP, highlights, merged, order_key

RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)))


def test_best_first_then_newest_then_id() -> None:
    positions = [
        Position(0.5, 20, "b"),
        Position(0.9, 10, "z"),
        Position(0.5, 30, "y"),
        Position(0.5, 20, "a"),
    ]
    assert [p.segment_id for p in sorted(positions, key=order_key)] == ["z", "y", "a", "b"]


@given(RANGES)
def test_merged_ranges_cover_the_same_and_stay_apart(ranges: list[tuple[int, int]]) -> None:
    out = merged(ranges)
    assert {i for a, b in out for i in range(a, b)} == {i for a, b in ranges for i in range(a, b)}
    assert all(a < b for a, b in out)
    assert all(one[1] < two[0] for one, two in pairwise(out))


def mark(*words: str) -> str:
    """`*word` is marked."""
    return " ".join(f"{MARK_START}{w[1:]}{MARK_STOP}" if w[0] == "*" else w for w in words)


def parts(text: str, *marked: str) -> list[str]:
    return [text[a:b] for a, b in highlights(words_of(text), marked)]


def test_marks_of_both_configurations_count() -> None:
    assert parts("She runs, we run.", mark("she", "*runs", "we", "run"), mark("she", "runs", "we", "*run")) == [
        "runs",
        "run",
    ]


def test_positions_are_code_points_of_the_text_not_of_its_folded_form() -> None:
    assert parts("😀 ΣΊΣΥΦΟΣ 🎉 Straße!", mark("σίσυφοσ", "*strasse")) == ["Straße"]


def test_words_that_are_joined_and_both_match_are_one_range() -> None:
    assert parts("O'Brien isn’t", mark("*o", "*brien", "isn", "*t")) == ["O'Brien", "t"]
    assert parts("l'eau", mark("l", "*eau")) == ["eau"]


def test_neighbours_with_a_space_between_are_two_ranges() -> None:
    assert parts("green tea", mark("*green", "*tea")) == ["green", "tea"]


def test_a_cut_or_missing_marked_text_marks_what_it_has() -> None:
    assert parts("one two three", mark("*one"), "") == ["one"]
    assert parts("", "") == []
