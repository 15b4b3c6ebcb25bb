"""Exact word times for finals, after they were shown: a component that aligns what was not aligned yet.

    unaligned finals, newest first -> claim -> audio -> aligner -> revise (one transaction) -> announce

Policy: captions never wait for it and lose nothing by it. A final is claimed, which counts the try, then its audio is
read with a little before and after (never into its neighbours) and aligned; times of up to `align_batch_max` finals of
one recording are committed together: words, `rev` + 1, durable `transcript:revised` and the index job stand or fall
together. A final that changed meanwhile keeps what it has (`server.store.revisions` says why `rev` alone fences).
A lost worker or database is waited for; a final whose tries cost `align_tries_max` workers is set aside.

Boundary: the ports `Aligner` and `AudioSource`; SQL through `server.store.revisions`.
Invariant: text, words and their order never change here, and segments keep their order by start.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Protocol
from uuid import uuid4

import msgspec

from server.jobs.index import IndexSegments, enqueue_index
from server.store import revisions
from server.store.commits import Announcer
from server.store.pool import Database
from server.store.revisions import Claimed, Outcome
from server.workers.calls import CallFailed
from streaming.aio import Signal
from streaming.errors import DecodeFailed, NotFound, Unavailable, WorkerLost
from streaming.limits import Limits
from streaming.model import Segment, Word
from streaming.ports import Pcm16
from streaming.recogniser.alignment import MARGIN_MS, Times

IDLE_S = 1.0
"""Between looks for new finals, where nobody calls `nudge`: a look takes under a millisecond."""
RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0
"""Between tries while the worker or the database is away."""

log = logging.getLogger(__name__)


class Aligner(Protocol):
    """Places words in audio (`server.workers.aligner`)."""

    @property
    def languages(self) -> Sequence[str]:
        """Primary codes that can be aligned now; empty while it is not ready."""
        ...

    async def align(self, language: str, words: Sequence[str], audio: Pcm16) -> Times | None:
        """(start_ms, end_ms) of each word from the beginning of `audio`, in order and inside it; None where the words
        are not found. Raises `WorkerLost` (ask again), `CallFailed` (do not)."""
        ...


class AudioSource(Protocol):
    """Random access to what was recorded (`server.jobs.audio`)."""

    async def samples(self, tenant_id: str, recording_id: str, start_ms: int, end_ms: int) -> Pcm16:
        """Samples [start, end) of the recording's clock; fewer where it ends. Raises `NotFound` (deleted, or never
        kept), `DecodeFailed`, `Unavailable`."""
        ...


class _Result(msgspec.Struct, frozen=True):
    """What came of one try: the segment with new times, or why there will be none, or neither: it is tried again.
    `blame`: the try counts, because a worker was lost in it."""

    old: Segment
    new: Segment | None = None
    outcome: Outcome | None = None
    blame: bool = False


class AlignmentFiller:
    """`run` is a component; `nudge` may be called when finals were committed."""

    def __init__(
        self, database: Database, aligner: Aligner, audio: AudioSource, announcer: Announcer, limits: Limits
    ) -> None:
        self._database = database
        self._aligner = aligner
        self._audio = audio
        self._announcer = announcer
        self._limits = limits
        self._hold_s = limits.align_stall_ms / 1000
        self._finals = Signal()

    def nudge(self) -> None:
        """There may be new finals: look now."""
        self._finals.set()

    async def run(self) -> None:
        retry_s = RETRY_S_MIN
        while True:
            try:
                worked = bool(self._aligner.languages) and await self._batch()
                retry_s = RETRY_S_MIN
            except Unavailable as error:
                log.warning("alignment waits", extra={"error": type(error).__name__, "retry_s": retry_s})
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)
                continue
            if not worked:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S):
                        await self._finals.wait()

    async def _batch(self) -> bool:
        """Align the newest finals of one recording; False when there is nothing to do now."""
        async with self._database.shared_tx() as connection:
            found = await revisions.unaligned(
                connection,
                self._aligner.languages,
                age_s_max=self._limits.align_age_s_max,
                tries_max=self._limits.align_tries_max,
                limit=self._limits.align_batch_max,
            )
        if not found:
            return False
        tenant_id, recording_id = found[0].tenant_id, found[0].recording_id
        results: list[_Result] = []
        trouble: Unavailable | None = None
        for name in found:
            if (name.tenant_id, name.recording_id) != (tenant_id, recording_id):
                continue
            async with self._database.tenant_tx(tenant_id) as connection:
                claimed = await revisions.claim(connection, tenant_id, name.segment_id, hold_s=self._hold_s)
            if claimed is None:
                continue  # another node was faster, or it is gone
            try:
                results.append(await self._align(tenant_id, recording_id, claimed))
            except Unavailable as error:
                trouble = error
                results.append(self._troubled(claimed, error))
                break
        if results:
            await self._commit(tenant_id, recording_id, results)
        if trouble is not None:
            raise trouble
        return True

    def _troubled(self, claimed: Claimed, error: Unavailable) -> _Result:
        """The worker died over this final, or beside it; or its audio could not be read now."""
        if not isinstance(error, WorkerLost):
            return _Result(claimed.segment)
        if claimed.tries < self._limits.align_tries_max:
            return _Result(claimed.segment, blame=True)
        log.error("final set aside after repeated worker losses", extra={"segment_id": claimed.segment.segment_id})
        return _Result(claimed.segment, outcome="failed")

    async def _align(self, tenant_id: str, recording_id: str, claimed: Claimed) -> _Result:
        """Raises `WorkerLost`, `Unavailable`."""
        segment = claimed.segment
        start_ms, end_ms = window(claimed)
        try:
            audio = await self._audio.samples(tenant_id, recording_id, start_ms, end_ms)
            words = [word.text for word in segment.words]
            times = await self._aligner.align(segment.language, words, audio) if words and len(audio) else None
        except (NotFound, DecodeFailed):
            return _Result(segment, outcome="none")
        except CallFailed:
            log.warning("final cannot be aligned", extra={"segment_id": segment.segment_id})
            return _Result(segment, outcome="failed")
        if times is None:
            return _Result(segment, outcome="none")
        return _Result(segment, retimed(segment, times, start_ms))

    async def _commit(self, tenant_id: str, recording_id: str, results: Sequence[_Result]) -> None:
        """Commit, then announce; waits out a lost database, because the work is done."""
        retry_s = RETRY_S_MIN
        while True:
            try:
                revised = await self._write(tenant_id, recording_id, results)
                break
            except Unavailable:
                log.warning("aligned finals wait for the database", extra={"finals": len(results)})
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)
        self._announcer.announce(revised.events)
        if any(result.new is not None and result.old.segment_id not in revised.written for result in results):
            # Changed by somebody else, or by ourselves: a commit whose answer was lost is announced by nobody.
            self._announcer.resync(tenant_id, f"recording:{recording_id}")

    async def _write(self, tenant_id: str, recording_id: str, results: Sequence[_Result]) -> revisions.Revised:
        changed = [result.new for result in results if result.new is not None]
        given_up = {(r.old.segment_id, r.old.rev): r.outcome for r in results if r.outcome is not None}
        again = {r.old.segment_id: r.blame for r in results if r.new is None and r.outcome is None}
        revised = revisions.Revised(frozenset(), [])
        async with self._database.tenant_tx(tenant_id) as connection:
            if changed:  # first: it locks speakers before segments, as everybody does
                revised = await revisions.revise(
                    connection,
                    tenant_id,
                    recording_id,
                    changed,
                    reason="alignment",
                    pass_id=f"al_{uuid4().hex}",
                    at_ms=time.time_ns() // 1_000_000,
                )
            await revisions.settle(connection, tenant_id, given_up)
            await revisions.give_back(connection, tenant_id, again)
            if revised.written:
                job = IndexSegments(
                    tenant_id=tenant_id, recording_id=recording_id, segment_ids=tuple(sorted(revised.written))
                )
                await enqueue_index(connection, [job])
        return revised


def window(claimed: Claimed) -> tuple[int, int]:
    """(start_ms, end_ms) of the audio in which the segment's words are looked for."""
    segment = claimed.segment
    start_ms, end_ms = max(0, segment.start_ms - MARGIN_MS), segment.end_ms + MARGIN_MS
    if claimed.after_ms is not None:
        start_ms = min(segment.start_ms, max(start_ms, claimed.after_ms))
    if claimed.before_ms is not None:
        end_ms = max(segment.end_ms, min(end_ms, claimed.before_ms))
    return start_ms, end_ms


def retimed(segment: Segment, times: Times, origin_ms: int) -> Segment:
    """The segment's next revision: the same words at other times. `origin_ms`: where the aligned audio begins."""
    words = tuple(
        Word(word.text, origin_ms + start_ms, origin_ms + end_ms, word.p)
        for word, (start_ms, end_ms) in zip(segment.words, times, strict=True)
    )
    # A final that begins later than its own old end would change places with the next one.
    start_ms = min(words[0].start_ms, segment.end_ms)
    return msgspec.structs.replace(
        segment, rev=segment.rev + 1, start_ms=start_ms, end_ms=max(start_ms, words[-1].end_ms), words=words
    )


__all__ = ["Aligner", "AlignmentFiller", "AudioSource", "retimed", "window"]
