"""A recogniser in a worker process on this machine.

`LocalRecogniser.run` keeps one worker alive: it executes the worker program with one end of a socket pair, waits for
its `Hello`, passes answers to the utterances that wait for them, and starts it again with a growing pause when it
dies, for ever. The worker never shares memory, threads or an event loop with the server.

Policy: a place at the worker is taken by `open` and given back by the worker's own answer (`FinalReady`, `Discarded`
or `Lost`), so the server never believes a decoder free that is not. A free place goes to the tenant that holds the
fewest, else in order of arrival. Whatever waits for a worker that dies gets `WorkerLost` at once; the caller holds the
audio and offers it again. A worker that announces what it decodes (`Begun`) leaves no doubt whose audio it died of:
only those utterances are suspects. Of a worker that never did, all are.

Boundary: `streaming.recogniser.link` is all that server and worker share.
Invariant: when `run` has ended, no process of the worker is left.
"""

import asyncio
import collections
import contextlib
import logging
import shlex
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from enum import Enum
from functools import partial

from server.config import ConfigError
from server.workers.devices import AUTO
from server.workers.load import tell_metrics
from server.workers.program import LinkBroken, Program
from streaming.errors import WorkerLost
from streaming.limits import KIB, LIMITS, Limits
from streaming.model import Capabilities, Final, Hypothesis, UtteranceSpec
from streaming.ports import Pcm16, Recogniser, UtteranceDecoder
from streaming.protocol.frames import FrameReader, Oversized
from streaming.recogniser import link

ENGINES = {
    "pocketsphinx": "streaming.recogniser.pocketsphinx:PocketSphinxEngine",
    "whisperx": "streaming.recogniser.whisper:WhisperEngine",
}
HELLO_S_MAX = LIMITS.worker_hello_ms_max / 1000
READ_BYTES = 64 * KIB

log = logging.getLogger(__name__)


def engine_ref(name: str) -> str:
    """Class of the engine `name` (a setting) as `package.module:Class`. Raises `ConfigError` for an unknown name."""
    if ":" in name:
        return name
    if name not in ENGINES:
        raise ConfigError(f"PARLANCE_ENGINE: {name!r} is not one of {', '.join(ENGINES)} or package.module:Class")
    return ENGINES[name]


class LocalRecogniser(Recogniser):
    """The `Recogniser` port over one worker process, restarted as often as needed.

    `engine`: `package.module:Class`; `command`: how to run the worker program, split like a shell does, default this
    interpreter; `settings`: variables for the worker, such as PARLANCE_MODEL; `device`: where its model runs, told as
    PARLANCE_DEVICE; `name`: of this worker, default the device. `state` and `restarts`: see `Program`."""

    def __init__(
        self,
        engine: str,
        *,
        command: str | None,
        limits: Limits,
        settings: Mapping[str, str] | None = None,
        device: str = AUTO,
        name: str | None = None,
    ) -> None:
        self.name = name or device
        settings = {**(settings or {}), **({} if device == AUTO else {"PARLANCE_DEVICE": device})}
        argv = shlex.split(command) if command else [sys.executable, "-P", "-m", "streaming.recogniser.worker"]
        self._program = Program("recogniser", [*argv, "--engine", engine], limits=limits, settings=settings)
        self._limits = limits
        self._capabilities: Capabilities | None = None
        self._first_hello = asyncio.Event()
        self._worker: _Worker | None = None

    @property
    def state(self) -> str:
        return self._program.state

    @property
    def restarts(self) -> int:
        return self._program.restarts

    @property
    def pid(self) -> int | None:
        return self._program.pid

    @property
    def started(self) -> bool:
        """A worker has loaded its model, now or before."""
        return self._capabilities is not None

    @property
    def capabilities(self) -> Capabilities:
        """What the worker said last. Raises `WorkerLost` before its first `Hello`: wait for `ready`."""
        if self._capabilities is None:
            raise WorkerLost("the recogniser has not started yet", retry_after_ms=self._limits.worker_restart_ms_max)
        return self._capabilities

    @property
    def load(self) -> link.Load:
        """What the worker said last of how busy it is; nothing where it does not say or is not there."""
        return link.Load() if self._worker is None else self._worker.load

    @property
    def utterances(self) -> int:
        """Utterances that have a place or wait for one."""
        return 0 if self._worker is None else self._worker.utterances

    @property
    def full(self) -> bool:
        """An utterance would have to wait for a place."""
        return self._worker is not None and self._worker.full

    async def ready(self) -> None:
        """Wait until a worker has loaded its model for the first time."""
        await self._first_hello.wait()

    async def open(self, spec: UtteranceSpec) -> UtteranceDecoder:
        if self._worker is None:
            raise WorkerLost("the recogniser is not running", retry_after_ms=self._limits.worker_restart_ms_max)
        return await self._worker.open(spec)

    async def run(self) -> None:
        """Keep a worker alive until cancelled. Call it from the loop of a thread that lives as long as the server:
        the kernel ends the worker when that thread ends."""
        await self._program.run(self._converse)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to the process until its end of the socket closes."""
        try:
            async with contextlib.aclosing(_answers(reader)) as answers:
                async with asyncio.timeout(HELLO_S_MAX):
                    hello = await anext(answers, None)
                if hello is None:
                    return
                if not isinstance(hello, link.Hello) or hello.version != link.VERSION:
                    raise LinkBroken("the worker program is of another version")
                self._worker = worker = _Worker(writer, hello.capabilities, self._limits)
                worker.told = partial(tell_metrics, self.name)
                self._capabilities = hello.capabilities
                self._program.state = "ready"
                self._first_hello.set()
                capabilities = hello.capabilities
                log.info("recogniser ready", extra={"engine": capabilities.name, "model": capabilities.model})
                async for answer in answers:
                    worker.take(answer)
        finally:
            if self._worker is not None:
                self._worker.fail()
                self._worker = None
                tell_metrics(self.name, link.Load())


class _Worker:
    """The server's view of one living worker: its places and its utterances."""

    def __init__(self, writer: asyncio.StreamWriter, capabilities: Capabilities, limits: Limits) -> None:
        self._writer = writer
        self._places = _Places(capabilities.utterances_max)
        self._utterances: dict[int, _Utterance] = {}
        self._next = 0
        self._alive = True
        self._under_way: frozenset[int] | None = None
        self.gone = asyncio.Event()
        self.load = link.Load()
        self.told: Callable[[link.Load], None] = lambda _load: None
        self._retry_after_ms = limits.worker_restart_ms_max
        self.inflight_bytes_max = limits.worker_inflight_bytes_max

    @property
    def utterances(self) -> int:
        return self._places.wanted

    @property
    def full(self) -> bool:
        return not self._places.free

    async def open(self, spec: UtteranceSpec) -> "_Utterance":
        await self._places.take(spec.tenant)
        if not self._alive:  # it died after it gave us the place and before we came to run
            raise self.lost("the recogniser process died")
        self._next += 1
        utterance = self._utterances[self._next] = _Utterance(self, self._next, spec.tenant)
        self.send(link.Open(self._next, spec))
        return utterance

    def send(self, request: link.Request) -> None:
        self._writer.write(link.frame(request))

    async def drain(self) -> None:
        """Wait until the kernel has taken most of what was sent, or until everybody knows that the worker died."""
        try:
            await self._writer.drain()
        except OSError:
            await self.gone.wait()  # whose audio it died of is known when its last words are read

    def lost(self, reason: str, *, suspect: bool = True) -> WorkerLost:
        return WorkerLost(reason, retry_after_ms=self._retry_after_ms, suspect=suspect)

    def take(self, answer: link.Answer) -> None:
        """Pass an answer on. One for an utterance that has ended is late and means nothing."""
        if isinstance(answer, link.Hello):
            raise LinkBroken("the worker said hello twice")
        if isinstance(answer, link.Refused):
            log.error("recogniser refused a frame", extra={"reason": answer.reason})
            return
        if isinstance(answer, link.Begun):
            self._under_way = frozenset(answer.utterances)
            return
        if isinstance(answer, link.Load):
            self.load = answer
            self.told(answer)
            return
        utterance = self._utterances.get(answer.utterance)
        if utterance is None:
            return
        match answer:
            case link.Taken(n_bytes=n_bytes):
                utterance.taken(n_bytes)
            case link.PartialReady(request=request, hypothesis=hypothesis):
                utterance.partial_ready(request, hypothesis)
            case link.Expired(request=request):
                utterance.partial_ready(request, None)
            case link.FinalReady() | link.Discarded() | link.Lost():
                del self._utterances[answer.utterance]
                self._places.give(utterance.tenant)
                if isinstance(answer, link.FinalReady):
                    utterance.final_ready(answer.final)
                elif isinstance(answer, link.Lost):
                    utterance.fail(self.lost(f"the recogniser lost an utterance: {answer.reason}"))

    def fail(self) -> None:
        """The process is gone: everybody who waits for it learns, and who of them is a suspect."""
        self._alive = False
        self._places.close(self.lost("the recogniser process died", suspect=False))
        for number, utterance in self._utterances.items():
            suspect = self._under_way is None or number in self._under_way
            utterance.fail(self.lost("the recogniser process died", suspect=suspect))
        self._utterances.clear()
        self.gone.set()


class _Phase(Enum):
    """`LOST`: the worker gave the utterance up; `ENDED`: the caller did, or has its final."""

    OPEN = "open"
    LOST = "lost"
    ENDED = "ended"


class _Utterance(UtteranceDecoder):
    """One utterance at a living worker."""

    def __init__(self, worker: _Worker, number: int, tenant: str) -> None:
        self.tenant = tenant
        self._worker = worker
        self._number = number
        self._phase = _Phase.OPEN
        self._error: WorkerLost | None = None
        self._inflight_bytes = 0
        self._request = 0
        self._room: asyncio.Future[None] | None = None
        self._partial: asyncio.Future[Hypothesis | None] | None = None
        self._final: asyncio.Future[Final] | None = None

    async def feed(self, audio: Pcm16) -> None:
        for pcm in link.pcm_pieces(audio):
            self._check()
            while self._inflight_bytes + len(pcm) > self._worker.inflight_bytes_max:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            self._inflight_bytes += len(pcm)
            self._worker.send(link.Audio(self._number, pcm))
            await self._worker.drain()
        self._check()

    async def partial(self) -> Hypothesis | None:
        self._check()
        self._request += 1
        self._partial = asyncio.get_running_loop().create_future()
        self._worker.send(link.AskPartial(self._number, self._request))
        return await self._partial

    async def final(self) -> Final:
        self._check()
        self._final = asyncio.get_running_loop().create_future()
        self._worker.send(link.AskFinal(self._number))
        try:
            return await self._final
        except asyncio.CancelledError:
            await self.discard()
            raise

    async def discard(self) -> None:
        if self._phase is _Phase.OPEN:
            self._worker.send(link.Discard(self._number))
        self._phase = _Phase.ENDED

    def taken(self, n_bytes: int) -> None:
        self._inflight_bytes -= n_bytes
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def partial_ready(self, request: int, hypothesis: Hypothesis | None) -> None:
        """The answer to an earlier request, whose caller was cancelled, is dropped."""
        if request == self._request and self._partial is not None and not self._partial.done():
            self._partial.set_result(hypothesis)

    def final_ready(self, final: Final) -> None:
        self._phase = _Phase.ENDED
        if self._final is not None and not self._final.done():
            self._final.set_result(final)

    def fail(self, error: WorkerLost) -> None:
        if self._phase is _Phase.OPEN:
            self._phase = _Phase.LOST
        self._error = error
        for future in (self._room, self._partial, self._final):
            if future is not None and not future.done():
                future.set_exception(error)

    def _check(self) -> None:
        if self._phase is _Phase.LOST:
            assert self._error is not None
            raise self._error
        if self._phase is _Phase.ENDED or self._final is not None:
            raise RuntimeError("the utterance has ended")


class _Places:
    """Counted places. One that becomes free goes to the tenant that holds the fewest, else in order of arrival: another
    tenant with many speakers costs one of its utterances' time, and not that of all."""

    def __init__(self, free: int) -> None:
        self.free = free
        self._held: collections.Counter[str] = collections.Counter()
        self._waiting: dict[asyncio.Future[None], str] = {}

    @property
    def wanted(self) -> int:
        return self._held.total() + len(self._waiting)

    async def take(self, tenant: str) -> None:
        if self.free:
            self.free -= 1
            self._held[tenant] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = tenant
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                del self._waiting[turn]
            elif turn.exception() is None:
                self.give(tenant)  # it became ours in the same moment
            raise

    def give(self, tenant: str) -> None:
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
        turns = [turn for turn in self._waiting if not turn.done()]
        turn = min(turns, key=lambda turn: self._held[self._waiting[turn]], default=None)
        if turn is None:
            self.free += 1
            return
        self._held[self._waiting.pop(turn)] += 1
        turn.set_result(None)

    def close(self, error: WorkerLost) -> None:
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(error)
        self._waiting.clear()


async def _answers(reader: asyncio.StreamReader) -> AsyncGenerator[link.Answer, None]:
    """Messages of the worker until it closes. Raises `LinkBroken` for anything else than messages."""
    frames = FrameReader(link.FRAME_BYTES_MAX)
    while data := await _read(reader):
        for payload in frames.feed(data):
            if isinstance(payload, Oversized):
                raise LinkBroken(f"the worker sent a frame of {payload.n_bytes} bytes")
            try:
                yield link.decode_answer(payload)
            except link.BadFrame as error:
                raise LinkBroken("the worker sent nonsense") from error


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(READ_BYTES)
    except ConnectionError:  # a killed process may reset the socket instead of closing it
        return b""


__all__ = ["ENGINES", "LocalRecogniser", "engine_ref"]
