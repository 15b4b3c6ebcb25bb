"""The meaning of what somebody types, while it is typed: a vector of each open model, remembered for a while.

Policy: search goes on without a vector when there is no model, when it is lost or late, or when the query has nothing
to embed. While a model changes two are asked at once, and one may be late alone. Typing back and forth asks for the
same texts, so the last ones are kept.

Boundary: `Embedder`. Invariant: `of` never raises for want of a model; at most `query_vectors_max` vectors are held.
"""

import asyncio
from collections.abc import Callable, Sequence

from search.model import EmbedderInfo, Query, QueryVector, Vector
from search.ports import CannotEmbed, Embedder
from streaming.errors import Unavailable
from streaming.limits import Limits


class QueryVectors:
    """`embedders`: those that are open now; none at a server that never gets one."""

    def __init__(self, embedders: Callable[[], Sequence[Embedder]], limits: Limits) -> None:
        self._embedders = embedders
        self._limits = limits
        self._held: dict[tuple[EmbedderInfo, str], Vector] = {}

    async def of(self, query: Query) -> list[QueryVector]:
        """The query's vectors, as far as they come in time."""
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._of(embedder, query.text)) for embedder in self._embedders()]
        return [vector for task in asked if (vector := task.result()) is not None]

    async def _of(self, embedder: Embedder, text: str) -> QueryVector | None:
        info = embedder.info
        if info is None:
            return None
        key = (info, text)
        values = self._held.pop(key, None)
        if values is None:
            try:
                async with asyncio.timeout(self._limits.embed_query_ms_max / 1000):
                    (values,) = await embedder.embed([text], as_query=True)
            except (Unavailable, CannotEmbed, TimeoutError):
                return None
            if embedder.info != info:
                return None  # another model came up meanwhile: whose vector is it?
        while len(self._held) >= self._limits.query_vectors_max:
            del self._held[next(iter(self._held))]
        self._held[key] = values
        return QueryVector(info, values)
