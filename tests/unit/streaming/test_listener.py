"""Listening beside captions: what is asked when, what is told again, and what a slow or lost diariser costs. Time is
virtual: frames come as they are spoken."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from streaming.aio import Scope
from streaming.diariser.heard import Heard
from streaming.diariser.voices import Known, Merged, Recognised
from streaming.errors import Unavailable, WorkerLost
from streaming.limits import LIMITS
from streaming.listener import LOSSES_MAX, Found, Listener
from streaming.model import FRAME_SAMPLES, SAMPLE_RATE, Segment, Turn, Word, ms_of, samples_of
from streaming.ports import Pcm16
from tests.fakes.diariser import INFO, FakeDiariser, scene, turn, vector
from tests.sim.clock import run

FRAME_S = FRAME_SAMPLES / SAMPLE_RATE
EVERY_SECOND = msgspec.structs.replace(LIMITS, diariser_hop_ms=1_000)


class Diariser(FakeDiariser):
    """Also notes the windows it was asked about, in ms of the recording, and takes its time. `trouble`: what the next
    calls raise."""

    def __init__(self, seconds: float = 0.1, *, ready: bool = True) -> None:
        super().__init__(ready=ready)
        self.seconds = seconds
        self.lengths: list[int] = []
        self.trouble: list[Exception] = []
        self.under_way = 0

    async def listen(self, audio: Pcm16) -> Heard:
        assert not self.under_way, "one call at a time"
        self.under_way += 1
        try:
            self.lengths.append(ms_of(len(audio)))
            await asyncio.sleep(self.seconds)
            if self.trouble:
                raise self.trouble.pop(0)
            return await super().listen(audio)
        finally:
            self.under_way -= 1


class Book:
    """`room`: whether findings are taken."""

    def __init__(self, known: Sequence[Known] = ()) -> None:
        self.found: list[Found] = []
        self.room = True
        self._known = known
        self.away = False

    async def known(self, model: str) -> Sequence[Known]:
        assert model == INFO.model
        if self.away:
            raise Unavailable("away")
        return self._known

    def offer(self, found: Found) -> bool:
        if self.room:
            self.found.append(found)
        return self.room

    @property
    def finals(self) -> dict[str, list[str]]:
        """The labels of the turns near each final that was told again."""
        return {f.segment.segment_id: [t.speaker for t in f.turns] for found in self.found for f in found.finals}

    @property
    def changes(self) -> list[Merged | Recognised]:
        return [change for found in self.found for change in found.changes]


class Stage:
    """A listener, what it hears, and who speaks."""

    def __init__(self, script: Sequence[Turn], seconds: int, diariser: Diariser, book: Book, **more: Any) -> None:
        self.script = script
        self.audio = scene(script, seconds * 1_000)
        self.diariser = diariser
        self.book = book
        self.listener = Listener(diariser, book, start_sample=0, limits=EVERY_SECOND, **more)
        self.at = 0

    async def hear(self, until_ms: int, *, pace: float = 1.0) -> None:
        """Frames as they are spoken; `pace`: so many times as fast."""
        while self.at + FRAME_SAMPLES <= samples_of(until_ms):
            frame = self.audio[self.at : self.at + FRAME_SAMPLES]
            speech = any(t.start_sample <= self.at < t.end_sample for t in self.script)
            self.listener.hear(frame, speech=speech)
            self.at += FRAME_SAMPLES
            await asyncio.sleep(FRAME_S / pace)


def words(*times: tuple[int, int]) -> tuple[Word, ...]:
    return tuple(Word(f"w{number}", start, end) for number, (start, end) in enumerate(times))


def final(name: str, *times: tuple[int, int], speaker: str | None = None) -> Segment:
    said = words(*times)
    text = " ".join(word.text for word in said)
    return Segment(name, 1, 1, times[0][0], times[-1][1], text, said, speaker, "en", 1.0)


def play(story: Callable[[Scope], Coroutine[Any, Any, None]]) -> None:
    errors: list[BaseException] = []

    async def main() -> None:
        async with Scope("test", on_error=lambda _, error: errors.append(error)) as scope:
            await story(scope)
        assert not errors, errors

    run(main())


ALICE = turn("a", 1_000, 9_000)


def test_speech_is_asked_about_once_a_hop_and_silence_never() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([ALICE], 60, Diariser(), Book())
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(60_000)
        assert len(stage.diariser.lengths) == 7, "one for each 1,024 ms of speech"
        assert max(stage.diariser.lengths) <= INFO.window_ms
        assert stage.listener.held_samples <= samples_of(INFO.window_ms) + FRAME_SAMPLES

    play(story)


def test_the_end_of_an_utterance_is_asked_about_at_once() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 1_000, 1_400)], 10, Diariser(), Book())
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(2_000)
        assert not stage.diariser.lengths, "less than a hop"
        stage.listener.hurry()
        await stage.hear(2_400)
        assert len(stage.diariser.lengths) == 1
        assert stage.listener.speaker_of(words((1_000, 1_400))) == "S1"
        stage.listener.hurry()
        await stage.hear(10_000)
        assert len(stage.diariser.lengths) == 1, "nothing new was said"

    play(story)


def test_a_cough_is_not_asked_about_and_is_no_lag() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 1_000, 1_200), turn("a", 41_000, 43_000)], 45, Diariser(), Book())
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(40_000)
        assert (stage.diariser.lengths, stage.listener.lag_ms, stage.listener.skipped_ms) == ([], 0, 0)
        await stage.hear(45_000)
        assert len(stage.diariser.lengths) == 1

    play(story)


def test_labels_are_those_of_the_voices() -> None:
    script = [turn("c", 500, 5_000), turn("a", 5_200, 9_000), turn("c", 9_500, 14_000)]

    async def story(scope: Scope) -> None:
        stage = Stage(script, 20, Diariser(), Book())
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(15_000)
        listener = stage.listener
        assert [listener.speaker_of(words(span)) for span in ((1_000, 2_000), (6_000, 7_000), (10_000, 11_000))] == [
            "S1", "S2", "S1",
        ]  # fmt: skip
        assert listener.speaker_of(()) is None
        assert listener.speaker_of(words((18_000, 19_000))) is None, "nobody speaks there"

    play(story)


def test_a_final_is_told_again_when_it_is_settled() -> None:
    """With what it was committed as: without its speaker, with a wrong one, with two speakers in it."""
    script = [turn("a", 0, 4_000), turn("b", 4_200, 8_000)]

    async def story(scope: Scope) -> None:
        stage = Stage(script, 30, Diariser(), Book())
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(8_200)
        for committed in (
            final("none", (100, 3_900)),
            final("right", (200, 3_900), speaker="S1"),
            final("wrong", (4_300, 7_900), speaker="S1"),
            final("both", (300, 3_900), (4_300, 7_900), speaker="S1"),
        ):
            stage.listener.committed(committed)
        assert "both" not in stage.book.finals, "a later window may change it"
        await stage.hear(16_000)
        assert stage.book.finals == {"none": ["S1", "S2"], "wrong": ["S1", "S2"], "both": ["S1", "S2"]}
        asked = len(stage.diariser.lengths)
        await stage.hear(30_000)
        assert len(stage.diariser.lengths) == asked, "silence is heard only until everything is settled"

    play(story)


def test_the_end_settles_what_is_left() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 0, 4_000)], 5, Diariser(), Book())
        task = scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(4_000)
        stage.listener.committed(final("last", (100, 3_900)))
        stage.listener.close()
        await task
        assert stage.book.finals == {"last": ["S1"]}
        assert [speaker.label for speaker in stage.book.found[-1].speakers] == ["S1"]
        assert stage.listener.held_samples == 0

    play(story)


@pytest.mark.parametrize("seconds", [60, 10**6])
def test_the_end_is_not_waited_for_for_ever(seconds: float) -> None:
    """What a diariser that hangs did not hear stays as it was; what it heard before is told."""

    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 0, 9_000)], 10, Diariser(), Book())
        task = scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(6_000)
        stage.diariser.seconds = seconds
        await stage.hear(9_000)
        stage.listener.committed(final("early", (100, 1_900)))
        stage.listener.close()
        started = asyncio.get_running_loop().time()
        await task
        assert asyncio.get_running_loop().time() - started == pytest.approx(LIMITS.listener_end_ms / 1000)
        assert stage.book.finals == {"early": ["S1"]}

    play(story)


def test_nothing_is_held_where_there_is_no_diariser() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([ALICE], 10, Diariser(ready=False), Book())
        task = scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(10_000)
        assert stage.listener.held_samples <= FRAME_SAMPLES
        assert stage.listener.speaker_of(words((1_000, 9_000))) is None
        stage.listener.close()
        await task
        assert not stage.book.found

    play(story)


def test_a_diariser_that_arrives_is_asked_from_then_on() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 0, 20_000)], 20, Diariser(ready=False), Book())
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(10_000)
        stage.diariser.info = INFO
        await stage.hear(14_000)
        assert stage.listener.speaker_of(words((12_000, 13_000))) == "S1"
        assert stage.listener.speaker_of(words((2_000, 3_000))) is None

    play(story)


def test_a_slow_diariser_is_asked_more_rarely_and_hears_everything() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 0, 58_000)], 60, Diariser(2.0), Book())
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(58_000)
        assert 25 <= len(stage.diariser.lengths) <= 30
        assert stage.listener.skipped_ms == 0
        assert stage.listener.lag_ms <= 5_000

    play(story)


def test_one_that_cannot_follow_skips_and_stays_current() -> None:
    """The ring is never more than it may be, what is skipped is counted, and the newest is heard after a gap."""

    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 0, 118_000)], 120, Diariser(30.0), Book())
        scope.spawn(stage.listener.run(), name="listener")
        listener = stage.listener
        for until in range(1_000, 118_000, 1_000):
            await stage.hear(until)
            assert listener.held_samples <= samples_of(LIMITS.listener_ring_ms)
        assert 3 <= len(stage.diariser.lengths) <= 5
        assert 80_000 < listener.skipped_ms < 118_000
        assert listener.speaker_of(words((57_000, 60_000))) == "S1", "the newest, as it was asked for"

    play(story)


def test_what_came_faster_than_it_was_spoken_is_heard_in_order() -> None:
    """A client that catches up: as much as the ring holds is heard, in windows that overlap."""

    async def story(scope: Scope) -> None:
        diariser = Diariser(0.2)
        stage = Stage([turn("a", 0, 60_000)], 60, diariser, Book())
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(60_000, pace=8)
        assert stage.listener.skipped_ms == 0
        assert all(stage.listener.speaker_of(words((at, at + 500))) == "S1" for at in range(1_000, 55_000, 1_000))

    play(story)


def test_a_burst_is_heard_in_several_windows() -> None:
    """A backlog after a takeover: a new voice has to be heard more than once to get a label."""

    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 0, 5_900)], 6, Diariser(), Book())
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(6_000, pace=10_000)
        stage.listener.hurry()
        while stage.listener.lag_ms:
            await asyncio.sleep(0.1)
        assert len(stage.diariser.lengths) >= 4
        assert stage.listener.skipped_ms == 0

    play(story)


def test_a_lost_worker_is_asked_again_and_nothing_is_missing() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([ALICE], 12, Diariser(), Book())
        scope.spawn(stage.listener.run(), name="listener")
        stage.diariser.trouble = [WorkerLost("lost"), Unavailable("busy", retry_after_ms=1_000)]
        await stage.hear(12_000)
        assert stage.diariser.trouble == []
        assert stage.listener.skipped_ms == 0
        assert stage.listener.speaker_of(words((1_100, 2_000))) == "S1"

    play(story)


def test_a_window_that_kills_workers_is_given_up() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 0, 1_200), turn("a", 30_000, 32_000)], 40, Diariser(), Book())
        scope.spawn(stage.listener.run(), name="listener")
        stage.diariser.trouble = [WorkerLost("lost") for _ in range(LOSSES_MAX)]
        await stage.hear(29_000)
        assert len(stage.diariser.lengths) == LOSSES_MAX
        assert 1_000 <= stage.listener.skipped_ms <= 1_300
        await stage.hear(33_000)
        assert stage.listener.speaker_of(words((30_100, 31_000))) == "S1"

    play(story)


def test_what_cannot_be_heard_is_not_asked_again() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([ALICE], 12, Diariser(), Book())
        scope.spawn(stage.listener.run(), name="listener")
        stage.diariser.trouble = [Unavailable("it fails on this window")]
        await stage.hear(12_000)
        assert len(stage.diariser.lengths) == 7
        assert 900 <= stage.listener.skipped_ms <= 1_100

    play(story)


def test_a_defect_costs_the_labels_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([ALICE], 12, Diariser(), Book())
        task = scope.spawn(stage.listener.run(), name="listener")
        stage.diariser.trouble = [ZeroDivisionError()]
        await stage.hear(12_000)
        assert task.done()
        assert stage.listener.speaker_of(words((1_100, 2_000))) is None
        assert stage.listener.held_samples == 0
        stage.listener.committed(final("more", (1_100, 2_000)))
        stage.listener.hurry()
        stage.listener.close()

    play(story)
    assert [record.message for record in caplog.records] == ["listening for speakers failed"]


def test_a_book_without_room_is_offered_everything_later() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 0, 4_000), turn("a", 14_000, 18_000)], 30, Diariser(), Book())
        scope.spawn(stage.listener.run(), name="listener")
        stage.book.room = False
        await stage.hear(4_000)
        stage.listener.committed(final("one", (100, 3_900)))
        await stage.hear(14_000)
        assert not stage.book.found
        stage.book.room = True
        await stage.hear(18_000)
        assert stage.book.finals == {"one": ["S1"]}

    play(story)


def test_a_stream_that_goes_on_elsewhere_keeps_its_labels() -> None:
    """Whoever goes on hears a little again, has the state of the last final, and tells what was left open."""
    script = [turn("a", 0, 4_000), turn("b", 4_200, 8_000), turn("a", 12_000, 15_000), turn("b", 15_500, 20_000)]

    async def story(scope: Scope) -> None:
        first = Stage(script, 25, Diariser(), Book())
        task = scope.spawn(first.listener.run(), name="first")
        await first.hear(8_200)
        state = first.listener.state
        task.cancel()
        second = Stage(script, 25, Diariser(), Book(), state=state, recent=[final("open", (4_300, 7_900))])
        second.at = samples_of(6_000) // FRAME_SAMPLES * FRAME_SAMPLES
        second.listener = Listener(
            second.diariser, second.book, start_sample=second.at, limits=EVERY_SECOND, state=state,
            recent=[final("open", (4_300, 7_900))],
        )  # fmt: skip
        scope.spawn(second.listener.run(), name="second")
        await second.hear(25_000)
        listener = second.listener
        assert [listener.speaker_of(words(span)) for span in ((12_500, 14_000), (16_000, 19_000))] == ["S1", "S2"]
        assert second.book.finals == {"open": ["S1", "S2"]}

    play(story)


def test_enrolled_voices_are_known_and_told() -> None:
    async def story(scope: Scope) -> None:
        book = Book([Known("voice-b", vector("b"))])
        stage = Stage([turn("a", 0, 8_000), turn("b", 8_500, 18_000)], 20, Diariser(), book)
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(20_000)
        assert book.changes == [Recognised("S2", "voice-b")]
        (found,) = [found for found in book.found if found.changes]
        assert [speaker.label for speaker in found.speakers] == ["S1", "S2"], "a name has a row to go to"

    play(story)


def test_without_the_enrolled_voices_it_listens_all_the_same() -> None:
    async def story(scope: Scope) -> None:
        book = Book()
        book.away = True
        stage = Stage([ALICE], 12, Diariser(), book)
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(12_000)
        assert stage.listener.speaker_of(words((1_100, 2_000))) == "S1"

    play(story)


def test_finals_that_wait_are_bounded() -> None:
    async def story(scope: Scope) -> None:
        stage = Stage([turn("a", 0, 9_000)], 20, Diariser(), Book())
        for number in range(LIMITS.listener_finals_max + 3):
            stage.listener.committed(final(f"f{number}", (100 + number, 8_000)))
        assert len(stage.listener._finals) == LIMITS.listener_finals_max
        scope.spawn(stage.listener.run(), name="listener")
        await stage.hear(20_000)
        assert len(stage.book.finals) == LIMITS.listener_finals_max
        assert "f2" not in stage.book.finals

    play(story)


def test_windows_come_in_order_whatever_happens() -> None:
    """Seen from the track: beginnings and ends never go back, whatever the diariser and the pace do."""

    class Noted(Diariser):
        pass

    async def story(scope: Scope) -> None:
        diariser = Noted(1.0)
        stage = Stage([turn("a", 0, 90_000)], 90, diariser, Book())
        asked: list[tuple[int, int]] = []
        real = stage.listener._next_window
        stage.listener._next_window = lambda: asked.append(real()) or asked[-1]  # type: ignore[method-assign, func-returns-value]
        scope.spawn(stage.listener.run(), name="listener")
        for until, seconds, pace in ((20_000, 0.1, 1.0), (50_000, 4.0, 4.0), (70_000, 20.0, 1.0), (90_000, 0.1, 6.0)):
            diariser.seconds = seconds
            await stage.hear(until, pace=pace)
        assert all(a[0] <= b[0] and a[1] < b[1] for a, b in pairwise(asked))

    play(story)


def test_the_ring_has_room_for_a_window_and_what_comes_meanwhile() -> None:
    assert msgspec.structs.asdict(LIMITS)["listener_ring_ms"] >= 6_000 + 5 * LIMITS.diariser_hop_ms
