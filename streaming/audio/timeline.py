"""Put the packets of containers on one clock: which samples to keep, where silence stands, where parts begin.

    bytes -> Demuxer (one per container) -> Timeline -> Stretch

Policy: media time is the number of decoded samples. A container's timestamps are only asked whether something is
missing: a packet due more than `audio_gap_ms_min` later than it stands gets silence before it. Timestamps are compared
with those since the last part, so clocks may drift and jump. Silence must be earned: there is credit for
`audio_gap_ms_max`, and a sample of audio earns one of silence; a jump beyond the credit, or back, only moves the base.
So a few hostile bytes cannot become hours.

Pure. Invariant: at every part the state is the same as at the beginning (credit full, no timestamps yet, nothing left
to skip), so whoever resumes there gets the positions, and the later parts, of whoever did not.
"""

from collections.abc import Iterator

import msgspec

from streaming.audio.container import Demuxer, Opened, Packet, Place
from streaming.audio.ogg import OggDemuxer
from streaming.audio.opus import OpusHead, packet_samples
from streaming.audio.parts import DecodeStart
from streaming.audio.webm import WebmDemuxer
from streaming.limits import LIMITS
from streaming.model import OPUS_SAMPLE_RATE, AudioFormat, Encoding, Part

PART_SAMPLES_MIN = OPUS_SAMPLE_RATE
"""Parts are at least a second apart: 43,200 in twelve hours, and a seek decodes little that it does not need."""

GAP_SAMPLES_MIN = LIMITS.audio_gap_ms_min * OPUS_SAMPLE_RATE // 1000
GAP_SAMPLES_MAX = LIMITS.audio_gap_ms_max * OPUS_SAMPLE_RATE // 1000


class Stretch(msgspec.Struct, frozen=True):
    """What comes next, 48 kHz: `silence`, then of the `samples` in `packet` those from `begin` to `end`. The last of
    them stands right before `position`."""

    silence: int
    packet: bytes
    samples: int
    begin: int
    end: int
    position: int


class Timeline:
    """The clock of one stream over all its containers."""

    def __init__(self, position: int, part: Part | None) -> None:
        self.position = position
        """48 kHz: one past the last sample so far."""
        self._skip = 0
        """Samples still to drop at the beginning of the container."""
        self._base: int | None = None
        """What a container's timestamps are ahead of the clock; None: the next timestamp tells."""
        self._credit = GAP_SAMPLES_MAX
        self._place: Place | None = None
        self._last_part = None if part is None else part.sample
        self._parts: list[Part] = []

    def open(self, preskip: int) -> None:
        """A container begins; its first `preskip` samples are no audio."""
        self._skip, self._base, self._place = preskip, None, None

    def place(self, place: Place) -> None:
        self._place = place

    def packet(self, packet: Packet) -> Stretch:
        samples = packet_samples(packet.data)
        silence = self._gap(packet)
        self.position += silence
        self._meet_part()
        if self._base is None and packet.at is not None:
            self._base = packet.at - (self.position - self._skip)
        begin = min(samples, self._skip)
        end = max(begin, samples - packet.trim)
        self._skip -= begin
        self.position += end - begin
        self._credit = min(GAP_SAMPLES_MAX, self._credit + end - begin)
        return Stretch(silence, packet.data, samples, begin, end, self.position)

    def take_parts(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def _gap(self, packet: Packet) -> int:
        """Samples that are missing before `packet`."""
        if packet.at is None or self._base is None:
            return 0
        lead = packet.at - self._base - (self.position - self._skip)
        if -GAP_SAMPLES_MIN <= lead <= (0 if packet.lost else GAP_SAMPLES_MIN):
            return 0
        if 0 < lead <= self._credit:
            self._credit -= lead
            return lead
        self._base += lead
        return 0

    def _meet_part(self) -> None:
        place, self._place = self._place, None
        if place is None or self._credit < GAP_SAMPLES_MAX or (self._skip and not place.is_first):
            return
        if self._last_part is not None and self.position - self._last_part < PART_SAMPLES_MIN:
            return
        self._parts.append(Part(place.offset, self.position, place.container, place.header_bytes))
        self._last_part = self.position
        self._base = None


class Reel:
    """The packets of a stream on its clock, from `start` on. Raises `DecodeFailed` when the header of the part to
    begin at does not belong to it."""

    def __init__(self, fmt: AudioFormat, start: DecodeStart) -> None:
        assert fmt.encoding.is_container, "raw samples need no demuxer"
        self._kind = WebmDemuxer if fmt.encoding is Encoding.WEBM_OPUS else OggDemuxer
        self._at = start.offset
        self._borders = sorted(offset for offset in start.containers if offset > start.offset)
        self._timeline = Timeline(start.sample_48k, start.part)
        self.head: OpusHead | None = None
        """What the packets of the present container are decoded with."""
        self._demuxer: Demuxer = self._kind(start.offset if start.part is None else start.part.container)
        if start.part is not None:
            assert start.offset == start.part.offset, "feeding begins where the part does"
            self._enter(start.part, start.header)

    @property
    def position(self) -> int:
        """48 kHz: one past the last sample so far."""
        return self._timeline.position

    @property
    def held_bytes(self) -> int:
        return self._demuxer.held_bytes

    def take_parts(self) -> list[Part]:
        return self._timeline.take_parts()

    def feed(self, data: bytes) -> Iterator[Stretch]:
        """What is complete with `data`. The caller takes all of it before it feeds again."""
        while self._borders and self._at + len(data) >= self._borders[0]:
            border = self._borders.pop(0)
            rest = border - self._at
            self._at = border
            yield from self._demux(data[:rest])
            yield from self.finish()
            self._demuxer = self._kind(border)
            data = data[rest:]
        self._at += len(data)
        yield from self._demux(data)

    def finish(self) -> Iterator[Stretch]:
        for event in self._demuxer.finish():
            if isinstance(event, Packet):
                yield self._timeline.packet(event)

    def _demux(self, data: bytes) -> Iterator[Stretch]:
        for event in self._demuxer.feed(data):
            if isinstance(event, Packet):
                yield self._timeline.packet(event)
            elif isinstance(event, Place):
                self._timeline.place(event)
            else:
                self._open(event)

    def _enter(self, part: Part, header: bytes) -> None:
        for event in self._demuxer.feed(header):
            if isinstance(event, Opened):
                self._open(event)
        self._demuxer.jump(part)
        is_first = part.offset == part.container + part.header_bytes
        self._timeline.open(self.head.preskip if self.head is not None and is_first else 0)

    def _open(self, opened: Opened) -> None:
        self.head = opened.head
        self._timeline.open(opened.head.preskip)
