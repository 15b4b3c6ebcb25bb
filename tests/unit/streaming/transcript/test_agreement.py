"""Agreement on hypotheses written as text; every word takes 400 ms unless a test says otherwise."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.model import Hypothesis, Word
from streaming.transcript.agreement import Agreement, join, text_of


def timed(text: str, start_ms: int = 0, word_ms: int = 400) -> tuple[Word, ...]:
    return tuple(
        Word(word, start_ms + i * word_ms, start_ms + (i + 1) * word_ms)
        for i, word in enumerate(text.split(" "))
        if word
    )


def hyp(text: str, start_ms: int = 0) -> Hypothesis:
    return Hypothesis(timed(text, start_ms), until_sample=0)


def after(*texts: str, n: int = 2, holdback: int = 0) -> Agreement:
    agreement = Agreement(n, holdback)
    for text in texts:
        agreement.update(hyp(text))
    return agreement


def shown(agreement: Agreement) -> tuple[str, str]:
    return agreement.stable, agreement.unstable


def test_nothing_is_stable_before_n_hypotheses() -> None:
    assert shown(after()) == ("", "")
    assert shown(after("so my fellow")) == ("", "so my fellow")
    assert shown(after("so my", "so my", n=3)) == ("", "so my")


def test_the_common_beginning_is_committed() -> None:
    assert shown(after("so my fellow", "so my yellow bird")) == ("so my", " yellow bird")
    assert shown(after("so my", "so my fellow", "so my fellow americans", n=3)) == ("so my", " fellow americans")


def test_only_hypotheses_in_a_row_count() -> None:
    assert shown(after("so my", "so he", "so my")) == ("so", " my")


def test_the_newest_words_are_held_back() -> None:
    assert shown(after("a b c d", "a b c d", holdback=2)) == ("a b", " c d")
    assert shown(after("a b c d", "a b c d e", holdback=2)) == ("a b c", " d e")
    assert shown(after("a", "a", holdback=2)) == ("", "a")


def test_one_hypothesis_can_be_enough() -> None:
    assert shown(after("a b c", n=1, holdback=1)) == ("a b", " c")


def test_case_and_punctuation_do_not_break_agreement_and_the_newest_spelling_is_kept() -> None:
    assert shown(after("hello world", "Hello, world. And")) == ("Hello, world.", " And")


def test_committed_words_keep_their_spelling() -> None:
    assert shown(after("hello world", "hello world", "Hello, World! again")) == ("hello world", " again")


def test_different_signs_are_different_words() -> None:
    assert shown(after("C++ $ 5", "C € 5")) == ("", "C € 5")


def test_a_hypothesis_below_what_is_committed_takes_nothing_back() -> None:
    agreement = after("a b c d", "a b c d", "a b")
    assert shown(agreement) == ("a b c d", "")
    agreement.update(hyp("a b c d e"))
    assert shown(agreement) == ("a b c d", " e")
    agreement.update(hyp("a b c d e"))
    assert shown(agreement) == ("a b c d e", "")


def test_a_contradicted_beginning_stays_and_the_rest_goes_on_behind_it() -> None:
    agreement = after("the cat sad on", "the cat sad on", "the cat sat on the mat", "the cat sat on the mat")
    assert shown(agreement) == ("the cat sad on the mat", "")


def test_the_final_text_goes_on_from_what_is_committed() -> None:
    agreement = after("the cat sad", "the cat sad")
    assert text_of(agreement.finish(hyp("the cat sat on the mat"))) == "the cat sad on the mat"
    assert shown(agreement) == ("the cat sad", "")


def test_a_shorter_or_empty_final_keeps_what_is_committed() -> None:
    assert text_of(after("a b c", "a b c").finish(hyp("a b"))) == "a b c"
    assert text_of(after("a b c", "a b c").finish(Hypothesis((), 0))) == "a b c"
    assert after().finish(Hypothesis((), 0)) == ()


def test_times_and_confidence_come_from_the_final_where_it_agrees() -> None:
    agreement = after("hello world", "hello world")
    final = Hypothesis((Word("Hello,", 50, 300, 0.9), Word("world", 320, 700, 0.8), Word("again", 710, 900, 0.7)), 0)
    assert agreement.finish(final) == (
        Word("hello", 50, 300, 0.9),
        Word("world", 320, 700, 0.8),
        Word("again", 710, 900, 0.7),
    )


@pytest.mark.parametrize(
    ("committed", "words", "rest"),
    [
        ("a b c", "a b c d e", "d e"),
        ("the cat sad", "the cat sat on", "on"),  # replaced
        ("hello world", "world peace", "peace"),  # the first word was lost
        ("a world", "hello a world peace", "peace"),  # a word came in
        ("no no no", "no no nope then", "then"),  # a repetition was none
        ("i i think", "i think so", "so"),  # said twice, written once
        ("yes yes", "yes yes yes", "yes"),  # said three times
        ("the website", "the web site is", "is"),  # one word became two
        ("the web site", "the website is", "is"),  # two became one
        ("a b c d", "a b", ""),  # shorter
        ("a b", "", ""),
    ],
)
def test_the_joint_neither_doubles_nor_loses_a_word(committed: str, words: str, rest: str) -> None:
    candidate = timed(words)
    assert text_of(candidate[join(timed(committed), candidate) :]) == rest


@pytest.mark.parametrize(("start_ms", "rest"), [(0, "z"), (400, "y z"), (800, "x y z"), (1_200, "w x y z")])
def test_where_the_words_do_not_decide_time_does(start_ms: int, rest: str) -> None:
    """Nothing in common: all joints up to the third cost the same."""
    candidate = timed("w x y z", start_ms)
    assert text_of(candidate[join(timed("a b c"), candidate) :]) == rest


def test_a_word_that_moved_a_little_is_the_same_word_and_one_farther_off_is_another() -> None:
    """To replace "b" by "y", or to leave out "x" before "b", costs the same."""
    near = (Word("x", 0, 400), Word("y", 400, 650), Word("b", 650, 1_050))
    assert text_of(near[join(timed("a b"), near) :]) == ""
    far = (Word("x", 0, 400), Word("y", 400, 800), Word("b", 1_400, 1_800))
    assert text_of(far[join(timed("a b"), far) :]) == "b"


def test_without_any_times_a_match_decides() -> None:
    candidate = tuple(Word(text, 0, 0) for text in ("x", "y", "b", "c"))
    assert text_of(candidate[join((Word("a", 0, 0), Word("b", 0, 0)), candidate) :]) == "c"


def test_words_are_cleaned_and_composed() -> None:
    agreement = Agreement(1, 0)
    decomposed = unicodedata.normalize("NFD", "café")
    agreement.update(Hypothesis((Word(f" {decomposed} ", 0, 1), Word("  ", 1, 2), Word("New  York\n", 2, 3)), 0))
    assert agreement.stable == "café New York"
    agreement.update(Hypothesis((*timed("café New York"), Word("nul\0", 4_000, 4_100), Word("\0", 4_100, 4_200)), 0))
    assert agreement.stable == "café New York nul"


@pytest.mark.parametrize(("n", "holdback"), [(-1, 0), (2, -1)])
def test_impossible_policies_are_refused(n: int, holdback: int) -> None:
    with pytest.raises(ValueError, match="agreement"):
        Agreement(n, holdback)


def test_what_the_engine_fixed_is_committed_at_once_and_nothing_else_when_n_is_0() -> None:
    agreement = Agreement(0, 0)
    for fixed in (0, 0, 2):
        agreement.update(Hypothesis(timed("so my fellow"), until_sample=0, fixed=fixed))
    assert shown(agreement) == ("so my", " fellow")
    agreement.update(Hypothesis(timed("so my yellow bird"), until_sample=0, fixed=2))
    assert shown(agreement) == ("so my", " yellow bird")
    assert text_of(agreement.finish(Hypothesis(timed("so my yellow birds"), until_sample=0, fixed=4))) == (
        "so my yellow birds"
    )


def test_fixed_words_need_no_agreement() -> None:
    agreement = Agreement(2, 1)
    agreement.update(Hypothesis(timed("a b c"), until_sample=0, fixed=2))
    assert shown(agreement) == ("a b", " c")


vocabulary = st.sampled_from(["a", "b", "c", "A", "b,", "the", "web", "site", "website", "…", "Straße", "strasse"])
texts = st.lists(vocabulary, max_size=10).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(
    hypotheses=st.lists(st.tuples(texts, st.integers(0, 1_000)), max_size=8),
    final=texts,
    n=st.integers(1, 3),
    holdback=st.integers(0, 2),
)
def test_stable_only_grows_and_the_final_begins_with_it(
    hypotheses: list[tuple[str, int]], final: str, n: int, holdback: int
) -> None:
    agreement = Agreement(n, holdback)
    words: tuple[Word, ...] = ()
    for text, start_ms in hypotheses:
        before = agreement.stable
        agreement.update(hyp(text, start_ms))
        assert agreement.stable.startswith(before)
        assert agreement.stable_words[: len(words)] == words
        words = agreement.stable_words
        for part in shown(agreement):
            assert part == part.rstrip()
        assert agreement.unstable.startswith(" ") == bool(agreement.stable and agreement.unstable)
        assert agreement.stable == "" or agreement.stable.split(" ") == [word.text for word in words]
    result = agreement.finish(hyp(final))
    assert [word.text for word in result[: len(words)]] == [word.text for word in words]
    assert text_of(result).startswith(agreement.stable)
    assert len(result) <= len(words) + len(final.split())


@settings(max_examples=100, deadline=None)
@given(
    full=st.lists(vocabulary, max_size=12), cuts=st.lists(st.integers(0, 12), max_size=8), holdback=st.integers(0, 2)
)
def test_where_all_agree_the_final_is_the_hypothesis_itself(full: list[str], cuts: list[int], holdback: int) -> None:
    agreement = Agreement(2, holdback)
    for count in sorted(cuts):
        agreement.update(hyp(" ".join(full[:count])))
        assert agreement.stable + agreement.unstable == " ".join(full[:count])
    assert agreement.finish(hyp(" ".join(full))) == timed(" ".join(full))


@settings(max_examples=100, deadline=None)
@given(
    committed=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8),
    wrong=st.integers(0, 7),
    rest=st.lists(st.sampled_from("stuvwxyz"), max_size=6),
)
def test_one_misheard_word_does_not_move_the_joint(committed: list[str], wrong: int, rest: list[str]) -> None:
    """The final hears one committed word differently, at the same time: exactly the rest follows."""
    final = list(committed)
    final[wrong % len(final)] = "misheard"
    candidate = timed(" ".join(final + rest))
    assert [word.text for word in candidate[join(timed(" ".join(committed)), candidate) :]] == rest
