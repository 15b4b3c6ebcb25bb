"""The signing secret: made once, private, the same for everybody who races for it."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.config import Config, ConfigError
from server.secret import FILE_NAME, signing_secret


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_configured_secret_comes_first(tmp_path: Path) -> None:
    assert signing_secret(Config(data_dir=tmp_path / "data", secret="c" * 32)) == "c" * 32
    assert not (tmp_path / "data").exists()


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "data")
    secret = signing_secret(config)
    assert len(bytes.fromhex(secret)) == 32
    assert signing_secret(config) == secret
    assert mode(config.data_dir) == 0o700
    assert mode(config.data_dir / FILE_NAME) == 0o600
    assert [path.name for path in config.data_dir.iterdir()] == [FILE_NAME], "no draft is left"


def test_racers_share_one_secret(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path / "data")
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: signing_secret(config), range(32)))) == 1


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 80])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ConfigError, match=FILE_NAME):
        signing_secret(Config(data_dir=tmp_path))


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="neither be read nor created"):
        signing_secret(Config(data_dir=tmp_path / "file" / "data"))
