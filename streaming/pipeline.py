"""The life of a stream: encoded bytes from the tape, through decoding, endpointing and recognition, to final segments.

    tape -> AudioDecoder -> frames -> Leveller -> SpeechDetector -> Endpointer -> Utterance (own task) -> sink
                               +----> Listener: who speaks, beside everything else

Policy: the next utterance may be recognised while the previous one is being finished (at most
`utterances_unfinished_max`), but finals are committed strictly in order. `committed_sample` only moves past audio that
needs no further work, so a restart from it neither loses nor repeats a segment; with the engine's context and what
leads to that place (`lead_in`) it hears what would have been heard without one. Where the audio cannot be decoded any
further, everything before is still brought to its finals; only then the error leaves `run`.

Boundary: ports only; no socket, no database, no clock. Ends by a STOP mark, by `DecodeFailed`, by `Fenced`, or by
cancellation.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import numpy as np

from streaming.audio.decode import DecodeStart, decoder_for
from streaming.audio.endpoint import Effect, Endpointer, EndpointRules, UtteranceBegan
from streaming.audio.prepare import LOOK_FRAMES, leveller_for
from streaming.audio.window import AudioWindow
from streaming.errors import DecodeFailed
from streaming.limits import Limits
from streaming.listener import Listener
from streaming.model import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    AudioFormat,
    Final,
    Hypothesis,
    Part,
    Partial,
    UtteranceSpec,
    samples_of,
)
from streaming.ports import Pcm16, Recogniser, SpeechDetector, TranscriptSink
from streaming.tape import Mark, MarkKind, Tape
from streaming.utterance import Utterance

LOOKBACK_SAMPLES = samples_of(3_000)
"""How far back an utterance may begin: pre-roll plus the speech that proves it, far below 3 s in every preset."""

FRAMES_AT_ONCE = 62
"""Frames that are judged before others get their turn: 2 s of audio, some 10 ms with a neural detector."""
RUN_UP_SAMPLES = samples_of(120)
"""What the resampler holds back at any rate (115 ms): audio from the middle is then as it is from the start."""
LEAD_IN_FRAMES = LOOK_FRAMES + 156
"""9 s that are heard again where a stream goes on: 4 s until the level is what it was, then 5 s for the detector, since
webrtcvad's noise floor looks back for a second, silero's state for less."""

Aside = Callable[[Callable[[], Pcm16]], Awaitable[Pcm16]]
"""Runs a call that takes long away from the event loop, such as `asyncio.to_thread`."""


async def at_once(work: Callable[[], Pcm16]) -> Pcm16:
    """`Aside` for decoders that take no time."""
    return work()


def lead_in(sample: int) -> int:
    """Where to begin decoding so that speech detection goes on at `sample` as if it had heard everything before; whole
    frames before it."""
    return sample - min(LEAD_IN_FRAMES, sample // FRAME_SAMPLES) * FRAME_SAMPLES


def raw_start(fmt: AudioFormat, sample: int) -> DecodeStart:
    """Where to begin for `sample` in a raw encoding: early enough for the resampler, at a frame that stands exactly on
    one of our samples, so that the audio is the same as without a break."""
    if fmt.sample_rate == SAMPLE_RATE:
        return DecodeStart(sample=sample, offset=sample * fmt.frame_bytes)
    common = math.gcd(fmt.sample_rate, SAMPLE_RATE)
    period = SAMPLE_RATE // common
    periods = max(0, sample - RUN_UP_SAMPLES) // period
    return DecodeStart(sample=sample, offset=periods * (fmt.sample_rate // common) * fmt.frame_bytes)


class StreamPlan(msgspec.Struct, frozen=True):
    """What one pipeline run is to do.

    `start_sample`: where recognition begins (0, or the committed sample of a resumed stream);
    `next_ordinal`: number of the first segment it will commit; `name`: prefix of its segment ids; `begin`: where a
    container encoding is decoded from, for `lead_in(start_sample)` (None: its first byte); `context`: the engine's,
    from the last final before; `tenant`, `task`, `words`: as in `UtteranceSpec`."""

    name: str
    format: AudioFormat
    language: str
    vocabulary: tuple[str, ...]
    rules: EndpointRules
    start_sample: int
    next_ordinal: int
    begin: DecodeStart | None = None
    context: bytes = b""
    tenant: str = ""
    task: str = "transcribe"
    words: bool = False

    @property
    def decode_start(self) -> DecodeStart:
        first = lead_in(self.start_sample)
        if self.format.encoding.is_container:
            return self.begin or DecodeStart(sample=first)
        return raw_start(self.format, first)

    @property
    def start_byte(self) -> int:
        """First byte of the encoded stream that recognition needs."""
        return self.decode_start.offset


class Progress(msgspec.Struct):
    """How far a pipeline is: `processed_sample` went through endpointing, `settled_sample` needs no further work;
    `hops_skipped`: partial hypotheses of finished utterances that were left out because the recogniser was behind;
    `decoded_byte` and `decoded_sample`: so many bytes of the recording are so many samples; `damaged_samples`: of them
    silence, because they could not be read."""

    processed_sample: int
    settled_sample: int
    segments: int
    hops_skipped: int
    decoded_byte: int
    decoded_sample: int
    damaged_samples: int


class Pipeline:
    """Recognise one stream. `run` is awaited by its owner; `progress` may be read at any time."""

    def __init__(
        self,
        plan: StreamPlan,
        *,
        tape: Tape,
        recogniser: Recogniser,
        detector: SpeechDetector,
        sink: TranscriptSink,
        limits: Limits,
        listener: Listener | None = None,
        on_parts: Callable[[list[Part]], None] | None = None,
        aside: Aside = at_once,
    ) -> None:
        """`listener`: hears everything from `lead_in` on and knows who speaks, None: nobody asks; `on_parts` gets the
        places at which decoding may begin, as they are met; `aside` runs the decoder.

        Raises what `decoder_for` raises."""
        self._plan = plan
        self._tape = tape
        self._recogniser = recogniser
        self._detector = detector
        self._leveller = leveller_for(recogniser.capabilities.activity)
        self._sink = sink
        self._limits = limits
        self._listener = listener
        self._on_parts = on_parts
        self._aside = aside
        self._decoder = decoder_for(plan.format, plan.decode_start)
        self._decoded = (plan.start_byte, self._decoder.sample_end)
        self._failure: DecodeFailed | None = None
        self._endpointer = Endpointer(plan.rules, plan.start_sample)
        self._lead_in = Endpointer(plan.rules, lead_in(plan.start_sample))
        self._window = AudioWindow(plan.start_sample, 2 * LOOKBACK_SAMPLES)
        self._rest: Pcm16 = np.empty(0, np.int16)
        self._utterance: Utterance | None = None
        self._utterances = 0
        self._unfinished = asyncio.Semaphore(limits.utterances_unfinished_max)
        self._last: asyncio.Future[None] | None = None
        self._heard = asyncio.Event()
        """The newest utterance has its hypothesis, or there is none."""
        self._heard.set()
        self._context = plan.context
        self._context_from = 0
        """Number of the utterance whose final gave `_context`."""
        self._committed_sample = plan.start_sample
        self._open_starts: list[int] = []
        self._ordinal = plan.next_ordinal
        self._hops_skipped = 0
        self._hops = 1.0

    @property
    def progress(self) -> Progress:
        settled = self._open_starts[0] if self._open_starts else self._endpointer.settled_sample
        return Progress(
            processed_sample=self._endpointer.position,
            settled_sample=max(self._committed_sample, settled),
            segments=self._ordinal - 1,
            hops_skipped=self._hops_skipped,
            decoded_byte=self._decoded[0],
            decoded_sample=self._decoded[1],
            damaged_samples=self._decoder.damaged_samples,
        )

    @property
    def failed(self) -> bool:
        """What follows in the tape cannot be decoded and is left out."""
        return self._failure is not None

    async def run(self) -> None:
        """Run until the STOP mark and the commit of the last final. Raises `Fenced` or what the decoder raises."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._read(group)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        if self._failure is not None:
            raise self._failure

    async def _read(self, group: asyncio.TaskGroup) -> None:
        while self._failure is None:
            item = await self._tape.next()
            if isinstance(item, bytes):
                audio = await self._decode(partial(self._decoder.feed, item))
                await self._hear(audio, group)
                await asyncio.sleep(0)  # a long backlog must not hold the loop
                continue
            await self._obey(item, group)
            if item.kind is MarkKind.STOP:
                return
        await self._end(np.empty(0, np.int16), group)

    async def _decode(self, work: Callable[[], Pcm16]) -> Pcm16:
        """What `work` says; nothing when the audio ends here because it cannot be read any further."""
        audio: Pcm16 = np.empty(0, np.int16)
        try:
            audio = await self._aside(work)
        except DecodeFailed as error:
            self._failure = error
        self._decoded = (self._tape.position, self._decoder.sample_end)
        parts = self._decoder.take_parts()
        if parts and self._on_parts is not None:
            self._on_parts(parts)
        return audio

    async def _obey(self, mark: Mark, group: asyncio.TaskGroup) -> None:
        if mark.kind is MarkKind.STOP:
            await self._end(await self._decode(self._decoder.finish), group)
            return
        await self._apply(self._endpointer.force_end(), group)
        if mark.kind is MarkKind.FLUSH:
            group.create_task(self._report_flush(mark.marker, *self._link()), name="flush")

    async def _end(self, tail: Pcm16, group: asyncio.TaskGroup) -> None:
        missing = -(len(self._rest) + len(tail)) % FRAME_SAMPLES
        await self._hear(np.concatenate([tail, np.zeros(missing, np.int16)]), group)
        await self._apply(self._endpointer.force_end(), group)

    async def _hear(self, audio: Pcm16, group: asyncio.TaskGroup) -> None:
        """Cut decoded audio into frames and let the endpointer judge each."""
        audio = np.concatenate([self._rest, audio])
        whole = len(audio) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = audio[whole:]
        for at in range(0, whole, FRAME_SAMPLES):
            if at and at % (FRAMES_AT_ONCE * FRAME_SAMPLES) == 0:
                await asyncio.sleep(0)
            frame = audio[at : at + FRAME_SAMPLES]
            heard = self._leveller.take(frame)
            if self._lead_in.position < self._plan.start_sample:
                speech = self._detector.is_speech(heard, in_speech=self._lead_in.in_speech)
                self._lead_in.step(speech)
                if self._listener is not None:
                    self._listener.hear(frame, speech=speech)
                continue
            self._window.append(frame)
            if self._utterance is not None:
                self._utterance.feed(heard)
            speech = self._detector.is_speech(heard, in_speech=self._endpointer.in_speech)
            if self._listener is not None:
                self._listener.hear(frame, speech=speech)
            await self._apply(self._endpointer.step(speech), group)
            self._window.drop_before(self._window.end_sample - LOOKBACK_SAMPLES)

    async def _apply(self, effects: tuple[Effect, ...], group: asyncio.TaskGroup) -> None:
        for effect in effects:
            if isinstance(effect, UtteranceBegan):
                await self._begin(effect.sample, group)
            elif self._utterance is not None:
                self._utterance.end(effect.sample)
                self._utterance = None
                if self._listener is not None:
                    self._listener.hurry()

    async def _begin(self, sample: int, group: asyncio.TaskGroup) -> None:
        await self._unfinished.acquire()
        self._utterances += 1
        languages = self._recogniser.capabilities.languages
        language = self._plan.language
        spec = UtteranceSpec(
            utterance_id=f"{self._plan.name}.{self._utterances}",
            start_sample=sample,
            language=languages[0] if language == "auto" and len(languages) == 1 else language,
            vocabulary=self._plan.vocabulary,
            tenant=self._plan.tenant,
            task=self._plan.task,
            words=self._plan.words,
        )
        utterance = Utterance(
            spec,
            recogniser=self._recogniser,
            on_partial=self._show,
            limits=self._limits,
            hops=self._hops,
        )
        held = self._window.slice(sample, self._window.end_sample)
        if len(held):
            utterance.feed(self._leveller.at_level(held))
        self._utterance = utterance
        self._open_starts.append(sample)
        before, self._heard = self._heard, asyncio.Event()
        finishing = self._finish(utterance, self._utterances, (before, self._heard), self._link())
        group.create_task(finishing, name=f"utterance {spec.utterance_id}")

    def _link(self) -> tuple["asyncio.Future[None] | None", "asyncio.Future[None]"]:
        """A place in the chain that keeps finals and flush reports in order."""
        previous, done = self._last, asyncio.get_running_loop().create_future()
        self._last = done
        return previous, done

    async def _finish(
        self,
        utterance: Utterance,
        number: int,
        heard: tuple[asyncio.Event, asyncio.Event],
        link: tuple["asyncio.Future[None] | None", "asyncio.Future[None]"],
    ) -> None:
        before, now = heard
        previous, done = link
        if self._recogniser.capabilities.in_order:
            await before.wait()
        final = await utterance.run(self._context)
        self._hops_skipped += utterance.hops_skipped
        self._hops = utterance.hops
        # What is not committed leaves no trace, and a final that took long does not set the context back.
        if final is not None and final.hypothesis.words and number > self._context_from:
            self._context, self._context_from = final.context, number
        now.set()
        if previous is not None:
            await previous
        assert utterance.end_sample is not None, "run returns after the end"
        await self._commit(utterance, final)
        self._committed_sample = max(self._committed_sample, utterance.end_sample)
        self._open_starts.pop(0)
        self._unfinished.release()
        done.set_result(None)

    async def _commit(self, utterance: Utterance, final: Final | None) -> None:
        assert utterance.end_sample is not None
        # Poisonous audio has no hypothesis: what was already shown as stable becomes its final.
        heard = Hypothesis((), until_sample=utterance.end_sample) if final is None else final.hypothesis
        segment = utterance.builder.finish(heard, ordinal=self._ordinal, end_sample=utterance.end_sample)
        if segment is None:
            cleared = utterance.builder.clear()
            if cleared is not None:
                self._sink.partial(cleared)
            return
        context = self._context if final is None else final.context
        speakers = b""
        if self._listener is not None:
            segment = msgspec.structs.replace(segment, speaker=self._listener.speaker_of(segment.words))
            speakers = self._listener.state
        await self._sink.final(segment, committed_sample=utterance.end_sample, context=context, speakers=speakers)
        if self._listener is not None:
            self._listener.committed(segment)
        self._ordinal += 1

    def _show(self, partial: Partial) -> None:
        if self._listener is not None:
            partial = msgspec.structs.replace(partial, speaker=self._listener.speaker_of(partial.words))
        self._sink.partial(partial)

    async def _report_flush(
        self, marker: str, previous: "asyncio.Future[None] | None", done: "asyncio.Future[None]"
    ) -> None:
        if previous is not None:
            await previous
        self._sink.flushed(marker)
        done.set_result(None)
