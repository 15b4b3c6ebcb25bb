"""`parlance models` as a person runs it: list, pull, remove, their errors and exit statuses."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from server.models.catalogue import MODELS
from tests.support.hub import Hub, serving
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "tests" / "models" / "micro-whisper" / "en"
HANG_S = 400.0
HALF = 1_500_000


class Ran(msgspec.Struct, frozen=True):
    status: int
    out: str
    err: str


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        for name in ("base.en", "small", "tiny"):
            hub.add(MODELS[name].repo, MICRO)
        yield hub


class Shell:
    """Runs the program with a hub and a cache of its own."""

    def __init__(self, hub: Hub, home: Path) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PARLANCE_", "HF_", "TRANSFORMERS_"))}
        ours = {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
        self.environ = {**clean, **ours}
        self.cache = home / "hub"

    async def start(self, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "server", "models", *arguments,
            env={**self.environ, **settings}, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
            preexec_fn=heeds_sigint,
        )  # fmt: skip

    async def __call__(self, *arguments: str, **settings: str) -> Ran:
        return await ended(await self.start(*arguments, **settings))


def heeds_sigint() -> None:
    """Also where the tests run behind a shell: what is started with `&` ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def ended(process: asyncio.subprocess.Process) -> Ran:
    async with asyncio.timeout(HANG_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


@pytest.fixture
def models(hub: Hub, tmp_path: Path) -> Shell:
    return Shell(hub, tmp_path / "home")


async def test_pull_list_and_remove(models: Shell) -> None:
    empty = await models("list")
    assert empty.status == 0, empty.err
    assert "No models are here yet" in empty.out
    assert "base.en" in empty.out

    pulled = await models("pull", "default")
    assert pulled.status == 0, pulled.err
    assert (Path(pulled.out.strip()) / "model.bin").is_file(), "the folder, alone on stdout"
    assert "base.en: 100%" in pulled.err

    listed = await models("list")
    assert f"Here, in {models.cache}:" in listed.out
    (line,) = [line for line in listed.out.splitlines() if line.startswith("  base.en ")]
    assert line.endswith("taken for captions")
    assert "\n    base.en" not in listed.out, "not offered again"

    asked = await models("remove", "base.en")
    assert asked.status == 1
    assert "--yes" in asked.err
    removed = await models("remove", "default", "--yes")
    assert removed.status == 0, removed.err
    assert "3 MB are free again" in removed.err
    assert "No models are here yet" in (await models("list")).out


async def test_one_that_is_not_taken_says_so(models: Shell) -> None:
    await models("pull", "base.en")
    pulled = await models("pull", "small", "tiny", "small")
    assert pulled.status == 0, pulled.err
    assert len(pulled.out.split()) == 2
    assert "The server takes base.en" in pulled.err
    assert "PARLANCE_MODEL=small" in pulled.err
    chosen = await models("list", PARLANCE_MODEL="small")
    (line,) = [line for line in chosen.out.splitlines() if line.endswith("taken for captions")]
    assert line.startswith("  small ")
    assert "which is not here" in (await models("list", PARLANCE_MODEL="medium")).out
    own = await models("list", PARLANCE_MODEL=str(MICRO))
    assert f"taken for captions: {MICRO}" in own.out
    other = await models("list", PARLANCE_ENGINE="pocketsphinx")
    assert "taken for captions" not in other.out


async def test_an_interrupted_pull_goes_on(hub: Hub, models: Shell) -> None:
    hub.stall_at = {"model.bin": HALF}
    process = await models.start("pull", "tiny")
    await until(hub.stalled.is_set)
    await until(lambda: any(part.stat().st_size > HALF // 2 for part in models.cache.glob("*/blobs/*.incomplete")))
    process.send_signal(signal.SIGINT)
    interrupted = await ended(process)
    assert interrupted.status == 130
    assert interrupted.err.endswith("parlance: Interrupted.\n")
    assert "Traceback" not in interrupted.err
    half = await models("list")
    assert "incomplete: `parlance models pull tiny` goes on" in half.out
    hub.stall_at = {}
    hub.go_on.set()
    pulled = await models("pull", "tiny")
    assert pulled.status == 0, pulled.err
    assert hub.contents("model.bin")[-1].range_from is not None


@pytest.mark.parametrize(
    ("arguments", "settings", "status", "said"),
    [
        (("pull", "smal"), {}, 2, "did you mean small or small.en?"),
        (("pull", "tiny", "nonsense"), {}, 2, "There is no model called nonsense"),
        (("pull",), {}, 2, "Missing argument"),
        (("pull", "base"), {}, 1, "There is no Systran/faster-whisper-base on the hub"),
        (("pull", "tiny"), {"HF_ENDPOINT": "http://127.0.0.1:9"}, 3, "cannot be reached"),
        (("pull", "tiny"), {"PARLANCE_OFFLINE": "1"}, 2, "PARLANCE_OFFLINE is set"),
        (("pull", "tiny"), {"HF_HUB_OFFLINE": "1"}, 1, "HF_HUB_OFFLINE is set"),
        (("remove", "tiny", "--yes"), {}, 2, "There is no model tiny here"),
        (("list",), {"PARLANCE_PORT": "x"}, 2, "PARLANCE_PORT"),
    ],
)
async def test_errors_are_one_sentence(
    models: Shell, arguments: tuple[str, ...], settings: dict[str, str], status: int, said: str
) -> None:
    ran = await models(*arguments, **settings)
    assert ran.status == status, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err
    if "Usage" not in ran.err:
        assert len(ran.err.splitlines()) == 1


async def test_the_environment_cannot_be_installed_where_it_is_off_or_nothing_may_be_fetched(
    models: Shell, tmp_path: Path
) -> None:
    off = await models("environment", PARLANCE_MODELS_ENV="off")
    assert (off.status, off.out) == (2, "")
    assert off.err == "parlance: PARLANCE_MODELS_ENV is off; unset it, or name a folder.\n"
    offline = await models("environment", PARLANCE_MODELS_ENV=str(tmp_path / "env"), PARLANCE_OFFLINE="1")
    assert (offline.status, offline.err) == (1, "parlance: PARLANCE_OFFLINE is set, so nothing is installed.\n")
