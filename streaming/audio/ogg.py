"""Read Opus packets from Ogg as it arrives (RFC 3533, RFC 7845).

    bytes -> pages (checksum right) -> packets, continued over pages -> Opened, Place, Packet

Policy: the first Opus stream is taken, others beside it are ignored, and a chained one begins a new container in place.
Tags of any size are stepped over. A damaged page is a lost one: the search for the next page goes on for at most
`container_garbage_bytes_max`, and the granule position of the next page says how much is missing.

Pure. Invariant: held are at most one page and one packet, `container_element_bytes_max` each and a page header.
"""

import zlib
from collections.abc import Generator, Iterator

import msgspec

from streaming.audio.container import Event, Opened, Packet, Place, first_place
from streaming.audio.opus import broken, is_head, packet_samples, read_head
from streaming.audio.sniff import SNIFF_BYTES, name_of
from streaming.limits import LIMITS
from streaming.model import Part

MAGIC = b"OggS"
CONTINUED, BEGIN, END = 1, 2, 4
_HEADER_BYTES = 27
_TAGS = b"OpusTags"
_CODECS = {b"\x01vorbis": "Vorbis", b"\x7fFLAC": "FLAC", b"Speex": "Speex", b"\x80theora": "Theora"}

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ONES = 0xFFFFFFFF


def checksum(page: bytes) -> int:
    """CRC of a page whose checksum field is zero: polynomial 0x04C11DB7, most significant bit first, no inversion.

    zlib's is the same polynomial with the least significant bit first and inverted at both ends: all bits are turned
    round before and after, which is 60 times faster than a table in Python."""
    mirrored = zlib.crc32(page.translate(_REVERSED), _ONES) ^ _ONES
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_REVERSED), "big")


class _Page(msgspec.Struct, frozen=True):
    """`granule`: samples until the end of the last packet that ends here, None when none does; `pieces`: (bytes of a
    packet, whether it ends here)."""

    offset: int
    end: int
    flags: int
    granule: int | None
    serial: int
    sequence: int
    pieces: tuple[tuple[bytes, bool], ...]


class OggDemuxer:
    """A `Demuxer`. `offset`: where in the stream its first byte stands."""

    def __init__(self, offset: int = 0) -> None:
        self._buffer = bytearray()
        self._at = offset
        """Offset of the buffer's first byte."""
        self._begun = False
        self._garbage = 0
        """Bytes since the last good page that belong to none."""
        self._false_pages = 0
        self._begin(offset)

    def _begin(self, offset: int) -> None:
        """A container begins at `offset`."""
        self._container = offset
        self._heads = True
        """Only first pages of streams came so far."""
        self._found: list[str] = []
        self._serial: int | None = None
        self._sequence: int | None = None
        self._tags = True
        """The tags did not come to their end yet."""
        self._packet: bytearray | None = None
        """The packet under way; None when there is none or its beginning is lost."""
        self._granule: int | None = 0
        self._lost = False
        self._head_end = offset
        self._header: tuple[int, bool] | None = None

    @property
    def held_bytes(self) -> int:
        return len(self._buffer) + len(self._packet or b"")

    def feed(self, data: bytes) -> Iterator[Event]:
        self._buffer += data
        position = 0
        try:
            while True:
                position = self._sync(position)
                page = self._read_page(position)
                if page is None:
                    return
                if isinstance(page, int):
                    position += page
                    continue
                position += page.end - page.offset
                self._begun = True
                self._garbage = self._false_pages = 0
                yield from self._take(page)
        finally:
            del self._buffer[:position]
            self._at += position

    def jump(self, part: Part) -> None:
        if self._serial is None:
            raise broken("The header of this Ogg stream is missing.")
        self._buffer.clear()
        self._at = part.offset
        self._heads = self._tags = self._lost = False
        self._packet = self._sequence = self._granule = None
        self._header = (part.header_bytes, True)
        self._garbage = self._false_pages = 0

    def finish(self) -> Iterator[Event]:
        return iter(())

    def _sync(self, position: int) -> int:
        """The next place from `position` on where a page may begin."""
        buffer = self._buffer
        if MAGIC.startswith(bytes(buffer[position : position + len(MAGIC)])):
            return position
        if not self._begun:
            found = name_of(bytes(buffer[:SNIFF_BYTES]))
            raise broken(f"This is not an Ogg stream, but {found or 'something unknown'}.")
        at = buffer.find(MAGIC, position)
        if at < 0:
            at = max(position, len(buffer) - len(MAGIC) + 1)
            while not MAGIC.startswith(bytes(buffer[at:])):
                at += 1
        self._dropped(at - position)
        return at

    def _dropped(self, n_bytes: int) -> None:
        self._garbage += n_bytes
        if self._garbage > LIMITS.container_garbage_bytes_max:
            raise broken("This Ogg stream is damaged: there is no further page.")

    def _read_page(self, position: int) -> _Page | int | None:
        """The page at `position`; None when it is not complete; a number: so many bytes there are no page."""
        buffer = self._buffer
        if len(buffer) < position + _HEADER_BYTES:
            return None
        n_segments = buffer[position + 26]
        body = position + _HEADER_BYTES + n_segments
        if len(buffer) < body:
            return None
        table = bytes(buffer[body - n_segments : body])
        end = body + sum(table)
        if len(buffer) < end:
            return None
        page = bytes(buffer[position:end])
        told = int.from_bytes(page[22:26], "little")
        if page[4] != 0 or checksum(page[:22] + bytes(4) + page[26:]) != told:
            return self._false_page()
        granule = int.from_bytes(page[6:14], "little", signed=True)
        return _Page(
            offset=self._at + position,
            end=self._at + end,
            flags=page[5],
            granule=granule if granule >= 0 else None,
            serial=int.from_bytes(page[14:18], "little"),
            sequence=int.from_bytes(page[18:22], "little"),
            pieces=tuple(_pieces(table, page[_HEADER_BYTES + n_segments :])),
        )

    def _false_page(self) -> int:
        if not self._begun:
            raise broken("The first page of this Ogg stream is damaged.")
        self._false_pages += 1
        if self._false_pages > LIMITS.container_false_pages_max:
            raise broken("This Ogg stream is damaged: its pages have wrong checksums.")
        self._dropped(len(MAGIC))
        return len(MAGIC)

    def _take(self, page: _Page) -> Iterator[Event]:
        if page.flags & BEGIN:
            yield from self._stream_begins(page)
            return
        self._heads = False
        if self._serial is None:
            named = ", ".join(self._found) or "nothing known"
            raise broken(f"This Ogg stream has no Opus audio, but {named}.")
        if page.serial != self._serial:
            return
        if self._sequence is not None and page.sequence != (self._sequence + 1) & _ONES:
            self._packet, self._lost = None, True
        self._sequence = page.sequence
        in_tags = self._tags and (page.flags & CONTINUED or not page.pieces or page.pieces[0][0].startswith(_TAGS))
        packets = list(self._packets(page))
        if not in_tags:  # RFC 7845, 3: no audio stands on the page where the tags end
            yield from self._audio(page, packets)

    def _stream_begins(self, page: _Page) -> Iterator[Event]:
        if not self._heads:
            self._begin(page.offset)
        packet = page.pieces[0][0] if page.pieces else b""
        if self._serial is not None or not is_head(packet):
            known = next((name for mark, name in _CODECS.items() if packet.startswith(mark)), "something unknown")
            if known not in self._found:
                self._found.append(known)
            return
        head = read_head(packet)
        self._serial, self._sequence, self._head_end = page.serial, page.sequence, page.end
        yield Opened(head)

    def _packets(self, page: _Page) -> Generator[bytes, None, None]:
        """Audio packets that end on this page."""
        for i, (piece, ends) in enumerate(page.pieces):
            if i or not page.flags & CONTINUED:
                if self._packet is not None:  # a packet that was to be continued and is not
                    self._lost = True
                self._packet = bytearray()
                if self._tags and not piece.startswith(_TAGS):
                    self._tags = False
            if self._packet is None:
                continue
            if not self._tags:
                if len(self._packet) + len(piece) > LIMITS.container_element_bytes_max:
                    raise broken(f"An Ogg packet is larger than {LIMITS.container_element_bytes_max} bytes.")
                self._packet += piece
            if ends:
                packet, self._packet = bytes(self._packet), None
                if self._tags:
                    self._tags = False
                else:
                    yield packet

    def _audio(self, page: _Page, packets: list[bytes]) -> Iterator[Event]:
        if self._header is None:
            limit = LIMITS.container_header_bytes_max
            self._header = first_place(page.offset, self._container, self._head_end, limit)
            usable = self._header[1]
        else:
            usable = self._header[0] > 0
        if usable and page.pieces and not page.flags & (CONTINUED | END):
            yield Place(page.offset, self._container, self._header[0])
        if not packets:
            return
        samples = [packet_samples(packet) for packet in packets]
        trim, at = 0, None
        if page.granule is not None:
            if page.flags & END and self._granule is not None:
                trim = self._granule + sum(samples) - page.granule
            if not 0 < trim <= sum(samples):
                trim, at = 0, page.granule - sum(samples)
            self._granule = page.granule
        kept = sum(samples) - trim
        for packet, length in zip(packets, samples, strict=True):
            yield Packet(packet, at, lost=self._lost and at is not None, trim=max(0, length - kept))
            self._lost = self._lost and at is None
            kept, at = max(0, kept - length), None


def _pieces(table: bytes, body: bytes) -> Iterator[tuple[bytes, bool]]:
    """Segments of up to 255 bytes put together: one shorter than 255 ends a packet."""
    begin = end = 0
    for length in table:
        end += length
        if length < 255:
            yield body[begin:end], True
            begin = end
    if table and table[-1] == 255:
        yield body[begin:end], False
