"""From the tape to final segments, with speech made of tones, on virtual time."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from streaming.audio.decode import DecodeStart, decoder_for
from streaming.audio.endpoint import CONVERSATION, EndpointRules
from streaming.audio.vad import SoundDetector
from streaming.errors import DecodeFailed, Fenced, WorkerLost
from streaming.limits import LIMITS, Limits
from streaming.model import FRAME_SAMPLES, SAMPLE_RATE, AudioFormat, Encoding, Segment, UtteranceSpec
from streaming.pipeline import LEAD_IN_FRAMES, Aside, Pipeline, StreamPlan, at_once, lead_in, raw_start
from streaming.ports import Pcm16, SpeechDetector
from streaming.tape import MarkKind, Tape
from tests.fakes.log import MemoryLog
from tests.fakes.opus import format_of, length_48k, packed
from tests.fakes.recogniser import Call, Losing, ToneRecogniser
from tests.fakes.sink import MemorySink
from tests.fakes.tones import Talk, encode, random_sentences, talk
from tests.sim import clock
from tests.sim.node import begin_of

TALK = talk(random_sentences(1, 5), silence_ms=900)
CONTAINERS = [Encoding.WEBM_OPUS, Encoding.OGG_OPUS]


class Stage:
    """One pipeline run and all around it."""

    def __init__(
        self,
        audio: bytes = b"",
        *,
        recogniser: ToneRecogniser | None = None,
        sink: MemorySink | None = None,
        limits: Limits = LIMITS,
        fmt: AudioFormat | None = None,
        rules: EndpointRules = CONVERSATION,
        start_sample: int = 0,
        next_ordinal: int = 1,
        begin: DecodeStart | None = None,
        aside: Aside = at_once,
        context: bytes = b"",
        detector: SpeechDetector | None = None,
    ) -> None:
        self.fmt = fmt or AudioFormat(Encoding.PCM_S16LE, 16_000, 1)
        plan = StreamPlan("rec.1", self.fmt, "auto", (), rules, start_sample, next_ordinal, begin, context)
        self.log = MemoryLog(audio)
        self.recogniser = recogniser or ToneRecogniser()
        self.sink = sink or MemorySink()
        self.tape = Tape(self.log, position=plan.start_byte, end=len(audio), limits=limits)
        self.pipeline = Pipeline(
            plan, tape=self.tape, recogniser=self.recogniser, detector=detector or SoundDetector(), sink=self.sink,
            limits=limits, on_parts=self.log.keep_parts, aside=aside,
        )  # fmt: skip

    def give(self, audio: bytes) -> None:
        self.tape.extend(self.log.append(audio))

    async def play(self, audio: bytes, *, chunk_ms: int = 100) -> None:
        """As if spoken: a chunk, then its duration."""
        chunk = self.fmt.bytes_per_second * chunk_ms // 1000
        for at in range(0, len(audio), chunk):
            self.give(audio[at : at + chunk])
            await asyncio.sleep(chunk_ms / 1000)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The pipeline runs meanwhile; a stop and its end follow."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pipeline.run())
            yield
            self.tape.mark(MarkKind.STOP)
        assert not self.recogniser.unended

    def settle(self) -> "Stage":
        """Recognise what is there, to the end."""

        async def settled() -> None:
            async with self.running():
                pass

        clock.run(settled())
        return self


def pcm(said: Talk) -> bytes:
    return said.audio.tobytes()


def spoken(*words: str) -> bytes:
    return encode(words).tobytes()


def silence(ms: int) -> bytes:
    return bytes(ms * 32)


def check(segments: Sequence[Segment], said: Talk, *, first_ordinal: int = 1, off_ms: int = 2) -> None:
    """The exact transcript, on the right times."""
    assert [segment.text for segment in segments] == said.texts
    assert [segment.ordinal for segment in segments] == list(range(first_ordinal, first_ordinal + len(segments)))
    for segment, sentence in zip(segments, said.sentences, strict=True):
        for heard, word in zip(segment.words, sentence, strict=True):
            assert abs(heard.start_ms - word.start_ms) <= off_ms
            assert abs(heard.end_ms - word.end_ms) <= off_ms


# --- the transcript ---------------------------------------------------------------------------------------------------
def test_a_backlog_becomes_the_exact_transcript() -> None:
    stage = Stage(pcm(TALK)).settle()
    check(stage.sink.segments, TALK)
    assert len({segment.segment_id for segment in stage.sink.segments}) == len(TALK.texts)


@pytest.mark.parametrize("chunk_ms", [7, 100, 1_900])
def test_speech_as_it_comes_gives_the_same_with_partials(chunk_ms: int) -> None:
    async def listen() -> Stage:
        stage = Stage()
        async with stage.running():
            await stage.play(pcm(TALK), chunk_ms=chunk_ms)
        return stage

    stage = clock.run(listen())
    check(stage.sink.segments, TALK)
    if chunk_ms <= 100:
        assert {p.segment_id for p in stage.sink.partials} == {s.segment_id for s in stage.sink.segments}
        assert any(partial.stable for partial in stage.sink.partials)


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (22_050, 1), (44_100, 1), (48_000, 2)])
def test_any_rate_and_channels(rate: int, channels: int) -> None:
    said = talk(random_sentences(2, 2), sample_rate=rate)
    fmt = AudioFormat(Encoding.PCM_S16LE, rate, channels)
    check(Stage(said.audio.repeat(channels).tobytes(), fmt=fmt).settle().sink.segments, said)


def test_a_recording_without_speech_has_no_segments() -> None:
    assert Stage(silence(5_000)).settle().sink.told == []
    assert Stage().settle().sink.told == []


def test_a_sound_without_words_is_no_segment_and_its_audio_is_done_with() -> None:
    hum = (np.sin(np.arange(16_000) * 0.3) * 8_000).astype(np.int16).tobytes()

    async def listen() -> tuple[Stage, int]:
        stage = Stage()
        async with stage.running():
            await stage.play(hum + silence(2_000) + spoken("alpha") + silence(2_000))
            settled = stage.pipeline.progress.settled_sample
        return stage, settled

    stage, settled = clock.run(listen())
    assert stage.sink.texts == ["alpha"]
    assert stage.sink.segments[0].ordinal == 1
    assert stage.recogniser.calls[Call.FINAL] == 2
    assert settled > 16_000 * 4


@pytest.mark.parametrize("tail", [1, 2, 255, 511, 512, 700, 1_023])
def test_a_stop_inside_a_frame_keeps_the_last_word(tail: int) -> None:
    """The audio ends `tail` bytes into a frame, an odd number ends inside a sample."""
    frame = 2 * FRAME_SAMPLES
    audio = spoken("alpha", "bravo")
    lead = -len(audio) % frame + tail // 2 * 2
    stage = Stage(silence(320) + bytes(lead) + audio + bytes(tail % 2)).settle()
    assert stage.sink.texts == ["alpha bravo"]


def test_long_talk_is_cut_without_losing_or_doubling_a_sample() -> None:
    """At the hard limit a word may be cut in two and is then heard by neither; all others are heard once."""
    rules = msgspec.structs.replace(CONVERSATION, utterance_ms_max=3_000)
    said = talk([random_sentences(3, 1, words=(20, 20))[0]])
    stage = Stage(pcm(said), rules=rules).settle()
    words = [word for text in stage.sink.texts for word in text.split()]
    expected = said.texts[0].split()
    assert len(stage.sink.segments) >= 3
    assert [word for word in expected if word in words] == words
    assert len(expected) - len(words) <= len(stage.sink.segments) - 1


# --- marks ------------------------------------------------------------------------------------------------------------
def test_a_flush_is_told_after_its_finals_and_before_later_ones() -> None:
    async def listen() -> Stage:
        stage = Stage(sink=MemorySink(commit_s=3.0))
        async with stage.running():
            stage.tape.mark(MarkKind.FLUSH, "nothing yet")
            await stage.play(spoken("alpha") + silence(1_000) + spoken("bravo") + silence(64))
            stage.tape.mark(MarkKind.FLUSH, "one")
            stage.tape.mark(MarkKind.FLUSH, "two")
            await stage.play(silence(96) + spoken("charlie") + silence(64))
            stage.tape.mark(MarkKind.FLUSH, "three")
        return stage

    stage = clock.run(listen())
    told = [item if isinstance(item, str) else item.text for item in stage.sink.told if isinstance(item, str | Segment)]
    assert told == ["nothing yet", "alpha", "bravo", "one", "two", "charlie", "three"]


def test_a_pause_ends_the_utterance_and_media_time_stands_still() -> None:
    async def listen() -> Stage:
        stage = Stage()
        async with stage.running():
            await stage.play(spoken("alpha") + silence(64))
            stage.tape.mark(MarkKind.PAUSE)
            await asyncio.sleep(3_600)
            assert stage.sink.texts == ["alpha"], "not only when the pause is over"
            await stage.play(silence(64) + spoken("bravo"))
        return stage

    stage = clock.run(listen())
    assert stage.sink.texts == ["alpha", "bravo"]
    assert stage.sink.segments[1].start_ms == len(spoken("alpha")) // 32 + 128


# --- lost and slow workers --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call", list(Call))
@pytest.mark.parametrize("numbers", [range(1), range(2, 30, 5), range(1, 4)])
def test_lost_workers_change_nothing(call: Call, numbers: range) -> None:
    async def listen() -> Stage:
        stage = Stage(recogniser=ToneRecogniser(Losing(call, numbers)))
        async with stage.running():
            await stage.play(pcm(TALK))
        return stage

    check(clock.run(listen()).sink.segments, TALK)


def test_every_single_call_lost_once() -> None:
    """Every call is made in vain once, then works."""
    seen: set[tuple[str, Call]] = set()

    def conduct(call: Call, spec: UtteranceSpec) -> float:
        if (spec.utterance_id, call) not in seen:
            seen.add((spec.utterance_id, call))
            raise WorkerLost("the first try")
        return 0.01

    async def listen() -> Stage:
        stage = Stage(recogniser=ToneRecogniser(conduct))
        async with stage.running():
            await stage.play(pcm(TALK))
        return stage

    check(clock.run(listen()).sink.segments, TALK)
    assert {call for _, call in seen} == set(Call)


@pytest.mark.parametrize("call", [Call.FEED, Call.PARTIAL, Call.FINAL])
def test_poison_costs_its_own_utterance_only(call: Call) -> None:
    """The second utterance kills every worker that hears it, long before it ends."""
    words = random_sentences(4, 3, words=(10, 12))
    said = talk(words)

    def conduct(now: Call, spec: UtteranceSpec) -> float:
        if spec.utterance_id.endswith(".2") and now is call:
            raise WorkerLost("poison")
        return 0.0

    async def listen() -> Stage:
        stage = Stage(recogniser=ToneRecogniser(conduct))
        async with stage.running():
            await stage.play(pcm(said))
        return stage

    stage = clock.run(listen())
    first, *poisoned, last = stage.sink.segments
    assert [first.text, last.text] == [said.texts[0], said.texts[2]]
    assert [segment.ordinal for segment in stage.sink.segments] == list(range(1, len(stage.sink.segments) + 1))
    for segment in poisoned:  # what was shown as stable before it turned poisonous stays
        assert call is Call.FINAL
        assert said.texts[1].startswith(segment.text)


def test_a_slow_recogniser_thins_partials_out_and_loses_no_final() -> None:
    def conduct(call: Call, _spec: UtteranceSpec) -> float:
        return {Call.PARTIAL: 1.5, Call.FINAL: 2.0}.get(call, 0.0)

    async def listen(recogniser: ToneRecogniser) -> Stage:
        stage = Stage(recogniser=recogniser)
        async with stage.running():
            await stage.play(pcm(TALK))
        return stage

    prompt = clock.run(listen(ToneRecogniser()))
    slow = clock.run(listen(ToneRecogniser(conduct)))
    check(slow.sink.segments, TALK)
    assert slow.recogniser.calls[Call.PARTIAL] < prompt.recogniser.calls[Call.PARTIAL] / 2
    at_beginnings = len(TALK.texts)  # an utterance begins with more than a hop of audio
    assert prompt.pipeline.progress.hops_skipped <= at_beginnings < slow.pipeline.progress.hops_skipped


def test_finals_stay_in_order_when_a_later_one_is_ready_first() -> None:
    def conduct(call: Call, spec: UtteranceSpec) -> float:
        return 60.0 if call is Call.FINAL and spec.utterance_id.endswith((".1", ".3")) else 0.0

    stage = Stage(pcm(TALK), recogniser=ToneRecogniser(conduct)).settle()
    check(stage.sink.segments, TALK)


def test_at_most_so_many_utterances_are_unfinished() -> None:
    """The reader stands still meanwhile: what is not read stays on disk, not in memory."""

    async def listen() -> None:
        gate = asyncio.Event()
        limits = msgspec.structs.replace(LIMITS, utterances_unfinished_max=2)
        sink = MemorySink()
        commit = sink.final

        async def held(segment: Segment, *, committed_sample: int, context: bytes, speakers: bytes) -> None:
            await gate.wait()
            await commit(segment, committed_sample=committed_sample, context=context, speakers=speakers)

        sink.final = held  # type: ignore[method-assign]
        stage = Stage(pcm(TALK), sink=sink, limits=limits)
        async with stage.running():
            await asyncio.sleep(1_000)
            assert stage.recogniser.calls[Call.OPEN] == 2
            third = TALK.sentences[2][0].start_ms * 32
            assert stage.tape.position <= third + limits.read_bytes
            progress = stage.pipeline.progress
            assert progress.settled_sample <= TALK.sentences[0][0].start_ms * 16
            gate.set()
        check(stage.sink.segments, TALK)

    clock.run(listen())


def test_the_context_of_the_newest_final_is_passed_on() -> None:
    """The first final comes long after the third: it does not set the context back. Contexts count utterances."""

    def conduct(call: Call, spec: UtteranceSpec) -> float:
        return 20.0 if call is Call.FINAL and spec.utterance_id.endswith(".1") else 0.0

    async def listen() -> Stage:
        limits = msgspec.structs.replace(LIMITS, utterances_unfinished_max=4)
        stage = Stage(recogniser=ToneRecogniser(conduct), limits=limits)
        async with stage.running():
            await stage.play(pcm(TALK))
        return stage

    stage = clock.run(listen())
    check(stage.sink.segments, TALK)
    contexts = [int(spec.context or b"0") for spec in stage.recogniser.specs]
    assert contexts == [0, 0, 1, 2, 3]


# --- starting over ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_a_restart_at_any_commit_gives_the_same_rest(rate: int) -> None:
    said = talk(random_sentences(5, 5), silence_ms=700, sample_rate=rate)
    fmt = AudioFormat(Encoding.PCM_S16LE, rate, 1)
    audio = said.audio.tobytes()
    whole = Stage(audio, fmt=fmt).settle().sink
    check(whole.segments, said)
    for done, start in enumerate(whole.commits, 1):
        rest = Stage(audio, fmt=fmt, start_sample=start, next_ordinal=done + 1).settle().sink
        assert [(s.ordinal, s.text) for s in rest.segments] == [(s.ordinal, s.text) for s in whole.segments[done:]]
        for again, before in zip(rest.segments, whole.segments[done:], strict=True):
            assert abs(again.start_ms - before.start_ms) <= 1
        assert all(abs(a - b) <= FRAME_SAMPLES for a, b in zip(rest.commits, whole.commits[done:], strict=True))


def test_a_restart_wherever_it_is_settled_gives_the_same_rest() -> None:
    """`settled_sample` is written with every lease: a stream may start again at any value it ever had."""
    said = talk(random_sentences(6, 3), silence_ms=3_000)
    points: set[tuple[int, int]] = set()

    async def listen() -> Stage:
        stage = Stage(sink=MemorySink(commit_s=0.5))
        async with stage.running():
            playing = asyncio.ensure_future(stage.play(pcm(said), chunk_ms=50))
            while not playing.done():
                progress = stage.pipeline.progress
                points.add((progress.settled_sample, progress.segments))
                await asyncio.sleep(0.17)
        return stage

    whole = clock.run(listen()).sink
    starts = sorted(points)
    assert starts == sorted(starts, key=lambda point: point[1]), "settled audio stays settled"
    assert len(starts) > 20
    for start, done in starts[:: len(starts) // 12]:
        rest = Stage(pcm(said), start_sample=start, next_ordinal=done + 1).settle().sink
        assert [(s.ordinal, s.text) for s in rest.segments] == [(s.ordinal, s.text) for s in whole.segments[done:]]


def test_progress_never_passes_what_was_read() -> None:
    async def listen() -> None:
        stage = Stage(recogniser=ToneRecogniser(lambda _call, _spec: 0.05))
        last = stage.pipeline.progress
        async with stage.running():
            for at in range(0, len(pcm(TALK)), 3_200):
                stage.give(pcm(TALK)[at : at + 3_200])
                await asyncio.sleep(0.1)
                now = stage.pipeline.progress
                assert now.settled_sample <= now.processed_sample <= stage.tape.position // 2
                assert now.settled_sample >= last.settled_sample
                assert now.segments == len(stage.sink.segments)
                last = msgspec.structs.replace(now)

    clock.run(listen())


# --- endings ----------------------------------------------------------------------------------------------------------
async def outcome(stage: Stage) -> BaseException | None:
    """What `run` raised; fails when it left a task or a decoder behind."""
    task = asyncio.ensure_future(stage.pipeline.run())
    stage.tape.mark(MarkKind.STOP)
    await asyncio.wait([task])
    assert asyncio.all_tasks() == {asyncio.current_task()} or len(asyncio.all_tasks()) == 2
    assert not stage.recogniser.unended
    return task.exception()


@pytest.mark.parametrize("fence_at", [0, 2])
def test_a_fenced_final_ends_the_run(fence_at: int) -> None:
    stage = Stage(pcm(TALK), sink=MemorySink(fence_at=fence_at))
    assert isinstance(clock.run(outcome(stage)), Fenced)
    assert stage.sink.texts == TALK.texts[:fence_at]


def test_damaged_audio_ends_the_run() -> None:
    stage = Stage(b"no container at all", fmt=AudioFormat(Encoding.WEBM_OPUS, 48_000, 1))
    error = clock.run(outcome(stage))
    assert isinstance(error, DecodeFailed)
    assert error.field == "audio"
    assert stage.pipeline.failed


@pytest.mark.parametrize("encoding", CONTAINERS)
def test_what_was_heard_before_the_damage_is_brought_to_its_finals(encoding: Encoding) -> None:
    said = talk(random_sentences(4, 3), silence_ms=200)  # one utterance, under way when the audio ends
    data = packed(said.audio, encoding)
    stage = Stage(data + b"\xff" * 400_000, fmt=format_of(encoding))
    assert isinstance(clock.run(outcome(stage)), DecodeFailed)
    assert " ".join(stage.sink.texts) == " ".join(said.texts)
    progress = stage.pipeline.progress
    assert progress.segments == len(stage.sink.segments)
    assert abs(progress.decoded_sample - len(said.audio)) < SAMPLE_RATE // 2


# --- going on ---------------------------------------------------------------------------------------------------------
class Recording:
    """A detector that keeps the frames it was asked about."""

    def __init__(self) -> None:
        self.frames: list[Pcm16] = []
        self._sound = SoundDetector()

    def is_speech(self, frame: Pcm16, *, in_speech: bool) -> bool:
        self.frames.append(frame.copy())
        return self._sound.is_speech(frame, in_speech=in_speech)

    def reset(self) -> None:
        raise AssertionError("nothing is forgotten")


def test_the_detector_hears_again_what_leads_to_the_place() -> None:
    whole = Stage(pcm(TALK)).settle()
    for number, committed in enumerate(whole.sink.commits, 1):
        detector = Recording()
        rest = Stage(pcm(TALK), start_sample=committed, next_ordinal=number + 1, detector=detector).settle()
        assert [s.text for s in rest.sink.segments] == TALK.texts[number:], "and no utterance begins before it"
        first = lead_in(committed)
        assert committed - first == min(committed, LEAD_IN_FRAMES * FRAME_SAMPLES)
        heard = np.concatenate(detector.frames)
        assert np.array_equal(heard[: len(TALK.audio) - first], TALK.audio[first:])


# --- level ------------------------------------------------------------------------------------------------------------
QUIET = np.rint(TALK.audio / 60).astype(np.int16)


def quiet(activity: str, detector: SpeechDetector | None = None, **options: Any) -> Stage:
    return Stage(QUIET.tobytes(), recogniser=ToneRecogniser(activity=activity), detector=detector, **options).settle()


def test_quiet_talk_is_heard_by_detector_and_engine_from_its_first_sample_on() -> None:
    """Also the pre-roll, which the detector heard before anything was loud enough to be talk."""
    check(quiet("speech").sink.segments, TALK)
    assert quiet("sound").sink.segments == [], "an engine for any sound gets it as it is"


def test_quiet_talk_that_goes_on_elsewhere_is_heard_at_the_same_level() -> None:
    whole = Recording()
    commits = quiet("speech", whole).sink.commits
    for number, committed in enumerate(commits, 1):
        detector = Recording()
        rest = quiet("speech", detector, start_sample=committed, next_ordinal=number + 1)
        assert [s.text for s in rest.sink.segments] == TALK.texts[number:]
        frames = (len(QUIET) - committed) // FRAME_SAMPLES
        np.testing.assert_array_equal(np.concatenate(detector.frames[-frames:]), np.concatenate(whole.frames[-frames:]))


# --- context ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seconds", [0.0, 5.0])
def test_an_engine_gets_the_context_of_the_final_before_however_long_that_took(seconds: float) -> None:
    def conduct(call: Call, _spec: UtteranceSpec) -> float:
        return seconds if call is Call.FINAL else 0.0

    def heard(**options: Any) -> Stage:
        return Stage(pcm(TALK), recogniser=ToneRecogniser(conduct, in_order=True), **options).settle()

    whole = heard()
    contexts = [spec.context for spec in whole.recogniser.specs]
    assert contexts == [b"", *whole.sink.contexts[:-1]], "each has another: the number of finals"
    assert len(set(whole.sink.contexts)) == len(TALK.texts)
    for number, committed in enumerate(whole.sink.commits, 1):
        rest = heard(start_sample=committed, next_ordinal=number + 1, context=whole.sink.contexts[number - 1])
        assert [spec.context for spec in rest.recogniser.specs] == contexts[number:], "as if it had never stopped"


def test_an_engine_that_wants_no_order_waits_for_no_final() -> None:
    conduct: Callable[[Call, UtteranceSpec], float] = lambda call, _: 60.0 if call is Call.FINAL else 0.0  # noqa: E731
    stage = Stage(pcm(TALK), recogniser=ToneRecogniser(conduct)).settle()
    assert [spec.context for spec in stage.recogniser.specs[:2]] == [b"", b""]


# --- containers -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoding", CONTAINERS)
def test_a_container_gives_the_exact_transcript_its_length_and_its_parts(encoding: Encoding) -> None:
    data = packed(TALK.audio, encoding)
    stage = Stage(data, fmt=format_of(encoding)).settle()
    check(stage.sink.segments, TALK, off_ms=10)
    progress = stage.pipeline.progress
    assert (progress.decoded_byte, progress.damaged_samples) == (len(data), 0)
    assert progress.decoded_sample == round(length_48k(data, encoding) / 3)
    offsets = [part.offset for part in stage.log.parts]
    assert len(offsets) > len(TALK.audio) // SAMPLE_RATE // 2
    assert offsets == sorted(set(offsets))


@pytest.mark.parametrize("encoding", CONTAINERS)
def test_a_container_goes_on_at_a_part_before_any_committed_sample(encoding: Encoding) -> None:
    data = packed(TALK.audio, encoding)
    whole = Stage(data, fmt=format_of(encoding)).settle()
    assert whole.sink.commits[-1] > LEAD_IN_FRAMES * FRAME_SAMPLES
    for number, committed in enumerate(whole.sink.commits, 1):
        begin = begin_of(whole.log, whole.log.parts, committed)
        assert (begin.part is None) == (begin.sample == 0), "not from the first byte"
        rest = Stage(
            data, fmt=format_of(encoding), start_sample=committed, next_ordinal=number + 1, begin=begin
        ).settle()  # fmt: skip
        assert rest.tape.position == len(data)
        told = [(s.ordinal, s.text, s.start_ms, s.end_ms) for s in rest.sink.segments]
        assert told == [(s.ordinal, s.text, s.start_ms, s.end_ms) for s in whole.sink.segments[number:]]
        known = [part for part in whole.log.parts if part.offset > begin.offset]
        assert rest.log.parts == known, "the same places are met again"


async def test_decoding_runs_aside_and_in_order() -> None:
    threads = set()

    async def aside(work: Callable[[], Pcm16]) -> Pcm16:
        def watched() -> Pcm16:
            threads.add(threading.get_ident())
            return work()

        return await asyncio.to_thread(watched)

    stage = Stage(packed(TALK.audio, Encoding.OGG_OPUS), fmt=format_of(Encoding.OGG_OPUS), aside=aside)
    async with stage.running():
        pass
    check(stage.sink.segments, TALK, off_ms=10)
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("sample", [0, 700, 16_001, 33_333])
def test_raw_audio_from_the_middle_is_the_same_audio(rate: int, sample: int) -> None:
    """Not even the resampler's phase differs."""
    fmt = AudioFormat(Encoding.PCM_S16LE, rate, 1)
    data = talk(random_sentences(6, 1), sample_rate=rate).audio.tobytes()
    begin = raw_start(fmt, sample)
    assert begin.sample == sample
    whole, rest = decoder_for(fmt), decoder_for(fmt, begin)
    heard = np.concatenate([rest.feed(data[begin.offset :]), rest.finish()]).astype(int)
    expected = np.concatenate([whole.feed(data), whole.finish()])[sample:].astype(int)
    assert len(heard) == len(expected)
    assert np.abs(heard - expected).max() <= 1
    assert begin.offset <= sample * rate // SAMPLE_RATE * 2


@pytest.mark.parametrize("call", list(Call))
def test_cancelled_at_any_moment_it_leaves_nothing_behind(call: Call) -> None:
    async def cancel() -> None:
        stage = Stage(recogniser=ToneRecogniser(lambda now, _spec: 50.0 if now is call else 0.0))
        task = asyncio.ensure_future(stage.pipeline.run())
        await stage.play(pcm(TALK))
        assert stage.recogniser.calls[call]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not stage.recogniser.unended

    clock.run(cancel())
