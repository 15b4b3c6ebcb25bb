"""Who says how a Whisper is padded: its folder, a calibration of this user's, or nobody."""

import os
from pathlib import Path

import msgspec
import pytest

from streaming.recogniser.card import (
    CARD,
    FINGERPRINT_PAGES,
    PAGE_BYTES,
    Calibration,
    ModelCard,
    Padding,
    Source,
    calibration_of,
    calibrations_folder,
    card_of,
    fingerprint,
    keep,
    treatment_of,
)
from streaming.recogniser.engine import EngineUnavailable

SMALL = Padding(min_s=0, tail_s=1)
FOUND = Calibration("m", SMALL, True, words=200, differ=0, cpu_ms=20.0, padded_cpu_ms=170.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "parlance" / "models"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return weights(tmp_path / "model")


def weights(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.bin").write_bytes(bytes(range(256)) * 8_192)
    (folder / "config.json").write_text("{}")
    return folder


def test_its_own_card_is_believed_first_then_what_was_measured_then_nobody(model: Path) -> None:
    assert treatment_of(model).source is Source.DEFAULT
    assert card_of(model) == ModelCard(padding=Padding(30.0, 0.0))
    keep(model, FOUND)
    assert treatment_of(model).source is Source.CALIBRATED
    assert treatment_of(model).calibration == FOUND
    assert card_of(model) == ModelCard(padding=SMALL)
    (model / CARD).write_text('{"padding": {"min_s": 10}}')
    assert treatment_of(model).source is Source.CARD
    assert card_of(model).padding == Padding(min_s=10)
    (model / CARD).write_text('{"padding": 10}')
    with pytest.raises(EngineUnavailable, match="is no model card"):
        treatment_of(model)


def test_a_model_is_known_wherever_it_lies(model: Path, tmp_path: Path) -> None:
    keep(model, FOUND)
    assert calibration_of(weights(tmp_path / "copy")) == FOUND
    link = tmp_path / "link"
    link.symlink_to(model)
    assert calibration_of(link) == FOUND


def page(number: int, size: int) -> int:
    return number * (size - PAGE_BYTES) // (FINGERPRINT_PAGES - 1)


@pytest.mark.parametrize("number", [0, 31, FINGERPRINT_PAGES - 1])
def test_a_model_that_changed_is_not_treated_as_the_old_one(model: Path, number: int) -> None:
    keep(model, FOUND)
    data = bytearray((model / "model.bin").read_bytes())
    data[page(number, len(data)) + 17] ^= 1
    (model / "model.bin").write_bytes(data)
    assert treatment_of(model).source is Source.DEFAULT


def test_longer_weights_and_other_settings_are_another_model(model: Path) -> None:
    before = fingerprint(model)
    (model / "config.json").write_text('{"a": 1}')
    assert fingerprint(model) != before
    (model / "config.json").write_text("{}")
    assert fingerprint(model) == before
    with (model / "model.bin").open("ab") as file:
        file.write(bytes(1))
    assert fingerprint(model) != before
    same = []
    for size in (0, 1, 1_000_000, 2_000_000):
        (model / "model.bin").write_bytes(bytes(size))
        same.append(fingerprint(model))
    assert len(set(same)) == 4, "equal pages, other sizes"


def test_a_damaged_calibration_is_none(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = keep(model, FOUND)
    path.write_text('{"padding":')
    assert treatment_of(model).source is Source.DEFAULT
    assert "cannot be read" in caplog.text


def test_one_of_a_later_version_is_read(model: Path) -> None:
    path = keep(model, FOUND)
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(FOUND), "noise_db": 3}))
    assert calibration_of(model) == FOUND


def test_it_is_written_whole_or_not_at_all(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(model, FOUND)

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        keep(model, msgspec.structs.replace(FOUND, padding=Padding(min_s=5)))
    assert calibration_of(model) == FOUND
    assert len(os.listdir(cache)) == 1, "nothing half written is left"


def test_a_folder_that_cannot_be_made(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        keep(model, FOUND)
    assert treatment_of(model).source is Source.DEFAULT


def test_where_they_are_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibrations_folder() == cache
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert calibrations_folder() == tmp_path / "home" / ".cache" / "parlance" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert calibrations_folder() == tmp_path / "home" / ".cache" / "parlance" / "models"


def test_padding_in_words() -> None:
    assert [str(p) for p in (Padding(), SMALL, Padding(5, 2))] == [
        "padded to 30 s",
        "padded by 1 s",
        "padded by 2 s, to 5 s at least",
    ]
