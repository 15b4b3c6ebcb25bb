"""Bytes that may be asked for again, in blocks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parlance_client.recording import RING_BYTES
from parlance_client.ring import BLOCK_BYTES, Ring


def test_ten_minutes_of_48_khz_fit_in_no_more_memory_than_their_blocks() -> None:
    ring, chunk = Ring(RING_BYTES), bytes(9_600)
    for _ in range(6_000):
        ring.append(chunk)
    assert ring.end == 57_600_000
    assert ring.held_bytes <= 57_600_000 + 2 * BLOCK_BYTES
    ring.free(57_000_000)
    assert ring.held_bytes <= 600_000 + 2 * BLOCK_BYTES


def test_what_is_not_held_is_refused() -> None:
    ring = Ring(10, origin=1_000)
    ring.append(b"abcdefgh")
    with pytest.raises(ValueError, match="full"):
        ring.append(b"ijk")
    assert (ring.start, ring.end, ring.room) == (1_000, 1_008, 2)
    ring.free(1_003)
    ring.free(1_001)
    ring.free(9_999)
    assert (ring.start, ring.room) == (1_008, 10)
    for start, end in ((1_007, 1_008), (1_008, 1_009), (1_009, 1_008)):
        with pytest.raises(ValueError, match="outside"):
            ring.read(start, end)


@settings(deadline=None)
@given(
    st.integers(0, 3 * BLOCK_BYTES),
    st.lists(st.integers(0, 2 * BLOCK_BYTES), max_size=6),
    st.lists(st.integers(0, 9 * BLOCK_BYTES), max_size=4),
)
def test_it_holds_what_was_appended_and_not_freed(origin: int, appended: list[int], freed: list[int]) -> None:
    ring, whole = Ring(16 * BLOCK_BYTES, origin=origin), bytearray()
    for count, offset in zip(appended, [*freed, *[0] * len(appended)], strict=False):
        piece = bytes((len(whole) + i) % 251 for i in range(0, count, 1_000)) * 3
        ring.append(piece)
        whole += piece
        ring.free(offset)
        assert ring.read(ring.start, ring.end) == whole[ring.start - origin :]
        assert ring.held_bytes <= ring.end - ring.start + 2 * BLOCK_BYTES
