"""Batches of hints: whole and ours, or nothing."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.rooms import hints
from server.rooms.hints import Broken, Fence, Hello, Said

KEY = hints.key_of("the secret of one installation")
DATA = {"segment_id": "sg1", "text": 'Grüße, "Welt" \\ \U0001f600', "words": [{"w": "x", "p": 0.5}], "none": None}
WHOLE = hints.sealed(
    KEY,
    "node a",
    [
        hints.said("t1", "recording:r", "transcript:partial", DATA),
        hints.encoded(Fence("t1", "r", 7)),
        hints.encoded(Hello()),
    ],
)


def test_what_is_sealed_is_opened() -> None:
    batch = hints.opened(KEY, WHOLE)
    said, fence, hello = batch.hints
    assert isinstance(said, Said)
    assert (said.tenant_id, said.room, said.event) == ("t1", "recording:r", "transcript:partial")
    assert hints.data_of(said) == DATA
    assert (batch.node, fence, hello) == ("node a", Fence("t1", "r", 7), Hello())


def test_a_nodes_own_batches_are_told_by_their_beginning() -> None:
    for node in ("node a", 'a "b" \\', "ü"):
        message = hints.sealed(KEY, node, [hints.encoded(Hello())])
        assert message.startswith(hints.envelope(node), hints.SEAL_CHARS)
        assert hints.opened(KEY, message).node == node


def test_an_installation_is_named_without_telling_its_secret() -> None:
    other = hints.key_of("the secret of another installation")
    assert hints.installation_of(KEY) == hints.installation_of(hints.key_of("the secret of one installation"))
    assert hints.installation_of(KEY) != hints.installation_of(other)
    assert KEY.hex()[:8] not in hints.installation_of(KEY)
    with pytest.raises(Broken):
        hints.opened(other, WHOLE)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_one_wrong_byte_breaks_it(place: int, change: int) -> None:
    wrong = bytearray(WHOLE)
    wrong[place] ^= change
    with pytest.raises(Broken):
        hints.opened(KEY, bytes(wrong))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(garbage: bytes) -> None:
    with pytest.raises(Broken):
        hints.opened(KEY, garbage)


@pytest.mark.parametrize(
    "body",
    [None, 3, [], ["node"], ["node", [["x"]]], ["node", [["s", "t"]]], ["node", [["f", "t", "r", "7"]]], [3, []]],
)
def test_another_versions_batches_are_refused(body: Any) -> None:
    encoded = msgspec.json.encode(body)
    with pytest.raises(Broken):
        hints.opened(KEY, hints._seal(KEY, encoded) + encoded)


def test_deep_data_is_refused() -> None:
    deep = b'["node",[["s","t","r","e",' + b"[" * 100_000 + b"]" * 100_000 + b"]]]"

    def take() -> None:
        for hint in hints.opened(KEY, hints._seal(KEY, deep) + deep).hints:
            assert isinstance(hint, Said)
            hints.data_of(hint)

    with pytest.raises(Broken):
        take()
