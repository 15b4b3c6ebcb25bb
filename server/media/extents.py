"""Which objects in shared storage are a recording's audio, told from their names alone.

An extent is an immutable object with bytes [start, end) of the encoded stream. Every epoch of a stream writes extents
without gaps from where it began; its name says the epoch, the byte at which that epoch began, and the epoch whose bytes
come before. So the newest epoch that wrote anything decides, and names the one before it, and so on back to byte 0:
that chain is the audio, and whatever a ghost (a node that was stopped and continued) still writes is not on it.

An epoch that has written nothing excludes nothing. That keeps what a node without its database took in after another
one adopted its stream: nobody else had bytes for that place, or they would be there.

Pure. Invariant: the chain is what the newest epoch that wrote found when it began, and what it wrote.
"""

import re
from collections.abc import Iterable

import msgspec

NAME = re.compile(r"(\d{13})-(\d{13})-(\d{1,9})-(\d{1,13})-(\d{1,9})-(\d{1,9})")
"""13 digits are a thousand times what twelve hours of the fastest encoding have, and sort by place."""


class Extent(msgspec.Struct, frozen=True):
    """`begin`: where its epoch began; `after`: the epoch whose bytes end there, 0 for none. `places`: records of places
    at which a container can be decoded from, behind the bytes. With `start` = `end` it only says that the epoch
    began."""

    start: int
    end: int
    epoch: int
    begin: int
    after: int
    places: int = 0

    @property
    def name(self) -> str:
        return f"{self.start:013}-{self.end:013}-{self.epoch}-{self.begin}-{self.after}-{self.places}"


class Piece(msgspec.Struct, frozen=True):
    """Bytes [start, end) of the stream, which are in `extent`."""

    start: int
    end: int
    extent: Extent


class Chain(msgspec.Struct, frozen=True):
    """What counts: `pieces` without gaps from byte 0 to `end`, and the newest epoch that wrote anything."""

    pieces: tuple[Piece, ...] = ()
    end: int = 0
    epoch: int = 0

    def within(self, start: int, end: int) -> list[Piece]:
        """The pieces of bytes [start, end), cut to them."""
        return [
            Piece(max(start, piece.start), min(end, piece.end), piece.extent)
            for piece in self.pieces
            if piece.start < end and start < piece.end
        ]


def parse(name: str) -> Extent | None:
    """None: no name of ours."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    extent = Extent(*map(int, found.groups()))
    sound = extent.after < extent.epoch and extent.begin <= extent.start <= extent.end
    return extent if sound else None


def chain(names: Iterable[str]) -> Chain:
    """The audio of a recording whose folder has these names."""
    epochs: dict[int, list[Extent]] = {}
    for extent in filter(None, map(parse, names)):
        epochs.setdefault(extent.epoch, []).append(extent)
    newest = max(epochs, default=0)
    spans: list[tuple[list[Extent], int]] = []
    """Newest first, each with the byte before which it counts."""
    epoch, upto = newest, 10**13
    while epoch in epochs:
        own = epochs[epoch]
        spans.append((own, upto))
        upto = min(upto, own[0].begin)
        epoch = own[0].after
    pieces: list[Piece] = []
    at = 0
    for own, upto in reversed(spans):
        for extent in sorted(own, key=lambda one: (one.start, -one.end)):
            if extent.start > at or at >= upto:
                break
            if extent.end > at:
                pieces.append(Piece(at, min(extent.end, upto), extent))
                at = pieces[-1].end
        if at < upto:
            break  # the newest epoch's end; or something is missing, and what comes behind it cannot be used
    return Chain(tuple(pieces), at, newest)
