"""Where a recording is cut into pieces."""

import random
from itertools import pairwise

import numpy as np
import pytest

from streaming.audio.cutting import (
    PIECE_MS_MAX,
    PIECE_MS_MIN,
    PIECE_SAMPLES_MAX,
    SILENCE_MS_MIN,
    Listener,
    Piece,
    cut,
    utterances,
)
from streaming.audio.endpoint import CONVERSATION
from streaming.audio.prepare import Untouched
from streaming.audio.vad import SoundDetector
from streaming.limits import LIMITS
from streaming.model import FRAME_SAMPLES, ms_of, samples_of
from streaming.pipeline import lead_in
from streaming.ports import Pcm16
from tests.fakes.tones import random_sentences, talk

FRAMES = PIECE_SAMPLES_MAX // FRAME_SAMPLES
FIRST = samples_of(PIECE_MS_MIN) // FRAME_SAMPLES
SILENCE = samples_of(SILENCE_MS_MIN) // FRAME_SAMPLES


def frames(*silences: tuple[int, int]) -> list[bool]:
    """Speech, but for [from, to) of each."""
    return [not any(begin <= n < end for begin, end in silences) for n in range(FRAMES)]


def flat(quietest: int = FRAMES) -> list[float]:
    return [1.0 if n == quietest else 100.0 for n in range(FRAMES)]


def test_a_piece_ends_in_the_middle_of_the_longest_silence() -> None:
    assert cut(frames((700, 710), (900, 940), (1_200, 1_220)), flat()) == 920
    assert cut(frames((900, 920), (1_200, 1_220)), flat()) == 910, "of two the first"


def test_silence_before_the_shortest_piece_does_not_count() -> None:
    assert cut(frames((100, 500), (800, 810)), flat()) == 805
    assert cut(frames((FIRST - 50, FIRST + 10), (900, 908)), flat()) == FIRST + 5


def test_a_silence_that_is_cut_off_counts_as_far_as_it_is_known() -> None:
    assert cut(frames((FRAMES - 20, FRAMES)), flat()) == FRAMES - 10
    assert cut(frames((0, FRAMES)), flat()) == FIRST + (FRAMES - FIRST) // 2


def test_without_a_silence_it_ends_at_the_quietest_place_of_the_second_half() -> None:
    assert cut(frames(), flat(1_500)) == 1_501
    assert cut(frames((900, 900 + SILENCE - 1)), flat(1_500)) == 1_501, "too short: inside a word"
    assert cut(frames((900, 900 + SILENCE)), flat(1_500)) == 900 + SILENCE // 2
    assert cut(frames(), flat(FIRST + 1)) > (FIRST + FRAMES) // 2


def test_the_sizes_of_a_piece_are_its_limits() -> None:
    assert (LIMITS.pass_piece_ms_min, LIMITS.pass_piece_ms_max) == (PIECE_MS_MIN, PIECE_MS_MAX)
    assert ms_of(PIECE_SAMPLES_MAX) == PIECE_MS_MAX


def test_utterances_are_cut_by_the_rules_of_live_talk() -> None:
    speech = [False] * 50 + [True] * 100 + [False] * 100 + [True] * 30
    assert [(a // FRAME_SAMPLES, b // FRAME_SAMPLES) for a, b in utterances(speech, CONVERSATION, 0)] == [
        (40, 156),
        (240, 280),
    ]
    assert utterances([False] * 300, CONVERSATION, 0) == ()


def pieces_of(audio: Pcm16, *, begin: int = 0) -> list[Piece]:
    """Each by a listener of its own, as after a crash."""
    found: list[Piece] = []
    at = begin
    while at < len(audio):
        first = lead_in(at)
        heard = audio[first : at + PIECE_SAMPLES_MAX]
        whole = np.concatenate([heard, np.zeros(-len(heard) % FRAME_SAMPLES, np.int16)])
        listener = Listener(
            at, CONVERSATION, SoundDetector(), Untouched(), lead_in_frames=(at - first) // FRAME_SAMPLES
        )
        step = random.Random(at).randrange(1, 60) * FRAME_SAMPLES
        for start in range(0, len(whole), step):
            listener.hear(whole[start : start + step])
        found.append(listener.piece())
        at = found[-1].end_sample
    return found


@pytest.mark.parametrize("seed", range(3))
def test_pieces_hold_all_of_the_audio_and_whole_utterances(seed: int) -> None:
    said = talk(random_sentences(seed, 45, words=(2, 12)), silence_ms=(200, 700, 1_500)[seed])
    pieces = pieces_of(said.audio)
    assert len(pieces) > 2
    assert np.array_equal(np.concatenate([piece.audio for piece in pieces])[: len(said.audio)], said.audio)
    for before, after in pairwise(pieces):
        assert before.end_sample == after.start_sample
        assert PIECE_MS_MIN <= ms_of(len(before.audio)) <= PIECE_MS_MAX
    spans = [span for piece in pieces for span in piece.utterances]
    for sentence in said.sentences:
        for word in sentence:
            inside = [a for a, b in spans if ms_of(a) <= word.start_ms and word.end_ms <= ms_of(b)]
            assert len(inside) == 1, "no word is cut, none is in two utterances"
    again = pieces_of(said.audio, begin=pieces[1].start_sample)
    assert [(p.start_sample, p.utterances) for p in again] == [(p.start_sample, p.utterances) for p in pieces[1:]]


def test_a_detector_hears_what_was_before() -> None:
    heard: list[int] = []

    class Noting:
        def is_speech(self, frame: Pcm16, *, in_speech: bool) -> bool:
            heard.append(len(frame))
            return in_speech

    listener = Listener(FRAME_SAMPLES * 4, CONVERSATION, Noting(), Untouched(), lead_in_frames=4)
    listener.hear(np.zeros(FRAME_SAMPLES * 10, np.int16))
    piece = listener.piece()
    assert len(heard) == 10
    assert (piece.start_sample, len(piece.audio)) == (FRAME_SAMPLES * 4, FRAME_SAMPLES * 6)
