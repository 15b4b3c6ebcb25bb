"""The relations between limits are checked where they are set."""

import msgspec
import pytest

from streaming.limits import LIMITS, Limits, check


def test_every_limit_is_a_positive_count_of_bytes_milliseconds_or_things() -> None:
    for name, value in msgspec.structs.asdict(LIMITS).items():
        assert isinstance(value, int), name
        assert value > 0, name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chunk_bytes_max", LIMITS.message_bytes_max),
        ("ack_interval_ms", 1_001),
        ("lease_renew_ms", LIMITS.lease_ms // 2),
        ("credit_ms", LIMITS.sync_interval_ms),
        ("backlog_ms_max", LIMITS.abandon_ms - 1),
        ("seal_interval_ms", LIMITS.credit_ms // 5 + 1),
        ("extent_bytes_max", LIMITS.merge_bytes + 1),
        ("storage_answer_ms_max", LIMITS.lease_ms),
        ("storage_reads_max", LIMITS.storage_calls_max),
        ("worker_inflight_bytes_max", LIMITS.utterance_ms_max * 32 - 1),
        ("replay_page_events", LIMITS.events_read_max + 1),
        ("events_read_max", LIMITS.join_buffer_events_max + 1),
    ],
)
def test_limits_that_contradict_each_other_are_refused(name: str, value: int) -> None:
    with pytest.raises(AssertionError):
        check(msgspec.structs.replace(LIMITS, **{name: value}))


def test_what_protocol_and_design_fix() -> None:
    assert (LIMITS.streams_per_socket_max, LIMITS.events_read_max, LIMITS.abandon_ms) == (4, 1_000, 15 * 60_000)
    assert (LIMITS.handler_ms_max, LIMITS.sync_interval_ms, LIMITS.commit_batch_ms) == (2_000, 1_000, 5)


def test_an_unknown_limit_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"chunk_bites_max": 1}, Limits)
