"""Aligned tokens become the final's own words again, or nothing at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.recogniser.alignment import Times, Token, primary, spoken, times_of, transcript

ALPHABET = frozenset({"<pad>", "|", "'", *"abcdefghijklmnopqrstuvwxyz"})


def tokens(*placed: tuple[str, float | None, float | None]) -> list[Token]:
    return [Token(*item) for item in placed]


def aligned(words: list[str], *placed: tuple[str, float | None, float | None], language: str = "en") -> Times | None:
    return times_of(words, tokens(*placed), alphabet=ALPHABET, language=language, duration_ms=2_000)


class TestWhatIsSpoken:
    @pytest.mark.parametrize(
        ("word", "heard"),
        [("Hello,", "Hello"), ("don’t", "don't"), ("\"Yes!\"", "Yes"), ("2,000", "2000"), ("long-term", "longterm"),
         ("New York", "NewYork"), ("—", ""), ("|<pad>", "pad"), ("Größe", "Größe")],
    )  # fmt: skip
    def test_a_word_loses_what_nobody_speaks(self, word: str, heard: str) -> None:
        assert spoken(word, ALPHABET) == heard

    def test_an_apostrophe_that_the_model_does_not_know_goes_too(self) -> None:
        assert spoken("don't", ALPHABET - {"'"}) == "dont"

    def test_the_text_has_one_token_for_each_heard_word(self) -> None:
        assert transcript(["Well,", "—", "New York!"], ALPHABET, "en") == "Well NewYork"
        assert transcript(["你好,", "世界"], ALPHABET, "zh") == "你好世界"
        assert transcript(["—", "..."], ALPHABET, "en") == ""

    def test_a_language_is_told_by_its_first_part(self) -> None:
        assert (primary("de-AT"), primary("EN")) == ("de", "en")


class TestTimes:
    def test_words_get_the_times_of_their_tokens(self) -> None:
        got = aligned(["Hello,", "world."], ("Hello", 0.1, 0.5), ("world", 0.6, 1.0))
        assert got == ((100, 500), (600, 1_000))

    def test_a_word_that_nobody_speaks_shares_the_room_between_its_neighbours(self) -> None:
        got = aligned(["a", "—", "...", "b"], ("a", 0.0, 0.4), ("b", 0.8, 1.0))
        assert got == ((0, 400), (400, 500), (500, 800), (800, 1_000))

    def test_at_the_edges_it_takes_no_time(self) -> None:
        assert aligned(["—", "a", "—"], ("a", 0.3, 0.4)) == ((300, 300), (300, 400), (400, 400))

    def test_a_token_without_a_place_is_interpolated(self) -> None:
        got = aligned(["a", "42", "b"], ("a", 0.0, 0.4), ("42", None, None), ("b", 0.8, 1.0))
        assert got == ((0, 400), (400, 800), (800, 1_000))

    def test_characters_are_put_together_where_words_have_no_spaces(self) -> None:
        got = aligned(["你好", "吗"], ("你", 0.1, 0.2), ("好", 0.2, 0.4), ("吗", 0.5, 0.6), language="zh")
        assert got == ((100, 400), (500, 600))

    def test_the_last_frame_may_reach_beyond_the_audio(self) -> None:
        assert aligned(["a"], ("a", 1.5, 2.02)) == ((1_500, 2_000),)

    @pytest.mark.parametrize(
        "placed",
        [
            (("a", 0.0, 0.4),),
            (("a", 0.0, 0.4), ("b", 0.5, 0.6), ("c", 0.7, 0.8)),
            (("a", 0.0, 0.4), ("c", 0.5, 0.6)),
            (("a", 0.5, 0.7), ("b", 0.6, 0.9)),
            (("a", 0.5, 0.4), ("b", 0.6, 0.9)),
            (("a", -0.1, 0.4), ("b", 0.6, 0.9)),
            (("a", 0.1, 0.4), ("b", 0.6, 2.1)),
            (("a", None, None), ("b", None, None)),
        ],
        ids=["too few", "too many", "another word", "overlap", "backwards", "early", "late", "nowhere"],
    )
    def test_what_does_not_fit_is_no_alignment(
        self, placed: tuple[tuple[str, float | None, float | None], ...]
    ) -> None:
        assert aligned(["a", "b"], *placed) is None

    def test_words_without_anything_heard_are_not_aligned(self) -> None:
        assert aligned(["—"]) is None
        assert aligned([]) is None


@given(
    words=st.lists(st.text("ab —9", min_size=1, max_size=5), max_size=8),
    cuts=st.lists(st.one_of(st.none(), st.floats(-0.5, 3.0)), min_size=16, max_size=16),
)
def test_whatever_comes_back_the_words_keep_their_order(words: list[str], cuts: list[float | None]) -> None:
    heard = [spoken(word, ALPHABET) for word in words]
    back = [Token(text, *cuts[2 * n : 2 * n + 2]) for n, text in enumerate(heard) if text]
    got = times_of(words, back, alphabet=ALPHABET, language="en", duration_ms=2_000)
    if got is None:
        return
    assert len(got) == len(words)
    edges = [edge for times in got for edge in times]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= 2_000
