"""One utterance through a recogniser that fails in every way it can. Time is virtual: back-offs pass at once."""

import asyncio
import itertools
from collections.abc import Callable

import msgspec
import pytest

from streaming.errors import WorkerLost
from streaming.limits import LIMITS
from streaming.model import Capabilities, Final, Hypothesis, Partial, UtteranceSpec
from streaming.ports import Pcm16
from streaming.utterance import Utterance
from tests.fakes.recogniser import Call, Conduct, Losing, ToneDecoder, ToneRecogniser, prompt
from tests.fakes.tones import encode
from tests.sim import clock

WORDS = ("alpha", "bravo", "charlie", "delta", "echo")
AUDIO = encode(WORDS)
PIECE = 512


class Take:
    """An utterance being recognised while its audio is fed, frame by frame, `piece_s` apart."""

    def __init__(self, recogniser: ToneRecogniser, *, limits: object = LIMITS) -> None:
        self.recogniser = recogniser
        self.partials: list[Partial] = []
        self.early = False
        """`run` returned while audio was still to come."""
        self.utterance = Utterance(
            UtteranceSpec("u", 0, "en"),
            recogniser=recogniser,
            on_partial=self.partials.append,
            limits=LIMITS if limits is None else limits,  # type: ignore[arg-type]
        )

    async def recognise(self, audio: Pcm16 = AUDIO, *, piece_s: float = 0.032) -> Final | None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.utterance.run())
            for at in range(0, len(audio), PIECE):
                self.utterance.feed(audio[at : at + PIECE])
                await asyncio.sleep(piece_s)
            self.early = task.done()
            self.utterance.end(len(audio))
        assert not self.recogniser.unended, "every decoder is given up"
        return task.result()


def texts(final: Final | None) -> tuple[str, ...]:
    assert final is not None
    return tuple(word.text for word in final.hypothesis.words)


def shown(take: Take) -> list[tuple[str, str]]:
    return [(partial.stable, partial.unstable) for partial in take.partials]


def test_hypotheses_run_at_fixed_sample_counts() -> None:
    take = Take(ToneRecogniser())
    assert texts(clock.run(take.recognise())) == WORDS
    hop_ms = take.recogniser.capabilities.hop_ms
    assert [partial.end_ms % hop_ms for partial in take.partials] == [0] * len(take.partials)
    assert take.recogniser.calls[Call.PARTIAL] == len(AUDIO) // (hop_ms * 16)
    assert take.utterance.hops_skipped == 0
    assert take.partials[-1].stable


@pytest.mark.parametrize("piece_s", [0.0, 0.001, 0.032, 1.0])
def test_the_pace_changes_nothing_in_the_final(piece_s: float) -> None:
    assert texts(clock.run(Take(ToneRecogniser()).recognise(piece_s=piece_s))) == WORDS


@pytest.mark.parametrize("call", list(Call))
@pytest.mark.parametrize("number", [0, 1, 3, 7])
def test_a_lost_worker_is_offered_the_audio_again(call: Call, number: int) -> None:
    losing = Losing(call, {number})
    take = Take(ToneRecogniser(losing))
    assert texts(clock.run(take.recognise())) == WORDS
    ends = [partial.end_ms for partial in take.partials]
    assert ends == sorted(set(ends)), "a hop that was told is not told again"


@pytest.mark.parametrize("call", list(Call))
def test_lost_again_and_again_up_to_the_limit(call: Call) -> None:
    losing = Losing(call, range(LIMITS.utterance_attempts_max - 1))
    take = Take(ToneRecogniser(losing))
    assert texts(clock.run(take.recognise(piece_s=1.0))) == WORDS
    assert losing.losses == LIMITS.utterance_attempts_max - 1


def test_losses_do_not_change_what_is_shown() -> None:
    undisturbed = Take(ToneRecogniser())
    clock.run(undisturbed.recognise(piece_s=10))
    disturbed = Take(ToneRecogniser(Losing(Call.PARTIAL, {1, 3, 4})))
    clock.run(disturbed.recognise(piece_s=10))
    assert shown(disturbed) == shown(undisturbed)


@pytest.mark.parametrize("call", [Call.FEED, Call.PARTIAL, Call.FINAL])
def test_poison_is_set_aside_but_not_before_its_end(call: Call) -> None:
    recogniser = ToneRecogniser(Losing(call, range(1_000)))
    take = Take(recogniser)
    assert clock.run(take.recognise(piece_s=1.0)) is None
    assert not take.early, "the pipeline still feeds it: it must not be over before its end is known"
    assert recogniser.calls[call] == LIMITS.utterance_attempts_max


def test_a_recogniser_that_is_down_for_long_is_no_poison() -> None:
    """It cannot have been this audio that it died of: it never heard it."""
    down = Losing(Call.OPEN, range(100 * LIMITS.utterance_attempts_max))
    assert texts(clock.run(Take(ToneRecogniser(down)).recognise())) == WORDS


@pytest.mark.parametrize("second", [Call.FEED, Call.PARTIAL, Call.FINAL])
def test_down_between_losses(second: Call) -> None:
    """Each loss is followed by an outage longer than all attempts."""
    seen = {"losses": 0, "down": 0}

    def conduct(call: Call, _spec: UtteranceSpec) -> float:
        if call is Call.OPEN and seen["down"]:
            seen["down"] -= 1
            raise WorkerLost("still down")
        if call is second and seen["losses"] < 3:
            seen["losses"] += 1
            seen["down"] = 20
            raise WorkerLost("lost")
        return 0.0

    assert texts(clock.run(Take(ToneRecogniser(conduct)).recognise())) == WORDS


def slow(seconds: float) -> Conduct:
    return lambda call, _spec: seconds if call is Call.PARTIAL else 0.0


def test_a_slow_recogniser_skips_hops_and_counts_them() -> None:
    take = Take(ToneRecogniser(slow(0.5)))
    assert texts(clock.run(take.recognise())) == WORDS
    made, hops = take.recogniser.calls[Call.PARTIAL], len(AUDIO) // (take.recogniser.capabilities.hop_ms * 16)
    assert 0 < made < hops
    assert hops - made <= take.utterance.hops_skipped + 1, "the last one may end after the utterance"
    assert 0 < take.utterance.hops_skipped <= hops - made


def test_no_partial_is_told_after_the_end() -> None:
    """The hypothesis under way when the utterance ends is dropped."""
    told: list[str] = []
    recogniser = ToneRecogniser(slow(5.0))
    utterance = Utterance(
        UtteranceSpec("u", 0, "en"), recogniser=recogniser, on_partial=lambda p: told.append(p.stable), limits=LIMITS
    )

    async def end_meanwhile() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(utterance.run())
            utterance.feed(AUDIO)
            await asyncio.sleep(1.0)
            assert recogniser.calls[Call.PARTIAL] == 1
            utterance.end(len(AUDIO))

    clock.run(end_meanwhile())
    assert told == []


@pytest.mark.parametrize("call", list(Call))
def test_cancelled_in_any_call_it_gives_the_decoder_up(call: Call) -> None:
    def stuck(now: Call, _spec: UtteranceSpec) -> float:
        return 1_000.0 if now is call else 0.0

    recogniser = ToneRecogniser(stuck)
    utterance = Utterance(UtteranceSpec("u", 0, "en"), recogniser=recogniser, on_partial=lambda _: None, limits=LIMITS)

    async def cancel() -> None:
        task = asyncio.get_running_loop().create_task(utterance.run())
        utterance.feed(AUDIO)
        if call is Call.FINAL:
            utterance.end(len(AUDIO))
        await asyncio.sleep(10)
        assert recogniser.calls[call] == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    clock.run(cancel())
    assert not recogniser.unended


@pytest.mark.parametrize("made", [lambda: ToneRecogniser(prompt, hop_ms=50), lambda: ToneRecogniser(agreement=0)])
def test_capabilities_are_obeyed(made: Callable[[], ToneRecogniser]) -> None:
    take = Take(made())
    assert texts(clock.run(take.recognise())) == WORDS
    if take.recogniser.capabilities.agreement == 0:
        assert {partial.stable for partial in take.partials} == {""}, "the engine fixes nothing"


def test_attempts_are_a_limit() -> None:
    few = msgspec.structs.replace(LIMITS, utterance_attempts_max=2)
    recogniser = ToneRecogniser(Losing(Call.FEED, range(2)))
    assert clock.run(Take(recogniser, limits=few).recognise()) is None


class Busy(ToneRecogniser):
    """Wants hypotheses at every `hops`th hop only, and lets every request expire once where `late`."""

    def __init__(self, hops: float = 1, *, late: bool = False, parts: int = 1) -> None:
        super().__init__()
        self.hops = hops
        self.parts = parts
        self.late = late
        self.expired = 0
        self.fed: list[int] = []

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, parts=self.parts)

    async def open(self, spec: UtteranceSpec) -> "BusyDecoder":
        return BusyDecoder(self, await super().open(spec))


class BusyDecoder:
    def __init__(self, owner: Busy, inner: ToneDecoder) -> None:
        self._owner, self._inner = owner, inner
        self._handed_back = False
        self.feed, self.final, self.discard = inner.feed, inner.final, inner.discard

    async def partial(self) -> Hypothesis | None:
        hypothesis = await self._inner.partial()
        if self._owner.late and not self._handed_back:
            self._handed_back = True
            self._owner.expired += 1
            await asyncio.sleep(0.5)
            return None
        self._handed_back = False
        self._owner.fed.append(hypothesis.until_sample)
        return msgspec.structs.replace(hypothesis, hops=self._owner.hops)


@pytest.mark.parametrize("hops", [2, 3, 5])
def test_hypotheses_thin_out_in_whole_hops(hops: int) -> None:
    take = Take(Busy(hops))
    assert texts(clock.run(take.recognise())) == WORDS
    hop = take.recogniser.capabilities.hop_ms * 16
    first, *others = take.recogniser.fed
    assert first == hop, "the first one is not thinned out: nothing is known yet"
    assert {after - before for before, after in itertools.pairwise([first, *others])} == {hops * hop}
    assert take.utterance.hops_skipped == (take.recogniser.fed[-1] // hop) - len(take.recogniser.fed)


@pytest.mark.parametrize("parts", [2, 5])
def test_where_there_is_time_to_spare_they_come_at_parts_of_a_hop(parts: int) -> None:
    take = Take(Busy(1 / parts, parts=parts))
    assert texts(clock.run(take.recognise())) == WORDS
    hop = take.recogniser.capabilities.hop_ms * 16
    first, *others = take.recogniser.fed
    assert first == hop, "nothing is known yet"
    assert {after - before for before, after in itertools.pairwise([first, *others])} == {hop // parts}
    assert take.utterance.hops_skipped == 0, "more than one a hop is more than was promised"
    assert take.utterance.hops == 1 / parts, "the next utterance begins so"


def test_what_expired_is_asked_again_over_newer_audio() -> None:
    take = Take(Busy(late=True))
    assert texts(clock.run(take.recognise())) == WORDS
    assert take.recogniser.expired > 2
    hop = take.recogniser.capabilities.hop_ms * 16
    assert take.recogniser.fed[0] >= 2 * hop, "half a second later there was more"
    assert take.utterance.hops_skipped > 0


def test_what_expired_is_asked_again_although_no_audio_came() -> None:
    """The client stalls: its last words are still to be seen."""
    take = Take(Busy(late=True))

    async def stall() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(take.utterance.run())
            take.utterance.feed(AUDIO)
            await asyncio.sleep(10)
            assert len(take.recogniser.fed) == 1
            take.utterance.end(len(AUDIO))
        assert texts(task.result()) == WORDS

    clock.run(stall())


def test_the_end_does_not_wait_for_a_hypothesis() -> None:
    recogniser = ToneRecogniser(slow(100.0))
    utterance = Utterance(UtteranceSpec("u", 0, "en"), recogniser=recogniser, on_partial=lambda _: None, limits=LIMITS)

    async def finish() -> float:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(utterance.run())
            utterance.feed(AUDIO)
            await asyncio.sleep(1.0)
            utterance.end(len(AUDIO))
            final = await task
        assert texts(final) == WORDS
        return asyncio.get_running_loop().time()

    assert clock.run(finish()) < 2.0


@pytest.mark.parametrize("call", [Call.FEED, Call.PARTIAL, Call.FINAL])
def test_losses_that_others_caused_do_not_count(call: Call) -> None:
    losses = 10 * LIMITS.utterance_attempts_max

    def conduct(now: Call, _spec: UtteranceSpec) -> float:
        nonlocal losses
        if now is call and losses:
            losses -= 1
            raise WorkerLost("of another's audio", suspect=False)
        return 0.0

    take = Take(ToneRecogniser(conduct))
    assert texts(clock.run(take.recognise())) == WORDS
    assert not any(spec.alone for spec in take.recogniser.specs)


def test_a_suspect_is_decoded_alone_from_then_on() -> None:
    take = Take(ToneRecogniser(Losing(Call.PARTIAL, {0})))
    assert texts(clock.run(take.recognise())) == WORDS
    assert [spec.alone for spec in take.recogniser.specs] == [False, True]
