"""When a word is fixed."""

from hypothesis import given
from hypothesis import strategies as st

from streaming.recogniser.policy import LocalAgreement, Piece, Tail, ends_sentence, newest

SPAN = LocalAgreement().span


def heard(words: list[str], until: int) -> Tail:
    return Tail(tuple(Piece(word, (), 0, 0, 1.0) for word in words), until)


def fixed(*tails: str, at_rest: bool = False, step: int = SPAN) -> int:
    """Windows that end `step` samples apart."""
    windows = [heard(tail.split(), n * step) for n, tail in enumerate(tails)]
    return LocalAgreement().fixed(newest(windows, SPAN), at_rest=at_rest)


def test_what_two_windows_begin_with_but_for_the_last_word() -> None:
    assert fixed("we moved", "we moved the") == 2
    assert fixed("we moved", "we moved") == 1
    assert fixed("you moved", "we moved") == 0
    assert fixed("we moved") == 0
    assert fixed("", "") == 0


def test_a_sentence_that_is_at_rest_is_fixed_whole() -> None:
    assert fixed("we moved.", "we moved.", at_rest=True) == 2
    assert fixed("we moved.", "we moved.") == 1
    assert fixed("we moved", "we moved.", at_rest=True) == 1


def test_all_windows_of_the_span_have_to_agree() -> None:
    half, third = SPAN // 2, SPAN // 3
    assert fixed("a b", "a b c", step=half) == 0, "they do not reach back so far"
    assert fixed("a", "a b c", "a b c d", step=half) == 1
    assert fixed("a b c d", "a b x d", "a b c d", "a b c d", step=third) == 2
    assert fixed("x", "a b", "a b c", "a b c d", step=half) == 2, "the first lies before the span"
    assert fixed("a b c", "a b c d", step=SPAN - 1) == 0
    assert fixed("x", "a b c", "a b c d", step=2 * SPAN) == 3


@given(st.lists(st.integers(1, 3 * SPAN), min_size=1, max_size=9))
def test_of_many_windows_those_within_the_span_and_one_before(steps: list[int]) -> None:
    untils = [sum(steps[: n + 1]) for n in range(len(steps))]
    kept = [tail.until for tail in newest([heard([], until) for until in untils], SPAN)]
    within = [until for until in untils if until > untils[-1] - SPAN]
    assert kept == untils[-len(within) - 1 :]


@given(st.lists(st.lists(st.sampled_from(["a", "b.", "c"]), max_size=5), max_size=2), st.booleans())
def test_no_more_than_was_heard(tails: list[list[str]], at_rest: bool) -> None:
    count = LocalAgreement().fixed([heard(tail, n * SPAN) for n, tail in enumerate(tails)], at_rest=at_rest)
    assert 0 <= count <= min(map(len, tails), default=0)


def test_the_end_of_a_sentence() -> None:
    assert all(map(ends_sentence, ["on.", "on?", 'on."', "好。", "है।"]))
    assert not any(map(ends_sentence, ["on", "on,", "", '"']))
