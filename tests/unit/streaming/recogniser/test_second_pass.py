"""What the pass worker makes of a model's tokens, without a model."""

import numpy as np
import pytest

from streaming.model import samples_of
from streaming.recogniser.guards import DOUBTFUL_LOGPROB, UNLIKELY_LOGPROB
from streaming.recogniser.passes import Reading, ReadUtterance, ReadWord, spoken
from streaming.recogniser.pieces import Heard
from streaming.recogniser.second_pass import TOGETHER_SAMPLES_MAX, WINDOW_SAMPLES_MAX, Window, together, words_of
from streaming.recogniser.whisperx import likelier

SECOND = samples_of(1_000)


class Letters:
    """A tokeniser whose tokens are words."""

    language_code = "en"

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def split_tokens_on_unicode(self, tokens: list[int]) -> tuple[list[str], list[list[int]]]:
        return [self.texts[token] for token in tokens], [[token] for token in tokens]


def window(*texts: str, logprob: float = -0.2, tokens: list[int] | None = None) -> Window:
    ids = list(range(len(texts))) if tokens is None else tokens
    starts = [SECOND * n // 2 for n in range(len(ids) + 1)]
    return Window(SECOND, 5 * SECOND, "en", logprob, Heard(ids, starts, [0.5] * len(ids)), Letters(*texts))


LOUD = np.full(4 * SECOND, 1_000, np.int16)


def test_words_are_placed_in_the_piece() -> None:
    words, trusted = words_of(window(" Hello", " world."), LOUD)
    assert trusted
    assert words == (
        ReadWord("Hello", SECOND, SECOND + SECOND // 2, 0.5),
        ReadWord("world.", SECOND + SECOND // 2, 2 * SECOND, 0.5),
    )


def test_no_word_leaves_its_window() -> None:
    words, _ = words_of(window(*[f" w{n}" for n in range(12)]), LOUD)
    assert all(SECOND <= word.start <= word.end <= 5 * SECOND for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


@pytest.mark.parametrize(
    ("heard", "count", "trusted"),
    [
        (window(" hello", logprob=UNLIKELY_LOGPROB), 1, True),
        (window(" hello", logprob=UNLIKELY_LOGPROB - 0.01), 1, False),
        (window(" la", " lu", tokens=[0, 1] + [0] * 12), 14, False),
        (window(" ...", " -"), 0, True),
        (window(" thank", " you", logprob=DOUBTFUL_LOGPROB - 0.01), 0, True),
        (window(" thank", " you", logprob=DOUBTFUL_LOGPROB), 2, True),
        (window(), 0, True),
    ],
)
def test_what_may_be_believed(heard: Window, count: int, trusted: bool) -> None:
    words, believed = words_of(heard, LOUD)
    assert (len(words), believed) == (count, trusted)


def test_utterances_are_read_together_as_long_as_they_fit() -> None:
    edge = WINDOW_SAMPLES_MAX
    assert together([(0, SECOND), (2 * SECOND, edge)]) == ((0, edge),)
    assert together([(0, SECOND), (2 * SECOND, edge + 1)]) == ((0, SECOND), (2 * SECOND, edge + 1))
    near, far = SECOND + TOGETHER_SAMPLES_MAX, SECOND + TOGETHER_SAMPLES_MAX + 1
    assert together([(0, SECOND), (near, near + 5)]) == ((0, near + 5),)
    assert together([(0, SECOND), (far, far + 5)]) == ((0, SECOND), (far, far + 5))
    assert together([]) == ()


def test_a_reading_on_the_recordings_clock() -> None:
    read = ReadUtterance(SECOND, 2 * SECOND, (ReadWord("hello", SECOND, SECOND + 160, 0.5),), "de", False)
    (each,) = spoken(Reading((read,)), 60 * SECOND)
    assert (each.start_ms, each.end_ms, each.language, each.trusted) == (61_000, 62_000, "de", False)
    assert [(word.text, word.start_ms, word.end_ms) for word in each.words] == [("hello", 61_000, 61_010)]


LOOP = "we meet again " * 20


@pytest.mark.parametrize(
    ("beams", "plain", "expected"),
    [
        (("When is the old", -0.19), ("When is the old launch?", -0.04), ("When is the old launch?", -0.04)),
        (("When is the launch?", -0.04), ("When is the lunch?", -0.19), ("When is the launch?", -0.04)),
        (("When is the launch?", -0.19), (LOOP, -0.01), ("When is the launch?", -0.19)),
    ],
    ids=["beams end early", "beams find more", "a loop is probable"],
)
def test_the_more_probable_of_two_searches_counts(
    beams: tuple[str, float], plain: tuple[str, float], expected: tuple[str, float]
) -> None:
    def output(found: tuple[str, float]) -> dict[str, list[object]]:
        return {"text": ["Yes.", found[0]], "avg_logprob": [-0.5, found[1]]}

    assert likelier(output(beams), output(plain)) == output(expected)
