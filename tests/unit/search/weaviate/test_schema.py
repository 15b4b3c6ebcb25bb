"""What Weaviate is asked: filters, evaluated here on a segment's properties as Weaviate evaluates them."""

import fnmatch
import itertools
import uuid
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.analysis import analyse
from search.matching import expression, matches
from search.model import LATEST_US, Bounds, Edition, EditionState, Filters, IndexDocument, ModelVector, Position
from search.query import nfc, parse
from search.weaviate import schema as schema

SPOKEN_MS = 1_767_225_600_000
DOCUMENT = IndexDocument("s1", "talk", "anna", False, SPOKEN_MS, 3, "Fine weather today", "en-US", "S1")
BOUNDS = Bounds(user_id="anna", newest_us=LATEST_US, limit=10)


def holds(condition: Any, values: dict[str, Any]) -> bool:
    """`tokens` is taken apart at spaces, lists by their members, all else is one value."""
    operator = condition.operator.value
    if operator in ("And", "Or"):
        return (all if operator == "And" else any)(holds(part, values) for part in condition.filters)
    held, wanted = values.get(condition.target), condition.value
    members = held.split() if condition.target == "tokens" else held if isinstance(held, list) else [held]
    match operator:
        case "Equal":
            return wanted in members
        case "ContainsAny":
            return bool(set(wanted) & set(members))
        case "Like":
            return any(fnmatch.fnmatchcase(member, wanted) for member in members)
        case "LessThanEqual":
            return bool(held <= wanted)
        case "LessThan":
            return bool(held < wanted)
        case "GreaterThanEqual":
            return bool(held >= wanted)
        case "GreaterThan":
            return bool(held > wanted)
    raise AssertionError(operator)


def may_find(document: IndexDocument, **fields: Any) -> bool:
    bounds = msgspec.structs.replace(BOUNDS, **fields)
    return not schema.nothing_fits(bounds) and holds(schema.allowed(bounds), schema.values_of(document, ""))


def finds(typed: str, text: str, language: str = "en") -> bool:
    """The filter, and where it is loose, the look at the tokens."""
    wanted = expression(parse(typed), ("de", "en"))
    values = schema.values_of(msgspec.structs.replace(DOCUMENT, text=text, language=language), "")
    passed = holds(schema.worded(wanted), {"tokens": "", "pairs": []} | values)
    return passed and (not schema.is_loose(wanted) or schema.fits(wanted, values.get("tokens", "")))


WORDS = ("run", "runs", "Haus", "Häuser", "the", "rock", "rocks", "n", "roll", "天", "气", "3", "tea", "team")
TEXTS = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from((" ", "'", ", "))), min_size=1, max_size=6)


@given(TEXTS, TEXTS.map(lambda parts: parts[:4]), st.sampled_from(("en", "de", "und")), st.booleans())
def test_the_filter_finds_what_matches(
    said: list[tuple[str, str]], asked: list[tuple[str, str]], language: str, ended: bool
) -> None:
    text, typed = ("".join(itertools.chain.from_iterable(parts)) for parts in (said, asked))
    typed = typed if ended else typed.rstrip(" ,'")
    expected = matches(expression(parse(typed), ("de", "en")), analyse(nfc(text), language))
    assert finds(typed, text, language) == expected


@pytest.mark.parametrize(
    ("typed", "text", "loose", "found"),
    [
        ("don't ", "I don't know", False, True),
        ("don't ", "t is what I don", False, False),
        ("don't ", "don t", False, True),
        ("k'l'm ", "k l m", True, True),
        ("k'l'm ", "k l x l m", True, False),
        ("runs'haus ", "runs haus", True, True),
        ("runs'haus ", "haus runs", True, False),
    ],
)
def test_words_side_by_side(typed: str, text: str, loose: bool, found: bool) -> None:
    assert schema.is_loose(expression(parse(typed), ("en",))) is loose
    assert finds(typed, text) is found


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (Filters(), True),
        (Filters(recording_ids=("talk", "other")), True),
        (Filters(recording_ids=("other",)), False),
        (Filters(recording_ids=()), False),
        (Filters(speakers=("S1",)), True),
        (Filters(speakers=("talk S1",)), False),
        (Filters(speakers=("S2",)), False),
        (Filters(languages=("en",)), True),
        (Filters(languages=("en-us",)), True),
        (Filters(languages=("e*",)), False),
        (Filters(languages=("us",)), False),
        (Filters(tags=("any",)), False),
        (Filters(from_ms=SPOKEN_MS), True),
        (Filters(from_ms=SPOKEN_MS + 1), False),
        (Filters(to_ms=SPOKEN_MS), False),
        (Filters(to_ms=SPOKEN_MS + 1), True),
        (Filters(from_ms=SPOKEN_MS, to_ms=SPOKEN_MS), False),
    ],
)
def test_filters(filters: Filters, found: bool) -> None:
    assert may_find(DOCUMENT, filters=filters) is found


def test_a_name_is_one_speaker_of_one_recording() -> None:
    asked = Filters(speakers=("Anna",))
    assert may_find(DOCUMENT, filters=asked, named=(("talk", "S1"),))
    assert not may_find(DOCUMENT, filters=asked, named=(("talk", "S2"), ("other", "S1")))
    odd = msgspec.structs.replace(DOCUMENT, recording_id="talk S1", speaker="x")
    assert not may_find(odd, filters=asked, named=(("talk", "S1 x"),))


def test_private_segments_are_their_owners() -> None:
    private = msgspec.structs.replace(DOCUMENT, private=True)
    assert may_find(private, user_id="anna")
    assert not may_find(private, user_id="bert")
    assert not may_find(private, user_id="all")
    assert may_find(DOCUMENT, user_id="bert")


def test_times_are_compared_in_their_milliseconds() -> None:
    assert may_find(DOCUMENT, newest_us=SPOKEN_MS * 1_000)
    assert may_find(DOCUMENT, newest_us=SPOKEN_MS * 1_000 + 999)
    assert not may_find(DOCUMENT, newest_us=SPOKEN_MS * 1_000 - 1)
    assert not may_find(DOCUMENT, limit=0)


def test_what_follows_a_position() -> None:
    same, older = schema.followers(Position(0.0, SPOKEN_MS * 1_000, "s1"))
    at = {"segment_id": "s1", "spoken_at": SPOKEN_MS}
    assert not holds(same, at)
    assert not holds(older, at)
    assert holds(same, at | {"segment_id": "s2"})
    assert holds(older, at | {"segment_id": "s0", "spoken_at": SPOKEN_MS - 1})
    assert not holds(same, at | {"segment_id": "s2", "spoken_at": SPOKEN_MS - 1})


@pytest.mark.parametrize(
    ("typed", "beginnings"),
    [("wea", True), ("weather ", False), ("fine wea", False), ("don't", False), ("the wea", True)],
)
def test_where_the_beginning_of_a_word_is_all_there_is(typed: str, beginnings: bool) -> None:
    """BM25 does not know those segments."""
    assert schema.finds_beginnings(expression(parse(typed), ("en",))) is beginnings


def test_bm25_ranks_by_words_and_stems_once_each() -> None:
    assert schema.ranked_by(expression(parse("running teas running "), ("en",))) == "running ~run teas ~tea"


def test_each_edition_gets_the_vector_of_its_model() -> None:
    one, two = np.eye(2, dtype=np.float32)
    document = msgspec.structs.replace(DOCUMENT, vectors=(ModelVector("a", one), ModelVector("b", two)))
    assert schema.vector_for(document, "b") is two
    assert schema.vector_for(document, "c") is None
    assert schema.vector_for(document, "") is None


@pytest.mark.parametrize("values", [[float("nan"), 1.0], [float("inf"), 0.0], [], [[1.0]]])
def test_no_nonsense_is_put(values: list[Any]) -> None:
    assert schema.unfit(np.array(values, dtype=np.float32)) is not None
    assert schema.unfit(np.ones(3, dtype=np.float32)) is None


def test_names_are_for_ever() -> None:
    """Another id, and every segment would be there twice."""
    assert schema.object_id("s1") == uuid.uuid5(uuid.UUID("6f1d3a3e-7c0e-5b7e-9a57-3f3c7f0c9b11"), "s1")
    assert schema.collection_of("Parlance", Edition(7, 1, "", EditionState.CURRENT)) == "Parlance_7"


def test_what_is_kept_of_a_segment() -> None:
    assert schema.values_of(DOCUMENT, "m") == {
        "segment_id": "s1",
        "recording_id": "talk",
        "audience": "all",
        "languages": ["en-us", "en"],
        "voices": ["label S1", "in 4 talk S1"],
        "tokens": "fine ~fine weather ~weather today ~today",
        "pairs": ["fine_weather", "weather_today"],
        "spoken_at": SPOKEN_MS,
        "rev": 3,
        "model": "m",
    }
    assert {p.name for p in schema.properties()} == set(schema.values_of(DOCUMENT, "m"))
