"""Build editions of the index from the database, beside everything else that goes on.

Policy: one node at a time builds (`StoredEditions.lease`, which ends with its connection); which step comes next is
decided from what is stored (`server.jobs.editions`), so whoever comes after a kill goes on where it ended. All nodes
know of an edition before it is filled: what changes from then on goes into it by index jobs, what is older comes from
the database page by page, with the vectors that are there. The next edition becomes the current one when it is whole;
the old one is dropped when all nodes know that. Live indexing comes first: a page is followed by a rest as long as it
took, and by another while many index jobs wait.

Boundary: ports only; `Unavailable` is waited for. Invariant: an edition is searched only when it holds what the one
before held (the first one excepted: there is nothing else).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from search.indexer import Indexer
from search.model import EditionState, EmbedderInfo
from search.ports import Index
from server.jobs.editions import Adopt, Await, Begin, Drop, Fill, Promote, Retire, Step, next_step, with_model
from server.jobs.queue import pause_s
from server.store.editions import Lease, Shape, StoredEdition, StoredEditions
from server.store.vectors import StoredVectors
from streaming.aio import Signal
from streaming.errors import Unavailable
from streaming.limits import LIMITS, Limits
from streaming.protocol.messages import StatusTask

RETRY_S_MIN, RETRY_S_MAX = 0.5, 30.0
LOG_EVERY_S = 10.0
STAND_BACK_S = 0.5
"""While live segments wait for the index: about as long as they take."""

log = logging.getLogger(__name__)


class Progress:
    """Of one edition: how many of how many segments."""

    def __init__(self, total: int, done: int) -> None:
        self.total = max(total, done)
        self.done = done
        self._told = time.monotonic()

    def tell(self, edition: StoredEdition) -> None:
        now = time.monotonic()
        if now - self._told >= LOG_EVERY_S:
            self._told = now
            log.info(
                "index is being built",
                extra={"edition": edition.number, "segments": self.done, "of": self.total},
            )

    @property
    def task(self) -> StatusTask:
        text = f"{self.done:,} of {self.total:,} segments are in the new index."
        return StatusTask(name="index", state="running", fraction=min(1.0, self.done / max(1, self.total)), text=text)


class Rebuild:
    """`run` is a component; `wake` may be called when the model became known or an edition was begun elsewhere."""

    def __init__(
        self,
        *,
        editions: StoredEditions,
        vectors: StoredVectors,
        indexes: Mapping[str, Index],
        indexer: Indexer,
        wanted: Callable[[], Shape],
        busy: Callable[[], bool] = lambda: False,
        limits: Limits = LIMITS,
    ) -> None:
        """`indexes`: those that can be reached, by adapter; `wanted`: what this node makes, as far as it is known."""
        self._editions = editions
        self._vectors = vectors
        self._indexes = indexes
        self._indexer = indexer
        self._wanted = wanted
        self._busy = busy
        self._limits = limits
        self._wake = Signal()
        self._met: Shape | None = None
        self._progress: Progress | None = None
        self._whole: tuple[int, int] | None = None
        """An edition that lacks no vector, and the last job there was then."""

    @property
    def task(self) -> StatusTask | None:
        """How far it is, None when nothing is built here."""
        return None if self._progress is None else self._progress.task

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Build what is to be built, until cancelled."""
        failures = 0
        while True:
            try:
                await self.work()
                failures = 0
                rest = self._limits.index_look_ms / 1000
            except Unavailable as error:
                log.warning("index is not built now", extra={"error": type(error).__name__})
                rest = pause_s(failures, RETRY_S_MIN, RETRY_S_MAX)
                failures += 1
            try:
                async with asyncio.timeout(rest):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def work(self) -> bool:
        """Take all steps that can be taken now; False where another node is at it. Raises `Unavailable`."""
        if await self._step() is None:
            return True
        async with self._editions.lease() as lease:
            if lease is None:
                return False
            try:
                while (step := await self._step()) is not None:
                    await self._take(step, lease)
            finally:
                self._progress = None
        return True

    async def request(self) -> int:
        """Have all built anew: the number of the edition that will be searched. One that is being built already is as
        new. Raises `Unavailable`."""
        while True:
            for edition in await self._editions.all():
                if edition.state == "building":
                    return edition.number
            async with self._editions.lease() as lease:
                if lease is not None:
                    await self._begin(Begin(await self._as_it_is(), current=False))
            await asyncio.sleep(STAND_BACK_S)

    async def expect(self) -> None:
        """There is an edition to look at; where no server ever ran, it is built now. Raises `Unavailable`."""
        while not await self._editions.open():
            if not await self.work():
                await asyncio.sleep(STAND_BACK_S)

    async def _as_it_is(self) -> Shape:
        """What this node makes, with the model that is searched where it knows of none itself."""
        wanted = self._wanted()
        current = next(e for e in await self._editions.all() if e.state == "current")
        return with_model(wanted, current.shape)

    async def _step(self) -> Step | None:
        """What is to be done now; None also while vectors are missing."""
        wanted = self._wanted()
        step = next_step(await self._editions.all(), wanted, insist=self._met != wanted)
        if isinstance(step, Await):
            return Promote(step.edition.number) if await self._is_whole(step.edition) else None
        if step is None and wanted.model:
            self._met = wanted  # from now on another node may want another model, and has its way
        return step

    async def _is_whole(self, edition: StoredEdition) -> bool:
        """Nothing lacks its vector, and the index jobs of those that came last are done."""
        if await self._vectors.behind(edition.shape.model, self._limits.index_behind_ms):
            return False
        if self._whole is None or self._whole[0] != edition.number:
            self._whole = (edition.number, await self._editions.last_job())
        return await self._editions.jobs_done(self._whole[1])

    async def _take(self, step: Step, lease: Lease) -> None:
        match step:
            case Begin():
                await self._begin(step)
            case Adopt():
                shape = self._wanted()
                info = EmbedderInfo(shape.model, shape.dimensions, shape.similarity_min)
                await self._editions.adopt(step.number, info, shape.spec)
            case Fill():
                await self._fill(step.edition, lease)
            case Promote():
                if await self._editions.promote(step.number):
                    log.info("index edition is searched", extra={"edition": step.number})
            case Retire():
                await self._editions.retire(step.number)
            case Drop():
                await self._drop(step.edition, lease)
            case Await():
                raise AssertionError("waiting is no step")

    async def _begin(self, step: Begin) -> None:
        number = await self._editions.number(step.shape)
        state = EditionState.CURRENT if step.current else EditionState.BUILDING
        made = StoredEdition(number, step.shape, state.value, False, "", "", 0)
        await self._index(made).begin(made.edition)
        await self._editions.begin(number, state)
        log.info("index edition begun", extra={"edition": number, "adapter": step.shape.adapter})

    def _index(self, edition: StoredEdition) -> Index:
        index = self._indexes.get(edition.shape.adapter)
        if index is None:
            raise Unavailable(f"There is no index of the kind {edition.shape.adapter} here.")
        return index

    async def _fill(self, edition: StoredEdition, lease: Lease) -> None:
        await self._index(edition).begin(edition.edition)
        await self._all_know()
        self._editions.forget()
        progress = self._progress = Progress(await self._editions.segments(), edition.done)
        tenant_id, after = edition.tenant_id, edition.segment_id
        while True:
            if tenant_id:
                while page := await self._editions.page(tenant_id, after, self._limits.index_fill_page):
                    began = time.monotonic()
                    await self._indexer.fill(tenant_id, [name for name, _ in page], only=edition.number)
                    after = page[-1][0]
                    progress.done += len(page)
                    await lease.note(edition.number, tenant_id, after, done=progress.done)
                    progress.tell(edition)
                    await self._rest(time.monotonic() - began)
            tenants = await self._editions.tenants(tenant_id, 1)
            if not tenants:
                break
            tenant_id, after = tenants[0], ""
        await lease.note(edition.number, tenant_id, after, done=progress.done, filled=True)
        log.info("index edition is filled", extra={"edition": edition.number, "segments": progress.done})

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        while self._busy():  # noqa: ASYNC110 (what it looks at is a figure, that nobody tells of)
            await asyncio.sleep(STAND_BACK_S)

    async def _all_know(self) -> None:
        """Every node knows which editions are open now, and what it began before it knew is done."""
        await asyncio.sleep(2 * self._limits.editions_ms_max / 1000)

    async def _drop(self, edition: StoredEdition, lease: Lease) -> None:
        await self._all_know()
        index = self._indexes.get(edition.shape.adapter)
        if index is None:
            log.warning(
                "an index that is not configured any more keeps what it held",
                extra={"edition": edition.number, "adapter": edition.shape.adapter},
            )
        else:
            await index.drop(edition.edition)
        while await lease.expire(self._limits.index_expire_rows):
            await self._rest(0)
        await self._editions.delete(edition.number)
        log.info("index edition dropped", extra={"edition": edition.number})
