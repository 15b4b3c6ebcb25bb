"""What is found of a machine, and what cannot be told of it."""

import os
from pathlib import Path

import pytest

from server import hardware


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_this_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = hardware.look()
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory_mib > 100
    assert found.gpus_mib == ()


def test_free_memory_is_what_the_driver_says(tmp_path: Path) -> None:
    assert hardware.free_mib(program(tmp_path / "smi", "printf '1024\\n40000\\n'")) == (1_024, 40_000)


@pytest.mark.parametrize("text", ["exit 9", "echo '[N/A]'", "exec /nonexistent"])
def test_memory_that_cannot_be_told(tmp_path: Path, text: str) -> None:
    assert hardware.free_mib(program(tmp_path / "smi", text)) == ()
    assert hardware.free_mib(str(tmp_path / "absent")) == ()


def test_each_visible_gpu_has_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: 3)
    monkeypatch.setattr(hardware, "free_mib", lambda: (9_000,))
    assert hardware.look().gpus_mib == (9_000, 0, 0)
