"""What a worker with one shared model answers to whom."""

import numpy as np
import pytest

from streaming.model import SAMPLE_RATE, Final, Hypothesis, UtteranceSpec
from streaming.recogniser import link
from streaming.recogniser.engine import Heard
from streaming.recogniser.windows import STALL_S, Windows

SPEC = UtteranceSpec("u", 0, "en")
EMPTY = Hypothesis((), 0)


def second_of(utterance: int) -> link.Audio:
    return link.Audio(utterance, bytes(2 * SAMPLE_RATE))


def opened(*utterances: int, utterances_max: int = 4) -> Windows:
    windows = Windows(utterances_max, 30_000)
    for utterance in utterances:
        assert windows.from_server(link.Open(utterance, SPEC)) == []
    return windows


def test_audio_is_taken_at_once_and_a_window_holds_all_of_it() -> None:
    windows = opened(1)
    first, second = np.arange(5, dtype="<i2"), np.arange(5, 9, dtype="<i2")
    assert windows.from_server(link.Audio(1, first.tobytes())) == [link.Taken(1, 10)]
    assert windows.from_server(link.AskPartial(1, 7)) == []
    work = windows.begin(0.0)
    assert work is not None
    assert (list(work.window.audio), work.window.is_final, work.window.memory) == ([0, 1, 2, 3, 4], False, None)
    assert windows.done(Heard(EMPTY, memory="m")) == [link.PartialReady(1, 7, EMPTY)]
    windows.from_server(link.Audio(1, second.tobytes()))
    windows.from_server(link.AskFinal(1))
    work = windows.begin(0.0)
    assert work is not None
    assert (list(work.window.audio), work.window.is_final, work.window.memory) == (list(range(9)), True, "m")
    assert windows.done(Heard(EMPTY, context=b"c")) == [link.FinalReady(1, Final(EMPTY, b"c"))]
    assert windows.from_server(link.AskPartial(1, 8)) == [link.Lost(1, "no such utterance")]


def test_one_decode_at_a_time_finals_first() -> None:
    windows = opened(1, 2, 3)
    windows.from_server(link.AskPartial(1, 1))
    assert windows.begin(0.0) is not None
    windows.from_server(link.AskPartial(2, 1))
    windows.from_server(link.AskFinal(3))
    assert windows.begin(0.0) is None
    windows.done(Heard(EMPTY))
    work = windows.begin(0.0)
    assert work is not None
    assert (work.job.utterance, work.job.is_final) == (3, True)


def test_a_replaced_partial_is_answered_with_the_newer_one() -> None:
    windows = opened(1)
    windows.from_server(link.AskPartial(1, 1))
    windows.from_server(link.AskPartial(1, 2))
    assert windows.begin(0.0) is not None
    assert windows.done(Heard(EMPTY)) == [link.PartialReady(1, 1, EMPTY), link.PartialReady(1, 2, EMPTY)]
    assert windows.begin(0.0) is None


@pytest.mark.parametrize("ending", [lambda w: w.done(Heard(EMPTY)), lambda w: w.failed("broken")])
def test_a_discard_frees_the_place_while_the_utterance_is_decoded(ending: object) -> None:
    windows = opened(1, utterances_max=1)
    windows.from_server(link.AskPartial(1, 1))
    assert windows.begin(0.0) is not None
    assert windows.from_server(link.Discard(1)) == [link.Discarded(1)]
    assert windows.from_server(link.Open(2, SPEC)) == []
    assert ending(windows) == []  # type: ignore[operator]
    windows.from_server(link.AskPartial(2, 1))
    assert windows.begin(0.0) is not None


def test_a_discard_of_nothing_is_answered_too() -> None:
    assert opened().from_server(link.Discard(9)) == [link.Discarded(9)]


def test_a_failed_window_loses_its_utterance_only() -> None:
    windows = opened(1, 2)
    windows.from_server(link.AskFinal(1))
    assert windows.begin(0.0) is not None
    assert windows.failed("broken") == [link.Lost(1, "broken")]
    windows.from_server(link.AskFinal(2))
    assert windows.begin(0.0) is not None
    assert windows.done(Heard(EMPTY)) == [link.FinalReady(2, Final(EMPTY))]


def test_no_more_utterances_than_places_and_no_number_twice() -> None:
    windows = opened(1, 2, utterances_max=2)
    assert windows.from_server(link.Open(3, SPEC)) == [link.Lost(3, "no place is free")]
    assert windows.from_server(link.Open(1, SPEC)) == [link.Refused("an utterance number was used twice")]


def test_an_utterance_that_is_too_long_is_lost() -> None:
    windows = opened(1)
    for _ in range(60):
        assert windows.from_server(second_of(1)) == [link.Taken(1, 2 * SAMPLE_RATE)]
    assert windows.from_server(second_of(1)) == [link.Lost(1, "the utterance is too long")]


def test_a_decode_that_takes_too_long_is_noticed() -> None:
    windows = opened(1)
    assert not windows.stalled(1e9)
    windows.from_server(link.AskFinal(1))
    assert windows.begin(100.0) is not None
    assert not windows.stalled(100.0 + STALL_S)
    assert windows.stalled(100.1 + STALL_S)
    windows.done(Heard(EMPTY))
    assert not windows.stalled(1e9)
