"""When a word is fixed."""

from hypothesis import given
from hypothesis import strategies as st

from streaming.recogniser.policy import LocalAgreement, Piece, ends_sentence


def heard(words: list[str]) -> list[Piece]:
    return [Piece(word, (), 0, 0, 1.0) for word in words]


def fixed(*tails: str, at_rest: bool = False, windows: int = 2) -> int:
    return LocalAgreement(windows).fixed([heard(tail.split()) for tail in tails], until=0, at_rest=at_rest)


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


def test_three_windows_agree_on_less() -> None:
    assert fixed("a b", "a b c", windows=3) == 0
    assert fixed("a", "a b c", "a b c d", windows=3) == 1


@given(st.lists(st.lists(st.sampled_from(["a", "b.", "c"]), max_size=5), max_size=2), st.booleans())
def test_no_more_than_was_heard(tails: list[list[str]], at_rest: bool) -> None:
    count = LocalAgreement().fixed([heard(tail) for tail in tails], until=0, at_rest=at_rest)
    assert 0 <= count <= min(map(len, tails), default=0)


def test_the_end_of_a_sentence() -> None:
    assert all(map(ends_sentence, ["on.", "on?", 'on."', "好。", "है।"]))
    assert not any(map(ends_sentence, ["on", "on,", "", '"']))
