"""What search needs from the world: an index, the truth about segments, the tenant's words, and models of meaning.

Adapters: `search.postgres` and `search.weaviate.index` (Index), `server.store.transcripts` (Transcripts),
`server.store.words` (Words), `server.store.vectors` (Vectors), `server.store.editions` (Editions), `server.jobs.index`
(Segments), `server.workers.embedder` (Embedder). One contract suite runs on every Index.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from search.model import (
    Bounds,
    DueText,
    Edition,
    EmbedderInfo,
    Expression,
    Found,
    Held,
    IndexCapabilities,
    IndexDocument,
    QueryVector,
    SegmentName,
    Shown,
    TextVector,
    Vector,
)
from streaming.errors import ParlanceError

Connection = Any
"""asyncpg.Connection or its pool proxy; asyncpg ships no types."""


class Index(Protocol):
    """Finds segments by their words and by their meaning. Every method may raise `Unavailable`.

    The caller guarantees that `tenant_id` and `user_id` come from a verified identity, and that what is found is shown
    only as `Transcripts.shown` has it: an index may be behind the truth."""

    @property
    def capabilities(self) -> IndexCapabilities: ...

    async def put(self, tenant_id: str, documents: Sequence[IndexDocument], *, only: int | None = None) -> None:
        """Make documents searchable, words and the vectors they bring; they are when this returns. In all open
        editions, or in the one with this number. A document replaces the one with its id. Raises `Rejected`."""
        ...

    async def remove(self, tenant_id: str, segment_ids: Sequence[str]) -> None:
        """Forget segments, in all open editions; unknown ids are none of its business."""
        ...

    async def forget(self, tenant_id: str) -> None:
        """Forget all that it holds of a tenant."""
        ...

    async def match(self, tenant_id: str, expression: Expression, bounds: Bounds) -> list[Found]:
        """Segments in which the expression's words occur, best first (equal scores: newest, then by id) or newest first
        (score 0). Relevance may rank no more than the newest `Limits.search_candidates_max` matches."""
        ...

    async def near(self, tenant_id: str, vector: QueryVector, bounds: Bounds) -> list[Found]:
        """Segments whose vector of that model is at least `similarity_min` alike, the most alike first; the score is
        the cosine. Whatever `bounds.sort` says: order by time is the caller's."""
        ...

    async def held(self, tenant_id: str, after: str | None, limit: int) -> tuple[list[Held], str | None]:
        """A page of all that the current edition holds of a tenant, in an order of its own; `after` is what the page
        before gave as its second value, which is None at the end."""
        ...

    async def held_of(self, tenant_id: str, segment_ids: Sequence[str]) -> list[Held]:
        """What the current edition holds of these segments."""
        ...

    async def tenants(self) -> list[str]:
        """All tenants of which the current edition holds anything, in order."""
        ...

    async def begin(self, edition: Edition) -> None:
        """Make room for an edition before it is written; again is fine."""
        ...

    async def drop(self, edition: Edition) -> None:
        """Free what an edition held that is not open any more; again is fine."""
        ...


class Rejected(ParlanceError):
    """The index refused documents, and will again. `reasons`: by segment id, for the log of the operator."""

    def __init__(self, message: str, reasons: Mapping[str, str]) -> None:
        super().__init__(message)
        self.reasons = dict(reasons)


class Editions(Protocol):
    """Which editions there are. May raise `Unavailable`."""

    async def open(self) -> tuple[Edition, ...]:
        """Those that are written: the current one first. Remembered for `Limits.editions_ms_max`."""
        ...


class Transcripts(Protocol):
    """The truth, as searches need it. Every method may raise `Unavailable`."""

    async def languages(self, tenant_id: str) -> tuple[str, ...]:
        """Languages of the tenant's segments that have stems (`search.analysis.language_key`), in order."""
        ...

    async def spoken_by(self, tenant_id: str, names: Sequence[str]) -> list[tuple[str, str]]:
        """(recording id, label) of speakers who are called so, in any case."""
        ...

    async def shown(
        self, tenant_id: str, user_id: str, segment_ids: Sequence[str], *, around: int = 0
    ) -> dict[str, Shown]:
        """These segments as they are now, without those that are gone or that this user may not see. `around`: so many
        neighbours on either side."""
        ...


class Words(Protocol):
    """The words of a tenant's segments that a user may see. Every method may raise `Unavailable`."""

    async def similar(self, tenant_id: str, user_id: str, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """For folded words that nobody said: words that were said and are spelled alike, the likeliest first."""
        ...

    async def complete(self, tenant_id: str, user_id: str, prefix: str, limit: int) -> list[str]:
        """Words that begin with a folded prefix, the most frequent first."""
        ...


class Vectors(Protocol):
    """Vectors of all segments, the truth from which an index can be filled again. Every method may raise
    `Unavailable`."""

    async def due(self, model: str, limit: int) -> list[SegmentName]:
        """Segments of any tenant that have no vector of `model` for their text, the newest first."""
        ...

    async def due_count(self, model: str) -> int:
        """How many `due` would name without a limit."""
        ...

    async def due_texts(self, tenant_id: str, segment_ids: Sequence[str]) -> list[DueText]:
        """What is to be embedded; segments that are gone are left out."""
        ...

    async def put_vectors(self, tenant_id: str, model: str, vectors: Sequence[TextVector]) -> int:
        """Keep vectors, and have them indexed; returns how many were kept. One whose segment has got another text
        meanwhile is dropped."""
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

    async def current(self, tenant_id: str, segment_ids: Sequence[str]) -> list[IndexDocument]:
        """These segments as they are now, with their vectors of open editions' models; those that are gone are left
        out."""
        ...


class TenantTransactions(Protocol):
    """`server.store.pool.Database.tenant_tx`: one transaction that sees this tenant only."""

    def __call__(self, tenant_id: str) -> AbstractAsyncContextManager[Connection]: ...
