"""Which Whisper is taken unasked: by the tier that is configured, the machine, and what is here.

Policy: `PARLANCE_TIER` says what matters; PARLANCE_MODEL, PARLANCE_FINAL_MODEL and PARLANCE_DEVICES rule over it, each
for itself. `auto` is "balanced", and "fast" on one core or with less than 2 GiB. Of a tier's models the first that is
here is taken; with none of them here any other one, the cheapest first, because every Whisper
hears better than PocketSphinx. Of a pair the multilingual one, because it was fetched on purpose. Where none is here
the tier's `fetch` comes in the background.

Figures (docs/benchmarks.md, FACTS of the design). Measured, int8, one thread, CPU of a live update of 5 s: tiny.en 77
ms, base.en 142, small.en 462; padded to 30 s 320, 640 and 2,000. About two updates a second of speech come in a stream
that speaks: so small.en wants about one core unpadded and four padded, base.en a third of a core, 1.3 padded. Estimated
by size, not measured: medium needs three times as much as small, large-v3 six times, its turbo decoder half of that.
GPU memory, estimated: two bytes for each parameter, and half a GiB of a batch's windows; nothing was run on a GPU.

Pure: `server.hardware` looks at the machine, `server.models.cache` at the disk.
"""

from collections.abc import Collection
from enum import Enum

import msgspec

from server.hardware import Hardware

FAST_CORES_MAX = 1
FAST_MEMORY_MIB_MAX = 2_048
"""base.en with its worker takes 0.4 GiB, the server and the database as much, and a machine of 2 GiB has others."""
MANY_CORES = 8
"""small padded to 30 s fills four; the other half is the server's, the database's and of a second stream."""
FINAL_MEMORY_MIB_MIN = 8_192
GPU_MIB_MIN = 2_560
"""base or small in float16 with a batch of windows; below, the CPU is taken."""
GPU_MIB_LARGE = 6_144
"""large-v3's 3.1 GB, its windows, and a GiB to spare."""
GPU_MIB_BOTH = 10_240
"""A turbo model for partials beside large-v3 for finals."""


class Tier(Enum):
    FAST = "fast"
    BALANCED = "balanced"
    ACCURATE = "accurate"


class Machine(Enum):
    """What hardware comes down to."""

    FEW_CORES = "few cores"
    MANY_CORES = "many cores"
    GPU = "a GPU"
    LARGE_GPU = "a large GPU"


class Line(msgspec.Struct, frozen=True):
    """`live`: models to take, the best before; `fetch`: what comes when none is here; `finals`: second models that
    write the finals, when one is here that is not the live one."""

    live: tuple[str, ...]
    fetch: str
    finals: tuple[str, ...] = ()


_TINY, _BASE, _SMALL, _MEDIUM = (
    ("tiny", "tiny.en"),
    ("base", "base.en"),
    ("small", "small.en"),
    ("medium", "medium.en"),
)
_TURBO = ("large-v3-turbo", "distil-large-v3")
_LARGE = ("large-v3", "large-v2")

TABLE: dict[tuple[Tier, Machine], Line] = {
    (Tier.FAST, Machine.FEW_CORES): Line(_TINY, "tiny.en"),
    (Tier.FAST, Machine.MANY_CORES): Line((*_BASE, *_TINY), "base.en"),
    (Tier.FAST, Machine.GPU): Line((*_BASE, *_SMALL, *_TINY), "base.en"),
    (Tier.FAST, Machine.LARGE_GPU): Line((*_SMALL, *_BASE, *_TINY), "small.en"),
    (Tier.BALANCED, Machine.FEW_CORES): Line((*_BASE, *_TINY, *_SMALL), "base.en"),
    (Tier.BALANCED, Machine.MANY_CORES): Line((*_BASE, *_SMALL, *_TINY), "base.en", _SMALL),
    (Tier.BALANCED, Machine.GPU): Line((*_SMALL, *_BASE, *_TINY), "small.en"),
    (Tier.BALANCED, Machine.LARGE_GPU): Line((*_TURBO, *_SMALL, *_MEDIUM, *_BASE), "large-v3-turbo"),
    (Tier.ACCURATE, Machine.FEW_CORES): Line((*_SMALL, *_BASE, *_TINY), "small.en"),
    (Tier.ACCURATE, Machine.MANY_CORES): Line((*_SMALL, *_BASE, *_TINY), "small.en", (*_MEDIUM, *_SMALL)),
    (Tier.ACCURATE, Machine.GPU): Line((*_SMALL, *_BASE, *_TINY), "small.en"),
    (Tier.ACCURATE, Machine.LARGE_GPU): Line((*_LARGE, *_TURBO, *_MEDIUM, *_SMALL), "large-v3"),
}
WITH_BOTH = Line((*_TURBO, *_SMALL, *_LARGE, *_MEDIUM), "large-v3-turbo", _LARGE)
"""Accurate, on a GPU that holds two: the turbo model keeps partials quick, large-v3 writes the finals."""
REST = (
    "base", "base.en", "tiny", "tiny.en", "small", "small.en",
    "distil-large-v3", "large-v3-turbo", "medium", "medium.en", "large-v3", "large-v2",
)  # fmt: skip
"""Behind a tier's own: what keeps up on two cores, the better one before, then the cheapest first."""


class Selection(msgspec.Struct, frozen=True):
    """`model`, `final_model`: of those that are here; `fetch`: what to get when none is; `device`, `compute_type`:
    where and how it runs, "auto" where the worker has to find out, because a GPU's memory cannot be told."""

    tier: Tier
    machine: Machine
    model: str | None
    final_model: str | None
    fetch: str
    device: str
    compute_type: str


def choose(wanted: str, hardware: Hardware, here: Collection[str]) -> Selection:
    """`wanted`: a tier's name, or "auto"; `here`: names of the catalogue's models on this machine."""
    machine = _machine(hardware)
    tier = _auto(hardware, machine) if wanted == "auto" else Tier(wanted)
    both = tier is Tier.ACCURATE and max(hardware.gpus_mib, default=0) >= GPU_MIB_BOTH
    line = WITH_BOTH if both else TABLE[tier, machine]
    model = next((name for name in (*line.live, *REST) if name in here), None)
    finals = line.finals if machine is not Machine.MANY_CORES or hardware.memory_mib >= FINAL_MEMORY_MIB_MIN else ()
    final = None if model is None else next((name for name in finals if name in here and _betters(name, model)), None)
    device, compute_type = "cpu", "int8"
    if machine in (Machine.GPU, Machine.LARGE_GPU):
        device, compute_type = "cuda", "float16"
    elif 0 in hardware.gpus_mib:
        device = compute_type = "auto"
    return Selection(tier, machine, model, final, line.fetch, device, compute_type)


def _machine(hardware: Hardware) -> Machine:
    free = max(hardware.gpus_mib, default=0)
    if free >= GPU_MIB_LARGE:
        return Machine.LARGE_GPU
    if free >= GPU_MIB_MIN:
        return Machine.GPU
    return Machine.MANY_CORES if hardware.cores >= MANY_CORES else Machine.FEW_CORES


def _auto(hardware: Hardware, machine: Machine) -> Tier:
    if machine is Machine.FEW_CORES and (hardware.cores <= FAST_CORES_MAX or hardware.memory_mib < FAST_MEMORY_MIB_MAX):
        return Tier.FAST
    return Tier.BALANCED


def _betters(final: str, live: str) -> bool:
    """Finals of that model are worth their cost, and it knows every language of the live one."""
    sizes = (_TINY, _BASE, _SMALL, _MEDIUM, _TURBO, _LARGE)
    first, second = (next(number for number, names in enumerate(sizes) if name in names) for name in (final, live))
    return first > second and (_is_english(live) or not _is_english(final))


def _is_english(name: str) -> bool:
    return name.endswith(".en") or name == "distil-large-v3"
