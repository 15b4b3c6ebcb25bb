"""Kept audio as ports: what the live stream, playback and the jobs ask of it, wherever it is.

`server.media.audiolog` is a file on this machine; `server.media.shared` is storage that all nodes share. One contract
suite runs on both (`tests/contract/test_audio_log.py`).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from server.media.parts import PartTable
from streaming.model import Part

SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""Tenants and recordings; anything else is no path of ours."""


class Kept(msgspec.Struct, frozen=True):
    """The kept audio of a recording. The same `size` and `version` are the same bytes, at every node. `whole`: it has
    everything that the stream took; of one that another node runs, the last seconds may be on their way."""

    size: int
    version: int
    whole: bool = True


class PartKeeper(Protocol):
    """The list of places of a live stream. It never raises: without it, seeking is only slower."""

    def append(self, parts: Iterable[Part]) -> None:
        """Add those that are new."""
        ...

    def reset(self) -> None:
        """What was in it is of other audio: begin anew."""
        ...

    def close(self) -> None: ...


class AudioLog(Protocol):
    """One stream's log, open for appending by one epoch of it."""

    @property
    def end(self) -> int:
        """Bytes in the log."""
        ...

    def append(self, data: bytes) -> int:
        """Add bytes; returns the new end. Raises `Unavailable` when the disk takes no more; then nothing was added."""
        ...

    def read_range(self, start: int, end: int) -> bytes:
        """Bytes [start, end), fewer at the end of the log. Raises `Unavailable` before what was fetched."""
        ...

    async def fetch(self, start: int) -> None:
        """From byte `start` on everything can be read. Waits for a storage that is away; raises `NotFound` when the
        audio is gone."""
        ...

    async def sync(self, *, now: bool = False) -> int:
        """Work towards durability; returns how many bytes are durable now, which may be fewer than there are. `now`:
        do not wait for more. Raises `Unavailable` when bytes may be lost: nothing more may be called durable then."""
        ...

    async def settle(self) -> int:
        """As `sync` until everything that was appended before is durable, however long the storage is away."""
        ...

    async def claim(self) -> int:
        """Settle, and make whatever an earlier epoch still writes behind the end count for nothing; returns the end.
        Raises `Unavailable`."""
        ...

    async def open_parts(self, *, containers: Sequence[int], sample_48k: int) -> tuple[PartKeeper, PartTable]:
        """The list of places to go on with, and what is known of it: all that is needed to begin at `sample_48k`.
        Raises `Unavailable`."""
        ...

    async def seal(self) -> None:
        """Make durable what can be, and close; the log takes no more. Idempotent."""
        ...

    def close(self) -> None:
        """Of a log to which nothing was appended. Idempotent."""
        ...


class Media(Protocol):
    """All kept audio. `*_now` block: for threads that decode."""

    async def open(self, tenant_id: str, recording_id: str, *, epoch: int = 1) -> AudioLog:
        """The log of a stream that this `epoch` of it runs from now on, created by the first. Raises `Unavailable`,
        and `Fenced` when a later epoch has written already."""
        ...

    async def kept(self, tenant_id: str, recording_id: str) -> Kept:
        """What can be read now. Raises `NotFound`, `Unavailable`."""
        ...

    async def read(self, tenant_id: str, recording_id: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of a recording's kept audio, fewer at its end. Raises `NotFound`, `Unavailable`."""
        ...

    def read_now(self, tenant_id: str, recording_id: str, start: int, end: int) -> bytes: ...

    def parts_now(self, tenant_id: str, recording_id: str, *, log_end: int, containers: Sequence[int]) -> PartTable:
        """For listeners."""
        ...

    def save_parts_now(self, tenant_id: str, recording_id: str, table: PartTable) -> None:
        """Of an ended recording, found by a scan."""
        ...
