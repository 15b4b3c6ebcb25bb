"""What an engine keeps of an utterance, and where its next window begins."""

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming.model import SAMPLE_RATE
from streaming.recogniser.policy import LocalAgreement, Piece, Tail
from streaming.recogniser.rolling import (
    PREFIX_TOKENS_MAX,
    REST_SAMPLES,
    Progress,
    advance,
    cut_words,
    echo_words,
    heard,
    is_at_rest,
    loud_steps,
    placed,
    spread,
    tightened,
    trimmed,
    without_echo,
)

WORD = SAMPLE_RATE // 4


def pieces(text: str, at: int = 0) -> tuple[Piece, ...]:
    """Words of 250 ms, one after the other."""
    return tuple(
        Piece(word, (number,), at + number * WORD, at + (number + 1) * WORD, 1.0)
        for number, word in enumerate(text.split())
    )


def after(*tails: str, at_rest: bool = True) -> Progress:
    """After windows that heard these tails, each behind what was fixed before it."""
    progress = Progress()
    for number, tail in enumerate(tails):
        progress = advance(progress, pieces(tail), LocalAgreement(), until=number * SAMPLE_RATE, at_rest=at_rest)
    return progress


def texts(words: tuple[Piece, ...]) -> str:
    return " ".join(piece.text for piece in words)


def test_words_that_two_windows_heard_are_fixed_but_not_the_last() -> None:
    progress = after("we moved", "we moved the launch")
    assert (texts(progress.fixed), texts(progress.words)) == ("we moved", "we moved the launch")
    assert texts(after("we moved", "we moved").fixed) == "we"
    assert texts(after("we moved", "you moved").fixed) == ""
    assert texts(after("we moved").fixed) == ""


def test_a_sentence_that_has_ended_is_fixed_whole_once_silence_follows() -> None:
    assert texts(after("we moved.", "we moved.").fixed) == "we moved."
    assert texts(after("we moved.", "we moved.", at_rest=False).fixed) == "we"
    assert texts(after("we moved", "we moved.").fixed) == "we"


def test_case_and_punctuation_do_not_matter_and_the_newest_spelling_counts() -> None:
    assert texts(after("We moved, the", "we Moved the launch").fixed) == "we Moved the"


def test_a_long_window_loses_its_finished_sentences() -> None:
    progress = after("we moved. the launch is", "we moved. the launch is on")
    assert texts(progress.fixed) == "we moved. the launch is"
    assert trimmed(progress, 5 * WORD, 6 * WORD) is progress
    cut = trimmed(progress, 7 * WORD, 6 * WORD)
    assert (cut.cut, cut.cut_words, texts(cut.given)) == (2 * WORD, 2, "the launch is")
    assert texts(cut.words) == texts(progress.words)
    assert trimmed(cut, 7 * WORD, 0) is cut, "no other sentence has ended"


def test_what_ends_the_window_is_not_cut_off() -> None:
    progress = after("we moved.", "we moved.")
    assert trimmed(progress, 100 * WORD, 0) is progress, "a window of silence alone invites inventions"


def test_given_words_do_not_fill_the_decoder() -> None:
    many = tuple(Piece("word", tuple(range(10)), n * WORD, (n + 1) * WORD, 1.0) for n in range(PREFIX_TOKENS_MAX))
    progress = Progress(fixed=many, tails=(Tail(pieces("on", at=len(many) * WORD), 0),))
    cut = trimmed(progress, (len(many) + 1) * WORD, 1_000 * SAMPLE_RATE)
    assert sum(len(piece.tokens) for piece in cut.given) <= PREFIX_TOKENS_MAX


class TestEcho:
    """Windows without given words, after a cut at 2 s."""

    BEFORE = Progress(fixed=pieces("moved to friday."), cut=2 * SAMPLE_RATE, cut_words=3)

    def test_several_words_again_are_an_echo(self) -> None:
        tail = pieces("to Friday. next", at=3 * SAMPLE_RATE)
        progress, rest = without_echo(self.BEFORE, tail)
        assert (texts(rest), progress.cut) == ("next", tail[1].end)

    def test_one_word_only_right_behind_the_cut(self) -> None:
        assert texts(without_echo(self.BEFORE, pieces("friday next", at=2 * SAMPLE_RATE))[1]) == "next"
        assert texts(without_echo(self.BEFORE, pieces("friday next", at=3 * SAMPLE_RATE))[1]) == "friday next"

    def test_behind_given_words_and_at_the_beginning_there_is_none(self) -> None:
        tail = pieces("to friday.", at=2 * SAMPLE_RATE)
        for progress in (Progress(), Progress(fixed=pieces("moved to friday."))):
            assert without_echo(progress, tail) == (progress, tail)


class TestTight:
    LOUD = np.full(SAMPLE_RATE // 2, 8_000, np.int16)
    QUIET = np.full(SAMPLE_RATE // 2, 20, np.int16)

    def test_silence_at_the_edges_is_not_the_words(self) -> None:
        audio = np.concatenate([self.QUIET, self.LOUD, self.QUIET])
        (word,) = tightened([Piece("word", (), 100, len(audio) - 100, 1.0)], loud_steps(audio), 0)
        assert (word.start, word.end) == (SAMPLE_RATE // 2, SAMPLE_RATE)

    def test_the_window_may_begin_anywhere(self) -> None:
        audio = np.concatenate([self.QUIET, self.LOUD])
        (word,) = tightened([Piece("word", (), 50_000, 66_000, 1.0)], loud_steps(audio), 50_000)
        assert (word.start, word.end) == (58_000, 66_000)

    def test_a_word_in_silence_stays_where_it_is(self) -> None:
        words = [Piece("word", (), 0, 4_000, 1.0)]
        assert tightened(words, loud_steps(np.concatenate([self.QUIET, self.LOUD])), 0) == tuple(words)
        assert tightened(words, loud_steps(np.empty(0, np.int16)), 0) == tuple(words)

    @given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)), max_size=5), st.integers(0, 3))
    def test_words_only_shrink(self, spans: list[tuple[int, int]], seed: int) -> None:
        audio = np.random.default_rng(seed).integers(-3_000, 3_000, 20_000).astype(np.int16)
        words = [Piece("w", (), min(span), max(span), 1.0) for span in spans]
        for before, after in zip(words, tightened(words, loud_steps(audio), 0), strict=True):
            assert before.start <= after.start <= after.end <= max(before.end, after.start)


class TestGuessing:
    """Times of words that were not aligned."""

    SOUND = np.concatenate([TestTight.QUIET, TestTight.LOUD, TestTight.QUIET])

    def test_words_lie_where_it_is_loud_by_their_letters(self) -> None:
        words = spread(pieces("a launching"), loud_steps(self.SOUND), 0, 0)
        assert words[0].start == SAMPLE_RATE // 2
        assert words[0].end == words[1].start
        assert words[1].end == SAMPLE_RATE
        assert words[1].end - words[1].start > 4 * (words[0].end - words[0].start)
        assert not any(word.aligned for word in words)

    def test_behind_what_is_known_already(self) -> None:
        (word,) = spread(pieces("a"), loud_steps(self.SOUND), 32_000, 32_000 + 12_000)
        assert (word.start, word.end) == (44_000, 48_000)

    def test_in_silence_and_in_no_audio_they_stay_inside(self) -> None:
        for audio in (np.zeros(SAMPLE_RATE, np.int16), np.empty(0, np.int16)):
            for word in spread(pieces("a b"), loud_steps(audio), 0, 0):
                assert 0 <= word.start <= word.end <= len(audio)

    def test_a_guess_is_replaced_and_what_was_aligned_stays(self) -> None:
        known, guessed = pieces("we moved")
        progress = Progress(fixed=(known, msgspec.structs.replace(guessed, aligned=False)))
        again = pieces("we moved on", at=8_000)
        after_it, tail = placed(progress, again)
        assert after_it.fixed == (known, again[1])
        assert tail == again[2:]


def test_rest_is_silence_for_a_while() -> None:
    loud, rest = np.full(SAMPLE_RATE, 8_000, np.int16), np.zeros(REST_SAMPLES, np.int16)
    assert is_at_rest(loud_steps(np.concatenate([loud, rest])))
    assert not is_at_rest(loud_steps(np.concatenate([loud, rest[: REST_SAMPLES // 2]])))
    assert not is_at_rest(loud_steps(loud))
    assert not is_at_rest(loud_steps(rest))


def test_nothing_is_fixed_while_the_language_is_not_known() -> None:
    progress = heard(heard(Progress(), pieces("wir sind."), WORD), pieces("wir sind."), 2 * WORD)
    assert (texts(progress.fixed), texts(progress.words)) == ("", "wir sind.")


def test_where_a_window_may_be_cut_is_known_without_times() -> None:
    progress = after("we moved. the launch is", "we moved. the launch is on")
    assert cut_words(progress, 5 * WORD, 6 * WORD) == []
    assert cut_words(progress, 7 * WORD, 6 * WORD) == [2]


def test_an_echo_is_suspected_without_times() -> None:
    before = Progress(fixed=pieces("moved to friday."), cut=2 * SAMPLE_RATE, cut_words=3)
    assert echo_words(before, pieces("to Friday. next")) == 2
    assert echo_words(before, pieces("next friday")) == 0
    assert echo_words(Progress(fixed=pieces("moved to friday.")), pieces("to friday.")) == 0
