"""A worker program that answers calls, as the server sees it: the embedding worker, the alignment worker.

`CallWorker.run` keeps the program alive (`server.workers.program`); `call` sends one request and waits for its answer.
A call that waits while the program dies gets `WorkerLost`; a program that makes no progress on a call for its stall
time is killed, so a caller never waits for ever.

Boundary: `streaming.calls` is all that server and worker share.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

import msgspec

from server.workers.program import LinkBroken, Program
from streaming import calls
from streaming.errors import Unavailable, WorkerLost
from streaming.limits import LIMITS, Limits
from streaming.protocol.frames import FrameReader, Oversized

READY_S_MAX = LIMITS.worker_hello_ms_max / 1000

log = logging.getLogger(__name__)


class CallFailed(Unavailable):
    """The worker cannot answer this call, however often it is repeated."""


class CallWorker:
    """`argv`: the program without `--fd`; `settings`: its variables; `stall_s`: the longest a single call may take;
    `ready_s`: and loading the model.

    `info`: what the worker said about itself, None while it is not ready."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        stall_s: float,
        limits: Limits,
        settings: Mapping[str, str] | None = None,
        ready_s: float = READY_S_MAX,
    ) -> None:
        self._program = Program(name, argv, limits=limits, settings=settings)
        self._stall_s = stall_s
        self._ready_s = ready_s
        self._limits = limits
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next = 0
        self._deadline: asyncio.Timeout | None = None
        self._ready = asyncio.Event()
        self.info: bytes | None = None

    @property
    def state(self) -> str:
        """ "starting", "ready" or "down"."""
        return self._program.state

    @property
    def pid(self) -> int | None:
        return self._program.pid

    @property
    def restarts(self) -> int:
        """Processes started after the first one."""
        return self._program.restarts

    async def ready(self) -> None:
        """Wait until the worker has loaded its model."""
        await self._ready.wait()

    async def run(self) -> None:
        """Keep the worker alive until cancelled."""
        await self._program.run(self._converse)

    async def call(self, body: bytes) -> bytes:
        """The worker's answer. Raises `WorkerLost` (repeat later), `CallFailed` (do not), `Unavailable` when more than
        `worker_calls_max` callers wait."""
        if self._writer is None or self.info is None:
            raise WorkerLost(f"the {self._program.name} is not running")
        if len(self._waiting) >= self._limits.worker_calls_max:
            raise Unavailable(f"the {self._program.name} is busy", retry_after_ms=1_000)
        try:
            frame_ = calls.frame(calls.Call(self._next, body))
        except ValueError as error:
            raise CallFailed("this call is too large for one frame") from error
        number, self._next = self._next, self._next + 1
        if not self._waiting:
            self._expect_answer()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._writer.write(frame_)
        return await answer  # a cancelled caller's place is kept until the worker has answered it

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader(calls.FRAME_BYTES_MAX)
        self._writer = writer
        try:
            async with asyncio.timeout(self._ready_s) as self._deadline:
                while data := await reader.read(calls.READ_BYTES):
                    for payload in frames.feed(data):
                        self._take(payload)
                    self._expect_answer(bool(self._waiting))
        except TimeoutError as error:
            raise LinkBroken("the worker made no progress") from error
        finally:
            self._writer = self._deadline = None
            self.info = None
            self._ready.clear()
            waiting, self._waiting = self._waiting, {}
            for future in waiting.values():
                if not future.done():
                    future.set_exception(WorkerLost(f"the {self._program.name} died"))
                    future.exception()

    def _expect_answer(self, wanted: bool = True) -> None:
        """With a call in hand the worker has to answer in time; idle, it may be silent for ever."""
        if self._deadline is not None:
            loop = asyncio.get_running_loop()
            self._deadline.reschedule(loop.time() + self._stall_s if wanted else None)

    def _take(self, payload: bytes | Oversized) -> None:
        if isinstance(payload, Oversized):
            raise LinkBroken(f"the worker sent a frame of {payload.n_bytes} bytes")
        try:
            answer = calls.decode_answer(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LinkBroken("the worker sent nonsense") from error
        if isinstance(answer, calls.Ready):
            if answer.version != calls.VERSION:
                raise LinkBroken("the worker program is of another version")
            self.info = answer.info
            self._program.state = "ready"
            self._ready.set()
            log.info("worker ready", extra={"worker": self._program.name})
            return
        future = self._waiting.pop(answer.number, None)
        if future is None or future.done():
            return
        if isinstance(answer, calls.Reply):
            future.set_result(answer.body)
        else:
            future.set_exception(CallFailed(answer.reason))
