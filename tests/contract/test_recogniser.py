"""The contract of `streaming.ports.Recogniser`, on every engine, through real worker processes.

The tone engines hear exactly, and the micro Whisper hears sentences of its words, so their suite compares words; all
others listen to a synthetic voice and are asked only for words that come and lie inside the audio."""

import asyncio
import subprocess
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soxr

from server.workers.local import LocalRecogniser, engine_ref
from streaming.aio import Scope
from streaming.errors import WorkerLost
from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, Final, Hypothesis, UtteranceSpec, ms_of
from streaming.ports import Pcm16, Recogniser
from tests.fakes import tones
from tests.support import synth

MICRO = Path(__file__).resolve().parents[1] / "models" / "micro-whisper" / "en"
HANG_S = 60.0
PIECE = 1_600


class Subject(msgspec.Struct, frozen=True):
    """A running recogniser and a sentence that it understands."""

    recogniser: LocalRecogniser
    audio: Pcm16
    exact: tuple[str, ...] | None


def spec(start_sample: int = 0, context: bytes = b"") -> UtteranceSpec:
    return UtteranceSpec("utterance", start_sample, "en", context=context)


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Pcm16:
    """A synthetic English sentence, 16 kHz mono, exactly as the program speaks it."""
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    command = [str(synth.PROGRAM), "-v", "en-us", "-s", "140", "-w", str(path), "go forward ten meters"]
    subprocess.run(command, check=True)
    with wave.open(str(path)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), np.int16)


@pytest.fixture(params=["tones", "window tones", "pocketsphinx", "whisperx"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    settings: dict[str, str] = {}
    exact: tuple[str, ...] | None = None
    if "tones" in request.param:
        windows = request.param == "window tones"
        engine = "tests.fakes.windows:WindowToneEngine" if windows else "tests.fakes.tones:NarrowToneEngine"
        exact = ("alpha", "bravo", "charlie", "delta")
        audio = tones.talk([exact], silence_ms=300).audio
    elif synth.PROGRAM is None:
        pytest.skip("espeak-ng is not installed")
    elif request.param == "pocketsphinx":
        engine = engine_ref("pocketsphinx")
        audio = request.getfixturevalue("voice")
    else:
        engine, settings = engine_ref("whisperx"), {"PARLANCE_MODEL": str(MICRO)}
        exact = ("We", "moved", "the", "launch", "to", "Friday.")
        audio = synth.talk([" ".join(exact)], [synth.Voice()]).audio
    recogniser = LocalRecogniser(engine, command=None, limits=LIMITS, settings=settings)
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(recogniser.run(), name="recogniser")
        await recogniser.ready()
        yield Subject(recogniser, audio, exact)


async def hear(recogniser: Recogniser, audio: Pcm16, *, start_sample: int = 0, context: bytes = b"") -> Final:
    decoder = await recogniser.open(spec(start_sample, context))
    for at in range(0, len(audio), PIECE):
        await decoder.feed(audio[at : at + PIECE])
    return await decoder.final()


def check_words(hypothesis: Hypothesis, audio: Pcm16, start_sample: int) -> None:
    """Words in order, inside the audio, on the recording's clock."""
    low, high = ms_of(start_sample), ms_of(start_sample + len(audio))
    for before, after in zip(hypothesis.words, hypothesis.words[1:], strict=False):
        assert before.start_ms <= after.start_ms
    for word in hypothesis.words:
        assert low <= word.start_ms < word.end_ms <= high
        assert 0.0 <= word.p <= 1.0
        assert word.text == word.text.strip() != ""
        assert not set(word.text) & set("<>[]+()")


async def test_a_final_holds_the_words_on_the_recordings_clock(subject: Subject) -> None:
    start_sample = 5 * SAMPLE_RATE
    final = await hear(subject.recogniser, subject.audio, start_sample=start_sample)
    assert final.hypothesis.until_sample == start_sample + len(subject.audio)
    assert final.hypothesis.words
    check_words(final.hypothesis, subject.audio, start_sample)
    if subject.exact:
        assert tuple(word.text for word in final.hypothesis.words) == subject.exact


async def test_a_partial_covers_exactly_what_was_fed_before(subject: Subject) -> None:
    decoder = await subject.recogniser.open(spec())
    half = len(subject.audio) // 2
    await decoder.feed(subject.audio[:half])
    early = await decoder.partial()
    await decoder.feed(subject.audio[half:])
    late = await decoder.partial()
    assert (early.until_sample, late.until_sample) == (half, len(subject.audio))
    assert 0 < len(early.words) < len(late.words)
    check_words(early, subject.audio[:half], 0)
    final = await decoder.final()
    assert final.hypothesis.until_sample == len(subject.audio)


async def test_the_result_depends_on_the_samples_not_on_their_pieces(subject: Subject) -> None:
    whole = await hear(subject.recogniser, subject.audio)
    decoder = await subject.recogniser.open(spec())
    at = 0
    for size in (0, 1, 7, 333, 4_096, len(subject.audio)):
        await decoder.feed(subject.audio[at : at + size])
        at += size
    assert (await decoder.final()).hypothesis == whole.hypothesis


async def test_an_utterance_does_not_depend_on_the_one_before_in_its_process(subject: Subject) -> None:
    expected = await hear(subject.recogniser, subject.audio)
    noise = np.random.default_rng(1).integers(-32_768, 32_767, 2 * SAMPLE_RATE).astype(np.int16)
    for _ in range(3):  # whichever process comes next has heard noise before
        await hear(subject.recogniser, noise)
    assert await hear(subject.recogniser, subject.audio) == expected


async def test_a_context_comes_back_and_a_foreign_one_is_ignored(subject: Subject) -> None:
    plain = await hear(subject.recogniser, subject.audio)
    assert bool(plain.context) is (subject.recogniser.capabilities.name != "whisperx"), "a window needs no state"
    following = await hear(subject.recogniser, subject.audio, context=plain.context)
    assert (following.context != plain.context) is bool(plain.context)
    for foreign in (b"\xff\x00", b"nan,1", b"1" * 10_000, b"{}"):
        assert (await hear(subject.recogniser, subject.audio, context=foreign)).hypothesis == plain.hypothesis


@pytest.mark.parametrize("kind", ["nothing", "one sample", "silence", "noise", "full scale"])
async def test_odd_audio_gives_a_valid_answer(subject: Subject, kind: str) -> None:
    audio = {
        "nothing": np.empty(0, np.int16),
        "one sample": np.ones(1, np.int16),
        "silence": np.zeros(SAMPLE_RATE, np.int16),
        "noise": np.random.default_rng(2).integers(-32_768, 32_767, SAMPLE_RATE).astype(np.int16),
        "full scale": np.full(SAMPLE_RATE, -32_768, np.int16),
    }[kind]
    final = await hear(subject.recogniser, audio)
    assert final.hypothesis.until_sample == len(audio)
    check_words(final.hypothesis, audio, 0)


async def test_the_longest_utterance_is_taken_in_one_piece(subject: Subject) -> None:
    audio = np.resize(subject.audio, LIMITS.utterance_ms_max * SAMPLE_RATE // 1000)
    decoder = await subject.recogniser.open(spec())
    await decoder.feed(audio)
    final = await decoder.final()
    assert final.hypothesis.until_sample == len(audio)
    check_words(final.hypothesis, audio, 0)


async def test_more_utterances_than_places_all_come_to_their_end(subject: Subject) -> None:
    audio = subject.audio[:SAMPLE_RATE]
    expected = await hear(subject.recogniser, audio)
    assert expected.hypothesis.words
    count = 2 * subject.recogniser.capabilities.utterances_max + 1
    finals = await asyncio.gather(*(hear(subject.recogniser, audio) for _ in range(count)))
    assert finals == [expected] * count


async def test_a_discard_is_idempotent_and_frees_the_place(subject: Subject) -> None:
    for _ in range(subject.recogniser.capabilities.utterances_max + 1):
        decoder = await subject.recogniser.open(spec())
        await decoder.feed(subject.audio)
        await decoder.discard()
        await decoder.discard()
        with pytest.raises(RuntimeError):
            await decoder.partial()


async def test_the_capabilities_are_data(subject: Subject) -> None:
    capabilities = subject.recogniser.capabilities
    assert capabilities.activity in ("speech", "sound")
    assert capabilities.utterance_ms_max <= LIMITS.utterance_ms_max
    assert capabilities.utterances_max > 0
    assert capabilities.hop_ms > 0
    assert capabilities.agreement >= 0
    if capabilities.name == "pocketsphinx":
        assert capabilities.languages == ("en",)
        assert "not Whisper" in (capabilities.notice or "")


async def test_without_a_worker_it_says_so_at_once() -> None:
    recogniser = LocalRecogniser(engine_ref("pocketsphinx"), command=None, limits=LIMITS)
    with pytest.raises(WorkerLost):
        await recogniser.open(spec())
    with pytest.raises(WorkerLost):
        _ = recogniser.capabilities
