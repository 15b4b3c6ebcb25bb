"""The byte accounting of a live stream: credit, ring, resume."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parlance_client.errors import AudioLost
from parlance_client.flow import Chunk, Flow


def flow(ring: int = 100, credit: int = 1_000, frame_bytes: int = 1) -> Flow:
    made = Flow(ring, frame_bytes=frame_bytes)
    made.start(0, credit)
    return made


def test_audio_leaves_in_order_and_in_bounded_chunks() -> None:
    f = flow()
    f.append(b"abcdef")
    assert [f.take(4), f.take(4), f.take(4)] == [Chunk(0, b"abcd"), Chunk(4, b"ef"), None]


def test_nothing_leaves_beyond_the_credit() -> None:
    f = flow(credit=4)
    f.append(b"abcdefgh")
    assert f.take(100) == Chunk(0, b"abcd")
    assert f.take(100) is None
    f.on_ack(received_bytes=4, durable_bytes=0, credit_bytes=2)
    assert f.take(100) == Chunk(4, b"ef")
    f.on_ack(received_bytes=6, durable_bytes=0, credit_bytes=0)
    assert f.take(100) is None


def test_only_durable_bytes_free_the_ring() -> None:
    f = flow(ring=8)
    f.append(b"abcdefgh")
    f.take(100)
    f.on_ack(received_bytes=8, durable_bytes=0, credit_bytes=100)
    assert f.room == 0
    with pytest.raises(ValueError, match="full"):
        f.append(b"i")
    f.on_ack(received_bytes=8, durable_bytes=3, credit_bytes=100)
    assert (f.room, f.base, f.end) == (3, 3, 8)


def test_an_ack_beyond_what_was_sent_frees_nothing_more() -> None:
    f = flow(credit=2)
    f.append(b"abcd")
    f.take(100)
    f.on_ack(received_bytes=99, durable_bytes=99, credit_bytes=0)
    assert (f.received, f.base) == (2, 2)
    assert f.take(100) is None


def test_after_a_reconnect_it_continues_where_the_server_says() -> None:
    f = flow()
    f.append(b"abcdefgh")
    f.take(100)
    f.on_ack(received_bytes=8, durable_bytes=2, credit_bytes=100)
    f.start(2, 3)
    assert f.take(100) == Chunk(2, b"cde")


@pytest.mark.parametrize(("offset", "missing", "said"), [(1, (1, 2), "bytes 1 to 2"), (7, (6, 7), "somebody else")])
def test_audio_that_is_not_kept_or_never_left_cannot_be_resumed(offset: int, missing: Any, said: str) -> None:
    f = flow(credit=6)
    f.append(b"abcdefgh")
    f.take(100)
    f.on_ack(received_bytes=6, durable_bytes=2, credit_bytes=0)
    with pytest.raises(AudioLost, match=said) as caught:
        f.start(offset, 100)
    assert (caught.value.start, caught.value.end) == missing


def test_a_server_may_know_of_bytes_that_left_before_it_went_back() -> None:
    f = flow()
    f.append(b"abcdefgh")
    f.take(100)
    f.start(3, 100)
    f.start(8, 100)
    assert f.take(100) is None


def test_chunks_end_on_whole_frames_until_the_end() -> None:
    f = flow(frame_bytes=4)
    f.append(b"abcdef")
    assert f.sendable_end == 4
    assert f.take(100) == Chunk(0, b"abcd")
    assert f.take(100) is None
    f.append(b"ghij")
    assert f.take(3) is None, "a chunk limit below a frame"
    assert f.take(7) == Chunk(4, b"efgh")
    f.finish()
    assert f.take(100) == Chunk(8, b"ij")


def test_a_finished_stream_cut_by_credit_still_ends_on_frames() -> None:
    f = flow(credit=6, frame_bytes=4)
    f.append(b"abcdefghi")
    f.finish()
    assert f.take(100) == Chunk(0, b"abcd")
    f.on_ack(received_bytes=4, durable_bytes=4, credit_bytes=100)
    assert f.take(100) == Chunk(4, b"efghi")


def test_a_flow_may_begin_in_the_middle_of_a_stream() -> None:
    f = Flow(100, frame_bytes=2, origin=1_000)
    f.start(1_000, 10)
    f.append(b"abcd")
    assert f.take(100) == Chunk(1_000, b"abcd")


@pytest.mark.parametrize(("ring", "frame"), [(0, 1), (3, 4), (4, 0)])
def test_a_ring_holds_at_least_a_frame(ring: int, frame: int) -> None:
    with pytest.raises(ValueError, match="frame"):
        Flow(ring, frame_bytes=frame)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 12)),
        st.tuples(st.just("take"), st.integers(1, 9)),
        st.tuples(st.just("ack"), st.integers(0, 20)),
        st.tuples(st.just("lose"), st.integers(0, 20)),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([1, 2, 4]))
def test_a_server_gets_every_byte_once_whatever_happens(steps: list[tuple[str, int]], frame_bytes: int) -> None:
    f = Flow(24, frame_bytes=frame_bytes)
    f.start(0, 16)
    given_bytes, server, durable, limit = bytearray(), bytearray(), 0, 16
    for step, n in steps:
        if step == "append":
            piece = bytes((len(given_bytes) + i) % 251 for i in range(min(n, f.room)))
            f.append(piece)
            given_bytes += piece
        elif step == "take" and (chunk := f.take(n)) is not None:
            assert chunk.offset == len(server)
            assert chunk.offset + len(chunk.audio) <= limit
            server += chunk.audio
        elif step == "ack":
            durable, limit = min(len(server), durable + n), len(server) + n
            f.on_ack(len(server), durable, n)
        elif step == "lose":
            del server[durable:]
            limit = len(server) + n
            f.start(len(server), n)
        assert f.base <= f.sent <= f.end <= f.base + 24
    f.finish()
    while len(server) < len(given_bytes):
        f.on_ack(len(server), len(server), 100)
        chunk = f.take(100)
        assert chunk is not None
        server += chunk.audio
    assert server == given_bytes
