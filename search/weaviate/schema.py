"""How segments lie in Weaviate: names, properties, and filters made from an `Expression`.

Policy: our own tokens (`search.analysis`) are kept between single spaces, so that Weaviate's idea of a word never
matters. `tokens` is both filtered and ranked by (BM25); the beginning of a word is `Like "wea*"` on it. Words side by
side are the property `pairs`: Weaviate has no phrases. What no filter asks for is kept without an index.
Measured at 30,000 segments of one tenant (CPU of the server; what is indexed takes 0.34 ms a segment without vectors):
    beginning of a word   "p" (10,700 hits) / "pe" (1,900) / "pero" (6)      costs to index
    Like on `tokens`      4.7 / 4.0 / 0.7 ms                                 nothing
    edge n-grams to 8     2.7 / 6.0 / 0.7 ms                                 +70%, and twice the disk
    trigrams              - / - / 1.3 ms, and finds 56 instead of 6          +94%, and twice the disk
    words side by side    `pairs` 0.7 ms, +18%;  Like "* a b *" on the whole text 91 ms, +0%
The nearest by HNSW (64, 16, ef 512): 0.43 ms to index, 6 ms to ask, recall@20 of 1.0 on vectors of 24 inner dimensions;
(128, 32) takes 1.8 ms to index. Up to 40,000 segments that pass the filter are compared one by one instead: 12 ms for
30,000, exactly.

Pure. Invariant: a filter names the audience: what a user may not see is never found.
"""

import uuid
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from weaviate.classes.config import Configure, DataType, Property, StopwordsPreset, Tokenization, VectorDistances
from weaviate.classes.query import Filter

from search.analysis import STEM, Analysed, analyse
from search.matching import matches
from search.model import Bounds, Edition, Expression, Form, IndexDocument, ModelVector, Position, Term, Vector
from search.query import WordSpan, nfc

SCHEMA = 1
"""Grows when what an edition holds has to be made anew. Properties that are only added extend a collection."""

NAMESPACE = uuid.UUID("6f1d3a3e-7c0e-5b7e-9a57-3f3c7f0c9b11")
"""Of the objects' ids, for ever."""

EVERYBODY = "all"
BETWEEN = "_"
"""Between two words side by side; no folded word holds it."""
FLAT_MAX = 40_000

SHOWN = ["segment_id", "recording_id", "spoken_at"]
HELD = ["segment_id", "rev", "model"]

Condition = Any
"""Weaviate's filters: their type is private."""


def collection_of(prefix: str, edition: Edition) -> str:
    return f"{prefix}_{edition.number}"


def object_id(segment_id: str) -> uuid.UUID:
    return uuid.uuid5(NAMESPACE, segment_id)


def properties() -> list[Property]:
    """Of a collection, each with the indexes that some query asks."""

    def told(name: str, kind: DataType = DataType.TEXT) -> Property:
        return Property(
            name=name, data_type=kind, tokenization=Tokenization.FIELD, index_filterable=True, index_searchable=False
        )

    return [
        told("segment_id"),
        told("recording_id"),
        told("audience"),
        told("languages", DataType.TEXT_ARRAY),
        told("voices", DataType.TEXT_ARRAY),
        told("pairs", DataType.TEXT_ARRAY),
        Property(
            name="tokens",
            data_type=DataType.TEXT,
            tokenization=Tokenization.WHITESPACE,
            index_filterable=True,
            index_searchable=True,
        ),
        Property(name="spoken_at", data_type=DataType.INT, index_filterable=True, index_range_filters=True),
        Property(name="rev", data_type=DataType.INT, index_filterable=False),
        Property(name="model", data_type=DataType.TEXT, index_filterable=False, index_searchable=False),
    ]


def definition() -> dict[str, Any]:
    """The other arguments of `collections.create`."""
    return {
        "vector_config": Configure.Vectors.self_provided(
            vector_index_config=Configure.VectorIndex.hnsw(
                distance_metric=VectorDistances.COSINE,
                ef_construction=64,
                max_connections=16,
                ef=512,
                flat_search_cutoff=FLAT_MAX,
                quantizer=Configure.VectorIndex.Quantizer.none(),
            )
        ),
        "inverted_index_config": Configure.inverted_index(stopwords_preset=StopwordsPreset.NONE),
        "multi_tenancy_config": Configure.multi_tenancy(
            enabled=True, auto_tenant_creation=True, auto_tenant_activation=True
        ),
    }


def vector_for(document: IndexDocument, model: str) -> Vector | None:
    """The document's vector of an edition's model."""
    found: Iterable[ModelVector] = (vector for vector in document.vectors if vector.model == model)
    return next((vector.values for vector in found), None) if model else None


def unfit(vector: Vector | None) -> str | None:
    """Why Weaviate must not get this vector: it would take it, and find nonsense."""
    if vector is None:
        return None
    return None if vector.ndim == 1 and vector.size and np.isfinite(vector).all() else "the vector is no direction"


def values_of(document: IndexDocument, model: str) -> dict[str, Any]:
    """A document's properties. `model`: whose vector comes with it, "" without one."""
    analysed = analyse(nfc(document.text), document.language)
    values: dict[str, Any] = {
        "segment_id": document.segment_id,
        "recording_id": document.recording_id,
        "audience": _only(document.owner_id) if document.private else EVERYBODY,
        "languages": _tags(document.language.lower()),
        "voices": _voices(document),
        "tokens": " ".join(token for token, _ in analysed.tokens()),
        "pairs": sorted(set(_pairs(analysed))),
        "spoken_at": document.spoken_at_ms,
        "rev": document.rev,
        "model": model,
    }
    return {name: value for name, value in values.items() if value != []}


def allowed(bounds: Bounds) -> Condition:
    """What all that is found must meet but its words."""
    wanted, newest_ms = bounds.filters, bounds.newest_us // 1_000
    if wanted.to_ms is not None:
        newest_ms = min(newest_ms, wanted.to_ms - 1)
    conditions = [
        _any("audience", [EVERYBODY, _only(bounds.user_id)]),
        Filter.by_property("spoken_at").less_or_equal(newest_ms),
    ]
    if wanted.from_ms is not None:
        conditions.append(Filter.by_property("spoken_at").greater_or_equal(wanted.from_ms))
    if wanted.recording_ids is not None:
        conditions.append(_any("recording_id", wanted.recording_ids))
    if wanted.languages is not None:
        conditions.append(_any("languages", wanted.languages))
    if wanted.speakers is not None:
        named = [_named(recording_id, label) for recording_id, label in bounds.named]
        conditions.append(_any("voices", [*map(_label, wanted.speakers), *named]))
    return Filter.all_of(conditions)


def nothing_fits(bounds: Bounds) -> bool:
    """A filter that nothing can meet; tags are of recordings, and none carries one yet."""
    f = bounds.filters
    if f.from_ms is not None and f.from_ms > min(
        bounds.newest_us // 1_000, f.to_ms - 1 if f.to_ms is not None else 2**62
    ):
        return True
    lists = (f.recording_ids, f.speakers, f.languages)
    return bounds.limit < 1 or f.tags is not None or any(values == () for values in lists)


def worded(expression: Expression) -> Condition:
    """The words: all terms of any clause. An expression without a clause has no filter."""
    return Filter.any_of([Filter.all_of([_term(term) for term in clause]) for clause in expression.clauses])


def ranked_by(expression: Expression) -> str:
    """The query of BM25: every token that may occur, those that may go on as they were typed."""
    forms = (form for clause in expression.clauses for term in clause for form in term.forms)
    return " ".join(dict.fromkeys(token for form in forms for token in form.tokens))


def finds_beginnings(expression: Expression) -> bool:
    """A clause that a segment may meet by the beginning of a word alone: BM25, which knows whole tokens only, does not
    give such a segment."""
    return any(
        all(any(form.prefix and len(form.tokens) == 1 for form in term.forms) for term in clause)
        for clause in expression.clauses
    )


def is_loose(expression: Expression) -> bool:
    """Whether the filter lets too much through: three words side by side are two pairs anywhere, and of stems there are
    no pairs."""
    forms = [form for clause in expression.clauses for term in clause for form in term.forms]
    return any(len(form.tokens) > 2 or (len(form.tokens) == 2 and _has_stem(form)) for form in forms)


def fits(expression: Expression, tokens: str) -> bool:
    """Whether a segment with this property `tokens` is meant, exactly."""
    words: list[WordSpan] = []
    stems: list[str | None] = []
    for token in tokens.split():
        if token.startswith(STEM):
            stems[-1] = token[len(STEM) :]
        else:
            words.append(WordSpan(token, 0, 0))
            stems.append(None)
    return matches(expression, Analysed(words, stems))


def followers(after: Position) -> tuple[Condition, Condition]:
    """What comes after a position when the newest come first: of the same millisecond by id, and what is older."""
    spoken, spoken_ms = Filter.by_property("spoken_at"), after.spoken_at_us // 1_000
    same = Filter.all_of([spoken.equal(spoken_ms), Filter.by_property("segment_id").greater_than(after.segment_id)])
    return same, spoken.less_than(spoken_ms)


def _term(term: Term) -> Condition:
    whole = [form.tokens[0] for form in term.forms if len(form.tokens) == 1 and not form.prefix]
    conditions = [_any("tokens", whole)] if whole else []
    conditions += [_form(form) for form in term.forms if form.prefix or len(form.tokens) > 1]
    return Filter.any_of(conditions)


def _form(form: Form) -> Condition:
    if len(form.tokens) == 1:
        return Filter.by_property("tokens").like(f"{form.tokens[0]}*")
    if _has_stem(form):
        return Filter.all_of([Filter.by_property("tokens").equal(token) for token in form.tokens])
    joined = [BETWEEN.join(pair) for pair in pairwise(form.tokens)]
    conditions = [Filter.by_property("pairs").equal(pair) for pair in joined]
    if form.prefix:
        conditions[-1] = Filter.by_property("pairs").like(f"{joined[-1]}*")
    return Filter.all_of(conditions)


def _has_stem(form: Form) -> bool:
    return any(token.startswith(STEM) for token in form.tokens)


def _pairs(analysed: Analysed) -> Iterable[str]:
    """Words side by side."""
    return (left.folded + BETWEEN + right.folded for left, right in pairwise(analysed.words))


def _voices(document: IndexDocument) -> list[str]:
    if document.speaker is None:
        return []
    return [_label(document.speaker), _named(document.recording_id, document.speaker)]


def _label(label: str) -> str:
    return f"label {label}"


def _named(recording_id: str, label: str) -> str:
    """The length keeps ids and labels apart, whatever they hold."""
    return f"in {len(recording_id)} {recording_id} {label}"


def _only(owner_id: str) -> str:
    return f"only {owner_id}"


def _tags(language: str) -> list[str]:
    """ "en-us" is also "en"."""
    return [tag for tag in dict.fromkeys((language, language.partition("-")[0])) if tag]


def _any(name: str, values: Sequence[str]) -> Condition:
    return Filter.by_property(name).contains_any(list(values))
