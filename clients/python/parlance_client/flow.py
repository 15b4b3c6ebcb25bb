"""What a live stream may send, must keep, and can resume.

Audio waits in one ring from the first byte that the server has not yet called durable. It is sent while the server's
credit lasts (`received_bytes + credit_bytes`); only `durable_bytes` frees it. After a reconnect sending goes on at the
offset that the server names, out of the ring: also further back than before, when a node took bytes with it that were
not durable.

Pure. Invariants: base <= sent <= reach <= end, end - base <= ring_bytes_max; no byte is given out beyond the credit.
"""

import msgspec

from parlance_client.errors import AudioLost
from parlance_client.ring import Ring


class Chunk(msgspec.Struct, frozen=True):
    """`offset`: where `audio` begins in the encoded stream, in bytes."""

    offset: int
    audio: bytes


class Flow:
    """The byte accounting of one stream.

    `frame_bytes`: chunks end on a multiple of this (one sample of all channels), except the very last;
    `origin`: the first byte of this flow, when it continues a stream that another process began."""

    def __init__(self, ring_bytes_max: int, *, frame_bytes: int = 1, origin: int = 0) -> None:
        if ring_bytes_max < frame_bytes or frame_bytes < 1:
            raise ValueError("the ring must hold at least one frame")
        self._frame_bytes = frame_bytes
        self._ring = Ring(ring_bytes_max, origin=origin)
        self._sent = origin
        self._reach = origin
        self._limit = origin
        self._received = origin
        self._finished = False

    @property
    def frame_bytes(self) -> int:
        return self._frame_bytes

    @property
    def end(self) -> int:
        """All bytes that were ever appended."""
        return self._ring.end

    @property
    def base(self) -> int:
        """The first byte that is still kept: everything before it is durable."""
        return self._ring.start

    @property
    def sent(self) -> int:
        return self._sent

    @property
    def received(self) -> int:
        """Bytes that the server has, as of its last acknowledgement."""
        return self._received

    @property
    def sendable_end(self) -> int:
        """Where sending ends for now: a frame that is not yet complete waits for its rest."""
        return self.end if self._finished else self.end - self.end % self._frame_bytes

    @property
    def room(self) -> int:
        """Bytes that can be appended now."""
        return self._ring.room

    def append(self, audio: bytes | bytearray | memoryview) -> None:
        """Add audio at the end. Raises ValueError beyond `room`: the caller waits or cuts it up first."""
        self._ring.append(audio)

    def finish(self) -> None:
        """No more audio comes: a last, partial frame is sent as well."""
        self._finished = True

    def start(self, offset: int, credit_bytes: int) -> None:
        """A stream begins or was resumed: the server has `offset` bytes and takes `credit_bytes` more.

        Raises `AudioLost` when the server goes on before what is kept, or has bytes that never left from here."""
        if offset < self.base:
            raise AudioLost(
                f"The server goes on at byte {offset}, but bytes {offset} to {self.base} are not kept here any more: "
                "it had called them safe.",
                start=offset,
                end=self.base,
            )
        if offset > self._reach:
            raise AudioLost(
                f"The server has {offset} bytes of this stream, but only {self._reach} left from here: somebody else "
                "sent the rest.",
                start=self._reach,
                end=offset,
            )
        self._sent = self._received = offset
        self._limit = offset + credit_bytes

    def on_ack(self, received_bytes: int, durable_bytes: int, credit_bytes: int) -> None:
        """Take an acknowledgement. Figures beyond what was sent are cut down to it: they can free nothing more."""
        self._received = min(received_bytes, self._sent)
        self._limit = self._received + credit_bytes
        self._ring.free(min(durable_bytes, self._sent))

    def take(self, bytes_max: int) -> Chunk | None:
        """The next chunk to send, at most `bytes_max` long, or None while credit or audio is missing."""
        end = min(self.sendable_end, self._limit, self._sent + bytes_max)
        if end < self.sendable_end:
            end -= end % self._frame_bytes
        if end <= self._sent:
            return None
        chunk = Chunk(self._sent, self._ring.read(self._sent, end))
        self._sent = end
        self._reach = max(self._reach, end)
        return chunk
