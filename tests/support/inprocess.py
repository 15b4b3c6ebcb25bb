"""A real engine behind `streaming.ports.Recogniser` without a worker: a whole talk through the pipeline, faster than it
was spoken, the same on every run. For what is measured of audio and engines; what workers do is tested elsewhere.

Blocks its loop while the engine works, so nothing else may run there.
"""

import asyncio

import numpy as np

from streaming.audio.endpoint import CONVERSATION, EndpointRules, within
from streaming.audio.vad import detector_for
from streaming.limits import LIMITS
from streaming.model import AudioFormat, Capabilities, Encoding, Final, Hypothesis, UtteranceSpec
from streaming.pipeline import Pipeline, StreamPlan
from streaming.ports import Pcm16, SpeechDetector, UtteranceDecoder
from streaming.recogniser.engine import Engine, EngineUtterance, Heard, Window, WindowEngine, is_window_engine
from streaming.tape import MarkKind, Tape
from tests.fakes.log import MemoryLog
from tests.fakes.sink import MemorySink

PCM_16K = AudioFormat(Encoding.PCM_S16LE, 16_000, 1)


class InProcess:
    """`streaming.ports.Recogniser` of a loaded engine. `utterances`, `samples`: what reached it so far."""

    def __init__(self, engine: Engine | WindowEngine) -> None:
        self._engine = engine
        self._free = asyncio.Semaphore(1)
        self.utterances = 0
        self.samples = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._engine.capabilities

    async def open(self, spec: UtteranceSpec) -> UtteranceDecoder:
        self.utterances += 1
        if is_window_engine(self._engine):
            return _Windows(self, self._engine, spec)
        await self._free.acquire()  # an engine's process drives one utterance at a time
        return _Stateful(self, self._engine.begin(spec), self._free)


class _Windows:
    def __init__(self, owner: InProcess, engine: WindowEngine, spec: UtteranceSpec) -> None:
        self._owner, self._engine, self._spec = owner, engine, spec
        self._pieces: list[Pcm16] = []
        self._memory: object = None

    async def feed(self, audio: Pcm16) -> None:
        self._owner.samples += len(audio)
        self._pieces.append(audio)

    async def partial(self) -> Hypothesis:
        return self._hear(is_final=False).hypothesis

    async def final(self) -> Final:
        heard = self._hear(is_final=True)
        return Final(heard.hypothesis, context=heard.context)

    async def discard(self) -> None:
        pass

    def _hear(self, *, is_final: bool) -> Heard:
        audio = np.concatenate(self._pieces) if self._pieces else np.empty(0, np.int16)
        (heard,) = self._engine.decode([Window(self._spec, audio, is_final, self._memory)])
        self._memory = heard.memory
        return heard


class _Stateful:
    def __init__(self, owner: InProcess, utterance: EngineUtterance, free: asyncio.Semaphore) -> None:
        self._owner, self._utterance, self._free = owner, utterance, free
        self._over = False

    async def feed(self, audio: Pcm16) -> None:
        self._owner.samples += len(audio)
        self._utterance.feed(audio)

    async def partial(self) -> Hypothesis:
        return self._utterance.partial()

    async def final(self) -> Final:
        self._over = True
        final = self._utterance.final()
        self._free.release()
        return final

    async def discard(self) -> None:
        if not self._over:
            self._over = True
            self._utterance.discard()
            self._free.release()


async def transcribed(
    data: bytes,
    recogniser: InProcess,
    *,
    fmt: AudioFormat = PCM_16K,
    detector: SpeechDetector | None = None,
    rules: EndpointRules = CONVERSATION,
) -> MemorySink:
    """Everything that the pipeline says of one recording."""
    capabilities = recogniser.capabilities
    rules = within(rules, capabilities.utterance_ms_max)
    plan = StreamPlan("talk", fmt, "en", (), rules, start_sample=0, next_ordinal=1)
    tape = Tape(MemoryLog(data), position=0, end=len(data), limits=LIMITS)
    tape.mark(MarkKind.STOP)
    sink = MemorySink()
    detector = detector or detector_for(capabilities.activity)
    await Pipeline(plan, tape=tape, recogniser=recogniser, detector=detector, sink=sink, limits=LIMITS).run()
    return sink
