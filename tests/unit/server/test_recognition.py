"""What the workers are told: by the settings, and where these are silent by the tier."""

from pathlib import Path

import pytest

from server.config import Config, ConfigError
from server.hardware import Hardware
from server.models.choosing import Chosen, chosen
from server.models.tiers import GPU_MIB_MIN
from server.recognition import _devices, _settings
from tests.unit.server.models.test_cache import whisper


@pytest.mark.parametrize(
    ("gpus_mib", "settings", "devices"),
    [
        ((), {}, ("cpu", "cpu")),
        ((), {"engine": "package.module:Engine"}, ("auto",)),
        ((GPU_MIB_MIN,), {}, ("auto",)),
        ((GPU_MIB_MIN - 1,), {}, ("cpu",)),
        ((GPU_MIB_MIN - 1,), {"devices": "cuda:0"}, ("cuda:0",)),
        ((GPU_MIB_MIN - 1,), {"model": "base.en"}, ("auto",)),
        ((0,), {}, ("auto",)),
        ((GPU_MIB_MIN, GPU_MIB_MIN), {}, ("cuda:0", "cuda:1")),
        ((GPU_MIB_MIN,), {"devices": "cpu,cpu"}, ("cpu", "cpu")),
    ],
)
def test_where_the_workers_run(
    tmp_path: Path, gpus_mib: tuple[int, ...], settings: dict[str, str], devices: tuple[str, ...]
) -> None:
    config, machine = Config(**settings), Hardware(4, 16_384, gpus_mib)  # type: ignore[arg-type]
    assert _devices(config, chosen(config, machine, tmp_path), machine) == devices


def test_the_model_of_finals(tmp_path: Path) -> None:
    small = whisper(tmp_path, "small")
    assert _settings(Config(), Chosen(None, None, None, "base.en")) == {"PARLANCE_COMPUTE_TYPE": "auto"}
    assert _settings(Config(), Chosen(None, small, None, "base.en"))["PARLANCE_FINAL_MODEL"] == str(small)
    with pytest.raises(ConfigError, match="PARLANCE_FINAL_MODEL: no Whisper called medium is here"):
        _settings(Config(final_model="medium"), Chosen(None, None, None, "base.en"))
