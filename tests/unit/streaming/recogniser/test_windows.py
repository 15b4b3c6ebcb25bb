"""What a worker with one shared model answers to whom."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, Capabilities, Final, Hypothesis, UtteranceSpec
from streaming.recogniser import link
from streaming.recogniser.cadence import Want
from streaming.recogniser.engine import Heard, Window
from streaming.recogniser.windows import (
    CALL_PART,
    CALL_TIMES,
    LOAD_EVERY_S,
    STALL_S,
    STALL_S_MIN,
    STALL_TIMES,
    Windows,
    Work,
)

SPEC = UtteranceSpec("u", 0, "en", tenant="a")
EMPTY = Hypothesis((), 0)
HOP_S = 0.4


class Engine:
    """Only its numbers are asked."""

    def __init__(self, utterances_max: int = 4, batch_max: int = 1, parts: int = 1) -> None:
        self.capabilities = Capabilities(
            name="e", model="m", languages=(), hop_ms=round(1000 * HOP_S), agreement=0, holdback_words=0,
            activity="sound", utterances_max=utterances_max, utterance_ms_max=30_000, batch_max=batch_max,
            parts=parts,
        )  # fmt: skip

    def load(self) -> None:
        raise AssertionError("not here")

    def frames(self, window: Window) -> int:
        return len(window.audio) // 160

    def decode(self, windows: Sequence[Window]) -> list[Heard]:
        raise AssertionError("not here")


def second_of(utterance: int) -> link.Audio:
    return link.Audio(utterance, bytes(2 * SAMPLE_RATE))


def opened(
    *utterances: int, utterances_max: int = 4, batch_max: int = 1, spec: UtteranceSpec = SPEC, parts: int = 1
) -> Windows:
    windows = Windows(Engine(utterances_max, batch_max, parts))
    for utterance in utterances:
        assert windows.from_server(link.Open(utterance, spec), 0.0) == []
    return windows


def tell(windows: Windows, *requests: link.Request, now: float = 0.0) -> list[link.Answer]:
    return [answer for request in requests for answer in windows.from_server(request, now)]


def begun(windows: Windows, now: float = 0.0) -> Work:
    work = windows.begin(now)
    assert work is not None
    return work


def numbers(work: Work) -> list[int]:
    return [job.utterance for job in work.jobs]


class TestOneWindow:
    def test_audio_is_taken_at_once_and_a_window_holds_all_of_it(self) -> None:
        windows = opened(1)
        first, second = np.arange(5, dtype="<i2"), np.arange(5, 9, dtype="<i2")
        assert tell(windows, link.Audio(1, first.tobytes())) == [link.Taken(1, 10)]
        assert tell(windows, link.AskPartial(1, 7)) == []
        (window,) = begun(windows).windows
        tell(windows, link.Audio(1, second.tobytes()))
        assert (list(window.audio), window.is_final, window.memory) == ([0, 1, 2, 3, 4], False, None)
        assert windows.done([Heard(EMPTY, memory="m")], 0.1) == [link.PartialReady(1, 7, EMPTY)]
        tell(windows, link.AskFinal(1))
        (window,) = begun(windows).windows
        assert (list(window.audio), window.is_final, window.memory) == (list(range(9)), True, "m")
        assert windows.done([Heard(EMPTY, context=b"c")], 0.2) == [link.FinalReady(1, Final(EMPTY, b"c"))]
        assert tell(windows, link.AskPartial(1, 8)) == [link.Lost(1, "no such utterance")]

    def test_audio_in_many_pieces_is_the_audio(self) -> None:
        windows = opened(1)
        audio = np.random.default_rng(1).integers(-9_999, 9_999, 20_000).astype("<i2")
        for at in range(0, len(audio), 333):
            tell(windows, link.Audio(1, audio[at : at + 333].tobytes()))
        tell(windows, link.AskFinal(1))
        assert np.array_equal(begun(windows).windows[0].audio, audio)

    def test_one_call_at_a_time_finals_first(self) -> None:
        windows = opened(1, 2, 3)
        tell(windows, link.AskPartial(1, 1))
        begun(windows)
        tell(windows, link.AskPartial(2, 1), link.AskFinal(3))
        assert windows.begin(0.0) is None
        windows.done([Heard(EMPTY)], 0.0)
        assert begun(windows).jobs[0].is_final

    def test_a_replaced_partial_is_answered_with_the_newer_one(self) -> None:
        windows = opened(1)
        tell(windows, link.AskPartial(1, 1), link.AskPartial(1, 2))
        begun(windows)
        assert windows.done([Heard(EMPTY)], 0.0) == [link.PartialReady(1, 1, EMPTY), link.PartialReady(1, 2, EMPTY)]
        assert windows.begin(0.0) is None

    def test_what_waited_for_a_hop_is_handed_back_for_newer_audio(self) -> None:
        windows = opened(1, 2)
        tell(windows, link.AskPartial(1, 1), link.AskPartial(2, 1))
        begun(windows)
        assert windows.expire(HOP_S) == []
        assert windows.expire(HOP_S + 0.01) == [link.Expired(2, 1)], "what is decoded does not expire"
        windows.done([Heard(EMPTY)], 0.5)
        assert windows.begin(0.5) is None
        tell(windows, second_of(2), link.AskPartial(2, 2), now=0.5)
        assert len(begun(windows).windows[0].audio) == SAMPLE_RATE

    @pytest.mark.parametrize("ending", [lambda w: w.done([Heard(EMPTY)], 0.0), lambda w: w.failed("broken")])
    def test_a_discard_frees_the_place_while_the_utterance_is_decoded(
        self, ending: Callable[[Windows], list[link.Answer]]
    ) -> None:
        windows = opened(1, utterances_max=1)
        tell(windows, link.AskPartial(1, 1))
        begun(windows)
        assert tell(windows, link.Discard(1)) == [link.Discarded(1)]
        assert tell(windows, link.Open(2, SPEC)) == []
        assert ending(windows) == []
        tell(windows, link.AskPartial(2, 1))
        begun(windows)

    def test_a_discard_of_nothing_is_answered_too(self) -> None:
        assert tell(opened(), link.Discard(9)) == [link.Discarded(9)]

    def test_a_failed_window_loses_its_utterance_only(self) -> None:
        windows = opened(1, 2)
        tell(windows, link.AskFinal(1))
        begun(windows)
        assert windows.failed("broken") == [link.Lost(1, "broken")]
        tell(windows, link.AskFinal(2))
        begun(windows)
        assert windows.done([Heard(EMPTY)], 0.0) == [link.FinalReady(2, Final(EMPTY))]

    def test_no_more_utterances_than_places_and_no_number_twice(self) -> None:
        windows = opened(1, 2, utterances_max=2)
        assert tell(windows, link.Open(3, SPEC)) == [link.Lost(3, "no place is free")]
        assert tell(windows, link.Open(1, SPEC)) == [link.Refused("an utterance number was used twice")]

    def test_an_utterance_that_is_too_long_is_lost(self) -> None:
        windows = opened(1)
        for _ in range(60):
            assert tell(windows, second_of(1)) == [link.Taken(1, 2 * SAMPLE_RATE)]
        assert tell(windows, second_of(1)) == [link.Lost(1, "the utterance is too long")]


class TestBatches:
    def test_equal_windows_go_together_and_everybody_gets_its_own(self) -> None:
        windows = opened(1, 2, 3, batch_max=8)
        tell(windows, second_of(1), second_of(2), second_of(3), second_of(3))
        tell(windows, link.AskPartial(1, 4), link.AskFinal(2), link.AskPartial(3, 5))
        work = begun(windows)
        assert (numbers(work), work.frames) == ([2, 1], 100)
        one, two = Hypothesis((), 1), Hypothesis((), 2)
        assert windows.done([Heard(two, b"c"), Heard(one)], 0.1) == [
            link.FinalReady(2, Final(two, b"c")), link.PartialReady(1, 4, one),
        ]  # fmt: skip
        assert numbers(begun(windows)) == [3]

    def test_one_bad_window_loses_its_utterance_only(self) -> None:
        windows = opened(1, 2, batch_max=8)
        tell(windows, link.AskFinal(1), link.AskFinal(2))
        assert numbers(begun(windows)) == [1, 2]
        assert windows.failed("broken") == []
        assert numbers(begun(windows)) == [1]
        assert windows.failed("broken") == [link.Lost(1, "broken")]
        assert numbers(begun(windows)) == [2]
        assert windows.done([Heard(EMPTY)], 0.0) == [link.FinalReady(2, Final(EMPTY))]

    def test_a_suspect_is_decoded_alone(self) -> None:
        windows = opened(1, 2, batch_max=8)
        tell(windows, link.Open(3, UtteranceSpec("u", 0, "en", alone=True)))
        tell(windows, link.AskFinal(1), link.AskFinal(2), link.AskFinal(3))
        calls = []
        while (work := windows.begin(0.0)) is not None:
            calls.append(numbers(work))
            windows.done([Heard(EMPTY)] * len(work.jobs), 0.0)
        assert sorted(calls) == [[1, 2], [3]]

    def test_a_call_takes_a_part_of_a_hop_at_most(self) -> None:
        windows = opened(*range(1, 21), utterances_max=20, batch_max=16)
        seconds, sizes = 0.04, []
        for turn in range(12):
            for number in range(1, 21):
                tell(windows, link.AskPartial(number, turn))
            while (work := windows.begin(float(turn))) is not None:
                sizes.append(len(work.jobs))
                windows.done([Heard(EMPTY)] * len(work.jobs), turn + seconds * len(work.jobs))
        assert sizes[-1] * seconds <= CALL_PART * HOP_S
        assert max(sizes[-10:]) == 2

    def test_where_one_takes_longer_others_ride_along_for_as_much_again(self) -> None:
        """200 ms a call and 10 ms a window: 22 of them take twice what one takes."""
        windows = opened(*range(40), utterances_max=40, batch_max=32)
        sizes = []
        for turn in range(60):
            tell(windows, *(link.AskPartial(n, turn) for n in range(40 if turn % 2 else 1)), now=float(turn))
            while (work := windows.begin(float(turn))) is not None:
                sizes.append(len(work.jobs))
                windows.done([Heard(EMPTY)] * len(work.jobs), turn + 0.2 + 0.01 * len(work.jobs))
        assert max(sizes[-20:]) in range(20, 24)
        assert 0.2 + 0.01 * max(sizes) < 1.1 * CALL_TIMES * 0.21


class TestStall:
    def test_before_anything_is_known_a_call_gets_the_longest_time(self) -> None:
        windows = opened(1)
        assert not windows.stalled(1e9)
        tell(windows, link.AskFinal(1))
        begun(windows, 90.0)
        windows.started(100.0)
        assert not windows.stalled(100.0 + STALL_S)
        assert windows.stalled(100.1 + STALL_S)
        windows.done([Heard(EMPTY)], 101.0)
        assert not windows.stalled(1e9)

    @pytest.mark.parametrize(("seconds", "patience"), [(0.01, STALL_S_MIN), (1.0, STALL_TIMES), (50.0, STALL_S)])
    def test_afterwards_many_times_what_it_should_take(self, seconds: float, patience: float) -> None:
        windows = opened(1, 2)
        tell(windows, second_of(1), second_of(2), link.AskFinal(1), link.AskFinal(2))
        begun(windows, 0.0)
        windows.done([Heard(EMPTY)], seconds)
        begun(windows, 100.0)
        assert not windows.stalled(99.9 + patience)
        assert windows.stalled(100.1 + patience)


def speak(windows: Windows, tenants: dict[int, str], seconds: float, until: int) -> link.Load:
    """These utterances get audio and ask at every second, each decode takes `seconds`; returns the last report."""
    for number, tenant in tenants.items():
        tell(windows, link.Open(number, UtteranceSpec("u", 0, "en", tenant=tenant)), second_of(number))
    load = None
    for now in range(until):
        for number in tenants:
            tell(windows, link.Audio(number, b""), link.AskPartial(number, now), now=now)
        at = float(now)
        while windows.begin(at) is not None:
            at += seconds
            windows.done([Heard(EMPTY)], at)
        load = windows.load(now + 0.9) or load
    assert load is not None
    return load


class TestLoad:
    def test_it_is_told_once_a_second(self) -> None:
        windows = opened()
        assert windows.load(0.0) == link.Load()
        assert windows.load(LOAD_EVERY_S - 0.01) is None
        assert windows.load(LOAD_EVERY_S) is not None

    def test_what_speakers_want_is_known_before_they_are_late(self) -> None:
        load = speak(opened(), {1: "a", 2: "a", 3: "b"}, 0.01, 30)
        assert load.utterances == 3
        assert load.busy == pytest.approx(0.03, rel=0.1)
        assert load.wants["a"].partials == pytest.approx(2 * 0.01 / HOP_S, rel=0.1)
        assert load.wants["b"].partials == pytest.approx(0.01 / HOP_S, rel=0.1)
        assert load.each == pytest.approx(0.01 / HOP_S, rel=0.1)
        assert (load.hops, load.delay_ms) == ({}, 0)

    def test_who_wants_too_much_is_told_with_its_partials(self) -> None:
        windows = opened(utterances_max=6)
        load = speak(windows, {1: "many", 2: "many", 3: "many", 4: "one", 5: "many", 6: "many"}, 0.14, 20)
        assert load.hops == {"many": 2.75}, "5 x 0.35 wanted, and 0.65 are left for them"
        tell(windows, link.AskPartial(1, 99), link.AskPartial(4, 99))
        hops = {}
        while (work := windows.begin(20.0)) is not None:
            for answer in windows.done([Heard(EMPTY)], 20.2):
                assert isinstance(answer, link.PartialReady)
                hops[work.jobs[0].utterance] = answer.hypothesis.hops
        assert hops in ({1: 2, 4: 1}, {1: 3, 4: 1})

    @pytest.mark.parametrize(("parts", "hops"), [(1, 1), (4, 0.25)])
    def test_who_could_have_more_is_told_with_its_partials(self, parts: int, hops: float) -> None:
        windows = opened(parts=parts)
        assert speak(windows, {1: "a"}, 0.01, 10).hops == {}, "nobody is thinned out"
        tell(windows, link.AskPartial(1, 99))
        begun(windows)
        (answer,) = windows.done([Heard(EMPTY)], 10.0)
        assert isinstance(answer, link.PartialReady)
        assert answer.hypothesis.hops == hops

    def test_who_is_silent_wants_nothing(self) -> None:
        windows = opened()
        speak(windows, {1: "a"}, 0.1, 5)
        loads = [load for now in range(6, 60) if (load := windows.load(float(now)))]
        assert loads[-1].wants == {}
        assert loads[-1].each > 0, "but what a speaker costs is remembered"

    def test_what_waits_is_a_delay(self) -> None:
        windows = opened()
        speak(windows, {1: "a", 2: "a"}, 0.1, 10)
        tell(windows, link.AskPartial(1, 50), link.AskFinal(2), now=10.0)
        load = windows.load(11.0)
        assert load is not None
        assert load.delay_ms == pytest.approx(200, rel=0.1)
        begun(windows, 11.95)
        load = windows.load(12.0)
        assert load is not None
        assert load.delay_ms == pytest.approx(150, rel=0.1)

    def test_the_report_names_the_heaviest_tenants_and_fits_its_frame(self) -> None:
        count = LIMITS.worker_load_tenants_max + 50
        windows = opened(utterances_max=count)
        names = ["\U0001f600" * LIMITS.id_chars_max + str(number) for number in range(count)]
        for number, name in enumerate(names):
            tell(windows, link.Open(number, UtteranceSpec("u", 0, "en", tenant=name)))
            tell(windows, link.Audio(number, bytes(320 * (number + 1))), now=9.0)
        windows.costs.learn(1, 1, 0.01)
        load = windows.load(9.5)
        assert load is not None
        assert load.wants.keys() == set(names[50:])
        assert isinstance(load.wants[names[60]], Want)
        assert len(link.frame(load)) <= link.FRAME_BYTES_MAX
