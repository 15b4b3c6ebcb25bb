"""Who said it: word error rates with speakers, label switches, and composed conversations."""

import json

import numpy as np
import pytest

from bench import tables
from bench.conversations import PEOPLE, SCENES, compose, voices
from bench.report import ROOT
from bench.speakers import attributed, switches
from bench.speakerwords import Spoken, cpwer, tcpwer
from streaming.model import SAMPLE_RATE, Turn


def said(text: str, start: float = 0.0) -> list[Spoken]:
    return [Spoken(word, start + at, start + at + 0.5) for at, word in enumerate(text.split())]


def test_labels_are_matched_so_that_errors_are_fewest() -> None:
    reference = {"x": said("a b c d"), "y": said("e f", 10)}
    assert cpwer(reference, {"S1": said("e f", 10), "S2": said("a b c d")}) == 0
    assert cpwer(reference, {"S1": said("a b c d e f")}) == pytest.approx(4 / 6), "two inserted, two missing"
    assert cpwer(reference, {"S1": said("a b"), "S2": said("c d"), "S3": said("e f", 10)}) == pytest.approx(4 / 6)
    assert cpwer(reference, {}) == 1


def test_a_word_at_another_time_is_another_word() -> None:
    reference = {"x": said("a b c")}
    assert tcpwer(reference, {"S1": said("a b c", 4)}) == 0
    assert cpwer(reference, {"S1": said("a b c", 60)}) == 0
    assert tcpwer(reference, {"S1": said("a b c", 60)}) == 2


def turns(*parts: tuple[str, int, int]) -> list[Turn]:
    return [Turn(start * SAMPLE_RATE, end * SAMPLE_RATE, speaker) for speaker, start, end in parts]


def test_switches_are_changes_of_one_speaker_s_label() -> None:
    reference = turns(("x", 0, 5), ("y", 5, 10), ("x", 10, 15), ("y", 15, 20))
    assert switches(reference, turns(("S1", 0, 5), ("S2", 5, 10), ("S1", 10, 15), ("S2", 15, 20))) == 0
    assert switches(reference, turns(("S1", 0, 5), ("S2", 5, 10), ("S3", 10, 15), ("S2", 15, 20))) == 1
    assert switches(reference, turns(("S1", 0, 20))) == 0


def test_words_belong_to_who_speaks_them() -> None:
    words = [("x", 1.0, 1.4, "a"), ("y", 6.0, 6.4, "b"), ("y", 30.0, 30.4, "c")]
    reference, given = attributed(words, turns(("S1", 0, 5), ("S2", 5, 10)))
    assert [word.text for word in reference["y"]] == ["b", "c"]
    assert {label: [word.text for word in own] for label, own in given.items()} == {"S1": ["a"], "S2": ["b", "c"]}


def test_conversations_are_composed_again_alike_and_say_who_speaks() -> None:
    noise = np.random.default_rng(1)
    clips = {
        f"{person}-{at}": (noise.standard_normal(2 * SAMPLE_RATE) * 3_000).astype(np.int16)
        for person in PEOPLE
        for at in range(3)
    }
    people = voices(clips)
    for number in range(len(SCENES)):
        made, again = compose(people, number, 5, seconds=15.0), compose(people, number, 5, seconds=15.0)
        assert made.turns == again.turns
        assert (made.audio == again.audio).all()
        assert made.scene == SCENES[number]
        assert len({turn.speaker for turn in made.turns}) == 2
        assert made.turns[-1].end_sample <= len(made.audio)
        level = {
            spoken: float(np.sqrt(np.mean(np.square(made.audio[a:b], dtype=np.float64))))
            for spoken, a, b in (
                (True, made.turns[0].start_sample, made.turns[0].end_sample),
                (False, 0, made.turns[0].start_sample),
            )
        }
        assert level[True] > 2 * level[False]


def test_the_documents_table_is_that_of_the_results() -> None:
    text = tables.DOCUMENT.read_text()
    held = json.loads((ROOT / "bench" / "results" / "speakers.json").read_text())
    assert f"{tables.SPEAKERS_BEGIN}\n{tables.who(held)}\n{tables.SPEAKERS_END}" in text
