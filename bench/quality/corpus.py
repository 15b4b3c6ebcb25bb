"""The recordings, segments and queries of this folder: JSON lines, written by hand and judged by hand.

Policy: talk as people talk (meetings, lectures, interviews, support calls, podcasts; a third in German) and queries as
people type them, made in this repository and taken from nowhere. Words return in other meanings on purpose: bank,
crane, python, pitch, plant, spring; Bank, Kiefer, Ton, Schloss, Birne. A query names every segment that answers it: 2
for exactly this, 1 for what belongs to it. What was found without a judgement by words, or in English among the four
nearest, was judged once more. A segment that only asks what a query asks is "related" to it.

A query belongs to the split of its recordings: what is chosen on "dev" is told on "test". All segments are searched
together, so either split's talk distracts from the other's.

Pure but for reading the three files once.
"""

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

FOLDER = Path(__file__).parent
KINDS = (
    *("exact", "paraphrase", "name", "number", "spelling", "prefix", "question"),
    *("german", "inflection", "compound", "umlaut", "mixed"),
)
"""The second line is German: words, inflected words, parts of compounds, umlauts as two letters, two languages at once.
Names, numbers, mistakes and prefixes are in both languages."""

SPLITS = ("dev", "test")
EXACTLY, RELATED = 2, 1


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`speakers`: names by label."""

    recording_id: str
    split: Literal["dev", "test"]
    kind: Literal["meeting", "lecture", "interview", "support call", "podcast"]
    language: Literal["en", "de"]
    title: str
    started_at: datetime
    speakers: dict[str, str]


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    segment_id: str
    recording_id: str
    speaker: str
    start_ms: int
    end_ms: int
    text: str


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`relevant`: grades by segment id. A text without a space at its end is still being typed, as ever."""

    query_id: str
    kind: str
    language: Literal["en", "de"]
    split: Literal["dev", "test"]
    text: str
    relevant: dict[str, int]


class Corpus(msgspec.Struct, frozen=True):
    recordings: list[Recording]
    segments: list[Segment]
    queries: list[Asked]


@cache
def corpus() -> Corpus:
    return Corpus(_lines("recordings", Recording), _lines("segments", Segment), _lines("queries", Asked))


def _lines(name: str, kind: type[msgspec.Struct]) -> list:  # type: ignore[type-arg]
    decoder = msgspec.json.Decoder(kind)
    return decoder.decode_lines((FOLDER / f"{name}.jsonl").read_bytes())
