"""The places in a container encoding at which decoding may begin, kept beside its audio.

A cache of fixed-size records with a checksum each: written as the decoder of the live stream meets parts, never synced,
and always to be had again from the audio (`streaming.audio.decode.scan`). What is damaged, torn, beyond the audio's end
or from before a container's border ends the list: a power cut may have kept records of bytes that it took.

Boundary: files; blocking. Invariant: the list has no hole: after a record that could not be written none is.
"""

import contextlib
import logging
import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from streaming.limits import LIMITS
from streaming.model import OPUS_SAMPLE_RATE, Encoding, Part

log = logging.getLogger(__name__)

FIELDS = struct.Struct("<QQQI")
"""offset, sample, container, header_bytes."""
RECORD_BYTES = FIELDS.size + 4
SAMPLE_MAX = 2 * LIMITS.recording_ms_max // 1000 * OPUS_SAMPLE_RATE
"""48 kHz. A recording ends soon after twelve hours."""
TABLE_BYTES_MAX = SAMPLE_MAX // OPUS_SAMPLE_RATE * RECORD_BYTES
"""Parts are at least a second apart."""
MARKS = {Encoding.WEBM_OPUS: b"\x1f\x43\xb6\x75", Encoding.OGG_OPUS: b"OggS"}
"""What a part begins with."""


class PartTable(Sequence[Part]):
    """Parts, ascending, in 32 bytes each; grows at its end."""

    def __init__(self, records: bytes = b"") -> None:
        self._records = bytearray(records)

    def __len__(self) -> int:
        return len(self._records) // RECORD_BYTES

    def __getitem__(self, index: Any) -> Any:
        at = range(len(self))[index]
        return Part(*FIELDS.unpack_from(self._records, at * RECORD_BYTES))

    def append(self, part: Part) -> None:
        self._records += record_of(part)

    @property
    def records(self) -> bytes:
        return bytes(self._records)


def record_of(part: Part) -> bytes:
    fields = FIELDS.pack(part.offset, part.sample, part.container, part.header_bytes)
    return fields + zlib.crc32(fields).to_bytes(4, "little")


def sound_records(data: bytes, *, log_end: int, containers: Sequence[int]) -> bytes:
    """The records at the beginning of `data` that can be believed of a log of `log_end` bytes whose containers begin
    at `containers`."""
    offset = sample = -1
    at = 0
    for at in range(0, len(data), RECORD_BYTES):
        record = data[at : at + RECORD_BYTES]
        if len(record) < RECORD_BYTES or zlib.crc32(record[:-4]) != int.from_bytes(record[-4:], "little"):
            return data[:at]
        part = Part(*FIELDS.unpack(record[:-4]))
        border = containers[bisect_right(containers, part.offset) - 1]
        believable = offset < part.offset < log_end and sample < part.sample <= SAMPLE_MAX and part.header_bytes > 0
        if not believable or part.container < border or part.container + part.header_bytes > part.offset:
            return data[:at]
        offset, sample = part.offset, part.sample
    return data


def is_part(encoding: Encoding, found: bytes) -> bool:
    """Whether `found`, read where one should be, can be its beginning: a list of other audio is found out so."""
    return found.startswith(MARKS[encoding])


def load(path: Path, *, log_end: int, containers: Sequence[int]) -> PartTable:
    """The parts that are known; none when the file is missing."""
    try:
        with path.open("rb") as file:
            data = file.read(TABLE_BYTES_MAX)
    except OSError:
        return PartTable()
    return PartTable(sound_records(data, log_end=log_end, containers=containers))


def save(path: Path, table: PartTable) -> None:
    """Put a whole new list in place of an ended recording's; a full disk is no failure."""
    beside = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(table.records)
        beside.replace(path)


class PartLog:
    """The list of one live stream, open for appending. It never raises: without it, seeking is only slower."""

    def __init__(self, descriptor: int, table: PartTable) -> None:
        """`descriptor` -1: nothing is kept."""
        self._descriptor = descriptor
        self._end = len(table) * RECORD_BYTES
        self._last = table[-1].offset if table else -1

    @classmethod
    def open(cls, path: Path, *, log_end: int, containers: Sequence[int]) -> "tuple[PartLog, PartTable]":
        """The log and what is in it, cut back to what can be believed."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            log.warning("parts are not kept")
            return cls(-1, PartTable()), PartTable()
        try:
            data = os.pread(descriptor, TABLE_BYTES_MAX, 0)
            table = PartTable(sound_records(data, log_end=log_end, containers=containers))
            if len(table.records) != os.fstat(descriptor).st_size:
                os.ftruncate(descriptor, len(table.records))
                os.fdatasync(descriptor)  # or a power cut might bring back what other audio has replaced
        except OSError:
            os.close(descriptor)
            log.warning("parts are not kept")
            return cls(-1, PartTable()), PartTable()
        return cls(descriptor, table), table

    def append(self, parts: Iterable[Part]) -> None:
        """Add those that are new."""
        fresh = [part for part in parts if part.offset > self._last]
        if self._descriptor < 0 or not fresh:
            return
        data = b"".join(map(record_of, fresh))
        try:
            written = os.pwrite(self._descriptor, data, self._end)
        except OSError:
            written = 0
        if written < len(data):
            log.warning("parts are not kept any further")
            self.close()
            return
        self._end += written
        self._last = fresh[-1].offset

    def reset(self) -> None:
        """What was in it is of other audio: begin anew."""
        self._end, self._last = 0, -1
        with contextlib.suppress(OSError):
            if self._descriptor >= 0:
                os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
