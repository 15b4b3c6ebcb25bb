"""What search needs from the world: an index, and the segments as they are now.

Adapters: `search.postgres` (Index), `server.jobs.index` (Segments). One contract suite runs on every Index.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from search.model import IndexCapabilities, IndexDocument, Page, Query

Connection = Any
"""asyncpg.Connection or its pool proxy; asyncpg ships no types."""


class Index(Protocol):
    """Finds segments by their words. Every method may raise `Unavailable`.

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


class Segments(Protocol):
    """The truth that is indexed."""

    async def current(self, tenant_id: str, recording_id: str, segment_ids: Sequence[str]) -> list[IndexDocument]:
        """These segments of the recording as they are now; those that are gone are left out."""
        ...


class TenantTransactions(Protocol):
    """`server.store.pool.Database.tenant_tx`: one transaction that sees this tenant only."""

    def __call__(self, tenant_id: str) -> AbstractAsyncContextManager[Connection]: ...
