"""What server and embedding worker say to each other, and how texts are cut into calls.

Policy: a call holds few short texts, so that a query waits for no more than one such call of the background.

Pure; imported by both sides, so it needs nothing but msgspec and numpy.
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from search.model import EmbedderInfo, Vector
from streaming.limits import LIMITS

CALL_TEXTS_MAX = 16
"""A forward pass of 16 short sentences takes 40 ms on one thread; longer passes gain nothing there (measured)."""
CALL_CHARS_MAX = 2_000
"""Of a call with several texts: 2,000 characters take 55 ms (measured)."""
TEXT_CHARS_MAX = LIMITS.embed_text_chars_max


class EmbedCall(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`as_query`: embed questions to passages, which some models do differently."""

    texts: list[str]
    as_query: bool


_calls: msgspec.msgpack.Decoder[EmbedCall] = msgspec.msgpack.Decoder(EmbedCall)
_infos: msgspec.msgpack.Decoder[EmbedderInfo] = msgspec.msgpack.Decoder(EmbedderInfo)


def encode_call(texts: Sequence[str], as_query: bool) -> bytes:
    return msgspec.msgpack.encode(EmbedCall([text[:TEXT_CHARS_MAX] for text in texts], as_query))


def decode_call(body: bytes) -> EmbedCall:
    """Raises `msgspec.DecodeError`."""
    return _calls.decode(body)


def encode_info(info: EmbedderInfo) -> bytes:
    return msgspec.msgpack.encode(info)


def decode_info(body: bytes) -> EmbedderInfo:
    """Raises `msgspec.DecodeError`."""
    return _infos.decode(body)


def pack_vectors(vectors: Sequence[Vector]) -> bytes:
    """Little-endian float32, one vector after the other."""
    return np.asarray(vectors, dtype="<f4").tobytes()


def unpack_vectors(body: bytes, count: int, dimensions: int) -> list[Vector]:
    """Raises ValueError unless `body` holds `count` finite vectors of `dimensions`."""
    values = np.frombuffer(body, dtype="<f4").astype(np.float32)
    if values.size != count * dimensions or not np.isfinite(values).all():
        raise ValueError(f"{count} vectors of {dimensions} dimensions were expected")
    return list(values.reshape(count, dimensions))


def in_calls(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in order, cut into calls."""
    start = chars = 0
    for at, text in enumerate(texts):
        size = min(len(text), TEXT_CHARS_MAX)
        if at > start and (at - start >= CALL_TEXTS_MAX or chars + size > CALL_CHARS_MAX):
            yield texts[start:at]
            start, chars = at, 0
        chars += size
    if start < len(texts):
        yield texts[start:]
