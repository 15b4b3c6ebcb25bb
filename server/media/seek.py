"""How long a kept container is, and the samples of any stretch of it.

`Index` scans what came since the last part that is known; `Cursor` decodes forward. Both do a bounded piece of work at
a time, because nobody can end a thread.

Boundary: blocking, for threads; audio through `Media`. Invariant: the samples of a block depend on the recording
alone, not on the blocks before it that the same cursor has read: it goes on only where a new one would begin at the
same part.
"""

import threading
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from server.media.parts import PartTable, is_part
from server.media.ports import Media
from streaming.audio.decode import DecodeStart, OpusReader, PartScanner, begin_at, scan
from streaming.errors import DecodeFailed
from streaming.limits import KIB
from streaming.model import OPUS_SAMPLE_RATE, AudioFormat, Part

BLOCK_SAMPLES = 5 * OPUS_SAMPLE_RATE
"""480 kB: decoded in 20 ms, and the run-up (a second as a rule) is a fifth of it."""
FEED_BYTES = 4 * KIB
"""Given to the decoder at once: what hostile packets make of it stays below 50 MB."""
STEP_BYTES = 256 * KIB
"""Read in one go: others get their turn between, and whoever hangs up is not decoded for any more."""
SAVED_PARTS_MIN = 60
"""Parts that only a scan could find (a minute or more) before they are kept for the next time."""


class Track(msgspec.Struct, frozen=True):
    """What is to be played. `kept_bytes`: of its log, taken before `containers` were read, so that no border in them is
    missing; `ended`: nothing will be added."""

    tenant_id: str
    recording_id: str
    format: AudioFormat
    containers: tuple[int, ...]
    kept_bytes: int
    ended: bool


def start_at(track: Track, part: Part | None, media: Media) -> DecodeStart:
    """Raises `NotFound` when the audio is gone, `DecodeFailed` when the part is of other audio."""
    if part is None:
        return DecodeStart(containers=track.containers)
    found = media.read_now(track.tenant_id, track.recording_id, part.offset, part.offset + 4)
    if not is_part(track.format.encoding, found):
        raise DecodeFailed("There is no such part.", field="audio")
    header = media.read_now(track.tenant_id, track.recording_id, part.container, part.container + part.header_bytes)
    return DecodeStart(
        sample=part.sample // 3, offset=part.offset, containers=track.containers, part=part, header=header
    )


class Index:
    """Length and parts of one recording, as far as it was looked at. `containers`: the borders that it knows."""

    def __init__(self, track: Track, media: Media) -> None:
        self._track = track
        self._media = media
        self._guard = threading.Lock()  # a thread outlives the request that was cancelled
        self.containers = track.containers
        self.parts = PartTable()
        self._scanner: PartScanner | None = None
        self._fed = 0
        self._from = 0
        self._found = 0
        self._over = False

    @property
    def fed(self) -> int:
        """Bytes of the log that were looked at."""
        return self._fed

    @property
    def sample_end(self) -> int:
        """48 kHz: samples that these bytes hold."""
        return 0 if self._scanner is None else self._scanner.sample_end_48k

    def advance(self, upto: int, *, ended: bool) -> bool:
        """Look at the next bytes before `upto`; True while there is more to do. Raises `NotFound`."""
        with self._guard:
            if self._scanner is None:
                known = self._media.parts_now(
                    self._track.tenant_id, self._track.recording_id, log_end=upto, containers=self.containers
                )
                self._begin(known)
                return True
            if self._over:
                return False
            if self._fed < upto:
                data = self._read(self._fed, min(upto, self._fed + STEP_BYTES))
                self._fed += len(data)
                if data:
                    self._scan(lambda scanner: scanner.feed(data))
                    return True
            if ended:
                self._scan(lambda scanner: scanner.finish())
                self._over = True
                if self._found >= SAVED_PARTS_MIN:
                    self._media.save_parts_now(self._track.tenant_id, self._track.recording_id, self.parts)
            return False

    def _begin(self, known: PartTable) -> None:
        part = known[-1] if known else None
        self.parts, self._found = known, 0
        try:
            self._scanner = scan(self._track.format, start_at(self._track, part, self._media))
        except DecodeFailed:
            if part is None:
                raise
            self._begin(PartTable())
            return
        self._from = self._fed = part.offset if part else 0

    def _scan(self, work: Callable[[PartScanner], None]) -> None:
        assert self._scanner is not None, "begun before"
        try:
            work(self._scanner)
        except DecodeFailed:
            if self._from and self.sample_end == self.parts[-1].sample:
                self._begin(PartTable())  # nothing can be read where the list says: it is of other audio
                return
            self._over = True
        for part in self._scanner.take_parts():
            self.parts.append(part)
            self._found += 1

    def _read(self, start: int, end: int) -> bytes:
        return self._media.read_now(self._track.tenant_id, self._track.recording_id, start, end)


class Cursor:
    """Samples of one recording, block after block. `index` as it is now tells what there is."""

    def __init__(self, track: Track, index: Index, media: Media) -> None:
        self._track = track
        self._media = media
        self._parts = index.parts
        self._upto = index.fed
        self.sample_end = index.sample_end
        self._reader: OpusReader | None = None
        self._part: Part | None = None
        self._at = 0
        self._position = 0
        """48 kHz: one past the last sample that the reader gave."""
        self._heard: list[NDArray[np.int16]] = []
        """What it gave, up to `_position`."""
        self._over = False

    def seek(self, sample: int) -> None:
        """Prepare for the block that begins at `sample`. Raises `NotFound`."""
        part = begin_at(self._parts, sample)
        held = sum(map(len, self._heard))
        if self._reader is not None and part == self._part and self._position - held <= sample:
            self._forget(sample)
            return
        self._part, self._heard, self._over = part, [], False
        self._at = part.offset if part else 0
        self._position = part.sample if part else 0
        try:
            self._reader = OpusReader(self._track.format, start_at(self._track, part, self._media))
        except DecodeFailed:
            self._over = True

    def advance(self, first: int, last: int) -> bool:
        """Decode towards [first, last); True while there is more to do."""
        if self._over or self._position >= last:
            return False
        data = self._media.read_now(
            self._track.tenant_id, self._track.recording_id, self._at, min(self._upto, self._at + STEP_BYTES)
        )
        at = 0
        while at < len(data) and self._position < last and not self._over:
            piece = data[at : at + FEED_BYTES]
            at += len(piece)
            self._take(lambda reader: reader.feed(piece), first)  # noqa: B023 - called at once
        self._at += at
        if not data:
            if self._track.ended:
                self._take(lambda reader: reader.finish(), first)
            self._over = True
        return not self._over and self._position < last

    def _take(self, work: Callable[[OpusReader], NDArray[np.int16]], first: int) -> None:
        assert self._reader is not None, "seek comes first"
        try:
            heard = work(self._reader)
        except DecodeFailed:
            self._over = True
            return
        self._position += len(heard)
        self._heard.append(heard)
        self._forget(first)

    def _forget(self, before: int) -> None:
        """Drop samples before `before`."""
        while self._heard and self._position - sum(map(len, self._heard[1:])) <= before:
            del self._heard[0]

    def block(self, first: int, last: int) -> NDArray[np.int16]:
        """(last - first,) int16: what was decoded; silence where nothing could be."""
        block = np.zeros(last - first, np.int16)
        if self._heard:
            held = np.concatenate(self._heard)
            begin = self._position - len(held)
            wanted = held[max(0, first - begin) : max(0, last - begin)]
            at = max(0, begin - first)
            block[at : at + len(wanted)] = wanted
        return block
