"""Kept audio as one WAV file that is not there: any range of it, also while it is recorded.

    raw encodings   s16le byte by byte, f32le and mulaw sample by sample, at their own rate and channels
    containers      48 kHz mono, decoded on demand

A byte range of a container maps to blocks of `BLOCK_SAMPLES`; a block is decoded from the last part that leaves Opus
its run-up. So the same byte always has the same value, whatever was asked for and whenever. The length is what is
complete so far: parts that are known, and a scan of what came since (remembered per recording, bounded).

Boundary: audio through `Media`; decoding runs in threads, `playback_decoders_max` at once. Invariant: bytes that
were given out never change as the recording grows, but for the sizes in the header.
"""

import asyncio
import struct
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from server.media.ports import Media
from server.media.seek import BLOCK_SAMPLES, Cursor, Index, Track
from streaming.audio.decode import decoder_for
from streaming.limits import LIMITS, Limits
from streaming.model import OPUS_SAMPLE_RATE, SAMPLE_RATE, AudioFormat, Encoding

__all__ = ["HEADER_BYTES", "Playback", "Track", "WavFile", "wav_header"]

T = TypeVar("T")

HEADER_BYTES = 44
SIZE_MAX = 0xFFFF_FFFF
SAMPLE_BYTES = 2


class Aside(Protocol):
    """Runs what blocks in a thread."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class Samples(Protocol):
    """The data of a WAV file, s16le."""

    sample_rate: int
    channels: int
    data_bytes: int

    def pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes [start, end), within `data_bytes`. Raises `NotFound` when the audio is gone."""
        ...


class WavFile:
    """A header and its samples."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._header = wav_header(samples.data_bytes, samples.sample_rate, samples.channels)

    @property
    def total_bytes(self) -> int:
        return HEADER_BYTES + self._samples.data_bytes

    async def pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes [start, end), within `total_bytes`, some hundred KiB at a time. Raises `NotFound`."""
        if start < HEADER_BYTES:
            yield self._header[start:end]
        if end > HEADER_BYTES:
            async for piece in self._samples.pieces(max(0, start - HEADER_BYTES), end - HEADER_BYTES):
                yield piece


class Playback:
    """`open` gives a recording's file."""

    def __init__(self, media: Media, limits: Limits = LIMITS) -> None:
        self._media = media
        self._limits = limits
        self._threads = asyncio.Semaphore(limits.playback_decoders_max)
        self._indexes: OrderedDict[tuple[str, str], Index] = OrderedDict()

    async def open(self, track: Track) -> WavFile:
        """The file as it is now. Raises `NotFound` when there is no audio."""
        if not track.format.encoding.is_container:
            return WavFile(_Raw(track, self._media, self._aside, self._limits.media_read_bytes))
        index = self._index(track)
        while await self._aside(lambda: index.advance(track.kept_bytes, ended=track.ended)):
            pass
        return WavFile(_Opus(Cursor(track, index, self._media), self._aside))

    def _index(self, track: Track) -> Index:
        key = (track.tenant_id, track.recording_id)
        index = self._indexes.pop(key, None)
        if index is None or index.containers != track.containers:
            index = Index(track, self._media)
        self._indexes[key] = index
        while len(self._indexes) > self._limits.playback_indexes_max:
            self._indexes.popitem(last=False)
        return index

    async def _aside(self, work: Callable[[], T]) -> T:
        async with self._threads:
            return await asyncio.to_thread(work)


class _Raw:
    """`Samples` of raw encodings."""

    def __init__(self, track: Track, media: Media, aside: Aside, piece_bytes: int) -> None:
        fmt = track.format
        self._track = track
        self._media = media
        self._aside = aside
        self._piece_bytes = piece_bytes
        self._kept_frame_bytes = fmt.frame_bytes
        self._frame_bytes = SAMPLE_BYTES * fmt.channels
        self.sample_rate, self.channels = fmt.sample_rate, fmt.channels
        self.data_bytes = track.kept_bytes // fmt.frame_bytes * self._frame_bytes

    async def pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        tenant_id, recording_id = self._track.tenant_id, self._track.recording_id
        while start < end:
            upto = min(end, start + self._piece_bytes)
            if self._track.format.encoding is Encoding.PCM_S16LE:
                yield await self._media.read(tenant_id, recording_id, start, upto)
            else:
                yield await self._aside(lambda a=start, b=upto: self._converted(a, b))  # type: ignore[misc]
            start = upto

    def _converted(self, start: int, end: int) -> bytes:
        """The bytes of every sample as the recogniser hears it before the channels are mixed."""
        first, last = start // self._frame_bytes, -(-end // self._frame_bytes)
        kept = self._media.read_now(
            self._track.tenant_id,
            self._track.recording_id,
            first * self._kept_frame_bytes,
            last * self._kept_frame_bytes,
        )
        one_by_one = AudioFormat(self._track.format.encoding, SAMPLE_RATE, 1)
        samples = decoder_for(one_by_one).feed(kept).astype("<i2").tobytes()
        return samples[start - first * self._frame_bytes : end - first * self._frame_bytes]


class _Opus:
    """`Samples` of containers."""

    sample_rate, channels = OPUS_SAMPLE_RATE, 1

    def __init__(self, cursor: Cursor, aside: Aside) -> None:
        self._cursor = cursor
        self._aside = aside
        self.data_bytes = cursor.sample_end * SAMPLE_BYTES

    async def pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        cursor = self._cursor
        for number in range(start // SAMPLE_BYTES // BLOCK_SAMPLES, -(-end // SAMPLE_BYTES // BLOCK_SAMPLES)):
            first = number * BLOCK_SAMPLES
            last = min(first + BLOCK_SAMPLES, cursor.sample_end)
            await self._aside(lambda sample=first: cursor.seek(sample))  # type: ignore[misc]
            while await self._aside(lambda a=first, b=last: cursor.advance(a, b)):  # type: ignore[misc]
                pass
            data = cursor.block(first, last).astype("<i2").tobytes()
            yield data[max(0, start - first * SAMPLE_BYTES) : end - first * SAMPLE_BYTES]


def wav_header(data_bytes: int, sample_rate: int, channels: int) -> bytes:
    """RIFF header of 16-bit PCM (44 bytes); sizes above 4 GiB are written as the largest."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        min(36 + data_bytes, SIZE_MAX),
        b"WAVE",
        b"fmt ",
        16,
        1,
        channels,
        sample_rate,
        sample_rate * channels * 2,
        channels * 2,
        16,
        b"data",
        min(data_bytes, SIZE_MAX),
    )
