"""Where a byte stream stands: received, durable, processed, and how much more the client may send.

The same machine serves live audio and uploads. Bytes are counted from the start of the encoded stream, across all
connections. A client that resumes may send again what it sent before (that is skipped), never leave a gap, and never
send past what was granted:

    granted = min(durable + credit_bytes, processed + backlog_bytes)        credit = granted - received

Both terms only grow, so what a client was once allowed to send stays allowed, however old the acknowledgement is that
it acts upon.

Pure: a small mutable ledger, one per stream, used from one task. Invariants: `durable` and `processed` never exceed
`received`; none of the three ever decreases; each byte is taken exactly once.
"""

import msgspec

from streaming.errors import CreditExceeded, OffsetMismatch


class Accepted(msgspec.Struct, frozen=True):
    """What to do with an accepted chunk: `skip` its first bytes, which are here already, and keep the `fresh` rest."""

    skip: int
    fresh: int


class OffsetLedger:
    """Counters of one encoded stream, in bytes."""

    def __init__(
        self,
        received: int = 0,
        durable: int = 0,
        processed: int = 0,
        *,
        credit_bytes: int,
        backlog_bytes: int | None = None,
    ) -> None:
        """`credit_bytes`: may be received beyond what is durable; `backlog_bytes`: may be received beyond what is
        processed, None where nobody waits for the processing (uploads)."""
        assert 0 <= durable <= received, "durable bytes were received"
        assert 0 <= processed <= received, "processed bytes were received"
        assert credit_bytes > 0, "without credit nothing ever moves"
        assert backlog_bytes is None or backlog_bytes > 0, "without room for a backlog nothing ever moves"
        self._received = received
        self._durable = durable
        self._processed = processed
        self._credit_bytes = credit_bytes
        self._backlog_bytes = backlog_bytes

    @property
    def received(self) -> int:
        """Bytes taken so far: the next new byte has this offset."""
        return self._received

    @property
    def durable(self) -> int:
        """Bytes that survive a crash; the client may forget them."""
        return self._durable

    @property
    def processed(self) -> int:
        """Bytes that recognition has heard."""
        return self._processed

    @property
    def granted(self) -> int:
        """The absolute offset up to which the client may send. Never decreases."""
        granted = self._durable + self._credit_bytes
        if self._backlog_bytes is not None:
            granted = min(granted, self._processed + self._backlog_bytes)
        return granted

    @property
    def credit(self) -> int:
        """Bytes that may still be sent beyond `received`; 0 when the stream was resumed with more than is granted."""
        return max(0, self.granted - self._received)

    def accept(self, offset: int, n_bytes: int) -> Accepted:
        """Take a chunk of `n_bytes` that begins at `offset`; all of it or nothing.

        Raises `OffsetMismatch` when bytes are missing before it, `CreditExceeded` when it ends past what is granted;
        both say with `expected` where to go on, and leave the ledger as it was."""
        assert offset >= 0, "messages.Offset refuses negative offsets"
        assert n_bytes >= 0
        if offset > self._received:
            raise OffsetMismatch("Bytes are missing before this chunk.", expected=self._received)
        skip = min(n_bytes, self._received - offset)
        fresh = n_bytes - skip
        if fresh > self.credit:
            raise CreditExceeded("The chunk ends beyond the granted credit.", expected=self._received)
        self._received += fresh
        return Accepted(skip=skip, fresh=fresh)

    def finish(self, offset: int) -> None:
        """The client says that `offset` bytes are all there are. Raises `OffsetMismatch` unless all of them, and no
        more, are here."""
        if offset != self._received:
            raise OffsetMismatch("The stream does not end where the client says it does.", expected=self._received)

    def advance_durable(self, to: int) -> None:
        """Bytes before `to` are on disk. A report that is older than the last one changes nothing."""
        assert to <= self._received, "only received bytes become durable"
        self._durable = max(self._durable, to)

    def advance_processed(self, to: int) -> None:
        """Bytes before `to` went through recognition. A report that is older than the last one changes nothing; what
        lies past the end is the silence that fills the last frame, and counts as the end."""
        self._processed = max(self._processed, min(to, self._received))
