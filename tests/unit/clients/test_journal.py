"""A bot's journal, cut where a kill may cut it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parlance_client import Journal, JournalError


def record(seq: int, room: str = "r", **fields: Any) -> dict[str, Any]:
    return {"room": room, "seq": seq, "text": f'"{seq}"\nÜ', **fields}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_records_come_back_in_order_with_every_room_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    given_ = [record(1, "a"), record(1, "b"), record(2, "a"), record(3, "a")]
    with Journal(path) as journal:
        assert (journal.after("a"), list(journal.records())) == (0, [])
        assert journal.record(given_[:2]) == 2
        assert journal.record(given_[2:]) == 2
        assert (journal.after("a"), journal.after("b"), journal.after("c")) == (3, 1, 0)
    with Journal(path) as journal:
        assert list(journal.records()) == given_
        assert (journal.after("a"), journal.after("b")) == (3, 1)
        assert journal.record([]) == 0


def test_what_is_there_already_is_left_out(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.record([record(1), record(2)])
        assert journal.record([record(1, text="again"), record(2), record(3), record(3)]) == 1
        assert [r["seq"] for r in journal.records()] == [1, 2, 3]
        assert next(journal.records())["text"] != "again"


@pytest.mark.parametrize("seqs", [[2], [1, 3], [0, 2]])
def test_a_gap_is_refused_whole(tmp_path: Path, seqs: list[int]) -> None:
    with Journal(tmp_path / "j") as journal:
        with pytest.raises(JournalError, match="does not follow"):
            journal.record([record(1, "other"), *(record(seq) for seq in seqs)])
        assert list(journal.records()) == []
        assert (journal.after("r"), journal.after("other")) == (0, 0)
        journal.record([record(1)])


def test_a_log_that_lost_its_beginning_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.record([record(1), record(2)])
        assert journal.skip("r", 3) == journal.skip("r", 1) == 0
        assert journal.skip("r", 10) == 7
        assert journal.skip("new", 5) == 4
        journal.record([record(10), record(5, "new")])
    with Journal(path) as journal:
        assert (journal.after("r"), journal.after("new")) == (10, 5)
        assert [r.get("skipped") for r in journal.records()] == [None, None, 7, 4, None, None]


@given(
    batches=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    cut=st.floats(0, 1),
    tail=st.sampled_from([b"", b"\0\0\0", b'{"room"', b'{"room":"r","seq":99}', b"\xff"]),
)
def test_cut_anywhere_it_holds_whole_records_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], cut: float, tail: bytes
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    with Journal(path) as journal:
        seq = 0
        for count in batches:
            journal.record([record(seq + n + 1) for n in range(count)])
            seq += count
    whole = path.read_bytes()
    kept = whole[: round(len(whole) * cut)]
    path.write_bytes(kept + tail)
    with Journal(path) as journal:
        assert journal.after("r") == kept.count(b"\n"), "a torn line is no record"
        journal.record([record(n + 1) for n in range(seq)])
    assert path.read_bytes() == whole, "as if nothing had been"


@pytest.mark.parametrize(
    "damaged",
    [b"x\n", b"{}\n", b'{"room":"r","seq":2}\n', b'{"room":"r","seq":1}\n{"room":"r","seq":1}\n', b"\n", b"[1]\n",
     b'{"room":"r","seq":-1,"skipped":-1}\n'],
)  # fmt: skip
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(damaged)
    with pytest.raises(JournalError, match=r"line [12]:"):
        Journal(path)
    assert path.read_bytes() == damaged


def test_one_process_has_it(tmp_path: Path) -> None:
    path = tmp_path / "j"
    program = "import sys; from parlance_client import Journal; Journal(sys.argv[1])"
    with Journal(path):
        with pytest.raises(JournalError, match="in use"):
            Journal(path)
        other = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
        assert other.returncode == 1
        assert "in use by another process" in other.stderr
    Journal(path).close()


def test_after_a_write_that_failed_it_is_closed_and_what_was_kept_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle of a record."""
    path = tmp_path / "j"
    journal = Journal(path)
    journal.record([record(1)])
    with monkeypatch.context() as patched:
        write = os.write
        calls = []

        def full(file: int, data: bytes) -> int:
            calls.append(len(data))
            if len(calls) > 1:
                raise OSError(28, "No space left on device")
            return write(file, bytes(data)[: len(data) // 2])

        patched.setattr("os.write", full)
        with pytest.raises(OSError, match="No space"):
            journal.record([record(2), record(3)])
    assert len(calls) == 2
    with pytest.raises(JournalError, match="closed"):
        journal.record([record(2)])
    with Journal(path) as again:
        assert again.after("r") in (1, 2)
        again.record([record(n) for n in (1, 2, 3)])
    assert [r["seq"] for r in lines(path)] == [1, 2, 3]


def test_every_record_is_synced_before_it_is_called_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda _: synced.append(path.stat().st_size))
    with Journal(path) as journal:
        synced.clear()
        journal.record([record(1), record(2)])
        assert synced == [path.stat().st_size]
