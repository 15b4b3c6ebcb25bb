"""Which subscriptions of a tenant a new or revised segment matches: thousands of them in one pass.

Policy: words match as in search (the same analyser, the same `Expression`), but for the last word, which is whole here.
Words are told at once, meaning when the vector has come, and nobody is told of one revision twice: a segment of stage
MEANING is told only where its words do not match. Meaning asks for more here than in a search: a weak hit stands low in
a list, but interrupts somebody who subscribed. A private recording is its owner's alone.

How: all subscriptions share their terms (a word with its forms) and clauses (terms that must all occur). The tokens of
a segment give the terms that occur, each once; a clause is looked at when the term under which it is listed occurs, the
one with the fewest clauses, and holds when its other terms are among them. Vectors of a model are one matrix.

Pure. Invariant: `matching` finds what `search.matching.matches` and the cosine find for each subscription by itself.

Measured (CPU a segment of 20 words, 5,000 subscriptions of one to three words, half of them with a vector of 384; two
cores at 2 GHz): 0.7 ms with 50 matches, 1.4 ms with 600 (words as frequent as in talk), 2.4 ms with 1,200 of 160 words.
Rejected: a required token for each subscription and `matches` for those it names, 0.5, 9 and 15 ms; `matches` for
all, 15 to 20 ms; a matrix product by BLAS, 0.13 ms instead of 0.3 to 0.7 on an idle machine, but up to 6 ms on a busy
one, where its threads spin.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from search.analysis import Analysed, analyse, language_key
from search.matching import expression, merged, ranges
from search.model import EmbedderInfo, Expression, Filters, Form, Mode, ModelVector, Query, Term, Vector
from search.query import has_meaning

Key = TypeVar("Key", bound=Hashable)
Ranges = tuple[tuple[int, int], ...]
"""[from, to) in code points, in order."""

STRICTER = 0.25
"""By default a match's cosine stands this share of the way from `similarity_min` to 1. MiniLM, 261 English questions
against 598 segments (`bench/quality`, the half for tuning), false matches of a question, precision and recall: at
`similarity_min`, as a search has it, 6.5, 0.14 and 0.67; here 0.08, 0.88 and 0.35; at 0.35 of the way 0.02, 0.95 and
0.24."""

NEVER = 2.0
"""No cosine is so much."""


class Stage(Enum):
    """What has become searchable of a revision: its words, its meaning after them, or both at once."""

    WORDS = "words"
    MEANING = "meaning"
    ALL = "all"


class Interest(msgspec.Struct, frozen=True):
    """What somebody subscribed to. `query`: parsed as for a search; only its words, text, mode and filters count, and
    its last word is whole. `min_score`: the least cosine; None: the default for the model."""

    user_id: str
    query: Query
    min_score: float | None = None

    @property
    def by_meaning(self) -> bool:
        """Does it want a vector?"""
        return self.query.mode is not Mode.KEYWORD and not self.query.is_empty and has_meaning(self.query)


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A segment as it is now. `speaker`: its label, `speaker_name`: what that is called in its recording; `vectors`:
    empty before stage MEANING."""

    segment_id: str
    recording_id: str
    owner_id: str
    private: bool
    title: str
    speaker: str | None
    speaker_name: str | None
    start_ms: int
    end_ms: int
    spoken_at_ms: int
    rev: int
    text: str
    language: str
    stage: Stage
    vectors: tuple[ModelVector, ...] = ()


class Match(msgspec.Struct, Generic[Key], frozen=True):
    """`place`: of the segment among those that were given; `score`: the cosine, or 1 where the words match."""

    key: Key
    place: int
    score: float
    highlights: Ranges


class Subscriptions(Generic[Key]):
    """Those of one tenant at one node. `languages`: that the tenant speaks, as far as is known; others are learned."""

    def __init__(self, languages: Iterable[str] = ()) -> None:
        self._languages = set(languages)
        self._interests: dict[Key, Interest] = {}
        self._expressions: dict[Key, Expression] = {}
        self._words: _Words[Key] = _Words()
        self._meanings: dict[str, _Meanings[Key]] = {}

    def __len__(self) -> int:
        return len(self._interests)

    def add(self, key: Key, interest: Interest) -> None:
        """Replaces what was there under this key."""
        self.remove(key)
        self._interests[key] = interest
        self._list(key, interest)

    def remove(self, key: Key) -> None:
        """Unknown keys are fine."""
        if self._interests.pop(key, None) is None:
            return
        self._words.remove(key, self._expressions.pop(key))
        for meanings in self._meanings.values():
            meanings.remove(key)

    @property
    def models(self) -> set[str]:
        """Whose vectors somebody has."""
        return set(self._meanings)

    def learn(self, languages: Iterable[str]) -> None:
        """The tenant speaks these too (`search.analysis.language_key`): what must occur depends on their stems and stop
        words."""
        new = set(languages) - {""} - self._languages
        if not new:
            return
        self._languages |= new
        for key, interest in self._interests.items():
            self._words.remove(key, self._expressions[key])
            self._list(key, interest)

    def lacking(self, model: str) -> list[tuple[Key, str]]:
        """Those that want a vector of this model and have none, with their texts."""
        meanings = self._meanings.get(model)
        return [
            (key, interest.query.text)
            for key, interest in self._interests.items()
            if interest.by_meaning and (meanings is None or key not in meanings)
        ]

    def give(self, info: EmbedderInfo, vectors: Mapping[Key, Vector | None]) -> None:
        """Vectors of texts, None for one that the model cannot embed: it is near nothing. Who is gone gets none."""
        meanings = self._meanings.setdefault(info.model, _Meanings(info.dimensions))
        for key, vector in vectors.items():
            if (interest := self._interests.get(key)) is None:
                continue
            if vector is None:
                meanings.put(key, np.zeros(info.dimensions, np.float32), NEVER)
            else:
                meanings.put(key, vector, least_cosine(info) if interest.min_score is None else interest.min_score)

    def matching(self, heard: Sequence[Heard]) -> list[Match[Key]]:
        """In the order of the segments, each subscription once for a segment."""
        self.learn(language_key(segment.language) for segment in heard)
        near = self._near(heard)
        found: list[Match[Key]] = []
        for place, segment in enumerate(heard):
            said = self._words.said(analyse(segment.text, segment.language))
            for key, score in self._told(segment.stage, said, near[place]):
                if _may_be_told(self._interests[key], segment):
                    found.append(Match(key, place, score, said.get(key, ())))
        return found

    def _told(self, stage: Stage, said: Mapping[Key, Ranges], near: Mapping[Key, float]) -> list[tuple[Key, float]]:
        """Whom the segment concerns at this stage, before any filter."""
        modes = {key: self._interests[key].query.mode for key in said}
        if stage is Stage.MEANING:
            return [(key, score) for key, score in near.items() if modes.get(key) is not Mode.HYBRID]
        told = [(key, 1.0) for key, mode in modes.items() if mode is not Mode.SEMANTIC]
        by_meaning = ((key, score) for key, score in near.items() if modes.get(key) is not Mode.HYBRID)
        return told if stage is Stage.WORDS else [*told, *by_meaning]

    def _near(self, heard: Sequence[Heard]) -> list[dict[Key, float]]:
        """For each segment, who finds it near in meaning; the best cosine when several models do."""
        near: list[dict[Key, float]] = [{} for _ in heard]
        for model, meanings in self._meanings.items():
            places, vectors = [], []
            for place, segment in enumerate(heard):
                if segment.stage is not Stage.WORDS:
                    for vector in segment.vectors:
                        if vector.model == model and vector.values.shape == (meanings.dimensions,):
                            places.append(place)
                            vectors.append(vector.values)
            for at, key, score in meanings.near(vectors):
                held = near[places[at]]
                held[key] = max(score, held.get(key, score))
        return near

    def _list(self, key: Key, interest: Interest) -> None:
        query = msgspec.structs.replace(interest.query, prefix=False)
        wanted = Expression(()) if query.is_empty else expression(query, sorted(self._languages))
        self._expressions[key] = wanted
        self._words.add(key, wanted)


def least_cosine(info: EmbedderInfo) -> float:
    """The default of `min_score`."""
    return info.similarity_min + STRICTER * (1.0 - info.similarity_min)


def _may_be_told(interest: Interest, segment: Heard) -> bool:
    if segment.private and segment.owner_id != interest.user_id:
        return False
    return meets(interest.query.filters, segment)


def meets(filters: Filters, segment: Heard) -> bool:
    """Whether a segment fulfils the conditions, as a search has them."""
    if filters.tags is not None:
        return False  # nothing carries tags
    if filters.recording_ids is not None and segment.recording_id not in filters.recording_ids:
        return False
    if filters.from_ms is not None and segment.spoken_at_ms < filters.from_ms:
        return False
    if filters.to_ms is not None and segment.spoken_at_ms >= filters.to_ms:
        return False
    if filters.languages is not None:
        language = segment.language.lower()
        if language not in filters.languages and language.partition("-")[0] not in filters.languages:
            return False
    return filters.speakers is None or _speaks(filters.speakers, segment)


def _speaks(speakers: Sequence[str], segment: Heard) -> bool:
    if segment.speaker is not None and segment.speaker in speakers:
        return True
    name = segment.speaker_name
    return name is not None and name.lower() in {speaker.lower() for speaker in speakers}


class _Term(Generic[Key]):
    """A term of clauses. `listed`: the clauses that are looked at when it occurs; `held_by`: how many hold it."""

    __slots__ = ("held_by", "listed", "term")

    def __init__(self, term: Term) -> None:
        self.term = term
        self.listed: dict[_Clause[Key], None] = {}
        self.held_by = 0


class _Clause(Generic[Key]):
    """Terms that must all occur. `first`: the one under which it is listed; `rest`: the others; `keys`: whose it is."""

    __slots__ = ("first", "keys", "rest")

    def __init__(self, first: "_Term[Key]", rest: "frozenset[_Term[Key]]") -> None:
        self.first = first
        self.rest = rest
        self.keys: dict[Key, None] = {}


class _Words(Generic[Key]):
    """The expressions of all subscriptions."""

    def __init__(self) -> None:
        self._terms: dict[Term, _Term[Key]] = {}
        self._clauses: dict[frozenset[Term], _Clause[Key]] = {}
        self._alone: dict[str, dict[_Term[Key], None]] = {}
        """Terms by a token that fulfils them."""
        self._begun: dict[str, dict[tuple[Form, _Term[Key]], None]] = {}
        """Forms of several tokens by their first."""

    def add(self, key: Key, wanted: Expression) -> None:
        for terms in wanted.clauses:
            clause = self._clauses.get(frozenset(terms))
            if clause is None:
                clause = self._clauses[frozenset(terms)] = self._clause(dict.fromkeys(terms))
            clause.keys[key] = None

    def remove(self, key: Key, wanted: Expression) -> None:
        for terms in {frozenset(terms) for terms in wanted.clauses}:
            clause = self._clauses[terms]
            del clause.keys[key]
            if not clause.keys:
                del self._clauses[terms]
                del clause.first.listed[clause]
                for term in terms:
                    self._release(term)

    def said(self, analysed: Analysed) -> dict[Key, Ranges]:
        """Whose words occur, and where."""
        occurring = self._occurring(analysed.places)
        terms = occurring.keys()
        found: dict[Key, Ranges] = {}
        for term in occurring:
            for clause in term.listed:
                if clause.rest <= terms:
                    words = occurring[term].union(*(occurring[other] for other in clause.rest))
                    where = ranges(words, analysed)
                    for key in clause.keys:
                        found[key] = merged((*found[key], *where)) if key in found else where
        return found

    def _occurring(self, places: Mapping[str, Sequence[int]]) -> dict[_Term[Key], set[int]]:
        """Terms that occur, with the words that they are, counted from 0."""
        occurring: dict[_Term[Key], set[int]] = {}
        for token, positions in places.items():
            for term in self._alone.get(token, ()):
                occurring.setdefault(term, set()).update(at - 1 for at in positions)
            for form, term in self._begun.get(token, ()):
                for begin in positions:
                    if _stands(form, places, begin):
                        occurring.setdefault(term, set()).update(range(begin - 1, begin - 1 + len(form.tokens)))
        return occurring

    def _clause(self, terms: Iterable[Term]) -> _Clause[Key]:
        held = [self._hold(term) for term in terms]
        first = min(held, key=lambda term: len(term.listed))
        clause: _Clause[Key] = _Clause(first, frozenset(held) - {first})
        first.listed[clause] = None
        return clause

    def _hold(self, term: Term) -> _Term[Key]:
        held = self._terms.get(term)
        if held is None:
            held = self._terms[term] = _Term(term)
            for form in term.forms:
                assert not form.prefix, "a subscription's words are whole"
                if len(form.tokens) == 1:
                    self._alone.setdefault(form.tokens[0], {})[held] = None
                else:
                    self._begun.setdefault(form.tokens[0], {})[(form, held)] = None
        held.held_by += 1
        return held

    def _release(self, term: Term) -> None:
        held = self._terms[term]
        held.held_by -= 1
        if held.held_by:
            return
        del self._terms[term]
        for form in term.forms:
            token = form.tokens[0]
            if len(form.tokens) == 1:
                _discard(self._alone, token, held)
            else:
                _discard(self._begun, token, (form, held))


Listed = TypeVar("Listed")


def _discard(lists: dict[str, dict[Listed, None]], token: str, what: Listed) -> None:
    del lists[token][what]
    if not lists[token]:
        del lists[token]


def _stands(form: Form, places: Mapping[str, Sequence[int]], begin: int) -> bool:
    """Whether all of the form's tokens stand side by side from there on."""
    return all(begin + n in places.get(token, ()) for n, token in enumerate(form.tokens))


class _Meanings(Generic[Key]):
    """Vectors of one model as a matrix, with the least cosine of each row."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._keys: list[Key] = []
        self._rows: dict[Key, int] = {}
        self._matrix: NDArray[np.float32] = np.empty((0, dimensions), np.float32)
        self._least: NDArray[np.float32] = np.empty(0, np.float32)

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def put(self, key: Key, vector: Vector, least: float) -> None:
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = len(self._keys)
            self._keys.append(key)
            if row == len(self._least):
                room = max(16, 2 * row)
                self._matrix = _grown(self._matrix, (room, self.dimensions))
                self._least = _grown(self._least, (room,))
        self._matrix[row] = vector
        self._least[row] = least

    def remove(self, key: Key) -> None:
        """The last row takes its place."""
        row = self._rows.pop(key, None)
        if row is None:
            return
        last = self._keys.pop()
        if last != key:
            end = len(self._keys)
            self._keys[row], self._rows[last] = last, row
            self._matrix[row], self._least[row] = self._matrix[end], self._least[end]

    def near(self, vectors: Sequence[Vector]) -> list[tuple[int, Key, float]]:
        """(place of the vector, key, cosine) of all that are near enough."""
        n = len(self._keys)
        if not vectors or not n:
            return []
        scores = np.einsum("ij,kj->ik", np.stack(vectors), self._matrix[:n])
        return [
            (int(at), self._keys[row], float(scores[at, row])) for at, row in np.argwhere(scores >= self._least[:n])
        ]


def _grown(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    grown = np.zeros(shape, np.float32)
    grown[: len(array)] = array
    return grown


__all__ = ["Heard", "Interest", "Match", "Stage", "Subscriptions", "least_cosine", "meets"]
