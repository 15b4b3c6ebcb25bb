"""Who owns an embedded cluster, and what an owner that was killed left of its server.

Policy: the holder of an exclusive lock on `<folder>.lock` owns the cluster; the kernel frees the lock with its
process. The new holder waits until the old server ended, and removes its postmaster.pid only when the process that it
names is dead, a zombie, or somebody else: a number that came round again must not look like a running server.

Boundary: lock files, /proc and signals; starts nothing. Failures of files become `PostgresFailed` in `explained`.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from server.store.pgplace import PostgresFailed

log = logging.getLogger(__name__)

POLL_S = 0.02
"""Between looks at a lock, a leaving process or a socket: a start takes 100 ms and more."""
FAST_S_MAX = 10.0
"""SIGINT writes a checkpoint and ends; after this long SIGQUIT ends at once (recovery follows at the next start)."""
QUIT_S_MAX = 5.0
EXPLANATIONS = (
    ("No space left on device", "The disk that holds {data} is full."),
    ("Disk quota exceeded", "The disk quota for {data} is used up."),
    ("Read-only file system", "{data} lies on a read-only file system."),
    ("Permission denied", "The permissions of {data} or its parents keep the embedded database out."),
    ("could not map anonymous shared memory", "There is too little memory for the embedded database (64 MB)."),
    ("could not look up effective user", "The user id has no name in /etc/passwd, which the embedded database needs."),
)


class Leftover(msgspec.Struct, frozen=True):
    """What postmaster.pid says: the server's process and the folder of its socket ("" before it has one)."""

    pid: int
    sockets: str


class OwnerLock:
    """The exclusive lock beside the cluster. Never inherited (Python's descriptors are not), gone with its process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder.with_name(folder.name + ".lock")
        self._fd: int | None = None

    def take(self) -> bool:
        """Whether we hold it now. Raises `PostgresFailed` when its file cannot be opened."""
        if self._fd is not None:
            raise RuntimeError("the embedded database is already started")
        with explained(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        return True

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def holder(self) -> str:
        try:
            return f"Another process ({int(self._path.read_text())})"
        except (OSError, ValueError):
            return "Another process"


def read_leftover(data: Path) -> Leftover | None:
    """postmaster.pid: line 1 the process, line 5 the socket's folder. None when absent or cut short."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return Leftover(int(lines[0]), lines[4] if len(lines) > 4 else "")
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
        return None


def is_ours(pid: int, data: Path) -> bool:
    """Whether `pid` is a live server on this cluster: not dead, not a zombie, its command line names the folder."""
    if not Path("/proc/self").exists():  # without /proc (macOS) a number that came round again is not told apart
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return True
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X") and os.fsencode(data) in arguments


async def clear_leftover(data: Path) -> None:
    """With the lock held: end the server of an owner that died, then remove its postmaster.pid."""
    found = read_leftover(data)
    if found is not None and is_ours(found.pid, data):
        log.warning("waiting for the database of a server that was killed", extra={"pid": found.pid})
        for kind, seconds in ((signal.SIGINT, FAST_S_MAX), (signal.SIGQUIT, QUIT_S_MAX), (signal.SIGKILL, QUIT_S_MAX)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, kind)
            if await until(lambda: not is_ours(found.pid, data), seconds):
                break
        else:
            raise PostgresFailed(f"An old database server (process {found.pid}) on {data} cannot be ended.")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        (data / "postmaster.pid").unlink()


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` came true in time."""
    end_s = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() >= end_s:
            return False
        await asyncio.sleep(POLL_S)
    return True


def explain(what: str, data: Path, text: str) -> str:
    """`what`, or the better sentence for a cause that `text` names."""
    return next((better.format(data=data) for sign, better in EXPLANATIONS if sign in text), what)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of the files below become `PostgresFailed`."""
    try:
        yield
    except OSError as error:
        what = f"The embedded database cannot use {error.filename or path}: {error.strerror}."
        raise PostgresFailed(explain(what, path, error.strerror or "")) from error
