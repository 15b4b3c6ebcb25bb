"""Who reads a recording again: WhisperX in the models environment, or the recogniser of live talk where there is none.

Policy: WhisperX' process exists only while there is something to read, and a minute longer: with torch and a model it
takes a gigabyte and more. It may take long, because it gets what nobody else wants; one that does not come up three
times in a row is given up until the server starts again. The live recogniser is asked for one utterance at a time, and
only while nobody speaks to it; it makes nothing better that it heard before (`improves`), so then only what it missed
is read again.

Boundary: `streaming.recogniser.passes` is what server and pass worker share; the diariser is wrapped, not changed.
Invariant: live talk never waits for any of this.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import msgspec

from server.workers.aligner import SETTINGS as OFFLINE
from server.workers.calls import CallFailed, CallWorker
from server.workers.diariser import LocalDiariser
from server.workers.engines import SETTINGS as MEMORY
from streaming.aio import Scope, Signal
from streaming.audio.cutting import Piece
from streaming.diariser.heard import DiariserInfo, Heard
from streaming.errors import Unavailable, WorkerLost
from streaming.limits import Limits
from streaming.model import Capabilities, UtteranceSpec, ms_of
from streaming.ports import Pcm16, Recogniser
from streaming.recogniser.passes import Read, Reading, spoken
from streaming.transcript.merge import Spoken
from streaming.utterance import Utterance

MODULE = "streaming.recogniser.second_pass"
DIARISER = "streaming.diariser.pyannote"
LOOK_S = 0.2
"""Between looks whether the recogniser is idle, or a worker ready."""
STARTS_MAX = 3
ATTEMPTS_MAX = 2
"""Workers that an utterance may cost: it has cost live talk some already where it is missing."""

log = logging.getLogger(__name__)


class Wanted(msgspec.Struct, frozen=True):
    """A piece to be read. `utterances`: those of the piece that are wanted; the rest as in `UtteranceSpec`."""

    piece: Piece
    utterances: tuple[tuple[int, int], ...]
    language: str
    vocabulary: tuple[str, ...]
    task: str
    tenant: str


class OnDemand:
    """A worker that lives while it is used and `idle_s` longer. `run`: keeps it alive until cancelled."""

    def __init__(self, name: str, run: Callable[[], Coroutine[Any, Any, None]], idle_s: float) -> None:
        self._name = name
        self._run = run
        self._idle_s = idle_s
        self._wanted = Signal()
        self._users = 0

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        self._users += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._users -= 1
            self._wanted.set()

    async def run(self) -> None:
        """A component, until cancelled."""
        while True:
            await self._wanted.wait()
            if not self._users:
                continue
            async with Scope(self._name) as scope:
                task = scope.spawn(self._run(), name="run")
                while not task.done():
                    try:
                        async with asyncio.timeout(None if self._users else self._idle_s):
                            await self._wanted.wait()
                    except TimeoutError:
                        break
                if task.done():
                    task.result()


class WhisperXReader:
    """`model`: the folder of the live engine's Whisper, None while there is none; `python`: of the models
    environment."""

    def __init__(
        self,
        python: Path,
        *,
        model: Callable[[], Path | None],
        align_model: str | None,
        device: str,
        compute_type: str,
        limits: Limits,
    ) -> None:
        self._python = python
        self._model = model
        self._options = ["--device", device, "--compute-type", compute_type]
        if align_model is not None:
            self._options += ["--align", align_model]
        self._limits = limits
        self._worker: CallWorker | None = None
        self._program = OnDemand("pass worker", self._serve, limits.pass_idle_ms / 1000)
        self.gave_up = False

    name = "whisperx"

    @property
    def here(self) -> bool:
        return not self.gave_up and self._model() is not None

    @property
    def pid(self) -> int | None:
        return None if self._worker is None else self._worker.pid

    @property
    def capabilities(self) -> tuple[str, int]:
        """Whose activity is detected, and the longest utterance in ms."""
        return "speech", self._limits.utterance_ms_max

    def improves(self, _engine: str) -> bool:
        """It hears whole utterances with beams, where live talk is heard word by word."""
        return True

    async def transcribe(self, wanted: Wanted) -> tuple[Spoken, ...]:
        """Raises `WorkerLost` (ask again), `CallFailed` (do not), `Unavailable`."""
        start = wanted.piece.start_sample
        request = Read(
            wanted.piece.audio.astype("<i2").tobytes(),
            tuple((begin - start, end - start) for begin, end in wanted.utterances),
            wanted.language,
            wanted.vocabulary,
            wanted.task,
        )
        async with self._program.used():
            answer = await (await self._ready()).call(msgspec.msgpack.encode(request))
        try:
            return spoken(msgspec.msgpack.decode(answer, type=Reading), start)
        except msgspec.DecodeError as error:
            raise CallFailed("the pass worker's answer makes no sense") from error

    async def run(self) -> None:
        """A component."""
        await self._program.run()

    async def _ready(self) -> CallWorker:
        while True:
            worker = self._worker
            if worker is not None and worker.info is not None:
                return worker
            if self.gave_up:
                raise Unavailable("The pass worker does not start.")
            await asyncio.sleep(LOOK_S)

    async def _serve(self) -> None:
        model = self._model()
        if model is None:
            self.gave_up = True
            return
        stall_s = self._limits.pass_stall_ms / 1000
        argv = [str(self._python), "-P", "-m", MODULE, "--whisper", str(model), *self._options]
        worker = CallWorker(
            "pass worker", argv, stall_s=stall_s, ready_s=stall_s, limits=self._limits, settings={**OFFLINE, **MEMORY}
        )
        self._worker = worker
        try:
            async with Scope("pass worker") as scope:
                scope.spawn(worker.run(), name="worker")
                started = False
                while True:
                    started = started or worker.info is not None
                    if not started and worker.restarts >= STARTS_MAX:
                        log.error("the pass worker does not start: the recogniser of live talk reads instead")
                        self.gave_up = True
                        return
                    await asyncio.sleep(LOOK_S)
        finally:
            self._worker = None


class Lease(Protocol):
    recogniser: Recogniser

    def release(self) -> None: ...


class Engines(Protocol):
    """The part of `server.workers.engines` that is needed here."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def idle(self) -> bool:
        """Nobody speaks to the recogniser now."""
        ...

    def lease(self, *, remote: str) -> Lease: ...


class RecogniserReader:
    """The recogniser of live talk, while nobody talks."""

    def __init__(self, engines: Engines, limits: Limits) -> None:
        self._engines = engines
        self._limits = msgspec.structs.replace(limits, utterance_attempts_max=ATTEMPTS_MAX)

    @property
    def name(self) -> str:
        return self._engines.capabilities.name

    @property
    def capabilities(self) -> tuple[str, int]:
        capabilities = self._engines.capabilities
        return capabilities.activity, min(capabilities.utterance_ms_max, self._limits.utterance_ms_max)

    def improves(self, engine: str) -> bool:
        return engine != self.name

    async def transcribe(self, wanted: Wanted) -> tuple[Spoken, ...]:
        """Raises `WorkerLost` while the recogniser is not there."""
        languages = self._engines.capabilities.languages
        language = languages[0] if wanted.language == "auto" and len(languages) == 1 else wanted.language
        found = []
        context = b""
        for start, end in wanted.utterances:
            while not self._engines.idle:  # noqa: ASYNC110 - nobody tells when talk ends
                await asyncio.sleep(LOOK_S)
            spec = UtteranceSpec(
                utterance_id=f"pass.{start}", start_sample=start, language=language, vocabulary=wanted.vocabulary,
                tenant=wanted.tenant, task=wanted.task,
            )  # fmt: skip
            first = start - wanted.piece.start_sample
            each, context = await self._hear(spec, end, wanted.piece.audio[first : first + end - start], context)
            found.append(each)
        return tuple(found)

    async def _hear(self, spec: UtteranceSpec, end: int, audio: Pcm16, context: bytes) -> tuple[Spoken, bytes]:
        lease = self._engines.lease(remote="")
        try:
            utterance = Utterance(spec, recogniser=lease.recogniser, on_partial=lambda _: None, limits=self._limits)
            utterance.feed(audio)
            utterance.end(end)
            final = await utterance.run(context)
        finally:
            lease.release()
        at = ms_of(spec.start_sample), ms_of(end)
        if final is None:
            return Spoken(*at, (), spec.language, trusted=False), b""
        segment = utterance.builder.finish(final.hypothesis, ordinal=1, end_sample=end)
        words = () if segment is None else segment.words
        return Spoken(*at, words, final.hypothesis.language), final.context if words else context


class DiariserOnDemand:
    """A diariser of the second pass' own, so that live labels never wait for it."""

    def __init__(self, python: Path, is_here: Callable[[], bool], pipeline: str | None, limits: Limits) -> None:
        """`is_here`: the environment is whole; `pipeline`: pyannote's, None takes the one that is here."""
        self._is_here = is_here
        self._none = False
        self._diariser = LocalDiariser(
            python,
            limits=msgspec.structs.replace(limits, diariser_stall_ms=limits.pass_stall_ms),
            nice=19,
            module=DIARISER,
            options=("--idle", *(() if pipeline is None else ("--pipeline", pipeline))),
        )
        self._program = OnDemand("pass diariser", self._diariser.run, limits.pass_idle_ms / 1000)
        self._patience_s = limits.pass_stall_ms / 1000

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[DiariserInfo | None]:
        """While it runs: what it is, None where there is none. Raises `WorkerLost` when it does not come up."""
        if self._none or not self._is_here():
            yield None
            return
        async with self._program.used():
            info = await self._ready()
            self._none = info is None
            yield info

    async def _ready(self) -> DiariserInfo | None:
        began = False
        try:
            async with asyncio.timeout(self._patience_s):
                while self._diariser.info is None:
                    off = self._diariser.state == "off"
                    if began and off:
                        break  # it looked for weights and found none
                    began = began or not off
                    await asyncio.sleep(LOOK_S / 10)
        except TimeoutError:
            raise WorkerLost("the second pass' diariser does not start") from None
        return self._diariser.info

    async def listen(self, audio: Pcm16) -> Heard:
        """As `LocalDiariser.listen`, while it is used."""
        return await self._diariser.listen(audio)

    async def run(self) -> None:
        """A component."""
        await self._program.run()
