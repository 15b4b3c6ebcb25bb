"""Speaker diarisation in a worker process of the models environment (`kept`). Windows are answered in order, one at a
time: who asks limits how much it asks for.

Boundary: `streaming.diariser.heard` is what server and worker share, over `streaming.calls`.
Invariant: an answer fits the window that was asked about.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from server.workers.calls import READY_S_MAX, CallFailed, CallWorker
from server.workers.kept import KeptWorker
from streaming.diariser.heard import DiariserInfo, Heard, Listen
from streaming.errors import WorkerLost
from streaming.limits import Limits
from streaming.model import samples_of
from streaming.ports import Pcm16

MODULE = "streaming.diariser.worker"
SETTINGS = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYANNOTE_METRICS_ENABLED": "0"}
"""It never downloads and has one thread. (Settings of malloc that help Whisper's encoder change nothing here.)"""

log = logging.getLogger(__name__)


class LocalDiariser(KeptWorker[DiariserInfo]):
    """`python`: the models environment's interpreter, which may not be there yet; `nice`: how far it stands behind
    everything else on the machine; `module`, `options`: of the program."""

    def __init__(
        self, python: Path, *, limits: Limits, nice: int, module: str = MODULE, options: Sequence[str] = ()
    ) -> None:
        argv = [str(python), "-P", "-m", module, "--nice", str(nice), *options]
        stall_s = limits.diariser_stall_ms / 1000
        ready_s = max(stall_s, READY_S_MAX)
        super().__init__(
            "diariser",
            python,
            lambda: CallWorker("diariser", argv, stall_s=stall_s, ready_s=ready_s, limits=limits, settings=SETTINGS),
            _able,
            present="speakers are told apart",
            absent="no diarisation weights are here: speakers get no labels",
        )
        self._limits = limits

    async def listen(self, audio: Pcm16) -> Heard:
        """Who speaks in `audio` ((n,) int16, 16 kHz, at most `diariser_window_ms_max`). Raises `WorkerLost` (ask
        again), `Unavailable` when too many wait (ask later), `CallFailed` (do not ask again)."""
        if len(audio) > samples_of(self._limits.diariser_window_ms_max):
            raise CallFailed("this window is too long")
        info = self.info
        if info is None:
            raise WorkerLost("there is no diarisation worker now")
        body = msgspec.msgpack.encode(Listen(audio.astype("<i2").tobytes()))
        answer = await self.call(body)
        try:
            heard = msgspec.msgpack.decode(answer, type=Heard)
        except msgspec.DecodeError as error:
            raise CallFailed("the diarisation worker's answer makes no sense") from error
        if not _fits(heard, len(audio), info):
            raise CallFailed("the diarisation worker answered about another window")
        return heard


def _able(said: bytes) -> DiariserInfo | None:
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
