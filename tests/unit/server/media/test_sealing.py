"""What a live stream puts into shared storage: when, in what sizes, and how it stays few objects."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from server.media.extents import chain
from server.media.parts import PartTable
from server.media.sealing import PartsOnTheWay
from server.media.shared import SharedMedia
from server.telemetry import METRICS
from streaming.errors import Unavailable
from streaming.limits import LIMITS
from streaming.model import Part
from tests.support.kept import shared

PIECE = bytes(range(250)) * 4
FEW = msgspec.structs.replace(LIMITS, extent_bytes_max=1_000, merge_extents=4, merge_bytes=8_000, storage_lists_max=3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "storage"
    made.mkdir()
    return made


@pytest.fixture
async def media(root: Path, tmp_path: Path) -> AsyncIterator[SharedMedia]:
    async with shared(root, tmp_path / "node", limits=FEW) as made:
        yield made


def objects(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "t" / "r").iterdir()) if (root / "t" / "r").exists() else []


async def test_bytes_wait_for_company_unless_the_stream_is_in_a_hurry(root: Path, media: SharedMedia) -> None:
    log = await media.open("t", "r")
    log.append(PIECE[:300])
    assert await log.sync() == 0
    log.append(PIECE[300:700])
    assert (await log.sync(), objects(root)) == (0, []), "the interval is not over"
    assert await log.sync(now=True) == 0, "it is on its way"
    assert await log.settle() == 700
    assert [(e.start, e.end) for e in (piece.extent for piece in chain(objects(root)).pieces)] == [(0, 700)]
    assert await log.sync() == 700
    await log.seal()
    assert len(objects(root)) == 1, "nothing is put twice"


async def test_a_node_that_waits_long_enough_puts_without_being_told(root: Path, tmp_path: Path) -> None:
    quick = msgspec.structs.replace(FEW, seal_interval_ms=1)
    async with shared(root, tmp_path / "node", limits=quick) as media:
        log = await media.open("t", "r")
        log.append(PIECE)
        async with asyncio.timeout(60):
            while await log.sync() < len(PIECE):
                await asyncio.sleep(0.005)
        await log.seal()


async def test_an_object_has_a_greatest_size(root: Path, media: SharedMedia) -> None:
    log = await media.open("t", "r")
    log.append(PIECE * 2 + PIECE[:1])
    assert await log.settle() == 2_001
    assert [path.stat().st_size for path in sorted((root / "t" / "r").iterdir())] == [1_000, 1_000, 1]
    await log.seal()


async def test_many_small_objects_become_few_and_the_audio_stays(root: Path, media: SharedMedia) -> None:
    log = await media.open("t", "r")
    data = b""
    for number in range(41):
        piece = PIECE[: 100 + number]
        data += piece
        log.append(piece)
        await log.settle()
        assert await media.read("t", "r", 0, 2**30) == data
    assert len(objects(root)) == 41 // FEW.merge_extents + 41 % FEW.merge_extents
    assert chain(objects(root)).end == len(data)
    await log.seal()
    assert await media.read("t", "r", 0, 2**30) == data


async def test_a_reader_that_has_an_old_list_reads_what_was_merged(root: Path, tmp_path: Path) -> None:
    async with shared(root, tmp_path / "a", limits=FEW) as one, shared(root, tmp_path / "b", limits=FEW) as two:
        log = await one.open("t", "r")
        for number in range(3):
            log.append(PIECE[number : number + 500])
            await log.settle()
        assert (await two.kept("t", "r")).size == 1_500
        log.append(PIECE[3:503])
        await log.settle()
        assert len(objects(root)) == 1
        assert await two.read("t", "r", 400, 1_100) == (PIECE[:500] + PIECE[1:501] + PIECE[2:502])[400:1_100]
        await log.seal()


async def test_remembered_lists_are_bounded(media: SharedMedia) -> None:
    for name in "abcdef":
        log = await media.open("t", name)
        log.append(PIECE)
        await log.seal()
        assert await media.read("t", name, 0, 2**30) == PIECE
    assert len(media._chains) == FEW.storage_lists_max


async def test_what_was_not_fetched_is_no_silence(root: Path, media: SharedMedia) -> None:
    """The spool has a hole there."""
    log = await media.open("t", "r")
    log.append(PIECE * 2)
    await log.seal()
    log = await media.open("t", "r", epoch=2)
    with pytest.raises(Unavailable):
        log.read_range(0, 100)
    await log.fetch(700)
    assert log.read_range(700, 2_000) == (PIECE * 2)[700:]
    with pytest.raises(Unavailable):
        log.read_range(699, 800)
    log.close()


async def test_the_first_bytes_are_here_at_once(media: SharedMedia) -> None:
    """They tell an encoding, with those that come next."""
    log = await media.open("t", "r")
    log.append(PIECE[:5])
    await log.seal()
    log = await media.open("t", "r", epoch=2)
    assert log.read_range(0, log.end) == PIECE[:5]
    log.close()


async def test_a_storage_that_is_away_is_tried_now_and_then(
    root: Path, media: SharedMedia, caplog: pytest.LogCaptureFixture
) -> None:
    log = await media.open("t", "r")
    root.rename(root.with_name("aside"))
    tries = METRICS.storage_failures.collect()[0].samples[0].value
    log.append(PIECE)
    settling = asyncio.ensure_future(log.settle())
    async with asyncio.timeout(60):
        while METRICS.storage_failures.collect()[0].samples[0].value < tries + 2:
            await log.sync()
            await asyncio.sleep(0.001)
    root.with_name("aside").rename(root)
    assert await settling == len(PIECE)
    assert [record.getMessage() for record in caplog.records] == ["storage does not take audio"]
    await log.seal()
    assert await media.read("t", "r", 0, 2**30) == PIECE


def test_places_wait_for_the_bytes_they_stand_at() -> None:
    """Or a successor with other bytes would find them in the list."""
    parts = [Part(at, at * 10, 0, 50) for at in (100, 200, 300)]
    way = PartsOnTheWay(PartTable())
    way.append(parts[:2])
    way.append(parts)
    assert way.before(200) == parts[:1]
    assert way.before(201) == parts[:2]
    way.told(parts[:2])
    assert way.before(1_000) == parts[2:]
    way.append(parts)
    assert way.before(1_000) == parts[2:]
    way.reset()
    way.append(parts)
    assert way.before(1_000) == parts
