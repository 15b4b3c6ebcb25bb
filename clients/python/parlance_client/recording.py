"""A live stream: audio goes out as far as the server's credit, and survives a lost connection.

Policy: one task per stream sends out of the ring (`parlance_client.flow`). After a reconnect it takes the recording
over with `recording_id` and `resume_token` and continues at the offset that the server names. The same take-over
heals an offset that the two sides disagree about: it gives a new `stream_id`, so late errors of the old one are known.

Boundary: the connection is `Link`'s. Invariant: the server gets every byte once, in order, or the stream fails loudly.
"""

import asyncio
from collections.abc import Mapping
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

RING_BYTES = 8 * 1024 * 1024
"""4 min at 16 kHz mono s16le, 43 s at 48 kHz stereo: rides out a server's restart."""
CHUNK_BYTES_MAX = 64 * 1024
"""2 s at 16 kHz mono: a backlog leaves in few messages, and other messages still get in between."""
TAKEOVERS_MAX = 8
"""Take-overs in a row without one new byte received: the two sides will not agree any more."""
OFFSET_CODES = frozenset({"offset_mismatch", "credit_exceeded"})
"""Refusals of a chunk after which the following ones cannot fit either."""
RETRY_MS = 1_000
"""Wait after a retryable refusal that names no time of its own."""


class Host(Protocol):
    """What a stream needs of its client."""

    async def connected(self) -> Link:
        """The current connection, waiting for one. Raises the reason when there will be none any more."""
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
        self._failure: ParlanceClientError | None = None
        self._done = False
        self._paused = False
        self._stop_sent = False
        self._takeovers = 0
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
    def offset(self) -> int:
        """All bytes that were given to `send`, counted from the beginning of the recording."""
        return self._flow.end

    @property
    def buffered_bytes(self) -> int:
        """Bytes in the ring: given to `send`, not yet durable at the server."""
        return self._flow.end - self._flow.base

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
            self._bell.ring()

    async def flush(self, marker: str) -> None:
        """Ask for the final of everything sent so far; `transcript:flushed {marker}` follows it in the room."""
        self._check_open()
        await self._command("voice:recording:flush", {"marker": marker})

    async def pause(self) -> None:
        """Media time stands still until `resume`."""
        self._check_open()
        await self._command("voice:recording:pause", {})
        self._paused = True

    async def resume(self) -> None:
        self._check_open()
        await self._command("voice:recording:resume", {})
        self._paused = False

    async def stop(self) -> None:
        """Send what is left and end the stream. `recording:ended` follows in the room after the last final.

        Raises `RecordingFailed`, `AudioLost`, or why the client ended."""
        self._check_open()
        self._flow.finish()
        self._bell.ring()
        await self._command("voice:recording:stop", {}, last=True)
        self._finish(None)

    # --- called by the client, in the order of arrival ------------------------------------------------------------
    def on_ack(self, ack: Ack) -> None:
        if ack.received_bytes > self._flow.received:
            self._takeovers = 0
        self.ack = ack
        self._flow.on_ack(ack.received_bytes, ack.durable_bytes, ack.credit_bytes)
        self._bell.ring()

    def on_error(self, body: Mapping[str, Any]) -> None:
        """A `voice:recording:error`: fatal ones end the stream, a wrong offset leads to a take-over; others are only
        events."""
        error = body.get("error")
        if body.get("fatal"):
            self._finish(RecordingFailed.from_wire(error if isinstance(error, Mapping) else {}))
        elif isinstance(error, Mapping) and error.get("code") in OFFSET_CODES:
            self._disagree()

    def on_disconnected(self) -> None:
        self._bell.ring()

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
                    await asyncio.sleep((error.retry_after_ms or RETRY_MS) / 1_000)
        except CallFailed as error:
            if self._stop_sent and error.code == "stream_ended":
                # The stop had arrived, only its acknowledgement was lost.
                self._finish(None)
            else:
                self._finish(_as_recording_failed(error))
        except ParlanceClientError as error:
            self._finish(error)
        finally:
            self._finish(Disconnected("The client was closed."))

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
            self._bell.ring()

    async def _take_over(self, link: Link) -> None:
        if self._takeovers >= TAKEOVERS_MAX:
            raise RecordingFailed("offset_mismatch", "The server and this client do not agree where the audio stands.")
        self._takeovers += 1
        self._host.unregister(self.stream_id)
        known = {"recording_id": self.recording_id, "resume_token": self.resume_token}

        def taken(reply: dict[str, Any]) -> None:
            self._started(msgspec.convert(reply, StreamStarted))

        await link.call("voice:recording:start", {**self._options, **known}, on_ack=taken)
        if self._paused and not self._done:
            await link.call("voice:recording:pause", {"stream_id": self.stream_id})
        self._link = link
        self._bell.ring()

    def _started(self, started: StreamStarted) -> None:
        self._info = started
        self._host.register(started.stream_id, self)
        try:
            self._flow.start(started.offset, started.credit_bytes)
        except AudioLost as error:
            self._finish(error)

    def _disagree(self) -> None:
        self._host.unregister(self.stream_id)
        self._link = None
        self._bell.ring()

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
                if error.code == "offset_mismatch":
                    if link is self._link:
                        self._disagree()
                elif error.retryable:
                    await asyncio.sleep((error.retry_after_ms or RETRY_MS) / 1_000)
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
        if self._done:
            raise ValueError("the stream was stopped")

    def _finish(self, failure: ParlanceClientError | None) -> None:
        if self._done:
            return
        self._done = True
        self._failure = failure
        self._host.unregister(self.stream_id)
        self._bell.ring()


def _as_recording_failed(error: CallFailed) -> RecordingFailed:
    if isinstance(error, RecordingFailed):
        return error
    return RecordingFailed(
        error.code, error.message, retry_after_ms=error.retry_after_ms, field=error.field, expected=error.expected
    )
