"""Read Opus packets from WebM as it arrives: from browsers (sizes unknown) and from files (everything else allowed).

    TOP --Segment--> SEGMENT --Cluster--> CLUSTER --BlockGroup--> GROUP        back at an element's end

Policy: the first audio track with Opus is taken. Only the EBML header, Info, Tracks and one block are ever held; cues,
tags, attachments, other tracks and unknown elements are stepped over. Elements of unknown size are allowed where
browsers send them: segments and clusters. An EBML header between clusters begins a new container in place.
Compressed or encrypted tracks are refused: inflating what a stranger sends is not a microphone's business.

Pure. Elements as in RFC 8794 (EBML) and RFC 9559 (Matroska). Invariant: `held_bytes` stays below
`container_element_bytes_max` plus one header.
"""

from collections.abc import Generator, Iterator
from enum import Enum, auto

import msgspec

from streaming.audio.container import Event, Opened, Packet, Place, first_place
from streaming.audio.ebml import Element, children, read_element, uint, varint
from streaming.audio.opus import OpusHead, broken, make_head, packet_samples, read_head
from streaming.audio.sniff import SNIFF_BYTES, name_of
from streaming.limits import LIMITS
from streaming.model import OPUS_SAMPLE_RATE, Part

EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
INFO, TRACKS, SEEK_HEAD, CUES = 0x1549A966, 0x1654AE6B, 0x114D9B74, 0x1C53BB6B
CHAPTERS, TAGS, ATTACHMENTS = 0x1043A770, 0x1254C367, 0x1941A469
TIMESTAMP, SIMPLE_BLOCK, BLOCK_GROUP = 0xE7, 0xA3, 0xA0
BLOCK, DISCARD_PADDING = 0xA1, 0x75A2
DOC_TYPE, TIMESTAMP_SCALE = 0x4282, 0x2AD7B1
TRACK_ENTRY, TRACK_NUMBER, CODEC_ID, CODEC_PRIVATE, CODEC_DELAY = 0xAE, 0xD7, 0x86, 0x63A2, 0x56AA
CONTENT_ENCODINGS, AUDIO, CHANNELS = 0x6D80, 0xE1, 0x9F

_TOP_OF_SEGMENT = frozenset({EBML, SEGMENT, CLUSTER, INFO, TRACKS, SEEK_HEAD, CUES, CHAPTERS, TAGS, ATTACHMENTS})
"""Elements that cannot stand in a cluster: one of them ends a cluster of unknown size."""

_EBML_MARK = EBML.to_bytes(4, "big")
_NS = 1_000_000_000
_NAMED_CODECS_MAX = 4


class Level(Enum):
    TOP = auto()
    SEGMENT = auto()
    CLUSTER = auto()
    GROUP = auto()


_PARENT = {Level.SEGMENT: Level.TOP, Level.CLUSTER: Level.SEGMENT, Level.GROUP: Level.CLUSTER}
_ENTERED = {SEGMENT: Level.SEGMENT, CLUSTER: Level.CLUSTER, BLOCK_GROUP: Level.GROUP}
_KNOWN = {
    Level.TOP: frozenset({SEGMENT}),
    Level.SEGMENT: frozenset({INFO, TRACKS, CLUSTER}),
    Level.CLUSTER: frozenset({TIMESTAMP, SIMPLE_BLOCK, BLOCK_GROUP}),
    Level.GROUP: frozenset({BLOCK, DISCARD_PADDING}),
}
"""What is read at each level; anything else is stepped over."""


class _Track(msgspec.Struct, frozen=True):
    number: int
    head: OpusHead


class WebmDemuxer:
    """A `Demuxer`. `offset`: where in the stream its first byte stands."""

    def __init__(self, offset: int = 0) -> None:
        self._buffer = bytearray()
        self._at = offset
        """Offset of the buffer's first byte."""
        self._skip = 0
        self._level = Level.TOP
        self._ends: dict[Level, int | None] = {}
        self._begin(offset)

    def _begin(self, offset: int) -> None:
        """A container begins at `offset`."""
        self._container = offset
        self._opened = False
        self._scale_ns = 1_000_000
        self._track: _Track | None = None
        self._head_end = offset
        self._header: tuple[int, bool] | None = None
        self._cluster = offset
        self._cluster_time = 0
        self._placed = True
        """The cluster's place has been told, or it has none."""
        self._group: list[Packet] = []
        self._level = Level.TOP
        self._ends = {}

    @property
    def held_bytes(self) -> int:
        return len(self._buffer) + sum(len(packet.data) for packet in self._group)

    def feed(self, data: bytes) -> Iterator[Event]:
        if self._skip and not self._buffer:  # most of a big element never gets into the buffer
            step = min(self._skip, len(data))
            self._skip -= step
            self._at += step
            data = data[step:]
        self._buffer += data
        position = 0
        try:
            while True:
                step = min(self._skip, len(self._buffer) - position)
                self._skip -= step
                position += step
                if self._skip:
                    return
                yield from self._leave(self._at + position)
                self._check_beginning()
                element = read_element(self._buffer, position)
                if element is None:
                    return
                used = yield from self._element(element, position)
                if used == 0:
                    return
                position += used
        finally:
            del self._buffer[:position]
            self._at += position

    def jump(self, part: Part) -> None:
        if self._track is None:
            raise broken("The header of this WebM stream is missing.")
        self._buffer.clear()
        self._group.clear()
        self._skip = 0
        self._at = part.offset
        self._level = Level.SEGMENT
        self._ends = {Level.SEGMENT: self._ends.get(Level.SEGMENT)}
        self._header = (part.header_bytes, True)

    def finish(self) -> Iterator[Event]:
        yield from self._close_group()

    def _check_beginning(self) -> None:
        if not self._opened and not _EBML_MARK.startswith(bytes(self._buffer[: len(_EBML_MARK)])):
            found = name_of(bytes(self._buffer[:SNIFF_BYTES]))
            raise broken(f"This is not a WebM stream, but {found or 'something unknown'}.")

    def _leave(self, at: int) -> Iterator[Event]:
        """Go back to the element around those that end here."""
        while self._level is not Level.TOP and self._ends.get(self._level) == at:
            yield from self._up()

    def _up(self) -> Iterator[Event]:
        if self._level is Level.GROUP:
            yield from self._close_group()
        self._level = _PARENT[self._level]

    def _close_group(self) -> Iterator[Event]:
        group, self._group = self._group, []
        for packet in group:
            yield from self._place()
            yield packet

    def _element(self, element: Element, position: int) -> Generator[Event, None, int]:
        """Deal with the element at `position`; returns the bytes used up, 0 when more have to come."""
        at = self._at + position
        if element.id == EBML:
            return self._ebml(element, position)
        if element.id in _TOP_OF_SEGMENT:
            while self._level in (Level.CLUSTER, Level.GROUP):
                yield from self._up()
        end = None if element.size is None else at + element.header + element.size
        self._check_end(element, end)
        if element.id not in _KNOWN[self._level]:
            if element.id in (SEGMENT, CLUSTER):
                raise broken("The segments and clusters of this WebM stream are not in order.")
            self._skip = element.size or 0
            return element.header
        if element.id in _ENTERED:
            self._enter(element, at, end)
            return element.header
        assert element.size is not None, "checked with its end"
        if element.id in (SIMPLE_BLOCK, BLOCK):
            return (yield from self._block(element.id, element.size, element.header, position))
        content = self._content(element.size, element.header, position)
        if content is None:
            return 0
        yield from self._value(element.id, content, at + element.header + element.size)
        return element.header + element.size

    def _check_end(self, element: Element, end: int | None) -> None:
        if end is None:
            if element.id not in (SEGMENT, CLUSTER):
                raise broken("A WebM element has no size.")
            return
        around = self._ends.get(self._level) if self._level is not Level.TOP else None
        if around is not None and end > around:
            raise broken("A WebM element is larger than the one around it.")
        if element.id not in (SEGMENT, CLUSTER) and (element.size or 0) > LIMITS.container_skip_bytes_max:
            raise broken("A WebM element claims to be larger than a recording can be.")

    def _enter(self, element: Element, at: int, end: int | None) -> None:
        self._level = _ENTERED[element.id]
        self._ends[self._level] = end
        if element.id == CLUSTER:
            if self._track is None:
                raise broken("This WebM stream has no tracks before its first cluster.")
            self._cluster, self._cluster_time, self._placed = at, 0, False
            if self._header is None:
                limit = LIMITS.container_header_bytes_max
                self._header = first_place(at, self._container, self._head_end, limit)
                self._placed = not self._header[1]

    def _ebml(self, element: Element, position: int) -> int:
        if element.size is None:
            raise broken("The EBML header has no size.")
        content = self._content(element.size, element.header, position)
        if content is None:
            return 0
        if self._level is not Level.TOP or self._opened:
            self._begin(self._at + position)
        self._opened = True
        doc_type = dict(children(content)).get(DOC_TYPE, b"matroska").rstrip(b"\0")
        if doc_type not in (b"webm", b"matroska"):
            raise broken("This EBML stream is neither WebM nor Matroska.")
        return element.header + element.size

    def _content(self, size: int, header: int, position: int) -> bytes | None:
        """The whole content of an element that is held, None while it is not complete."""
        if size > LIMITS.container_element_bytes_max:
            raise broken(f"A WebM header or block is larger than {LIMITS.container_element_bytes_max} bytes.")
        begin = position + header
        if len(self._buffer) < begin + size:
            return None
        return bytes(self._buffer[begin : begin + size])

    def _value(self, ident: int, content: bytes, end: int) -> Iterator[Event]:
        if ident == TIMESTAMP:
            self._cluster_time = uint(content)
        elif ident == INFO:
            self._scale_ns = uint(dict(children(content)).get(TIMESTAMP_SCALE, b"\x0f\x42\x40"))
            if not 0 < self._scale_ns <= _NS:
                raise broken("The WebM timestamp scale makes no sense.")
        elif ident == TRACKS and self._track is None:
            self._track = _opus_track(content)
            self._head_end = end
            yield Opened(self._track.head)
        elif ident == DISCARD_PADDING and self._group:
            padding = int.from_bytes(content[:8], "big", signed=True) * OPUS_SAMPLE_RATE // _NS
            last = self._group[-1]
            self._group[-1] = Packet(last.data, last.at, trim=min(max(0, padding), packet_samples(last.data)))

    def _block(self, ident: int, size: int, header: int, position: int) -> Generator[Event, None, int]:
        """Packets of a block of our track; returns bytes used. Blocks of other tracks are stepped over."""
        assert self._track is not None, "clusters come after the tracks"
        begin = position + header
        peek = self._buffer[begin : begin + min(size, 8)]
        number = varint(peek, 0)
        if number is None and len(peek) < min(size, 8):
            return 0
        if number is None or number[0] != self._track.number:
            self._skip = size
            return header
        content = self._content(size, header, position)
        if content is None:
            return 0
        packets = self._packets(content, number[1])
        if ident == BLOCK:
            yield from self._close_group()  # a second block in a group is none of ours, but it is complete
            self._group = packets
        else:
            for packet in packets:
                yield from self._place()
                yield packet
        return header + size

    def _place(self) -> Iterator[Event]:
        if not self._placed and self._header is not None and self._header[0]:
            yield Place(self._cluster, self._container, self._header[0])
        self._placed = True

    def _packets(self, block: bytes, at: int) -> list[Packet]:
        if len(block) < at + 3:
            raise broken("A WebM block is too short.")
        relative = int.from_bytes(block[at : at + 2], "big", signed=True)
        time = (self._cluster_time + relative) * self._scale_ns * OPUS_SAMPLE_RATE // _NS
        lacing = block[at + 2] >> 1 & 3
        frames = _unlaced(block[at + 3 :], lacing) if lacing else [block[at + 3 :]]
        return [Packet(frame, time if i == 0 else None) for i, frame in enumerate(frames)]


def _opus_track(tracks: bytes) -> _Track:
    """The first track with Opus. Raises `DecodeFailed` when there is none, or when it cannot be read."""
    found = []
    for ident, content in children(tracks):
        if ident != TRACK_ENTRY:
            continue
        entry = dict(children(content))
        codec = entry.get(CODEC_ID, b"").rstrip(b"\0")
        if codec != b"A_OPUS":
            found.append("".join(c for c in codec.decode("ascii", "replace") if c.isalnum() or c in "_/.-")[:40])
            continue
        if CONTENT_ENCODINGS in entry:
            raise broken("The audio track is compressed or encrypted in its container; send it plain.")
        number = uint(entry.get(TRACK_NUMBER, b"\x01"))
        if entry.get(CODEC_PRIVATE):
            return _Track(number, read_head(entry[CODEC_PRIVATE]))
        channels = uint(dict(children(entry.get(AUDIO, b""))).get(CHANNELS, b"\x01"))
        delay = uint(entry.get(CODEC_DELAY, b"")) * OPUS_SAMPLE_RATE // _NS
        return _Track(number, make_head(channels, delay))
    named = ", ".join(found[:_NAMED_CODECS_MAX]) or "no track at all"
    raise broken(f"This WebM stream has no Opus audio, but {named}.")


def _unlaced(data: bytes, lacing: int) -> list[bytes]:
    """The frames of a block that holds several (RFC 9559, 10.3). `lacing`: 1 Xiph, 2 fixed size, 3 EBML."""
    if not data:
        raise broken("A WebM block is too short.")
    count, at = data[0] + 1, 1
    sizes: list[int] = []
    if lacing == 2:
        if (len(data) - 1) % count:
            raise broken("The frames of a WebM block have no equal size.")
        sizes = [(len(data) - 1) // count] * (count - 1)
    for i in range(count - 1 if lacing != 2 else 0):
        if lacing == 1:
            size, at = _xiph_size(data, at)
        else:
            read = varint(data, at)
            if read is None:
                raise broken("The frame sizes of a WebM block cannot be read.")
            size, at = read[0], at + read[1]
            if i:
                size = sizes[-1] + size - ((1 << 7 * read[1] - 1) - 1)
        sizes.append(size)
    last = len(data) - at - sum(sizes)
    if last < 0 or min(sizes, default=0) < 0:
        raise broken("The frames of a WebM block are larger than the block.")
    frames = []
    for size in [*sizes, last]:
        frames.append(data[at : at + size])
        at += size
    return frames


def _xiph_size(data: bytes, at: int) -> tuple[int, int]:
    """(size, where the next one stands)."""
    size = 0
    while at < len(data):
        size += data[at]
        at += 1
        if data[at - 1] < 255:
            return size, at
    raise broken("The frame sizes of a WebM block cannot be read.")
