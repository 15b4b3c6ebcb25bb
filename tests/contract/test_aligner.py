"""The contract of `server.jobs.align.Aligner`, through real worker processes: one that finds tone words exactly, and
whisperx with the micro aligner, which is measured against the word times that espeak-ng tells."""

import asyncio
import os
import signal
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soxr

from server.workers.aligner import LocalAligner
from server.workers.calls import CallFailed
from streaming.aio import Scope
from streaming.errors import WorkerLost
from streaming.limits import LIMITS, Limits
from streaming.model import SAMPLE_RATE
from streaming.ports import Pcm16
from tests.fakes import aligner as fake
from tests.fakes.tones import talk
from tests.support.corpus import sentences
from tests.support.espeak import LIBRARY, Espeak
from tests.support.waiting import until

HANG_S = 120.0
"""Importing torch and whisperx takes 16 s on a quiet machine."""
ROOT = Path(__file__).parents[2]
MODELS_PYTHON = ROOT / ".venv-models" / "bin" / "python"
MICRO = ROOT / "tests" / "models" / "micro-aligner"

WORDS = ("alpha", "bravo", "charlie")


class Sample(msgspec.Struct, frozen=True):
    """Words, and where they are in the audio; `exact`: a recogniser of tones finds them to 10 ms."""

    words: tuple[str, ...]
    starts_ms: tuple[int, ...]
    audio: Pcm16


class Subject(msgspec.Struct, frozen=True):
    aligner: LocalAligner
    samples: list[Sample]
    median_ms_max: int


@asynccontextmanager
async def running(aligner: LocalAligner) -> AsyncIterator[LocalAligner]:
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(aligner.run(), name="aligner")
        yield aligner


def toned(words: tuple[str, ...] = WORDS) -> Sample:
    said = talk([words], silence_ms=200)
    return Sample(words, tuple(word.start_ms for word in said.sentences[0]), said.audio)


def voiced(count: int) -> list[Sample]:
    """Sentences by voices that the micro aligner has never heard."""
    machine, texts = Espeak(), sentences(4711)
    samples = []
    for number in range(count):
        spoken = machine.say(next(texts), ("en-us+m4", "en-us+f3", "en-us+m8", "en-us+f5")[number % 4])
        audio = soxr.resample(spoken.samples.astype(np.float32), spoken.rate, SAMPLE_RATE)
        padded = np.concatenate([np.zeros(1_600), audio, np.zeros(1_600)]).astype(np.int16)
        words = [word for word in spoken.words if word.exact]
        if len(words) == len(spoken.words):
            starts = tuple(100 + word.start * 1000 // spoken.rate for word in words)
            samples.append(Sample(tuple(word.text for word in words), starts, padded))
    return samples


def local(folder: Path, languages: str = "en", limits: Limits = LIMITS) -> LocalAligner:
    """The worker of the tests with these languages."""
    model = folder / "languages"
    model.write_text(languages)
    return LocalAligner(fake.interpreter(folder), model=str(model), limits=limits)


@pytest.fixture(params=["tones", "whisperx"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "tones":
        made = Subject(local(tmp_path), [toned(), toned(("one", "two"))], 10)
    else:
        if not MODELS_PYTHON.exists():
            pytest.skip("the models environment is not installed")
        if LIBRARY is None:
            pytest.skip("libespeak-ng is not installed")
        made = Subject(LocalAligner(MODELS_PYTHON, model=str(MICRO), limits=LIMITS), voiced(12), 40)
    async with running(made.aligner):
        await until(lambda: made.aligner.languages)
        yield made


async def test_an_aligner_keeps_its_contract(subject: Subject) -> None:
    """One test, because loading torch takes longer than all of it."""
    aligner = subject.aligner
    assert aligner.languages == ("en",)
    errors_ms = []
    for sample in subject.samples:
        times = await aligner.align("en-US", sample.words, sample.audio)
        assert times is not None
        assert len(times) == len(sample.words)
        edges = [edge for span in times for edge in span]
        assert edges == sorted(edges)
        assert edges[0] >= 0
        assert edges[-1] <= len(sample.audio) * 1000 // SAMPLE_RATE
        errors_ms += [abs(start - true) for (start, _), true in zip(times, sample.starts_ms, strict=True)]
    assert len(errors_ms) > 3
    assert statistics.median(errors_ms) <= subject.median_ms_max
    first = subject.samples[0]
    assert await aligner.align("en", first.words, first.audio[:0]) is None
    assert await aligner.align("en", first.words, first.audio[:8]) is None, "no room for the words"
    assert await aligner.align("en", ("—", "..."), first.audio) is None
    with pytest.raises(WorkerLost):
        await aligner.align("xx", first.words, first.audio)
    again = await asyncio.gather(*(aligner.align("en", s.words, s.audio) for s in subject.samples[:2]))
    assert None not in again


# --- the worker's life ------------------------------------------------------------------------------------------------
async def test_a_worker_that_dies_loses_its_calls_and_comes_back(tmp_path: Path) -> None:
    sample = toned()
    async with running(local(tmp_path)) as aligner:
        await until(lambda: aligner.languages)
        with pytest.raises(WorkerLost):
            await aligner.align("en", [*WORDS, fake.KILLS], sample.audio)
        await until(lambda: aligner.languages)
        assert await aligner.align("en", WORDS, sample.audio)
        assert aligner.pid
        os.kill(aligner.pid, signal.SIGKILL)
        await until(lambda: not aligner.languages)
        with pytest.raises(WorkerLost):
            await aligner.align("en", WORDS, sample.audio)
        await until(lambda: aligner.languages)
        assert await aligner.align("en", WORDS, sample.audio)


async def test_a_worker_that_hangs_is_killed(tmp_path: Path) -> None:
    async with running(local(tmp_path, limits=msgspec.structs.replace(LIMITS, align_stall_ms=300))) as aligner:
        await until(lambda: aligner.languages)
        with pytest.raises(WorkerLost):
            await aligner.align("en", [fake.STALLS], toned().audio)


async def test_a_refused_call_is_not_asked_again_and_the_worker_lives(tmp_path: Path) -> None:
    async with running(local(tmp_path)) as aligner:
        await until(lambda: aligner.languages)
        pid = aligner.pid
        with pytest.raises(CallFailed):
            await aligner.align("en", [fake.FAILS], toned().audio)
        with pytest.raises(CallFailed, match="number of words"):
            await aligner.align("en", [*WORDS, fake.SHORT], toned().audio)
        assert await aligner.align("en", WORDS, toned().audio)
        assert aligner.pid == pid


async def test_without_weights_no_process_is_kept_until_it_looks_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running(local(tmp_path, "")) as aligner:
        await until(lambda: "no alignment weights" in caplog.text and aligner.state == "off")
        assert aligner.languages == ()
        assert aligner.pid is None
        (tmp_path / "languages").write_text("de en")
        aligner.recheck()
        await until(lambda: aligner.languages)
        assert aligner.languages == ("de", "en")
        (tmp_path / "languages").write_text("fr")
        aligner.recheck()
        await until(lambda: aligner.languages == ("fr",))


async def test_an_environment_that_is_not_there_yet_is_no_error(tmp_path: Path) -> None:
    aligner = local(tmp_path)
    (tmp_path / "python").rename(tmp_path / "away")
    async with running(aligner):
        await until(lambda: aligner.state == "off")
        (tmp_path / "away").rename(tmp_path / "python")
        aligner.recheck()
        await until(lambda: aligner.languages)


# --- what weights are here --------------------------------------------------------------------------------------------
async def test_downloaded_weights_are_found_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Caches of torch hub and Hugging Face with files of the right names; whisperx itself says which those are."""
    if not MODELS_PYTHON.exists():
        pytest.skip("the models environment is not installed")
    caplog.set_level("INFO")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    async with running(LocalAligner(MODELS_PYTHON, model=None, limits=LIMITS)) as aligner:
        await until(lambda: "no alignment weights" in caplog.text and aligner.state == "off")
        hub = tmp_path / "torch" / "hub" / "checkpoints"
        hub.mkdir(parents=True)
        (hub / "wav2vec2_fairseq_base_ls960_asr_ls960.pth").touch()
        cached = tmp_path / "huggingface" / "hub" / "models--jonatasgrosman--wav2vec2-large-xlsr-53-dutch"
        snapshot(cached, "config.json", "vocab.json", "model.safetensors")
        partly = cached.with_name("models--jonatasgrosman--wav2vec2-large-xlsr-53-polish")
        snapshot(partly, "config.json")
        aligner.recheck()
        await until(lambda: aligner.languages)
        assert aligner.languages == ("en", "nl")


def snapshot(folder: Path, *names: str) -> None:
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    files = folder / "snapshots" / ("0" * 40)
    files.mkdir(parents=True)
    for name in names:
        (files / name).touch()
