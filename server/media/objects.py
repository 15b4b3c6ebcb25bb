"""Shared storage as a port: named objects that are written once and are durable when `put` returns.

`Folder` is a folder that all nodes see (a mount, or a disk of one machine); `server.media.s3` is a bucket. A name
decides its content (`server.media.extents`), so writing one again is harmless and nothing is put conditionally.

obstore's own LocalStore neither syncs files nor folders, so a power cut could take what it called written: the folder
is done here, with a file that is whole and synced before it gets its name.

Boundary: files and requests, in threads. Invariant: every answer comes within `storage_answer_ms_max`, and a storage
that hangs (a lost NFS server) holds `storage_calls_max` threads and what they carry, not more.
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from server.config import ConfigError
from streaming.errors import NotFound, Unavailable
from streaming.limits import Limits

T = TypeVar("T")

RETRY_MS = 2_000
NEW_FOLDER = ".new"
"""Files on their way. No tenant is called so: ids have no dots."""
NEW_S_MAX = 3_600
"""What was not finished after an hour was left by a node that died."""
SURE_MAX = 4_096


class BlockingObjects(Protocol):
    """A kind of storage, for threads. Paths are `folder/name`; the caller makes them. Everything raises OSError when
    the storage does not do it."""

    def put(self, path: str, data: bytes) -> None:
        """Write an object whole; when this returns a power cut takes nothing of it."""
        ...

    def names(self, folder: str) -> list[str]:
        """The objects in a folder, in any order; what was put before, by any node, is among them."""
        ...

    def get(self, path: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of an object, fewer when it is shorter. Raises FileNotFoundError."""
        ...

    def delete(self, paths: Sequence[str]) -> None:
        """Absent ones are no error."""
        ...


class Objects:
    """The same for the loop. Everything raises `Unavailable`: it may have been done, or not, or will be."""

    def __init__(self, storage: BlockingObjects, limits: Limits) -> None:
        self._storage = storage
        self._threads = ThreadPoolExecutor(limits.storage_calls_max, thread_name_prefix="storage")
        self._slots = asyncio.Semaphore(limits.storage_calls_max)
        self._answer_s = limits.storage_answer_ms_max / 1000

    async def put(self, path: str, data: bytes) -> None:
        await self._ask(lambda: self._storage.put(path, data))

    async def names(self, folder: str) -> list[str]:
        return await self._ask(lambda: self._storage.names(folder))

    async def get(self, path: str, start: int, end: int) -> bytes:
        """Exactly these bytes. Raises `NotFound`."""
        try:
            data = await self._ask(lambda: self._storage.get(path, start, end))
        except Unavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NotFound("There is no such object.") from error
            raise
        if len(data) < end - start:
            raise NotFound("An object is shorter than its name says.")
        return data

    async def delete(self, paths: Sequence[str]) -> None:
        await self._ask(lambda: self._storage.delete(paths))

    def close(self) -> None:
        """Waits for nobody: a thread may hang for as long as its kernel likes."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, work: Callable[[], T]) -> T:
        """Nobody can end a thread: its slot is free when it ended, not when nobody waits for it any more."""
        try:
            async with asyncio.timeout(self._answer_s):
                await self._slots.acquire()
                running = asyncio.get_running_loop().run_in_executor(self._threads, work)
                running.add_done_callback(self._ended)
                return await asyncio.shield(running)
        except OSError as error:  # TimeoutError is one
            raise Unavailable("The storage of kept audio does not answer.", retry_after_ms=RETRY_MS) from error

    def _ended(self, call: "asyncio.Future[T]") -> None:
        self._slots.release()
        if not call.cancelled():
            call.exception()  # nobody may be waiting for it any more


class Folder:
    """`BlockingObjects` in a folder. It must exist: one that is made here would stand where a mount is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sure: set[Path] = set()
        """Folders that a power cut leaves."""

    def put(self, path: str, data: bytes) -> None:
        place, beside = self._root / path, self._root / NEW_FOLDER / secrets.token_hex(16)
        try:
            self._make_sure(place.parent)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fdatasync(file.fileno())
            beside.replace(place)
            _sync_folder(place.parent)
        except OSError as error:
            self._sure.discard(place.parent)
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise _other(error) from error

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self._root / folder)
        except FileNotFoundError as error:
            if self._root.is_dir():
                return []
            raise _other(error) from error

    def get(self, path: str, start: int, end: int) -> bytes:
        try:
            with (self._root / path).open("rb") as file:
                return os.pread(file.fileno(), end - start, start)
        except FileNotFoundError as error:
            if self._root.is_dir():
                raise
            raise _other(error) from error

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            (self._root / path).unlink(missing_ok=True)

    def _make_sure(self, folder: Path) -> None:
        """Once per folder: it and those above it are there, and stay."""
        if folder in self._sure:
            return
        (self._root / NEW_FOLDER).mkdir(mode=0o700, exist_ok=True)
        for left in (self._root / NEW_FOLDER).iterdir():
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > NEW_S_MAX:
                    left.unlink()
        for depth in range(len(folder.relative_to(self._root).parts)):
            one = self._root.joinpath(*folder.relative_to(self._root).parts[: depth + 1])
            one.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(one.parent)
        if len(self._sure) >= SURE_MAX:
            self._sure.clear()
        self._sure.add(folder)


def storage_of(url: str, limits: Limits) -> BlockingObjects:
    """What `PARLANCE_STORAGE_URL` names. Raises `ConfigError`."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        root = Path(unquote(parts.path))
        if not root.is_dir():
            raise ConfigError(f"PARLANCE_STORAGE_URL: {root} is no folder; create or mount it first")
        return Folder(root)
    from server.media.s3 import Bucket  # 20 MB that a folder does not need

    if not parts.netloc:
        raise ConfigError("PARLANCE_STORAGE_URL: s3://bucket/prefix names no bucket")
    try:
        return Bucket(parts.netloc, unquote(parts.path).strip("/"), limits)
    except ValueError as error:
        raise ConfigError(f"PARLANCE_STORAGE_URL: {error}") from error


def _other(error: OSError) -> OSError:
    """The same failure, but not FileNotFoundError: a missing root is no missing object."""
    return OSError(str(error))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
