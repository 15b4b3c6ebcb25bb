"""What every `SpeechDetector` promises, on both adapters."""

import numpy as np
import pytest

from streaming.audio.vad import detector_for
from streaming.model import FRAME_SAMPLES
from streaming.ports import Pcm16, SpeechDetector
from tests.unit.streaming.audio.sounds import noise, silence, voice


@pytest.fixture(params=["speech", "sound"])
def activity(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def detector(activity: str) -> SpeechDetector:
    return detector_for(activity)


def heard(detector: SpeechDetector, audio: Pcm16, *, in_speech: bool = False) -> list[bool]:
    return [
        detector.is_speech(audio[at : at + FRAME_SAMPLES], in_speech=in_speech)
        for at in range(0, len(audio) - FRAME_SAMPLES + 1, FRAME_SAMPLES)
    ]


def test_a_voice_is_speech(detector: SpeechDetector) -> None:
    answers = heard(detector, voice(2.0))
    assert sum(answers) > 0.8 * len(answers)


@pytest.mark.parametrize("quiet", [silence(2), noise(2, -65)], ids=["silence", "room"])
@pytest.mark.parametrize("in_speech", [False, True])
def test_quiet_is_not(detector: SpeechDetector, quiet: Pcm16, in_speech: bool) -> None:
    assert not any(heard(detector, quiet, in_speech=in_speech)[5:])


def test_a_voice_that_stops_is_heard_to_stop(detector: SpeechDetector) -> None:
    answers = heard(detector, np.concatenate([voice(1.0), silence(1.0)]), in_speech=True)
    assert not any(answers[-20:])


def test_answers_are_plain_booleans(detector: SpeechDetector) -> None:
    assert {type(answer) for answer in heard(detector, voice(0.5))} == {bool}


def test_reset_forgets_everything(activity: str) -> None:
    used, fresh = detector_for(activity), detector_for(activity)
    heard(used, np.concatenate([noise(1, -20), voice(0.7), silence(0.3)]))
    used.reset()
    speech = np.concatenate([silence(0.3), voice(1.0)])
    assert heard(used, speech) == heard(fresh, speech)


def test_belief_in_speech_only_ever_helps(activity: str) -> None:
    """Hysteresis: what begins speech also continues it, after the same past."""
    audio = voice(1.0, peak=2_000)
    for at in range(0, 10 * FRAME_SAMPLES, FRAME_SAMPLES):
        doubting, believing = detector_for(activity), detector_for(activity)
        heard(doubting, audio[:at], in_speech=True)
        heard(believing, audio[:at], in_speech=True)
        frame = audio[at : at + FRAME_SAMPLES]
        assert believing.is_speech(frame, in_speech=True) >= doubting.is_speech(frame, in_speech=False)


def test_the_frame_is_left_as_it_was(detector: SpeechDetector) -> None:
    frame = voice(0.1)[:FRAME_SAMPLES]
    before = frame.copy()
    frame.flags.writeable = False
    detector.is_speech(frame, in_speech=False)
    np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize("shape", [(0,), (FRAME_SAMPLES - 1,), (FRAME_SAMPLES + 1,), (FRAME_SAMPLES, 1)])
def test_other_frame_lengths_are_refused(detector: SpeechDetector, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="512"):
        detector.is_speech(np.zeros(shape, np.int16), in_speech=True)


def test_an_unknown_activity_is_refused() -> None:
    with pytest.raises(ValueError, match="music"):
        detector_for("music")
