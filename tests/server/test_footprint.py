"""What a running server has mapped: engines live in its workers, model libraries nowhere in the core."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import ServerProcess, running

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

ENGINES = ("pocketsphinx", "torch", "torchaudio", "ctranslate2", "whisperx")


@pytest.fixture
def sphinx(tmp_path: Path) -> Iterator[ServerProcess]:
    with running(tmp_path / "data", engine="pocketsphinx") as server:
        yield server


def mapped(pid: int) -> set[str]:
    """Packages of which the process has mapped a file."""
    files = Path(f"/proc/{pid}/maps").read_text()
    return set(re.findall(r"/site-packages/(\w+?)(?:\.libs)?/", files))


def test_engines_are_mapped_by_workers_alone(sphinx: ServerProcess) -> None:
    ours = mapped(sphinx.pid)
    assert "uvloop" in ours, "this is the server, and its packages are seen"
    assert ours.isdisjoint(ENGINES)
    router, *_ = sphinx.workers()
    assert "pocketsphinx" in mapped(router), "an engine in a process would be seen"
    assert "torch" not in mapped(router)
