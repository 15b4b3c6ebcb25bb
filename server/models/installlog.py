"""Read what uv writes without a terminal: how far an installation is, and why it failed.

Its lines: "Resolved 124 packages in 292ms", "Downloading torch (846.9MiB)", " Downloaded torch", "Building x==1",
"Built x==1", "Prepared 124 packages in 20s", "Installed 124 packages in 2s"; small packages are not announced.

Pure. Invariant: `fraction` never falls.
"""

import re
from collections import deque
from typing import Literal

import msgspec

Cause = Literal["network", "disk", "checksum", "package", "other"]

UNITS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
RESOLVED, PREPARED, INSTALLED = 0.02, 0.95, 1.0
"""Shares of the work: linking the files into place takes 2 s of a minute."""
TAIL_LINES = 12
CAUSES: tuple[tuple[Cause, str, str], ...] = (
    ("disk", r"no space left|disk quota|os error 28\b", "the disk is full"),
    ("checksum", r"hash mismatch", "a downloaded package is not the pinned one"),
    (
        "network",
        r"dns error|failed to fetch|error sending request|connect(ion)? (refused|reset|error)|timed out|network|"
        r"request failed|error decoding response body|http status (server error|.*\(5\d\d)",
        "the package index cannot be reached",
    ),
    (
        "package",
        r"no solution|no wheels|failed to build|not found in the package registry|no matching|has no wheels",
        "a package does not exist for this Python or machine",
    ),
)
"""In this order: a full disk also breaks downloads, a wrong hash is reported as a failed one."""


class Failure(msgspec.Struct, frozen=True):
    """`why`: words that complete "The models environment cannot be installed: "; `detail`: uv's own last lines."""

    cause: Cause
    why: str
    detail: str


class InstallLog:
    """Feed it the lines; look at `fraction` (0..1) and `step`."""

    def __init__(self) -> None:
        self.fraction = 0.0
        self.step = "looking for the packages"
        self.announced_bytes = 0
        self.finished_bytes = 0
        self._sizes: dict[str, int] = {}
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def feed(self, line: str) -> None:
        text = line.strip()
        if text:
            self._tail.append(text)
        if re.match(r"(Resolved|Checked|Audited) \d+ packages?", text):
            self._reach(RESOLVED if text.startswith("Resolved") else INSTALLED, "downloading")
        elif found := re.match(r"Downloading (\S+) \(([\d.]+)(B|KiB|MiB|GiB)\)", text):
            size = round(float(found[2]) * UNITS[found[3]])
            self.announced_bytes += size - self._sizes.get(found[1], 0)
            self._sizes[found[1]] = size
            self._count("downloading")
        elif found := re.match(r"Downloaded (\S+)", text):
            self.finished_bytes += self._sizes.get(found[1], 0)
            self._count("downloading")
        elif re.match(r"Building ", text):
            self.step = "building a package"
        elif re.match(r"Prepared \d+ packages?", text):
            self._reach(PREPARED, "putting the files in place")
        elif re.match(r"Installed \d+ packages?", text):
            self._reach(INSTALLED, "installed")

    def written(self, written_bytes: int, expected_bytes: int) -> None:
        """What the installer has written to the disk: finer than finished downloads, which all finish late."""
        if expected_bytes > 0:
            share = min(1.0, written_bytes / expected_bytes)
            self.fraction = max(self.fraction, share * PREPARED)

    def failure(self) -> Failure:
        """Why it ended without success."""
        detail = "\n".join(self._tail)
        for cause, pattern, why in CAUSES:
            if re.search(pattern, detail, re.IGNORECASE):
                return Failure(cause, why, detail)
        last = next((line for line in self._tail if line.startswith("error")), "the installer gave no reason")
        return Failure("other", last.removeprefix("error:").strip(), detail)

    def _count(self, step: str) -> None:
        share = self.finished_bytes / self.announced_bytes if self.announced_bytes else 0.0
        self._reach(RESOLVED + share * (PREPARED - RESOLVED), step)

    def _reach(self, fraction: float, step: str) -> None:
        self.step = step
        self.fraction = max(self.fraction, fraction)
