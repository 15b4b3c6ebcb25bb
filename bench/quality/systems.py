"""What a query finds, as the program finds it, and with one thing changed.

The figures of keyword, vector and hybrid are those of `search.finding.Finder`, the code that answers people: nothing of
it is written again here. Variants are made of what the index found for the same query (`Overheard`), put in order by
another rule; or by a Finder whose index or words are changed on the way.

Boundary: `Finder`, `Index`. Pure but for asking them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from bench.quality.metrics import RECALL_AT
from search.analysis import STEM
from search.finding import Finder
from search.matching import expression
from search.model import Bounds, EmbedderInfo, Expression, Found, Mode, Page, Position, Query, QueryVector, Term, Vector
from search.ports import Index, Transcripts, Words
from search.query import parse
from search.ranking import aged, fused, positions

NOW_US = int(datetime(2026, 5, 1, tzinfo=UTC).timestamp()) * 1_000_000
"""A week after the last recording: ages are the same whenever this is measured."""

Ranking = list[str]
Rule = Callable[[Sequence[Found], Sequence[Found]], list[Position]]
"""Words' and meaning's candidates in one order."""
Change = Callable[[Query, Expression], Expression]


class Overheard:
    """An index that is asked through here. `change`: what is asked instead; `matched`, `nearest`: what was found last,
    by each asking."""

    def __init__(self, index: Index, change: Change | None = None) -> None:
        self._index = index
        self._change = change
        self.query: Query | None = None
        self.matched: list[list[Found]] = []
        self.nearest: list[Found] = []

    async def match(self, tenant_id: str, wanted: Expression, bounds: Bounds) -> list[Found]:
        if self._change is not None and self.query is not None:
            wanted = self._change(self.query, wanted)
        found = await self._index.match(tenant_id, wanted, bounds)
        self.matched.append(found)
        return found

    async def near(self, tenant_id: str, vector: QueryVector, bounds: Bounds) -> list[Found]:
        self.nearest = await self._index.near(tenant_id, vector, bounds)
        return self.nearest


class Mute:
    """Words that nobody said are nobody's."""

    async def similar(self, _tenant_id: str, _user_id: str, _words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        return {}

    async def complete(self, _tenant_id: str, _user_id: str, _prefix: str, _limit: int) -> list[str]:
        return []


class Heard(msgspec.Struct, frozen=True):
    """Of one query: the program's three rankings, and the candidates they were made of."""

    keyword: Ranking
    vector: Ranking
    hybrid: Ranking
    words: list[Found]
    near: list[Found]


class Place(msgspec.Struct, frozen=True):
    """Where is asked, and as whom."""

    index: Index
    transcripts: Transcripts
    words: Words
    tenant: str
    user: str
    info: EmbedderInfo
    languages: tuple[str, ...]

    def finder(self, index: Any, *, words: Words | None = None) -> Finder:
        return Finder(index, self.transcripts, words or self.words, now=lambda: NOW_US)


async def ask(place: Place, text: str, vector: Vector, *, finder: Finder, through: Overheard) -> Heard:
    """All three rankings of a query."""
    vectors = [QueryVector(place.info, vector)]
    by_words = parse(text, limit=RECALL_AT)
    through.query = by_words
    through.matched.clear()
    keyword = await finder.instant(place.tenant, place.user, by_words)
    typed, *corrected = through.matched or [[]]
    better = [found for found in corrected if len(found) != len(typed)]
    by_meaning = parse(text, mode=Mode.SEMANTIC, limit=RECALL_AT)
    vector_page = await finder.full(place.tenant, place.user, by_meaning, vectors)
    hybrid = await finder.full(place.tenant, place.user, by_words, vectors)
    return Heard(
        keyword=ranking(keyword),
        vector=ranking(vector_page),
        hybrid=ranking(hybrid),
        words=better[-1] if better else typed,
        near=through.nearest,
    )


async def matched(place: Place, text: str, *, finder: Finder, through: Overheard) -> Ranking:
    """By words alone."""
    query = parse(text, limit=RECALL_AT)
    through.query = query
    return ranking(await finder.instant(place.tenant, place.user, query))


def ranking(page: Page) -> Ranking:
    return [hit.segment_id for hit in page.hits]


# --- other rules of one order from two
def ranked(rule: Rule, heard: Heard) -> Ranking:
    return [position.segment_id for position in rule(heard.words, heard.near)][:RECALL_AT]


def reciprocal(k: int, words: float = 1.0, meaning: float = 1.0) -> Rule:
    """Reciprocal rank fusion with this k, and weights."""

    def rule(by_words: Sequence[Found], near: Sequence[Found]) -> list[Position]:
        scores: dict[str, float] = {}
        times = {f.segment_id: f.spoken_at_us for f in (*by_words, *near)}
        for weight, order in ((words, aged(by_words, NOW_US)), (meaning, positions(near))):
            for rank, position in enumerate(order, start=1):
                scores[position.segment_id] = scores.get(position.segment_id, 0.0) + weight / (k + rank)
        return _ordered(scores, times)

    return rule


def relative(words: float) -> Rule:
    """Relative-score fusion as Weaviate has it: each side's scores are stretched to 0..1 and weighed."""

    def rule(by_words: Sequence[Found], near: Sequence[Found]) -> list[Position]:
        scores: dict[str, float] = {}
        times = {f.segment_id: f.spoken_at_us for f in (*by_words, *near)}
        for weight, order in ((words, aged(by_words, NOW_US)), (1 - words, positions(near))):
            for name, score in _stretched(order).items():
                scores[name] = scores.get(name, 0.0) + weight * score
        return _ordered(scores, times)

    return rule


def ageless(by_words: Sequence[Found], near: Sequence[Found]) -> list[Position]:
    """The program's rule, without the loss for age."""
    return fused(positions(by_words), positions(near)) if near else positions(by_words)


def words_first(by_words: Sequence[Found], near: Sequence[Found]) -> list[Position]:
    first = aged(by_words, NOW_US)
    names = {position.segment_id for position in first}
    return [*first, *(position for position in positions(near) if position.segment_id not in names)]


def _stretched(order: Sequence[Position]) -> Mapping[str, float]:
    if not order:
        return {}
    high, low = order[0].score, order[-1].score
    return {p.segment_id: (p.score - low) / (high - low) if high > low else 1.0 for p in order}


def _ordered(scores: Mapping[str, float], times: Mapping[str, int]) -> list[Position]:
    order = [Position(score, times[name], name) for name, score in scores.items()]
    return sorted(order, key=lambda p: (-p.score, -p.spoken_at_us, p.segment_id))


# --- other questions to the index
def without_stems(_query: Query, wanted: Expression) -> Expression:
    """Words as they were typed, or spelled alike."""

    def plain(term: Term) -> Term:
        return Term(tuple(form for form in term.forms if not any(token.startswith(STEM) for token in form.tokens)))

    return Expression(tuple(tuple(plain(term) for term in clause) for clause in wanted.clauses))


def with_every_word(languages: Sequence[str]) -> Change:
    """Stop words have to occur as well."""

    def change(query: Query, wanted: Expression) -> Expression:
        clauses = []
        for language in languages:
            last = len(query.words) - 1
            one = [
                msgspec.structs.replace(query, words=(word,), prefix=query.prefix and at == last)
                for at, word in enumerate(query.words)
            ]
            clauses.append(tuple(expression(each, [language]).clauses[0][0] for each in one))
        return Expression(tuple(clauses)) if query.words else wanted

    return change
