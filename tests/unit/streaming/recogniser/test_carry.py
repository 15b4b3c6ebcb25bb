"""What an utterance leaves for the next one."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.limits import LIMITS
from streaming.recogniser.carry import NOTHING, TEXT_CHARS_MAX, VERSION, Carry, packed, unpacked


@given(st.text(max_size=TEXT_CHARS_MAX), st.sampled_from([None, "en", "de"]))
def test_there_and_back(text: str, language: str | None) -> None:
    carry = Carry(language=language, text=text)
    assert unpacked(packed(carry)) == carry


def test_only_the_end_of_a_long_text_with_whole_words() -> None:
    text = "launch " * 1_000 + "end"
    kept = unpacked(packed(Carry(text=text))).text
    assert text.endswith(kept)
    assert kept.startswith("launch")
    assert TEXT_CHARS_MAX - 10 < len(kept) <= TEXT_CHARS_MAX
    assert len(unpacked(packed(Carry(text="好" * 1_000))).text) == TEXT_CHARS_MAX
    assert len(packed(Carry(text="好" * 1_000))) < LIMITS.worker_context_bytes_max


@pytest.mark.parametrize(
    "context",
    [
        b"",
        b"nonsense",
        msgspec.msgpack.encode([VERSION + 1, "de", "what a later version keeps"]),
        msgspec.msgpack.encode([VERSION, "de", "x" * (TEXT_CHARS_MAX + 1)]),
        msgspec.msgpack.encode({"language": "de"}),
    ],
)
def test_anything_else_is_nothing(context: bytes) -> None:
    assert unpacked(context) == NOTHING
