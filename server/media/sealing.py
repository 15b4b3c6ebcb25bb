"""One live stream's audio on its way to shared storage.

Bytes are appended to a spool file on this machine, where the pipeline reads them; every `seal_interval_ms`, and when
the stream asks, what is not durable yet is put as an extent (`server.media.extents`), and only then counts as durable.
A put that fails is repeated for as long as it takes: its bytes are in the spool, and in the client's ring. When
`merge_extents` of them lie there they are put once more as one object and removed, so that twelve hours are some
hundred objects and not 21,600.

Places at which a container can be decoded from go behind the bytes of the next extent, when they lie before its end.

Boundary: the spool file and `Objects`; it never asks the database. Invariants: extents leave in order and without gaps;
nothing is durable before its put was answered; a spool that failed to write back seals nothing more.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from server.media.audiolog import FileLog
from server.media.extents import Chain, Extent, Piece, chain
from server.media.objects import Objects
from server.media.parts import RECORD_BYTES, PartTable, record_of, sound_records
from server.telemetry import METRICS
from streaming.aio import Scope, cancel_and_wait
from streaming.audio.parts import PREROLL_SAMPLES
from streaming.errors import NotFound, Unavailable
from streaming.limits import Limits
from streaming.model import Part

log = logging.getLogger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 0.5, 4.0
"""Between tries while the storage is away: a client's credit lasts 20 s."""


class PartsOnTheWay:
    """`server.media.ports.PartKeeper`: places that no extent has told yet."""

    def __init__(self, known: PartTable) -> None:
        self._parts: list[Part] = []
        self._last = known[-1].offset if len(known) else -1

    def append(self, parts: Iterable[Part]) -> None:
        fresh = [part for part in parts if part.offset > self._last]
        if fresh:
            self._parts += fresh
            self._last = fresh[-1].offset

    def before(self, end: int) -> list[Part]:
        return [part for part in self._parts if part.offset < end]

    def told(self, parts: Sequence[Part]) -> None:
        del self._parts[: len(parts)]

    def reset(self) -> None:
        self._parts, self._last = [], -1

    def close(self) -> None:
        """What the last extent did not take is found again by a scan."""


class SharedLog:
    """`server.media.ports.AudioLog`. `folder`: the recording's, in the storage; `found`: what was there."""

    def __init__(
        self,
        *,
        folder: str,
        epoch: int,
        found: Chain,
        spool: FileLog,
        objects: Objects,
        scope: Scope,
        limits: Limits,
        on_close: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._epoch = epoch
        self._begin, self._after = found.end, found.epoch
        self._found = found
        """Where to read what lies before `_begin`."""
        self._spool = spool
        self._objects = objects
        self._scope = scope
        self._limits = limits
        self._on_close = on_close
        self._sealed = found.end
        self.readable_from = found.end
        self._parts: PartsOnTheWay | None = None
        self._small: list[tuple[Extent, bytes]] = []
        """Extents that will be merged, with their records."""
        self._sealing: asyncio.Task[None] | None = None
        self._due = 0.0
        self._retry_s = RETRY_S_MIN
        self._broken: Unavailable | None = None
        self._open = True

    @property
    def spool(self) -> FileLog:
        """Bytes [readable_from, end), while the log is open."""
        return self._spool

    @property
    def end(self) -> int:
        return self._spool.end

    @property
    def version(self) -> int:
        """The newest epoch of which there are bytes."""
        return self._epoch if self.end > self._begin else self._after

    def append(self, data: bytes) -> int:
        if self._sealed == self._spool.end:
            self._due = time.monotonic() + self._limits.seal_interval_ms / 1000
        return self._spool.append(data)

    def read_range(self, start: int, end: int) -> bytes:
        if start < self.readable_from:
            raise Unavailable("This part of the kept audio is not here.")
        return self._spool.read_range(start, end)

    # --- what an earlier epoch left -------------------------------------------------------------------------------
    async def fetch(self, start: int) -> None:
        retry_s = RETRY_S_MIN
        while start < self.readable_from:
            try:
                try:
                    await self._fetch(start)
                    self.readable_from = start
                except NotFound:  # an earlier epoch's owner has merged what it wrote
                    self._found = await self._look_again()
            except Unavailable:
                log.warning("kept audio cannot be fetched, trying again", extra={"retry_s": retry_s})
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)

    async def _fetch(self, start: int) -> None:
        steps = [
            Piece(at, min(piece.end, at + self._limits.extent_bytes_max), piece.extent)
            for piece in self._found.within(start, self.readable_from)
            for at in range(piece.start, piece.end, self._limits.extent_bytes_max)
        ]
        for first in range(0, len(steps), self._limits.storage_reads_max):
            some = steps[first : first + self._limits.storage_reads_max]
            for piece, data in zip(some, await read_pieces(self._objects, self._folder, some), strict=True):
                try:
                    await asyncio.to_thread(self._spool.fill, piece.start, data)
                except OSError as error:
                    raise Unavailable("The server cannot store audio at the moment.") from error

    async def _look_again(self) -> Chain:
        """The same bytes in other objects. Raises `NotFound` when they are gone."""
        names = await self._objects.names(self._folder)
        now = chain(name for name in names if name.split("-")[2:3] != [str(self._epoch)])
        if now.end < self._begin or now == self._found:
            raise NotFound("The kept audio cannot be read back.")
        return now

    async def open_parts(self, *, containers: Sequence[int], sample_48k: int) -> tuple[PartsOnTheWay, PartTable]:
        """Read backwards from the newest extent, until one tells a place to begin at."""
        told = [piece for piece in self._found.pieces if piece.extent.places]
        records = b""
        step = self._limits.storage_reads_max
        while told:
            some, told = told[-step:], told[:-step]
            records = b"".join(await read_records(self._objects, self._folder, some)) + records
            table = PartTable(sound_records(records, log_end=self._begin, containers=containers))
            if len(table) and table[0].sample <= sample_48k - PREROLL_SAMPLES:
                break
        table = PartTable(sound_records(records, log_end=self._begin, containers=containers))
        self._parts = PartsOnTheWay(table)
        return self._parts, table

    # --- towards durability ---------------------------------------------------------------------------------------
    async def sync(self, *, now: bool = False) -> int:
        if self._sealed < self._spool.end and (now or time.monotonic() >= self._due):
            self._begin_sealing()
        if self._broken is not None:
            raise self._broken
        return self._sealed

    async def settle(self) -> int:
        end = self._spool.end
        while self._sealed < end:
            await asyncio.wait([self._begin_sealing()])
            if self._broken is not None:
                raise self._broken
            if self._sealed < end and self._retry_s > RETRY_S_MIN:
                await asyncio.sleep(max(0.0, self._due - time.monotonic()))
        return end

    async def claim(self) -> int:
        end = await self.settle()
        if end == self._begin:
            await self._objects.put(f"{self._folder}/{self._extent(end, end).name}", b"")
        return end

    def _begin_sealing(self) -> asyncio.Task[None]:
        if self._sealing is None or self._sealing.done():
            self._sealing = self._scope.spawn(self._seal_all(), name=self._folder)
        return self._sealing

    async def _seal_all(self) -> None:
        """What is here now; what comes meanwhile waits for the next time."""
        target = self._spool.end
        try:
            if self._retry_s > RETRY_S_MIN:
                await self._look_at_the_spool()
            while self._sealed < target:
                await self._seal(min(target, self._sealed + self._limits.extent_bytes_max))
            self._due = time.monotonic() + self._limits.seal_interval_ms / 1000
            self._retry_s = RETRY_S_MIN
            await self._merge()
        except Unavailable:
            self._due = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)

    async def _look_at_the_spool(self) -> None:
        """The kernel may have dropped bytes that it could not write, and says so once: what waited for long, or is read
        again, is only used when it did not."""
        try:
            await self._spool.sync()
        except Unavailable as error:
            self._broken = error
            raise

    async def _seal(self, end: int) -> None:
        start, begun = self._sealed, time.monotonic()
        parts = self._parts.before(end) if self._parts is not None else []
        extent = self._extent(start, end, len(parts))
        records = b"".join(map(record_of, parts))
        data = self._spool.read_range(start, end)
        if len(data) < end - start:
            self._broken = Unavailable("The kept audio cannot be read back.")
            raise self._broken
        await self._objects.put(f"{self._folder}/{extent.name}", data + records)
        self._sealed = end
        METRICS.seal_seconds.observe(time.monotonic() - begun)
        if self._parts is not None:
            self._parts.told(parts)
        self._small.append((extent, records))

    async def _merge(self) -> None:
        """Tried once for the same extents: they count as well as they are."""
        small = self._small
        first, last = small[0][0].start, small[-1][0].end
        if len(small) < 2 or (len(small) < self._limits.merge_extents and last - first < self._limits.merge_bytes):
            return
        self._small = []
        await self._look_at_the_spool()
        data = await asyncio.to_thread(self._spool.read_range, first, last)
        records = b"".join(kept for _, kept in small)
        whole = self._extent(first, last, sum(extent.places for extent, _ in small))
        await self._objects.put(f"{self._folder}/{whole.name}", data + records)
        await self._objects.delete([f"{self._folder}/{extent.name}" for extent, _ in small])

    def _extent(self, start: int, end: int, places: int = 0) -> Extent:
        return Extent(start, end, self._epoch, self._begin, self._after, places)

    async def seal(self) -> None:
        if not self._open:
            return
        try:
            async with asyncio.timeout(self._limits.storage_answer_ms_max / 1000):
                await self.settle()
        except (TimeoutError, Unavailable):
            left = self._spool.end - self._sealed
            log.warning("audio not sealed; its client has it still", extra={"bytes": left})
        finally:
            if self._sealing is not None:
                await cancel_and_wait(self._sealing)
            self.close()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._spool.close()
            self._spool.path.unlink(missing_ok=True)
            self._on_close()


async def read_pieces(objects: Objects, folder: str, pieces: Sequence[Piece]) -> list[bytes]:
    """Their bytes. Raises `NotFound` (perhaps they lie in other objects now), `Unavailable`."""
    return await _together(
        objects.get(f"{folder}/{piece.extent.name}", piece.start - piece.extent.start, piece.end - piece.extent.start)
        for piece in pieces
    )


async def read_records(objects: Objects, folder: str, pieces: Sequence[Piece]) -> list[bytes]:
    """The records of places behind their bytes, those that lie before a piece's end."""
    extents = [piece.extent for piece in pieces]
    records = await _together(
        objects.get(f"{folder}/{one.name}", one.end - one.start, one.end - one.start + one.places * RECORD_BYTES)
        for one in extents
    )
    return [
        data
        if piece.end == piece.extent.end
        else b"".join(map(record_of, (part for part in PartTable(data) if part.offset < piece.end)))
        for piece, data in zip(pieces, records, strict=True)
    ]


async def _together(calls: Iterable[Coroutine[Any, Any, bytes]]) -> list[bytes]:
    """All of them ended, whatever fails."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    found: list[bytes] = []
    for one in done:
        if isinstance(one, BaseException):
            raise one
        found.append(one)
    return found
