"""One live stream on this node: takes bytes in, keeps them, runs the pipeline over them, tells its client how it goes.

The receive path (`chunk`, `flush`, ...) is synchronous: it checks the offset, appends to the audio log, moves the
tape, and returns. Everything slow happens in `run`: recognition, syncing and acknowledging, renewing the lease, and
at the end the last transaction. A stream outlives its socket: without a client it waits for a takeover.

Invariant: after `run` returned, the stream is either ended in the database, fenced off, or released for adoption.
"""

import asyncio
import contextlib
import copy
import logging
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Protocol

from server.store import recordings
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.aio import Signal
from streaming.audio.sniff import SNIFF_BYTES
from streaming.errors import (
    Fenced,
    InternalError,
    ParlanceError,
    PayloadTooLarge,
    QuotaExceeded,
    RecordingBusy,
    StreamEnded,
    Unavailable,
    UnsupportedMedia,
)
from streaming.limits import Limits
from streaming.model import ms_of
from streaming.pipeline import Pipeline, StreamPlan, at_once
from streaming.ports import SpeechDetector
from streaming.protocol.messages import RecordingAck
from streaming.protocol.offsets import OffsetLedger
from streaming.protocol.session import Input, State, advance
from streaming.tape import MarkKind, Tape

from .checks import check_beginning, check_length, damage_of, received_ms
from .engines import EngineLease
from .opening import Opening
from .sink import RoomSink

log = logging.getLogger(__name__)

PAUSE_S = 2.0
"""A loop that comes round so late stood still: it ticks twice a second, and takeovers need no longer than this."""

DEGRADED_MS = 2_000
"""Lag from which captions are called degraded: the promise is words within 1 s at p95."""


class Client(Protocol):
    """The connection that feeds a stream."""

    def acknowledge(self, ack: RecordingAck) -> None: ...

    def stream_failed(
        self, stream_id: str, error: ParlanceError, *, fatal: bool, expected_offset: int | None
    ) -> None: ...


class EndReason(Enum):
    STOPPED = "stopped"
    ABANDONED = "abandoned"
    FAILED = "failed"


Ender = Callable[["LiveStream", EndReason, int], Awaitable[None]]
"""Commits `recording:ended` (stream, reason, duration in ms) and announces it."""


class LiveStream:
    """See the module. Built by the desk, which also awaits `run`."""

    def __init__(
        self,
        *,
        row: recordings.RecordingRow,
        stream: recordings.StreamRow,
        plan: StreamPlan,
        opening: Opening,
        sink: RoomSink,
        lease: EngineLease,
        detector: SpeechDetector,
        database: Database,
        ender: Ender,
        client: Client | None,
        abandon_ms: int,
        limits: Limits,
    ) -> None:
        self.row = row
        self.stream_id = stream.stream_id
        self.epoch = stream.epoch
        self.client = client
        self.listener = opening.listener
        self._log = log_ = opening.log
        self._parts = opening.parts
        self._limits, self._plan = limits, plan
        self._sink = sink
        self._database = database
        self._ender = ender
        self._lease = lease
        self._abandon_s = abandon_ms / 1000
        self._unattended_since = time.monotonic() - (0.0 if client else stream.idle_ms / 1000)
        self._state = State.LIVE
        self._errors = 0
        self._end_reason = EndReason.STOPPED
        self._wake = Signal()
        self._acked: RecordingAck | None = None
        self._skips_counted = self._unheard_counted = 0
        self._sync_failed = self._hurry = self._damage_told = self._ending = False
        self._overtaken = asyncio.Event()
        self._renew_now = Signal()
        if self.epoch > 1:
            self._renew_now.set()  # it may have been overtaken while its log was opened, when no fence could find it
        self._ticked = time.monotonic()
        rate = row.format.bytes_per_second
        start = min(plan.start_byte, log_.end)
        self.ledger = OffsetLedger(
            received=log_.end,
            durable=log_.end,
            processed=start,
            credit_bytes=min(limits.credit_bytes_max, rate * limits.credit_ms // 1000),
            backlog_bytes=rate * limits.backlog_ms_max // 1000,
        )
        packed = row.format.encoding.is_container
        self._tape = Tape(
            log_,
            position=plan.start_byte,
            end=log_.end,
            limits=limits,
            piece_bytes=limits.container_read_bytes if packed else limits.read_bytes,
        )
        self._pipeline = Pipeline(
            plan,
            tape=self._tape,
            recogniser=lease.recogniser,
            detector=detector,
            sink=sink,
            limits=limits,
            listener=self.listener,
            on_parts=self._parts.append if self._parts is not None else None,
            aside=asyncio.to_thread if packed else at_once,
        )

    @property
    def recording_id(self) -> str:
        return self.row.recording_id

    @property
    def tenant_id(self) -> str:
        return self.row.tenant_id

    @property
    def ended(self) -> bool:
        return self._state is State.ENDED

    # --- the receive path -------------------------------------------------------------------------------------
    def chunk(self, offset: int, audio: bytes) -> None:
        """Take bytes in; what is wrong with them goes to the client as an event, not as an exception."""
        try:
            self._state = advance(self._state, Input.CHUNK)
            if len(audio) > self._limits.chunk_bytes_max:
                raise PayloadTooLarge(f"A chunk has at most {self._limits.chunk_bytes_max} bytes.", field="audio")
            ledger = copy.copy(self.ledger)
            skip = ledger.accept(offset, len(audio)).skip
            if skip < len(audio):
                fmt, fresh = self.row.format, audio[skip:] if skip else audio
                check_length(fmt, offset, self._pipeline.progress, self._limits)
                if self._log.end < SNIFF_BYTES:
                    check_beginning(fmt.encoding, self._log.read_range(0, self._log.end), fresh)
                self._tape.extend(self._log.append(fresh))
                METRICS.audio_bytes.inc(len(audio) - skip)
            self.ledger = ledger  # received is what the log took: a full disk must leave no hole
            self._errors = 0
            if self._acked is None or self.ledger.credit < self._limits.chunk_bytes_max:
                self._wake.set()  # whoever has just come back waits for its first acknowledgement
        except ParlanceError as error:
            self._refuse(error)

    def _refuse(self, error: ParlanceError) -> None:
        """Tell the client; after too many refusals in a row, or what repeating cannot mend, end the stream."""
        self._errors += 1
        if isinstance(error, StreamEnded):
            self._tell(error, fatal=False)
        elif isinstance(error, QuotaExceeded | UnsupportedMedia) or self._errors > self._limits.stream_errors_max:
            self.fail(error)
        else:
            self._tell(error, fatal=False)

    def flush(self, marker: str) -> None:
        """Raises `StreamEnded`, `Conflict`."""
        self._state = advance(self._state, Input.FLUSH)
        self._tape.mark(MarkKind.FLUSH, marker)

    def pause(self) -> None:
        state = advance(self._state, Input.PAUSE)
        if self._state is not state:
            self._tape.mark(MarkKind.PAUSE)
        self._state = state

    def resume(self) -> None:
        self._state = advance(self._state, Input.RESUME)

    def stop(self, offset: int) -> None:
        """Raises `OffsetMismatch` while bytes are missing; the stream then goes on."""
        state = advance(self._state, Input.STOP)
        self.ledger.finish(offset)
        if self._state is not state:
            self._tape.mark(MarkKind.STOP)
        self._state = state

    def fail(self, error: ParlanceError) -> None:
        """End the stream as failed: what was heard so far is transcribed, the client hears why."""
        if self._state in (State.STOPPING, State.ENDED):
            return
        log.warning("stream failed", extra={"recording_id": self.recording_id, "code": error.code})
        self._tell(error, fatal=True)
        self._finish_as(EndReason.FAILED)

    def _finish_as(self, reason: EndReason) -> None:
        self._end_reason = reason
        self._state = State.STOPPING
        self._tape.mark(MarkKind.STOP)

    def overtaken(self) -> None:
        """Another connection or node runs this stream with a higher epoch: end, tell the client, write nothing."""
        self._sink.closed = True
        self._overtaken.set()

    def sync_soon(self) -> None:
        """Make what is here durable and acknowledge it now: somebody else is to go on."""
        self._hurry = True
        self._wake.set()

    def attend(self, client: Client | None) -> None:
        """The client went away (None)."""
        self.client = client
        self._unattended_since = time.monotonic()

    def _tell(self, error: ParlanceError, *, fatal: bool) -> None:
        METRICS.refusals.labels(error.code).inc()
        if self.client is not None:
            expected = self.ledger.received if not fatal and not isinstance(error, StreamEnded) else None
            self.client.stream_failed(self.stream_id, error, fatal=fatal, expected_offset=expected)

    # --- the slow side ----------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Live until stopped, abandoned, failed or fenced. Cancelled by the desk for a local takeover or shutdown."""
        METRICS.streams.inc()
        minders = []
        try:
            async with asyncio.TaskGroup() as group:
                minders = [
                    group.create_task(self._attend_log()),
                    group.create_task(self._keep_lease()),
                    group.create_task(self._give_way()),
                ]
                await self._recognise()
                for minder in minders:
                    minder.cancel()
        except BaseExceptionGroup as errors:
            error = errors.exceptions[0]
            if not isinstance(error, Fenced):
                raise error from errors
            await self._fenced(error)
        finally:
            self._sink.closed = True
            self._state = State.ENDED
            METRICS.streams.dec()
            if self._parts is not None:
                self._parts.close()
            await self._log.seal()

    async def _recognise(self) -> None:
        """The session boundary: a defect in one stream ends that stream, not the server."""
        try:
            await self._log.fetch(self._plan.start_byte)
            await self._pipeline.run()
        except Fenced:
            raise
        except ParlanceError as error:
            self._end_reason = EndReason.FAILED
            self._tell(error, fatal=True)
        except Exception:  # the session boundary
            log.exception("pipeline failed", extra={"recording_id": self.recording_id})
            self._end_reason = EndReason.FAILED
            self._tell(InternalError("Recognition failed; the audio is kept."), fatal=True)
        self._state = State.STOPPING  # also when it failed: nobody would hear what came now
        await self._sync(whole=True)
        self._acknowledge()
        self._ending = True
        await self._ender(self, self._end_reason, self._received_ms())

    async def _attend_log(self) -> None:
        """Sync and acknowledge while audio flows; give up a stream that nobody came back for."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.ack_interval_ms / 1000):
                    await self._wake.wait()
            self._look_for_a_pause()
            if self._sink.doubtful:
                continue
            await self._sync()
            self._acknowledge()
            waiting = self.client is None and self._state in (State.LIVE, State.PAUSED)
            if waiting and time.monotonic() - self._unattended_since > self._abandon_s:
                self._finish_as(EndReason.ABANDONED)

    async def _sync(self, *, whole: bool = False) -> None:
        """`whole`: wait until everything is durable, or can never be."""
        if self._sync_failed or self.ledger.durable == self._log.end:
            return
        now = self._hurry or 2 * self.ledger.credit < self.ledger.granted - self.ledger.durable
        try:
            durable = await (self._log.settle() if whole else self._log.sync(now=now))
            self.ledger.advance_durable(durable)
        except Unavailable as error:
            # After a failed sync the kernel may have dropped what it held: nothing may be called durable any more.
            self._sync_failed = True
            self.fail(error)

    def _acknowledge(self) -> None:
        progress = self._pipeline.progress
        self._tell_damage(progress.damaged_samples)
        self.ledger.advance_processed(self._tape.position)
        heard_ms = self._received_ms()
        processed_ms = min(ms_of(progress.processed_sample), heard_ms)
        lag_ms = heard_ms - processed_ms
        METRICS.lag_seconds.observe(lag_ms / 1000)
        METRICS.hops_skipped.inc(progress.hops_skipped - self._skips_counted)
        self._skips_counted = progress.hops_skipped
        if self.listener is not None:
            METRICS.speakers.lag_seconds.observe(self.listener.lag_ms / 1000)
            METRICS.speakers.unheard.inc((self.listener.skipped_ms - self._unheard_counted) / 1000)
            self._unheard_counted = self.listener.skipped_ms
        ack = RecordingAck(
            stream_id=self.stream_id,
            received_bytes=self.ledger.received,
            durable_bytes=self.ledger.durable,
            credit_bytes=self.ledger.credit,
            received_ms=heard_ms,
            processed_ms=processed_ms,
            committed_ms=min(ms_of(progress.settled_sample), heard_ms),
            lag_ms=lag_ms,
            degraded=lag_ms > DEGRADED_MS or self._lease.is_thinned(self.tenant_id),
        )
        if ack != self._acked and self.client is not None:
            self._acked = ack
            self.client.acknowledge(ack)

    def _received_ms(self) -> int:
        return received_ms(self.row.format, self.ledger.received, self._pipeline.progress, failed=self._pipeline.failed)

    def _tell_damage(self, samples: int) -> None:
        if samples and not self._damage_told and self.client is not None:
            self._damage_told = True
            self._tell(damage_of(self.row.format.encoding, samples), fatal=False)

    def _look_for_a_pause(self) -> None:
        """After this process stood still (SIGSTOP, a frozen machine) its stream may be somebody else's: nothing more is
        told of it until the lease was renewed."""
        now = time.monotonic()
        if now - self._ticked > PAUSE_S:
            self._sink.doubtful = True
            self._renew_now.set()
        self._ticked = now

    async def _give_way(self) -> None:
        await self._overtaken.wait()
        raise Fenced("Another connection took this stream over.")

    async def _keep_lease(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.lease_renew_ms / 1000):
                    await self._renew_now.wait()
            try:
                async with self._database.tenant_tx(self.tenant_id) as connection:
                    await recordings.renew(
                        connection,
                        self.tenant_id,
                        self.recording_id,
                        self.epoch,
                        lease_ms=self._limits.lease_ms,
                        settled_sample=self._pipeline.progress.settled_sample,
                        client_seen=self.client is not None,
                    )
                self._sink.doubtful = False
            except Unavailable as error:
                if isinstance(error, Fenced):
                    if self._ending:
                        return  # by our own end, perhaps; if not, the end finds out
                    raise
                log.warning("lease not renewed, the database is away", extra={"recording_id": self.recording_id})

    async def _fenced(self, error: Fenced) -> None:
        log.info("stream taken over", extra={"recording_id": self.recording_id})
        if self.client is None:
            return
        if await self._adopted():
            away = StreamEnded("This server was away, and another one went on: take the recording over.")
            self.client.stream_failed(self.stream_id, away, fatal=False, expected_offset=None)
        else:
            busy = RecordingBusy(error.message)  # trying again would take it back: two clients in a fight
            self.client.stream_failed(self.stream_id, busy, fatal=True, expected_offset=None)

    async def _adopted(self) -> bool:
        """Another node took the stream without a client: ours may have it back."""
        try:
            async with self._database.tenant_tx(self.tenant_id) as connection:
                return await recordings.adopted(connection, self.tenant_id, self.recording_id)
        except Unavailable:
            return False
