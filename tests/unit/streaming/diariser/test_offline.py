"""Who spoke in a whole recording: labels of anchors, bounds, and that no windows are no error."""

import random

import numpy as np
import pytest

from streaming.diariser import offline
from streaming.diariser.heard import Heard, Voice
from streaming.diariser.matching import packed, unit, vector_of
from streaming.diariser.offline import cluster
from streaming.diariser.voices import Known, Recognised, Speaker
from streaming.limits import LIMITS
from streaming.model import Turn, samples_of
from tests.fakes.diariser import heard, turn, vector
from tests.unit.streaming.diariser.test_track import followed, named, script, windows, wrong

SEEDS = range(8)


def roughly(packed_: bytes, noise: np.random.Generator, strength: float) -> bytes:
    off = noise.standard_normal(len(packed_) // 4)
    return packed(unit(vector_of(packed_) + strength * off / np.linalg.norm(off)))


def noisy(given: list[tuple[int, Heard]], strength: float) -> list[tuple[int, Heard]]:
    noise = np.random.default_rng(0)
    return [
        (
            start,
            Heard(
                window.samples,
                tuple(
                    Voice(v.spans, v.clean_ms, roughly(v.vector, noise, strength) if v.vector else b"")
                    for v in window.voices
                ),
            ),
        )
        for start, window in given
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_everybody_gets_one_label(seed: int) -> None:
    said = script(seed)
    found = cluster(noisy(windows(said, 60), 0.6))
    labels = named(said, found.turns)
    assert wrong(said, found.turns, labels, samples_of(60_000)) < 0.06
    assert [speaker.label for speaker in found.speakers] == sorted({t.speaker for t in found.turns})
    firsts = list(dict.fromkeys(t.speaker for t in found.turns))
    assert firsts == sorted(firsts)
    assert all(a.start_sample <= b.start_sample for a, b in zip(found.turns, found.turns[1:], strict=False))


@pytest.mark.parametrize("seed", SEEDS)
def test_anchors_keep_their_labels(seed: int) -> None:
    said = script(seed)
    track = followed(windows(said, 60))
    track.finish()
    live = named(said, track.turns(0, samples_of(60_000)))
    found = cluster(noisy(windows(said, 60), 0.6), anchors=track.speakers())
    after = named(said, found.turns)
    assert after == {speaker: live[speaker] for speaker in after}
    enough = {t.speaker for t in said if t.end_sample - t.start_sample > samples_of(3_000)}
    assert after.keys() >= enough


def test_who_is_no_anchors_gets_the_next_free_number() -> None:
    said = [turn("a", 0, 5_000), turn("b", 5_600, 10_000), turn("c", 10_600, 15_000)]
    anchors = (Speaker("S4", vector("b"), 4_000), Speaker("S7", vector("d"), 4_000), Speaker("S2", b"", 0))
    found = cluster(windows(said, 16), anchors=anchors)
    assert [(t.speaker, t.start_sample) for t in found.turns] == [
        ("S8", 0), ("S4", samples_of(5_600)), ("S9", samples_of(10_600)),
    ]  # fmt: skip
    assert {speaker.label for speaker in found.speakers} == {"S4", "S8", "S9"}


def test_a_label_is_never_given_to_two() -> None:
    """Both are alike enough to the one anchor; the nearer has it."""
    both = packed(unit(vector_of(vector("a")) * 0.8 + vector_of(vector("b")) * 0.6))
    said = [turn("a", 0, 5_000), turn("b", 5_600, 10_000)]
    found = cluster(windows(said, 11), anchors=[Speaker("S3", both, 9_000)])
    assert [t.speaker for t in found.turns] == ["S3", "S4"]


def test_enrolled_voices_are_recognised() -> None:
    said = [turn("a", 0, 6_000), turn("b", 6_600, 13_000)]
    found = cluster(windows(said, 14), known=[Known("voice_b", vector("b")), Known("voice_c", vector("c"))])
    assert found.recognised == (Recognised("S2", "voice_b"),)


def test_clean_time_is_what_is_spoken_alone() -> None:
    said = [turn("a", 0, 6_000), turn("b", 5_000, 10_000)]
    found = cluster(windows(said, 11))
    assert [speaker.clean_ms for speaker in found.speakers] == [5_000, 4_000]
    assert found.turns == (Turn(0, samples_of(6_000), "S1"), Turn(samples_of(5_000), samples_of(10_000), "S2"))


def test_nothing_heard_is_nobody() -> None:
    assert cluster([]) == offline.Offline((), (), ())
    assert cluster([(0, Heard(96_000, ()))]).turns == ()
    silent = Voice(((0, 8_000),), 0, b"")
    assert cluster([(0, Heard(96_000, (silent,)))]).turns == ()


def test_a_single_short_voice_is_somebody() -> None:
    found = cluster([(0, heard([turn("a", 0, 600)], 0, 96_000))])
    assert [t.speaker for t in found.turns] == ["S1"]


def test_hours_are_clustered_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many windows as make several steps, four people, and gaps."""
    monkeypatch.setattr(offline, "ITEMS_MAX", 80)
    said = script(5, seconds=600)
    draw = random.Random(1)
    given = [window for window in windows(said, 600) if draw.random() < 0.4]
    assert len(given) > 2 * 80
    found = cluster(noisy(given, 0.6))
    assert [speaker.label for speaker in found.speakers] == ["S1", "S2", "S3", "S4"]
    long = [t for t in found.turns if t.end_sample - t.start_sample > samples_of(1_500)]
    assert len(named(said, long)) == 4


def test_no_more_speakers_than_the_limit() -> None:
    noise = np.random.default_rng(2)
    strangers = [
        (
            samples_of(at * 1_000),
            Heard(16_000, (Voice(((0, 16_000),), 3_000, packed(unit(noise.standard_normal(192)))),)),
        )
        for at in range(100)
    ]
    assert len(cluster(strangers).speakers) <= LIMITS.speakers_max


def blurred(*, together: int) -> list[tuple[int, Heard]]:
    """Two who are 0.65 alike, heard in turn, and both in every `together`th window."""
    like = packed(unit(vector_of(vector("a")) * 0.65 + vector_of(vector("b")) * 0.76))
    out = []
    for number in range(100):
        first = Voice(((0, samples_of(2_000)),), 2_000, (vector("a"), like)[number % 2])
        second = Voice(((samples_of(2_500), samples_of(4_500)),), 2_000, (like, vector("a"))[number % 2])
        voices = (first, second) if number % together == 0 else (first,)
        out.append((samples_of(number * 6_000), Heard(samples_of(6_000), voices)))
    return out


def test_whom_windows_hear_apart_are_two_people_however_alike() -> None:
    assert len(cluster(blurred(together=5)).speakers) == 2


def test_one_person_torn_apart_now_and_then_is_one() -> None:
    """Four windows of a hundred."""
    assert len(cluster(blurred(together=25)).speakers) == 1


def test_both_halves_of_a_person_torn_apart_are_his() -> None:
    halves = tuple(Voice(((samples_of(a), samples_of(a + 2_500)),), 2_500, vector("a")) for a in (0, 3_500))
    found = cluster([(samples_of(at), Heard(samples_of(6_000), halves)) for at in (0, 6_000)])
    assert {turn.speaker for turn in found.turns} == {"S1"}
    assert sum(turn.end_sample - turn.start_sample for turn in found.turns) >= samples_of(10_000)
