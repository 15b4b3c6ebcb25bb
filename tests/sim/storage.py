"""Where simulated nodes keep audio: a disk of their own, or storage that they share.

The shared one keeps extents by the names of `server.media.extents`, which is the real rule of what counts: a node
appends to its spool, puts what is new once a second, and only then is it durable. A put may be late, so that a ghost's
object arrives when another node has long gone on.
"""

import asyncio
import random
from collections import defaultdict
from typing import Protocol

from server.media.extents import Chain, Extent, chain, parse
from streaming.errors import Unavailable
from tests.fakes.log import MemoryLog


class Kept(Protocol):
    """One stream's open log: `MemoryLog`'s appending and reading, and what makes it durable."""

    log: MemoryLog
    durable: int

    async def sync(self) -> None: ...


class OnDisk:
    """A file of the only node. A power cut takes what was not synced."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.durable = log.end

    async def sync(self) -> None:
        self.durable = self.log.end


class Shared:
    """Objects by recording and name."""

    def __init__(self, rng: random.Random, trouble: float) -> None:
        self._rng = rng
        self._trouble = trouble
        self._objects: dict[str, dict[str, bytes]] = defaultdict(dict)

    def chain(self, recording: str) -> Chain:
        return chain(self._objects[recording])

    def audio(self, recording: str) -> bytes:
        """What counts, from byte 0 on."""
        objects = self._objects[recording]
        return b"".join(
            objects[piece.extent.name][piece.start - piece.extent.start : piece.end - piece.extent.start]
            for piece in self.chain(recording).pieces
        )

    async def put(self, recording: str, extent: Extent, data: bytes) -> None:
        """Raises `Unavailable`, perhaps although it was written."""
        await asyncio.sleep(self._rng.choice([0.0, 0.01, 0.2, 3.0]))
        if self._rng.random() < self._trouble:
            raise Unavailable("the storage is away")
        assert parse(extent.name) == extent
        assert self._objects[recording].setdefault(extent.name, data) == data, "an object never changes"
        if self._rng.random() < self._trouble:
            raise Unavailable("written, but nobody hears of it")


class Spooled:
    """A stream's log at a node of several. Opening it reads what counts into the spool."""

    def __init__(self, recording: str, epoch: int, shared: Shared) -> None:
        self._recording = recording
        self._epoch = epoch
        self._shared = shared
        self._found = shared.chain(recording)
        self.log = MemoryLog(shared.audio(recording))
        self.durable = self._found.end

    async def sync(self) -> None:
        start, end = self.durable, self.log.end
        if start == end:
            return
        extent = Extent(start, end, self._epoch, self._found.end, self._found.epoch)
        await self._shared.put(self._recording, extent, self.log.read_range(start, end))
        self.durable = end
