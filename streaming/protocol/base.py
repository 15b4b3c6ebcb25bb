"""What all messages are made of: the two kinds, bounded ids and numbers, and the error object.

Pure.
"""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from streaming.limits import LIMITS

Id = Annotated[str, Meta(min_length=1, max_length=LIMITS.id_chars_max)]
Offset = Annotated[int, Meta(ge=0, le=2**53)]
Seq = Annotated[int, Meta(ge=0, le=2**53)]
RoomName = Annotated[str, Meta(min_length=3, max_length=LIMITS.id_chars_max + 16)]


class ClientMessage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message from a client: fields not named here are refused."""


class ServerMessage(Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A message from the server."""


class WireError(ServerMessage, frozen=True):
    """The `error` object of acknowledgements and events."""

    code: str
    message: str
    retryable: bool = False
    retry_after_ms: int | UnsetType = UNSET
    field: str | UnsetType = UNSET
    expected: int | UnsetType = UNSET
    first_seq: int | UnsetType = UNSET
