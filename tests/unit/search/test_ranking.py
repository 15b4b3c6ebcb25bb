"""The order of hits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.model import Found, Position
from search.ranking import RRF_K, WORDS_WEIGHT, aged, by_time, either, following, fused, grouped, order_key, positions

POSITIONS = st.lists(
    st.builds(Position, st.floats(0, 1), st.integers(0, 5), st.sampled_from("abcdefgh")),
    unique_by=lambda p: p.segment_id,
)


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
    assert names(order) == "cabd", "and words count more than meaning"
    assert order[0].score == WORDS_WEIGHT / (RRF_K + 3) + 1 / (RRF_K + 2)
    assert order[1].score == WORDS_WEIGHT / (RRF_K + 1)
    assert order[3].score == 1 / (RRF_K + 1)


def test_a_common_word_does_not_hide_what_is_meant() -> None:
    """Hits by words alone, however many, leave the nearest a place on the first page."""
    words = [Position(1.0, 1_000 - n, f"word-{n}") for n in range(500)]
    assert [p.segment_id for p in fused(words, [at("z", 0.9)])].index("z") == 16
    assert names(fused([], [])) == ""


@given(POSITIONS, POSITIONS)
def test_a_fused_order_is_total_and_holds_every_hit_once(one: list[Position], two: list[Position]) -> None:
    order = fused(one, two)
    assert {p.segment_id for p in order} == {p.segment_id for p in [*one, *two]}
    keys = [order_key(p) for p in order]
    assert keys == sorted(set(keys))
    assert [p.segment_id for p in fused(one, [])] == [p.segment_id for p in one], "a ranking alone keeps its order"


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
    shown = fused([at("a"), at("b"), at("c"), at("d")], [])
    now = fused([at("x"), at("a"), at("b"), at("c"), at("d")], [])
    assert names(following(now, shown[1])) == "cd"


def test_a_last_hit_that_is_gone_is_continued_at_its_place() -> None:
    assert names(following([at("a", 0.9), at("c", 0.5), at("d", 0.1)], at("b", 0.7))) == "cd"


DAY_US = 86_400_000_000


def found(name: str, score: float, days_old: float = 0.0) -> Found:
    return Found(name, "r", int((1_000 - days_old) * DAY_US), score)


def test_what_is_older_scores_up_to_a_fifth_less() -> None:
    order = aged([found("a", 1.0, 30), found("b", 0.95), found("c", 1.0), found("d", 1.0, 1_000)], 1_000 * DAY_US)
    assert names(order) == "cbad"
    assert order[2].score == pytest.approx(0.9)
    assert 0.8 < order[3].score < 0.81
    assert aged([found("a", 1.0, -5)], 1_000 * DAY_US)[0].score == 1.0, "what is said to be of tomorrow is of now"


def test_equal_scores_are_ordered_by_age_and_id() -> None:
    assert names(positions([found("b", 1.0, 1), found("z", 1.0), found("a", 1.0, 1)])) == "zab"


def test_what_two_models_found_counts_once_by_its_better_rank() -> None:
    one = [at("a", 0.9), at("b", 0.8), at("c", 0.7)]
    two = [at("c", 0.3), at("d", 0.2), at("a", 0.1)]
    order = either([one, two])
    assert names(order) == "cadb", "equal ranks: the newer first"
    assert names(either([two, one])) == "cadb"
    assert order[0].score == order[1].score == 1 / (RRF_K + 1)
    assert either([one]) == one, "the cosines of one model stay"


@given(POSITIONS, POSITIONS)
def test_either_of_two_is_total_and_holds_every_hit_once(one: list[Position], two: list[Position]) -> None:
    order = either([one, two])
    assert {p.segment_id for p in order} == {p.segment_id for p in [*one, *two]}
    keys = [order_key(p) for p in order]
    assert keys == sorted(set(keys))


def test_the_best_of_each_recording_and_how_many_more() -> None:
    order = [at(name) for name in "abcde"]
    best, more = grouped(order, {"a": "x", "b": "y", "c": "x", "d": "x", "e": "z"})
    assert names(best) == "abe"
    assert more == {"a": 2, "b": 0, "e": 0}
    assert grouped([], {}) == ([], {})
