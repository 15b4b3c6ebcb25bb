"""Fetch one model whole: every wanted file into the cache, each checked against the hub, then `main` moved to them.

Policy: what is here already is checked and kept; what was begun is continued; a file with a wrong checksum is deleted
and fetched once more. A broken connection is tried again while anything arrives, and given up after `TRIES_MAX` tries
in vain. Two pulls of one model take turns (a lock in the cache), so the second one only checks.

Invariant: `refs/main` points at a snapshot only after every file of it was checked. Blocking, for a process of its own.
"""

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from server.models import hub
from server.models.cache import REF, repo_folder
from server.models.catalogue import Model, complete, megabytes, wanted_files
from server.models.events import Done, Event, FetchFailed, Note, Progress
from server.models.hub import RemoteFile, Repository

TRIES_MAX = 4
PAUSE_S = 1.0
"""After a try in vain; doubles: 7 s in all, above a router's hiccup."""
TELL_S = 0.5
ROOM_SPARE_BYTES = 100 * 1024 * 1024
"""Left free on the disk, for everybody else."""

Tell = Callable[[Event], None]


def pull(model: Model, cache: Path, tell: Tell) -> Done:
    """Raises `FetchFailed`."""
    hub.settle()
    repository = hub.describe(model.repo)
    names = set(wanted_files([file.name for file in repository.files]))
    if not complete(names):
        raise FetchFailed("not_found", f"{model.repo} holds no model that Parlance can use.")
    files = sorted((file for file in repository.files if file.name in names), key=lambda file: file.size_bytes)
    folder = repo_folder(cache, model.repo)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchFailed("failed", f"{cache} cannot be made: {error.strerror}.") from error
    watch = _Watch(folder, files)
    with _telling(watch, tell), _turn(cache, folder.name, tell):
        before = watch.done_bytes()
        _room(cache, watch.total_bytes - before)
        for file in files:
            watch.file = file.name
            _fetch_checked(repository, file, cache, tell)
        watch.file = ""
        _point(folder, repository.commit)
        tell(Progress(watch.total_bytes, watch.total_bytes, ""))
    return Done(str(folder / "snapshots" / repository.commit), max(0, watch.total_bytes - before))


def _fetch_checked(repository: Repository, file: RemoteFile, cache: Path, tell: Tell) -> None:
    for again in (False, True):
        path = _fetch(repository, file, cache, tell)
        if hub.matches(file, path):
            return
        _forget(path)
        if not again:
            tell(Note(f"{file.name} has a wrong checksum and is fetched again."))
    raise FetchFailed(
        "checksum",
        f"{file.name} of {repository.repo} has a wrong checksum, twice; the hub or a proxy before it serves something "
        "else than it promises.",
    )


def _fetch(repository: Repository, file: RemoteFile, cache: Path, tell: Tell) -> Path:
    """Download with new tries as long as each brings something."""
    watch = _Watch(repo_folder(cache, repository.repo), [file])
    tries, pause_s = 0, PAUSE_S
    while True:
        before = watch.done_bytes()
        try:
            return hub.download(repository, file, cache)
        except FetchFailed as error:
            if error.reason != "unreachable":
                raise
            if watch.done_bytes() >= file.size_bytes:
                watch.forget(file)  # longer than it may be, or whole and refused: the library would stumble for ever
            if watch.done_bytes() > before:
                tries, pause_s = 0, PAUSE_S
            tries += 1
            if tries >= TRIES_MAX:
                raise
            tell(Note(f"The connection to the hub broke; going on with {file.name}."))
            threading.Event().wait(pause_s)
            pause_s *= 2


def _room(cache: Path, missing_bytes: int) -> None:
    free = shutil.disk_usage(cache).free
    if missing_bytes > 0 and free < missing_bytes + ROOM_SPARE_BYTES:
        raise FetchFailed(
            "no_room", f"{megabytes(missing_bytes)} are needed in {cache} and {megabytes(free)} are free; make room."
        )


def _point(folder: Path, commit: str) -> None:
    """Let `main` be this commit, for every tool that reads the cache."""
    refs = folder / "refs"
    refs.mkdir(parents=True, exist_ok=True)
    new = refs / f".{REF}-{os.getpid()}"
    new.write_text(commit)
    new.replace(refs / REF)


def _forget(path: Path) -> None:
    """Delete a snapshot's file: the link and what it points at."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


@contextlib.contextmanager
def _turn(cache: Path, name: str, tell: Tell) -> Iterator[None]:
    """One pull of a model at a time; the kernel frees the lock of one that died."""
    locks = cache / ".locks" / name
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / "parlance.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(Note("Another process fetches it already; waiting for that one."))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Watch:
    """How much of some files lies on the disk, whoever writes it."""

    def __init__(self, folder: Path, files: list[RemoteFile]) -> None:
        self._blobs = folder / "blobs"
        self._files = files
        self.total_bytes = sum(file.size_bytes for file in files)
        self.file = ""

    def done_bytes(self) -> int:
        return sum(max(map(_size, self._places(file))) for file in self._files)

    def forget(self, file: RemoteFile) -> None:
        for path in self._places(file):
            path.unlink(missing_ok=True)

    def _places(self, file: RemoteFile) -> tuple[Path, Path]:
        return self._blobs / file.etag, self._blobs / f"{file.etag}.incomplete"


@contextlib.contextmanager
def _telling(watch: _Watch, tell: Tell) -> Iterator[None]:
    """Tell the progress in a thread while the block runs."""
    over = threading.Event()

    def run() -> None:
        while True:
            tell(Progress(min(watch.done_bytes(), watch.total_bytes), watch.total_bytes, watch.file))
            if over.wait(TELL_S):
                return

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
