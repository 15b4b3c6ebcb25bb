"""The order of hits and highlight ranges."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from search.model import Position
from search.query import words_of
from search.ranking import MARK_START, MARK_STOP, RRF_K, by_time, following, fused, highlights, merged, order_key

POSITIONS = st.lists(
    st.builds(Position, st.floats(0, 1), st.integers(0, 5), st.sampled_from("abcdefgh")),
    unique_by=lambda p: p.segment_id,
)
RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)))


def test_best_first_then_newest_then_id() -> None:
    positions = [
        Position(0.5, 20, "b"),
        Position(0.9, 10, "z"),
        Position(0.5, 30, "y"),
        Position(0.5, 20, "a"),
    ]
    assert [p.segment_id for p in sorted(positions, key=order_key)] == ["z", "y", "a", "b"]


def at(name: str, score: float = 0.0) -> Position:
    return Position(score, ord(name), name)


def names(order: object) -> str:
    return "".join(position.segment_id for position in order)  # type: ignore[attr-defined]


def test_a_hit_of_both_rankings_stands_above_the_best_of_either() -> None:
    order = fused([at("a", 9.0), at("b", 8.0), at("c", 7.0)], [at("d", 0.9), at("c", 0.8)])
    assert names(order) == "cdab"
    assert order[0].score == 1 / (RRF_K + 3) + 1 / (RRF_K + 2)
    assert order[1].score == order[2].score == 1 / (RRF_K + 1), "equal ranks: the newer first"
    assert names(fused([], [])) == ""


@given(POSITIONS, POSITIONS)
def test_a_fused_order_is_total_and_holds_every_hit_once(one: list[Position], two: list[Position]) -> None:
    order = fused(one, two)
    assert {p.segment_id for p in order} == {p.segment_id for p in [*one, *two]}
    keys = [order_key(p) for p in order]
    assert keys == sorted(set(keys))
    assert [p.segment_id for p in fused(one)] == [p.segment_id for p in one], "a ranking alone keeps its order"


@given(POSITIONS, POSITIONS)
def test_by_time_holds_every_hit_once_newest_first(one: list[Position], two: list[Position]) -> None:
    one = [Position(p.score, ord(p.segment_id), p.segment_id) for p in one]
    two = [Position(p.score, ord(p.segment_id), p.segment_id) for p in two]
    order = by_time(one, two)
    assert names(order) == "".join(sorted({p.segment_id for p in [*one, *two]}, reverse=True))
    assert {p.score for p in order} <= {0.0}


@given(POSITIONS, st.integers(1, 3))
def test_pages_of_one_order_are_the_order(order: list[Position], size: int) -> None:
    order = sorted(order, key=order_key)
    rest, seen = list(order), []
    while rest:
        seen += rest[:size]
        rest = list(following(order, seen[-1]))
    assert seen == order


def test_what_is_put_in_above_the_last_hit_repeats_nothing() -> None:
    shown = fused([at("a"), at("b"), at("c"), at("d")])
    now = fused([at("x"), at("a"), at("b"), at("c"), at("d")])
    assert names(following(now, shown[1])) == "cd"


def test_a_last_hit_that_is_gone_is_continued_at_its_place() -> None:
    assert names(following([at("a", 0.9), at("c", 0.5), at("d", 0.1)], at("b", 0.7))) == "cd"


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
