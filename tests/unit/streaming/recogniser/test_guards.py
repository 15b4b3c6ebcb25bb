"""Text that nobody said."""

import pytest

from streaming.recogniser.guards import (
    REPEATED_WORDS_MIN,
    is_repetitive,
    is_silence_text,
    is_word,
    loop_start,
    repeats,
)


@pytest.mark.parametrize(
    ("tokens", "start"),
    [
        ([], None),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], None),
        ([7, 1, 2, 3, 1, 2, 3, 1, 2, 3], 4),
        ([7, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2], 4),
        ([7, 1, 1, 1], None),
        ([7, *[1] * 20], 2),
        ([1, 2, 3, 1, 2, 3, 1, 2, 3, 7], None),
        ([*range(20, 28), *range(5), *range(5)], None),
    ],
)
def test_a_loop_is_three_times_the_same_up_to_the_end(tokens: list[int], start: int | None) -> None:
    assert loop_start(tokens) == start


def test_text_that_repeats_itself_compresses_too_well() -> None:
    assert is_repetitive("in the morning " * 10)
    assert not is_repetitive("We moved the launch to Friday, and the customer will test the new server next week.")
    assert not is_repetitive("No, no, no.")
    assert not is_repetitive("")


@pytest.mark.parametrize(
    "text",
    [
        *("Thank you.", " Thanks for watching!", "Untertitel der Amara.org-Community", "you", "... Bye-bye!"),
        *("Merci d'avoir regardé !", "Sous-titres réalisés par la communauté d’Amara.org"),
    ],
)
def test_what_is_known_to_be_written_over_silence(text: str) -> None:
    assert is_silence_text(text.split())


@pytest.mark.parametrize("text", ["", "...", "Thank you, Bob.", "We moved the launch."])
def test_what_is_not(text: str) -> None:
    assert not is_silence_text(text.split())


def test_the_prompt_again() -> None:
    before = "Hello. We moved the launch."
    assert repeats(["we", "moved", "the", "launch"], before)
    assert not repeats(["moved", "the", "launch"], before), f"fewer than {REPEATED_WORDS_MIN} words are said twice"
    assert not repeats(["we", "moved", "the", "server"], before)
    assert not repeats(["we", "moved", "the", "launch", "again"], before)
    assert not repeats([], "")


def test_what_can_be_said() -> None:
    assert all(map(is_word, ["a", "3", "好", "C++", '"Yes."', "हाँ"]))
    assert not any(map(is_word, ["", ".", "...", "- ?", "♪", '"']))
