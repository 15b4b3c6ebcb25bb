"""The level at which talk is heard: what is raised, by how much, since when, and what is left alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.audio.prepare import (
    CONTRAST_DB,
    GAIN_DB_MAX,
    LEVEL_DBFS,
    LOOK_FRAMES,
    OFFSET_FRAMES_MIN,
    Leveller,
    Untouched,
    leveller_for,
)
from streaming.model import FRAME_SAMPLES
from streaming.ports import Pcm16
from tests.unit.streaming.audio.sounds import noise, silence, tone, voice

FRAME_S = FRAME_SAMPLES / 16_000


def frames(audio: Pcm16) -> list[Pcm16]:
    return list(audio[: len(audio) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES))


def levelled(audio: Pcm16, leveller: Leveller | None = None) -> list[Pcm16]:
    leveller = leveller or Leveller()
    return [leveller.take(frame) for frame in frames(audio)]


def dbfs(frame: Pcm16) -> float:
    return float(20 * np.log10(max(1e-9, np.std(frame.astype(float)) / 32_768)))


def quieter(audio: Pcm16, db: float) -> Pcm16:
    return np.rint(audio * 10 ** (db / 20)).astype(np.int16)


def sounded(dbfs: float) -> Pcm16:
    """One frame of 1 kHz."""
    return tone(FRAME_S, 1_000, dbfs)


@pytest.mark.parametrize("audio", [voice(3), tone(1, 300, -24), noise(2, -20)], ids=["voice", "tone", "noise"])
def test_what_is_loud_enough_passes_bit_by_bit(audio: Pcm16) -> None:
    leveller = Leveller()
    levelled(np.concatenate([silence(0.5), audio[: 4 * FRAME_SAMPLES]]), leveller)
    assert leveller.gain == 1.0
    np.testing.assert_array_equal(np.concatenate(levelled(audio, leveller)), np.concatenate(frames(audio)))


@pytest.mark.parametrize("db", [-20, -30, -35])
def test_a_quiet_voice_comes_to_the_level_of_talk(db: float) -> None:
    leveller = Leveller()
    heard = levelled(np.concatenate([silence(0.5), quieter(voice(3), db)]), leveller)
    assert max(map(dbfs, heard)) == pytest.approx(LEVEL_DBFS, abs=0.5)
    assert max(np.abs(frame.astype(int)).max() for frame in heard) < 32_000, "nothing is clipped"


@pytest.mark.parametrize(("dbfs_in", "expected_db"), [(-54.9, 29.9), (-55.1, 30.0), (-70.0, 30.0), (-24.9, 0.0)])
def test_the_gain_ends_at_its_limits(dbfs_in: float, expected_db: float) -> None:
    leveller = Leveller()
    levelled(np.concatenate([silence(4 * FRAME_S), sounded(dbfs_in)]), leveller)
    assert 20 * np.log10(leveller.gain) == pytest.approx(expected_db, abs=0.05)
    assert leveller.gain <= 10 ** (GAIN_DB_MAX / 20)


@pytest.mark.parametrize(("contrast_db", "raised"), [(CONTRAST_DB - 0.3, False), (CONTRAST_DB + 0.3, True)])
def test_only_what_stands_out_is_raised(contrast_db: float, raised: bool) -> None:
    leveller = Leveller()
    levelled(np.concatenate([sounded(-60), sounded(-60 + contrast_db)]), leveller)
    assert (leveller.gain > 1.0) is raised


@pytest.mark.parametrize(
    "quiet",
    [silence(6), noise(6, -50), noise(6, -80), tone(6, 50, -45)],
    ids=["silence", "room", "hiss", "hum"],
)
def test_rooms_in_which_nobody_speaks_stay_as_they_are(quiet: Pcm16) -> None:
    np.testing.assert_array_equal(np.concatenate(levelled(quiet)), np.concatenate(frames(quiet)))


@pytest.mark.parametrize("offset", [500, -3_000, 6_000])
@pytest.mark.parametrize("db", [0, -30])
def test_an_offset_is_no_level_and_is_taken_off(offset: int, db: float) -> None:
    centred = quieter(np.concatenate([noise(1, -60), voice(4)]), db)
    plain, shifted = Leveller(), Leveller()
    expected = np.concatenate(levelled(centred, plain))
    heard = np.concatenate(levelled(centred + np.int16(offset), shifted))
    assert shifted.gain == plain.gain
    mean = np.mean(np.concatenate(frames(centred))[-LOOK_FRAMES * FRAME_SAMPLES :])
    assert shifted.offset == pytest.approx(mean + offset, abs=1)
    assert abs(heard[-32_000:].mean()) < 200
    talk = expected[-32_000:].astype(float)
    assert np.corrcoef(heard[-32_000:], talk)[0, 1] > 0.999


def test_an_offset_counts_from_a_sixteenth_of_the_level_on() -> None:
    loud = tone(LOOK_FRAMES * FRAME_S, 1_000, -20)  # RMS 3,277
    for offset, counts in ((200, False), (210, True)):
        leveller = Leveller()
        levelled(loud + np.int16(offset), leveller)
        assert (leveller.offset > 0) is counts


def test_an_offset_is_not_judged_by_half_a_wave() -> None:
    """A slow swing begins on one side; after half a second it is known for what it is."""
    leveller = Leveller()
    for number, frame in enumerate(frames(tone(4, 11, -20)), 1):
        heard = leveller.take(frame)
        if number < OFFSET_FRAMES_MIN:
            assert heard is frame


def test_a_louder_frame_lowers_the_gain_before_it_is_heard() -> None:
    leveller = Leveller()
    levelled(np.concatenate([silence(4 * FRAME_S), sounded(-50)]), leveller)
    assert leveller.gain > 10
    loud = sounded(-12)
    np.testing.assert_array_equal(leveller.take(loud), loud)


def test_a_louder_frame_with_an_offset_is_not_raised_at_its_beginning() -> None:
    leveller = Leveller()
    levelled(np.concatenate([noise(1, -70), quieter(voice(2), -30)]) + np.int16(400), leveller)
    assert leveller.gain > 10
    assert leveller.offset > 300
    loud = sounded(-12) + np.int16(400)
    heard = leveller.take(loud)
    assert leveller.gain == 1.0
    assert np.abs(heard.astype(int) - loud).max() <= 450, "the offset, no gain"


def test_a_softer_frame_raises_it_when_the_last_loud_one_is_four_seconds_old() -> None:
    leveller = Leveller()
    leveller.take(sounded(-30))
    soft = [sounded(-50 - 10 * (number % 2)) for number in range(LOOK_FRAMES)]
    for frame in soft[:-1]:
        leveller.take(frame)
    assert leveller.gain == pytest.approx(10 ** (5 / 20), rel=0.01)
    before = leveller.gain
    raised = leveller.take(soft[-1])
    assert leveller.gain > 3 * before
    ratio = np.abs(raised[-64:].astype(float)).max() / np.abs(raised[:64].astype(float)).max()
    assert ratio > 2, "it rises along the frame, without a step"


def test_audio_from_before_gets_the_present_gain() -> None:
    leveller = Leveller()
    levelled(np.concatenate([silence(4 * FRAME_S), sounded(-50)]), leveller)
    before = quieter(voice(0.3), -40)
    np.testing.assert_array_equal(leveller.at_level(before), np.rint(before * np.float32(leveller.gain)))


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.sampled_from([-90, -60, -45, -30, -20]), st.integers(1, 90), st.sampled_from([0, 0, 900])),
        min_size=4,
        max_size=9,
    ),
    data=st.data(),
)
def test_who_heard_the_frames_it_looks_back_at_goes_on_alike(
    parts: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    audio = np.concatenate([noise(n * FRAME_S, db, seed=n) + np.int16(offset) for db, n, offset in parts])
    whole = levelled(audio)
    at = data.draw(st.integers(0, len(whole)))
    first = max(0, at - LOOK_FRAMES)
    again = levelled(audio[first * FRAME_SAMPLES :])
    for one, other in zip(whole[at:], again[at - first :], strict=True):
        np.testing.assert_array_equal(one, other)


def test_engines_that_want_any_sound_get_it_as_it_is() -> None:
    untouched = leveller_for("sound")
    assert isinstance(untouched, Untouched)
    assert isinstance(leveller_for("speech"), Leveller)
    quiet = sounded(-50)
    assert untouched.take(quiet) is quiet
    assert untouched.at_level(quiet) is quiet
