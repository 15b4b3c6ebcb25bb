"""What a folder says about a models environment in it, by its files alone."""

from pathlib import Path

import pytest

from server.models.environment import MARKER, STAMP, as_pinned, find_uv, look, place, room, stamp_of

ROOT = Path(__file__).resolve().parents[4]
REAL = ROOT / ".venv-models"
LOCK = """torch==2.8.0 \\
    --hash=sha256:00
numpy==2.4.0 ; python_full_version < '3.12' \\
    --hash=sha256:00
numpy==2.5.0 ; python_full_version >= '3.12' \\
    --hash=sha256:00
pywin32==311 ; sys_platform == 'win32' \\
    --hash=sha256:00
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "models.txt"
    path.write_text(LOCK)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An environment that somebody else made."""
    path = tmp_path / "env"
    packages = path / "lib" / "python3.11" / "site-packages"
    for name in ("sentence_transformers", "torch", "whisperx", "torch-2.8.0.dist-info", "numpy-2.4.0.dist-info"):
        (packages / name).mkdir(parents=True)
    (path / "bin").mkdir()
    (path / "bin" / "python").touch()
    return path


def test_nothing_is_there(tmp_path: Path, lock: Path) -> None:
    assert not look(tmp_path / "none", lock).whole
    (tmp_path / "empty").mkdir()
    assert not look(tmp_path / "empty", lock).whole


def test_a_foreign_environment_is_taken_when_it_has_the_packages(folder: Path, lock: Path) -> None:
    found = look(folder, lock)
    assert (found.whole, found.ours) == (True, False)
    assert look(folder, lock.with_name("none")).whole, "an image has no pinned requirements"
    (folder / "lib" / "python3.11" / "site-packages" / "whisperx").rmdir()
    found = look(folder, lock)
    assert not found.whole
    assert "no whisperx" in found.text


def test_a_stamp_of_these_requirements_counts_and_another_does_not(folder: Path, lock: Path) -> None:
    (folder / STAMP).write_text(stamp_of(folder / "lib" / "python3.11" / "site-packages", lock) or "")
    found = look(folder, lock)
    assert (found.whole, found.ours) == (True, True)
    lock.write_text(LOCK + "six==1.17.0\n")
    found = look(folder, lock)
    assert (found.whole, found.ours) == (False, True)


def test_half_an_installation_never_counts(folder: Path, lock: Path) -> None:
    (folder / MARKER).write_text("0")
    assert not look(folder, lock).whole


def test_an_interpreter_that_is_gone_is_no_environment(folder: Path, lock: Path) -> None:
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nowhere/python")
    assert not look(folder, lock).whole


def test_as_pinned(folder: Path, lock: Path) -> None:
    assert as_pinned(folder, lock)
    packages = folder / "lib" / "python3.11" / "site-packages"
    (packages / "numpy-2.4.0.dist-info").rename(packages / "numpy-2.3.0.dist-info")
    assert not as_pinned(folder, lock), "another version"
    (packages / "numpy-2.3.0.dist-info").rmdir()
    assert as_pinned(folder, lock), "wanted on some machines only"
    (packages / "torch-2.8.0.dist-info").rmdir()
    assert not as_pinned(folder, lock)
    assert not as_pinned(folder, lock.with_name("none"))


def test_room_that_an_interrupted_installation_took_is_not_wanted_again(folder: Path) -> None:
    assert room(folder, 1) is None
    lack = room(folder, 10**18)
    assert lack is not None
    assert "it needs about 1000000000.0 GB" in lack.why
    (folder / MARKER).write_text(str(2 * 10**18))
    assert room(folder, 10**18) is None


def test_the_folder_that_a_setting_means(tmp_path: Path) -> None:
    assert place(None, tmp_path) == tmp_path / ".venv-models"
    assert place("off", tmp_path) is None
    assert place("/opt/models", tmp_path) == Path("/opt/models")


def test_uv_of_the_clone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert find_uv(tmp_path) is None
    uv = tmp_path / ".tools" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    assert find_uv(tmp_path) == uv


def test_the_real_one_is_recognised() -> None:
    lock = ROOT / "requirements" / "models.txt"
    if not (REAL / "bin" / "python").exists() or (REAL / MARKER).exists():
        pytest.skip("the models environment is not installed here")
    found = look(REAL, lock)
    assert found.whole or (REAL / STAMP).exists(), found.text
    assert as_pinned(REAL, lock) or (REAL / STAMP).exists()
