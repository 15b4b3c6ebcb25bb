"""What no tracked file may hold: places of one machine, and, in locks, the hosts that packages came from."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = re.compile(r"^requirements/|(^|/)(package-lock\.json|uv\.lock|poetry\.lock|\.npmrc|uv\.toml|pip\.conf)$")
URL = re.compile(r"(?:https?|git|ssh)(?:\+\w+)?://")
MACHINE_PATH = re.compile(r"(?<![\w.~/-])(?:/(?:home|Users|root|work|private)/[\w.]|[A-Z]:\\Users\\)")
BINARY = frozenset({".png", ".jpg", ".ico", ".woff2", ".wav", ".flac", ".opus", ".webm", ".gz"})


def tracked() -> Iterator[tuple[str, str]]:
    """Names and texts of the repository's files."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a checkout of the repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix not in BINARY and path.is_file():
            yield name, path.read_text(errors="replace")


def lines_with(pattern: re.Pattern[str], name: str, text: str) -> list[str]:
    return [f"{name}:{n}: {line.strip()[:120]}" for n, line in enumerate(text.splitlines(), 1) if pattern.search(line)]


def test_locks_name_no_hosts() -> None:
    locks = [(name, text) for name, text in tracked() if LOCKS.search(name)]
    assert {"requirements/core.txt", "clients/js/package-lock.json"} <= {name for name, _ in locks}
    found = [line for name, text in locks for line in lines_with(URL, name, text)]
    assert not found, "\n".join(found)


def test_files_name_no_machine_paths() -> None:
    found = [line for name, text in tracked() for line in lines_with(MACHINE_PATH, name, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("pattern", "line", "caught"),
    [
        (URL, "six @ http" + "s://host/six.whl", True),
        (URL, "parlance @ git+http" + "s://host/p.git", True),
        (URL, "six==1.17 --hash=sha256:00", False),
        (MACHINE_PATH, "data = '/" + "home/kim/data'", True),
        (MACHINE_PATH, "see /" + "root/.cache", True),
        (MACHINE_PATH, "C:" + "\\Users\\kim", True),
        (MACHINE_PATH, "GET /v1/home/x", False),
        (MACHINE_PATH, "a ~/there/x", False),
    ],
)
def test_the_patterns(pattern: re.Pattern[str], line: str, caught: bool) -> None:
    assert bool(lines_with(pattern, "file", line)) is caught
