"""What search needs from the world: an index, the segments as they are now, and a model of meaning.

Adapters: `search.postgres` (Index), `server.jobs.index` (Segments), `server.workers.embedder` (Embedder). One contract
suite runs on every Index.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from search.model import (
    DueText,
    EmbedderInfo,
    IndexCapabilities,
    IndexDocument,
    Page,
    Query,
    QueryVector,
    SegmentName,
    TextVector,
    Vector,
)
from streaming.errors import ParlanceError

Connection = Any
"""asyncpg.Connection or its pool proxy; asyncpg ships no types."""


class Index(Protocol):
    """Finds segments by their words and by their meaning. Every method may raise `Unavailable`.

    The caller guarantees that `tenant_id` and `user_id` come from a verified identity."""

    @property
    def capabilities(self) -> IndexCapabilities: ...

    async def put(self, tenant_id: str, documents: Sequence[IndexDocument]) -> None:
        """Make documents searchable; they are when this returns. A document never replaces one of a higher `rev`.
        A segment that is gone is skipped."""
        ...

    async def remove(self, tenant_id: str, segment_ids: Sequence[str]) -> None:
        """Forget segments; unknown ids are none of its business."""
        ...

    async def search(self, tenant_id: str, user_id: str, query: Query) -> Page:
        """One page of the tenant's segments that this user may see: private recordings only for their owner.
        An empty query has no hits. Relevance ranks the newest `Limits.search_candidates_max` matches."""
        ...

    async def search_near(self, tenant_id: str, user_id: str, query: Query, vector: QueryVector) -> Page:
        """Like `search`, with what is near in meaning: fused with the words' matches, or alone in semantic mode."""
        ...

    async def due(self, model: str, limit: int) -> list[SegmentName]:
        """Indexed segments of any tenant that have no vector of `model` for their text, the newest first."""
        ...

    async def due_count(self, model: str) -> int:
        """How many `due` would name without a limit."""
        ...

    async def due_texts(self, tenant_id: str, segment_ids: Sequence[str]) -> list[DueText]:
        """What is to be embedded; segments that are gone are left out."""
        ...

    async def put_vectors(self, tenant_id: str, model: str, vectors: Sequence[TextVector]) -> int:
        """Keep vectors; returns how many were kept. One whose segment has got another text meanwhile is dropped."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def info(self) -> EmbedderInfo | None:
        """The model; None while it is not ready."""
        ...

    async def ready(self) -> None:
        """Wait until the model is ready."""
        ...

    async def embed(self, texts: Sequence[str], *, as_query: bool = False) -> list[Vector]:
        """One vector for each text, of the model that `info` tells. `as_query`: somebody waits for it, and the texts
        are questions to be answered by others. Raises `Unavailable`; `CannotEmbed` when repeating will not help."""
        ...


class CannotEmbed(ParlanceError):
    """The model fails on this very text."""


class Segments(Protocol):
    """The truth that is indexed."""

    async def current(self, tenant_id: str, recording_id: str, segment_ids: Sequence[str]) -> list[IndexDocument]:
        """These segments of the recording as they are now; those that are gone are left out."""
        ...


class TenantTransactions(Protocol):
    """`server.store.pool.Database.tenant_tx`: one transaction that sees this tenant only."""

    def __call__(self, tenant_id: str) -> AbstractAsyncContextManager[Connection]: ...
