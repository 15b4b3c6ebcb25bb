"""Speaker diarisation in a worker process of the models environment, kept only where there are weights for it.

Policy: a worker without weights says so at once and is ended; the next is not started before `recheck`, when the
environment was installed. Windows are answered in order, one at a time: who asks limits how much it asks for. What
waits while the worker dies gets `WorkerLost`; the caller has the audio and asks again.

Boundary: `streaming.diariser.heard` is what server and worker share, over `streaming.calls`.
Invariant: `info` is there exactly while `listen` can be answered, and an answer fits the window that was asked about.
"""

import asyncio
import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from server.workers.calls import READY_S_MAX, CallFailed, CallWorker
from streaming.aio import Signal
from streaming.diariser.heard import DiariserInfo, Heard, Listen
from streaming.errors import WorkerLost
from streaming.limits import Limits
from streaming.model import samples_of
from streaming.ports import Pcm16

MODULE = "streaming.diariser.worker"
SETTINGS = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYANNOTE_METRICS_ENABLED": "0"}
"""It never downloads and has one thread. (Settings of malloc that help Whisper's encoder change nothing here.)"""

log = logging.getLogger(__name__)


class LocalDiariser:
    """`python`: the models environment's interpreter, which may not be there yet; `nice`: how far it stands behind
    everything else on the machine; `module`, `options`: of the program."""

    def __init__(
        self, python: Path, *, limits: Limits, nice: int, module: str = MODULE, options: Sequence[str] = ()
    ) -> None:
        self._python = python
        self._argv = [str(python), "-P", "-m", module, "--nice", str(nice), *options]
        self._limits = limits
        self._again = Signal()
        self._worker: CallWorker | None = None
        self._said: bytes | None = None
        self._info: DiariserInfo | None = None

    @property
    def state(self) -> str:
        """ "starting", "ready" or "down"; "off" while there are no weights."""
        return "off" if self._worker is None else self._worker.state

    @property
    def pid(self) -> int | None:
        return None if self._worker is None else self._worker.pid

    @property
    def info(self) -> DiariserInfo | None:
        """What can be had now; None while the worker is not ready."""
        said = None if self._worker is None else self._worker.info
        if said is not self._said:
            self._said = said
            self._info = None if said is None else _info_of(said)
        return self._info

    def recheck(self) -> None:
        """Look again: the environment was installed. A running worker is started anew."""
        self._again.set()

    async def listen(self, audio: Pcm16) -> Heard:
        """Who speaks in `audio` ((n,) int16, 16 kHz, at most `diariser_window_ms_max`). Raises `WorkerLost` (ask
        again), `Unavailable` when too many wait (ask later), `CallFailed` (do not ask again)."""
        if len(audio) > samples_of(self._limits.diariser_window_ms_max):
            raise CallFailed("this window is too long")
        info = self.info
        if self._worker is None or info is None:
            raise WorkerLost("there is no diarisation worker now")
        body = msgspec.msgpack.encode(Listen(audio.astype("<i2").tobytes()))
        answer = await self._worker.call(body)
        try:
            heard = msgspec.msgpack.decode(answer, type=Heard)
        except msgspec.DecodeError as error:
            raise CallFailed("the diarisation worker's answer makes no sense") from error
        if not _fits(heard, len(audio), info):
            raise CallFailed("the diarisation worker answered about another window")
        return heard

    async def run(self) -> None:
        """A component: keep a worker where there are weights, until cancelled."""
        while True:
            found = await asyncio.to_thread(self._python.exists) and await self._serve()
            if not found:
                await self._again.wait()

    async def _serve(self) -> bool:
        """Run a worker until it is to look again; False when it has no weights."""
        stall_s = self._limits.diariser_stall_ms / 1000
        self._worker = worker = CallWorker(
            "diariser", self._argv, stall_s=stall_s, ready_s=max(stall_s, READY_S_MAX), limits=self._limits,
            settings=SETTINGS,
        )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(worker.run(), name="diariser")
                await worker.ready()
                found = self.info is not None
                if found:
                    log.info("speakers are told apart")
                    await self._again.wait()
                else:
                    log.info("no diarisation weights are here: speakers get no labels")
                running.cancel()
        finally:
            self._worker = None
        return found


def _info_of(said: bytes) -> DiariserInfo | None:
    """None for a worker that has no weights."""
    try:
        info = msgspec.msgpack.decode(said, type=DiariserInfo)
    except msgspec.DecodeError:
        log.error("the diarisation worker does not say what it can do")  # noqa: TRY400 - no text of the error
        return None
    return info if info.model and info.dim > 0 else None


def _fits(heard: Heard, samples: int, info: DiariserInfo) -> bool:
    """Vectors of the model's size, spans in order and inside the window."""
    for voice in heard.voices:
        edges = [edge for span in voice.spans for edge in span]
        if len(voice.vector) not in (0, 4 * info.dim) or not edges:
            return False
        if edges[0] < 0 or edges[-1] > samples or any(a >= b for a, b in pairwise(edges)):
            return False
    return heard.samples == samples and len(heard.voices) <= info.locals_max
