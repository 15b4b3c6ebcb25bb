"""How texts are cut into calls, and what crosses the socket."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.embed import (
    CALL_CHARS_MAX,
    CALL_TEXTS_MAX,
    TEXT_CHARS_MAX,
    decode_call,
    decode_info,
    encode_call,
    encode_info,
    in_calls,
    pack_vectors,
    unpack_vectors,
)
from search.model import EmbedderInfo
from streaming.limits import LIMITS


@given(st.lists(st.integers(0, 3 * CALL_CHARS_MAX).map("x".__mul__), max_size=60))
def test_calls_hold_all_texts_in_order_and_few_at_once(texts: list[str]) -> None:
    calls = list(in_calls(texts))
    assert [text for call in calls for text in call] == texts
    for call in calls:
        assert 1 <= len(call) <= CALL_TEXTS_MAX
        assert len(call) == 1 or sum(map(len, call)) <= CALL_CHARS_MAX


def test_short_texts_fill_their_calls() -> None:
    assert [len(call) for call in in_calls(["short"] * (2 * CALL_TEXTS_MAX + 1))] == [CALL_TEXTS_MAX, CALL_TEXTS_MAX, 1]


def test_a_call_crosses_with_its_texts_cut() -> None:
    call = decode_call(encode_call(["one", "🎉" * (2 * TEXT_CHARS_MAX)], as_query=True))
    assert call.texts == ["one", "🎉" * TEXT_CHARS_MAX]
    assert call.as_query
    assert len(encode_call(["🎉" * TEXT_CHARS_MAX] * CALL_TEXTS_MAX, as_query=False)) < LIMITS.call_bytes_max


def test_what_a_worker_tells_of_itself_crosses() -> None:
    info = EmbedderInfo("some/model", 384, 0.25)
    assert decode_info(encode_info(info)) == info


def test_vectors_cross_bit_for_bit() -> None:
    vectors = [np.array([0.1, -2.5e-8, 1.0], dtype=np.float32), np.zeros(3, dtype=np.float32)]
    back = unpack_vectors(pack_vectors(vectors), 2, 3)
    assert [(v.dtype, v.tolist()) for v in back] == [(np.float32, v.tolist()) for v in vectors]


@pytest.mark.parametrize("values", [[1.0], [1.0] * 7, [1.0, 2.0, 3.0, 4.0, 5.0, np.nan], [np.inf] * 6])
def test_what_are_no_vectors_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"2 vectors|buffer"):
        unpack_vectors(np.array(values, dtype="<f4").tobytes(), 2, 3)
    with pytest.raises(ValueError, match=r"2 vectors|buffer"):
        unpack_vectors(b"odd", 2, 3)
