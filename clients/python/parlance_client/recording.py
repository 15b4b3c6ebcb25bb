"""A live stream: audio goes out as far as the server's credit, and survives a lost connection.

Policy: one task per stream sends out of the ring (`parlance_client.flow`). After a reconnect it takes the recording
over with `recording_id` and `resume_token` and continues at the offset that the server names. The same take-over heals
everything that the two sides disagree about (an offset, whether the stream has ended): its answer alone counts, and it
gives a new `stream_id`, so what is told late of the old one is known. A stream that somebody else took is not taken
back: `lost`. The states are those of `parlance_client.states`.

Boundary: the connection is `Link`'s. Invariant: the server gets every byte once, in order, or the stream fails loudly.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from parlance_client.bell import Bell
from parlance_client.errors import (
    AudioLost,
    CallFailed,
    CallTimeout,
    Disconnected,
    ParlanceClientError,
    RecordingFailed,
)
from parlance_client.flow import Flow
from parlance_client.link import Link
from parlance_client.model import Ack, StreamStarted
from parlance_client.states import Facts, StreamState, following

RING_BYTES = 64 * 1024 * 1024
"""11 min at 48 kHz mono s16le, 35 min at 16 kHz: a network that is gone for ten minutes costs nothing."""
CHUNK_BYTES_MAX = 64 * 1024
"""2 s at 16 kHz mono: a backlog leaves in few messages, and other messages still get in between."""
DISAGREEMENTS_MAX = 8
"""Take-overs because of a refusal, in a row, without one new byte received: the two sides will not agree any more."""
OFFSET_CODES = frozenset({"offset_mismatch", "credit_exceeded"})
"""Refusals of a chunk after which the following ones cannot fit either."""
GONE_CODES = frozenset({"stream_ended", "not_found"})
"""What is said of a stream that this connection does not have (any more)."""
RETRY_MS = 1_000
"""Wait after a retryable refusal that names no time of its own."""
PACKED_BYTES_PER_S = 4_000
"""Opus at 32 kbit/s: what a container is taken for before the server has measured it."""
LOG_PAGE = 200


class Host(Protocol):
    """What a stream needs of its client."""

    async def connected(self) -> Link:
        """The current connection, waiting for one. Raises the reason when there will be none any more."""
        ...

    def move(self, after_ms: int) -> None:
        """Leave the present connection for another one."""
        ...

    def register(self, stream_id: str, stream: "LiveStream") -> None: ...

    def unregister(self, stream_id: str) -> None: ...


class LiveStream:
    """Made by `Client.record`. Use `send`, `flush`, `pause`, `resume` and `stop` from one task."""

    def __init__(self, host: Host, link: Link, options: Mapping[str, Any], started: StreamStarted, flow: Flow) -> None:
        self._host = host
        self._link: Link | None = link
        self._options = dict(options)
        self._flow = flow
        self._bell = Bell()
        self._state = StreamState.LIVE
        self._failure: ParlanceClientError | None = None
        self._done = False
        self._paused = False
        self._stopping = False
        self._stop_sent = False
        self._disagreements = 0
        self._hold_ms = 0
        self.ack: Ack | None = None
        self._started(started)

    @property
    def recording_id(self) -> str:
        return self._info.recording_id

    @property
    def room(self) -> str:
        """The room in which this recording's captions appear. Starting a stream does not join it."""
        return f"recording:{self._info.recording_id}"

    @property
    def stream_id(self) -> str:
        """Changes with every take-over."""
        return self._info.stream_id

    @property
    def resume_token(self) -> str:
        return self._info.resume_token

    @property
    def engine(self) -> Any:
        """What the server says of the engine that recognises this stream."""
        return self._info.engine

    @property
    def state(self) -> StreamState:
        return self._state

    @property
    def error(self) -> ParlanceClientError | None:
        """Why the stream is `lost`."""
        return self._failure

    @property
    def offset(self) -> int:
        """All bytes that were given to `send`, counted from the beginning of the recording."""
        return self._flow.end

    @property
    def buffered_bytes(self) -> int:
        """Bytes in the ring: given to `send`, not yet durable at the server."""
        return self._flow.end - self._flow.base

    @property
    def waiting_ms(self) -> int:
        """Sound that was given to `send` and has not yet arrived at the server, as far as it said."""
        return self._ms(self._flow.end - self._flow.received)

    async def states(self) -> AsyncIterator[StreamState]:
        """The present state, then each change; ends after `stopped` or `lost`. Of changes that a slow reader missed it
        gets the last."""
        told: StreamState | None = None
        while told is None or not told.is_over:
            ticket = self._bell.ticket()
            if self._state is not told:
                told = self._state
                yield told
            else:
                await ticket.wait()

    async def send(self, audio: bytes) -> None:
        """Append audio of any length. Waits while the ring is full.

        Raises `RecordingFailed`, `AudioLost`, or why the client ended; ValueError after `stop`."""
        rest = memoryview(audio)
        while rest:
            ticket = self._bell.ticket()
            self._check_open()
            count = min(self._flow.room, len(rest))
            if count == 0:
                await ticket.wait()
                continue
            self._flow.append(rest[:count])
            rest = rest[count:]
            self._changed()

    async def flush(self, marker: str) -> None:
        """Ask for the final of everything sent so far; `transcript:flushed {marker}` follows it in the room."""
        self._check_open()
        await self._command("voice:recording:flush", {"marker": marker})

    async def pause(self) -> None:
        """Media time stands still until `resume`."""
        self._check_open()
        await self._command("voice:recording:pause", {})
        self._paused = True
        self._changed()

    async def resume(self) -> None:
        self._check_open()
        await self._command("voice:recording:resume", {})
        self._paused = False
        self._changed()

    async def stop(self) -> None:
        """Send what is left and end the stream. `recording:ended` follows in the room after the last final.

        Raises `RecordingFailed`, `AudioLost`, or why the client ended."""
        self._check_open()
        self._flow.finish()
        self._stopping = True
        self._changed()
        await self._command("voice:recording:stop", {}, last=True)
        self._finish(None)

    # --- called by the client, in the order of arrival ------------------------------------------------------------
    def on_ack(self, ack: Ack) -> None:
        if ack.received_bytes > self._flow.received:
            self._disagreements = 0
        self.ack = ack
        self._flow.on_ack(ack.received_bytes, ack.durable_bytes, ack.credit_bytes)
        self._changed()

    def on_error(self, body: Mapping[str, Any]) -> None:
        """A `voice:recording:error`: fatal ones end the stream; what was not taken leads to a take-over; others are
        only events."""
        wire = body.get("error")
        error = CallFailed.from_wire(wire if isinstance(wire, Mapping) else {})
        if body.get("fatal"):
            self._finish(_as_recording_failed(error))
        elif error.retryable or error.code in OFFSET_CODES or error.code in GONE_CODES:
            self._disagree(error)

    def on_disconnected(self) -> None:
        self._changed()

    def on_closed(self) -> None:
        """`run` is over, or never began: the client was closed, if nothing else ended the stream."""
        self._finish(Disconnected("The client was closed."))

    # --- the stream's task ----------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Send until the stream is stopped or failed. Run by the client."""
        try:
            while not self._done:
                link = await self._host.connected()
                try:
                    if link is not self._link:
                        await self._take_over(link)
                    await self._pump(link)
                except (Disconnected, CallTimeout):
                    continue
                except CallFailed as error:
                    if not error.retryable:
                        raise
                    await self._wait_out(error)
        except CallFailed as error:
            self._finish(_as_recording_failed(error))
        except ParlanceClientError as error:
            self._finish(error)

    async def _pump(self, link: Link) -> None:
        while link is self._link and not self._done:
            ticket = self._bell.ticket()
            if link.closed.is_set():
                raise Disconnected("The connection is closed.")
            chunk = self._flow.take(CHUNK_BYTES_MAX)
            if chunk is None:
                await ticket.wait()
                continue
            body = {"stream_id": self.stream_id, "offset": chunk.offset, "audio": chunk.audio}
            await link.emit("voice:recording:chunk", body)
            self._changed()

    async def _wait_out(self, error: CallFailed) -> None:
        wait_ms = error.retry_after_ms or RETRY_MS
        if error.code == "draining":
            self._host.move(wait_ms)
        await asyncio.sleep(wait_ms / 1_000 * (1 + random.random()))  # noqa: S311 - jitter

    async def _take_over(self, link: Link) -> None:
        if self._disagreements > DISAGREEMENTS_MAX:
            await self._leave(link)
            raise RecordingFailed("offset_mismatch", "The server and this client do not agree where the audio stands.")
        hold_ms, self._hold_ms = self._hold_ms, 0
        await asyncio.sleep(hold_ms / 1_000)
        self._host.unregister(self.stream_id)
        known = {"recording_id": self.recording_id, "resume_token": self.resume_token}

        def taken(reply: dict[str, Any]) -> None:
            self._started(msgspec.convert(reply, StreamStarted))

        try:
            await link.call("voice:recording:start", {**self._options, **known}, on_ack=taken)
        except CallFailed as error:
            if error.code != "stream_ended" or not self._stop_sent or not await self._was_stopped(link):
                raise
            self._finish(None)  # the stop had arrived, only its acknowledgement was lost
            return
        if self._failure is not None:
            await self._leave(link)
        elif self._paused and not self._stopping:
            await link.call("voice:recording:pause", {"stream_id": self.stream_id})
        self._link = link
        self._changed()

    def _started(self, started: StreamStarted) -> None:
        self._info = started
        self._host.register(started.stream_id, self)
        try:
            self._flow.start(started.offset, started.credit_bytes)
        except AudioLost as error:
            self._finish(error)

    async def _leave(self, link: Link) -> None:
        """End at the server what this client cannot continue: what it has is transcribed, and it waits for nobody."""
        with suppress(ParlanceClientError):
            await link.call("voice:recording:stop", {"stream_id": self.stream_id, "offset": self._info.offset})

    async def _was_stopped(self, link: Link) -> bool:
        """Whether the recording's log says that it was stopped, as we asked, and not ended otherwise."""
        head = await link.call("events:read", {"room": self.room, "after_seq": 2**53 - 1, "limit": 1})
        before = int(head["seq"])
        while before > 0:
            after = max(0, before - LOG_PAGE)
            page = await link.call("events:read", {"room": self.room, "after_seq": after, "limit": before - after})
            for event in page["events"]:
                if event.get("event") == "recording:ended":
                    return bool(event.get("reason") == "stopped")
            before = after
        return False

    def _disagree(self, error: CallFailed) -> None:
        """Take the stream over anew; at once, or, when the server only cannot take it now, a little later."""
        if self._link is None:
            return
        if error.retryable:
            self._hold_ms = error.retry_after_ms or RETRY_MS
        else:
            self._disagreements += 1
        self._host.unregister(self.stream_id)
        self._link = None
        self._changed()

    # --- commands -------------------------------------------------------------------------------------------------
    async def _command(self, event: str, extra: dict[str, Any], *, last: bool = False) -> None:
        """Send all audio, then the command; again after a lost connection, which may have swallowed it."""
        target = self._flow.sendable_end
        while not self._done:
            link = await self._sent(target)
            if link is None:
                break
            body = {"stream_id": self.stream_id, **extra}
            if last:
                body["offset"] = self._flow.end
                self._stop_sent = True
            try:
                await link.call(event, body)
            except (Disconnected, CallTimeout):
                continue
            except CallFailed as error:
                if error.code == "offset_mismatch" or error.code in GONE_CODES:
                    if link is self._link and body["stream_id"] == self.stream_id:
                        self._disagree(error)
                elif error.retryable:
                    await self._wait_out(error)
                else:
                    raise
                continue
            return
        if self._failure is not None:
            raise self._failure

    async def _sent(self, target: int) -> Link | None:
        """Wait until everything before `target` has left on a live connection; None when the stream ended."""
        while not self._done:
            ticket = self._bell.ticket()
            link = self._link
            if link is not None and not link.closed.is_set() and self._flow.sent >= target:
                return link
            await ticket.wait()
        return None

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._done or self._stopping:
            raise ValueError("the stream was stopped")

    # --- state ----------------------------------------------------------------------------------------------------
    def _changed(self) -> None:
        """Whatever changed: the state follows it, and everybody who waits looks for himself."""
        facts = Facts(
            connected=self._link is not None and not self._link.closed.is_set(),
            waiting_ms=self.waiting_ms,
            paused=self._paused,
            stopping=self._stopping,
            stopped=self._done and self._failure is None,
            lost=self._failure is not None,
        )
        self._state = following(self._state, facts)
        self._bell.ring()

    def _ms(self, count: int) -> int:
        rate: int | None = self._options.get("sample_rate")
        if rate is not None:
            return count * 1_000 // (rate * self._flow.frame_bytes)
        if self.ack is not None and self.ack.received_ms and self.ack.received_bytes:
            return count * self.ack.received_ms // self.ack.received_bytes
        return count * 1_000 // PACKED_BYTES_PER_S

    def _finish(self, failure: ParlanceClientError | None) -> None:
        if self._done:
            return
        self._done = True
        self._failure = self._told(failure) if failure is not None else None
        self._host.unregister(self.stream_id)
        self._changed()

    def _told(self, failure: ParlanceClientError) -> ParlanceClientError:
        """The failure, with what is safe and what may be lost."""
        if not isinstance(failure, RecordingFailed):
            return failure
        safe_s, unsafe_s = self._ms(self._flow.base) / 1_000, self._ms(self.buffered_bytes) / 1_000
        kept = f"Safe at the server: {safe_s:.1f} s. Given here and not known to be safe: {unsafe_s:.1f} s."
        return RecordingFailed(
            failure.code,
            f"{failure.message} {kept}",
            retry_after_ms=failure.retry_after_ms,
            field=failure.field,
            expected=failure.expected,
        )


def _as_recording_failed(error: CallFailed) -> RecordingFailed:
    if isinstance(error, RecordingFailed):
        return error
    return RecordingFailed(
        error.code, error.message, retry_after_ms=error.retry_after_ms, field=error.field, expected=error.expected
    )
