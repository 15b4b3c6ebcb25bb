"""Kept audio in storage that all nodes share, so that any of them can go on with a stream and play it.

Policy: what a stream of this node has taken is read from its spool (`server.media.sealing`), everything else from the
storage: a list of names tells what counts (`server.media.extents`), also while another node records. Recordings from
before the storage was set stay readable at the node that has them, and their streams end there.

Boundary: `Objects`, a spool folder; `*_now` ask the loop from a thread. Invariant: what is asked of the storage is
bounded by `Limits`, and what it does not answer is `Unavailable`.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from server.config import Config
from server.media.audiolog import FileLog, MediaStore
from server.media.extents import Chain, chain
from server.media.objects import BlockingObjects, Objects, storage_of
from server.media.parts import PartTable, sound_records
from server.media.ports import SAFE_NAME, AudioLog, Kept
from server.media.sealing import SharedLog, read_pieces, read_records
from server.media.spool import Spool
from server.telemetry import METRICS
from streaming.aio import Scope
from streaming.audio.sniff import SNIFF_BYTES
from streaming.errors import Fenced, NotFound, Unavailable
from streaming.limits import Limits

log = logging.getLogger(__name__)

T = TypeVar("T")

Key = tuple[str, str]

PROBE = ".probe"
"""An object that nodes write to learn whether they can. No tenant is called so."""
RETRY_S = 2.0
PROBE_S = 10.0
"""Without a put that was answered for so long, one is tried."""


class Watched(Objects):
    """Remembers whether audio can be made durable."""

    def __init__(self, storage: BlockingObjects, limits: Limits) -> None:
        super().__init__(storage, limits)
        self._answered = -PROBE_S
        self._failing = False

    async def works(self) -> bool:
        if self._failing or time.monotonic() - self._answered > PROBE_S:
            try:
                await self.put(PROBE, b"")
            except Unavailable:
                return False
        return True

    async def put(self, path: str, data: bytes) -> None:
        try:
            await super().put(path, data)
        except Unavailable as error:
            METRICS.storage_failures.inc()
            if not self._failing:
                log.warning("storage does not take audio", extra={"error": str(error.__cause__)[:300]})
            self._failing = True
            raise
        self._failing, self._answered = False, time.monotonic()


class SharedMedia:
    """`server.media.ports.Media`. `local`: what this machine kept before."""

    def __init__(
        self, storage: BlockingObjects, *, spool: Spool, local: MediaStore, executor: Executor, limits: Limits
    ) -> None:
        self._objects = Watched(storage, limits)
        self._spool = spool
        self._local = local
        self._executor = executor
        self._limits = limits
        self._scope = Scope("seals", on_error=_crashed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._live: dict[Key, SharedLog] = {}
        self._chains: OrderedDict[Key, Chain] = OrderedDict()

    async def begin(self) -> None:
        """Before anybody may record. Raises OSError when there can be no spool."""
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._executor, self._spool.open)

    async def answers(self) -> None:
        """Wait for a storage that is away."""
        while True:
            if await self.works():
                return
            await asyncio.sleep(RETRY_S)

    async def works(self) -> bool:
        """Whether audio can be made durable: by what was put last, or by trying."""
        return await self._objects.works()

    async def close(self) -> None:
        """After the last log was sealed."""
        await self._scope.close()
        self._objects.close()
        await asyncio.get_running_loop().run_in_executor(self._executor, self._spool.close)

    # --- writing --------------------------------------------------------------------------------------------------
    async def open(self, tenant_id: str, recording_id: str, *, epoch: int = 1) -> AudioLog:
        key = (tenant_id, recording_id)
        folder, found = _folder(key), Chain()
        if epoch > 1:  # the first finds nothing, and need not wait for the storage
            found = await self._list(key)
            if not found.epoch and await self._kept_here(key):
                return await self._local.open(tenant_id, recording_id)
        if found.epoch >= epoch:
            raise Fenced("Another connection took this stream over.")
        path = self._spool.folder / f"{tenant_id}.{recording_id}.{epoch}"
        spool = FileLog.open(path, self._executor, end=found.end)
        opened = SharedLog(
            folder=folder,
            epoch=epoch,
            found=found,
            spool=spool,
            objects=self._objects,
            scope=self._scope,
            limits=self._limits,
            on_close=lambda: self._closed(key, opened),
        )
        self._live[key] = opened
        try:
            if found.end < SNIFF_BYTES:
                await opened.fetch(0)  # the first bytes tell an encoding
        except BaseException:
            opened.close()
            raise
        return opened

    def _closed(self, key: Key, log_: SharedLog) -> None:
        if self._live.get(key) is log_:
            del self._live[key]

    async def _kept_here(self, key: Key) -> bool:
        try:
            return (await self._local.kept(*key)).size > 0
        except NotFound:
            return False

    # --- reading --------------------------------------------------------------------------------------------------
    async def kept(self, tenant_id: str, recording_id: str) -> Kept:
        key = (tenant_id, recording_id)
        if live := self._live.get(key):
            return Kept(size=live.end, version=live.version)
        found = await self._list(key)
        if not found.epoch:
            return await self._local.kept(tenant_id, recording_id)
        return Kept(size=found.end, version=found.epoch, whole=False)

    async def read(self, tenant_id: str, recording_id: str, start: int, end: int) -> bytes:
        key = (tenant_id, recording_id)
        live = self._live.get(key)
        if live is not None and start >= live.readable_from:
            try:
                return await self._aside(lambda: _read_spool(live, start, end))
            except FileNotFoundError:
                pass  # it ended just now
        for known in (self._chains.get(key), None):
            found = known if known is not None and end <= known.end else await self._list(key)
            if not found.epoch:
                return await self._local.read(tenant_id, recording_id, start, end)
            try:
                return b"".join(await read_pieces(self._objects, _folder(key), found.within(start, end)))
            except NotFound:
                continue  # its owner has merged them
        raise NotFound("There is no audio of this recording.")

    def read_now(self, tenant_id: str, recording_id: str, start: int, end: int) -> bytes:
        return self._from_thread(self.read(tenant_id, recording_id, start, end))

    def parts_now(self, tenant_id: str, recording_id: str, *, log_end: int, containers: Sequence[int]) -> PartTable:
        key = (tenant_id, recording_id)
        return self._from_thread(self._parts(key, log_end=log_end, containers=containers))

    def save_parts_now(self, tenant_id: str, recording_id: str, table: PartTable) -> None:
        """What the extents do not tell is scanned again: the last few seconds of each epoch."""

    async def _parts(self, key: Key, *, log_end: int, containers: Sequence[int]) -> PartTable:
        found = await self._list(key)
        if not found.epoch:
            return await self._aside(lambda: self._local.parts_now(*key, log_end=log_end, containers=containers))
        told = [piece for piece in found.pieces if piece.extent.places]
        records: list[bytes] = []
        step = self._limits.storage_reads_max
        for first in range(0, len(told), step):
            try:
                records += await read_records(self._objects, _folder(key), told[first : first + step])
            except NotFound:
                break  # merged just now: what is known to here will do
        return PartTable(sound_records(b"".join(records), log_end=log_end, containers=containers))

    async def _list(self, key: Key) -> Chain:
        found = chain(await self._objects.names(_folder(key)))
        self._chains[key] = found
        self._chains.move_to_end(key)
        while len(self._chains) > self._limits.storage_lists_max:
            self._chains.popitem(last=False)
        return found

    # --- threads --------------------------------------------------------------------------------------------------
    async def _aside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _from_thread(self, question: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None, "start comes first"
        return asyncio.run_coroutine_threadsafe(question, self._loop).result()


def shared_media(
    config: Config, *, node: str, local: MediaStore, executor: Executor, limits: Limits
) -> SharedMedia | None:
    """As `config.storage_url` says; None without one. Raises `ConfigError`."""
    if config.storage_url is None:
        return None
    storage = storage_of(config.storage_url, limits)
    spool = Spool(config.data_dir / "spool", node)
    return SharedMedia(storage, spool=spool, local=local, executor=executor, limits=limits)


def _folder(key: Key) -> str:
    """Raises `NotFound` for what is no id."""
    if not all(SAFE_NAME.fullmatch(name) for name in key):
        raise NotFound("There is no such recording.")
    return "/".join(key)


def _read_spool(log_: SharedLog, start: int, end: int) -> bytes:
    """By its path: the log may be closed meanwhile, and its descriptor be another file's."""
    with log_.spool.path.open("rb") as file:
        return os.pread(file.fileno(), max(0, min(end, log_.end) - start), start)


def _crashed(name: str, error: BaseException) -> None:
    log.error("sealing crashed", extra={"task": name}, exc_info=error)
