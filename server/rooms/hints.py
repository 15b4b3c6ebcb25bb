"""Hints on the wire between nodes: batches, sealed with a key that only the nodes of one installation have.

Policy: a batch is either whole and ours or nothing: the seal is broken by a corrupting network, by strangers who may
publish, and by other installations on the same Redis. Nobody outside can move a room's log.

`<32 hex digits><JSON>`, the JSON being `[node, [hint, ...]]`, each hint `[kind, ...]`.

Pure. Invariant: `opened` returns what `sealed` was given, or raises `Broken`.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec

SEAL_BYTES = 16
SEAL_CHARS = SEAL_BYTES * 2


class Broken(ValueError):
    """Not a batch of this installation."""


class Said(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """An event of a room, durable or not. `data`: the object as `Bus.emit` got it."""

    tenant_id: str
    room: str
    event: str
    data: msgspec.Raw


class Fence(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """The node took a stream over."""

    tenant_id: str
    recording_id: str
    epoch: int


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="h"):
    """The node is there."""


Hint = Said | Fence | Hello


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What one node says, in order."""

    node: str
    hints: list[Hint]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Batch).decode
_decode_data = msgspec.json.Decoder(dict[str, Any]).decode


def said(tenant_id: str, room: str, event: str, data: dict[str, Any]) -> bytes:
    """An encoded `Said`."""
    return _encode(("s", tenant_id, room, event, data))


def encoded(hint: Fence | Hello) -> bytes:
    return _encode(hint)


def data_of(hint: Said) -> dict[str, Any]:
    """Raises `Broken`."""
    try:
        return _decode_data(hint.data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Broken("no object") from error


def key_of(secret: str) -> bytes:
    """The seal's key: of the installation's secret, and good for nothing else."""
    return hashlib.blake2b(secret.encode(), person=b"parlance hints").digest()


def installation_of(key: bytes) -> str:
    """A name of the installation that tells nothing about its secret: for channels and keys on a shared Redis."""
    return hashlib.blake2b(key, digest_size=6).hexdigest()


def envelope(node: str) -> bytes:
    """How every batch of `node` begins, behind its seal."""
    return b"[" + _encode(node) + b",["


def sealed(key: bytes, node: str, hints: Sequence[bytes]) -> bytes:
    """One message of encoded hints."""
    body = envelope(node) + b",".join(hints) + b"]]"
    return _seal(key, body) + body


def opened(key: bytes, message: bytes) -> Batch:
    """Raises `Broken`."""
    seal, body = message[:SEAL_CHARS], message[SEAL_CHARS:]
    if not hmac.compare_digest(seal, _seal(key, body)):
        raise Broken("another seal")
    try:
        return _decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Broken("no batch") from error


def _seal(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, key=key, digest_size=SEAL_BYTES).hexdigest().encode()
