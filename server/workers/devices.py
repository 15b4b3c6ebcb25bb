"""Where the recogniser's models run: one worker process for each device of `PARLANCE_DEVICES`.

Policy: `auto` is one worker for each GPU where there are several; with one or none the engine looks for itself, and
falls back to the CPU where a GPU is there and cannot be used. A device may be named twice (`cpu,cpu`): two workers
share it, which uses many cores better than one decode with many threads.

GPUs are counted by the files of their driver and by CUDA_VISIBLE_DEVICES, because the server imports no engine.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

AUTO = "auto"
GPUS_MAX = 32
_GPU = re.compile(r"nvidia\d+")


def found(wanted: str, folder: Path = Path("/dev"), environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The devices to start a worker for. `wanted`: the setting, checked."""
    if wanted != AUTO:
        return tuple(wanted.split(","))
    environ = os.environ if environ is None else environ
    gpus = sum(1 for path in folder.glob("nvidia*") if _GPU.fullmatch(path.name))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = min(gpus, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))
    return tuple(f"cuda:{number}" for number in range(min(gpus, GPUS_MAX))) if gpus > 1 else (AUTO,)
