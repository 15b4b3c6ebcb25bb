"""Where a model is computed, and how many windows at once.

Policy: `auto` takes the first GPU that CTranslate2 sees, in float16, and goes on without it when the model cannot be
loaded there; without one the CPU in int8. A device that was asked for by name is used or refused. Several GPUs are
several workers, each with a `cuda:N` of its own.

Boundary: asks CTranslate2 and `nvidia-smi`; imported in worker processes only.
"""

import logging
import re
import subprocess
from collections.abc import Callable

import ctranslate2
import msgspec

from streaming.recogniser.engine import EngineUnavailable

CPU_BATCH_MAX = 8
"""A token costs each of eight windows a quarter of what it costs one alone, of sixteen hardly less; and a final waits
for the batch before it."""
GPU_BATCH_MAX = 64
"""As many utterances as are taken."""
GPU_WINDOW_MIB = 160
"""Of a window of 30 s in float16: large-v3's encoder needs 1,500 x 5,120 x 2 B for its widest layer and 20 x 1,500 x
1,500 x 2 B for its attention, its decoder 32 x 2 x 1,948 x 1,280 x 2 B for keys and values, less in smaller models:
computed, not measured."""
GPU_SPARE_MIB = 1_024
"""Left free: the allocator's rounding, and cuBLAS' workspaces."""
ANSWER_S_MAX = 10
_DEVICE = re.compile(r"cpu|cuda(?::(\d+))?")

log = logging.getLogger("parlance.worker")


class Device(msgspec.Struct, frozen=True):
    kind: str
    index: int
    compute_type: str

    def __str__(self) -> str:
        return (
            f"{self.kind}:{self.index} ({self.compute_type})" if self.kind == "cuda" else f"cpu ({self.compute_type})"
        )


def devices(
    device: str, compute_type: str, *, count: Callable[[], int] = ctranslate2.get_cuda_device_count
) -> list[Device]:
    """The devices to try, in this order. `device`: "auto", "cpu", "cuda" or "cuda:N"; `compute_type`: "auto" or one of
    CTranslate2's; `count`: of GPUs. Raises `EngineUnavailable`."""
    here = count()
    if device == "auto":
        wanted = [("cuda", 0), ("cpu", 0)] if here else [("cpu", 0)]
    else:
        match = _DEVICE.fullmatch(device)
        if match is None:
            raise EngineUnavailable(f"PARLANCE_DEVICE: {device!r} is not one of auto, cpu, cuda, cuda:N")
        index = int(match.group(1) or 0)
        if device != "cpu" and index >= here:
            seen = f"{here} of them" if here else "none"
            raise EngineUnavailable(f"PARLANCE_DEVICE: {device} is a GPU, and CTranslate2 sees {seen}")
        wanted = [("cpu" if device == "cpu" else "cuda", index)]
    return [Device(kind, index, _compute_type(kind, index, compute_type)) for kind, index in wanted]


def _compute_type(kind: str, index: int, wanted: str) -> str:
    supported = ctranslate2.get_supported_compute_types(kind, index)
    if wanted == "auto":
        return "int8" if kind == "cpu" else "float16" if "float16" in supported else "float32"
    if wanted not in supported:
        names = ", ".join(sorted(supported))
        raise EngineUnavailable(f"PARLANCE_COMPUTE_TYPE: {wanted!r} is not one of {names}, which {kind} can compute")
    return wanted


def batch_max(device: Device) -> int:
    """Windows that find room at once, with the model loaded already."""
    if device.kind == "cpu":
        return CPU_BATCH_MAX
    free = free_mib(device.index)
    if free is None:
        return CPU_BATCH_MAX
    return max(1, min(GPU_BATCH_MAX, (free - GPU_SPARE_MIB) // GPU_WINDOW_MIB))


def free_mib(index: int, program: str = "nvidia-smi") -> int | None:
    """Free memory of a GPU; None, with a line in the log, when it cannot be told."""
    command = [program, f"--id={index}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(  # noqa: S603 - a program and a number of our own
            command, check=True, capture_output=True, text=True, timeout=ANSWER_S_MAX
        )
        return int(answer.stdout.strip())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("the memory of GPU %d cannot be told: %s", index, type(error).__name__)
        return None
