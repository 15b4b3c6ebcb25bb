"""What the benchmarks of search put in and how they count."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from bench import keystrokes, searchload, subscriptions
from bench.keystrokes import Key, Typed
from bench.livetalk import Talker, coined
from bench.quality.corpus import corpus
from bench.searchload import Loaded
from bench.spokentext import Library, Spoken, sizes, vectors
from search.analysis import analyse
from search.model import Vector

SEGMENTS = 1_500


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(Spoken(3), "t", SEGMENTS)


def test_talk_is_the_same_with_the_same_seed(library: Library) -> None:
    again, other = Library(Spoken(3), "t", SEGMENTS), Library(Spoken(4), "t", SEGMENTS)
    assert again.said == library.said != other.said
    assert len({s.segment_id for s in library.said}) == SEGMENTS
    assert {s.recording_id for s in library.said} == {talk.recording_id for talk in library.talks}


def test_talk_has_the_length_and_the_words_of_talk(library: Library) -> None:
    held = corpus()
    lengths = [len(s.text.split()) for s in library.said]
    assert np.mean(lengths) == pytest.approx(np.mean([len(s.text.split()) for s in held.segments]), rel=0.1)
    assert 0.2 < np.mean([talk.language == "de" for talk in library.talks]) < 0.4
    said = Counter(word.folded for s in library.said for word in analyse(s.text, "").words)
    frequent = [count for _, count in said.most_common(100)]
    assert frequent[0] > 10 * frequent[-1], "few words are said often"
    assert sum(count == 1 for count in said.values()) > len(said) / 3, "and many once"


def test_tenants_are_of_unequal_size() -> None:
    found = sizes(100_000, 50)
    assert found[0] > 40 * found[-1]
    assert sum(found) == pytest.approx(100_000, rel=0.01)
    assert min(sizes(100, 50)) == 20


def test_vectors_are_near_what_they_were_made_of() -> None:
    rng = np.random.default_rng(1)
    bases: dict[int, list[Vector]] = defaultdict(list)
    for number in range(5):
        for _ in range(3):
            drawn = np.eye(64, dtype=np.float32)[number] + 0.05 * rng.standard_normal(64).astype(np.float32)
            bases[number].append(drawn / np.linalg.norm(drawn))
    made_of = [n % 5 for n in range(200)]
    made = vectors(bases, made_of, seed=1)
    assert made.shape == (200, 64)
    assert np.linalg.norm(made, axis=1) == pytest.approx(np.ones(200), abs=1e-5)
    assert len(np.unique(made.round(5), axis=0)) == 200, "no two are the same"
    cosines = made @ np.stack([bases[n][0] for n in range(5)]).T
    assert (cosines.argmax(axis=1) == made_of).all()
    assert (vectors(bases, made_of, seed=1) == made).all()


def test_coined_words_are_words_that_nobody_says(library: Library) -> None:
    words = [coined(number) for number in range(2_000)]
    assert len(set(words)) == 2_000
    assert all(len(analyse(word, "en").words) == 1 for word in words[:50])
    said = {word.folded for s in library.said for word in analyse(s.text, "").words}
    assert not said & set(words)


def test_a_talker_counts_its_finals() -> None:
    talker = Talker("t", "r")
    first, second = talker.says("one"), talker.says("two")
    assert (first.segment.ordinal, second.segment.ordinal, first.epoch) == (1, 2, 1)
    assert first.segment.end_ms < second.segment.start_ms
    assert first.committed_sample < second.committed_sample


def test_only_queries_that_stood_must_be_answered_in_time() -> None:
    answered = Key("left", 0, at_ms=0, next_ms=200, instant_ms=100)
    late = Key("left", 1, at_ms=200, next_ms=400, instant_ms=360)
    overtaken = Key("left", 2, at_ms=400, next_ms=500)
    last = Key("left", 3, at_ms=500)
    assert [key.stood for key in (answered, late, overtaken, last)] == [True, True, False, True]
    assert [key.in_time for key in (answered, late, overtaken, last)] == [True, False, False, False]
    rows = {figure.name: figure for figure in keystrokes.told("x", Typed([answered, late, overtaken, last], 1, 0.02))}
    order, share = rows["x: older results after newer ones"], rows[next(n for n in rows if "within 150 ms" in n)]
    assert (order.value, order.kept) == (1, False)
    assert share.value == pytest.approx(1 / 3, abs=1e-4)
    assert (share.n, share.kept) == (3, False)
    assert rows["x: CPU of the server"].value == 5


async def test_an_older_result_after_a_newer_one_of_its_slot_is_counted() -> None:
    class Client:
        def on(self, _name: str, _handler: object) -> None: ...

        async def emit(self, _name: str, _body: object) -> None: ...

    socket = keystrokes.Socket(Client())
    for slot in ("left", "right", "left", "right"):
        await socket.key(slot, "a")
    for number in (1, 2, 0, 3):
        await socket._results({"request_id": str(number), "phase": "instant"})
    assert socket.typed.late == 1, "0 came after 2; 1 and 3 are of the other slot"
    assert [key.next_ms is None for key in socket.typed.keys] == [False, False, True, True]


def test_the_promises_of_the_load_are_in_its_table() -> None:
    loaded = Loaded(
        instant=[60.0] * 20, full=[100.0], searchable=[600.0], finals=50, took_s=1.0, cpu={"server": 0.5},
        recall={"largest": 0.9, "smallest": 1.0},
    )  # fmt: skip
    missed = {figure.name for figure in searchload.told("x", loaded) if not figure.kept}
    assert missed == {
        *("x: key to first results, p95", "x: final to its hit, p95"),
        "x: recall@20 of the nearest, largest tenant",
    }


def test_the_pass_of_subscriptions_finds_matches() -> None:
    few, many = (subscriptions.one_pass(1, count, segments=20) for count in (50, 500))
    assert len(few.cpu_ms) == len(many.cpu_ms) == 20
    assert 0 < few.matches < many.matches
