"""All subscriptions at once find what each finds by itself; who is told at which stage, of what, and who never is."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.analysis import analyse, language_key
from search.live import Heard, Interest, Match, Stage, Subscriptions, least_cosine
from search.matching import expression, marks, matches
from search.model import EmbedderInfo, Filters, Mode, ModelVector
from search.query import parse
from tests.fakes.embedder import vector_of

INFO = EmbedderInfo("concepts", 24, 0.3)
WORDS = ("run", "running", "runs", "the", "of", "haus", "häuser", "laufen", "budget", "don't", "Anna's", "2024", "日本")
LANGUAGES = ("en", "de-AT", "ja", "xx")


def interest(text: str, *, user: str = "ann", min_score: float | None = None, **wanted: Any) -> Interest:
    return Interest(user, msgspec.structs.replace(parse(text, **wanted), prefix=False), min_score)


def heard(text: str, *, stage: Stage = Stage.WORDS, **fields: Any) -> Heard:
    made: dict[str, Any] = {
        "segment_id": "s", "recording_id": "r", "owner_id": "ann", "private": False, "title": "Talk", "speaker": None,
        "speaker_name": None, "start_ms": 0, "end_ms": 900, "spoken_at_ms": 5_000, "rev": 1, "language": "en",
    }  # fmt: skip
    vectors = (ModelVector(INFO.model, vector_of(text, INFO.dimensions)),) if stage is not Stage.WORDS else ()
    return Heard(**{**made, "vectors": vectors, **fields}, text=text, stage=stage)


def subscribed(*interests: Interest, vectors: bool = True) -> Subscriptions[int]:
    held: Subscriptions[int] = Subscriptions()
    for key, wanted in enumerate(interests):
        held.add(key, wanted)
    if vectors:
        held.give(INFO, {key: vector_of(text, INFO.dimensions) for key, text in held.lacking(INFO.model)})
    return held


def told(held: Subscriptions[int], *segments: Heard) -> list[tuple[int, int]]:
    """(key, place)"""
    return [(match.key, match.place) for match in held.matching(segments)]


# --- the same as one by one ---------------------------------------------------------------------------------------
def alone(wanted: Interest, segment: Heard, languages: list[str]) -> tuple[float, tuple[tuple[int, int], ...]] | None:
    """What one subscription makes of one segment: its score and highlights."""
    analysed = analyse(segment.text, segment.language)
    sought = expression(wanted.query, languages)
    said = matches(sought, analysed)
    near = None
    if segment.stage is not Stage.WORDS and wanted.by_meaning:
        cosine = float(vector_of(wanted.query.text, INFO.dimensions) @ segment.vectors[0].values)
        least = least_cosine(INFO) if wanted.min_score is None else wanted.min_score
        near = cosine if cosine >= np.float32(least) else None
    if segment.private and segment.owner_id != wanted.user_id:
        return None
    recordings = wanted.query.filters.recording_ids
    if recordings is not None and segment.recording_id not in recordings:
        return None
    highlights = marks(sought, analysed) if said else ()
    mode = wanted.query.mode
    if said and mode is not Mode.SEMANTIC:
        return None if segment.stage is Stage.MEANING else (1.0, highlights)
    return None if near is None else (near, highlights)


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
interests = st.builds(
    lambda text, user, mode, least, recordings: interest(
        text, user=user, mode=mode, min_score=least, filters=Filters(recording_ids=recordings)
    ),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join),
    st.sampled_from(["ann", "bob"]),
    st.sampled_from(Mode),
    st.sampled_from([None, 0.1, 0.6]),
    st.sampled_from([None, ("r",), ("other",)]),
)
segments = st.builds(
    lambda text, stage, language, private: heard(text, stage=stage, language=language, private=private),
    texts,
    st.sampled_from(Stage),
    st.sampled_from(LANGUAGES),
    st.booleans(),
)


@given(st.lists(interests, max_size=12), st.lists(segments, max_size=4), st.data())
def test_all_at_once_find_what_each_finds_by_itself(
    wanted: list[Interest], said: list[Heard], data: st.DataObject
) -> None:
    held = subscribed(*wanted)
    gone = data.draw(st.sets(st.sampled_from(range(len(wanted)))) if wanted else st.just(set()))
    for key in gone:
        held.remove(key)
    again = data.draw(st.sets(st.sampled_from(sorted(gone))) if gone else st.just(set()))
    for key in again:
        held.add(key, wanted[key])
    held.give(INFO, {key: vector_of(text, INFO.dimensions) for key, text in held.lacking(INFO.model)})
    languages = sorted({language_key(segment.language) for segment in said} - {""})
    expected = {}
    for place, segment in enumerate(said):
        for key, one in enumerate(wanted):
            if (key not in gone or key in again) and (found := alone(one, segment, languages)) is not None:
                expected[key, place] = found
    found = held.matching(said)
    assert {(match.key, match.place): match.highlights for match in found} == {k: v[1] for k, v in expected.items()}
    for match in found:
        assert match.score == pytest.approx(expected[match.key, match.place][0], abs=1e-5)
    assert len(found) == len(expected), "each once"
    assert [match.place for match in found] == sorted(match.place for match in found)


def test_nothing_is_left_of_who_is_gone() -> None:
    held = subscribed(*(interest(text) for text in ("running in the house", "don't run", "run", "run")))
    for key in range(4):
        held.remove(key)
        held.remove(key)
    assert len(held) == 0
    assert (held._words._terms, held._words._clauses, held._words._alone, held._words._begun) == ({}, {}, {}, {})
    assert held._meanings[INFO.model]._keys == []
    assert told(held, heard("don't run running in the house", stage=Stage.ALL)) == []


# --- words --------------------------------------------------------------------------------------------------------
def test_the_last_word_is_whole_and_stems_count() -> None:
    held = subscribed(interest("budget meet"), vectors=False)
    assert told(held, heard("the meeting about budgets")) == [(0, 0)]
    assert told(held, heard("a budget for the meetinghouse")) == []


def test_a_language_that_is_new_brings_its_stems() -> None:
    held = subscribed(interest("Häuser"), vectors=False)
    assert told(held, heard("vor dem Haus", language="en")) == []
    assert told(held, heard("zwei häuser", language="en"), heard("vor dem Haus", language="de")) == [(0, 0), (0, 1)]


def test_highlights_are_code_points_of_the_text() -> None:
    (match,) = subscribed(interest("running"), vectors=False).matching([heard("🎧 she runs, don't run")])
    assert match == Match(0, 0, 1.0, ((6, 10), (18, 21)))


# --- stages -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mode", "words", "meaning", "both"),
    [(Mode.KEYWORD, [0], [], [0]), (Mode.SEMANTIC, [], [0, 1], [0, 1]), (Mode.HYBRID, [0], [1], [0, 1])],
)
def test_who_is_told_of_which_segment_at_which_stage(
    mode: Mode, words: list[int], meaning: list[int], both: list[int]
) -> None:
    """The first segment says the word, the second means it."""
    held = subscribed(interest("money", mode=mode))
    for stage, places in ((Stage.WORDS, words), (Stage.MEANING, meaning), (Stage.ALL, both)):
        said = [heard("money", stage=stage), heard("cash", stage=stage), heard("kitten", stage=stage)]
        assert told(held, *said) == [(0, place) for place in places], stage


def test_without_a_vector_words_are_told_and_with_it_what_is_near_enough() -> None:
    held = subscribed(interest("money"), interest("money", min_score=0.9), interest("the"), vectors=False)
    cash = heard("cash for tea", stage=Stage.ALL)
    assert told(held, cash) == []
    assert held.lacking(INFO.model) == [(0, "money"), (1, "money")], "function words mean nothing"
    held.give(INFO, {0: vector_of("money", 24), 1: vector_of("money", 24), 7: vector_of("money", 24)})
    assert held.lacking(INFO.model) == []
    assert told(held, cash) == [(0, 0)], "a cosine of 0.7"
    assert held.lacking("another model") == [(0, "money"), (1, "money")]


def test_a_text_that_cannot_be_embedded_is_near_nothing() -> None:
    held = subscribed(interest("money", min_score=0.0), vectors=False)
    held.give(INFO, {0: None})
    assert held.lacking(INFO.model) == []
    assert told(held, heard("cash", stage=Stage.ALL)) == []


def test_of_two_models_either_may_find_it_and_it_is_told_once() -> None:
    held = subscribed(interest("money"))
    other = EmbedderInfo("other", 8, 0.3)
    held.give(other, {0: vector_of("money", 8)})
    both = (ModelVector("other", vector_of("cash", 8)), ModelVector(INFO.model, vector_of("cash", 24)))
    assert told(held, heard("cash", stage=Stage.MEANING, vectors=both)) == [(0, 0)]
    assert told(held, heard("cash", stage=Stage.MEANING, vectors=both[:1])) == [(0, 0)]
    strange = (ModelVector("other", vector_of("cash", 24)), ModelVector("unknown", vector_of("cash", 24)))
    assert told(held, heard("cash", stage=Stage.MEANING, vectors=strange)) == []


def test_a_match_is_stricter_than_a_search() -> None:
    assert INFO.similarity_min < least_cosine(INFO) < 1


# --- who may be told ----------------------------------------------------------------------------------------------
def test_a_private_recording_is_its_owners() -> None:
    held = subscribed(interest("money", user="ann"), interest("money", user="bob"))
    for stage in Stage:
        for text in ("money", "cash"):
            keys = {key for key, _ in told(held, heard(text, stage=stage, private=True, owner_id="bob"))}
            assert keys <= {1}, (stage, text)
    assert told(held, heard("money", private=True, owner_id="bob")) == [(1, 0)]


@pytest.mark.parametrize(
    ("filters", "meets"),
    [
        (Filters(recording_ids=("r", "q")), True),
        (Filters(recording_ids=("q",)), False),
        (Filters(speakers=("S1",)), True),
        (Filters(speakers=("anna MEIER",)), True),
        (Filters(speakers=("s1", "Anna")), False),
        (Filters(languages=("en",)), True),
        (Filters(languages=("en-gb",)), True),
        (Filters(languages=("en-us", "de")), False),
        (Filters(from_ms=5_000, to_ms=5_001), True),
        (Filters(from_ms=5_001), False),
        (Filters(to_ms=5_000), False),
        (Filters(tags=("x",)), False),
    ],
)
@pytest.mark.parametrize("stage", Stage)
def test_filters_are_those_of_a_search(filters: Filters, meets: bool, stage: Stage) -> None:
    held = subscribed(interest("money", filters=filters), interest("money", filters=filters, mode=Mode.SEMANTIC))
    said = heard("money", stage=stage, speaker="S1", speaker_name="Anna Meier", language="en-GB")
    keys = [key for key, _ in told(held, said)]
    assert keys == ({Stage.WORDS: [0], Stage.MEANING: [1], Stage.ALL: [0, 1]}[stage] if meets else [])


def test_adding_again_replaces() -> None:
    held = subscribed(interest("money"), interest("kitten"))
    held.add(0, interest("rain", mode=Mode.KEYWORD))
    assert told(held, heard("money", stage=Stage.ALL)) == []
    assert told(held, heard("rain", stage=Stage.ALL)) == [(0, 0)]
    assert told(held, heard("kitten", stage=Stage.ALL)) == [(1, 0)]
