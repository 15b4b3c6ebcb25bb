"""The contract of kept audio: `server.media.ports` on a file, in a folder that nodes share, and in a real S3 bucket;
`ports.AudioReader` on the fake too; and what the local file adds to it."""

import asyncio
import os
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media.audiolog import FILE_NAME, FileLog, MediaStore
from server.media.ports import Media
from streaming.errors import Fenced, NotFound, Unavailable
from streaming.limits import LIMITS
from streaming.model import Part
from streaming.ports import AudioReader
from tests.fakes.log import MemoryLog
from tests.support.kept import shared, stored

DATA = bytes(range(256)) * 40
BAD_NAMES = ["", ".", "..", "../r", "a/b", "/etc/passwd", "a\0b", "a\n", "a b", "é", "x" * 101, "..\\r", "~", "r."]
SMALL = msgspec.structs.replace(LIMITS, extent_bytes_max=1_000, merge_extents=4, storage_reads_max=2)
"""So that some KB are many objects."""


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
class Kind(Protocol):
    """A node's view of the same kept audio, each time another node's (of a file: another process's)."""

    def __call__(self, name: str = "one") -> AbstractAsyncContextManager[Media]: ...


@pytest.fixture(params=["file", "folder", "s3"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kind]:
    if request.param == "file":

        @asynccontextmanager
        async def alone(name: str = "one") -> AsyncIterator[Media]:
            with ThreadPoolExecutor(2, thread_name_prefix=name) as executor:
                yield MediaStore(tmp_path / "media", executor)

        yield alone
        return
    with stored(request.param, tmp_path) as storage:
        for name, value in storage.environ.items():
            monkeypatch.setenv(name, value)
        yield lambda name="one": shared(storage, tmp_path / name, node=name, limits=SMALL)


def check_reading(log: AudioReader, at: int) -> None:
    for start, end in [(0, at), (0, 0), (1, 2), (4_000, 4_200), (at - 1, at), (at, at)]:
        assert log.read_range(start, end) == DATA[start:end]
    assert log.read_range(at - 3, at + 100) == DATA[at - 3 : at], "shorter only at the end"
    assert log.read_range(at, at + 100) == b""
    assert log.read_range(at + 50, at + 100) == b""


def test_the_fake_reads_any_range() -> None:
    check_reading(MemoryLog(DATA), len(DATA))


async def test_what_was_appended_is_read_in_any_range(kind: Kind) -> None:
    async with kind() as media:
        log = await media.open("t", "r")
        at = 0
        for size in (0, 1, 7, 4_096, 0, 6_136):
            at += size
            assert log.append(DATA[at - size : at]) == at
        check_reading(log, at)
        assert await media.read("t", "r", 3, 4_000) == DATA[3:4_000], "also by others, while it is written"
        assert (await media.kept("t", "r")).size == at
        await log.seal()


async def test_what_is_durable_is_there_at_another_node(kind: Kind) -> None:
    async with kind() as one, kind("two") as two:
        log = await one.open("t", "r")
        for at in range(0, len(DATA), 1_500):
            log.append(DATA[at : at + 1_500])
            durable = await log.sync(now=True)
            assert durable <= log.end
            if durable:
                assert (await two.kept("t", "r")).size >= durable
                assert await two.read("t", "r", 0, durable) == DATA[:durable]
        assert await log.settle() == len(DATA) == await log.sync()
        assert (await two.kept("t", "r")).size == len(DATA)
        for start, end in [(0, len(DATA)), (999, 1_001), (5_000, 2**30), (len(DATA), 2**30)]:
            assert await two.read("t", "r", start, end) == DATA[start:end]
            assert await asyncio.to_thread(two.read_now, "t", "r", start, end) == DATA[start:end]
        await log.seal()
        assert await two.read("t", "r", 0, 2**30) == DATA
        assert await two.kept("t", "r") == await one.kept("t", "r"), "the same bytes have the same version"


async def test_another_node_goes_on_at_the_end(kind: Kind) -> None:
    async with kind() as one, kind("two") as two:
        first = await one.open("t", "r")
        first.append(DATA[:4_001])
        await first.seal()
        second = await two.open("t", "r", epoch=2)
        assert second.end == 4_001
        await second.fetch(1_234)
        assert second.read_range(1_234, 2**30) == DATA[1_234:4_001]
        second.append(DATA[4_001:7_000])
        assert second.read_range(3_990, 5_000) == DATA[3_990:5_000], "across the border"
        await second.seal()
        third = await one.open("t", "r", epoch=3)
        await third.fetch(0)
        third.append(DATA[7_000:])
        assert third.read_range(0, 2**30) == DATA
        await third.settle()
        assert await two.read("t", "r", 0, 2**30) == DATA
        assert await one.read("t", "r", 6_990, 7_010) == DATA[6_990:7_010]
        await third.seal()
        assert await two.read("t", "r", 0, 2**30) == DATA == await one.read("t", "r", 0, 2**30)


async def test_a_node_that_died_leaves_what_was_durable(kind: Kind) -> None:
    async with kind("two") as two, kind() as one:
        log = await one.open("t", "r")
        log.append(DATA[:3_000])
        assert await log.settle() == 3_000
        log.append(DATA[3_000:5_000])  # and nobody seals it
        again = await two.open("t", "r", epoch=2)
        assert again.end in (3_000, 5_000), "a file has what this machine took"
        assert await two.read("t", "r", 0, 3_000) == DATA[:3_000]
        await again.seal()
        log.close()


async def test_a_sealed_log_takes_no_more(kind: Kind) -> None:
    async with kind() as media:
        log = await media.open("t", "r")
        log.append(DATA)
        await log.seal()
        await log.seal()
        log.close()
        with pytest.raises(Unavailable):
            log.append(b"late")
        assert log.end == (await media.kept("t", "r")).size == len(DATA)


async def test_claiming_makes_everything_durable(kind: Kind) -> None:
    async with kind() as one, kind("two") as two:
        log = await one.open("t", "r")
        log.append(DATA)
        assert await log.claim() == len(DATA)
        assert await two.read("t", "r", 0, 2**30) == DATA
        await log.seal()


async def test_places_to_begin_at_reach_the_next_node_and_listeners(kind: Kind) -> None:
    parts = [Part(at, 48_000 * (at // 500), 0, 100) for at in range(500, 10_000, 500)]
    async with kind() as one, kind("two") as two:
        log = await one.open("t", "r")
        keeper, known = await log.open_parts(containers=(0,), sample_48k=0)
        assert not list(known)
        for at in range(0, len(DATA), 2_000):
            log.append(DATA[at : at + 2_000])
            keeper.append([part for part in parts if part.offset < at + 4_000])  # it may hear what is not durable yet
            await log.settle()
        keeper.close()
        await log.seal()
        table = await asyncio.to_thread(two.parts_now, "t", "r", log_end=len(DATA), containers=(0,))
        assert list(table) == parts
        for sample in (0, 48_000 * 9, 48_000 * 30):
            again = await two.open("t", "r", epoch=2)
            keeper, known = await again.open_parts(containers=(0,), sample_48k=sample)
            assert list(known) == parts[-len(known) :]
            assert list(known) == parts or known[0].sample <= sample - 48_000 // 4
            keeper.append(parts)
            again.close()
            keeper.close()


async def test_a_ghost_writes_nothing_that_counts(kind: Kind, request: pytest.FixtureRequest) -> None:
    if "[file]" in request.node.name:
        pytest.skip("a file has one node, which stops a stream before it goes on with it")
    async with kind() as one, kind("two") as two, kind("three") as three:
        ghost = await one.open("t", "r")
        ghost.append(DATA[:2_000])
        await ghost.settle()
        taken = await two.open("t", "r", epoch=2)
        ghost.append(b"ghost" * 300)
        await ghost.settle()  # it believes so
        assert taken.end == 2_000
        await taken.fetch(0)
        taken.append(DATA[2_000:6_500])
        await taken.settle()
        ghost.append(b"ghost" * 900)  # enough that it merges, and removes what it merged
        await ghost.settle()
        assert await three.read("t", "r", 0, 2**30) == DATA[:6_500] == await two.read("t", "r", 0, 2**30)
        last = await three.open("t", "r", epoch=3)
        assert last.end == 6_500
        await last.fetch(0)
        last.append(DATA[6_500:])
        await last.seal()
        taken.append(b"ghost" * 200)
        await taken.seal()
        await ghost.seal()
        assert await one.read("t", "r", 0, 2**30) == DATA
        with pytest.raises(Fenced):
            await one.open("t", "r", epoch=2)


async def test_who_only_adopted_a_stream_takes_nothing_from_it(kind: Kind, request: pytest.FixtureRequest) -> None:
    """A node without its database goes on with its client while another one adopts the stream: what it called durable
    stays, as long as nobody else brought bytes for that place."""
    if "[file]" in request.node.name:
        pytest.skip("a file has one node")
    async with kind() as one, kind("two") as two:
        alone = await one.open("t", "r")
        alone.append(DATA[:2_000])
        await alone.settle()
        adopted = await two.open("t", "r", epoch=2)
        assert adopted.end == 2_000
        alone.append(DATA[2_000:5_000])
        assert await alone.settle() == 5_000
        await adopted.seal()
        back = await two.open("t", "r", epoch=3)
        assert back.end == 5_000
        await back.seal()
        claimed = await two.open("t", "r", epoch=4)
        assert await claimed.claim() == 5_000
        alone.append(b"other bytes")  # of another container, perhaps
        await alone.settle()
        assert (await one.open("t", "r", epoch=5)).end == 5_000
        await claimed.seal()
        await alone.seal()


async def test_two_tenants_with_the_same_recording_id(kind: Kind) -> None:
    async with kind() as one, kind("two") as two:
        for tenant in ("one", "two"):
            log = await one.open(tenant, "r")
            log.append(tenant.encode())
            await log.seal()
        assert await two.read("one", "r", 0, 100) == b"one"
        assert await two.read("two", "r", 0, 100) == b"two"
        with pytest.raises(NotFound):
            await two.kept("three", "r")
        with pytest.raises(NotFound):
            await two.read("three", "r", 0, 1)
        with pytest.raises(NotFound):
            await asyncio.to_thread(two.read_now, "three", "r", 0, 1)


async def test_names_that_are_no_ids_are_refused_everywhere(kind: Kind, tmp_path: Path) -> None:
    async with kind() as media:
        before = set(tmp_path.rglob("*"))
        for tenant, recording in [pair for name in BAD_NAMES for pair in ((name, "r"), ("t", name))]:
            for epoch in (1, 2):
                with pytest.raises(NotFound):
                    await media.open(tenant, recording, epoch=epoch)
            with pytest.raises(NotFound):
                await media.kept(tenant, recording)
            with pytest.raises(NotFound):
                await media.read(tenant, recording, 0, 1)
        assert set(tmp_path.rglob("*")) == before


# --- the local file ---------------------------------------------------------------------------------------------------
def opened(tmp_path: Path, executor: ThreadPoolExecutor) -> FileLog:
    return FileLog.open(tmp_path / "media" / "t" / "r" / FILE_NAME, executor)


def size_of(log: FileLog) -> int:
    return log.path.stat().st_size


def test_only_the_owner_may_look_into_the_folder(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    opened(tmp_path, executor).append(b"secret")
    path = tmp_path / "media" / "t" / "r"
    assert (path.stat().st_mode & 0o777, (path / FILE_NAME).stat().st_mode & 0o777) == (0o700, 0o600)


async def test_a_log_that_nobody_sealed_goes_on_at_its_end(store: MediaStore, tmp_path: Path) -> None:
    first = await store.open("t", "r")
    first.append(DATA[:1_001])
    crashed = await store.open("t", "r", epoch=2)
    assert crashed.end == 1_001
    crashed.append(DATA[1_001:])
    assert await crashed.sync() == len(DATA)
    assert (tmp_path / "media" / "t" / "r" / FILE_NAME).read_bytes() == DATA


async def test_sync_says_how_much_was_there_when_it_began(store: MediaStore) -> None:
    log = await store.open("t", "r")
    log.append(DATA)
    syncing = asyncio.ensure_future(log.sync())
    await asyncio.sleep(0)
    log.append(DATA)
    assert await syncing == len(DATA)
    assert await log.sync() == 2 * len(DATA)


def test_a_write_that_is_cut_short_leaves_the_log_as_it_was(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    """The kernel writes what fits and then refuses: half a chunk must not stay."""
    log = opened(tmp_path, executor)
    log.append(DATA[:1_000])
    with file_size_limited(1_500):
        with pytest.raises(Unavailable) as raised:
            log.append(DATA[1_000:])
        assert raised.value.retryable
        assert (log.end, size_of(log)) == (1_000, 1_000)
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
        log = opened(folder, executor)
        while log.end + len(DATA) <= 6 * len(DATA):  # 64 KiB are 6.4 of them
            log.append(DATA)
        with pytest.raises(Unavailable):
            log.append(DATA)
        taken = 6 * len(DATA)
        assert taken == log.end == size_of(log)
        assert log.read_range(0, taken) == (DATA * 10)[:taken]
        log.close()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_went_away_is_unavailable_and_nothing_else(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    """Not even cutting back works."""
    log = opened(tmp_path, executor)
    log.append(DATA)
    os.close(log._descriptor)
    with pytest.raises(Unavailable):
        log.append(DATA)
    assert log.end == len(DATA)


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    (tmp_path / "media").write_text("a file where the folder should be")
    with pytest.raises(Unavailable):
        await MediaStore(tmp_path / "media", executor).open("t", "r")


@given(sizes=st.lists(st.integers(0, 900), max_size=12), limits=st.lists(st.integers(0, 3_000), max_size=12))
def test_whatever_fails_the_file_is_what_was_taken(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limits: list[int]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        folder = tmp_path_factory.mktemp("walk")
        log = opened(folder, pool)
        expected = b""
        for number, size in enumerate(sizes):
            piece = bytes([number % 251]) * size
            with file_size_limited(limits[number] if number < len(limits) else 10_000_000):
                try:
                    log.append(piece)
                    expected += piece
                except Unavailable:
                    log = opened(folder, pool) if number % 2 else log
            assert log.read_range(0, log.end) == expected
            assert size_of(log) == log.end == len(expected)
