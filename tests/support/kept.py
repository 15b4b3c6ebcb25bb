"""Shared storage for tests: a folder that nodes share, and a bucket of a real S3 server."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

from server.media.audiolog import MediaStore
from server.media.objects import Folder, storage_of
from server.media.shared import SharedMedia
from server.media.spool import Spool
from streaming.limits import LIMITS, Limits
from tests.support.s3 import BUCKET, S3Server


class Storage(Protocol):
    """Where nodes keep their parts. `stop` takes it away, `start` brings it back with what was in it; both block."""

    url: str
    environ: dict[str, str]

    def start(self) -> None: ...

    def stop(self) -> None: ...


class FolderStorage:
    """A folder; away means that something else has its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "storage"
        self.folder.mkdir(parents=True)
        self.url = self.folder.as_uri()
        self.environ: dict[str, str] = {}
        self._aside = self.folder.with_name("unmounted")

    def start(self) -> None:
        if self._aside.exists():
            self.folder.unlink()
            self._aside.rename(self.folder)

    def stop(self) -> None:
        if not self._aside.exists():
            self.folder.rename(self._aside)
            self.folder.write_bytes(b"a file where the folder should be")


class S3Storage:
    """A bucket; away means that its server does not run."""

    def __init__(self, folder: Path) -> None:
        self.server = S3Server(folder)
        self.url = f"s3://{BUCKET}/some/prefix"
        self.environ = self.server.environ

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()


@contextmanager
def stored(kind: str, folder: Path) -> Iterator[Storage]:
    """A storage that is there."""
    storage: Storage = FolderStorage(folder) if kind == "folder" else S3Storage(folder)
    storage.start()
    try:
        yield storage
    finally:
        storage.stop()


@asynccontextmanager
async def shared(
    storage: Storage | Path, folder: Path, *, node: str = "one", limits: Limits = LIMITS
) -> AsyncIterator[SharedMedia]:
    """A node's view of a storage. `folder`: its data folder."""
    with ThreadPoolExecutor(2) as executor:
        made = SharedMedia(
            Folder(storage) if isinstance(storage, Path) else storage_of(storage.url, limits),
            spool=Spool(folder / "spool", node),
            local=MediaStore(folder / "media", executor),
            executor=executor,
            limits=limits,
        )
        await made.begin()
        await made.answers()
        try:
            yield made
        finally:
            await made.close()
