"""Kept audio on this machine: one append-only file of encoded bytes per recording.

Written before it is acknowledged as received, synced before it is acknowledged as durable; nothing else may touch the
file. Reading works while it is written. A write that fails half-way (full disk) is cut back, so the file always ends
at what was acknowledged. `FileLog` is also the spool of audio that is on its way to shared storage.

Layout: `<data>/media/<tenant>/<recording>/audio.raw`, and for containers `audio.parts` beside it.
Invariant: the file never shrinks below what `append` returned.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from server.media import parts
from server.media.ports import SAFE_NAME, Kept
from streaming.errors import NotFound, Unavailable

FILE_NAME = "audio.raw"
PARTS_NAME = "audio.parts"


class FileLog:
    """One open log. Appends come from one stream; reads may come from anywhere."""

    def __init__(self, path: Path, descriptor: int, end: int, executor: Executor) -> None:
        self.path = path
        self._descriptor = descriptor
        self._end = end
        self._executor = executor

    @classmethod
    def open(cls, path: Path, executor: Executor, *, end: int | None = None) -> "FileLog":
        """Open or create it. `end`: where it goes on, when not at the file's end. Raises `Unavailable`."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            size = os.fstat(descriptor).st_size
        except OSError as error:
            raise Unavailable("The server cannot store audio at the moment.", retry_after_ms=2_000) from error
        return cls(path, descriptor, size if end is None else end, executor)

    @property
    def end(self) -> int:
        """Bytes in the log."""
        return self._end

    def append(self, data: bytes) -> int:
        """Add bytes; returns the new end. Raises `Unavailable` when the disk takes no more; then nothing was added."""
        at, view = self._end, memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, at)
                at, view = at + written, view[written:]
        except OSError as error:
            with contextlib.suppress(
                OSError
            ):  # a disk that is gone cannot even be cut back; what is over is overwritten
                os.ftruncate(self._descriptor, self._end)
            raise Unavailable("The server cannot store audio at the moment.", retry_after_ms=2_000) from error
        self._end = at
        return at

    async def fetch(self, start: int) -> None:
        """Everything is here."""

    async def sync(self, *, now: bool = False) -> int:
        """Make everything appended so far survive a power cut; returns how many bytes that is."""
        end = self._end
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, os.fdatasync, self._descriptor)
        except OSError as error:
            raise Unavailable("The server cannot store audio at the moment.", retry_after_ms=2_000) from error
        return end

    async def settle(self) -> int:
        return await self.sync()

    async def claim(self) -> int:
        return await self.sync()

    def fill(self, at: int, data: bytes) -> None:
        """Put bytes where the file has a hole; blocking. Raises OSError."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, at)
            at, view = at + written, view[written:]

    def read_range(self, start: int, end: int) -> bytes:
        """Bytes [start, end), fewer at the end of the log."""
        return os.pread(self._descriptor, max(0, min(end, self._end) - start), start)

    async def open_parts(self, *, containers: Sequence[int], sample_48k: int) -> tuple[parts.PartLog, parts.PartTable]:
        path, end = self.path.with_name(PARTS_NAME), self._end

        def opened() -> tuple[parts.PartLog, parts.PartTable]:
            return parts.PartLog.open(path, log_end=end, containers=containers)

        opening = asyncio.get_running_loop().run_in_executor(self._executor, opened)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda done: done.result()[0].close())
            raise

    async def seal(self) -> None:
        """Sync and close; the log takes no more."""
        if self._descriptor >= 0:
            try:
                await self.sync()
            finally:
                self.close()

    def close(self) -> None:
        """Without a sync, of a log to which nothing was appended."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class MediaStore:
    """The folder of all kept audio."""

    def __init__(self, folder: Path, executor: Executor) -> None:
        self._folder = folder
        self._executor = executor

    async def open(self, tenant_id: str, recording_id: str, *, epoch: int = 1) -> FileLog:
        """Open a recording's log for appending, creating it. Raises `Unavailable`. Epochs share the file: a later one
        begins when the one before has stopped."""
        return FileLog.open(self._path(tenant_id, recording_id), self._executor)

    async def kept(self, tenant_id: str, recording_id: str) -> Kept:
        """Raises `NotFound`. The version is the Unix time of the last write, in nanoseconds."""
        try:
            found = self._path(tenant_id, recording_id).stat()
        except OSError as error:
            raise NotFound("There is no audio of this recording.") from error
        return Kept(size=found.st_size, version=found.st_mtime_ns)

    async def read(self, tenant_id: str, recording_id: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of a recording's kept audio, read off the loop. Raises `NotFound`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self.read_now, tenant_id, recording_id, start, end)

    def read_now(self, tenant_id: str, recording_id: str, start: int, end: int) -> bytes:
        """As `read`, blocking: for threads that decode."""
        try:
            with self._path(tenant_id, recording_id).open("rb") as file:
                return os.pread(file.fileno(), end - start, start)
        except OSError as error:
            raise NotFound("There is no audio of this recording.") from error

    def parts_now(
        self, tenant_id: str, recording_id: str, *, log_end: int, containers: Sequence[int]
    ) -> parts.PartTable:
        """For listeners; blocking."""
        path = self._path(tenant_id, recording_id).with_name(PARTS_NAME)
        return parts.load(path, log_end=log_end, containers=containers)

    def save_parts_now(self, tenant_id: str, recording_id: str, table: parts.PartTable) -> None:
        """Of an ended recording; blocking."""
        parts.save(self._path(tenant_id, recording_id).with_name(PARTS_NAME), table)

    def _path(self, tenant_id: str, recording_id: str) -> Path:
        if not SAFE_NAME.fullmatch(tenant_id) or not SAFE_NAME.fullmatch(recording_id):
            raise NotFound("There is no such recording.")
        return self._folder / tenant_id / recording_id / FILE_NAME
