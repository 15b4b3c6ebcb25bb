"""The contract of kept audio: `ports.AudioReader` on the log on disk and on the fake, and what the disk adds to it."""

import asyncio
import os
import resource
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media.audiolog import FILE_NAME, AudioLog, MediaStore
from streaming.errors import NotFound, Unavailable
from streaming.ports import AudioReader
from tests.fakes.log import MemoryLog

DATA = bytes(range(256)) * 40


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def store(tmp_path: Path, executor: ThreadPoolExecutor) -> MediaStore:
    return MediaStore(tmp_path / "media", executor)


@contextmanager
def file_size_limited(n_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond `n_bytes`: a write is cut short there, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- the port ---------------------------------------------------------------------------------------------------------
@pytest.fixture(params=["memory", "disk"])
def log(request: pytest.FixtureRequest, store: MediaStore) -> MemoryLog | AudioLog:
    return MemoryLog() if request.param == "memory" else store.open("t", "r")


def test_what_was_appended_is_read_in_any_range(log: MemoryLog | AudioLog) -> None:
    at = 0
    for size in (0, 1, 7, 4_096, 0, 6_136):
        at += size
        assert log.append(DATA[at - size : at]) == at
    reader: AudioReader = log
    for start, end in [(0, at), (0, 0), (1, 2), (4_000, 4_200), (at - 1, at), (at, at)]:
        assert reader.read_range(start, end) == DATA[start:end]
    assert reader.read_range(at - 3, at + 100) == DATA[at - 3 : at], "shorter only at the end"
    assert reader.read_range(at, at + 100) == b""
    assert reader.read_range(at + 50, at + 100) == b""


# --- the disk ---------------------------------------------------------------------------------------------------------
async def test_a_log_that_is_opened_again_goes_on_at_its_end(store: MediaStore, tmp_path: Path) -> None:
    first = store.open("t", "r")
    first.append(DATA[:1_001])
    crashed = store.open("t", "r")  # nobody sealed the first one
    assert crashed.end == 1_001
    crashed.append(DATA[1_001:])
    assert await crashed.sync() == len(DATA)
    await crashed.seal()
    assert (tmp_path / "media" / "t" / "r" / FILE_NAME).read_bytes() == DATA
    assert store.size("t", "r") == len(DATA)
    assert await store.read("t", "r", 5, 50) == DATA[5:50]
    await first.seal()


def test_only_the_owner_may_look_into_the_folder(store: MediaStore, tmp_path: Path) -> None:
    store.open("t", "r").append(b"secret")
    path = tmp_path / "media" / "t" / "r"
    assert (path.stat().st_mode & 0o777, (path / FILE_NAME).stat().st_mode & 0o777) == (0o700, 0o600)


async def test_sync_says_how_much_was_there_when_it_began(store: MediaStore) -> None:
    log = store.open("t", "r")
    log.append(DATA)
    syncing = asyncio.ensure_future(log.sync())
    await asyncio.sleep(0)
    log.append(DATA)
    assert await syncing == len(DATA)
    assert await log.sync() == 2 * len(DATA)


async def test_a_sealed_log_takes_no_more(store: MediaStore) -> None:
    log = store.open("t", "r")
    log.append(DATA)
    await log.seal()
    await log.seal()
    with pytest.raises(Unavailable):
        log.append(b"late")
    assert log.end == store.size("t", "r") == len(DATA)


def test_a_write_that_is_cut_short_leaves_the_log_as_it_was(store: MediaStore) -> None:
    """The kernel writes what fits and then refuses: half a chunk must not stay."""
    log = store.open("t", "r")
    log.append(DATA[:1_000])
    with file_size_limited(1_500):
        with pytest.raises(Unavailable) as raised:
            log.append(DATA[1_000:])
        assert raised.value.retryable
        assert (log.end, store.size("t", "r")) == (1_000, 1_000)
        assert log.append(DATA[1_000:1_400]) == 1_400, "what fits is taken"
    log.append(DATA[1_400:])
    assert log.read_range(0, log.end) == DATA


def test_a_full_disk(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        store = MediaStore(folder, executor)
        log = store.open("t", "r")
        while log.end + len(DATA) <= 6 * len(DATA):  # 64 KiB are 6.4 of them
            log.append(DATA)
        with pytest.raises(Unavailable):
            log.append(DATA)
        taken = 6 * len(DATA)
        assert taken == log.end == store.size("t", "r")
        assert log.read_range(0, taken) == (DATA * 10)[:taken]
        os.close(log._descriptor)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_went_away_is_unavailable_and_nothing_else(store: MediaStore) -> None:
    """Not even cutting back works."""
    log = store.open("t", "r")
    log.append(DATA)
    os.close(log._descriptor)
    with pytest.raises(Unavailable):
        log.append(DATA)
    assert log.end == len(DATA)


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    (tmp_path / "media").write_text("a file where the folder should be")
    with pytest.raises(Unavailable):
        MediaStore(tmp_path / "media", executor).open("t", "r")


async def test_two_tenants_with_the_same_recording_id(store: MediaStore) -> None:
    for tenant in ("one", "two"):
        store.open(tenant, "r").append(tenant.encode())
    assert await store.read("one", "r", 0, 100) == b"one"
    assert await store.read("two", "r", 0, 100) == b"two"
    with pytest.raises(NotFound):
        store.size("three", "r")
    with pytest.raises(NotFound):
        await store.read("three", "r", 0, 1)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../r", "a/b", "/etc/passwd", "a\0b", "a\n", "a b", "é", "x" * 101, "..\\r", "~", "r."]
)
async def test_names_that_are_no_ids_are_refused_everywhere(store: MediaStore, tmp_path: Path, name: str) -> None:
    for tenant, recording in ((name, "r"), ("t", name)):
        with pytest.raises(NotFound):
            store.open(tenant, recording)
        with pytest.raises(NotFound):
            store.size(tenant, recording)
        with pytest.raises(NotFound):
            await store.read(tenant, recording, 0, 1)
    assert not list(tmp_path.rglob("*"))


@given(sizes=st.lists(st.integers(0, 900), max_size=12), limits=st.lists(st.integers(0, 3_000), max_size=12))
def test_whatever_fails_the_file_is_what_was_taken(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limits: list[int]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        store = MediaStore(tmp_path_factory.mktemp("walk"), pool)
        log = store.open("t", "r")
        expected = b""
        for number, size in enumerate(sizes):
            piece = bytes([number % 251]) * size
            with file_size_limited(limits[number] if number < len(limits) else 10_000_000):
                try:
                    log.append(piece)
                    expected += piece
                except Unavailable:
                    log = store.open("t", "r") if number % 2 else log
            assert log.read_range(0, log.end) == expected
            assert store.size("t", "r") == log.end == len(expected)
