"""From the models' numbers to voices, with a speaker model that hears whose block it is."""

from pathlib import Path

import numpy as np
import pytest

from streaming.diariser import decode
from streaming.diariser.decode import BLOCK, FIRST, SETS, SHORT, STEP, Sounds, activity, spans, voices
from streaming.diariser.fbank import BINS, HOP, fbank
from streaming.diariser.matching import vector_of
from streaming.model import SAMPLE_RATE

SAMPLES = 6 * SAMPLE_RATE
FRAMES = (SAMPLES - 991) // STEP + 1
DIM = 8


def active(*said: tuple[int, float, float]) -> decode.Activity:
    """(local speaker, seconds)."""
    out = np.zeros((FRAMES, decode.LOCALS_MAX), bool)
    centres = (FIRST + STEP // 2 + STEP * np.arange(FRAMES)) / SAMPLE_RATE
    for local, start, end in said:
        out[:, local] |= (start <= centres) & (centres < end)
    return out


class Ears:
    """`who` speaks in each block: a person's frames point into a direction of their own."""

    def __init__(self, *said: tuple[int, float, float]) -> None:
        self._who = np.zeros(SAMPLES // BLOCK, int)
        self.calls = 0
        for person, start, end in said:
            self._who[round(start * 10) : round(end * 10)] = person

    def __call__(self, blocks: decode.Blocks) -> Sounds:
        self.calls += 1
        frames = np.repeat(np.eye(DIM)[self._who[blocks]].T, decode.FRAMES_PER_BLOCK, axis=1).astype(np.float32)
        return Sounds(blocks, frames, np.hstack([np.eye(DIM), np.zeros((DIM, DIM))]), np.zeros(DIM))


def person(vector: bytes) -> int:
    return int(vector_of(vector).argmax())


def test_the_likeliest_set_of_speakers_counts() -> None:
    scores = np.full((len(SETS), len(SETS)), -9.0, np.float32)
    np.fill_diagonal(scores, -0.1)
    found = activity(scores)
    assert [tuple(np.flatnonzero(row)) for row in found] == list(SETS)
    assert SETS == ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))


def test_spans_reach_the_window_s_ends_and_leave_out_wavering() -> None:
    assert spans(np.ones(FRAMES, bool), SAMPLES) == ((0, SAMPLES),)
    assert spans(np.zeros(FRAMES, bool), SAMPLES) == ()
    wavering = np.zeros(FRAMES, bool)
    wavering[10:20] = wavering[22:30] = wavering[60:62] = True
    assert spans(wavering, SAMPLES) == ((FIRST + 10 * STEP, FIRST + 30 * STEP),)
    wavering[60 : 60 + -(-SHORT // STEP)] = True
    assert len(spans(wavering, SAMPLES)) == 2


def test_two_speakers_are_two_voices_of_what_each_says_alone() -> None:
    found = voices(active((0, 0.0, 3.0), (1, 2.0, 5.0)), Ears((1, 0, 2), (2, 2, 5)), SAMPLES)
    assert [person(voice.vector) for voice in found] == [1, 2]
    assert [voice.clean_ms for voice in found] == pytest.approx([2_000, 2_000], abs=200)
    assert found[0].spans[0][1] > found[1].spans[0][0], "overlap stays"


def test_one_speaker_of_the_model_who_sounds_like_two_is_two() -> None:
    ears = Ears((1, 0, 2.8), (2, 2.8, 6))
    found = voices(active((0, 0.0, 2.6), (0, 3.0, 6.0)), ears, SAMPLES)
    assert [person(voice.vector) for voice in found] == [1, 2]
    assert [voice.spans for voice in found] == [((0, found[0].spans[0][1]),), ((found[1].spans[0][0], SAMPLES),)]
    assert found[0].spans[0][1] == pytest.approx(2.6 * SAMPLE_RATE, abs=STEP)


def test_two_speakers_of_the_model_who_sound_alike_are_one_unless_they_speak_at_once() -> None:
    ears = Ears((1, 0, 6))
    assert len(voices(active((0, 0.0, 2.0), (1, 2.5, 5.0)), ears, SAMPLES)) == 1
    assert len(voices(active((0, 0.0, 3.0), (1, 2.5, 5.0)), ears, SAMPLES)) == 2


def test_what_is_too_short_or_never_alone_has_no_vector() -> None:
    found = voices(active((0, 0.0, 4.0), (1, 1.0, 2.0), (2, 4.5, 4.75)), Ears((1, 0, 6)), SAMPLES)
    assert [bool(voice.vector) for voice in found] == [True, False, False]
    assert [voice.clean_ms for voice in found][1] == 0


def test_nobody_is_nobody_and_the_speaker_model_is_not_asked() -> None:
    ears = Ears()
    assert voices(active(), ears, SAMPLES) == ()
    assert ears.calls == 0


def test_a_vector_of_blocks_is_that_of_their_frames() -> None:
    """Sums of blocks give the same mean and deviation as the frames themselves."""
    noise = np.random.default_rng(0)
    frames = noise.standard_normal((5, 40)).astype(np.float32)
    weight, bias = noise.standard_normal((3, 10)), noise.standard_normal(3)
    blocks = np.array([True, False, True, True] + [True] * 5 + [False])
    sounds = Sounds(blocks, frames, weight, bias)
    chosen = blocks & np.array([True, True, False] + [True] * 7)
    own = np.repeat(chosen[blocks], decode.FRAMES_PER_BLOCK)
    mean, deviation = frames[:, own].mean(axis=1), frames[:, own].std(axis=1, ddof=1)
    expected = weight @ np.concatenate([mean, deviation]) + bias
    np.testing.assert_allclose(sounds.vector(chosen), expected / np.linalg.norm(expected), atol=1e-5)


# --- features ---------------------------------------------------------------------------------------------------------
def test_features_are_kaldi_s() -> None:
    """Against values of torchaudio.compliance.kaldi.fbank for this signal (dither 0, 80 bins)."""
    at = np.arange(16_000)
    wave = (3_000 * np.sin(2 * np.pi * 440 * at / 16_000) + 50 * np.sin(at**2 / 9_000)).astype(np.float32)
    found = fbank(wave)
    assert found.shape == (98, BINS)
    expected = np.loadtxt(Path(__file__).with_name("fbank.txt"))
    np.testing.assert_allclose(found[[0, 40, 97]][:, ::8], expected, atol=2e-2)


def test_features_of_nothing_are_none() -> None:
    assert fbank(np.zeros(399, np.float32)).shape == (0, BINS)
    assert fbank(np.zeros(400, np.float32)).shape == (1, BINS)
    assert fbank(np.zeros(400 + HOP, np.float32)).shape == (2, BINS)


def test_speakers_who_were_told_apart_already_get_voices_from_what_is_clean() -> None:
    second = SAMPLE_RATE
    ears = Ears((1, 0, 2), (2, 2, 4), (1, 4, 5))
    first, other, short = ((0, 2 * second), (4 * second, 5 * second)), ((second, 4 * second),), ((0, second // 5),)
    found = decode.told([other, first, short], ears, SAMPLES)
    assert [voice.spans for voice in found] == [short, first, other]
    assert [voice.clean_ms for voice in found] == [0, 1_800, 2_000]
    assert [bool(voice.vector) for voice in found] == [False, True, True]
    assert vector_of(found[1].vector)[1] == pytest.approx(1)
    assert vector_of(found[2].vector)[2] == pytest.approx(1)
