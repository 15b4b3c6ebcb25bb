"""The voice detector against the model's own reference, and the sound detector at its floor."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from streaming.audio import vad
from streaming.audio.endpoint import CONVERSATION, Endpointer, UtteranceBegan
from streaming.audio.vad import REPLAY_FRAMES, Silero, SoundDetector, VoiceDetector
from streaming.model import FRAME_SAMPLES, samples_of
from streaming.ports import Pcm16, SpeechDetector
from tests.unit.streaming.audio.sounds import noise, silence, tone, voice


def frames(audio: Pcm16) -> list[Pcm16]:
    return [audio[at : at + FRAME_SAMPLES] for at in range(0, len(audio) - FRAME_SAMPLES + 1, FRAME_SAMPLES)]


def heard(detector: SpeechDetector, audio: Pcm16, *, in_speech: bool = False) -> list[bool]:
    return [detector.is_speech(frame, in_speech=in_speech) for frame in frames(audio)]


def test_probabilities_are_those_of_the_wheels_reference_model() -> None:
    """The wheel also carries the model as a whole-sequence graph; its own front end (sequence_vad.py) is the recipe."""
    blocks = np.stack(frames(np.concatenate([silence(0.5), voice(1.5), noise(0.5, -30)]))).astype(np.float32) / 32_768
    contexts = np.zeros((len(blocks), 64), np.float32)
    contexts[1:] = blocks[:-1, -64:]
    path = Path(vad._silero()._model_path).with_name("silero_vad_16k_sequence.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    reference = onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    zeros = np.zeros((1, 1, 128), np.float32)
    (expected,) = reference.run(
        ["speech_probs"], {"input": np.concatenate([contexts, blocks], axis=1), "h": zeros, "c": zeros}
    )
    silero = Silero()
    got = [silero.probability((block * 32_768).astype(np.int16)) for block in blocks]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert max(got) > 0.9 > 0.1 > min(got)


def test_the_package_with_torch_is_never_imported() -> None:
    VoiceDetector()
    assert "silero_vad" not in sys.modules
    assert "torch" not in sys.modules


def test_all_streams_share_one_session() -> None:
    assert Silero()._session is Silero()._session


def test_two_streams_do_not_share_state() -> None:
    alone, one, other = VoiceDetector(), VoiceDetector(), VoiceDetector()
    speech = voice(1.0)
    expected = heard(alone, speech)
    mixed = []
    for frame, distraction in zip(frames(speech), frames(noise(1.0, -20)), strict=True):
        mixed.append(one.is_speech(frame, in_speech=False))
        other.is_speech(distraction, in_speech=False)
    assert mixed == expected


class Counting(Silero):
    """Silero that counts its runs."""

    runs = 0

    def probability(self, frame: Pcm16) -> float:
        self.runs += 1
        return super().probability(frame)


def counted() -> tuple[VoiceDetector, Counting]:
    detector, silero = VoiceDetector(), Counting()
    detector._silero = silero
    return detector, silero


@pytest.mark.parametrize("quiet", [silence(4), noise(4, -60), tone(4, 50, -45)], ids=["silence", "noise", "hum"])
def test_silero_rests_while_the_gate_is_shut(quiet: Pcm16) -> None:
    detector, silero = counted()
    assert not any(heard(detector, quiet))
    settled = silero.runs
    assert settled < 40
    assert not any(heard(detector, quiet))
    assert silero.runs <= settled + 5


def test_in_speech_every_frame_is_judged() -> None:
    detector, silero = counted()
    heard(detector, silence(1), in_speech=True)
    assert silero.runs == len(frames(silence(1)))


def test_what_was_skipped_last_is_heard_before_the_judgement() -> None:
    """After a long silence the decision is as if silero had heard its end, and only its end."""
    detector, silero = counted()
    quiet, speech = frames(tone(2, 50, -45)), frames(voice(0.5))
    for frame in quiet:
        detector.is_speech(frame, in_speech=False)
    assert silero.runs == 0
    first = next(i for i, frame in enumerate(speech) if detector.is_speech(frame, in_speech=False) or silero.runs)
    assert silero.runs == REPLAY_FRAMES + 1
    reference = Silero()
    before = [*quiet, *speech[:first]]
    reference.skip(before[-REPLAY_FRAMES - 1])
    for frame in before[-REPLAY_FRAMES:]:
        reference.probability(frame)
    reference.probability(speech[first])
    np.testing.assert_array_equal(silero._state, reference._state)
    np.testing.assert_array_equal(silero._context, reference._context)


def test_after_a_reset_gate_and_model_are_as_new() -> None:
    used, silero = counted()
    heard(used, np.concatenate([noise(2, -15), voice(0.5)]), in_speech=True)
    used.reset()
    silero.runs = 0
    fresh, untouched = counted()
    quiet = noise(1, -40, seed=1)
    assert heard(used, quiet) == heard(fresh, quiet)
    assert silero.runs == untouched.runs > 0
    np.testing.assert_array_equal(silero._state, untouched._state)


def test_hysteresis_goes_on_where_it_would_not_begin() -> None:
    class Doubtful(Silero):
        def probability(self, frame: Pcm16) -> float:
            return 0.4

    detector = VoiceDetector()
    detector._silero = Doubtful()
    speech = voice(0.5)
    assert not any(heard(detector, speech))
    assert all(heard(detector, speech, in_speech=True))


class Scripted(Silero):
    """Says what it was told to say."""

    def __init__(self, said: list[float]) -> None:
        super().__init__()
        self.said = iter(said)

    def probability(self, frame: Pcm16) -> float:
        return next(self.said)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([0.79] * 6, "......"),
        ([0.6, 0.8, 0.6, 0.6, 0.6, 0.6, 0.9], ".####.#"),
        ([0.8, 0.4, 0.6, 0.49, 0.6], "#.#.."),
    ],
)
def test_speech_begins_at_or_right_behind_a_frame_that_is_sure(said: list[float], expected: str) -> None:
    detector = VoiceDetector()
    detector._silero = Scripted(said)
    loud = frames(voice(1.0))[: len(said)]
    assert "".join(".#"[detector.is_speech(frame, in_speech=False)] for frame in loud) == expected


@pytest.mark.parametrize("background_dbfs", [None, -60.0, -45.0])
def test_with_an_endpointer_a_sentence_becomes_one_utterance(background_dbfs: float | None) -> None:
    parts = np.concatenate([silence(2), voice(2), silence(2)])
    audio = parts if background_dbfs is None else parts + noise(6, background_dbfs)
    detector, endpointer = VoiceDetector(), Endpointer(CONVERSATION, 0)
    effects = [
        effect
        for frame in frames(audio)
        for effect in endpointer.step(detector.is_speech(frame, in_speech=endpointer.in_speech))
    ]
    began, ended = effects
    assert isinstance(began, UtteranceBegan)
    assert samples_of(1_500) < began.sample <= samples_of(2_100)
    assert samples_of(3_800) < ended.sample < samples_of(4_600)


@pytest.mark.parametrize(("dbfs", "loud"), [(-44.5, True), (-45.5, False)])
def test_sound_begins_at_its_floor(dbfs: float, loud: bool) -> None:
    assert heard(SoundDetector(), tone(0.5, 1_000, dbfs)) == [loud] * 15


def test_sound_is_exact_to_the_frame_and_has_no_memory() -> None:
    audio = np.concatenate([silence(0.32), tone(0.32, 440, -20), silence(0.32)])
    detector = SoundDetector()
    expected = [False] * 10 + [True] * 10 + [False] * 10
    assert heard(detector, audio) == expected
    assert heard(detector, audio[::-1], in_speech=True) == expected


def test_an_offset_is_no_sound() -> None:
    assert not any(heard(SoundDetector(), np.full(16_000, 8_000, np.int16)))


def test_the_loudest_frame_does_not_overflow() -> None:
    square = np.tile(np.array([32_767, -32_768], np.int16), FRAME_SAMPLES // 2)
    assert SoundDetector(-0.1).is_speech(square, in_speech=False)
