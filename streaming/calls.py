"""A worker program that answers calls, one after the other: what the workers of the models environment share.

The server sends `Call`s and gets one `Reply` or `Failure` for each, in order; before that the worker says `Ready` once,
when its model is loaded. What a call holds is between the caller and the worker (msgspec types of their own).

Boundary: one inherited unix socket; no event loop, no server code. The blocking loop ends with its socket, so nothing
outlives the server. Invariant: a failure of one call never ends the program; its text holds nothing that was said.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Callable

import msgspec

from streaming.errors import ParlanceError
from streaming.limits import KIB, LIMITS
from streaming.protocol.frames import FrameReader, Oversized, framed

VERSION = 1
FRAME_BYTES_MAX = LIMITS.call_bytes_max
READ_BYTES = 256 * KIB

log = logging.getLogger("parlance.worker")


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """`info`: what the worker can do, encoded by its own type."""

    version: int
    info: bytes


class Call(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    number: int
    body: bytes


class Reply(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    number: int
    body: bytes


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """The call cannot be answered, however often it is repeated. `reason` holds nothing that was said."""

    number: int
    reason: str


Answer = Ready | Reply | Failure

_encoder = msgspec.msgpack.Encoder()
_calls: msgspec.msgpack.Decoder[Call] = msgspec.msgpack.Decoder(Call)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def stand_back(nice: int, *, idle: bool = False) -> None:
    """Of this process, to whatever is live. `idle`: where there is SCHED_IDLE it gets only what nobody wants, and who
    wakes up does not wait for the rest of its time slice; it may then stand still for minutes."""
    os.nice(nice)
    if idle and hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def frame(message: Call | Answer) -> bytes:
    """One message, ready to send. Raises ValueError above `FRAME_BYTES_MAX`."""
    return framed(_encoder.encode(message), FRAME_BYTES_MAX)


def decode_answer(payload: bytes) -> Answer:
    """Raises `msgspec.DecodeError`."""
    return _answers.decode(payload)


def serve(sock: socket.socket, info: bytes, handle: Callable[[bytes], bytes]) -> None:
    """Say `Ready`, then answer calls until the server closes the socket.

    `handle` may raise `ParlanceError`, whose message becomes the failure's reason; of any other exception only the type
    is told, because its text may quote what it was given. A frame that makes no sense ends the program."""
    with contextlib.suppress(ConnectionError):  # the server is gone, and with it whoever wanted the answer
        sock.sendall(frame(Ready(VERSION, info)))
        reader = FrameReader(FRAME_BYTES_MAX)
        while data := sock.recv(READ_BYTES):
            for payload in reader.feed(data):
                if isinstance(payload, Oversized):
                    raise ValueError(f"a frame of {payload.n_bytes} bytes is too large")  # noqa: TRY004 - of size
                sock.sendall(_answer(_calls.decode(payload), handle))


def _answer(call: Call, handle: Callable[[bytes], bytes]) -> bytes:
    """The frame of the reply or failure; a reply that does not fit into a frame is a failure too."""
    try:
        return frame(Reply(call.number, handle(call.body)))
    except ParlanceError as error:
        return frame(Failure(call.number, error.message))
    except Exception as error:  # the message boundary: one call fails, the next is answered
        log.error("call failed: %s", type(error).__name__)  # noqa: TRY400 - no text of the error
        return frame(Failure(call.number, f"the worker failed ({type(error).__name__})"))
