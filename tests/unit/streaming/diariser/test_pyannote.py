"""Which pipeline is taken, and what is made of its answer, without pyannote."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from streaming.diariser.pyannote import CONFIG, LOCALS_MAX, PIPELINES, parts_of, pipeline_folder
from streaming.model import SAMPLE_RATE

SECOND = SAMPLE_RATE
COMMIT = "c" * 40


def cached(cache: Path, name: str) -> Path:
    """A pipeline in the hub's cache."""
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text("pipeline:")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


def test_the_newest_pipeline_that_is_here_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert pipeline_folder(None) is None
    older = cached(tmp_path, PIPELINES[1])
    assert pipeline_folder(None) == older
    newer = cached(tmp_path, PIPELINES[0])
    assert pipeline_folder(None) == newer
    assert pipeline_folder(PIPELINES[1]) == older
    assert pipeline_folder("somebody/else") is None
    assert pipeline_folder("no name") is None
    (newer / CONFIG).unlink()
    assert pipeline_folder(None) == older, "one that is not whole does not hide another"


def test_a_folder_may_be_named(tmp_path: Path) -> None:
    assert pipeline_folder(str(tmp_path)) is None
    (tmp_path / CONFIG).write_text("pipeline:")
    assert pipeline_folder(str(tmp_path)) == tmp_path


class Annotation:
    """pyannote's, as far as it is asked."""

    def __init__(self, *said: tuple[str, float, float]) -> None:
        self._said = said

    def itertracks(self, *, yield_label: bool) -> Iterator[tuple[Any, int, str]]:
        assert yield_label
        for number, (label, start, end) in enumerate(self._said):
            yield SimpleNamespace(start=start, end=end), number, label


def test_turns_are_put_together_by_speaker() -> None:
    said = Annotation(("b", 0.5, 1.0), ("a", -0.1, 1.0), ("a", 1.01, 2.0), ("c", 2.0, 2.01), ("a", 3.0, 9.0))
    assert parts_of(said, 4 * SECOND) == [((0, 2 * SECOND), (3 * SECOND, 4 * SECOND)), ((SECOND // 2, SECOND),)]


def test_of_too_many_speakers_those_count_who_say_most() -> None:
    said = Annotation(*((f"s{n}", n, n + 0.2 + n / 100) for n in range(LOCALS_MAX + 5)))
    found = parts_of(said, 60 * SECOND)
    assert [spans[0][0] // SECOND for spans in found] == list(reversed(range(5, LOCALS_MAX + 5)))
