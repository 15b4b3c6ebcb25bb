"""What this machine has for models: cores, memory, GPUs and their free memory.

GPUs are counted by the files of their driver and by CUDA_VISIBLE_DEVICES, because the server imports no engine; their
memory is asked of `nvidia-smi`, once, and only where there are GPUs.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

GPUS_MAX = 32
ANSWER_S_MAX = 5
MIB = 1024 * 1024
_GPU = re.compile(r"nvidia\d+")


class Hardware(msgspec.Struct, frozen=True):
    """`gpus_mib`: free memory of each visible GPU, 0 where it cannot be told."""

    cores: int
    memory_mib: int
    gpus_mib: tuple[int, ...] = ()


def look() -> Hardware:
    """This machine. Blocks for as long as `nvidia-smi` takes, where there is a GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    count = gpus()
    free = (free_mib() if count else ())[:count]
    return Hardware(cores, memory // MIB, free + (0,) * (count - len(free)))


def gpus(folder: Path = Path("/dev"), environ: Mapping[str, str] | None = None) -> int:
    """GPUs that a worker will see."""
    environ = os.environ if environ is None else environ
    count = sum(1 for path in folder.glob("nvidia*") if _GPU.fullmatch(path.name))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = min(count, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))
    return min(count, GPUS_MAX)


def free_mib(program: str = "nvidia-smi") -> tuple[int, ...]:
    """Free memory of the GPUs, as the driver numbers them; none when it cannot be told."""
    command = [program, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(  # noqa: S603 - a program of our own choice
            command, check=True, capture_output=True, text=True, timeout=ANSWER_S_MAX
        )
        return tuple(int(line) for line in answer.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
