"""An index and a truth in memory, at our own ports. The contract suite runs on the index too (`tests.support.indexes`).

Its score of words is how many of a text's words match, as a share.
"""

from collections.abc import Mapping, Sequence

from search.analysis import Analysed, analyse
from search.matching import marks, matches
from search.model import (
    Beside,
    Bounds,
    Edition,
    Expression,
    Found,
    Held,
    IndexCapabilities,
    IndexDocument,
    QueryVector,
    Shown,
    Sort,
)
from search.query import nfc
from streaming.errors import Unavailable
from streaming.limits import LIMITS, Limits


class MemoryIndex:
    """`asked`: the methods that were called, in order; `bounds`: of what was matched; `lost`: every method is
    `Unavailable`."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._held: dict[str, dict[str, tuple[IndexDocument, Analysed]]] = {}
        self.asked: list[str] = []
        self.bounds: list[Bounds] = []
        self.lost = False

    @property
    def capabilities(self) -> IndexCapabilities:
        return IndexCapabilities(name="memory", vectors=True)

    def _of(self, tenant_id: str, method: str) -> dict[str, tuple[IndexDocument, Analysed]]:
        self.asked.append(method)
        if self.lost:
            raise Unavailable("The index does not answer.")
        return self._held.setdefault(tenant_id, {})

    async def put(self, tenant_id: str, documents: Sequence[IndexDocument], *, only: int | None = None) -> None:
        held = self._of(tenant_id, "put")
        for document in documents:
            held[document.segment_id] = (document, analyse(nfc(document.text), document.language))

    async def remove(self, tenant_id: str, segment_ids: Sequence[str]) -> None:
        held = self._of(tenant_id, "remove")
        for name in segment_ids:
            held.pop(name, None)

    async def forget(self, tenant_id: str) -> None:
        self._of(tenant_id, "forget").clear()

    async def match(self, tenant_id: str, expression: Expression, bounds: Bounds) -> list[Found]:
        self.bounds.append(bounds)
        seen = [
            (document, analysed)
            for document, analysed in self._of(tenant_id, "match").values()
            if _may_be_found(document, bounds) and matches(expression, analysed)
        ]
        newest = sorted(seen, key=lambda s: (-s[0].spoken_at_ms, s[0].segment_id))
        if bounds.sort is Sort.NEWEST:
            found = [_found(document, 0.0) for document, _ in newest]
            after = bounds.after
            if after is not None:
                place = (-after.spoken_at_us, after.segment_id)
                found = [f for f in found if (-f.spoken_at_us, f.segment_id) > place]
            return found[: bounds.limit]
        ranked = newest[: self._limits.search_candidates_max]
        found = [_found(d, len(marks(expression, a)) / (1 + len(a.words))) for d, a in ranked]
        return sorted(found, key=_best_first)[: bounds.limit]

    async def near(self, tenant_id: str, vector: QueryVector, bounds: Bounds) -> list[Found]:
        found = [
            _found(document, float(held.values @ vector.values))
            for document, _ in self._of(tenant_id, "near").values()
            for held in document.vectors
            if held.model == vector.info.model and _may_be_found(document, bounds)
        ]
        alike = [f for f in found if f.score >= vector.info.similarity_min]
        return sorted(alike, key=_best_first)[: bounds.limit]

    async def held(self, tenant_id: str, after: str | None, limit: int) -> tuple[list[Held], str | None]:
        names = [name for name in sorted(self._of(tenant_id, "held")) if name > (after or "")]
        page = await self.held_of(tenant_id, names[:limit])
        return page, page[-1].segment_id if len(names) > limit else None

    async def held_of(self, tenant_id: str, segment_ids: Sequence[str]) -> list[Held]:
        held = self._of(tenant_id, "held_of")
        documents = [held[name][0] for name in segment_ids if name in held]
        return [Held(d.segment_id, d.rev, tuple(sorted(v.model for v in d.vectors))) for d in documents]

    async def tenants(self) -> list[str]:
        self._of("", "tenants")
        return sorted(tenant for tenant, held in self._held.items() if held)

    async def begin(self, edition: Edition) -> None:
        self.asked.append("begin")

    async def drop(self, edition: Edition) -> None:
        self.asked.append("drop")


class MemoryTranscripts:
    """A truth that is what was put into an index, but for what a test makes of it: `hidden` ids are shown to nobody."""

    def __init__(self, index: MemoryIndex, languages: tuple[str, ...] = ("en",)) -> None:
        self._index = index
        self._languages = languages
        self.hidden: set[str] = set()
        self.named: dict[str, list[tuple[str, str]]] = {}

    async def languages(self, tenant_id: str) -> tuple[str, ...]:
        return self._languages

    async def spoken_by(self, tenant_id: str, names: Sequence[str]) -> list[tuple[str, str]]:
        return [place for name in names for place in self.named.get(name, [])]

    async def shown(
        self, tenant_id: str, user_id: str, segment_ids: Sequence[str], *, around: int = 0
    ) -> dict[str, Shown]:
        held = self._index._held.get(tenant_id, {})
        names = [name for name in segment_ids if name in held and name not in self.hidden]
        return {name: _shown(held[name][0], held, around) for name in names}


class MemoryWords:
    """A vocabulary with what the test says is spelled alike; `asked`: for which words."""

    def __init__(self, similar: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.alike = dict(similar or {})
        self.asked: list[list[str]] = []

    async def similar(self, tenant_id: str, user_id: str, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        self.asked.append(list(words))
        return {word: self.alike[word] for word in words if word in self.alike}

    async def complete(self, tenant_id: str, user_id: str, prefix: str, limit: int) -> list[str]:
        return []


def _found(document: IndexDocument, score: float) -> Found:
    return Found(document.segment_id, document.recording_id, document.spoken_at_ms * 1000, score)


def _best_first(found: Found) -> tuple[float, int, str]:
    return (-found.score, -found.spoken_at_us, found.segment_id)


def _may_be_found(document: IndexDocument, bounds: Bounds) -> bool:
    filters = bounds.filters
    language = document.language.lower()
    at_ms = document.spoken_at_ms
    place = (document.recording_id, document.speaker)
    return (
        (not document.private or document.owner_id == bounds.user_id)
        and at_ms * 1000 <= bounds.newest_us
        and (filters.recording_ids is None or document.recording_id in filters.recording_ids)
        and (filters.speakers is None or document.speaker in filters.speakers or place in bounds.named)
        and (filters.languages is None or bool({language, language.partition("-")[0]} & set(filters.languages)))
        and (filters.from_ms is None or at_ms >= filters.from_ms)
        and (filters.to_ms is None or at_ms < filters.to_ms)
    )


def _shown(document: IndexDocument, held: Mapping[str, tuple[IndexDocument, Analysed]], around: int) -> Shown:
    inside = [d for d, _ in held.values() if d.recording_id == document.recording_id]
    inside.sort(key=lambda d: (d.spoken_at_ms, d.segment_id))
    at = inside.index(document)
    return Shown(
        segment_id=document.segment_id,
        recording_id=document.recording_id,
        title=document.recording_id,
        speaker=document.speaker,
        start_ms=document.spoken_at_ms,
        end_ms=document.spoken_at_ms + 1,
        rev=document.rev,
        text=nfc(document.text),
        language=document.language,
        before=tuple(_beside(d) for d in inside[max(0, at - around) : at]),
        after=tuple(_beside(d) for d in inside[at + 1 : at + 1 + around]),
    )


def _beside(document: IndexDocument) -> Beside:
    return Beside(
        document.segment_id, document.speaker, document.spoken_at_ms, document.spoken_at_ms + 1, document.text
    )


__all__ = ["MemoryIndex", "MemoryTranscripts", "MemoryWords"]
