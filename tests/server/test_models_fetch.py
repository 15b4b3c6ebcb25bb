"""Models are fetched from a small hub: whole, resumed, checked, by several at once; and the Whisper that comes by
itself. The model is the micro Whisper of the tests."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from server.models.cache import find_whisper, installed, repo_folder, snapshot
from server.models.catalogue import DEFAULT, MODELS, wanted_files
from server.models.events import Done, Event, FetchFailed, Note, Progress, parse
from server.models.fetching import ModelFetch, fetch
from streaming.aio import Scope, cancel_and_wait
from streaming.limits import LIMITS
from tests.support.hub import Hub, serving
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "tests" / "models" / "micro-whisper" / "en"
HANG_S = 60.0
POLL_S = 0.02
REPO = MODELS[DEFAULT].repo
QUICK = msgspec.structs.replace(LIMITS, model_retry_ms=50)
HALF = 1_500_000
"""A place in the middle of the micro model's 2.4 MB."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving() as hub:
        hub.add(REPO, MICRO)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub"


async def fetched(cache: Path, name: str = "default") -> tuple[Done, list[Progress], list[str]]:
    """The end, the progress, and the notes."""
    told: list[Progress | Note] = []
    async with asyncio.timeout(HANG_S):
        done = await fetch(name, cache, told.append)
    return done, [e for e in told if isinstance(e, Progress)], [e.text for e in told if isinstance(e, Note)]


async def refused(cache: Path, name: str = "default") -> FetchFailed:
    with pytest.raises(FetchFailed) as raised:
        await fetched(cache, name)
    assert raised.value.message.count("\n") == 0
    return raised.value


def is_micro(path: Path | None) -> bool:
    """The folder has all files of the micro Whisper that are to be fetched, and nothing else."""
    wanted = set(wanted_files([file.name for file in MICRO.iterdir()]))
    if path is None or {file.name for file in path.iterdir()} != wanted:
        return False
    return all((path / name).read_bytes() == (MICRO / name).read_bytes() for name in wanted)


async def test_a_model_is_fetched_and_found(hub: Hub, cache: Path) -> None:
    done, progress, notes = await fetched(cache)
    assert is_micro(Path(done.path))
    assert find_whisper(DEFAULT, cache) == Path(done.path)
    total = sum((MICRO / name).stat().st_size for name in wanted_files(hub.repos[REPO]))
    assert (done.fetched_bytes, progress[-1].done_bytes, progress[-1].total_bytes) == (total, total, total)
    assert [p.done_bytes for p in progress] == sorted(p.done_bytes for p in progress)
    assert notes == []
    assert len(hub.contents("model.bin")) == 1


async def test_other_tools_find_it_by_name_without_a_network(hub: Hub, cache: Path) -> None:
    done, _, _ = await fetched(cache)
    load = f"from faster_whisper.utils import download_model; print(download_model('{DEFAULT}', local_files_only=True))"
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    found = subprocess.run([sys.executable, "-c", load], env=environ, capture_output=True, text=True, timeout=HANG_S)
    assert found.stdout.strip() == done.path, found.stderr


async def test_what_other_tools_fetched_is_only_checked(hub: Hub, cache: Path) -> None:
    load = f"from huggingface_hub import snapshot_download; snapshot_download('{REPO}')"
    subprocess.run([sys.executable, "-c", load], capture_output=True, timeout=HANG_S, check=True)
    assert find_whisper(DEFAULT, cache) is not None
    before = len(hub.contents("model.bin"))
    done, _, _ = await fetched(cache)
    assert (Path(done.path), done.fetched_bytes) == (find_whisper(DEFAULT, cache), 0)
    assert len(hub.contents("model.bin")) == before


async def test_a_cut_connection_is_resumed(hub: Hub, cache: Path) -> None:
    hub.cut_at, hub.cuts = {"model.bin": HALF}, 1
    done, _, notes = await fetched(cache)
    assert is_micro(Path(done.path))
    whole, rest = hub.contents("model.bin")
    assert whole.range_from is None
    assert rest.range_from is not None
    assert rest.range_from > HALF // 2, "what had arrived is not fetched again"
    assert len(notes) == 1
    assert "broke" in notes[0]


async def test_a_hub_that_cuts_for_ever_is_given_up_and_the_next_pull_goes_on(hub: Hub, cache: Path) -> None:
    hub.cut_at, hub.cuts = {"model.bin": HALF}, 1_000
    error = await refused(cache)
    assert error.reason == "unreachable"
    assert find_whisper(DEFAULT, cache) is None
    assert [model.complete for model in installed(cache)] == [False]
    hub.cuts = 0
    hub.requests.clear()
    done, _, _ = await fetched(cache)
    assert is_micro(Path(done.path))
    (rest,) = hub.contents("model.bin")
    assert rest.range_from is not None


async def test_a_kill_in_the_middle_is_resumed(hub: Hub, cache: Path) -> None:
    hub.stall_at = {"model.bin": HALF}
    process = subprocess.Popen([sys.executable, "-m", "server.models.fetch", DEFAULT], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        await until(hub.stalled.is_set)
        await until(lambda: any(part.stat().st_size > HALF // 2 for part in cache.glob("*/blobs/*.incomplete")))
        process.send_signal(signal.SIGKILL)
        process.wait(HANG_S)
    assert find_whisper(DEFAULT, cache) is None
    hub.stall_at = {}
    hub.go_on.set()
    done, _, _ = await fetched(cache)
    assert is_micro(Path(done.path))
    first_byte = hub.contents("model.bin")[-1].range_from
    assert first_byte is not None
    assert first_byte > HALF // 2


async def test_a_cancelled_fetch_leaves_no_process_and_is_resumed(hub: Hub, cache: Path) -> None:
    hub.stall_at = {"model.bin": HALF}
    async with Scope("test") as scope:
        task = scope.spawn(fetch("default", cache, lambda _: None), name="fetch")
        await until(hub.stalled.is_set)
        await cancel_and_wait(task)  # the leak fixture sees what is left
    hub.stall_at = {}
    hub.go_on.set()
    done, _, _ = await fetched(cache)
    assert is_micro(Path(done.path))


async def test_two_at_once_fetch_it_once(hub: Hub, cache: Path) -> None:
    hub.stall_at = {"model.bin": HALF}
    async with Scope("test") as scope:
        one = scope.spawn(fetched(cache), name="one")
        await until(hub.stalled.is_set)
        notes: list[Event] = []
        two = scope.spawn(fetch("default", cache, notes.append), name="two")
        await until(lambda: any(isinstance(event, Note) for event in notes))
        hub.stall_at = {}
        hub.go_on.set()
        (first, _, _), second = await asyncio.gather(one, two)
    assert first.path == second.path
    assert is_micro(Path(first.path))
    assert len(hub.contents("model.bin")) == 1


@pytest.mark.parametrize("name", ["model.bin", "config.json"], ids=["sha256", "git blob"])
async def test_a_wrong_checksum_is_fetched_again(hub: Hub, cache: Path, name: str) -> None:
    hub.wrong = {name: 1}
    done, _, notes = await fetched(cache)
    assert is_micro(Path(done.path))
    assert notes == [f"{name} has a wrong checksum and is fetched again."]


async def test_a_checksum_that_stays_wrong_fails_and_leaves_nothing_to_load(hub: Hub, cache: Path) -> None:
    hub.wrong = {"model.bin": 1_000}
    error = await refused(cache)
    assert error.reason == "checksum"
    assert "model.bin" in error.message
    assert find_whisper(DEFAULT, cache) is None
    hub.wrong = {}
    done, _, _ = await fetched(cache)
    assert is_micro(Path(done.path))


async def test_a_damaged_file_in_the_cache_is_mended(hub: Hub, cache: Path) -> None:
    done, _, _ = await fetched(cache)
    weights = (Path(done.path) / "model.bin").resolve()
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    again, _, _ = await fetched(cache)
    assert is_micro(Path(again.path))


async def test_a_new_version_replaces_the_old_one_when_it_is_whole(hub: Hub, cache: Path) -> None:
    old, _, _ = await fetched(cache)
    hub.repos[REPO]["config.json"] += b"\n"
    hub.status = 503
    await refused(cache)
    assert find_whisper(DEFAULT, cache) == Path(old.path)
    hub.status = None
    new, _, _ = await fetched(cache)
    assert new.path != old.path
    assert find_whisper(DEFAULT, cache) == Path(new.path)
    assert len(hub.contents("model.bin")) == 1, "only what changed is fetched"


async def test_a_hub_that_is_not_there(cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = await refused(cache)
    assert error.reason == "unreachable"
    assert "http://127.0.0.1:9 cannot be reached" in error.message
    hub.status = 503
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert "HTTP 503" in (await refused(cache)).message


async def test_a_hub_that_never_answers_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}")
        error = await refused(cache)
    assert error.reason == "unreachable"
    assert "secret" not in error.message


async def test_what_is_not_on_the_hub(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await refused(cache, "somebody/nothing")).reason == "not_found"
    hub.repos["somebody/pictures"] = {"README.md": b"cats"}
    assert "no model that Parlance can use" in (await refused(cache, "somebody/pictures")).message
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert (await refused(cache)).reason == "offline"


async def test_no_room(hub: Hub, cache: Path) -> None:
    huge = "import shutil; shutil.disk_usage = lambda _: shutil._ntuple_diskusage(1, 1, 0)"
    run = f"{huge}; import sys; from server.models.fetch import main; sys.exit(main(['{DEFAULT}']))"
    ended = subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    assert ended.returncode == 1
    assert '"reason":"no_room"' in ended.stdout
    assert "make room" in ended.stdout
    assert not hub.contents("model.bin")


async def test_a_cache_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = await refused(tmp_path / "file" / "hub")
    assert error.reason == "failed"


def test_the_server_side_loads_neither_the_hub_nor_whisper() -> None:
    load = "import sys, server.models.fetching, server.models.environment; sys.stdout.write('\\n'.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", load], cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    loaded = set(ran.stdout.split())
    assert "server.models.fetching" in loaded, ran.stderr
    assert loaded.isdisjoint({"huggingface_hub", "requests", "faster_whisper", "ctranslate2"})


def test_lines_that_are_no_events_are_passed_over() -> None:
    assert parse("Warning: something") is None
    assert parse("[]") is None
    assert parse('{"type":"note","text":"x"}') == Note("x")


# --- the Whisper that comes by itself ---------------------------------------------------------------------------------
class Server:
    """What the server does with a `ModelFetch`."""

    def __init__(self, cache: Path, *, offline: bool = False, wanted: str | None = None) -> None:
        self.models: list[Path] = []
        self.states: list[str] = []
        name = wanted or DEFAULT
        self.component = ModelFetch(
            cache, name=name, look=lambda: find_whisper(name, cache), offline=offline, limits=QUICK,
            on_model=self._model, on_change=self._changed,
        )  # fmt: skip

    async def _model(self, path: Path) -> None:
        self.models.append(path)

    def _changed(self) -> None:
        assert self.component.task is not None
        self.states.append(self.component.task.state)

    async def run(self) -> None:
        async with asyncio.timeout(HANG_S):
            await self.component.run()


async def test_the_default_whisper_comes_by_itself(hub: Hub, cache: Path) -> None:
    server = Server(cache)
    await server.run()
    assert server.models == [find_whisper(DEFAULT, cache)]
    assert (server.states[0], server.states[-1]) == ("running", "done")
    assert server.component.task is not None
    assert server.component.task.fraction == 1.0


async def test_the_configured_whisper_comes_instead(hub: Hub, cache: Path) -> None:
    await fetched(cache)
    hub.add(MODELS["small"].repo, MICRO)
    server = Server(cache, wanted="small")
    await server.run()
    assert server.models == [snapshot(cache, MODELS["small"].repo)]
    assert server.component.task is not None
    assert "small" in server.component.task.text


async def test_weights_that_are_here_are_taken_at_once(hub: Hub, cache: Path) -> None:
    await fetched(cache)
    hub.status = 500
    server = Server(cache)
    await server.run()
    assert server.models == [find_whisper(DEFAULT, cache)]
    assert server.states == []


async def test_an_unreachable_hub_is_tried_again(hub: Hub, cache: Path) -> None:
    hub.status = 503
    server = Server(cache)
    async with Scope("test") as scope:
        task = scope.spawn(server.run(), name="whisper")
        await until(lambda: "waiting" in server.states)
        hub.status = None
        await task
    assert is_micro(server.models[0])


async def test_weights_that_come_by_hand_are_noticed_offline(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.models.fetching.LOOK_S", POLL_S)
    server = Server(cache, offline=True)
    async with Scope("test") as scope:
        task = scope.spawn(server.run(), name="whisper")
        await fetched(cache)
        await task
    assert server.models == [snapshot(cache, REPO)]
    assert server.states == [], "nothing was under way"
    assert repo_folder(cache, REPO).is_dir()
