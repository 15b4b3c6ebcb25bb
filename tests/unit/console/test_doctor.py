"""The checks of `parlance doctor`, each on its good and its bad case."""

import socket
from pathlib import Path

import pytest
from aiohttp import web

from server import doctor
from server.config import Config
from server.doctor import Level
from server.hardware import Hardware
from server.models.cache import repo_folder
from server.models.catalogue import MODELS, TORCH_ALIGNERS
from server.models.environment import MARKER
from streaming.recogniser.card import Calibration, Padding, keep

TWO_CORES = Hardware(cores=2, memory_mib=8_192)


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


# --- engine -----------------------------------------------------------------------------------------------------------
def whisper(cache: Path, name: str) -> Path:
    """A Whisper in the cache, as far as names of files go."""
    folder = repo_folder(cache, MODELS[name].repo)
    path = folder / "snapshots" / "c0ffee"
    path.mkdir(parents=True)
    for file in ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt"):
        (path / file).write_text("")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c0ffee")
    return path


def test_the_engine_without_a_download_is_a_warning(tmp_path: Path) -> None:
    check = doctor.engine(Config(), tmp_path, TWO_CORES)
    assert check.level is Level.WARN
    assert "PocketSphinx" in check.text
    assert "`parlance models pull base.en`" in check.text
    assert "the running server fetches one" in check.text
    assert "the running server" not in doctor.engine(Config(offline=True), tmp_path, TWO_CORES).text
    assert "PARLANCE_ENGINE says so" in doctor.engine(Config(engine="pocketsphinx"), tmp_path, TWO_CORES).text
    assert doctor.engine(Config(engine="package.module:Engine"), tmp_path, TWO_CORES).level is Level.OK


def test_the_whisper_that_would_be_used_is_named(tmp_path: Path) -> None:
    whisper(tmp_path, "small")
    own = whisper(tmp_path / "elsewhere", "tiny.en")
    for config, said in (
        (Config(), "Whisper small, the first that is here for the tier balanced with few cores"),
        (Config(tier="fast"), "for the tier fast"),
        (Config(engine="whisperx"), "Whisper small"),
        (Config(model="small"), "Whisper small, as PARLANCE_MODEL says"),
        (Config(model=str(own)), "as PARLANCE_MODEL says"),
    ):
        check = doctor.engine(config, tmp_path, TWO_CORES)
        assert (check.level, said in check.text) == (Level.OK, True), check.text


def test_a_model_that_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    whisper(tmp_path, "small")
    check = doctor.engine(Config(model="base"), tmp_path, TWO_CORES)
    assert check.level is Level.WARN
    assert "PARLANCE_MODEL is base, which is not here; run `parlance models pull base`" in check.text
    check = doctor.engine(Config(model="base", engine="whisperx"), tmp_path, TWO_CORES)
    assert check.level is Level.FAIL
    assert "no Whisper called base is here" in check.text


def test_the_tier_says_what_comes_and_who_writes_the_finals(tmp_path: Path) -> None:
    many = Hardware(cores=16, memory_mib=32_768)
    assert "pull tiny.en`" in doctor.engine(Config(tier="fast"), tmp_path, TWO_CORES).text
    assert "(484 MB)" in doctor.engine(Config(tier="accurate"), tmp_path, TWO_CORES).text
    whisper(tmp_path, "base")
    whisper(tmp_path, "small")
    assert "small writes the finals" in doctor.engine(Config(), tmp_path, many).text
    assert "finals" not in doctor.engine(Config(), tmp_path, TWO_CORES).text


def test_how_the_model_is_padded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "ours"))
    assert doctor.padding(Config(), tmp_path, TWO_CORES) is None, "no Whisper hears"
    folder = whisper(tmp_path, "tiny.en")
    assert doctor.padding(Config(engine="pocketsphinx"), tmp_path, TWO_CORES) is None

    def said(level: Level, **settings: str) -> str:
        check = doctor.padding(Config(**settings), tmp_path, TWO_CORES)  # type: ignore[arg-type]
        assert check is not None
        assert check.level is level
        return check.text

    assert "the safe default" in said(Level.WARN)
    assert "the running server measures it" in said(Level.WARN)
    assert "`parlance models calibrate tiny.en`" in said(Level.WARN, engine="whisperx")
    assert "the running server" not in said(Level.WARN, engine="whisperx")
    keep(folder, Calibration("tiny.en", Padding(0, 1), True, 200, 0, 20.0, 320.0))
    assert said(Level.OK) == (
        "padded by 1 s, calibrated on synthetic speech: 20 ms of CPU a window, 320 padded to 30 s"
    )
    (folder / "parlance.json").write_text("{}")
    assert said(Level.OK) == "padded to 30 s, as its parlance.json says"
    (folder / "parlance.json").write_text("[]")
    assert "mend that file" in said(Level.FAIL)


def test_the_voice_detector_is_needed() -> None:
    assert doctor.voice_detector(lambda _: True).level is Level.OK
    assert doctor.voice_detector(lambda name: name != "silero_vad").level is Level.FAIL


# --- models environment, and what needs it ----------------------------------------------------------------------------
@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with pinned requirements and an installer, without an environment."""
    monkeypatch.setenv("PATH", "")
    path = tmp_path / "clone"
    (path / "requirements").mkdir(parents=True)
    (path / "requirements" / "models.txt").write_text("whisperx==3.8.6 --hash=sha256:00\n")
    uv = path / ".tools" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    return path


def installed(folder: Path) -> None:
    for name in ("sentence_transformers", "torch", "whisperx"):
        (folder / "lib" / "python3.11" / "site-packages" / name).mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").touch()


def test_the_models_environment_and_what_stands_in_its_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(config: Config) -> str:
        check = doctor.models_environment(config, root)
        assert check.level is Level.WARN
        return check.text

    monkeypatch.setattr(doctor.environment, "room_wanted", lambda _: 1)
    assert "the running server installs it" in said(Config())
    assert "without PARLANCE_OFFLINE" in said(Config(offline=True))
    monkeypatch.setattr(doctor.environment, "room_wanted", lambda _: 10**18)
    assert "GB are free" in said(Config())
    (root / ".tools" / "bin" / "uv").unlink()
    assert "uv, which installs it, was not found" in said(Config())
    (root / "requirements" / "models.txt").unlink()
    assert "set PARLANCE_MODELS_ENV" in said(Config())
    assert doctor.models_environment(Config(models_env="off"), root).level is Level.OK
    installed(root / ".venv-models")
    assert doctor.models_environment(Config(), root).level is Level.OK
    (root / ".venv-models" / MARKER).write_text("0")
    assert "half installed" in said(Config())


def test_what_needs_the_models_environment(root: Path, tmp_path: Path) -> None:
    cache, torch = tmp_path / "hub", tmp_path / "torch"
    for config in (Config(), Config(models_env="off")):
        assert doctor.vectors(config, root, cache).level is Level.WARN
        assert doctor.word_times(config, root, cache, torch).level is Level.WARN
    installed(root / ".venv-models")
    assert doctor.vectors(Config(), root, cache).level is Level.OK
    check = doctor.word_times(Config(), root, cache, torch)
    assert check.level is Level.WARN
    assert "`parlance models pull align-en`" in check.text
    torch.mkdir()
    (torch / TORCH_ALIGNERS["en"]).touch()
    assert doctor.word_times(Config(), root, cache, torch).text == "for en"


def test_models_of_ones_own_must_be_here(root: Path, tmp_path: Path) -> None:
    installed(root / ".venv-models")
    own = tmp_path / "own"
    own.mkdir()
    config = Config(embedding_model="somebody/vectors", align_model="somebody/aligner")
    for check in (doctor.vectors(config, root, tmp_path), doctor.word_times(config, root, tmp_path, tmp_path)):
        assert check.level is Level.WARN
        assert "`parlance models pull somebody/" in check.text
    (own / "config.json").write_text("{}")
    (own / "model.safetensors").touch()
    config = Config(embedding_model=str(own), align_model=str(own))
    for check in (doctor.vectors(config, root, tmp_path), doctor.word_times(config, root, tmp_path, tmp_path)):
        assert check.level is Level.OK


# --- remote recogniser ------------------------------------------------------------------------------------------------
async def served(status: int) -> tuple[web.AppRunner, str, list[str]]:
    keys: list[str] = []

    async def models(request: web.Request) -> web.Response:
        keys.append(request.headers.get("Authorization", ""))
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    return runner, f"http://127.0.0.1:{port}/v1/", keys


@pytest.mark.parametrize(("status", "level"), [(200, Level.OK), (404, Level.OK), (401, Level.WARN), (503, Level.WARN)])
async def test_the_remote_recogniser_is_asked(status: int, level: Level) -> None:
    runner, url, keys = await served(status)
    try:
        check = await doctor.remote(Config(remote_url=url, remote_key="sk-secret", remote_tenants=("acme",)))
    finally:
        await runner.cleanup()
    assert check.level is level
    assert keys == ["Bearer sk-secret"]
    assert "secret" not in check.text


async def test_a_remote_recogniser_that_is_not_there_is_a_warning() -> None:
    check = await doctor.remote(Config(remote_url="http://127.0.0.1:9", remote_tenants=("*",)))
    assert check.level is Level.WARN
    assert "cannot be reached" in check.text
