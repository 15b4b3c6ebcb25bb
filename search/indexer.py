"""Bring the index up to date with segments that were written, revised or removed.

Policy: a job says only which segments to look at; what is indexed is read when the job runs, so jobs may be repeated,
reordered and merged. Per recording one refresh runs at a time here; across nodes the higher `rev` wins in the index.

Boundary: reads through `Segments`, writes through `Index`; errors of either pass, and the job is retried.
Invariant: after the last job for a segment has run, the index holds its newest revision, or nothing if it is gone.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from search.ports import Index, Segments


class Indexer:
    """Refreshes the index of segments; used by many jobs at once."""

    def __init__(self, segments: Segments, index: Index) -> None:
        self._segments = segments
        self._index = index
        self._turns: dict[tuple[str, str], _Turn] = {}

    async def refresh(self, tenant_id: str, recording_id: str, segment_ids: Sequence[str]) -> None:
        """Index these segments as they are now. Raises `Unavailable`; nothing is half done then that a repeat
        would not complete."""
        wanted = list(dict.fromkeys(segment_ids))
        async with self._turn(tenant_id, recording_id):
            documents = await self._segments.current(tenant_id, recording_id, wanted)
            found = {document.segment_id for document in documents}
            await self._index.put(tenant_id, documents)
            await self._index.remove(tenant_id, [name for name in wanted if name not in found])

    @asynccontextmanager
    async def _turn(self, tenant_id: str, recording_id: str) -> AsyncIterator[None]:
        """The recording's turn; forgotten when nobody wants it, so there are never more than running refreshes."""
        key = (tenant_id, recording_id)
        turn = self._turns.setdefault(key, _Turn())
        turn.wanted_by += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted_by -= 1
            if turn.wanted_by == 0:
                del self._turns[key]


class _Turn:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted_by = 0
