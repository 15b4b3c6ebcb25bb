"""Kept audio: one append-only file of encoded bytes per recording.

Written before it is acknowledged as received, synced before it is acknowledged as durable; nothing else may touch the
file. Reading works while it is written. A write that fails half-way (full disk) is cut back, so the file always ends
at what was acknowledged.

Layout: `<data>/media/<tenant>/<recording>/audio.raw`, and for containers `audio.parts` beside it.
Invariant: the file never shrinks below what `append` returned.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from server.media import parts
from streaming.errors import NotFound, Unavailable

SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
FILE_NAME = "audio.raw"
PARTS_NAME = "audio.parts"


class Kept(msgspec.Struct, frozen=True):
    """The kept audio of a recording as a file. `changed_ns`: Unix time of the last write."""

    size: int
    changed_ns: int


class AudioLog:
    """One open log. Appends come from one stream; reads may come from anywhere."""

    def __init__(self, descriptor: int, end: int, executor: Executor) -> None:
        self._descriptor = descriptor
        self._end = end
        self._executor = executor

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

    async def sync(self) -> int:
        """Make everything appended so far survive a power cut; returns how many bytes that is."""
        end = self._end
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, os.fdatasync, self._descriptor)
        except OSError as error:
            raise Unavailable("The server cannot store audio at the moment.", retry_after_ms=2_000) from error
        return end

    def read_range(self, start: int, end: int) -> bytes:
        """Bytes [start, end), fewer at the end of the log."""
        return os.pread(self._descriptor, max(0, min(end, self._end) - start), start)

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

    def open(self, tenant_id: str, recording_id: str) -> AudioLog:
        """Open a recording's log for appending, creating it. Raises `Unavailable`."""
        path = self._path(tenant_id, recording_id)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            end = os.fstat(descriptor).st_size
        except OSError as error:
            raise Unavailable("The server cannot store audio at the moment.", retry_after_ms=2_000) from error
        return AudioLog(descriptor, end, self._executor)

    def size(self, tenant_id: str, recording_id: str) -> int:
        """Bytes kept of a recording. Raises `NotFound`."""
        return self.kept(tenant_id, recording_id).size

    def kept(self, tenant_id: str, recording_id: str) -> Kept:
        """Raises `NotFound`."""
        try:
            found = self._path(tenant_id, recording_id).stat()
        except OSError as error:
            raise NotFound("There is no audio of this recording.") from error
        return Kept(size=found.st_size, changed_ns=found.st_mtime_ns)

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

    # --- the places at which a container can be decoded from ------------------------------------------------------
    async def open_parts(
        self, tenant_id: str, recording_id: str, *, log_end: int, containers: Sequence[int]
    ) -> tuple[parts.PartLog, parts.PartTable]:
        """For the live stream: the list to go on with, and what is in it."""
        path = self._path(tenant_id, recording_id).with_name(PARTS_NAME)

        def opened() -> tuple[parts.PartLog, parts.PartTable]:
            return parts.PartLog.open(path, log_end=log_end, containers=containers)

        opening = asyncio.get_running_loop().run_in_executor(self._executor, opened)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda done: done.result()[0].close())
            raise

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
