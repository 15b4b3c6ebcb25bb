"""The Hugging Face hub: what a repository holds, its files into the cache, and whether they are what the hub says.

Policy: an unreachable hub is known after `Limits.hub_answer_ms_max`, whatever resolver or proxy hangs. Files come over
plain HTTP, which resumes where it was cut; the Xet protocol would begin again. `HF_ENDPOINT` and the user's token are
respected. No telemetry.

Boundary: the only module that talks to the hub. Its errors end here as `FetchFailed`. Blocking: runs in the program
`server.models.fetch`, never in the server.
"""

import errno
import hashlib
import logging
import threading
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import requests
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from server.models.events import FetchFailed
from streaming.limits import LIMITS

ANSWER_S_MAX = LIMITS.hub_answer_ms_max / 1000
READ_BYTES = 256 * 1024
"""Written at once: what a cut connection loses. The library's own 10 MiB would be 10 s of a slow line."""
HASH_BYTES = 1024 * 1024


class RemoteFile(msgspec.Struct, frozen=True):
    """`sha256`: of a large file's content; a small one has its git blob id only."""

    name: str
    size_bytes: int
    blob_id: str
    sha256: str | None

    @property
    def etag(self) -> str:
        """Its name among the cache's blobs."""
        return self.sha256 or self.blob_id


class Repository(msgspec.Struct, frozen=True):
    repo: str
    commit: str
    files: tuple[RemoteFile, ...]


def settle() -> None:
    """Set the library up for this program: quiet, plain HTTP, small pieces, short waits."""
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_ENABLE_HF_TRANSFER = False
    constants.HF_HUB_DISABLE_PROGRESS_BARS = True
    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.DOWNLOAD_CHUNK_SIZE = READ_BYTES
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def endpoint() -> str:
    """The hub's address, for a sentence: without user and password."""
    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def describe(repo: str) -> Repository:
    """The files of `main` with sizes and checksums. Raises `FetchFailed`."""
    result: list[Repository] = []
    error: list[Exception] = []

    def ask() -> None:
        try:
            result.append(_describe(repo))
        except Exception as caught:  # the component boundary: carried over to the caller's thread
            error.append(caught)

    thread = threading.Thread(target=ask, name="hub", daemon=True)
    thread.start()
    thread.join(ANSWER_S_MAX + 0.5)  # the library's own time-out covers neither names nor several addresses
    if error:
        raise translated(error[0], repo) from error[0]
    if not result:
        raise unreachable("it does not answer")
    return result[0]


def _describe(repo: str) -> Repository:
    info = HfApi().model_info(repo, files_metadata=True, timeout=ANSWER_S_MAX)
    if info.sha is None:
        raise FetchFailed("failed", f"The hub at {endpoint()} does not say which version of {repo} it has.")
    files = [
        RemoteFile(f.rfilename, f.size or 0, f.blob_id or "", f.lfs.sha256 if f.lfs is not None else None)
        for f in info.siblings or []
    ]
    return Repository(repo, info.sha, tuple(files))


def download(repository: Repository, file: RemoteFile, cache: Path) -> Path:
    """Fetch one file into the cache, going on where an earlier try ended. Raises `FetchFailed`."""
    try:
        return Path(
            hf_hub_download(
                repository.repo, file.name, revision=repository.commit, cache_dir=cache, etag_timeout=ANSWER_S_MAX
            )
        )
    except Exception as error:  # the component boundary: the library raises what it likes
        raise translated(error, repository.repo) from error


def matches(file: RemoteFile, path: Path) -> bool:
    """The file has the size and the checksum that the hub tells: SHA-256, or git's SHA-1 of small ones."""
    if path.stat().st_size != file.size_bytes:
        return False
    if file.sha256 is not None:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
    with path.open("rb") as content:
        while piece := content.read(HASH_BYTES):
            digest.update(piece)
    return digest.hexdigest() == (file.sha256 or file.blob_id)


def unreachable(why: str) -> FetchFailed:
    return FetchFailed("unreachable", f"The model hub at {endpoint()} cannot be reached: {why}.")


def translated(error: Exception, repo: str) -> FetchFailed:
    """What a person is told about an error of the library."""
    seen: BaseException | None = error
    while isinstance(seen, LocalEntryNotFoundError) and seen.__cause__ is not None:
        seen = seen.__cause__
    match seen:
        case FetchFailed():
            return seen
        case OfflineModeIsEnabled():
            return FetchFailed("offline", "HF_HUB_OFFLINE is set; unset it to fetch models.")
        case GatedRepoError():
            text = f"{repo} asks for an agreement first: accept it on the hub and set HF_TOKEN."
            return FetchFailed("not_found", text)
        case RepositoryNotFoundError() | RevisionNotFoundError() | HFValidationError():
            return FetchFailed("not_found", f"There is no {repo} on the hub at {endpoint()}, or it is private.")
        case EntryNotFoundError():
            return FetchFailed("failed", f"A file of {repo} is gone from the hub; try again.")
        case HfHubHTTPError() if seen.response is not None:
            return unreachable(f"it answers with HTTP {seen.response.status_code}")
        case requests.exceptions.SSLError():
            return unreachable("its certificate is not trusted")
        case requests.exceptions.ProxyError():
            return unreachable("the proxy does not work")
        case requests.exceptions.Timeout():
            return unreachable("it does not answer")
        case requests.exceptions.ChunkedEncodingError():
            return unreachable("the connection broke")
        case requests.exceptions.RequestException() | LocalEntryNotFoundError():
            return unreachable("check the network, or the proxy settings")
        case OSError() if seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return FetchFailed("no_room", "The disk is full.")
        case OSError() if seen.errno is not None:
            return FetchFailed("failed", f"{seen.filename or 'The cache'}: {seen.strerror}.")
        case OSError():  # the library's own check of the size
            return unreachable("the connection broke")
        case _:
            return FetchFailed("failed", f"{repo} cannot be fetched: {type(seen).__name__}: {seen}.")
