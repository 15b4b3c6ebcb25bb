"""The padding of real models is measured: by command, after a pull, and by the server beside its work.

The models are the tests' micro Whispers without their cards. What is measured of them is real: `en` needs little, so it
must not stay at 30 s; which step it is, is the model's own affair.
"""

import asyncio
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from server.models.cache import snapshot
from server.models.calibrating import CalibrationFailed, calibrate
from server.models.catalogue import MODELS
from streaming.recogniser.calibrate import PADDED, Step
from streaming.recogniser.card import CARD, Source, calibrations_folder, treatment_of
from tests.server.test_models_cli import Shell
from tests.support.hub import Hub, serving
from tests.support.models import ENGLISH
from tests.support.process import ROOT, ServerProcess, running
from tests.support.wire import wired

SPEECH = ROOT / "streaming" / "recogniser" / "speech" / "synthetic.ogg"
HANG_S = 400.0
"""A measurement takes 8 s of CPU, behind everything else."""
SWITCHED = "new streams take another engine"
FILES = ("config.json", "model.bin", "tokenizer.json", "vocabulary.json", "preprocessor_config.json")

pytestmark = pytest.mark.timeout(900)


def without_card(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(ENGLISH / name, folder / name)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's folders: of calibrations, and of the hub's models, which is returned."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path / "home" / "hub"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


async def test_the_command_measures_and_shows_both_columns(hub: Hub, cache: Path, tmp_path: Path) -> None:
    models = Shell(hub, tmp_path / "home")
    folder = without_card(tmp_path / "model")
    before = await models("list", PARLANCE_MODEL=str(folder))
    assert "padded to 30 s, the safe default" in before.out
    ran = await models("calibrate", str(folder))
    assert ran.status == 0, ran.err
    assert "measured on synthetic speech" in ran.err
    rows = [line.split("  ") for line in ran.err.splitlines() if line.startswith("  padded") and line.split()[-1]]
    assert rows[0][1] == "padded to 30 s"
    assert sum("chosen" in row for row in rows) == 1
    treatment = treatment_of(folder)
    assert treatment.source is Source.CALIBRATED
    found = treatment.calibration
    assert found is not None
    assert found.synthetic
    assert found.padding != PADDED
    assert found.differ == 0
    assert found.words > 200
    assert found.cpu_ms < found.padded_cpu_ms
    assert not (folder / CARD).exists(), "the folder is not ours"
    after = await models("list", PARLANCE_MODEL=str(folder))
    assert f"{found.padding}, calibrated on synthetic speech" in after.out


async def test_recordings_of_ones_own(cache: Path, tmp_path: Path) -> None:
    folder = without_card(tmp_path / "model")
    (tmp_path / "mine").mkdir()
    shutil.copyfile(SPEECH, tmp_path / "mine" / "meeting.ogg")
    (tmp_path / "mine" / "notes.txt").write_text("not audio")
    steps: list[Step] = []
    verdict = await calibrate(folder, "m", steps.append, speech=[tmp_path / "mine"], language="en")
    assert not verdict.synthetic
    assert verdict.chosen != PADDED
    assert len(verdict.rows) < 8
    assert steps[0] == Step(PADDED, 0, verdict.rows[0].windows)
    treatment = treatment_of(folder)
    assert (treatment.card.padding, treatment.source) == (verdict.chosen, Source.CALIBRATED)


def silence(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(48_000, "<i2").tobytes())
    return path


async def test_what_cannot_be_measured_says_why_and_keeps_nothing(cache: Path, tmp_path: Path) -> None:
    folder = without_card(tmp_path / "model")
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty").mkdir()
    quiet = silence(tmp_path / "quiet.wav")
    hum = (np.sin(np.arange(160_000) / 20) * 9_000).astype("<i2").tobytes()
    with wave.open(str(tmp_path / "hum.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(hum)
    for speech, said in (
        (tmp_path / "text.wav", "text.wav cannot be read as audio: "),
        (tmp_path / "empty", "There is no speech in "),
        (quiet, "There is no speech in "),
        (tmp_path / "hum.wav", "are needed to measure its padding."),
    ):
        with pytest.raises(CalibrationFailed) as raised:
            await calibrate(folder, "m", lambda _: None, speech=[speech])
        assert said in raised.value.message
        assert raised.value.message.count("\n") == 0
    (folder / "model.bin").write_bytes(b"nonsense")
    with pytest.raises(CalibrationFailed, match="cannot be loaded"):
        await calibrate(folder, "m", lambda _: None)
    assert not list(calibrations_folder().glob("*"))
    assert treatment_of(folder).source is Source.DEFAULT


async def test_a_place_that_cannot_be_written_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = without_card(tmp_path / "model")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    steps: list[Step] = []
    with pytest.raises(CalibrationFailed, match=r"cannot be written: .*; XDG_CACHE_HOME names another place\."):
        await calibrate(folder, "m", steps.append)
    assert not steps, "told before minutes of work"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("calibrate", "base.en"), 2, "There is no Whisper base.en here"),
        (("calibrate",), 2, "Missing argument"),
        (("calibrate", "base.en", "--speech", "absent.wav"), 2, "absent.wav"),
    ],
)
async def test_errors_are_one_sentence(
    hub: Hub, tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    ran = await Shell(hub, tmp_path / "home")(*arguments)
    assert ran.status == status
    assert said in ran.err
    assert "Traceback" not in ran.err


async def test_a_pull_measures_what_nobody_measured(hub: Hub, cache: Path, tmp_path: Path) -> None:
    hub.add(MODELS["tiny"].repo, ENGLISH)
    hub.add(MODELS["tiny.en"].repo, without_card(tmp_path / "model"))
    models = Shell(hub, tmp_path / "home")
    carded = await models("pull", "tiny")
    assert carded.status == 0, carded.err
    assert "measur" not in carded.err, "its card says it"
    pulled = await models("pull", "tiny.en")
    assert pulled.status == 0, pulled.err
    assert "measured on synthetic speech" in pulled.err
    folder = snapshot(cache, MODELS["tiny.en"].repo)
    assert folder is not None
    assert pulled.out.strip() == str(folder), "the folder, alone on stdout"
    assert treatment_of(folder).source is Source.CALIBRATED
    again = await models("pull", "tiny.en")
    assert "measur" not in again.err


def lines_with(server: ServerProcess, text: str) -> list[str]:
    return [line for line in server.output if text in line]


async def test_the_server_fetches_uses_measures_and_uses_it_better(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(MODELS["base.en"].repo, without_card(tmp_path / "model"))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with running(tmp_path / "data", engine="auto", tier="balanced", offline="0") as server:
        await until_told(server, SWITCHED)
        await until_told(server, "the padding is measured")
        await until_told(server, SWITCHED, times=2)
        folder = snapshot(cache, MODELS["base.en"].repo)
        assert folder is not None
        assert treatment_of(folder).source is Source.CALIBRATED
        account = await server.account("acme")
        async with wired(server.url, account.token) as wire:
            status = await wire.wait("server:status")
            tasks = [(task["name"], task["state"]) for task in status["tasks"]]
            assert tasks == [("whisper_model", "done"), ("whisper_padding", "done")]
            assert status["engine"] == {
                "name": "whisperx", "model": "base.en", "state": "ready", "notice": None, "tier": "balanced",
            }  # fmt: skip
    with running(tmp_path / "data", engine="auto", tier="balanced") as server:
        assert lines_with(server, "a tier chose the model")
        account = await server.account("acme")
        async with wired(server.url, account.token) as wire:
            status = await wire.wait("server:status")
            assert (status["engine"]["tier"], status["tasks"]) == ("balanced", []), "it was measured before"


async def until_told(server: ServerProcess, text: str, *, times: int = 1) -> None:
    async with asyncio.timeout(HANG_S):
        while len(lines_with(server, text)) < times:
            await asyncio.sleep(0.05)
