"""The models environment (torch, whisperx, sentence-transformers): found, or installed beside the running server.

Policy: an environment is whole when its stamp says so: the hash of the pinned requirements and the Python version. One
that somebody else made (an image where everything shares one) is taken as it is when it has the packages. Otherwise it
is installed behind everything else; an interrupted installation goes on at the next start, because uv keeps what it
has. No network: tried again with growing pauses. No room, or a package that is not the pinned one: given up with a
sentence, until the next start.

Boundary: uv does the work in a process of its own. Only worker programs run inside the environment.
Invariant: what is half installed never counts as ready (a marker says so), and nothing is deleted that is not a virtual
environment.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

import msgspec

import server
from server.models.catalogue import GB, megabytes
from server.models.installlog import Failure, InstallLog
from server.models.process import background, lines
from streaming.aio import Scope
from streaming.limits import Limits
from streaming.protocol.messages import StatusTask

ROOT = Path(server.__file__).resolve().parent.parent
"""The program's folder: a clone, or where packages are installed."""
REQUIREMENTS = Path("requirements") / "models.txt"
"""Pinned, with hashes; in the program's folder, where that is a clone."""
STAMP = ".parlance-stamp"
MARKER = ".parlance-installing"
"""Holds the free bytes of the disk when the installation began."""
NEEDED = ("sentence_transformers", "torch", "whisperx")
"""Import names of what the workers need."""
TASK = "models_environment"
LOCK_LOOK_S = 2.0
MEASURE_S = 0.5
ROOM_LEFT_BYTES_MIN = 1 * GB
"""Asked for when most of it has arrived already."""

log = logging.getLogger(__name__)

State = Literal["off", "absent", "installing", "ready", "failed"]


class Found(msgspec.Struct, frozen=True):
    """What a folder holds. `whole`: it can be used; `ours`: it has our stamp or marker; `text`: words about it."""

    whole: bool
    ours: bool
    text: str


def place(setting: str | None, root: Path) -> Path | None:
    """The folder that PARLANCE_MODELS_ENV means, for a program in `root`; None for "off"."""
    if setting is None:
        return root / ".venv-models"
    return None if setting.lower() == "off" else Path(setting).expanduser().absolute()


def find_uv(root: Path) -> Path | None:
    """The installer: on PATH, else what `make run` fetched."""
    found = shutil.which("uv") or shutil.which(str(root / ".tools" / "bin" / "uv"))
    return Path(found) if found else None


def room_wanted(limits: Limits) -> int:
    """Bytes for the download and the installed files; elsewhere than on Linux torch comes without CUDA."""
    cuda = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
    return limits.models_room_bytes if cuda else limits.models_room_bytes // 3


def look(folder: Path, requirements: Path) -> Found:
    """What is in the folder, by names of files: a millisecond, nothing is imported or run."""
    packages = next(folder.glob("lib/python3.*/site-packages"), None)
    if packages is None or not (folder / "bin" / "python").exists():
        return Found(False, False, f"not installed in {folder}")
    if (folder / MARKER).exists():
        return Found(False, True, f"half installed in {folder}")
    stamp = _read(folder / STAMP)
    missing = [name for name in NEEDED if not (packages / name).is_dir()]
    if stamp is not None and stamp == stamp_of(packages, requirements):
        return Found(True, True, str(folder))
    if stamp is not None and requirements.is_file():
        return Found(False, True, f"{folder} is of another version")
    if missing:
        return Found(False, False, f"{folder} has no {' and no '.join(missing)}")
    return Found(True, False, f"{folder}, which somebody else made")


def stamp_of(packages: Path, requirements: Path) -> str | None:
    """What the stamp of a whole environment says; None without pinned requirements."""
    try:
        return f"{hashlib.sha256(requirements.read_bytes()).hexdigest()} {packages.parent.name}"
    except OSError:
        return None


def as_pinned(folder: Path, requirements: Path) -> bool:
    """Every package in the folder that is pinned has a pinned version (there may be several, for Python versions or
    machines), and those that are pinned for every machine are all there."""
    pins: dict[str, set[str]] = {}
    everywhere: set[str] = set()
    for found in re.finditer(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)( *;)?", _read(requirements) or "", re.MULTILINE):
        pins.setdefault(_normal(found[1]), set()).add(found[2])
        if not found[3]:
            everywhere.add(_normal(found[1]))
    have: dict[str, str] = {}
    for path in folder.glob("lib/python3.*/site-packages/*.dist-info"):
        name, _, version = path.name.removesuffix(".dist-info").partition("-")
        have[_normal(name)] = version
    return (
        bool(pins) and everywhere <= set(have) and all(have[name] in pins[name] for name in pins.keys() & have.keys())
    )


class ModelsEnvironment:
    """`folder`: None for none; `requirements`: pinned, with hashes; `uv`: None for none. `run` is a component;
    `task` is what the page shows, None when there is nothing to tell."""

    def __init__(
        self,
        folder: Path | None,
        *,
        requirements: Path,
        uv: Path | None,
        offline: bool,
        limits: Limits,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._requirements = requirements
        self._uv = uv
        self._offline = offline
        self._limits = limits
        self._on_change = on_change
        self._ready = asyncio.Event()
        self.state: State = "off" if folder is None else "absent"
        self.task: StatusTask | None = None

    @property
    def python(self) -> Path:
        """Its interpreter. Only with a folder, and only of use when `state` is "ready"."""
        assert self._folder is not None, "PARLANCE_MODELS_ENV is off"
        return self._folder / "bin" / "python"

    async def ready(self) -> None:
        """Wait until it can be used; for ever where it never can."""
        await self._ready.wait()

    async def run(self) -> None:
        """Find it, else install it. Returns when nothing is left to do."""
        if self._folder is None:
            return
        pause_ms = self._limits.models_retry_ms_min
        while not await self._here(self._folder):
            if self._offline:
                log.info("models environment not installed: offline", extra={"folder": str(self._folder)})
                return
            failure = await self._install(self._folder)
            if failure is None:
                continue
            if failure.cause != "network":
                self._fail(failure)
                return
            log.warning(
                "models environment: waiting for the network",
                extra={"reason": failure.why, "retry_in_s": pause_ms // 1000},
            )
            text = f"The models environment waits: {failure.why}; the next try is in {pause_ms // 1000} s."
            self._tell("waiting", None, text)
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(2 * pause_ms, self._limits.models_retry_ms_max)

    async def _here(self, folder: Path) -> bool:
        """Look; take over what is whole."""
        installed = self.state == "installing"
        found = await asyncio.to_thread(_look_and_stamp, folder, self._requirements)
        if not found.whole:
            return False
        log.info("models environment ready", extra={"folder": str(folder), "ours": found.ours})
        self.state = "ready"
        self._ready.set()
        if installed:
            self._tell("done", 1.0, "The models environment is installed.")
        else:
            self._on_change()
        return True

    async def _install(self, folder: Path) -> Failure | None:
        """One try. None when it is whole."""
        if self._uv is None:
            return Failure("other", "uv, which installs it, was not found; `make run` fetches it", "")
        if not self._requirements.is_file():
            return Failure("other", f"{self._requirements} is not there; set PARLANCE_MODELS_ENV to an environment", "")
        self.state = "installing"
        try:
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            async with _turn(folder, self._another):
                found = await asyncio.to_thread(look, folder, self._requirements)
                if found.whole:
                    return None
                if await asyncio.to_thread(_is_somebodys, folder):
                    why = f"{found.text}, and it is not ours to change; set PARLANCE_MODELS_ENV to another folder"
                    return Failure("other", why, "")
                return await self._install_alone(folder, str(self._uv))
        except OSError as error:
            return Failure("other", f"{error.filename or folder}: {error.strerror}", "")

    async def _install_alone(self, folder: Path, uv: str) -> Failure | None:
        lack = await asyncio.to_thread(_claim_room, folder, room_wanted(self._limits))
        if lack is not None:
            return lack
        log.info("installing the models environment", extra={"folder": str(folder)})
        self._tell("running", 0.0, "The models environment is being installed.")
        if not self.python.exists():
            await asyncio.to_thread(_clear_broken, folder)
            make = [uv, "venv", "--no-project", "--allow-existing", "--python", sys.executable, str(folder)]
            made = await self._uv_run(make)
            if made is not None:
                return made
        sync = [uv, "pip", "sync", "--python", str(self.python), "--require-hashes", str(self._requirements)]
        failure = await self._uv_run(sync)
        if failure is None:
            await asyncio.to_thread(_finish, folder, self._requirements)
        return failure

    async def _uv_run(self, command: list[str]) -> Failure | None:
        """Run it to its end with progress; the reason when it fails."""
        said = InstallLog()
        settings = {"UV_PYTHON_DOWNLOADS": "never"}
        async with background(command, settings=settings) as process, Scope("installing") as scope:
            if command[1] == "pip":
                scope.spawn(self._measure(process.pid, said), name="measure")
            async with contextlib.aclosing(lines(process)) as output:
                async for line in output:
                    said.feed(line)
            status = await process.wait()
        return None if status == 0 else said.failure()

    async def _measure(self, pid: int, said: InstallLog) -> None:
        """Tell how far it is, and put a line into the log now and then."""
        expected = self._limits.models_installed_bytes * room_wanted(self._limits) // self._limits.models_room_bytes
        loop = asyncio.get_running_loop()
        logged_s = loop.time()
        while True:
            said.written(_written(pid), expected)
            if self.task is None or self.task.fraction is None or said.fraction >= self.task.fraction + 0.01:
                percent = round(said.fraction * 100)
                self._tell(
                    "running", round(said.fraction, 3), f"Installing the models environment: {said.step}, {percent}%."
                )
            if loop.time() - logged_s >= self._limits.models_log_interval_ms / 1000:
                logged_s = loop.time()
                log.info(
                    "installing the models environment",
                    extra={"percent": round(said.fraction * 100), "step": said.step},
                )
            await asyncio.sleep(MEASURE_S)

    def _another(self) -> None:
        log.info("models environment: another process installs it", extra={"folder": str(self._folder)})
        self._tell("waiting", None, "The models environment is being installed by another process.")

    def _fail(self, failure: Failure) -> None:
        self.state = "failed"
        extra = {"reason": failure.why, "folder": str(self._folder)}
        if failure.detail:
            extra["detail"] = failure.detail
        log.error("models environment cannot be installed", extra=extra)
        self._tell("failed", None, f"The models environment cannot be installed: {failure.why}.")

    def _tell(self, state: Literal["waiting", "running", "done", "failed"], fraction: float | None, text: str) -> None:
        self.task = StatusTask(name=TASK, state=state, fraction=fraction, text=text)
        self._on_change()


@contextlib.asynccontextmanager
async def _turn(folder: Path, occupied: Callable[[], None]) -> AsyncIterator[None]:
    """One installer at a time, by a lock on the folder itself; the kernel frees that of a process that died."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        told = False
        while not _locked(handle):
            if not told:
                occupied()
                told = True
            await asyncio.sleep(LOCK_LOOK_S)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _look_and_stamp(folder: Path, requirements: Path) -> Found:
    """Look; an environment without a stamp that is just what is pinned gets one."""
    found = look(folder, requirements)
    if found.whole and not found.ours and as_pinned(folder, requirements):
        with contextlib.suppress(OSError):
            _finish(folder, requirements)
    return found


def _is_somebodys(folder: Path) -> bool:
    """Others installed something there: an empty environment holds an installer at most."""
    if (folder / STAMP).exists() or (folder / MARKER).exists():
        return False
    names = {path.name.partition("-")[0].lower() for path in folder.glob("lib/python3.*/site-packages/*.dist-info")}
    return bool(names - {"pip", "setuptools", "wheel"})


def room(folder: Path, wanted: int) -> Failure | None:
    """Is there room for what is still missing? What an earlier try took is not wanted again."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    began = _read(folder / MARKER)
    took = max(0, int(began) - free) if began is not None and began.isdigit() else 0
    wanted = max(min(wanted, ROOM_LEFT_BYTES_MIN), wanted - took)
    if free >= wanted:
        return None
    return Failure("disk", f"it needs about {megabytes(wanted)} and {megabytes(free)} are free in {existing}", "")


def _claim_room(folder: Path, wanted: int) -> Failure | None:
    """Mark the folder as half installed, when there is room."""
    lack = room(folder, wanted)
    if lack is None and not (folder / MARKER).exists():
        (folder / MARKER).write_text(str(shutil.disk_usage(folder).free))
    return lack


def _clear_broken(folder: Path) -> None:
    """An environment whose Python is gone (upgraded away) is made anew; nothing else is touched."""
    if (folder / "pyvenv.cfg").exists():
        for name in ("bin", "lib", "lib64", "pyvenv.cfg"):
            path = folder / name
            if path.is_symlink() or path.is_file():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)


def _finish(folder: Path, requirements: Path) -> None:
    packages = next(folder.glob("lib/python3.*/site-packages"))
    new = folder / f"{STAMP}.new"
    new.write_text(stamp_of(packages, requirements) or "")
    new.replace(folder / STAMP)
    (folder / MARKER).unlink(missing_ok=True)


def _written(pid: int) -> int:
    """Bytes that a process has written so far; 0 where the system does not tell."""
    found = re.search(r"^wchar: (\d+)", _read(Path(f"/proc/{pid}/io")) or "", re.MULTILINE)
    return int(found[1]) if found else 0


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
