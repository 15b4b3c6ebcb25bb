"""A node's own folder for audio on its way to shared storage: `<data>/spool/<node>/`, one file per running stream.

What lies here was never called durable, so a folder whose node is dead is garbage. A node holds an exclusive lock
(flock) on the file beside its folder, which the kernel frees when it dies; whoever starts removes what nobody holds.

Boundary: files and locks; blocking, at the start and the end.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ALL = "all.lock"
"""Held while folders are made or removed, so that none is removed before its lock is taken."""


class Spool:
    """`open` and `close` once each. `node`: unlike any other node's name, now or before."""

    def __init__(self, root: Path, node: str) -> None:
        self._root = root
        self.folder = root / node
        self._descriptor = -1

    def open(self) -> None:
        """Make the folder and remove those of dead nodes. Raises OSError."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._root / ALL):
            for left in self._root.glob("*.lock"):
                if left.name != ALL:
                    _remove_if_dead(left)
            lock = self.folder.with_name(self.folder.name + ".lock")
            self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.folder.mkdir(mode=0o700)

    def close(self) -> None:
        if self._descriptor < 0:
            return
        with _locked(self._root / ALL):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.with_name(self.folder.name + ".lock").unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_if_dead(lock: Path) -> None:
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
