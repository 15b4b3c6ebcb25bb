"""Messages and framing between a server and its recogniser workers.

One frame (`streaming.protocol.frames`) holds one msgpack message, a tagged array. The same frames run between the
server and the worker's router and between the router and its decoder processes.

Policy: anything that is not exactly one of the messages is a `BadFrame`; it does not harm the frames behind it.

Pure: bytes in, values out.
"""

from typing import TypeAlias

import msgspec
import numpy as np

from streaming.limits import LIMITS
from streaming.model import Capabilities, Final, Hypothesis, UtteranceSpec
from streaming.ports import Pcm16
from streaming.protocol.frames import framed
from streaming.recogniser.cadence import Want

VERSION = 2
"""Goes up with every incompatible change; a server refuses a worker of another version."""

PCM_BYTES_MAX = LIMITS.worker_pcm_bytes_max
FRAME_BYTES_MAX = LIMITS.worker_frame_bytes_max
CONTEXT_BYTES_MAX = LIMITS.worker_context_bytes_max
LOAD_TENANTS_MAX = LIMITS.worker_load_tenants_max


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """`utterance` is the server's number for an utterance; it is never used twice on one link."""

    utterance: int


class Open(_Message, frozen=True):
    """Begin an utterance. The server has made sure that a place is free."""

    spec: UtteranceSpec


class Audio(_Message, frozen=True):
    """`pcm`: int16 little-endian mono 16 kHz, whole samples, at most `PCM_BYTES_MAX`. Answered by `Taken`."""

    pcm: bytes


class AskPartial(_Message, frozen=True):
    """Wants a `PartialReady` with the same `request`, over all audio sent before or more, or `Expired`. A worker may
    leave it unanswered once the utterance's final or discard is asked for."""

    request: int


class AskFinal(_Message, frozen=True):
    """End of utterance: wants a `FinalReady`, which frees the place."""


class Discard(_Message, frozen=True):
    """Give the utterance up. Answered by `Discarded`, which frees the place, also when nobody knows it."""


Request: TypeAlias = Open | Audio | AskPartial | AskFinal | Discard


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """First message of a worker: its model is loaded."""

    version: int
    capabilities: Capabilities


class Taken(_Message, frozen=True):
    """`n_bytes` more of the utterance's audio are decoded, or kept by a worker that decodes windows."""

    n_bytes: int


class PartialReady(_Message, frozen=True):
    request: int
    hypothesis: Hypothesis


class Expired(_Message, frozen=True):
    """Instead of `PartialReady`: it waited so long that newer audio is there. Asked for again it keeps its place."""

    request: int


class FinalReady(_Message, frozen=True):
    final: Final


class Discarded(_Message, frozen=True):
    pass


class Lost(_Message, frozen=True):
    """The utterance is gone and its place free: offer its audio again. `reason` never holds speech."""

    reason: str


class Begun(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """These are being decoded now and nothing else: when the worker dies, one of them may be what it died of. Sent, to
    its last byte, before the decode begins; the next one ends it."""

    utterances: tuple[int, ...]


class Load(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """How busy a shared model is, once a second. `busy`: share of the second that it decoded; `delay_ms`: until all
    that waits would be decoded; `each`: share of its time that one speaker wants; `wants`: shares of the tenants that
    want most; `hops`: between two partials, of tenants that are thinned out."""

    utterances: int = 0
    busy: float = 0.0
    delay_ms: int = 0
    each: float = 0.0
    wants: dict[str, Want] = {}
    hops: dict[str, float] = {}


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """A frame made no sense and was skipped."""

    reason: str


Answer: TypeAlias = Hello | Taken | PartialReady | Expired | FinalReady | Discarded | Lost | Begun | Load | Refused


class BadFrame(ValueError):
    """A payload is none of the expected messages. The text holds no payload."""


_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def payload(message: Request | Answer) -> bytes:
    """One message, encoded, without its header."""
    return _encoder.encode(message)


def frame(message: Request | Answer) -> bytes:
    """One message, ready to send. Raises ValueError above `FRAME_BYTES_MAX`."""
    return frame_payload(payload(message))


def frame_payload(encoded: bytes) -> bytes:
    """Put the header before an encoded message. Raises ValueError above `FRAME_BYTES_MAX`."""
    return framed(encoded, FRAME_BYTES_MAX)


def decode_request(encoded: bytes) -> Request:
    """Raises `BadFrame`."""
    try:
        message = _requests.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFrame(f"not a request ({len(encoded)} bytes, {type(error).__name__})") from None
    if isinstance(message, Audio) and (len(message.pcm) % 2 or len(message.pcm) > PCM_BYTES_MAX):
        raise BadFrame(f"audio of {len(message.pcm)} bytes")
    return message


def decode_answer(encoded: bytes) -> Answer:
    """Raises `BadFrame`."""
    try:
        return _answers.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFrame(f"not an answer ({len(encoded)} bytes, {type(error).__name__})") from None


def pcm_pieces(audio: Pcm16) -> list[bytes]:
    """Cut `audio` into the payloads of `Audio` messages."""
    data = np.ascontiguousarray(audio, dtype="<i2").tobytes()
    return [data[at : at + PCM_BYTES_MAX] for at in range(0, len(data), PCM_BYTES_MAX)]


def pcm_samples(pcm: bytes) -> Pcm16:
    """The samples of an `Audio` message; read-only, shares its memory."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.int16, copy=False)
