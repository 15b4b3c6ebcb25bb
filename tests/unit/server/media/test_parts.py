"""The list of parts: only what can be believed is used, and it never has a hole."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media.parts import RECORD_BYTES, PartLog, PartTable, is_part, load, record_of, save, sound_records
from streaming.model import Encoding, Part
from tests.contract.test_audio_log import file_size_limited

PARTS = [Part(1_000 * n + 130, 48_000 * n, 0, 130) for n in range(1, 40)]
DATA = b"".join(map(record_of, PARTS))
END = 1_000_000


def sound(data: bytes, *, log_end: int = END, containers: tuple[int, ...] = (0,)) -> list[Part]:
    return list(PartTable(sound_records(data, log_end=log_end, containers=containers)))


def test_what_was_written_comes_back() -> None:
    assert sound(DATA) == PARTS
    assert sound(b"") == []


@given(st.integers(0, len(DATA)), st.binary(max_size=100))
def test_a_torn_or_overwritten_end_costs_only_itself(cut: int, garbage: bytes) -> None:
    whole = cut // RECORD_BYTES
    assert sound(DATA[:cut]) == PARTS[:whole]
    assert sound(DATA[:cut] + bytes(200)) == PARTS[:whole]
    assert sound(DATA[:cut] + garbage)[:whole] == PARTS[:whole]


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_after_a_changed_byte_nothing_is_believed(place: int, change: int) -> None:
    data = DATA[:place] + bytes([DATA[place] ^ change]) + DATA[place + 1 :]
    assert sound(data) == PARTS[: place // RECORD_BYTES]


def test_parts_of_bytes_that_are_gone_or_of_another_container_are_not_believed() -> None:
    assert sound(DATA, log_end=PARTS[10].offset) == PARTS[:10]
    assert sound(DATA, log_end=PARTS[10].offset + 1) == PARTS[:11]
    assert sound(DATA, containers=(0, PARTS[5].offset)) == PARTS[:5]
    behind = Part(50_000, 10**7, 45_000, 130)
    assert sound(DATA + record_of(behind), containers=(0, 45_000)) == [*PARTS, behind]
    assert sound(DATA + record_of(behind), containers=(0, 45_001)) == PARTS


@pytest.mark.parametrize(
    "part",
    [
        PARTS[-1], Part(PARTS[-1].offset + 1, PARTS[-1].sample, 0, 130), Part(0, 2**30, 0, 130),
        Part(90_000, 2**30, 0, 0), Part(90_000, 2**30, 89_000, 1_001), Part(90_000, 2**30, 91_000, 5),
        Part(2**63, 2**63, 0, 130), Part(90_000, 2**40, 0, 130),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_not_believed(part: Part) -> None:
    assert sound(DATA + record_of(part)) == PARTS


def test_a_log_goes_on_behind_what_can_be_believed(tmp_path: Path) -> None:
    path = tmp_path / "audio.parts"
    log, table = PartLog.open(path, log_end=END, containers=(0,))
    assert len(table) == 0
    log.append(PARTS[:20])
    log.append(PARTS[10:25])  # a decoder that began before the end meets some again
    log.append([])
    log.close()
    log.append(PARTS[25:])  # the stream is over
    assert list(load(path, log_end=END, containers=(0,))) == PARTS[:25]
    with path.open("ab") as file:
        file.write(b"torn")
    log, table = PartLog.open(path, log_end=PARTS[20].offset, containers=(0,))
    assert list(table) == PARTS[:20]
    assert path.stat().st_size == 20 * RECORD_BYTES, "what is no longer true is gone"
    log.append(PARTS[18:])
    log.close()
    assert list(load(path, log_end=END, containers=(0,))) == PARTS


def test_a_list_of_other_audio_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "audio.parts"
    path.write_bytes(DATA)
    log, _ = PartLog.open(path, log_end=END, containers=(0,))
    assert is_part(Encoding.OGG_OPUS, b"OggS")
    assert not is_part(Encoding.WEBM_OPUS, b"OggS")
    log.reset()
    log.append(PARTS[:2])
    log.close()
    assert list(load(path, log_end=END, containers=(0,))) == PARTS[:2]


def test_a_full_disk_leaves_no_hole_and_hurts_nobody(tmp_path: Path) -> None:
    path = tmp_path / "audio.parts"
    log, _ = PartLog.open(path, log_end=END, containers=(0,))
    log.append(PARTS[:3])
    with file_size_limited(3 * RECORD_BYTES + 7):
        log.append(PARTS[3:5])
    log.append(PARTS[5:])
    log.close()
    assert list(load(path, log_end=END, containers=(0,))) == PARTS[:3]
    nowhere, table = PartLog.open(tmp_path / "no" / "folder", log_end=END, containers=(0,))
    nowhere.append(PARTS)
    nowhere.close()
    assert len(table) == 0


def test_a_new_list_takes_the_old_ones_place_whole(tmp_path: Path) -> None:
    path = tmp_path / "audio.parts"
    path.write_bytes(DATA[:100])
    save(path, PartTable(DATA))
    assert list(load(path, log_end=END, containers=(0,))) == PARTS
    assert os.listdir(tmp_path) == ["audio.parts"]
    save(tmp_path / "no" / "folder", PartTable(DATA))


def test_a_table_is_a_sequence() -> None:
    table = PartTable()
    for part in PARTS:
        table.append(part)
    assert (table[0], table[-1], len(table)) == (PARTS[0], PARTS[-1], len(PARTS))
    assert all(a.offset < b.offset for a, b in pairwise(table))
    with pytest.raises(IndexError):
        table[len(PARTS)]
