"""The offset ledger against a client that repeats itself, and against a server that tells it late."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.errors import CreditExceeded, OffsetMismatch
from streaming.protocol.offsets import Accepted, OffsetLedger


def test_bytes_in_order_are_taken_whole() -> None:
    ledger = OffsetLedger(credit_bytes=100)
    assert ledger.accept(0, 30) == Accepted(skip=0, fresh=30)
    assert ledger.accept(30, 70) == Accepted(skip=0, fresh=70)
    assert (ledger.received, ledger.durable, ledger.processed, ledger.credit) == (100, 0, 0, 0)


@pytest.mark.parametrize(
    ("offset", "n_bytes", "accepted"),
    [(20, 30, Accepted(10, 20)), (0, 30, Accepted(30, 0)), (5, 10, Accepted(10, 0)), (30, 0, Accepted(0, 0))],
)
def test_what_is_here_already_is_skipped(offset: int, n_bytes: int, accepted: Accepted) -> None:
    ledger = OffsetLedger(30, credit_bytes=100)
    assert ledger.accept(offset, n_bytes) == accepted
    assert ledger.received == 30 + accepted.fresh


@pytest.mark.parametrize("n_bytes", [0, 1, 1_000])
def test_a_gap_is_refused_and_says_where_to_go_on(n_bytes: int) -> None:
    ledger = OffsetLedger(30, credit_bytes=100)
    with pytest.raises(OffsetMismatch) as refused:
        ledger.accept(31, n_bytes)
    assert refused.value.expected == 30
    assert ledger.received == 30


def test_more_than_the_credit_is_refused_as_a_whole() -> None:
    ledger = OffsetLedger(30, 10, credit_bytes=100)
    assert ledger.credit == 80
    with pytest.raises(CreditExceeded) as refused:
        ledger.accept(20, 91)
    assert refused.value.expected == 30
    assert ledger.accept(20, 90) == Accepted(10, 80)


def test_bytes_that_are_here_already_need_no_credit() -> None:
    ledger = OffsetLedger(100, credit_bytes=100)
    assert ledger.credit == 0
    assert ledger.accept(0, 100) == Accepted(100, 0)


def test_the_narrower_of_both_windows_rules() -> None:
    ledger = OffsetLedger(credit_bytes=100, backlog_bytes=250)
    ledger.accept(0, 100)
    ledger.advance_durable(100)
    assert ledger.credit == 100
    ledger.accept(100, 100)
    ledger.advance_durable(200)
    assert ledger.credit == 50
    ledger.advance_processed(30)
    assert ledger.credit == 80
    ledger.advance_processed(200)
    assert ledger.credit == 100


def test_a_stream_resumed_beyond_its_backlog_has_no_credit_not_a_negative_one() -> None:
    ledger = OffsetLedger(500, 500, 100, credit_bytes=100, backlog_bytes=200)
    assert ledger.credit == 0
    with pytest.raises(CreditExceeded):
        ledger.accept(500, 1)
    ledger.advance_processed(350)
    assert ledger.accept(500, 50) == Accepted(0, 50)


def test_late_reports_change_nothing() -> None:
    ledger = OffsetLedger(100, 50, 50, credit_bytes=100)
    ledger.advance_durable(40)
    ledger.advance_processed(40)
    assert (ledger.durable, ledger.processed) == (50, 50)


def test_the_silence_that_fills_the_last_frame_is_not_processed_audio() -> None:
    ledger = OffsetLedger(100, credit_bytes=100)
    ledger.advance_processed(640)
    assert ledger.processed == 100


def test_only_received_bytes_become_durable() -> None:
    ledger = OffsetLedger(100, credit_bytes=100)
    with pytest.raises(AssertionError, match="only received"):
        ledger.advance_durable(101)


@pytest.mark.parametrize("counters", [(10, 11, 0), (10, 0, 11), (10, -1, 0)])
def test_impossible_beginnings_are_refused(counters: tuple[int, int, int]) -> None:
    with pytest.raises(AssertionError, match="were received"):
        OffsetLedger(*counters, credit_bytes=100)


@pytest.mark.parametrize("offset", [99, 101])
def test_the_end_must_be_where_both_see_it(offset: int) -> None:
    ledger = OffsetLedger(100, credit_bytes=100)
    ledger.finish(100)
    with pytest.raises(OffsetMismatch) as refused:
        ledger.finish(offset)
    assert refused.value.expected == 100


moves = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(-80, 40), st.integers(0, 150)),
        st.tuples(st.just("sync"), st.integers(0, 400), st.just(0)),
        st.tuples(st.just("process"), st.integers(0, 400), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(moves=moves, backlog=st.none() | st.integers(1, 400))
def test_no_walk_loses_or_doubles_a_byte(moves: list[tuple[str, int, int]], backlog: int | None) -> None:
    """The client repeats, jumps and overruns as it likes; what is kept is always a beginning of what it meant."""
    source = bytes(i % 251 for i in range(20_000))
    ledger = OffsetLedger(credit_bytes=200, backlog_bytes=backlog)
    kept = bytearray()
    allowed = ledger.granted
    for kind, a, b in moves:
        if kind == "send":
            offset = max(0, ledger.received + a)
            if offset > len(kept):
                with pytest.raises(OffsetMismatch) as gap:
                    ledger.accept(offset, b)
                assert gap.value.expected == len(kept)
            elif offset + b > max(allowed, len(kept)):
                with pytest.raises(CreditExceeded) as overrun:
                    ledger.accept(offset, b)
                assert overrun.value.expected == len(kept)
            else:
                accepted = ledger.accept(offset, b)
                kept += source[offset : offset + b][accepted.skip :]
                assert accepted.skip + accepted.fresh == b
        elif kind == "sync":
            ledger.advance_durable(min(a, ledger.received))
        else:
            ledger.advance_processed(a)
        assert bytes(kept) == source[: len(kept)]
        assert ledger.received == len(kept) <= ledger.granted
        assert 0 <= ledger.credit == ledger.granted - ledger.received
        assert max(ledger.durable, ledger.processed) <= ledger.received
        assert ledger.granted >= allowed, "what was once allowed stays allowed"
        allowed = ledger.granted
