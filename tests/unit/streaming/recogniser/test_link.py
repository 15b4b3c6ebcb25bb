"""Frames and messages between server and worker."""

import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.limits import LIMITS
from streaming.model import Capabilities, Final, Hypothesis, UtteranceSpec, Word
from streaming.protocol.frames import FrameReader, Oversized
from streaming.recogniser import link
from streaming.recogniser.cadence import Want

SPEC = UtteranceSpec("u", 16_000, "en", ("parlance",), b"context")
HYPOTHESIS = Hypothesis((Word("word", 10, 20, 0.5),), 32_000)
REQUESTS: list[link.Request] = [
    link.Open(1, SPEC),
    link.Audio(1, b"\x01\x00"),
    link.AskPartial(1, 7),
    link.AskFinal(1),
    link.Discard(1),
]
ANSWERS: list[link.Answer] = [
    link.Hello(link.VERSION, Capabilities("n", "m", ("en",), 300, 2, 1, "speech", 4, 30_000, "notice")),
    link.Taken(1, 2),
    link.PartialReady(1, 7, HYPOTHESIS),
    link.Expired(1, 7),
    link.Begun((1, 2)),
    link.Load(3, 0.5, 120, 0.1, {"tenant": Want(0.2, 0.1)}, {"tenant": 2}),
    link.FinalReady(1, Final(HYPOTHESIS, b"context")),
    link.Discarded(1),
    link.Lost(1, "reason"),
    link.Refused("reason"),
]


def test_every_message_survives_the_link() -> None:
    assert [link.decode_request(link.payload(m)) for m in REQUESTS] == REQUESTS
    assert [link.decode_answer(link.payload(m)) for m in ANSWERS] == ANSWERS


@pytest.mark.parametrize("message", REQUESTS, ids=lambda m: type(m).__name__)
def test_a_request_is_no_answer(message: link.Request) -> None:
    with pytest.raises(link.BadFrame):
        link.decode_answer(link.payload(message))


@given(st.binary(max_size=200))
def test_garbage_is_a_bad_frame_or_a_message(data: bytes) -> None:
    for decode in (link.decode_request, link.decode_answer):
        with contextlib.suppress(link.BadFrame):
            assert isinstance(decode(data), link.Request | link.Answer)


@pytest.mark.parametrize("pcm", [b"\x00", b"\x00" * 3, b"\x00" * (link.PCM_BYTES_MAX + 2)])
def test_audio_is_whole_samples_of_bounded_length(pcm: bytes) -> None:
    with pytest.raises(link.BadFrame):
        link.decode_request(msgspec.msgpack.encode(link.Audio(1, pcm)))


def test_the_largest_open_fits() -> None:
    vocabulary = tuple("\U0001f600" * LIMITS.vocabulary_term_chars_max for _ in range(LIMITS.vocabulary_terms_max))
    spec = UtteranceSpec("u" * LIMITS.id_chars_max, 0, "en", vocabulary, b"c" * link.CONTEXT_BYTES_MAX)
    assert len(link.frame(link.Open(2**63 - 1, spec))) <= link.FRAME_BYTES_MAX
    with pytest.raises(ValueError, match="does not fit"):
        link.frame(link.Open(1, UtteranceSpec("u", 0, "en", (), b"c" * link.FRAME_BYTES_MAX)))


@given(st.data())
def test_frames_come_out_whole_however_they_arrive(data: st.DataObject) -> None:
    payloads = data.draw(st.lists(st.binary(max_size=50), max_size=8))
    stream = b"".join(link.frame_payload(p) for p in payloads)
    reader, out, at = FrameReader(link.FRAME_BYTES_MAX), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 30))
        out += reader.feed(stream[at : at + size])
        at += size
    assert out == payloads


@given(st.integers(1, 1_000))
def test_an_oversized_frame_is_skipped_and_the_next_one_read(piece: int) -> None:
    n_bytes = link.FRAME_BYTES_MAX + 1
    stream = n_bytes.to_bytes(4, "little") + b"x" * n_bytes + link.frame_payload(b"next")
    reader, out = FrameReader(link.FRAME_BYTES_MAX), []
    step = piece * 997
    for at in range(0, len(stream), step):
        out += reader.feed(stream[at : at + step])
    assert out == [Oversized(n_bytes), b"next"]


def test_pieces_put_together_are_the_audio() -> None:
    audio = np.arange(-40_000, 40_000, dtype=np.int32).astype(np.int16)[::2]
    pieces = link.pcm_pieces(audio)
    assert max(map(len, pieces)) <= link.PCM_BYTES_MAX
    assert np.array_equal(np.concatenate([link.pcm_samples(p) for p in pieces]), audio)
    assert link.pcm_pieces(np.empty(0, np.int16)) == []
