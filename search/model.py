"""The vocabulary of search: what is asked, what is indexed, what is found. Frozen values.

Positions in text are Unicode code points of NFC text; times are Unix milliseconds, except in what is found and in
cursors, which keep microseconds so that a page continues exactly where the last one ended.

Pure.
"""

from enum import Enum
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""A text's meaning: (dimensions,) float32 of unit length, so a scalar product is the cosine."""

EARLIEST_US = -62_135_596_800_000_000
LATEST_US = 253_402_300_799_000_000
"""The years 1 to 9999: what a Postgres timestamp and a Python datetime both hold."""

Micros = Annotated[int, Meta(ge=EARLIEST_US, le=LATEST_US)]


class Sort(Enum):
    RELEVANCE = "relevance"
    NEWEST = "newest"


class Mode(Enum):
    """By words and meaning, by words alone, by meaning alone."""

    HYBRID = "hybrid"
    KEYWORD = "keyword"
    SEMANTIC = "semantic"


class Filters(msgspec.Struct, frozen=True):
    """Conditions that every hit meets. None means any; an empty tuple means that nothing can match.

    `languages`: lower-case BCP 47 tags, "en" also stands for "en-us"; `from_ms`, `to_ms`: the segment was spoken in
    [from_ms, to_ms), Unix milliseconds.
    """

    recording_ids: tuple[str, ...] | None = None
    speakers: tuple[str, ...] | None = None
    languages: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    from_ms: int | None = None
    to_ms: int | None = None


class Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a hit stands in the order: by `score` (0 when sorted by newest), then newest, then id.

    `score`: of the words, of both rankings together, or the cosine, as the query's mode has it."""

    score: float
    spoken_at_us: Micros
    segment_id: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The page after `last`, of an order that may have to be made anew.

    `query_key`: which query it belongs to; `newest_us`: nothing spoken later belongs to its pages, and ages are counted
    from it; `fused`: vectors made the order too; `corrected`: 1: other spellings were looked for as well, 2: of the
    word that was being typed too, 3: any of the words sufficed; `shown`: under which key the node that gave it out
    remembers what was shown.
    """

    query_key: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
    last: Position
    newest_us: Micros
    fused: bool
    corrected: Annotated[int, Meta(ge=0, le=3)]
    shown: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF_FFFF)]


class Query(msgspec.Struct, frozen=True):
    """What is searched for: every word must occur, in this or another form.

    `words`: folded words; words typed side by side ("don't") are one entry, between single spaces, and must stand side
    by side. `prefix`: the last word may go on. `around`: so many neighbours of each hit on either side; `grouped`: the
    best hit of each recording only.
    """

    words: tuple[str, ...]
    prefix: bool
    filters: Filters
    sort: Sort
    limit: int
    cursor: Cursor | None = None
    mode: Mode = Mode.HYBRID
    text: str = ""
    around: int = 0
    grouped: bool = False

    @property
    def is_empty(self) -> bool:
        """Nothing can match: no words, an unfulfillable filter, or tags, which nothing carries yet."""
        f = self.filters
        if not self.words or f.tags is not None:
            return True
        if f.from_ms is not None and f.to_ms is not None and f.from_ms >= f.to_ms:
            return True
        return any(values == () for values in (f.recording_ids, f.speakers, f.languages))


class Beside(msgspec.Struct, frozen=True):
    """What was said just before or after a hit."""

    segment_id: str
    speaker: str | None
    start_ms: int
    end_ms: int
    text: str


class Hit(msgspec.Struct, frozen=True):
    """One segment that was found, as it is now. `highlights`: [from, to) in code points of `text`, in order; `before`,
    `after`: its neighbours in time, in order; `more`: further hits in its recording, when grouped."""

    segment_id: str
    recording_id: str
    title: str
    speaker: str | None
    start_ms: int
    end_ms: int
    rev: int
    text: str
    highlights: tuple[tuple[int, int], ...]
    score: float
    before: tuple[Beside, ...] = ()
    after: tuple[Beside, ...] = ()
    more: int = 0


class Page(msgspec.Struct, frozen=True):
    """`next_cursor`: opaque, None when this is the last page; `corrections`: (typed word, what was looked for as
    well); `loosened`: no segment has all of the words, these have some."""

    hits: tuple[Hit, ...]
    next_cursor: str | None = None
    corrections: tuple[tuple[str, str], ...] = ()
    loosened: bool = False


class IndexDocument(msgspec.Struct, frozen=True):
    """All an index needs to know of one segment. `spoken_at_ms`: Unix milliseconds of its first word."""

    segment_id: str
    recording_id: str
    owner_id: str
    private: bool
    spoken_at_ms: int
    rev: int
    text: str
    language: str
    speaker: str | None = None
    vectors: tuple["ModelVector", ...] = ()


class ModelVector(msgspec.Struct, frozen=True):
    """The vector that a model gives to a document's text."""

    model: str
    values: Vector


class EmbedderInfo(msgspec.Struct, frozen=True):
    """`model`: tells vectors of one model from those of any other; `similarity_min`: cosines below it are what this
    model gives to sentences that have nothing to do with each other."""

    model: str
    dimensions: int
    similarity_min: float


class QueryVector(msgspec.Struct, frozen=True):
    """The meaning of a query, and whose idea of meaning it is."""

    info: EmbedderInfo
    values: Vector


class SegmentName(msgspec.Struct, frozen=True):
    tenant_id: str
    segment_id: str


class DueText(msgspec.Struct, frozen=True):
    """A text that needs a vector. `mark`: the index's own note of which text this was, given back with the vector."""

    segment_id: str
    text: str
    mark: str


class TextVector(msgspec.Struct, frozen=True):
    """The vector of a `DueText`; None when the model cannot embed it."""

    segment_id: str
    mark: str
    vector: Vector | None


class IndexCapabilities(msgspec.Struct, frozen=True):
    """What an index can do, as data. `vectors`: it finds by meaning too; `schema`: grows when the adapter writes
    otherwise, so that all has to be put again (as it has for another `search.analysis.ANALYSIS`)."""

    name: str
    vectors: bool
    schema: int = 1


# --- what an index is asked and answers ---------------------------------------------------------------------------
class Form(msgspec.Struct, frozen=True):
    """Tokens (`search.analysis`) that stand side by side in a text; with `prefix` the last may go on."""

    tokens: tuple[str, ...]
    prefix: bool = False


class Term(msgspec.Struct, frozen=True):
    """One word of a query: any of its forms must occur (as typed, by its stem, as it should have been spelled)."""

    forms: tuple[Form, ...]


class Expression(msgspec.Struct, frozen=True):
    """What must occur in a segment: all terms of any clause. A clause for each language of the tenant, because stems
    and stop words differ. No clause: nothing matches."""

    clauses: tuple[tuple[Term, ...], ...]


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Which segments may be found, and in which order.

    `user_id`: private recordings only of this owner; `named`: where somebody of `filters.speakers` is named so,
    (recording id, label), beside the labels themselves; `newest_us`: nothing spoken later (`LATEST_US`: no bound; age
    is the Finder's, no index counts it); `after`: only what follows this position, for `Sort.NEWEST`; `limit`: so many
    at most."""

    user_id: str
    filters: Filters = Filters()
    named: tuple[tuple[str, str], ...] = ()
    newest_us: int
    sort: Sort = Sort.RELEVANCE
    after: Position | None = None
    limit: int


class Found(msgspec.Struct, frozen=True):
    """A segment that an index found: ids, times and a score; what it says is read from the truth."""

    segment_id: str
    recording_id: str
    spoken_at_us: int
    score: float


class Held(msgspec.Struct, frozen=True):
    """What an index holds of a segment. `models`: those whose vector of it can be found."""

    segment_id: str
    rev: int
    models: tuple[str, ...] = ()


class Shown(msgspec.Struct, frozen=True):
    """A segment as it is now and as this user may see it. `before`, `after`: its neighbours in time, in order."""

    segment_id: str
    recording_id: str
    title: str
    speaker: str | None
    start_ms: int
    end_ms: int
    rev: int
    text: str
    language: str
    before: tuple[Beside, ...] = ()
    after: tuple[Beside, ...] = ()


class EditionState(Enum):
    """BUILDING: written, but words are not looked for in it yet; CURRENT: the one that is searched."""

    BUILDING = "building"
    CURRENT = "current"


class Edition(msgspec.Struct, frozen=True):
    """A version of the index, beside which another can be built while both are written. `number` names it for ever;
    `schema`: of the adapter that made it; `model`: whose vectors it holds, "" while none is known; `adapter`: as
    `IndexCapabilities.name`."""

    number: int
    schema: int
    model: str
    state: EditionState
    adapter: str = ""
