"""The error tree of the client.

ParlanceClientError
├── ConnectFailed     the server cannot be reached (`ConnectRefused` when it answered and said no)
│   ├── ConnectRefused   `code`, `message`, `retry_after_ms` of the refusal
│   └── TokenFailed      the source of tokens gave none, and the old one has ended
├── Disconnected      the connection went away under the operation; most operations may be tried again
├── CallTimeout       no acknowledgement in time
├── CallFailed        the server answered `ok: false`; `code`, `message`, `retryable`, ...
│   └── RecordingFailed  a fatal `voice:recording:error`, or a stream that could not be resumed
├── Superseded        a newer query in the same slot took this one's place
├── EventsLost        events were dropped or skipped; `room` is None when the reader itself was too slow
├── MatchesLost       what a subscription should have been told is gone; `after` is the cursor that it asked after
├── AudioLost         the server goes on where this client cannot; `start` to `end` are the bytes that are missing
└── JournalError      a bot's journal is in use, damaged, or was given a record that does not follow
"""

from collections.abc import Mapping
from typing import Any


class ParlanceClientError(Exception):
    """Base of all errors of this package. `retryable`: the same call may succeed later."""

    retryable: bool = False


class ConnectFailed(ParlanceClientError):
    retryable = True
    retry_after_ms: int | None = None


class ConnectRefused(ConnectFailed):
    """The server refused the connection. Codes as in the protocol; an expired token is `unauthenticated`."""

    RETRYABLE_CODES = frozenset(
        {"overloaded", "unavailable", "draining", "rate_limited", "quota_exceeded", "slow_consumer", "internal"}
    )
    """Quotas count connections that the server has not yet seen go, perhaps our own last one."""

    def __init__(self, code: str, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = code in self.RETRYABLE_CODES
        self.retry_after_ms = retry_after_ms


class TokenFailed(ConnectFailed):
    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class Disconnected(ParlanceClientError):
    retryable = True


class CallTimeout(ParlanceClientError):
    retryable = True


class CallFailed(ParlanceClientError):
    """An `error` object of the server. `field` names the culprit, `expected` is where to continue (offsets),
    `first_seq` the oldest event left (`history_truncated`)."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after_ms: int | None = None,
        field: str | None = None,
        expected: int | None = None,
        first_seq: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.field = field
        self.expected = expected
        self.first_seq = first_seq

    @classmethod
    def from_wire(cls, error: Mapping[str, Any]) -> "CallFailed":
        """From `{code, message, retryable, retry_after_ms?, field?, expected?, first_seq?}`."""
        return cls(
            str(error.get("code", "internal")),
            str(error.get("message", "The server gave no reason.")),
            retryable=bool(error.get("retryable", False)),
            retry_after_ms=error.get("retry_after_ms"),
            field=error.get("field"),
            expected=error.get("expected"),
            first_seq=error.get("first_seq"),
        )


class RecordingFailed(CallFailed):
    pass


class Superseded(ParlanceClientError):
    pass


class EventsLost(ParlanceClientError):
    """`room`: whose log could not be followed any further; `first_seq`: the oldest event it still has, if known."""

    def __init__(self, message: str, *, room: str | None = None, first_seq: int | None = None) -> None:
        super().__init__(message)
        self.room = room
        self.first_seq = first_seq


class MatchesLost(ParlanceClientError):
    """The server keeps events for a limited time, and what lies after the cursor `after` is not whole any more. A
    subscription without a cursor begins anew with what is said from then on."""

    def __init__(self, message: str, *, after: str | None = None) -> None:
        super().__init__(message)
        self.after = after


class AudioLost(ParlanceClientError):
    """The bytes [start, end) of the encoded stream are not here: freed before, or sent by somebody else."""

    def __init__(self, message: str, *, start: int, end: int) -> None:
        super().__init__(message)
        self.start = start
        self.end = end


class JournalError(ParlanceClientError):
    pass
