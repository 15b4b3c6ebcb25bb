"""The evaluation of search: its files hold what they promise, and its measures are right where a hand can reckon."""

import itertools
import json
import math
from collections import Counter

import pytest

from bench import tables
from bench.quality import metrics, table
from bench.quality.corpus import EXACTLY, KINDS, RELATED, SPLITS, Asked, Segment, corpus
from bench.report import ROOT
from search.analysis import analyse, is_stop

HELD = corpus()
SEGMENTS = {segment.segment_id: segment for segment in HELD.segments}
RECORDINGS = {recording.recording_id: recording for recording in HELD.recordings}
VOCABULARY = {word.folded for segment in HELD.segments for word in analyse(segment.text, "").words}
"""Every word that somebody says."""


def telling(text: str, language: str) -> set[str]:
    """Stems of a text's words, without stop words; the word itself where it has no stem."""
    found = analyse(text, language)
    pairs = zip(found.words, found.stems, strict=True)
    return {stem or word.folded for word, stem in pairs if not is_stop(word.folded, language)}


def exactly(asked: Asked) -> list[Segment]:
    return [SEGMENTS[name] for name, grade in asked.relevant.items() if grade == EXACTLY]


def of_kind(kind: str) -> list[Asked]:
    return [asked for asked in HELD.queries if asked.kind == kind]


def test_there_is_as_much_as_is_promised() -> None:
    assert len(HELD.recordings) >= 30
    assert len(HELD.segments) >= 500
    assert len(HELD.queries) >= 300
    languages = Counter(RECORDINGS[segment.recording_id].language for segment in HELD.segments)
    assert languages["de"] / len(HELD.segments) == pytest.approx(1 / 3, abs=0.05)
    assert {recording.kind for recording in HELD.recordings} == {
        *("meeting", "lecture", "interview", "support call", "podcast")
    }
    for split in SPLITS:
        kinds = Counter(asked.kind for asked in HELD.queries if asked.split == split)
        assert set(kinds) == set(KINDS)
        assert min(kinds.values()) >= 5, f"{split}: {kinds}"


def test_nothing_is_there_twice() -> None:
    assert len(RECORDINGS) == len(HELD.recordings)
    assert len(SEGMENTS) == len(HELD.segments)
    assert len({asked.query_id for asked in HELD.queries}) == len(HELD.queries)
    assert max(Counter(segment.text for segment in HELD.segments).values()) == 1
    assert max(Counter(asked.text.casefold() for asked in HELD.queries).values()) == 1


def test_recordings_are_spoken_by_known_people_in_order() -> None:
    spoken = itertools.groupby(HELD.segments, key=lambda segment: segment.recording_id)
    told = [(RECORDINGS[name], list(segments)) for name, segments in spoken]
    assert [recording for recording, _ in told] == HELD.recordings, "each recording's segments stand together"
    for recording, segments in told:
        assert {segment.speaker for segment in segments} == set(recording.speakers)
        times = [time for segment in segments for time in (segment.start_ms, segment.end_ms)]
        assert times == sorted(times)
        assert [s.segment_id for s in segments] == [f"{recording.recording_id}.{n + 1}" for n in range(len(segments))]


def test_judgements_name_segments_of_the_query_s_split() -> None:
    for asked in HELD.queries:
        assert set(asked.relevant.values()) <= {EXACTLY, RELATED}, asked
        assert exactly(asked), f"nothing answers {asked.text}"
        assert {RECORDINGS[SEGMENTS[name].recording_id].split for name in asked.relevant} == {asked.split}, asked


def test_exact_words_are_all_said() -> None:
    for asked in of_kind("exact"):
        wanted = telling(asked.text, asked.language)
        assert any(wanted <= telling(segment.text, asked.language) for segment in exactly(asked)), asked.text


def test_paraphrases_share_no_word_that_tells_anything() -> None:
    for asked in of_kind("paraphrase"):
        for segment in exactly(asked):
            shared = telling(asked.text, asked.language) & telling(segment.text, asked.language)
            assert not shared, f"{asked.text}: {segment.segment_id} says {shared}"


@pytest.mark.parametrize("kind", ["spelling", "umlaut"])
def test_misspelled_words_are_said_by_nobody(kind: str) -> None:
    for asked in of_kind(kind):
        assert {word.folded for word in analyse(asked.text, "").words} - VOCABULARY, asked.text


def test_prefixes_go_on_in_what_they_find() -> None:
    for asked in of_kind("prefix"):
        typed = analyse(asked.text, "").words[-1].folded
        assert typed not in VOCABULARY, f"{asked.text} ends in a whole word"
        for segment in exactly(asked):
            assert any(word.folded.startswith(typed) for word in analyse(segment.text, "").words), asked.text


def test_ndcg_is_what_a_hand_reckons() -> None:
    relevant = {"a": 2, "b": 1}
    best = 3 / math.log2(2) + 1 / math.log2(3)
    assert metrics.ndcg(["a", "b"], relevant) == 1
    assert metrics.ndcg(["x", "a", "b"], relevant) == pytest.approx((3 / math.log2(3) + 1 / 2) / best)
    assert metrics.ndcg(["b", "a"], relevant) == pytest.approx((1 + 3 / math.log2(3)) / best)
    assert metrics.ndcg(["b", "b", "a"], relevant) == metrics.ndcg(["b", "a"], relevant), "twice counts once"
    assert metrics.ndcg([], relevant) == metrics.ndcg(["x"], relevant) == 0
    assert metrics.ndcg(["x", "y", "a"], relevant, at=2) == 0, "too late"
    eleven = {str(n): 2 for n in range(11)}
    assert metrics.ndcg([str(n) for n in range(1, 11)], eleven) == 1, "ten can be shown"
    with pytest.raises(ValueError, match="relevant"):
        metrics.ndcg(["a"], {})


def test_recall_is_what_a_hand_reckons() -> None:
    relevant = {"a": 2, "b": 1, "c": 1, "d": 2}
    assert metrics.recall(["a", "x", "b"], relevant) == 0.5
    assert metrics.recall([*map(str, range(19)), "a", "b"], relevant) == 0.25, "the 21st is not shown"
    assert metrics.recall(["a", "b"], {"a": 2, "b": 0}) == 1, "grade 0 is not relevant"
    with pytest.raises(ValueError, match="relevant"):
        metrics.recall(["a"], {"a": 0})


def test_intervals_hold_the_mean_and_narrow_with_more_queries() -> None:
    few, many = metrics.mean([0, 1] * 10, seed=1), metrics.mean([0, 1] * 1_000, seed=1)
    assert few.value == many.value == 0.5
    assert few.low < 0.35 < 0.65 < few.high
    assert 0.45 < many.low < 0.5 < many.high < 0.55
    assert metrics.mean([0.25] * 5, seed=1) == metrics.Mean(0.25, 0.25, 0.25, 5)
    assert metrics.mean([0, 1, 1], seed=3) == metrics.mean([0, 1, 1], seed=3)


def test_differences_are_reckoned_query_by_query() -> None:
    hard_and_easy = [0.0, 1.0] * 50
    better = [value + 0.01 for value in hard_and_easy]
    assert metrics.difference(better, hard_and_easy, seed=1).low == pytest.approx(0.01)


def test_the_documents_table_is_that_of_the_results() -> None:
    held = json.loads((ROOT / "bench" / "results" / "quality.json").read_text())
    assert f"{tables.QUALITY_BEGIN}\n{table.markdown(held)}\n{tables.QUALITY_END}" in tables.DOCUMENT.read_text()
