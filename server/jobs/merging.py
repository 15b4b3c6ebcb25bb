"""What was read again goes into the transcript: clustered, merged, and written in one transaction.

Policy: what changes is computed from segments as they are (`streaming.transcript.merge`), outside of any transaction,
then written with its events, its index job and the mark that says so, if the segments still are what it was computed
from; else it is computed again, `pass_merges_max` times at most. A reading that hears less than what is there in most
places is discarded, but for who speaks.

Boundary: SQL through `server.store.passes` and `revisions`. Invariant: a merge is told once, however often it was
begun; its locks last as long as the writing.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial

import msgspec

from server.jobs.index import IndexSegments, enqueue_index
from server.jobs.pieces import Work
from server.store import feed, passes, revisions, speakers
from server.store.commits import Announcer
from server.store.passes import PieceRow, Windows
from server.store.pool import Connection, Database
from server.store.revisions import Held
from server.telemetry import METRICS
from streaming.diariser.offline import Offline, cluster
from streaming.diariser.voices import Known, Speaker
from streaming.limits import Limits
from streaming.model import Segment, ms_of
from streaming.transcript.merge import Changes, Stretch, attributed, merge

log = logging.getLogger(__name__)


class Made(msgspec.Struct, frozen=True):
    """What a merge would write."""

    changes: Changes
    offline: Offline | None
    model: str
    doubtful: bool


class Merger:
    """`whole` says what may be merged, `merge` does it."""

    def __init__(self, database: Database, announcer: Announcer, limits: Limits) -> None:
        self._database = database
        self._announcer = announcer
        self._limits = limits

    async def whole(self, work: Work) -> int:
        """The last piece that may be merged while the recording goes on: no segment reaches beyond its end."""
        row = work.row
        async with self._database.tenant_tx(work.tenant_id) as connection:
            read = await passes.pieces(connection, *work.key, row.round, after=row.merged_pieces, upto=row.pieces)
            held = await passes.transcript(connection, *work.key, ms_of(row.merged_sample), None)
        for piece in reversed(read):
            end_ms = ms_of(piece.end_sample)
            across = any(each.segment.start_ms < end_ms < each.segment.end_ms for each in held)
            if piece.end_sample <= row.committed_sample and not across:
                return piece.number
        return row.merged_pieces

    async def merge(self, work: Work, upto: int, *, done: bool) -> bool:
        """Put pieces up to this number into the transcript; False when somebody changes it all the time."""
        for _ in range(self._limits.pass_merges_max):
            async with self._database.tenant_tx(work.tenant_id) as connection:
                held = await passes.transcript(connection, *work.key, 0, None)
            made = await self._make(work, held, upto)
            written = await self._write(work, held, made, upto, done=done)
            if written is None:
                continue
            self._announcer.announce(written)
            await self._tell_speakers(work, made)
            METRICS.passes.merged.inc()
            log.info(
                "second pass merged",
                extra={
                    "recording_id": work.recording_id, "pieces": upto - work.row.merged_pieces,
                    "revised": len(made.changes.revised), "inserted": len(made.changes.inserted),
                    "removed": len(made.changes.removed), "done": done,
                },
            )  # fmt: skip
            return True
        log.info("second pass waits: the transcript changes all the time", extra={"recording_id": work.recording_id})
        return False

    async def _make(self, work: Work, held: Sequence[Held], upto: int) -> Made:
        row = work.row
        async with self._database.tenant_tx(work.tenant_id) as connection:
            read = await passes.pieces(connection, *work.key, row.round, after=row.merged_pieces, upto=upto)
            windows = await passes.windows(connection, *work.key, row.round, upto=upto)
            model = windows[-1].model if windows else ""
            anchors = await speakers.of_model(connection, *work.key, model) if model else []
            known = await speakers.known(connection, work.tenant_id, model) if model else []
        end_sample = read[-1].end_sample if read else row.merged_sample
        name = f"{work.recording_id}.p{row.merges + 1}"
        make = partial(_made, held, read, windows, anchors, known, row.merged_sample, end_sample, name)
        made = await asyncio.to_thread(make)
        if made.doubtful:
            METRICS.passes.discarded.inc()
            log.warning("second pass discarded: it hears less than what is there",
                        extra={"recording_id": work.recording_id})  # fmt: skip
        return made

    async def _write(
        self, work: Work, held: Sequence[Held], made: Made, upto: int, *, done: bool
    ) -> list[feed.Event] | None:
        """All of it or nothing; None when what it was made from is no longer so."""
        try:
            async with self._database.tenant_tx(work.tenant_id, long=True) as connection:
                if not await passes.merged(connection, *work.key, work.row, pieces=upto, done=done):
                    # Another node was faster, or we were, and did not hear of it: then its events are in the log.
                    self._announcer.resync(work.tenant_id, work.recording.room)
                    return []
                return await self._write_changes(connection, work, held, made)
        except _Stale:
            return None

    async def _write_changes(
        self, connection: Connection, work: Work, held: Sequence[Held], made: Made
    ) -> list[feed.Event]:
        """Raises `_Stale`."""
        changes = made.changes
        if not changes.count:
            return []
        spoken_by = {each.speaker for each in (*changes.revised, *changes.inserted) if each.speaker is not None}
        touched = {each.segment_id for each in changes.revised} | set(changes.removed)
        now = await revisions.hold(connection, *work.key, speakers=spoken_by)
        if not _same(held, now, touched, changes.inserted):
            raise _Stale
        revised = await revisions.revise(
            connection,
            *work.key,
            changes.revised,
            inserted=changes.inserted,
            removed=changes.removed,
            reason="second_pass",
            pass_id=f"sp_{work.recording_id}.{work.row.merges + 1}",
            at_ms=time.time_ns() // 1_000_000,
        )
        if revised.written:
            ids = tuple(sorted(revised.written))
            job = IndexSegments(tenant_id=work.tenant_id, recording_id=work.recording_id, segment_ids=ids)
            await enqueue_index(connection, [job])
        return revised.events

    async def _tell_speakers(self, work: Work, made: Made) -> None:
        """What labels sound like, and who they are. In transactions of their own, since these lock voices and speakers
        before anything else; killed before it, the next merge, or nobody, tells."""
        if made.offline is None:
            return
        at_ms = time.time_ns() // 1_000_000
        async with self._database.tenant_tx(work.tenant_id) as connection:
            await speakers.upsert(connection, *work.key, made.model, made.offline.speakers)
        for each in made.offline.recognised:
            async with self._database.tenant_tx(work.tenant_id) as connection:
                events = await speakers.recognised(connection, *work.key, each.label, each.voice_id, at_ms)
            self._announcer.announce(events)


class _Stale(Exception):
    """Somebody changed a segment that the merge was made from; the transaction is rolled back."""


def _made(
    held: Sequence[Held],
    read: Sequence[PieceRow],
    windows: Sequence[Windows],
    anchors: Sequence[Speaker],
    known: Sequence[Known],
    start_sample: int,
    end_sample: int,
    name: str,
) -> Made:
    """What the pass makes of the transcript. In a thread: an hour takes some 100 ms."""
    start_ms, end_ms = ms_of(start_sample), ms_of(end_sample)
    protected = {each.segment.segment_id for each in held if each.edited}
    there = [each.segment for each in held if (each.segment.start_ms + each.segment.end_ms) // 2 < end_ms]
    here = [segment for segment in there if (segment.start_ms + segment.end_ms) // 2 >= start_ms]
    stretches = [Stretch(ms_of(piece.start_sample), ms_of(piece.end_sample), piece.spoken) for piece in read]
    made = merge(here, stretches, protected=protected, name=name)
    model = windows[-1].model if windows else ""
    heard = [each for some in windows if some.model == model for each in some.heard]
    offline = cluster(heard, anchors=anchors, known=known) if heard else None
    turns = offline.turns if offline is not None else ()
    changes = attributed(there, None if made.doubtful else made, turns, protected)
    return Made(changes, offline, model, made.doubtful)


def _same(before: Sequence[Held], now: Sequence[Held], touched: set[str], inserted: Sequence[Segment]) -> bool:
    """What is to be changed is as it was, and nothing new stands where something is to be inserted."""
    was = {each.segment.segment_id: (each.segment.rev, each.edited) for each in before}
    for each in now:
        state = was.pop(each.segment.segment_id, None)
        if each.segment.segment_id in touched and state != (each.segment.rev, each.edited):
            return False
        if state is None or state[1] != each.edited:
            segment = each.segment
            if any(new.start_ms < segment.end_ms and segment.start_ms < new.end_ms for new in inserted):
                return False
    return not touched & was.keys()
