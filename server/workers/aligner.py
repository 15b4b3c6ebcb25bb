"""Forced alignment in a worker process of the models environment, kept only where there are weights for it.

Policy: the worker says which languages it has weights for. With none it is ended again, because a process with torch
takes 500 MB for nothing, and not started before `recheck`: a model was pulled, or the environment was installed.
What waits while the worker dies gets `WorkerLost`; the caller has the final and asks again.

Boundary: `streaming.recogniser.alignment` is what server and worker share, over `streaming.calls`.
Invariant: a worker that runs on after `Ready` has at least one language.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from server.workers.calls import CallFailed, CallWorker
from streaming.aio import Signal
from streaming.errors import WorkerLost
from streaming.limits import Limits
from streaming.ports import Pcm16
from streaming.recogniser.alignment import Align, Aligned, AlignerInfo, Times, primary

MODULE = "streaming.recogniser.whisperx"
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "PYANNOTE_METRICS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""It never downloads (`parlance models pull` does) and never reports to anybody."""

log = logging.getLogger(__name__)


class LocalAligner:
    """`python`: the models environment's interpreter, which may not be there yet; `model`: a folder or a name, None
    takes the weights that are on this machine."""

    def __init__(self, python: Path, *, model: str | None, limits: Limits) -> None:
        self._python = python
        self._argv = [str(python), "-P", "-m", MODULE, *([] if model is None else ["--model", model])]
        self._limits = limits
        self._again = Signal()
        self._worker: CallWorker | None = None
        self._info: bytes | None = None
        self._languages: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """ "starting", "ready" or "down"; "off" while there is nothing it could align with."""
        return "off" if self._worker is None else self._worker.state

    @property
    def pid(self) -> int | None:
        return None if self._worker is None else self._worker.pid

    @property
    def languages(self) -> tuple[str, ...]:
        """Primary codes that can be aligned now; empty while the worker is not ready."""
        info = None if self._worker is None else self._worker.info
        if info is not self._info:
            self._info = info
            self._languages = () if info is None else _languages_of(info)
        return self._languages

    def recheck(self) -> None:
        """Look again: a model or the environment arrived. A running worker is started anew."""
        self._again.set()

    async def align(self, language: str, words: Sequence[str], audio: Pcm16) -> Times | None:
        """(start_ms, end_ms) of each word from the beginning of `audio` ((n,) int16, 16 kHz, at most `ALIGN_MS_MAX`),
        None where the words are not found in it. Raises `WorkerLost` (ask again), `CallFailed` (do not)."""
        if self._worker is None or primary(language) not in self.languages:
            raise WorkerLost("there is no alignment worker for this language now")
        body = msgspec.msgpack.encode(Align(language, tuple(words), audio.astype("<i2").tobytes()))
        answer = await self._worker.call(body)
        try:
            times = msgspec.msgpack.decode(answer, type=Aligned).times
        except msgspec.DecodeError as error:
            raise CallFailed("the alignment worker's answer makes no sense") from error
        if times is not None and len(times) != len(words):
            raise CallFailed("the alignment worker answered for another number of words")
        return times

    async def run(self) -> None:
        """A component: keep a worker where there is work for it, until cancelled."""
        while True:
            found = await asyncio.to_thread(self._python.exists) and await self._serve()
            if not found:
                await self._again.wait()

    async def _serve(self) -> bool:
        """Run a worker until it is to look again; False when it has no weights at all."""
        self._worker = worker = CallWorker(
            "aligner", self._argv, stall_s=self._limits.align_stall_ms / 1000, limits=self._limits, settings=SETTINGS
        )
        try:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(worker.run(), name="aligner")
                await worker.ready()
                found = bool(self.languages)
                if found:
                    log.info("finals are aligned", extra={"languages": ",".join(self.languages)})
                    await self._again.wait()
                else:
                    log.info("no alignment weights are here: finals keep the recogniser's word times")
                running.cancel()
        finally:
            self._worker = None
        return found


def _languages_of(info: bytes) -> tuple[str, ...]:
    try:
        return msgspec.msgpack.decode(info, type=AlignerInfo).languages
    except msgspec.DecodeError:
        log.error("the alignment worker does not say what it can align")  # noqa: TRY400 - no text of the error
        return ()
