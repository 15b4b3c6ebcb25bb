"""What is in the Hugging Face cache: models that Parlance or any other tool fetched.

Policy: a model counts as here when the snapshot that `main` points at has all files that loading needs; so one that is
half fetched, or not yet checked (`server.models.pull` moves the pointer last), is not taken for whole.

Boundary: folders only; no network and no model library, so the server's process may look. Layout: docs of
huggingface_hub, "Understand caching": `models--owner--name/{blobs,refs,snapshots}`.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from server.models.catalogue import MODELS, TORCH_ALIGNERS, Kind, by_repo, complete, is_whisper

REF = "main"


class Installed(msgspec.Struct, frozen=True):
    """`path`: the snapshot's folder, else the repository's; `size_bytes`: on the disk, with leftovers."""

    name: str
    repo: str
    kind: Kind
    path: Path
    size_bytes: int
    complete: bool


def cache_folder() -> Path:
    """Where models are kept: HF_HUB_CACHE, HF_HOME or `~/.cache/huggingface/hub`."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def repo_folder(cache: Path, repo: str) -> Path:
    return cache / f"models--{repo.replace('/', '--')}"


def snapshot(cache: Path, repo: str) -> Path | None:
    """The folder of the model's files, when it is whole."""
    folder = repo_folder(cache, repo)
    try:
        commit = (folder / "refs" / REF).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    path = folder / "snapshots" / commit
    return path if commit and complete(files_of(path)) else None


def files_of(folder: Path) -> set[str]:
    """Names of the files in a folder and its direct subfolders; a link without its target does not count."""
    try:
        found = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file()]
    except OSError:
        return set()
    return {path.relative_to(folder).as_posix() for path in found}


def installed(cache: Path) -> list[Installed]:
    """The models here that Parlance can use: known ones, and other repositories with a CTranslate2 Whisper."""
    found = [_look(cache, folder) for folder in _repo_folders(cache)]
    order = {name: place for place, name in enumerate(MODELS)}
    usable = [model for model in found if model.kind is not Kind.OTHER]
    return sorted(usable, key=lambda model: (order.get(model.name, len(order)), model.name))


def _repo_folders(cache: Path) -> Iterator[Path]:
    if cache.is_dir():
        yield from (path for path in cache.glob("models--*--*") if path.is_dir())


def _look(cache: Path, folder: Path) -> Installed:
    repo = "/".join(folder.name.split("--", 2)[1:])
    model = by_repo(repo)
    whole = snapshot(cache, repo)
    kind = model.kind
    if kind is Kind.OTHER and whole is not None and is_whisper(files_of(whole)):
        kind = Kind.WHISPER
    return Installed(model.name, repo, kind, whole or folder, _size(folder), whole is not None)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            total += path.stat().st_size
    return total


def whispers(cache: Path) -> frozenset[str]:
    """Names of the known Whispers that are here."""
    known = (model for model in MODELS.values() if model.kind is Kind.WHISPER)
    return frozenset(model.name for model in known if snapshot(cache, model.repo) is not None)


def find_whisper(wanted: str, cache: Path) -> Path | None:
    """The folder of a Whisper that is here: of a name or repository, or a folder itself."""
    if wanted in MODELS:
        return snapshot(cache, MODELS[wanted].repo)
    folder = Path(wanted).expanduser()
    if is_whisper(files_of(folder)):
        return folder.absolute()
    path = snapshot(cache, wanted) if wanted.count("/") == 1 else None
    return path if path is not None and is_whisper(files_of(path)) else None


def name_of(path: Path) -> str:
    """What to call a Whisper's folder: its short name or repository when it lies in the cache, else its path."""
    for parent in path.parents:
        if parent.name.startswith("models--"):
            return by_repo("/".join(parent.name.split("--", 2)[1:])).name
    return str(path)


def remove(cache: Path, repo: str) -> int:
    """Delete a model with all that is left of earlier pulls; the bytes that were freed. Raises OSError."""
    folder = repo_folder(cache, repo)
    freed = _size(folder)
    shutil.rmtree(folder)
    shutil.rmtree(cache / ".locks" / folder.name, ignore_errors=True)
    return freed


def torch_checkpoints() -> Path:
    """Where torch.hub keeps files (as its `get_dir` tells)."""
    places = map(os.path.expandvars, ("$TORCH_HOME", "$XDG_CACHE_HOME/torch", "~/.cache/torch"))
    return Path(next(place for place in places if "$" not in place)).expanduser() / "hub" / "checkpoints"


def alignment_languages(cache: Path, checkpoints: Path) -> frozenset[str]:
    """Languages with alignment weights, of the hub or of torchaudio."""
    aligners = (model for model in MODELS.values() if model.kind is Kind.ALIGNMENT)
    here = {model.name.removeprefix("align-") for model in aligners if snapshot(cache, model.repo) is not None}
    return frozenset(here | {code for code, file in TORCH_ALIGNERS.items() if (checkpoints / file).is_file()})
