"""Where nobody speaks, nobody is heard: rooms, noise, machines and music through detector, endpointer and real engines.

A minute of each kind as a rule, half an hour in the soak. What the detector keeps back reaches no engine, so the second
engine is asked only where something was let through to the first.
"""

import asyncio
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from streaming.ports import Pcm16
from streaming.recogniser.engine import Engine, WindowEngine
from streaming.recogniser.pocketsphinx import PocketSphinxEngine
from streaming.recogniser.whisper import WhisperEngine
from tests.support import nonspeech
from tests.support.inprocess import InProcess, transcribed
from tests.unit.streaming.audio.sounds import noise, voice

MICRO = Path(__file__).resolve().parents[1] / "models" / "micro-whisper" / "en"
pytestmark = pytest.mark.filterwarnings("ignore:start_stream:DeprecationWarning")
SOAK = [pytest.mark.soak, pytest.mark.timeout(3_600)]
MINUTES = [
    *(pytest.param(kind, range(100, 101), id=kind) for kind in nonspeech.KINDS),
    *(pytest.param(kind, range(30), id=f"{kind}-30min", marks=SOAK) for kind in nonspeech.KINDS),
]


@cache
def pocketsphinx() -> Engine:
    engine = PocketSphinxEngine()
    engine.load()
    return engine


@cache
def whisper() -> WindowEngine:
    engine = WhisperEngine(str(MICRO))
    engine.load()
    return engine


def heard(audio: Pcm16) -> tuple[str, float]:
    """Words of both engines, and seconds of audio that reached the first."""
    first = InProcess(pocketsphinx())
    words = asyncio.run(transcribed(audio.tobytes(), first)).texts
    if first.utterances:
        words += asyncio.run(transcribed(audio.tobytes(), InProcess(whisper()))).texts
    return " ".join(words), first.samples / 16_000


@pytest.mark.parametrize(("kind", "numbers"), MINUTES)
def test_nobody_is_heard_where_nobody_speaks(kind: str, numbers: range) -> None:
    words, seconds = heard(np.concatenate([nonspeech.minute(kind, number) for number in numbers]))
    assert words == "", f"{seconds:.1f} s reached an engine"


@pytest.mark.parametrize("factor", [1.0, 0.03], ids=["loud", "quiet"])
def test_a_voice_reaches_the_engines_on_the_same_way(factor: float) -> None:
    room = noise(8, -75)
    room[3 * 16_000 : 5 * 16_000] += (voice(2.0) * factor).astype(np.int16)
    _, seconds = heard(room)
    assert 2 <= seconds < 4


@pytest.mark.parametrize("kind", ["room", "typing", "drums"])
def test_minutes_are_all_different_and_come_again(kind: str) -> None:
    first, again, other = (nonspeech.minute(kind, number) for number in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    quieter = first[nonspeech.MINUTE // 2 :].std() / first[: nonspeech.MINUTE // 2].std()
    assert quieter < 0.1
