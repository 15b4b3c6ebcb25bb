"""Who speaks in the live streams of this node: a listener for each, and what they found out written behind everything.

    Listener --Found--> queue --> one recording after the other: voices, finals told again, names and merges

Policy: finals never wait for it. What a node's listeners found out waits in one queue (`speaker_findings_max`), a lost
database is waited out, and a full queue sends the listeners away until later. A final is told again only as it is now:
its row is locked and read, alignment may have moved its words; what a person edited, or another pass wrote anew, stays.

Each step is a transaction, with its events and index job, that begins with the stream's row: a node that lost the
stream writes nothing, and the state of the listener that whoever goes on starts from is never older than the labels
that were told (streams, then recordings, labels, segments, rooms: locks are taken in this order).

Boundary: `server.store` for SQL, the hub for announcements. Invariant: what was found out about one recording is
written in the order in which it was found.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import uuid4

import msgspec

from server.jobs.index import IndexSegments, enqueue_index
from server.store import feed, recordings, revisions, segments, speakers
from server.store.commits import Announcer
from server.store.pool import Connection, Database
from server.telemetry import METRICS
from streaming.diariser.voices import Known, Merged, Recognised
from streaming.errors import Unavailable
from streaming.limits import Limits
from streaming.listener import Diariser, Found, Listener, Settled
from streaming.model import Segment, ms_of
from streaming.pipeline import lead_in
from streaming.transcript.speakers import split

log = logging.getLogger(__name__)

BATCH_MAX = 64
"""Findings taken at once: those about one recording share their transactions."""
RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0
"""Between tries while the database is away."""

Step = Callable[[Connection, int], Awaitable[list[feed.Event]]]
"""Part of what was found, in a transaction (connection, at_ms); what it returns is announced after the commit."""


class _Finding(msgspec.Struct, frozen=True):
    book: "_Book"
    found: Found


class _Book:
    """`streaming.listener.SpeakerBook` of one stream at this node."""

    def __init__(self, owner: "LiveSpeakers", tenant_id: str, recording_id: str, epoch: int) -> None:
        self._owner = owner
        self.tenant_id = tenant_id
        self.recording_id = recording_id
        self.epoch = epoch
        self.listener: Listener | None = None

    async def known(self, model: str) -> Sequence[Known]:
        async with self._owner.database.tenant_tx(self.tenant_id) as connection:
            return await speakers.known(connection, self.tenant_id, model)

    def offer(self, found: Found) -> bool:
        return self._owner.offer(_Finding(self, found))

    @property
    def state(self) -> bytes:
        """The listener's, as it is now: at least as new as all that it offered."""
        return b"" if self.listener is None else self.listener.state


class LiveSpeakers:
    """`listener` serves the desk; `run` is a component of the lifecycle."""

    def __init__(self, diariser: Diariser, database: Database, announcer: Announcer, limits: Limits) -> None:
        self.database = database
        self._diariser = diariser
        self._announcer = announcer
        self._limits = limits
        self._queue: asyncio.Queue[_Finding] = asyncio.Queue(limits.speaker_findings_max)

    async def listener(self, row: recordings.RecordingRow, stream: recordings.StreamRow) -> Listener | None:
        """For a stream that is about to run here; None for one that wants no labels. Raises `Unavailable`."""
        if not row.options.diarize:
            return None
        start = lead_in(stream.committed_sample)
        recent: list[Segment] = []
        if stream.epoch > 1:
            async with self.database.tenant_tx(row.tenant_id) as connection:
                recent = await segments.since(connection, row.tenant_id, row.recording_id, ms_of(start))
        book = _Book(self, row.tenant_id, row.recording_id, stream.epoch)
        book.listener = Listener(
            self._diariser, book, start_sample=start, limits=self._limits, state=stream.speakers, recent=recent
        )
        return book.listener

    def offer(self, finding: _Finding) -> bool:
        """Never waits; False when the queue is full."""
        try:
            self._queue.put_nowait(finding)
        except asyncio.QueueFull:
            return False
        return True

    async def run(self) -> None:
        """Write what listeners find out, until cancelled."""
        while True:
            findings = [await self._queue.get()]
            while not self._queue.empty() and len(findings) < BATCH_MAX:
                findings.append(self._queue.get_nowait())
            books: dict[_Book, list[Found]] = {}
            for finding in findings:
                books.setdefault(finding.book, []).append(finding.found)
            for book, found in books.items():
                for step in _steps(book, found):
                    await self._write(book, step)
            for _ in findings:
                self._queue.task_done()

    async def _write(self, book: _Book, step: Step) -> None:
        """One step, when the database is there; nothing for a stream that is somebody else's now."""
        retry_s, tried = RETRY_S_MIN, False
        while True:
            try:
                async with self.database.tenant_tx(book.tenant_id) as connection:
                    if not await recordings.keep_speakers(
                        connection, book.tenant_id, book.recording_id, book.epoch, book.state
                    ):
                        return
                    events = await step(connection, time.time_ns() // 1_000_000)
                break
            except Unavailable:
                tried = True
                log.warning("what was found out about speakers waits for the database")
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)
        self._announcer.announce(events)
        METRICS.speakers.revisions.inc(len(speakers.segments_in(events)))
        if tried:  # an answer may have been lost, and then nobody announced what it stood for
            self._announcer.resync(book.tenant_id, f"recording:{book.recording_id}")


def _steps(book: _Book, found: Sequence[Found]) -> list[Step]:
    """Voices as they are now, then finals, then what became of labels: it counts for the finals too."""
    steps: list[Step] = []
    if voices := [one for one in found if one.speakers]:
        steps.append(_voices(book, voices[-1]))
    if finals := [final for one in found for final in one.finals]:
        steps.append(_finals(book, finals))
    return steps + [_change(book, change) for one in found for change in one.changes]


def _voices(book: _Book, found: Found) -> Step:
    async def step(connection: Connection, _at_ms: int) -> list[feed.Event]:
        await speakers.upsert(connection, book.tenant_id, book.recording_id, found.model, found.speakers)
        return []

    return step


def _finals(book: _Book, finals: Sequence[Settled]) -> Step:
    settled = {final.segment.segment_id: final for final in finals}
    labels = {turn.speaker for final in finals for turn in final.turns}

    async def step(connection: Connection, at_ms: int) -> list[feed.Event]:
        where = (connection, book.tenant_id, book.recording_id)
        changed = []
        for row in await revisions.hold(*where, settled, speakers=labels):
            final = settled[row.segment.segment_id]
            pieces = split(row.segment, final.turns)
            if not row.edited and row.segment.text == final.segment.text and pieces != (row.segment,):
                changed.append(pieces)
        revised = await revisions.revise(
            *where,
            [pieces[0] for pieces in changed],
            inserted=[piece for pieces in changed for piece in pieces[1:]],
            reason="diarisation",
            pass_id=f"di_{uuid4().hex}",
            at_ms=at_ms,
        )
        await _index(connection, book, sorted(revised.written))
        return revised.events

    return step


def _change(book: _Book, change: Merged | Recognised) -> Step:
    async def step(connection: Connection, at_ms: int) -> list[feed.Event]:
        where = (connection, book.tenant_id, book.recording_id)
        if isinstance(change, Merged):
            events = await speakers.merged(*where, change.from_, change.into, at_ms)
        else:
            events = await speakers.recognised(*where, change.label, change.voice_id, at_ms)
        await _index(connection, book, speakers.segments_in(events))
        return events

    return step


async def _index(connection: Connection, book: _Book, segment_ids: Sequence[str]) -> None:
    if segment_ids:
        job = IndexSegments(tenant_id=book.tenant_id, recording_id=book.recording_id, segment_ids=tuple(segment_ids))
        await enqueue_index(connection, [job])


__all__ = ["LiveSpeakers"]
