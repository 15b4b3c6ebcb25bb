"""A recogniser in a worker process on this machine.

`LocalRecogniser.run` keeps one worker alive: it executes the worker program with one end of a socket pair, waits for
its `Hello`, passes answers to the utterances that wait for them, and starts it again with a growing pause when it
dies, for ever. The worker never shares memory, threads or an event loop with the server.

Policy: a place at the worker is taken by `open`, first come first served, and given back by the worker's own answer
(`FinalReady`, `Discarded` or `Lost`), so the server never believes a decoder free that is not. Whatever waits for a
worker that dies gets `WorkerLost` at once; the caller holds the audio and offers it again.

Boundary: `streaming.recogniser.link` is all that server and worker share.
Invariant: when `run` has ended, no process of the worker is left.
"""

import asyncio
import collections
import contextlib
import logging
import shlex
import sys
from collections.abc import AsyncGenerator, Mapping
from enum import Enum

from server.config import ConfigError
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
    interpreter; `settings`: variables for the worker, such as PARLANCE_MODEL. `state` and `restarts`: see `Program`."""

    def __init__(
        self, engine: str, *, command: str | None, limits: Limits, settings: Mapping[str, str] | None = None
    ) -> None:
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
    def capabilities(self) -> Capabilities:
        """What the worker said last. Raises `WorkerLost` before its first `Hello`: wait for `ready`."""
        if self._capabilities is None:
            raise WorkerLost("the recogniser has not started yet", retry_after_ms=self._limits.worker_restart_ms_max)
        return self._capabilities

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


class _Worker:
    """The server's view of one living worker: its places and its utterances."""

    def __init__(self, writer: asyncio.StreamWriter, capabilities: Capabilities, limits: Limits) -> None:
        self._writer = writer
        self._places = _Places(capabilities.utterances_max)
        self._utterances: dict[int, _Utterance] = {}
        self._next = 0
        self._alive = True
        self._retry_after_ms = limits.worker_restart_ms_max
        self.inflight_bytes_max = limits.worker_inflight_bytes_max

    async def open(self, spec: UtteranceSpec) -> "_Utterance":
        await self._places.take()
        if not self._alive:  # it died after it gave us the place and before we came to run
            raise self.lost("the recogniser process died")
        self._next += 1
        utterance = self._utterances[self._next] = _Utterance(self, self._next)
        self.send(link.Open(self._next, spec))
        return utterance

    def send(self, request: link.Request) -> None:
        self._writer.write(link.frame(request))

    async def drain(self) -> None:
        """Wait until the kernel has taken most of what was sent. Raises `WorkerLost`."""
        try:
            await self._writer.drain()
        except OSError as error:
            raise self.lost("the recogniser process died") from error

    def lost(self, reason: str) -> WorkerLost:
        return WorkerLost(reason, retry_after_ms=self._retry_after_ms)

    def take(self, answer: link.Answer) -> None:
        """Pass an answer on. One for an utterance that has ended is late and means nothing."""
        if isinstance(answer, link.Hello):
            raise LinkBroken("the worker said hello twice")
        if isinstance(answer, link.Refused):
            log.error("recogniser refused a frame", extra={"reason": answer.reason})
            return
        utterance = self._utterances.get(answer.utterance)
        if utterance is None:
            return
        match answer:
            case link.Taken(n_bytes=n_bytes):
                utterance.taken(n_bytes)
            case link.PartialReady():
                utterance.partial_ready(answer)
            case link.FinalReady() | link.Discarded() | link.Lost():
                del self._utterances[answer.utterance]
                self._places.give()
                if isinstance(answer, link.FinalReady):
                    utterance.final_ready(answer.final)
                elif isinstance(answer, link.Lost):
                    utterance.fail(self.lost(f"the recogniser lost an utterance: {answer.reason}"))

    def fail(self) -> None:
        """The process is gone: everybody who waits for it learns."""
        self._alive = False
        self._places.close(self.lost("the recogniser process died"))
        for utterance in self._utterances.values():
            utterance.fail(self.lost("the recogniser process died"))
        self._utterances.clear()


class _Phase(Enum):
    """`LOST`: the worker gave the utterance up; `ENDED`: the caller did, or has its final."""

    OPEN = "open"
    LOST = "lost"
    ENDED = "ended"


class _Utterance(UtteranceDecoder):
    """One utterance at a living worker."""

    def __init__(self, worker: _Worker, number: int) -> None:
        self._worker = worker
        self._number = number
        self._phase = _Phase.OPEN
        self._error: WorkerLost | None = None
        self._inflight_bytes = 0
        self._request = 0
        self._room: asyncio.Future[None] | None = None
        self._partial: asyncio.Future[Hypothesis] | None = None
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

    async def partial(self) -> Hypothesis:
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

    def partial_ready(self, answer: link.PartialReady) -> None:
        """The answer to an earlier request, whose caller was cancelled, is dropped."""
        if answer.request == self._request and self._partial is not None and not self._partial.done():
            self._partial.set_result(answer.hypothesis)

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
    """Counted places, given in order of arrival."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    async def take(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            elif turn.exception() is None:
                self.give()  # it became ours in the same moment
            raise

    def give(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def close(self, error: WorkerLost) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)


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
