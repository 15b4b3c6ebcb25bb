"""What a demuxer tells about a container: its head, places to begin at, packets.

    bytes -> Demuxer -> Opened, then (Place?, Packet)* -> streaming.audio.timeline

Policy: a demuxer reads what it needs, steps over everything else without holding it, and holds at most
`Limits.container_element_bytes_max` and a header of any element or page. Times are samples at 48 kHz on the
container's own clock, which may begin anywhere.

Boundary: bytes in, values out; no decoding. Invariant: the events depend on the bytes only, not on how they were split.
"""

from collections.abc import Iterator
from typing import Protocol

import msgspec

from streaming.audio.opus import OpusHead
from streaming.model import Part


class Opened(msgspec.Struct, frozen=True):
    """A container begins (the first one, or another in its place): its clock has nothing to do with the last one's."""

    head: OpusHead


class Place(msgspec.Struct, frozen=True):
    """The next packet is the first of a cluster or page at which decoding may begin (fields as in `model.Part`)."""

    offset: int
    container: int
    header_bytes: int

    @property
    def is_first(self) -> bool:
        """Whether its container's audio begins here."""
        return self.offset == self.container + self.header_bytes


class Packet(msgspec.Struct, frozen=True):
    """One Opus packet. `at`: when its first sample is due, None: right after the one before; `lost`: something is
    missing before it; `trim`: samples at its end that are no audio."""

    data: bytes
    at: int | None = None
    lost: bool = False
    trim: int = 0


Event = Opened | Place | Packet


class Demuxer(Protocol):
    """One container, and others that follow in its place without notice."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """What is complete with `data`. Raises `DecodeFailed` where the bytes cannot be this container; the caller
        takes all events before it feeds again, and nothing after an error."""
        ...

    def jump(self, part: Part) -> None:
        """The next byte stands at `part.offset` of the stream; what is unfinished is dropped. Raises `DecodeFailed`
        when no head came before."""
        ...

    def finish(self) -> Iterator[Event]:
        """Nothing more comes: packets that are complete although what they stand in is not."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes kept for later."""
        ...


def first_place(offset: int, container: int, head_end: int, header_bytes_max: int) -> tuple[int, bool]:
    """(header_bytes, usable) when the first cluster or page with audio of a container stands at `offset`.

    A header too long to be kept is cut after `head_end`, where everything that a decoder needs has come; then the
    place right behind it would not be known as the first one any more and is not usable. (0, False): no place is."""
    if offset - container <= header_bytes_max:
        return offset - container, True
    kept = head_end - container
    return (kept, False) if kept <= header_bytes_max else (0, False)
