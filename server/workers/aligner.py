"""Forced alignment in a worker process of the models environment (`kept`): it says which languages it has weights for.

Boundary: `streaming.recogniser.alignment` is what server and worker share, over `streaming.calls`.
Invariant: a worker that runs on after `Ready` has at least one language.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from server.workers.calls import CallFailed, CallWorker
from server.workers.kept import KeptWorker
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


class LocalAligner(KeptWorker[AlignerInfo]):
    """`python`: the models environment's interpreter, which may not be there yet; `model`: a folder or a name, None
    takes the weights that are on this machine."""

    def __init__(self, python: Path, *, model: str | None, limits: Limits) -> None:
        argv = [str(python), "-P", "-m", MODULE, *([] if model is None else ["--model", model])]
        stall_s = limits.align_stall_ms / 1000
        super().__init__(
            "aligner",
            python,
            lambda: CallWorker("aligner", argv, stall_s=stall_s, limits=limits, settings=SETTINGS),
            _able,
            present="finals are aligned",
            absent="no alignment weights are here: finals keep the recogniser's word times",
        )

    @property
    def languages(self) -> tuple[str, ...]:
        """Primary codes that can be aligned now; empty while the worker is not ready."""
        return () if self.info is None else self.info.languages

    async def align(self, language: str, words: Sequence[str], audio: Pcm16) -> Times | None:
        """(start_ms, end_ms) of each word from the beginning of `audio` ((n,) int16, 16 kHz, at most `ALIGN_MS_MAX`),
        None where the words are not found in it. Raises `WorkerLost` (ask again), `CallFailed` (do not)."""
        if primary(language) not in self.languages:
            raise WorkerLost("there is no alignment worker for this language now")
        body = msgspec.msgpack.encode(Align(language, tuple(words), audio.astype("<i2").tobytes()))
        answer = await self.call(body)
        try:
            times = msgspec.msgpack.decode(answer, type=Aligned).times
        except msgspec.DecodeError as error:
            raise CallFailed("the alignment worker's answer makes no sense") from error
        if times is not None and len(times) != len(words):
            raise CallFailed("the alignment worker answered for another number of words")
        return times


def _able(said: bytes) -> AlignerInfo | None:
    """None for a worker that has no weights."""
    try:
        info = msgspec.msgpack.decode(said, type=AlignerInfo)
    except msgspec.DecodeError:
        log.error("the alignment worker does not say what it can align")  # noqa: TRY400 - no text of the error
        return None
    return info if info.languages else None
