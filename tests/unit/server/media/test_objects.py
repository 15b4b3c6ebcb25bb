"""A folder as shared storage: what is written is whole and stays, and a storage that hangs holds a bounded amount."""

import asyncio
import gc
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.config import ConfigError
from server.media.objects import NEW_FOLDER, NEW_S_MAX, Folder, Objects, storage_of
from server.media.shared import Watched
from streaming.errors import NotFound, Unavailable
from streaming.limits import LIMITS

QUICK = msgspec.structs.replace(LIMITS, storage_answer_ms_max=200, storage_calls_max=3)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_an_object_is_written_whole_and_only_its_owner_sees_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.names("t/r") == []
    folder.put("t/r/one", b"abc")
    folder.put("t/r/one", b"abcd")
    folder.put("t/r/two", b"")
    assert sorted(folder.names("t/r")) == ["one", "two"]
    assert folder.get("t/r/one", 1, 4) == b"bcd"
    assert files(tmp_path) == ["t/r/one", "t/r/two"]
    assert {(tmp_path / "t" / "r" / "one").stat().st_mode & 0o777, (tmp_path / "t").stat().st_mode & 0o777} == {
        0o600,
        0o700,
    }
    folder.delete(["t/r/one", "t/r/absent"])
    assert folder.names("t/r") == ["two"]


def test_everything_is_synced_before_it_is_called_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's bytes before it has its name, its name before the answer, and every folder above that was made."""
    done: list[str] = []
    fdatasync, fsync, replace = os.fdatasync, os.fsync, Path.replace

    def path_of(descriptor: int) -> str:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path))

    monkeypatch.setattr(os, "fdatasync", lambda fd: (done.append(f"data {path_of(fd)[:5]}"), fdatasync(fd))[1])
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(f"folder {path_of(fd)}"), fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append("named"), replace(a, b))[1])
    folder = Folder(tmp_path)
    folder.put("t/r/one", b"abc")
    assert done == ["folder .", "folder t", "data .new/", "named", "folder t/r"]
    done.clear()
    folder.put("t/r/two", b"abc")
    assert done == ["data .new/", "named", "folder t/r"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    folder.put("t/r/one", b"abc")

    def fail(_descriptor: int) -> None:
        raise OSError(5, "the disk is failing")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="the disk is failing"):
            folder.put("t/r/two", b"abc")
    assert files(tmp_path) == ["t/r/one"]
    folder.put("t/r/two", b"abc")
    assert sorted(folder.names("t/r")) == ["one", "two"]


def test_what_a_dead_node_left_half_written_is_removed(tmp_path: Path) -> None:
    Folder(tmp_path).put("t/r/one", b"abc")
    old, new = (tmp_path / NEW_FOLDER / name for name in ("old", "new"))
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (old.stat().st_mtime - NEW_S_MAX - 1,) * 2)
    Folder(tmp_path).put("t/q/one", b"abc")
    assert (old.exists(), new.exists()) == (False, True), "the newer one may be on its way"


async def test_a_folder_that_is_gone_is_away_and_nothing_is_absent_or_made(tmp_path: Path) -> None:
    """Absent would mean that there is no audio, and a new folder would stand where a mount is missing."""
    root = tmp_path / "mount"
    root.mkdir()
    objects = Objects(Folder(root), LIMITS)
    await objects.put("t/r/one", b"abc")
    root.rename(tmp_path / "aside")
    for asked in (
        objects.put("t/r/one", b"abc"),
        objects.put("t/q/one", b"abc"),
        objects.names("t/r"),
        objects.get("t/r/one", 0, 3),
    ):
        with pytest.raises(Unavailable):
            await asked
    assert not root.exists()
    (tmp_path / "aside").rename(root)
    await objects.put("t/r/two", b"abc")
    assert sorted(await objects.names("t/r")) == ["one", "two"]
    with pytest.raises(NotFound):
        await objects.get("t/r/three", 0, 3)
    with pytest.raises(NotFound):
        await objects.get("t/r/one", 0, 4)
    objects.close()


class Data(bytearray):
    """Bytes of which one can tell whether anybody holds them."""

    __hash__ = object.__hash__


class Hanging:
    """`BlockingObjects` of which nothing comes back before `answer` is set."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked = 0

    def put(self, path: str, data: bytes) -> None:
        self.names(path)
        del data

    def names(self, folder: str) -> list[str]:
        self.asked += 1
        self.answer.wait(60)
        return [folder]

    def get(self, path: str, start: int, end: int) -> bytes:
        return self.names(path)[0].encode()[start:end]

    def delete(self, paths: Any) -> None:
        self.names("")


async def test_a_storage_that_hangs_holds_a_bounded_amount_and_every_caller_gets_an_answer() -> None:
    storage = Hanging()
    objects = Objects(storage, QUICK)
    held: weakref.WeakSet[Data] = weakref.WeakSet()
    for _ in range(2):
        sent = [Data(b"abc") for _ in range(10)]
        held.update(sent)
        asked = [objects.put("t/r/x", data) for data in sent]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 10
        assert storage.asked == QUICK.storage_calls_max, "the others were never begun"
        del sent, asked, answers
        async with asyncio.timeout(60):  # nor does anything wait for its turn
            while len(held) > QUICK.storage_calls_max:
                await asyncio.sleep(0.01)
                gc.collect()
    storage.answer.set()
    async with asyncio.timeout(60):
        while True:
            try:
                assert await objects.names("t/r") == ["t/r"]
                break
            except Unavailable:
                continue
    objects.close()


async def test_whether_storage_works_is_known_from_puts_and_tried_when_there_are_none(tmp_path: Path) -> None:
    root = tmp_path / "mount"
    root.mkdir()
    watched = Watched(Folder(root), LIMITS)
    assert await watched.works()
    before = (root / ".probe").stat().st_mtime_ns
    assert await watched.works()
    assert (root / ".probe").stat().st_mtime_ns == before, "it answered just now"
    root.rename(tmp_path / "aside")
    with pytest.raises(Unavailable):
        await watched.put("t/r/x", b"abc")
    assert not await watched.works()
    (tmp_path / "aside").rename(root)
    assert await watched.works()
    watched.close()


def test_what_a_url_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    place = tmp_path / "a b"
    place.mkdir()
    storage_of(place.as_uri(), LIMITS).put("t/r/one", b"abc")
    assert (place / "t" / "r" / "one").exists()
    storage_of("s3://bucket/some/prefix", LIMITS)
    for url in ((tmp_path / "absent").as_uri(), "s3:///prefix"):
        with pytest.raises(ConfigError, match="PARLANCE_STORAGE_URL"):
            storage_of(url, LIMITS)
