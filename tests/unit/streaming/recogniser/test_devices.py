"""Where a model is computed. No GPU is needed: what CTranslate2 would count is said."""

import stat
from pathlib import Path

import pytest

from streaming.recogniser import devices
from streaming.recogniser.devices import (
    CPU_BATCH_MAX,
    GPU_BATCH_MAX,
    GPU_SPARE_MIB,
    GPU_WINDOW_MIB,
    Device,
    batch_max,
    free_mib,
)
from streaming.recogniser.engine import EngineUnavailable

CPU = Device("cpu", 0, "int8")


def test_without_a_gpu_the_cpu() -> None:
    assert devices.devices("auto", "auto", count=lambda: 0) == [CPU]
    assert devices.devices("cpu", "float32", count=lambda: 0) == [Device("cpu", 0, "float32")]


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(EngineUnavailable, match=rf"PARLANCE_DEVICE: {device} is a GPU, and CTranslate2 sees none"):
        devices.devices(device, "auto", count=lambda: 0)


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cpu:0", "CPU"])
def test_another_word_is_refused(device: str) -> None:
    with pytest.raises(EngineUnavailable, match="is not one of auto, cpu, cuda, cuda:N"):
        devices.devices(device, "auto", count=lambda: 1)


def test_a_type_that_cannot_be_computed_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match=r"PARLANCE_COMPUTE_TYPE: 'float17' is not one of .*int8.* cpu can"):
        devices.devices("cpu", "float17", count=lambda: 0)


def test_a_batch_is_what_the_free_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))

    def answer(text: str) -> None:
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    gpu = Device("cuda", 3, "float16")
    assert batch_max(CPU) == CPU_BATCH_MAX
    assert batch_max(gpu) == CPU_BATCH_MAX, "no program"
    answer(f'[ "$1" = --id=3 ] && echo {GPU_SPARE_MIB + 5 * GPU_WINDOW_MIB}')
    assert batch_max(gpu) == 5
    answer("echo 10")
    assert batch_max(gpu) == 1
    answer("echo 1000000")
    assert batch_max(gpu) == GPU_BATCH_MAX
    answer("exit 9")
    assert free_mib(3) is None
    answer("echo '[N/A]'")
    assert free_mib(3) is None
