"""The models environment is installed by the real uv from a small index: whole, interrupted, refused."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from server.models.environment import MARKER, STAMP, ModelsEnvironment, find_uv, look
from streaming.aio import Scope, cancel_and_wait
from streaming.limits import LIMITS, Limits
from tests.support.packages import NAME, Index, serving
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 60.0
UV = find_uv(ROOT)
SMALL = msgspec.structs.replace(LIMITS, models_room_bytes=50_000_000, models_retry_ms_min=50, models_installed_bytes=1)

pytestmark = pytest.mark.skipif(UV is None, reason="uv is not here; `make run` fetches it")

OWNER = """
import asyncio, sys
from pathlib import Path
import msgspec
from server.models.environment import ModelsEnvironment
from streaming.limits import LIMITS
limits = msgspec.structs.replace(LIMITS, models_room_bytes=50_000_000)
folder, requirements, uv = map(Path, sys.argv[1:])
asyncio.run(ModelsEnvironment(folder, requirements=requirements, uv=uv, offline=False, limits=limits).run())
"""
"""A server that does nothing but install: it can be killed."""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "300")
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    with serving() as index:
        yield index


class Trial:
    """An environment of this test, and every task that it told."""

    def __init__(
        self, tmp_path: Path, requirements: str, *, uv: Path | None = UV, offline: bool = False, limits: Limits = SMALL
    ) -> None:
        self.folder = tmp_path / "env"
        self.requirements = tmp_path / "models.txt"
        self.requirements.write_text(requirements)
        self.told: list[tuple[str, str]] = []
        self.environment = ModelsEnvironment(
            self.folder, requirements=self.requirements, uv=uv, offline=offline, limits=limits, on_change=self._changed
        )

    def _changed(self) -> None:
        task = self.environment.task
        self.told.append((task.state, task.text) if task is not None else ("none", ""))

    async def run(self) -> None:
        async with asyncio.timeout(HANG_S):
            await self.environment.run()

    @property
    def states(self) -> list[str]:
        """What was told, without repetition."""
        states = [state for state, _ in self.told]
        return [state for place, state in enumerate(states) if place == 0 or states[place - 1] != state]

    def answer(self) -> str:
        """What the installed package says."""
        command = [str(self.environment.python), "-c", f"import {NAME}, sys; sys.stdout.write(str({NAME}.ANSWER))"]
        return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True).stdout


async def test_it_is_installed_and_found_again(index: Index, tmp_path: Path) -> None:
    trial = Trial(tmp_path, index.requirements())
    await trial.run()
    assert trial.environment.state == "ready"
    await trial.environment.ready()
    assert trial.answer() == "42"
    assert trial.states == ["running", "done"]
    assert trial.environment.task is not None
    assert trial.environment.task.fraction == 1.0
    assert not (trial.folder / MARKER).exists()

    index.status = 500
    again = Trial(tmp_path, index.requirements(), offline=True)
    await again.run()
    assert again.environment.state == "ready"
    assert again.environment.task is None, "nothing to tell"


async def test_other_requirements_are_installed_over_it(index: Index, tmp_path: Path) -> None:
    await Trial(tmp_path, index.requirements()).run()
    changed = Trial(tmp_path, index.requirements() + "# newer\n")
    assert not look(changed.folder, changed.requirements).whole
    await changed.run()
    assert changed.environment.state == "ready"
    assert changed.answer() == "42"


async def test_a_kill_in_the_middle_is_resumed(index: Index, tmp_path: Path) -> None:
    trial = Trial(tmp_path, index.requirements())
    index.stall = True
    command = [sys.executable, "-c", OWNER, str(trial.folder), str(trial.requirements), str(UV)]
    owner = subprocess.Popen(command, cwd=ROOT)
    installers: list[int] = []
    try:
        await until(index.stalled.is_set)
        installers = children(owner.pid)
        assert installers, "uv runs as a process of its own"
    finally:
        owner.kill()
        owner.wait(HANG_S)
    await until(lambda: not any(map(alive, installers)))
    assert (trial.folder / MARKER).exists()
    assert not look(trial.folder, trial.requirements).whole
    index.stall = False
    index.go_on.set()
    await trial.run()
    assert trial.environment.state == "ready"
    assert trial.answer() == "42"


async def test_somebody_elses_environment_is_left_alone(index: Index, tmp_path: Path) -> None:
    trial = Trial(tmp_path, index.requirements())
    packages = trial.folder / "lib" / "python3.11" / "site-packages"
    (packages / "flask-3.0.dist-info").mkdir(parents=True)
    (trial.folder / "bin").mkdir()
    (trial.folder / "bin" / "python").symlink_to(sys.executable)
    await trial.run()
    assert trial.environment.state == "failed"
    assert "it is not ours to change; set PARLANCE_MODELS_ENV to another folder" in trial.told[-1][1]
    assert [path.name for path in packages.iterdir()] == ["flask-3.0.dist-info"]


async def test_a_stopped_server_leaves_no_installer(index: Index, tmp_path: Path) -> None:
    trial = Trial(tmp_path, index.requirements())
    index.stall = True
    others = set(children(os.getpid()))
    async with Scope("test") as scope:
        task = scope.spawn(trial.environment.run(), name="environment")
        await until(index.stalled.is_set)
        installers = set(children(os.getpid())) - others
        assert installers
        await cancel_and_wait(task)
    assert not any(map(alive, installers))
    assert not look(trial.folder, trial.requirements).whole


async def test_two_at_once_take_turns(index: Index, tmp_path: Path) -> None:
    first, second = Trial(tmp_path, index.requirements()), Trial(tmp_path, index.requirements())
    index.stall = True
    async with Scope("test") as scope:
        one = scope.spawn(first.run(), name="first")
        await until(index.stalled.is_set)
        two = scope.spawn(second.run(), name="second")
        await until(lambda: second.states == ["waiting"])
        index.go_on.set()
        await asyncio.gather(one, two)
    assert (first.environment.state, second.environment.state) == ("ready", "ready")
    assert "another process" in second.told[0][1]


async def test_without_a_network_it_waits_and_tries_again(index: Index, tmp_path: Path) -> None:
    trial = Trial(tmp_path, index.requirements())
    index.status = 503
    async with Scope("test") as scope:
        task = scope.spawn(trial.run(), name="environment")
        await until(lambda: "waiting" in trial.states)
        index.status = None
        await task
    assert trial.states[-1] == "done"
    assert any("the package index cannot be reached" in text for state, text in trial.told if state == "waiting")


@pytest.mark.parametrize(
    ("limits", "sha256", "uv", "why"),
    [
        (msgspec.structs.replace(SMALL, models_room_bytes=10**18), None, UV, "GB are free"),
        (SMALL, "0" * 64, UV, "is not the pinned one"),
        (SMALL, None, None, "uv, which installs it, was not found"),
    ],
    ids=["no room", "wrong hash", "no uv"],
)
async def test_what_cannot_be_mended_here_is_given_up(
    index: Index, tmp_path: Path, limits: Limits, sha256: str | None, uv: Path | None, why: str
) -> None:
    trial = Trial(tmp_path, index.requirements(sha256=sha256), limits=limits, uv=uv)
    await trial.run()
    assert trial.environment.state == "failed"
    state, text = trial.told[-1]
    assert state == "failed"
    assert why in text
    assert text.count(".") <= 3, "one sentence"
    assert not (trial.folder / STAMP).exists()


async def test_offline_nothing_is_tried(index: Index, tmp_path: Path) -> None:
    trial = Trial(tmp_path, index.requirements(), offline=True)
    await trial.run()
    assert (trial.environment.state, trial.told) == ("absent", [])
    assert not trial.folder.exists()
    assert not index.asked.is_set()


async def test_off_is_off(tmp_path: Path) -> None:
    off = ModelsEnvironment(None, requirements=tmp_path / "x", uv=UV, offline=False, limits=SMALL)
    await off.run()
    assert off.state == "off"


async def test_an_environment_whose_python_is_gone_is_made_anew(index: Index, tmp_path: Path) -> None:
    trial = Trial(tmp_path, index.requirements())
    await trial.run()
    python = trial.environment.python
    python.unlink()
    python.symlink_to("/nowhere/python")
    again = Trial(tmp_path, index.requirements())
    await again.run()
    assert again.environment.state == "ready"
    assert again.answer() == "42"


async def test_a_folder_with_something_else_is_not_cleared(index: Index, tmp_path: Path) -> None:
    trial = Trial(tmp_path, index.requirements())
    (trial.folder / "lib").mkdir(parents=True)
    (trial.folder / "lib" / "mine.txt").write_text("precious")
    await trial.run()
    assert (trial.folder / "lib" / "mine.txt").read_text() == "precious"


def children(pid: int) -> list[int]:
    """Direct children. Linux only, elsewhere none."""
    return [int(child) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for child in tasks.read_text().split()]


def alive(pid: int) -> bool:
    """Zombies, which somebody else has to wait for, do not count."""
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
