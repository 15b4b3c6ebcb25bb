"""What live speech needs from the world. Small, defined by the consumer (`streaming.pipeline`).

Adapters: `server.workers.local` (Recogniser), `server.media.audiolog` (AudioReader), `server.live.sink`
(TranscriptSink), `streaming.audio.vad` (SpeechDetector). One contract suite runs on every adapter of a port.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streaming.model import Capabilities, Final, Hypothesis, Partial, Segment, UtteranceSpec

Pcm16 = NDArray[np.int16]
"""(n_samples,) int16, mono, 16 kHz."""


class SpeechDetector(Protocol):
    """Decides frame by frame whether somebody speaks. Stateful, one per stream."""

    def is_speech(self, frame: Pcm16, *, in_speech: bool) -> bool:
        """`frame`: exactly `FRAME_SAMPLES` samples, in order. `in_speech`: what the endpointer believes so far,
        so that a detector may use a lower threshold to go on than to begin (hysteresis)."""
        ...

    def reset(self) -> None:
        """Forget the past: the next frame does not follow the previous one."""
        ...


class UtteranceDecoder(Protocol):
    """One utterance at a recogniser. The caller uses it from one task and always ends it with
    `final` or `discard`. Every method may raise `WorkerLost`: then open anew and feed from the start."""

    async def feed(self, audio: Pcm16) -> None:
        """Append audio that follows what was fed before. Waits while the worker is far behind."""
        ...

    async def partial(self) -> Hypothesis | None:
        """Hypothesis over all audio fed so far; None when it waited so long that newer audio must be there: feed that
        and ask again, which keeps the place in the queue."""
        ...

    async def final(self) -> Final:
        """End of utterance: the best hypothesis over all its audio. The decoder is closed afterwards."""
        ...

    async def discard(self) -> None:
        """Give the decoder up without a result. Idempotent, never raises WorkerLost."""
        ...


class Recogniser(Protocol):
    """A speech engine behind a process border."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def open(self, spec: UtteranceSpec) -> UtteranceDecoder:
        """Begin an utterance; waits for a free place, in order of arrival.

        Raises `WorkerLost` when the worker is down (retry after a pause)."""
        ...


class AudioReader(Protocol):
    """Random access to the kept encoded audio of one recording."""

    def read_range(self, start: int, end: int) -> bytes:
        """Bytes [start, end) of the encoded stream; shorter only when fewer were appended."""
        ...


class TranscriptSink(Protocol):
    """Where captions go. Partials may be dropped, finals never."""

    def partial(self, partial: Partial) -> None:
        """Offer a partial; never waits."""
        ...

    async def final(self, segment: Segment, *, committed_sample: int, context: bytes, speakers: bytes) -> None:
        """Commit, then announce. Returns after the commit; waits out a lost database.

        `committed_sample`: audio before it needs no further work; `context`: of the engine, `speakers`: of the
        listener (empty: none listens here), for whoever goes on from there. Raises `Fenced` when the stream was taken
        over."""
        ...

    def flushed(self, marker: str) -> None:
        """All finals caused by this flush marker are announced."""
        ...
