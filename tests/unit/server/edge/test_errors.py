"""The one table of codes: complete, and the same on the wire and in HTTP."""

import inspect

import msgspec
import pytest

from auth import errors as auth_errors
from server.edge.errors import HTTP_STATUS, as_known, problem, wire_error
from streaming import errors
from streaming.errors import HistoryTruncated, InternalError, OffsetMismatch, Overloaded, ParlanceError

PROTOCOL_CODES = {
    "bad_request", "unauthenticated", "forbidden", "not_found", "unknown_event", "conflict", "offset_mismatch",
    "credit_exceeded", "stream_ended", "recording_busy", "overloaded", "rate_limited", "quota_exceeded",
    "payload_too_large", "unsupported_encoding", "unsupported_language", "unsupported_media", "decode_failed",
    "infected", "history_truncated", "slow_consumer", "draining", "unavailable", "internal",
}  # fmt: skip
"""PROTOCOL.md, Connect: fixed."""

LEAVES = [
    kind
    for module in (errors, auth_errors)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__ == module.__name__
]


def test_every_code_of_the_protocol_has_a_status_and_no_other_exists() -> None:
    assert set(HTTP_STATUS) == PROTOCOL_CODES
    assert all(400 <= status < 600 for status in HTTP_STATUS.values())


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_error_of_the_trees_has_a_known_code(kind: type[ParlanceError]) -> None:
    assert kind.code in HTTP_STATUS
    status = HTTP_STATUS[kind.code]
    if kind.retryable:
        assert status in (429, 503), "what may be repeated as it is says so in HTTP too"


def test_the_wire_says_what_the_error_knows_and_nothing_else() -> None:
    plain = msgspec.to_builtins(wire_error(errors.Conflict("No.")))
    assert plain == {"code": "conflict", "message": "No.", "retryable": False}
    mismatch = msgspec.to_builtins(wire_error(OffsetMismatch("Missing.", expected=7)))
    assert (mismatch["field"], mismatch["expected"]) == ("offset", 7)
    assert msgspec.to_builtins(wire_error(HistoryTruncated("Gone.", first_seq=4)))["first_seq"] == 4
    busy = msgspec.to_builtins(wire_error(Overloaded("Full.", retry_after_ms=1_500)))
    assert (busy["retryable"], busy["retry_after_ms"]) == (True, 1_500)


def test_http_problems() -> None:
    response = problem(Overloaded("Full.", retry_after_ms=1_500))
    assert (response.status, response.content_type) == (503, "application/problem+json")
    assert response.headers["Retry-After"] == "2"
    assert isinstance(response.body, bytes)
    body = msgspec.json.decode(response.body)
    assert (body["status"], body["code"], body["title"]) == (503, "overloaded", "Full.")
    assert problem(auth_errors.Unauthenticated("Who?")).headers["WWW-Authenticate"] == "Bearer"


def test_a_defect_tells_nothing_about_itself() -> None:
    known = as_known(KeyError("a secret"))
    assert isinstance(known, InternalError)
    assert "secret" not in known.message
    error = errors.NotFound("There is none.")
    assert as_known(error) is error
