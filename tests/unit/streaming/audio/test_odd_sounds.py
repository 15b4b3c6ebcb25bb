"""What no microphone should send, through decoder, leveller, detector and endpointer: nothing raises, utterances are in
order and bounded, and what is heard afterwards is heard."""

from itertools import cycle, islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streaming.audio.decode import decoder_for
from streaming.audio.endpoint import CONVERSATION, DICTATION, LECTURE, Endpointer, EndpointRules, UtteranceBegan
from streaming.audio.prepare import Leveller
from streaming.audio.vad import VoiceDetector
from streaming.model import FRAME_SAMPLES, SAMPLE_RATE, AudioFormat, Encoding, samples_of
from streaming.ports import Pcm16
from tests.support import nonspeech
from tests.unit.streaming.audio.sounds import noise, silence, tone, voice

VOICE = voice(2)
ROOM = noise(3, -70)


def utterances(audio: Pcm16, rules: EndpointRules = CONVERSATION) -> list[tuple[int, int]]:
    """First and past-the-last sample; checks what always holds."""
    leveller, detector, endpointer = Leveller(), VoiceDetector(), Endpointer(rules, 0)
    found: list[tuple[int, int]] = []
    begin = last = 0
    for at in range(0, len(audio) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        frame = leveller.take(audio[at : at + FRAME_SAMPLES])
        assert frame.dtype == np.int16
        assert frame.shape == (FRAME_SAMPLES,)
        for effect in endpointer.step(detector.is_speech(frame, in_speech=endpointer.in_speech)):
            if isinstance(effect, UtteranceBegan):
                begin = effect.sample
                assert begin >= last
            else:
                last = effect.sample
                assert 0 < last - begin <= samples_of(rules.utterance_ms_max)
                found.append((begin, last))
    return found


def decoded(fmt: AudioFormat, data: bytes) -> Pcm16:
    decoder = decoder_for(fmt)
    return np.concatenate([decoder.feed(data), decoder.finish()])


def square(seconds: float, hz: float) -> Pcm16:
    """Full scale, both ends of it."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.where(t * hz % 1 < 0.5, 32_767, -32_768).astype(np.int16)


def by_turns(*sounds: Pcm16, seconds: float) -> Pcm16:
    """A tenth of a second of each, again and again."""
    tenth = SAMPLE_RATE // 10
    return np.concatenate([s[:tenth] for s in islice(cycle(sounds), int(seconds * 10))])


SOUNDS = {
    "square 8 kHz": square(5, 8_000),
    "square 120 Hz": square(5, 120),
    "square 1 Hz": square(5, 1),
    "steps": np.repeat(np.array([0, 20_000, -20_000, 32_767, -32_768] * 5, np.int16), 3_200),
    "loud and quiet by tenths": by_turns(square(1, 200), silence(1), VOICE, seconds=8),
    "lowest": np.full(5 * SAMPLE_RATE, -32_768, np.int16),
    "one impulse": np.pad(np.array([-32_768], np.int16), 4 * SAMPLE_RATE),
    "last bit": np.tile(np.array([0, 1], np.int16), 2 * SAMPLE_RATE),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_odd_sounds_are_bounded_and_talk_behind_them_is_heard(name: str) -> None:
    odd = SOUNDS[name]
    found = utterances(np.concatenate([odd, ROOM, VOICE, ROOM]))
    talk = len(odd) + len(ROOM)
    begin, end = found[-1]
    assert begin <= talk + samples_of(1_000), "silero remembers what it heard"
    assert end >= talk + len(VOICE) - samples_of(100)


def test_a_voice_by_tenths_of_a_second_is_bounded() -> None:
    """Whether it is one, and how soon talk behind it is heard, is silero's affair."""
    utterances(by_turns(VOICE, silence(1), seconds=65))


@pytest.mark.parametrize("rules", [CONVERSATION, DICTATION, LECTURE], ids=["conversation", "dictation", "lecture"])
def test_a_voice_without_end_is_cut_at_the_limit_and_loses_no_sample(rules: EndpointRules) -> None:
    found = utterances(np.tile(VOICE, 45), rules)
    assert len(found) >= 3
    assert all(one[1] == other[0] for one, other in pairwise(found))


def test_a_synthesiser_that_passes_for_a_voice_is_bounded_too() -> None:
    assert utterances(nonspeech.minute("wah", 0))


@pytest.mark.parametrize("rate", [4_000, 192_000])
def test_the_slowest_and_the_fastest_microphone(rate: int) -> None:
    samples = np.interp(np.arange(5 * rate) / rate, np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE, TALK)
    data = np.repeat(samples.astype("<i2"), 8).tobytes()
    assert utterances(decoded(AudioFormat(Encoding.PCM_S16LE, rate, 8), data))


TALK = np.concatenate([ROOM[:24_000], VOICE, ROOM[:24_000]])


def test_floats_that_are_no_numbers_are_silence_to_whoever_listens() -> None:
    floats = (TALK / 32_768).astype("<f4")
    spoilt = floats.copy()
    spoilt[:16_000:2] = np.nan
    spoilt[1:16_000:2] = np.inf
    spoilt[-8_000:] = -np.inf
    fmt = AudioFormat(Encoding.PCM_F32LE, SAMPLE_RATE, 1)
    assert len(utterances(decoded(fmt, spoilt.tobytes()))) == len(utterances(decoded(fmt, floats.tobytes()))) == 1


@settings(max_examples=10, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(st.sampled_from(["voice", "noise", "square", "silence", "hum", "offset"]), st.integers(1, 12)),
        min_size=1,
        max_size=6,
    )
)
def test_any_mixture_is_bounded(pieces: list[tuple[str, int]]) -> None:
    sounds: dict[str, NDArray[np.int16]] = {
        "voice": VOICE,
        "noise": noise(2, -20),
        "square": square(2, 100),
        "silence": silence(2),
        "hum": tone(2, 50, -20),
        "offset": np.full(2 * SAMPLE_RATE, 12_000, np.int16),
    }
    utterances(np.concatenate([sounds[name][: tenths * 1_600] for name, tenths in pieces]))
