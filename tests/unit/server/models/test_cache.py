"""What is found in a Hugging Face cache, whoever filled it."""

from pathlib import Path

import pytest

from server.models.cache import find_whisper, installed, name_of, remove, repo_folder, snapshot, whispers
from server.models.catalogue import MODELS, Kind

WHISPER = ("config.json", "model.bin", "tokenizer.json", "vocabulary.json")
COMMIT = "c" * 40


def put(cache: Path, repo: str, names: tuple[str, ...] = WHISPER, *, ref: bool = True) -> Path:
    """A snapshot as the hub's library lays it out: links to blobs."""
    folder = repo_folder(cache, repo)
    path = folder / "snapshots" / COMMIT
    path.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for name in names:
        (folder / "blobs" / f"blob-{name}").write_bytes(b"x" * 100)
        (path / name).symlink_to(f"../../blobs/blob-{name}")
    if ref:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(COMMIT)
    return path


def whisper(cache: Path, name: str) -> Path:
    return put(cache, MODELS[name].repo)


def test_an_empty_cache(tmp_path: Path) -> None:
    assert installed(tmp_path / "none") == []
    assert whispers(tmp_path / "none") == frozenset()
    assert find_whisper("base.en", tmp_path / "none") is None


def test_a_whole_model_is_found_by_name_and_repository(tmp_path: Path) -> None:
    path = whisper(tmp_path, "tiny.en")
    assert find_whisper("tiny.en", tmp_path) == path
    assert find_whisper("Systran/faster-whisper-tiny.en", tmp_path) == path
    assert find_whisper("tiny", tmp_path) is None
    assert whispers(tmp_path) == {"tiny.en"}
    assert name_of(path) == "tiny.en"


def test_half_a_model_is_none(tmp_path: Path) -> None:
    whisper(tmp_path, "tiny")
    blob = repo_folder(tmp_path, MODELS["tiny"].repo) / "blobs" / "blob-model.bin"
    blob.rename(blob.with_name("blob-model.bin.incomplete"))
    put(tmp_path, MODELS["base.en"].repo, ref=False)
    assert whispers(tmp_path) == frozenset()
    assert snapshot(tmp_path, MODELS["base.en"].repo) is None, "not checked yet"
    assert [(model.name, model.complete, model.size_bytes) for model in installed(tmp_path)] == [
        ("tiny", False, 440),
        ("base.en", False, 400),
    ]


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    assert find_whisper(str(own), tmp_path / "cache") is None, "nothing inside"
    (own / "model.bin").write_bytes(b"x")
    assert find_whisper(str(own), tmp_path / "cache") == own
    assert name_of(own) == str(own)
    monkeypatch.chdir(tmp_path)
    assert find_whisper("own", tmp_path / "cache") == own, "relative to where the server was started"


def test_other_repositories(tmp_path: Path) -> None:
    put(tmp_path, "somebody/their-whisper")
    put(tmp_path, "somebody/an-image-model", ("config.json", "model.safetensors"))
    put(tmp_path, MODELS["align-de"].repo, ("config.json", "vocab.json", "pytorch_model.bin"))
    kinds = {model.name: (model.kind, model.complete) for model in installed(tmp_path)}
    assert kinds == {"align-de": (Kind.ALIGNMENT, True), "somebody/their-whisper": (Kind.WHISPER, True)}
    assert whispers(tmp_path) == frozenset(), "unknown ones are taken by name only"
    assert find_whisper("somebody/their-whisper", tmp_path) is not None
    assert find_whisper("somebody/an-image-model", tmp_path) is None


def test_removing(tmp_path: Path) -> None:
    whisper(tmp_path, "tiny")
    locks = tmp_path / ".locks" / repo_folder(tmp_path, MODELS["tiny"].repo).name
    locks.mkdir(parents=True)
    assert remove(tmp_path, MODELS["tiny"].repo) == 440
    assert installed(tmp_path) == []
    assert not locks.exists()


def test_strange_things_in_the_cache_harm_nothing(tmp_path: Path) -> None:
    (tmp_path / "models--x").mkdir()
    (tmp_path / "models--a--b").write_text("a file")
    (tmp_path / "version.txt").write_text("1")
    folder = repo_folder(tmp_path, MODELS["tiny"].repo)
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_bytes(b"\xff\xfe")
    assert [model.complete for model in installed(tmp_path)] == [False]
    assert find_whisper("tiny", tmp_path) is None
