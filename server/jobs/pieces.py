"""One piece of a recording, read again: cut, transcribed, its voices heard, stored in one row.

Policy: of what live talk recognised only what the transcriber makes better is read, else only what live talk missed. A
piece that costs `pass_tries_max` workers, or that a worker refuses, is passed over: its utterances come back as not
trusted, so what was recognised live stays there.

Boundary: the ports `Transcriber`, `Voices` and `AudioSource`. Invariant: a piece is the same whoever cuts it, and
stored once; no more than one piece of audio is held."""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import numpy as np

from server.jobs.align import AudioSource
from server.store import passes
from server.store.passes import PassRow, PieceRow, Windows
from server.store.pool import Database
from server.store.recordings import RecordingRow
from server.telemetry import METRICS
from server.workers.calls import CallFailed
from server.workers.passes import Wanted
from streaming.audio.cutting import PIECE_SAMPLES_MAX, Listener, Piece
from streaming.audio.endpoint import PRESETS, with_endpointing, within
from streaming.audio.prepare import leveller_for
from streaming.audio.vad import detector_for
from streaming.diariser.heard import DiariserInfo, Heard
from streaming.errors import Unavailable, WorkerLost
from streaming.limits import Limits
from streaming.model import FRAME_SAMPLES, Segment, ms_of, samples_of
from streaming.pipeline import lead_in
from streaming.ports import Pcm16
from streaming.transcript.merge import Spoken

FRAMES_AT_ONCE = 31
"""Frames that are heard before the thread lets others have the interpreter: 1 s of audio, some 5 ms."""

log = logging.getLogger(__name__)


class Transcriber(Protocol):
    """Turns a piece into words (`server.workers.passes`)."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> tuple[str, int]:
        """What its detector listens for (`Capabilities.activity`), and its longest utterance in ms."""
        ...

    def improves(self, engine: str) -> bool:
        """Its text is worth more than that of the engine that heard the recording live."""
        ...

    async def transcribe(self, wanted: Wanted) -> tuple[Spoken, ...]:
        """Raises `WorkerLost` (ask again), `CallFailed` (do not)."""
        ...


class Voices(Protocol):
    """Hears who speaks (`server.workers.passes`)."""

    def used(self) -> AbstractAsyncContextManager[DiariserInfo | None]:
        """While it may be asked: what it is; None where there is none. Raises `WorkerLost`."""
        ...

    async def listen(self, audio: Pcm16) -> Heard:
        """Raises `WorkerLost`, `CallFailed`."""
        ...


class Work(msgspec.Struct, frozen=True):
    """A recording under way."""

    tenant_id: str
    recording: RecordingRow
    row: PassRow

    @property
    def recording_id(self) -> str:
        return self.recording.recording_id

    @property
    def key(self) -> tuple[str, str]:
        return self.tenant_id, self.recording.recording_id


class PieceReader:
    """`read` does all of it. `voices`: None where nobody is told apart."""

    def __init__(self, database: Database, audio: AudioSource, voices: Voices | None, limits: Limits) -> None:
        self._database = database
        self._audio = audio
        self._voices = voices
        self._limits = limits

    async def read(self, work: Work, transcriber: Transcriber) -> bool:
        """Read the next piece and store it; False when there is no more audio."""
        row = work.row
        piece = await self._cut(work, transcriber)
        if piece is None:
            return False
        async with self._database.tenant_tx(work.tenant_id) as connection:
            tries = await passes.begin_try(connection, *work.key)
        if tries > self._limits.pass_tries_max:
            log.error("a piece is passed over after repeated losses", extra={"recording_id": work.recording_id})
            spoken, windows = _unread(piece.utterances), None
        else:
            try:
                spoken = await self._transcribe(work, transcriber, piece)
                windows = await self._hear(work, piece)
            except CallFailed:
                log.warning("a piece cannot be read", extra={"recording_id": work.recording_id})
                spoken, windows = _unread(piece.utterances), None
            except Unavailable as error:
                if not isinstance(error, WorkerLost):
                    async with self._database.tenant_tx(work.tenant_id) as connection:
                        await passes.forgive(connection, *work.key)
                raise
        stored = PieceRow(row.pieces + 1, piece.start_sample, piece.end_sample, spoken)
        async with self._database.tenant_tx(work.tenant_id) as connection:
            await passes.add_piece(connection, *work.key, row.round, stored, windows)
        METRICS.passes.pieces.inc()
        return True

    async def _cut(self, work: Work, transcriber: Transcriber) -> Piece | None:
        """The next piece; None behind the end of an ended recording."""
        start = work.row.read_sample
        first = lead_in(start)
        wanted = start + PIECE_SAMPLES_MAX
        audio = await self._audio.samples(*work.key, ms_of(first), ms_of(wanted))
        if len(audio) <= start - first:
            return None
        activity, utterance_ms_max = transcriber.capabilities
        rules = with_endpointing(PRESETS[work.recording.options.preset], work.recording.options.endpointing_ms)
        rules = within(rules, min(utterance_ms_max, self._limits.utterance_ms_max))
        before = (start - first) // FRAME_SAMPLES
        listener = Listener(start, rules, detector_for(activity), leveller_for(activity), lead_in_frames=before)
        whole = np.concatenate([audio, np.zeros(-len(audio) % FRAME_SAMPLES, np.int16)])
        step = FRAMES_AT_ONCE * FRAME_SAMPLES
        for at in range(0, len(whole), step):
            await asyncio.to_thread(listener.hear, whole[at : at + step])
        return await asyncio.to_thread(listener.piece)

    async def _transcribe(self, work: Work, transcriber: Transcriber, piece: Piece) -> tuple[Spoken, ...]:
        """What is said in the piece; utterances that nothing would be better for come back as not trusted."""
        options = work.recording.options
        there = await self._there(work, piece)
        wanted = piece.utterances
        if options.remote or not transcriber.improves(work.recording.engine):
            wanted = tuple(span for span in piece.utterances if not _covered(span, there))
        spoken: tuple[Spoken, ...] = ()
        if wanted:
            spoken = await transcriber.transcribe(
                Wanted(
                    piece=piece,
                    utterances=wanted,
                    language=_language(work.recording.language, there),
                    vocabulary=options.vocabulary,
                    task=options.task,
                    tenant=work.tenant_id,
                )
            )
        left = _unread([span for span in piece.utterances if span not in wanted])
        return tuple(sorted((*spoken, *left), key=lambda each: each.start_ms))

    async def _there(self, work: Work, piece: Piece) -> list[Segment]:
        """What was recognised live in the piece."""
        span_ms = ms_of(piece.start_sample), ms_of(piece.end_sample)
        async with self._database.tenant_tx(work.tenant_id) as connection:
            held = await passes.transcript(connection, *work.key, *span_ms)
        return [each.segment for each in held]

    async def _hear(self, work: Work, piece: Piece) -> Windows | None:
        """Windows of voices that end in the piece, most of each also in the one before it."""
        if self._voices is None or not work.recording.options.diarize or not piece.utterances:
            return None
        async with self._voices.used() as info:
            if info is None:
                return None
            size = samples_of(info.window_ms)
            first = max(0, piece.start_sample - size)
            audio = await self._audio.samples(*work.key, ms_of(first), ms_of(piece.end_sample))
            heard = []
            for start in _window_starts(piece, size):
                window = audio[start - first : start - first + size]
                if len(window):
                    heard.append((start, await self._voices.listen(window)))
        return Windows(info.model, tuple(heard))


def _unread(spans: Sequence[tuple[int, int]]) -> tuple[Spoken, ...]:
    """Utterances of which nothing is said: what is there stays."""
    return tuple(Spoken(ms_of(start), ms_of(end), (), "", trusted=False) for start, end in spans)


def _covered(span: tuple[int, int], there: Sequence[Segment]) -> bool:
    """Live talk has words there."""
    start_ms, end_ms = ms_of(span[0]), ms_of(span[1])
    return any(min(end_ms, each.end_ms) > max(start_ms, each.start_ms) for each in there)


def _language(wanted: str, there: Sequence[Segment]) -> str:
    """Of the recording; where that is to be found out, what was found live."""
    if wanted != "auto" or not there:
        return wanted
    languages = [each.language for each in there]
    return max(dict.fromkeys(languages), key=languages.count)


def _window_starts(piece: Piece, size: int) -> list[int]:
    """Windows on a grid of a third of their length that end in the piece and touch talk, and one that ends with it. (On
    a grid of half their length 0.111 of composed conversations is wrong instead of 0.091.) Where one holds more than a
    piece: one, of the piece and some before it."""
    if size > PIECE_SAMPLES_MAX:
        return [max(0, piece.start_sample - size + PIECE_SAMPLES_MAX)]
    hop = size // 3
    first = max(0, -(-(piece.start_sample - size) // hop)) * hop
    starts = [at for at in range(first, piece.end_sample, hop) if piece.start_sample < at + size <= piece.end_sample]
    last = max(0, piece.end_sample - size)
    ends = [end for _, end in piece.utterances]
    begins = [begin for begin, _ in piece.utterances]

    def touches(start: int) -> bool:
        n = bisect_left(ends, start + 1)
        return start < piece.start_sample or (n < len(begins) and begins[n] < start + size)

    return [start for start in dict.fromkeys([*starts, last]) if touches(start)]
