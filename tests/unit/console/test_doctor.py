"""The checks of `parlance doctor`, each on its good and its bad case."""

import socket
from pathlib import Path

import pytest

from server import doctor
from server.config import Config
from server.doctor import Level


def test_an_old_python_fails() -> None:
    assert doctor.python((3, 10)).level is Level.FAIL
    assert doctor.python((3, 11)).level is Level.OK


def test_missing_packages_are_named() -> None:
    assert doctor.packages(lambda _: True).level is Level.OK
    check = doctor.packages(lambda name: name != "jwt")
    assert check.level is Level.FAIL
    assert "pyjwt" in check.text


def test_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.data_folder(tmp_path / "new" / "data").level is Level.OK
    assert not (tmp_path / "new").exists(), "looking changes nothing"
    (tmp_path / "file").write_text("")
    assert doctor.data_folder(tmp_path / "file" / "data").level is Level.FAIL
    monkeypatch.setattr(doctor, "FREE_BYTES_WANTED", 2**70)
    assert doctor.data_folder(tmp_path).level is Level.WARN
    monkeypatch.setattr(doctor, "FREE_BYTES_MIN", 2**70)
    assert doctor.data_folder(tmp_path).level is Level.FAIL


async def test_a_port_taken_by_something_else_fails() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        number = other.getsockname()[1]
        assert (await doctor.port(Config(port=number))).level is Level.FAIL, "bound, though nobody answers"
    assert (await doctor.port(Config(port=0))).level is Level.OK


async def test_a_database_that_does_not_answer_fails() -> None:
    check = await doctor.database(Config(database_url="postgresql://nobody@127.0.0.1:1/none"))
    assert check.level is Level.FAIL
    assert "PARLANCE_DATABASE_URL" in check.text
    assert "nobody" not in check.text, "the address may hold a password"


def test_the_engine_without_a_download_is_a_warning() -> None:
    assert doctor.engine(Config()).level is Level.WARN
    assert doctor.engine(Config(engine="package.module:Engine")).level is Level.OK


def test_the_voice_detector_is_needed() -> None:
    assert doctor.models(lambda _: True).level is Level.OK
    assert doctor.models(lambda name: name != "silero_vad").level is Level.FAIL
