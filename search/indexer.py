"""Bring the index up to date with segments that were written, revised or removed, without locks between nodes.

Policy: a job says only which segments to look at. They are read, put, and then looked at again: what changed meanwhile
is put again, of the rest the truth notes that they can be found. Whoever puts last looks last, so whatever the order in
which nodes do this, the index ends with the newest; a put of a node that dies is repeated with its job. In a node a
tenant's jobs take turns, and those that wait together share one put.

Measured with PostgreSQL, 400 waiting jobs of one segment each in 8 recordings of a tenant, CPU of node and database:
2.8 ms a job and 3 s for all where they share puts, 11.5 ms and 15 s where each has its own.

Boundary: reads and notes through `Truth`, writes through `Index`; errors of either pass, and the job is retried.
Invariant: after the last job for a segment has run, the index holds its newest revision and vectors, or nothing if it
is gone.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from search.model import IndexDocument
from search.ports import Index, Rejected, Segments
from streaming.errors import Unavailable
from streaming.limits import LIMITS, Limits


class Truth(Segments, Protocol):
    """What is indexed, and where it is noted that it was. Both may raise `Unavailable`."""

    async def settle(
        self, tenant_id: str, put: Mapping[str, IndexDocument | None], *, tell: Collection[str]
    ) -> Collection[str]:
        """`put`: what the index was given of each segment, None where it was removed. Returns those that are different
        now; that the others can be found is noted, and told where `tell` has them."""
        ...


class Indexer:
    """Refreshes the index of segments; used by many jobs at once."""

    def __init__(self, truth: Truth, index: Index, limits: Limits = LIMITS) -> None:
        self._truth = truth
        self._index = index
        self._limits = limits
        self._turns: dict[str, _Turn] = {}

    async def refresh(self, tenant_id: str, segment_ids: Sequence[str]) -> None:
        """Index these segments as they are now. Raises `Unavailable`, `Rejected`; nothing is half done then that a
        repeat would not complete."""
        call = _Call(segment_ids)
        turn = self._turns.setdefault(tenant_id, _Turn())
        turn.waiting.append(call)
        turn.wanted_by += 1
        try:
            async with turn.lock:
                if not call.done:
                    await self._together(tenant_id, turn, call)
        finally:
            if call in turn.waiting:
                turn.waiting.remove(call)
            turn.wanted_by -= 1
            if turn.wanted_by == 0:
                del self._turns[tenant_id]
        if call.error is not None:
            raise call.error

    async def fill(self, tenant_id: str, segment_ids: Sequence[str], only: int | None = None) -> None:
        """Put segments that nobody is waiting for, into one edition or all; none is told of, and what the index refuses
        is left to its own job. Raises `Unavailable`."""
        await self._put(tenant_id, dict.fromkeys(segment_ids), tell=(), only=only)

    async def _together(self, tenant_id: str, turn: "_Turn", first: "_Call") -> None:
        """Do what waits, `first` in any case."""
        turn.waiting.remove(first)
        calls, wanted = [first], dict.fromkeys(first.segment_ids)
        for call in [] if first.alone else list(turn.waiting):
            if call.alone or len(wanted) + len(call.segment_ids) > self._limits.index_batch_max:
                break
            turn.waiting.remove(call)
            calls.append(call)
            wanted.update(dict.fromkeys(call.segment_ids))
        try:
            refused = await self._put(tenant_id, wanted, tell=wanted, only=None)
        except Unavailable as error:
            for call in calls:
                call.done, call.error = True, error
            return
        except Exception:  # the message boundary of jobs that share a put: none is given up for another's defect
            if len(calls) == 1:
                raise
            for call in calls:
                call.alone = True
            turn.waiting[:0] = calls
            await self._together(tenant_id, turn, first)
            return
        except BaseException:
            turn.waiting[:0] = calls[1:]  # this job is cancelled: the others do their own
            raise
        for call in calls:
            call.done = True
            if mine := {name: refused[name] for name in call.segment_ids if name in refused}:
                call.error = Rejected("The index refused segments.", mine)

    async def _put(
        self, tenant_id: str, wanted: Iterable[str], *, tell: Collection[str], only: int | None
    ) -> dict[str, str]:
        """Returns what the index refused, and why."""
        left, refused = list(wanted), dict[str, str]()
        for _round in range(self._limits.index_rounds_max):
            documents = {d.segment_id: d for d in await self._truth.current(tenant_id, left)}
            refused |= await self._accepted(tenant_id, list(documents.values()), only)
            gone = [name for name in left if name not in documents]
            if gone:
                await self._index.remove(tenant_id, gone)
            put = {name: documents.get(name) for name in left if name not in refused}
            left = list(await self._truth.settle(tenant_id, put, tell=tell)) if put else []
            if not left:
                return refused
        raise Unavailable("Segments change faster than they can be indexed.", retry_after_ms=1_000)

    async def _accepted(self, tenant_id: str, documents: list[IndexDocument], only: int | None) -> dict[str, str]:
        """Put all that the index takes; returns what it refuses."""
        refused: dict[str, str] = {}
        while documents:
            try:
                await self._index.put(tenant_id, documents, only=only)
                break
            except Rejected as error:
                rest = [d for d in documents if d.segment_id not in error.reasons]
                if len(rest) == len(documents):
                    raise
                refused |= error.reasons
                documents = rest
        return refused


class _Call:
    def __init__(self, segment_ids: Sequence[str]) -> None:
        self.segment_ids = list(dict.fromkeys(segment_ids))
        self.alone = False
        self.done = False
        self.error: Exception | None = None


class _Turn:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting: list[_Call] = []
        self.wanted_by = 0
