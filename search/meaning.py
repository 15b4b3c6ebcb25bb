"""The meaning of what somebody types, while it is typed: a vector for each query, remembered for a while.

Policy: search goes on without a vector when there is no model, when it is lost or late, or when the query has nothing
to embed. Typing back and forth asks for the same texts, so the last ones are kept.

Boundary: `Embedder`. Invariant: `of` never raises for want of a model; at most `query_vectors_max` vectors are held.
"""

import asyncio

from search.model import EmbedderInfo, Query, QueryVector, Vector
from search.ports import CannotEmbed, Embedder
from streaming.errors import Unavailable
from streaming.limits import Limits


class QueryVectors:
    """`embedder`: None when this server never gets one."""

    def __init__(self, embedder: Embedder | None, limits: Limits) -> None:
        self._embedder = embedder
        self._limits = limits
        self._held: dict[tuple[EmbedderInfo, str], Vector] = {}

    async def of(self, query: Query) -> QueryVector | None:
        """The query's vector, None when there is none in time."""
        embedder = self._embedder
        info = None if embedder is None else embedder.info
        if embedder is None or info is None:
            return None
        key = (info, query.text)
        values = self._held.pop(key, None)
        if values is None:
            try:
                async with asyncio.timeout(self._limits.embed_query_ms_max / 1000):
                    (values,) = await embedder.embed([query.text], as_query=True)
            except (Unavailable, CannotEmbed, TimeoutError):
                return None
            if embedder.info != info:
                return None  # another model came up meanwhile: whose vector is it?
        while len(self._held) >= self._limits.query_vectors_max:
            del self._held[next(iter(self._held))]
        self._held[key] = values
        return QueryVector(info, values)
