"""Which padding is taken, on a model whose texts are scripted; and what counts as the same text."""

from collections.abc import Callable

import pytest

from streaming.model import SAMPLE_RATE
from streaming.recogniser.calibrate import (
    LADDER,
    LENGTHS_S,
    PADDED,
    TOLERANCE,
    WHOLE_S_MAX,
    WINDOWS_MAX,
    WORDS_MIN,
    Cut,
    Failed,
    Row,
    Step,
    TooLittleSpeech,
    Verdict,
    Written,
    compared,
    cuts,
    is_good,
    line,
    measure,
    parse,
)
from streaming.recogniser.card import MEL_FRAMES_MAX, Padding

N_WORDS = 20
WINDOWS = [Cut(n * SAMPLE_RATE, (n + 1) * SAMPLE_RATE, True) for n in range(10)]
"""Of 20 words each: one word is exactly the tolerance of own recordings."""


def say(n_wrong: int) -> str:
    return " ".join(["wrong"] * n_wrong + ["right"] * (N_WORDS - n_wrong))


def model(wrong: dict[Padding, int]) -> Callable[[Cut, Padding], Written]:
    """Says so many wrong words in its first window."""

    def listen(window: Cut, padding: Padding) -> Written:
        n_wrong = wrong.get(padding, 0) if window == WINDOWS[0] else 0
        return Written(say(n_wrong), float(padding.frames(100)))

    return listen


def bad(*steps: int, words: int = 1) -> dict[Padding, int]:
    return {LADDER[step]: words for step in steps}


EVERY = range(len(LADDER))


class TestChoice:
    @pytest.mark.parametrize(
        ("wrong", "synthetic", "chosen"),
        [
            ({}, False, LADDER[0]),
            ({}, True, LADDER[1]),
            (bad(0), True, LADDER[2]),
            (bad(1), True, LADDER[3]),
            (bad(0, 2), True, LADDER[4]),
            (bad(0), False, LADDER[0]),
            (bad(0, words=2), False, LADDER[1]),
            (bad(*EVERY), False, LADDER[0]),
            (bad(*EVERY), True, PADDED),
            (bad(*EVERY, words=2), False, PADDED),
            (bad(*EVERY[:-1]), True, PADDED),
        ],
    )
    def test_the_smallest_that_is_good_is_taken(
        self, wrong: dict[Padding, int], synthetic: bool, chosen: Padding
    ) -> None:
        """On synthetic speech no word may differ, and the next larger one must be good too, which is taken."""
        verdict = measure(WINDOWS, model(wrong), synthetic=synthetic)
        assert verdict.chosen == chosen
        assert verdict.rows[0].padding == PADDED
        assert verdict.row.padding == chosen
        assert verdict.synthetic == synthetic

    def test_no_more_is_measured_than_is_needed(self) -> None:
        asked: set[Padding] = set()
        told: list[Step] = []

        def listen(window: Cut, padding: Padding) -> Written:
            asked.add(padding)
            return model({})(window, padding)

        verdict = measure(WINDOWS, listen, synthetic=True, tell=told.append)
        assert asked == {PADDED, *LADDER[:2]}
        assert [row.padding for row in verdict.rows] == [PADDED, *LADDER[:2]]
        assert told[0] == Step(PADDED, 0, len(WINDOWS))
        assert len(told) == 3 * len(WINDOWS)

    def test_the_tolerance_of_own_recordings(self) -> None:
        assert TOLERANCE * 1_000 == 5
        assert is_good(Row(PADDED, 1, 1_000, 5, 1.0), synthetic=False)
        assert not is_good(Row(PADDED, 1, 1_000, 6, 1.0), synthetic=False)
        assert not is_good(Row(PADDED, 1, 1_000, 1, 1.0), synthetic=True)
        assert not is_good(Row(PADDED, 1, 0, 0, 1.0), synthetic=False), "nothing was proved"

    def test_little_speech_proves_nothing(self) -> None:
        assert WORDS_MIN == 5 * N_WORDS
        assert measure(WINDOWS[:5], model({}), synthetic=True).chosen == LADDER[1]
        with pytest.raises(TooLittleSpeech, match="80 words"):
            measure(WINDOWS[:4], model({}), synthetic=True)
        with pytest.raises(TooLittleSpeech):
            measure([], model({}), synthetic=True)

    def test_another_language_is_another_text(self) -> None:
        def listen(window: Cut, padding: Padding) -> Written:
            return Written(say(0), 1.0, "de" if padding == LADDER[0] and window == WINDOWS[3] else "en")

        verdict = measure(WINDOWS, listen, synthetic=False)
        assert verdict.chosen == LADDER[1]
        assert verdict.rows[1].differ == N_WORDS

    def test_both_columns_are_told(self) -> None:
        verdict = measure(WINDOWS, model({LADDER[0]: 3}), synthetic=False)
        padded, first, second = verdict.rows
        assert (padded.words, padded.differ, padded.windows) == (200, 0, 10)
        assert (first.differ, first.share) == (3, 0.015)
        assert padded.cpu_ms == 3_000
        assert second.cpu_ms == LADDER[1].frames(100)


class TestText:
    @pytest.mark.parametrize(
        ("padded", "text", "differ"),
        [
            ("We have ten tests.", "we have ten tests", 0),
            ("We have ten tests.", "We have two tests.", 1),
            ("We have ten tests.", "We have tests.", 1),
            ("We have ten tests.", "We have ten ten tests.", 1),
            ("", "Thank you.", 2),
            ("It's Bob’s.", "it's bob’s", 0),
            ("Wir haben zehn Prüfungen.", "Wir haben zehn Pruefungen.", 1),
        ],
    )
    def test_a_final_is_compared_whole(self, padded: str, text: str, differ: int) -> None:
        assert compared(padded, text, is_whole=True)[1] == differ

    @pytest.mark.parametrize(
        ("padded", "text", "differ"),
        [
            ("We have ten te", "We have ten tests.", 0),
            ("We have ten te", "We have ten", 0),
            ("We have ten te", "We have two te", 1),
            ("We have ten te", "We have ten tests we have ten tests", 4),
            ("We have ten te", "", 3),
            ("We", "", 0),
            ("", "Thank you very much", 3),
        ],
    )
    def test_the_word_at_a_cut_does_not_count(self, padded: str, text: str, differ: int) -> None:
        n_words, n_differ = compared(padded, text, is_whole=False)
        assert n_differ == differ
        assert n_words == max(0, len(padded.split()) - 1)


class TestWindows:
    def test_they_are_cut_as_live_captions_cut(self) -> None:
        second = SAMPLE_RATE
        found = cuts([(0, 3 * second), (10 * second, 35 * second), (40 * second, 40 * second + 8_000)])
        assert {cut.start for cut in found} == {0, 10 * second, 40 * second}
        assert [cut.end for cut in found if cut.is_whole] == [3 * second, 40 * second + 8_000], "25 s is too long"
        assert all((cut.end - cut.start) / second in LENGTHS_S for cut in found if not cut.is_whole)
        assert all(cut.end - cut.start <= WHOLE_S_MAX * second for cut in found)

    def test_all_lengths_come_in_turn(self) -> None:
        found = cuts([(n * 30 * SAMPLE_RATE, (n * 30 + 22) * SAMPLE_RATE) for n in range(3)])
        assert {(cut.end - cut.start) / SAMPLE_RATE for cut in found} == set(LENGTHS_S)

    def test_much_speech_is_thinned_over_its_whole_length(self) -> None:
        found = cuts([(n * 10 * SAMPLE_RATE, (n * 10 + 5) * SAMPLE_RATE) for n in range(500)])
        assert len(found) == WINDOWS_MAX
        assert found[-1].start > 4_900 * SAMPLE_RATE
        assert len(set(found)) == WINDOWS_MAX


def test_the_ladder_goes_up() -> None:
    for n_frames in range(1, MEL_FRAMES_MAX, 37):
        frames = [padding.frames(n_frames) for padding in (*LADDER, PADDED)]
        assert frames == sorted(frames)


def test_what_the_program_says_is_read() -> None:
    verdict = Verdict(LADDER[1], (Row(PADDED, 1, 10, 0, 1.5),), True)
    for event in (Step(PADDED, 3, 10), verdict, Failed("No.")):
        assert parse(line(event)) == event
    assert parse("[W:onnxruntime] something") is None
