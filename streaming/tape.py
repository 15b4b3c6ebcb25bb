"""The encoded audio of one live stream as a pipeline reads it: bytes in order, and marks between them.

The kept audio log is the queue: nothing is held in memory between the socket and the recogniser, a takeover begins by
reading the same log, and audio that arrives while recognition stands still only waits on disk. Marks (flush, pause,
stop) are bound to the byte offset at which they were given, so their order against the audio is exact.

Invariant: `next` returns every byte from the start position once and in order, and every mark at its offset.
"""

from collections import deque
from enum import Enum

import msgspec

from streaming.aio import Signal
from streaming.errors import Conflict, Unavailable
from streaming.limits import Limits
from streaming.ports import AudioReader


class MarkKind(Enum):
    FLUSH = "flush"
    PAUSE = "pause"
    STOP = "stop"


class Mark(msgspec.Struct, frozen=True):
    """`at`: byte offset in the encoded stream before which all audio belongs to what the mark ends."""

    kind: MarkKind
    at: int
    marker: str = ""


class Tape:
    """One writer (`extend`, `mark`) and one reader (`next`). `position` may stand behind `end`: then `next` waits."""

    def __init__(
        self, reader: AudioReader, *, position: int, end: int, limits: Limits, piece_bytes: int | None = None
    ) -> None:
        """`piece_bytes`: the most that `next` returns at once, when not `Limits.read_bytes`."""
        self._reader = reader
        self._position = position
        self._end = end
        self._marks: deque[Mark] = deque()
        self._limits = limits
        self._piece_bytes = piece_bytes or limits.read_bytes
        self._signal = Signal()

    @property
    def position(self) -> int:
        """Bytes handed out so far, counted from the start of the recording."""
        return self._position

    @property
    def end(self) -> int:
        return self._end

    def extend(self, end: int) -> None:
        """Bytes up to `end` are in the log."""
        assert end >= self._end, "the log never shrinks"
        self._end = end
        self._signal.set()

    def mark(self, kind: MarkKind, marker: str = "") -> None:
        """Put a mark behind all bytes so far. Raises `Conflict` when too many marks wait; a stop, which comes once,
        always finds its place, or a stream with a full tape could neither fail nor be abandoned."""
        if kind is not MarkKind.STOP and len(self._marks) >= self._limits.flush_marks_max:
            raise Conflict("Too many flush and pause requests wait in this stream.", field="marker")
        self._marks.append(Mark(kind=kind, at=self._end, marker=marker))
        self._signal.set()

    async def next(self) -> bytes | Mark:
        """The next bytes (at most `piece_bytes`) or the next mark; waits for one. Raises `Unavailable` when the log
        does not give back what it took."""
        while True:
            if self._marks and self._marks[0].at <= self._position:
                return self._marks.popleft()
            upto = min(self._end, self._position + self._piece_bytes)
            if self._marks:
                upto = min(upto, self._marks[0].at)
            if upto > self._position:
                data = self._reader.read_range(self._position, upto)
                if not data:
                    raise Unavailable("The kept audio cannot be read back.")
                self._position += len(data)
                return data
            await self._signal.wait()
