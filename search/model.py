"""The vocabulary of search: what is asked, what is indexed, what is found. Frozen values.

Positions in text are Unicode code points of NFC text; times are Unix milliseconds, except in cursors, which keep the
database's microseconds so that a page continues exactly where the last one ended.

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
    """The page after `last`, within the candidates of the first page.

    `query_key`: which query it belongs to; `newest_us`, `oldest_us`: the spoken times that bound the candidates of
    the first page, so that segments that came later change neither ranks nor the order (`oldest_us` None: no bound);
    `nearest_newest_us`: the same bound of what was found by meaning, None for pages of words alone.
    """

    query_key: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
    last: Position
    newest_us: Micros
    oldest_us: Micros | None
    nearest_newest_us: Micros | None = None


class Query(msgspec.Struct, frozen=True):
    """What is searched for: every word must occur, in this or another form.

    `words`: folded words; words typed side by side ("don't") are one entry, between single spaces, and must stand side
    by side. `prefix`: the last word may go on.
    """

    words: tuple[str, ...]
    prefix: bool
    filters: Filters
    sort: Sort
    limit: int
    cursor: Cursor | None = None
    mode: Mode = Mode.HYBRID
    text: str = ""

    @property
    def is_empty(self) -> bool:
        """Nothing can match: no words, an unfulfillable filter, or tags, which nothing carries yet."""
        f = self.filters
        if not self.words or f.tags is not None:
            return True
        if f.from_ms is not None and f.to_ms is not None and f.from_ms >= f.to_ms:
            return True
        return any(values == () for values in (f.recording_ids, f.speakers, f.languages))


class Hit(msgspec.Struct, frozen=True):
    """One segment that was found, as it is now. `highlights`: [from, to) in code points of `text`, in order."""

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


class Page(msgspec.Struct, frozen=True):
    """`next_cursor`: opaque, None when this is the last page."""

    hits: tuple[Hit, ...]
    next_cursor: str | None = None


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
    """What an index can do, as data. `vectors`: it finds by meaning too."""

    name: str
    vectors: bool
