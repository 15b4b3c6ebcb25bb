"""One table from error codes to the wire and to HTTP; the only place that knows both trees."""

import msgspec
from aiohttp import web

from auth.errors import AuthError
from streaming.errors import InternalError, ParlanceError
from streaming.protocol.messages import WireError

AnyError = ParlanceError | AuthError

HTTP_STATUS: dict[str, int] = {
    "bad_request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "unknown_event": 404,
    "conflict": 409,
    "offset_mismatch": 409,
    "recording_busy": 409,
    "stream_ended": 410,
    "history_truncated": 410,
    "payload_too_large": 413,
    "unsupported_media": 415,
    "unsupported_encoding": 415,
    "unsupported_language": 422,
    "decode_failed": 422,
    "infected": 422,
    "credit_exceeded": 429,
    "rate_limited": 429,
    "quota_exceeded": 429,
    "slow_consumer": 429,
    "internal": 500,
    "overloaded": 503,
    "draining": 503,
    "unavailable": 503,
}


def wire_error(error: AnyError) -> WireError:
    """The `error` object of acknowledgements and events."""
    return WireError(
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        retry_after_ms=msgspec.UNSET if error.retry_after_ms is None else error.retry_after_ms,
        field=msgspec.UNSET if error.field is None else error.field,
        expected=getattr(error, "expected", msgspec.UNSET),
        first_seq=getattr(error, "first_seq", msgspec.UNSET),
    )


def problem(error: AnyError) -> web.Response:
    """RFC 9457 problem details."""
    status = HTTP_STATUS[error.code]
    body = {
        "type": "about:blank",
        "title": error.message,
        "status": status,
        **msgspec.to_builtins(wire_error(error)),
    }
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/problem+json", headers=headers
    )


def as_known(error: Exception) -> AnyError:
    """Errors of the trees pass; anything else is a defect that the client learns nothing about."""
    if isinstance(error, ParlanceError | AuthError):
        return error
    return InternalError("Something went wrong on the server.")
