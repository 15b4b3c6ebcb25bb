"""The one error tree of live speech; every leaf carries the `code` that a client sees.

    ParlanceError
    ├── BadRequest            bad_request          malformed input; `field` names the culprit
    ├── NotFound              not_found            absent, or not the caller's to see
    ├── Conflict              conflict             the state does not allow it
    │   └── Outdated                               made from an old revision; `expected` is the present one
    ├── OffsetMismatch        offset_mismatch      `expected` says where to continue
    ├── CreditExceeded        credit_exceeded      more bytes than the granted credit
    ├── StreamEnded           stream_ended         the stream is over for good
    ├── RecordingBusy         recording_busy       somebody else streams into it
    ├── QuotaExceeded         quota_exceeded       a limit of the account or the socket
    ├── PayloadTooLarge       payload_too_large
    ├── UnsupportedEncoding   unsupported_encoding
    ├── UnsupportedLanguage   unsupported_language
    ├── UnsupportedMedia      unsupported_media    a kind of file that is not taken here
    ├── DecodeFailed          decode_failed        the audio is not what it claims to be
    ├── HistoryTruncated      history_truncated    `first_seq` is the oldest event left
    ├── RateLimited           rate_limited         retryable, with `retry_after_ms`: too much, too fast
    ├── Overloaded            overloaded           retryable, with `retry_after_ms`
    ├── Unavailable           unavailable          retryable: a part is missing for now
    │   ├── WorkerLost                             a recogniser process died; its audio is offered again
    │   └── Fenced                                 another node owns the stream now
    └── InternalError         internal             a defect; details are in the log only

Pure: values only. `server.edge.errors` maps codes to the wire and to HTTP.
"""

from typing import ClassVar


class ParlanceError(Exception):
    """Base of all errors a client may see. `message` is one sentence, without speech or tokens."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, field: str | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_ms = retry_after_ms


class BadRequest(ParlanceError):
    code = "bad_request"


class NotFound(ParlanceError):
    code = "not_found"


class Conflict(ParlanceError):
    code = "conflict"


class Outdated(Conflict):
    """`expected`: the revision that is there now."""

    def __init__(self, message: str, *, expected: int) -> None:
        super().__init__(message, field="rev")
        self.expected = expected


class OffsetMismatch(ParlanceError):
    """`expected`: the byte offset in the encoded stream at which the server goes on."""

    code = "offset_mismatch"

    def __init__(self, message: str, *, expected: int) -> None:
        super().__init__(message, field="offset")
        self.expected = expected


class CreditExceeded(ParlanceError):
    code = "credit_exceeded"

    def __init__(self, message: str, *, expected: int) -> None:
        super().__init__(message, field="offset")
        self.expected = expected


class StreamEnded(ParlanceError):
    code = "stream_ended"


class RecordingBusy(ParlanceError):
    code = "recording_busy"


class QuotaExceeded(ParlanceError):
    code = "quota_exceeded"


class PayloadTooLarge(ParlanceError):
    code = "payload_too_large"


class UnsupportedEncoding(ParlanceError):
    code = "unsupported_encoding"


class UnsupportedLanguage(ParlanceError):
    code = "unsupported_language"


class UnsupportedMedia(ParlanceError):
    code = "unsupported_media"


class DecodeFailed(ParlanceError):
    code = "decode_failed"


class HistoryTruncated(ParlanceError):
    code = "history_truncated"

    def __init__(self, message: str, *, first_seq: int) -> None:
        super().__init__(message, field="after_seq")
        self.first_seq = first_seq


class RateLimited(ParlanceError):
    code = "rate_limited"
    retryable = True


class Overloaded(ParlanceError):
    code = "overloaded"
    retryable = True


class Draining(ParlanceError):
    """This process is about to stop: another one, or its successor, takes what it refuses."""

    code = "draining"
    retryable = True


class Unavailable(ParlanceError):
    code = "unavailable"
    retryable = True


class WorkerLost(Unavailable):
    """`suspect`: the caller's audio may be what the worker died of; False when it was busy with something else."""

    def __init__(self, message: str, *, retry_after_ms: int | None = None, suspect: bool = True) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.suspect = suspect


class Fenced(Unavailable):
    pass


class InternalError(ParlanceError):
    code = "internal"
