"""Who speaks, live. Scripts of turns become windows by `tests.fakes.diariser.heard`; voices that are like each other,
or vary, are made here. What only seeds can find runs over many of them."""

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from streaming.diariser.heard import Heard, Voice
from streaming.diariser.matching import packed, unit, vector_of
from streaming.diariser.track import PENDING_MAX, POLICY, TURNS_MAX, WINDOWS_MAX, SpeakerTrack
from streaming.diariser.voices import Known, Merged, Recognised
from streaming.limits import LIMITS
from streaming.model import Turn, samples_of
from tests.fakes.diariser import INFO, SPEAKERS, heard, turn, vector

MODEL = INFO.model
WINDOW, HOP = samples_of(6_000), samples_of(1_000)
SEEDS = [pytest.param(seed, marks=pytest.mark.soak if seed > 3 else ()) for seed in range(12)]


def script(seed: int, *, people: int = 4, seconds: int = 60) -> list[Turn]:
    """Turns of 1 to 6 s with pauses and overlaps."""
    draw = random.Random(seed)
    turns, at = [], 300
    while at < seconds * 1_000:
        length = draw.randint(1_000, 6_000)
        turns.append(turn(draw.choice(SPEAKERS[:people]), at, at + length))
        at += length + draw.randint(-400, 900)
    return turns


def windows(said: Sequence[Turn], seconds: int) -> list[tuple[int, Heard]]:
    ends = range(HOP, samples_of(seconds * 1_000) + 1, HOP)
    return [(max(0, end - WINDOW), heard(said, max(0, end - WINDOW), end)) for end in ends]


def followed(said: Sequence[tuple[int, Heard]], track: SpeakerTrack | None = None) -> SpeakerTrack:
    track = track or SpeakerTrack(MODEL)
    for start, window in said:
        track.hear(start, window)
    return track


def named(said: Sequence[Turn], turns: Sequence[Turn]) -> dict[str, str]:
    """Which label each of the script's speakers got; fails when one got two, or two got one."""
    names: dict[str, set[str]] = {}
    for found in turns:
        shares = {
            s: sum(max(0, min(found.end_sample, t.end_sample) - max(found.start_sample, t.start_sample))
                   for t in said if t.speaker == s)
            for s in {t.speaker for t in said}
        }  # fmt: skip
        names.setdefault(max(shares, key=lambda s: shares[s]), set()).add(found.speaker)
    assert all(len(labels) == 1 for labels in names.values()), names
    labels = {speaker: labels.pop() for speaker, labels in names.items()}
    assert len(set(labels.values())) == len(labels)
    return labels


def wrong(said: Sequence[Turn], turns: Sequence[Turn], labels: dict[str, str], end: int) -> float:
    """Share of the frames of 20 ms in which not exactly those who speak are told."""

    def frames(parts: Sequence[Turn], names: dict[str, str]) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
        out = np.zeros((len(labels), end // 320), bool)
        order = sorted(set(labels.values()))
        for part in parts:
            out[
                order.index(names.get(part.speaker, part.speaker)), part.start_sample // 320 : part.end_sample // 320
            ] = True
        return out

    told, true = frames(turns, {}), frames([t for t in said if t.speaker in labels], labels)
    return float((told != true).any(axis=0).mean())


def mixed(one: str, other: str, share: float) -> bytes:
    return packed(unit(vector_of(vector(one)) * (1 - share) + vector_of(vector(other)) * share))


def with_voices(window: Heard, voices: dict[bytes, bytes]) -> Heard:
    return Heard(
        window.samples, tuple(Voice(v.spans, v.clean_ms, voices.get(v.vector, v.vector)) for v in window.voices)
    )


# --- labels -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", SEEDS)
def test_everybody_gets_one_label_and_keeps_it(seed: int) -> None:
    said = script(seed)
    track = followed(windows(said, 60))
    track.finish()
    turns = track.turns(0, samples_of(60_000))
    labels = named(said, turns)
    assert labels.keys() >= {t.speaker for t in said if t.end_sample - t.start_sample > samples_of(3_000)}
    assert wrong(said, turns, labels, samples_of(60_000)) < 0.05
    assert turns[0].speaker == "S1"
    assert not track.take_changes()


def test_labels_are_in_the_order_of_speaking() -> None:
    said = [turn("c", 0, 4_000), turn("a", 4_500, 8_000), turn("b", 8_500, 12_000), turn("c", 12_500, 15_000)]
    turns = followed(windows(said, 16)).turns(0, samples_of(16_000))
    assert [found.speaker for found in turns] == ["S1", "S2", "S3", "S1"]


def test_overlap_is_two_turns() -> None:
    said = [turn("a", 0, 5_000), turn("b", 4_000, 9_000)]
    track = followed(windows(said, 12))
    assert track.turns(0, samples_of(12_000)) == (
        Turn(0, samples_of(5_000), "S1"), Turn(samples_of(4_000), samples_of(9_000), "S2"),
    )  # fmt: skip
    assert track.turns(samples_of(4_500), samples_of(4_600)) == (
        Turn(samples_of(4_500), samples_of(4_600), "S1"), Turn(samples_of(4_500), samples_of(4_600), "S2"),
    )  # fmt: skip


def test_a_short_word_makes_no_label() -> None:
    said = [turn("a", 0, 6_000), turn("b", 6_500, 7_200), turn("a", 7_600, 12_000), turn("c", 12_500, 13_200)]
    track = followed(windows(said, 16))
    assert {found.speaker for found in track.turns(0, samples_of(16_000))} == {"S1"}
    assert [speaker.label for speaker in track.speakers()] == ["S1"]


def test_a_speaker_who_comes_back_after_long_is_known_again() -> None:
    said = [turn("a", 0, 8_000), *(turn("b", at, at + 4_000) for at in range(9_000, 400_000, 5_000))]
    said += [turn("a", 404_000, 412_000)]
    track = followed(windows(said, 415))
    assert [found.speaker for found in track.turns(samples_of(404_100), samples_of(412_000))] == ["S1"]


def test_noise_in_one_voice_does_not_split_it() -> None:
    """Windows hear it 0.75 alike, short ones 0.6, as over bad lines."""
    noise = np.random.default_rng(3)
    said = script(1, people=2)
    track = SpeakerTrack(MODEL)
    for start, window in windows(said, 60):
        voices = []
        for voice in window.voices:
            if voice.vector:
                strength = 0.85 if voice.clean_ms >= 1_500 else 1.2
                off = noise.standard_normal(INFO.dim)
                vector_ = packed(unit(vector_of(voice.vector) + strength * off / np.linalg.norm(off)))
                voice = Voice(voice.spans, voice.clean_ms, vector_)
            voices.append(voice)
        track.hear(start, Heard(window.samples, tuple(voices)))
    assert [speaker.label for speaker in track.speakers()] == ["S1", "S2"]


def test_two_who_sound_alike_are_two() -> None:
    """0.45 alike is more than most pairs of people are."""
    said = script(2, people=2)
    alike = {vector("b"): packed(unit(vector_of(vector("b")) + 0.5 * vector_of(vector("a"))))}
    assert float(vector_of(vector("a")) @ vector_of(alike[vector("b")])) == pytest.approx(0.447, abs=0.01)
    track = followed([(start, with_voices(window, alike)) for start, window in windows(said, 60)])
    assert len(named(said, track.turns(0, samples_of(60_000)))) == 2


# --- what is settled --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_settled_never_changes(seed: int) -> None:
    said = script(seed)
    track = SpeakerTrack(MODEL)
    settled: tuple[Turn, ...] = ()
    until = 0
    for start, window in windows(said, 60):
        track.hear(start, window)
        assert track.turns(0, until) == settled
        assert track.until_sample >= until
        until = track.until_sample
        settled = track.turns(0, until)
    assert until >= samples_of(56_000)
    track.finish()
    assert track.until_sample == samples_of(60_000)
    assert track.turns(0, until) == settled


def test_a_gap_settles_what_was_before_it() -> None:
    said = [turn("a", 0, 4_000), turn("b", 60_000, 64_000)]
    track = followed(windows(said, 5))
    assert track.until_sample < samples_of(5_000)
    track.hear(samples_of(59_000), heard(said, samples_of(59_000), samples_of(65_000)))
    assert track.until_sample >= samples_of(5_000)
    track.hear(samples_of(60_000), heard(said, samples_of(60_000), samples_of(66_000)))
    assert [found.speaker for found in track.turns(0, samples_of(66_000))] == ["S1", "S2"]


@pytest.mark.parametrize("seed", range(4))
def test_windows_that_come_again_or_late_change_nothing(seed: int) -> None:
    given = windows(script(seed), 40)
    once, twice = followed(given), SpeakerTrack(MODEL)
    for at, (start, window) in enumerate(given):
        twice.hear(start, window)
        twice.hear(start, window)
        twice.hear(*given[max(0, at - 3)])
    assert twice.state() == once.state()


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_voices_in_a_window_does_not_matter(seed: int) -> None:
    given = windows(script(seed), 40)
    turned = [(start, Heard(window.samples, window.voices[::-1])) for start, window in given]
    assert followed(turned).turns(0, samples_of(40_000)) == followed(given).turns(0, samples_of(40_000))


@pytest.mark.parametrize("seed", range(4))
def test_missing_windows_lose_no_label(seed: int) -> None:
    said = script(seed)
    draw = random.Random(seed)
    given = [window for window in windows(said, 60) if draw.random() < 0.5]
    named(said, followed(given).turns(0, samples_of(60_000)))


# --- state ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_goes_on_gives_the_same_labels(seed: int) -> None:
    given = windows(script(seed), 60)
    at = random.Random(seed).randint(1, len(given) - 1)
    whole = followed(given)
    handed = followed(given[at:], SpeakerTrack(MODEL, followed(given[:at]).state()))
    assert handed.turns(0, samples_of(60_000)) == whole.turns(0, samples_of(60_000))
    assert handed.speakers() == whole.speakers()
    assert handed.state() == whole.state()


@pytest.mark.parametrize("state", [b"nonsense", b"\xc1", b"\x80", SpeakerTrack("another").state()])
def test_a_state_that_is_not_ours_is_ignored(state: bytes) -> None:
    track = SpeakerTrack(MODEL, state)
    assert track.until_sample == 0
    assert track.state() == SpeakerTrack(MODEL).state()


def test_another_model_gives_no_label_again() -> None:
    """The stream goes on where another model is: whom it hears it cannot compare with those who have labels."""
    said = [turn("a", 0, 6_000), turn("b", 6_500, 12_000), turn("a", 12_500, 20_000)]
    given = windows(said, 21)
    old = followed(given[:12])
    assert [speaker.label for speaker in old.speakers()] == ["S1", "S2"]
    told = old.turns(0, old.until_sample)
    other = followed(given[12:], SpeakerTrack("another", old.state()))
    assert [speaker.label for speaker in other.speakers()] == ["S3", "S4"], "its first window hears both"
    assert other.turns(0, old.until_sample) == told, "what is settled stays"
    assert {found.speaker for found in other.turns(samples_of(14_000), samples_of(20_000))} == {"S4"}


def test_vectors_of_another_size_are_nobodys() -> None:
    """A state whose model has the same name and other vectors, or a damaged one, must not end the stream."""
    track = followed(windows([turn("a", 0, 5_000)], 6))
    other = SpeakerTrack(MODEL, track.state())
    voice = Voice(((0, samples_of(3_000)),), 3_000, packed(unit(np.ones(7))))
    other.hear(samples_of(5_000), Heard(samples_of(6_000), (voice,)))
    assert [speaker.label for speaker in other.speakers()] == ["S1"]


def test_what_is_remembered_is_bounded() -> None:
    """Everybody a stranger, a turn every 100 ms, for long."""
    noise = np.random.default_rng(5)
    track = SpeakerTrack(MODEL)
    most = 0
    for second in range(200):
        voices = []
        for at in range(10):
            start = at * 1_600
            voices.append(Voice(((start, start + 800),), 2_000, packed(unit(noise.standard_normal(192)))))
        track.hear(samples_of(second * 500), Heard(samples_of(1_000), tuple(voices)))
        most = max(most, len(track.state()))
    assert most < 64 * 1024
    assert len(track.speakers()) <= LIMITS.speakers_max
    assert len(track.turns(0, samples_of(10**6))) <= TURNS_MAX + 200
    assert LIMITS.speakers_max > PENDING_MAX


def test_turns_older_than_the_limit_are_forgotten() -> None:
    limits = msgspec.structs.replace(LIMITS, speaker_turns_ms_max=10_000)
    said = [turn("a", at, at + 1_500) for at in range(0, 60_000, 2_200)]
    track = SpeakerTrack(MODEL, limits=limits)
    followed(windows(said, 60), track)
    assert track.turns(0, track.until_sample)[0].end_sample > track.until_sample - samples_of(10_000)
    assert len(track.turns(0, track.until_sample)) in range(4, 7)


@pytest.mark.parametrize("most", [1, 2])
def test_nobody_gets_a_label_beyond_the_limit(most: int) -> None:
    limits = msgspec.structs.replace(LIMITS, speakers_max=most)
    said = [turn(who, at, at + 4_000) for at, who in zip(range(0, 40_000, 5_000), "abcdabcd", strict=True)]
    track = SpeakerTrack(MODEL, limits=limits)
    followed(windows(said, 42), track)
    assert [speaker.label for speaker in track.speakers()] == [f"S{n + 1}" for n in range(most)]


# --- what proves to be one, and who is known --------------------------------------------------------------------------
def test_merging_renames_everything_and_the_label_is_never_given_again() -> None:
    said = [turn("a", 0, 4_000), turn("b", 10_500, 14_000)]
    track = followed(windows(said, 15))
    assert [speaker.label for speaker in track.speakers()] == ["S1", "S2"]
    for second in range(15, 100):
        start = samples_of((second - 6) * 1_000)
        both = Voice(((0, WINDOW),), 6_000, mixed("a", "b", (0.35, 0.65)[second % 2]))
        track.hear(start, Heard(WINDOW, (both,)))
    assert track.take_changes() == (Merged("S2", "S1"),)
    assert {found.speaker for found in track.turns(0, samples_of(15_000))} == {"S1"}
    later = [turn("c", 101_000, 110_000)]
    followed([(start, window) for start, window in windows(later, 111) if start >= samples_of(95_000)], track)
    assert [speaker.label for speaker in track.speakers()] == ["S1", "S3"]


def test_an_enrolled_voice_is_recognised_once() -> None:
    known = [Known("voice_a", mixed("a", "c", 0.2)), Known("voice_x", mixed("d", "e", 0.5))]
    said = script(3, people=2)
    track = SpeakerTrack(MODEL, known=known)
    changes: list[object] = []
    for start, window in windows(said, 60):
        track.hear(start, window)
        changes += track.take_changes()
        track = SpeakerTrack(MODEL, track.state(), known)
    assert changes == [
        Recognised(named(said, followed(windows(said, 60)).turns(0, samples_of(60_000)))["a"], "voice_a")
    ]


def test_who_is_only_somewhat_like_an_enrolled_voice_is_not_it() -> None:
    """0.65 alike makes one speaker of a recording, but nobody's name."""
    like = packed(unit(vector_of(vector("a")) * 0.65 + vector_of(vector("k")) * 0.76))
    track = SpeakerTrack(MODEL, known=[Known("voice", like)])
    followed(windows(script(3, people=2), 60), track)
    assert track.take_changes() == ()
    twins = [Known("one", mixed("a", "c", 0.2)), Known("other", mixed("a", "d", 0.2))]
    track = SpeakerTrack(MODEL, known=twins)
    followed(windows(script(3, people=2), 60), track)
    assert track.take_changes() == (), "whoever is as much like another enrolled voice is neither"


# --- guards -----------------------------------------------------------------------------------------------------------
def hearing(track: SpeakerTrack, second: int, *voices: tuple[bytes, int, int]) -> None:
    """A window of 6 s that begins at `second`; voices as (vector, start_ms, end_ms)."""
    made = tuple(Voice(((samples_of(a), samples_of(b)),), b - a, packed_) for packed_, a, b in voices)
    track.hear(samples_of(second * 1_000), Heard(WINDOW, made))


@pytest.mark.parametrize("together", [0, 3])
def test_whom_windows_heard_apart_are_never_merged(together: int) -> None:
    """Both labels then drift to one voice, as where a bad line makes all sound alike."""
    track = SpeakerTrack(MODEL)
    for second in range(0, 18, 6):
        hearing(track, second, (vector("a"), 0, 6_000))
    for second in range(18, 36, 6):
        hearing(track, second, (vector("b"), 0, 6_000))
    for second in range(36, 36 + 6 * together, 6):
        hearing(track, second, (vector("a"), 0, 3_000), (vector("b"), 3_000, 6_000))
    assert [speaker.label for speaker in track.speakers()] == ["S1", "S2"]
    for second in range(60, 240, 6):
        hearing(track, second, (mixed("a", "b", (0.42, 0.58)[second // 6 % 2]), 0, 6_000))
    one, two = (vector_of(s.vector) for s in (*track.speakers(), *track.speakers())[:2])
    assert len(track.speakers()) == (2 if together else 1)
    assert (track.take_changes() == ()) == bool(together)
    assert float(one @ two) > 0.75, "they are as alike as one is to himself"


@pytest.mark.parametrize("until_ms", [400, 2_000])
def test_a_pause_is_not_settled_before_it_is_known_to_be_one(until_ms: int) -> None:
    """What is filled later must not have been told as silence."""
    said = [turn("a", 0, 6_000), turn("a", 6_000 + 300, 12_000)]
    track = SpeakerTrack(MODEL)
    for start, window in windows(said, 16):
        track.hear(start, window)
        if track.until_sample > samples_of(6_300):
            break
        assert track.until_sample <= samples_of(6_000) or track.until_sample >= samples_of(6_300)
    policy = msgspec.structs.replace(POLICY, settle_ms=until_ms)
    fine = SpeakerTrack(MODEL, policy=policy)
    for end in range(HOP, samples_of(16_000), samples_of(100)):
        fine.hear(max(0, end - WINDOW), heard(said, max(0, end - WINDOW), end))
        settled = fine.turns(samples_of(2_000), fine.until_sample)
        assert not samples_of(6_000) < fine.until_sample < samples_of(6_300), "in the pause"
        assert len(settled) <= 1


def test_a_burst_of_turns_and_windows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.diariser.track.TURNS_MAX", 100)
    limits = msgspec.structs.replace(LIMITS, speaker_turns_ms_max=10**9)
    track = SpeakerTrack(MODEL, limits=limits)
    size = samples_of(1_000)
    for number in range(300):
        spans = ((0, size // 4),)
        track.hear(number * size * 2, Heard(size, (Voice(spans, 2_000, vector("a")),)))
    assert len(track.turns(0, samples_of(10**7))) <= 101
    still = SpeakerTrack(MODEL, policy=msgspec.structs.replace(POLICY, settle_ms=10**6))
    for number in range(4 * WINDOWS_MAX):
        still.hear(number * 320, Heard(size, (Voice(((0, size),), 1_000, vector("a")),)))
    assert len(still._s.windows) <= WINDOWS_MAX
