"""Many speakers at one shared model on virtual time: who waits how long for captions.

Real are the server's side of an utterance (`streaming.utterance`), of a worker (`server.workers.local`), admission
(`server.workers.pool`), the messages between them, and everything that the worker decides
(`streaming.recogniser.windows`). The model is a formula for how long a call takes; it hears a word every `WORD_S`.
Speakers speak in real time. The same seed gives the same history.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from server.workers.local import _Worker
from server.workers.pool import Pool
from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, Capabilities, Final, Hypothesis, Partial, UtteranceSpec, Word, samples_of
from streaming.ports import UtteranceDecoder
from streaming.protocol.frames import FrameReader
from streaming.recogniser import link
from streaming.recogniser.cadence import PARTS
from streaming.recogniser.engine import Heard, Window
from streaming.recogniser.windows import Windows, Work
from streaming.utterance import Utterance

HOP_MS = 480
WORD_S = 0.4
PIECE_S = 0.096
TICK_S = 1.0
ENDPOINT_S = 0.64
"""Silence after which an utterance ends."""
SILENCE = np.zeros(samples_of(round(PIECE_S * 1000)), np.int16)


class Model(msgspec.Struct, frozen=True):
    """A `WindowEngine` of which only the times are real: a call takes `call_s`, and for each window `window_s` and
    `frame_s` for every frame of 10 ms."""

    call_s: float = 0.0
    window_s: float = 0.0
    frame_s: float = 0.0
    batch_max: int = 1
    padded_s: float = 0.0
    """All windows are padded to this; 0: to whole seconds."""
    places: int = LIMITS.worker_utterances_max
    parts: int = PARTS
    """1: captions are never quicker than a hop, as a worker without time to spare has them."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="office", model="office", languages=(), hop_ms=HOP_MS, parts=self.parts, agreement=2, holdback_words=0,
            activity="speech", utterances_max=self.places, utterance_ms_max=LIMITS.utterance_ms_max,
            batch_max=self.batch_max,
        )  # fmt: skip

    def frames(self, window: Window) -> int:
        seconds = -(-len(window.audio) // SAMPLE_RATE)
        return round(100 * (self.padded_s or max(1, seconds)))

    def seconds(self, frames: int, size: int) -> float:
        return self.call_s + size * (self.window_s + frames * self.frame_s)


class Ear:
    """What one stream got. `words`, `committed`: seconds from the end of a word until it was shown, and until it would
    not change any more; `finals`: from the endpoint; `shown_at`: when a caption came; `ended`: utterances that were
    spoken to their end; `waits`: the longest time that somebody who spoke saw nothing new, of each utterance."""

    def __init__(self) -> None:
        self.words: list[float] = []
        self.committed: list[float] = []
        self.finals: list[float] = []
        self.waits: list[float] = []
        self.shown_at: list[float] = []
        self.ended = 0


class Speech(msgspec.Struct, frozen=True):
    """How somebody speaks: seconds of an utterance, drawn from `shortest` on with a mean of `mean` more, and of the
    pauses between two."""

    shortest: float = 1.0
    mean: float = 4.0
    longest: float = 14.0
    pauses: tuple[float, float] = (0.3, 2.0)

    def seconds(self, rng: random.Random) -> float:
        return min(self.longest, self.shortest + rng.expovariate(1 / self.mean))


USUAL = Speech()


class Office:
    """A worker with its model, and the server's side of it. `calls`: (windows, seconds) of each decode."""

    def __init__(self, model: Model, seed: int, *, noise: float = 0.2) -> None:
        self.model = model
        self.rng = random.Random(seed)
        self.calls: list[tuple[int, float]] = []
        self.counts: Counter[str] = Counter()
        self.spread_max = 0
        self.thinned: dict[str, float] = {}
        """The most hops that a tenant got at any time."""
        self.hops: dict[str, float] = {}
        self._noise = noise
        self._windows = Windows(model)  # type: ignore[arg-type]
        self._reader = FrameReader(link.FRAME_BYTES_MAX)
        self._worker = _Worker(self, model.capabilities, LIMITS)  # type: ignore[arg-type]
        self._finals: Counter[int] = Counter()
        self.pool = Pool([self], LIMITS)  # type: ignore[list-item]
        """Admission."""

    # --- the server's writer --------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        for payload in self._reader.feed(data):
            assert isinstance(payload, bytes)
            self._answer(self._windows.from_server(link.decode_request(payload), now))
        self._next()

    async def drain(self) -> None:
        await asyncio.sleep(0)

    async def run(self) -> None:
        """The worker's clock, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self._tell()
            self._next()

    # --- the worker -----------------------------------------------------------------------------------------------
    def _answer(self, answers: Sequence[link.Answer]) -> None:
        loop = asyncio.get_running_loop()
        for answer in answers:
            self.counts[type(answer).__name__] += 1
            if isinstance(answer, link.FinalReady):
                self._finals[answer.utterance] += 1
                assert self._finals[answer.utterance] == 1, "a final is answered once"
            if isinstance(answer, link.PartialReady | link.Expired):
                assert not self._finals[answer.utterance], "no partial follows its final"
            if isinstance(answer, link.Load):
                self.hops = answer.hops
                self.thinned = {t: max(self.thinned.get(t, 1), h) for t, h in (self.thinned | answer.hops).items()}
            loop.call_soon(self._worker.take, answer)

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        self._answer(self._windows.expire(loop.time()))
        self.spread_max = max(self.spread_max, self._windows.spread)
        work = self._windows.begin(loop.time())
        if work is not None:
            assert len({job.utterance for job in work.jobs}) == len(work.jobs) <= self.model.batch_max
            assert {self.model.frames(window) for window in work.windows} == {work.frames}
            seconds = self.model.seconds(work.frames, len(work.jobs))
            seconds *= self.rng.uniform(1 - self._noise, 1 + self._noise)
            self.calls.append((len(work.jobs), seconds))
            loop.call_later(seconds, self._done, work)

    def _done(self, work: Work) -> None:
        now = asyncio.get_running_loop().time()
        self._answer(self._windows.done([Heard(self._hear(window)) for window in work.windows], now))
        self._tell()
        self._next()

    def _tell(self) -> None:
        load = self._windows.load(asyncio.get_running_loop().time())
        self._answer([load] if load else [])

    def _hear(self, window: Window) -> Hypothesis:
        start, until = window.spec.start_sample, len(window.audio)
        count = int(until / SAMPLE_RATE / WORD_S + 1e-6)
        words = tuple(Word(f"w{n}", round(400 * n), round(400 * n + 300)) for n in range(count))
        return Hypothesis(words, start + until)

    # --- for the pool ---------------------------------------------------------------------------------------------
    state = "ready"

    @property
    def load(self) -> link.Load:
        return self._worker.load

    @property
    def utterances(self) -> int:
        return self._worker.utterances

    @property
    def full(self) -> bool:
        return self._worker.full

    # --- the port -------------------------------------------------------------------------------------------------
    @property
    def capabilities(self) -> Capabilities:
        return self.model.capabilities

    async def open(self, spec: UtteranceSpec) -> UtteranceDecoder:
        return await self._worker.open(spec)

    @property
    def is_empty(self) -> bool:
        """The worker has forgotten everybody."""
        windows = self._windows
        kept = (windows._open, windows._schedule._of, windows._schedule._asked, windows._schedule._finals)
        return not any(map(len, kept)) and not self._worker.utterances

    # --- people ---------------------------------------------------------------------------------------------------
    async def speak(self, tenant: str, ear: Ear, until_s: float, *, speech: Speech = USUAL, late: bool = False) -> None:
        """One stream: utterances and pauses until the time is over; then to the end of the last one. `late`: what it
        says was said long ago and comes at once, each utterance when the one before has its final."""
        loop, rng = asyncio.get_running_loop(), random.Random(self.rng.random())
        await asyncio.sleep(rng.uniform(0, 3))
        async with asyncio.TaskGroup() as group:
            while loop.time() < until_s:
                utterance, heard = self._utterance(tenant, ear, loop.time())
                task = group.create_task(utterance.run())
                await self._talk(utterance, speech.seconds(rng), 0.0 if late else PIECE_S)
                finish = group.create_task(self._final(task, ear, heard, loop.time()))
                await (finish if late else asyncio.sleep(rng.uniform(*speech.pauses)))

    def _utterance(self, tenant: str, ear: Ear, began: float) -> tuple[Utterance, Callable[[int, int], None]]:
        loop = asyncio.get_running_loop()
        shown = committed = 0
        ear.waits.append(0.0)
        at, number = began, len(ear.waits) - 1

        def heard(stable: int, count: int) -> None:
            nonlocal shown, committed, at
            now = loop.time()
            ear.shown_at.append(now)
            ear.words += [now - began - (n + 1) * WORD_S for n in range(shown, count)]
            ear.committed += [now - began - (n + 1) * WORD_S for n in range(committed, stable)]
            shown, committed = max(shown, count), max(committed, stable)
            ear.waits[number] = max(ear.waits[number], now - at)
            at = now

        def on_partial(partial: Partial) -> None:
            stable = len(partial.stable.split())
            heard(stable, stable + len(partial.unstable.split()))

        spec = UtteranceSpec(f"{tenant}.{began}", 0, "en", tenant=tenant)
        return Utterance(spec, recogniser=self, on_partial=on_partial, limits=LIMITS), heard

    async def _talk(self, utterance: Utterance, seconds: float, pace_s: float) -> None:
        spoken = 0.0
        while spoken < seconds + ENDPOINT_S:
            await asyncio.sleep(pace_s)
            utterance.feed(SILENCE)
            spoken += PIECE_S
        utterance.end(utterance.samples)

    async def _final(
        self, task: "asyncio.Task[Final | None]", ear: Ear, heard: Callable[[int, int], None], ended_at: float
    ) -> None:
        ear.ended += 1
        final = await task
        assert final is not None
        ear.finals.append(asyncio.get_running_loop().time() - ended_at)
        heard(len(final.hypothesis.words), len(final.hypothesis.words))


def p95(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.95))
