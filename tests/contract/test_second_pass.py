"""The contract of `server.jobs.pieces.Transcriber`: WhisperX in the models environment with the micro Whisper, in a
real worker process, and the recogniser of live talk."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from server.workers.calls import CallFailed
from server.workers.passes import RecogniserReader, Wanted, WhisperXReader
from streaming.aio import Scope
from streaming.audio.cutting import PIECE_SAMPLES_MAX, Listener, Piece
from streaming.audio.endpoint import CONVERSATION, within
from streaming.audio.prepare import leveller_for
from streaming.audio.vad import detector_for
from streaming.errors import WorkerLost
from streaming.limits import LIMITS, Limits
from streaming.model import FRAME_SAMPLES, Capabilities, ms_of
from streaming.ports import Pcm16
from streaming.transcript.merge import Spoken
from tests.fakes.recogniser import Call, Losing, ToneRecogniser
from tests.fakes.tones import random_sentences
from tests.fakes.tones import talk as tone_talk
from tests.support import corpus
from tests.support.models import ENGLISH
from tests.support.synth import Voice, needs_espeak, talk
from tests.support.waiting import until

HANG_S = 170.0
"""Importing torch and whisperx takes 16 s on a quiet machine, at the lowest priority."""
MODELS_PYTHON = Path(__file__).parents[2] / ".venv-models" / "bin" / "python"
SEED = 31


def piece_of(audio: Pcm16, activity: str, utterance_ms_max: int) -> Piece:
    rules = within(CONVERSATION, utterance_ms_max)
    listener = Listener(0, rules, detector_for(activity), leveller_for(activity), lead_in_frames=0)
    listener.hear(audio[: min(len(audio), PIECE_SAMPLES_MAX) // FRAME_SAMPLES * FRAME_SAMPLES])
    return listener.piece()


def wanted(piece: Piece, *, language: str = "en") -> Wanted:
    return Wanted(piece, piece.utterances, language, (), "transcribe", "acme")


def check(spoken: tuple[Spoken, ...], piece: Piece) -> list[str]:
    """What holds of every reading; its words."""
    edges = [edge for each in spoken for edge in (each.start_ms, each.end_ms)]
    assert edges == sorted(edges), "utterances in order"
    for each in spoken:
        times = [time for word in each.words for time in (word.start_ms, word.end_ms)]
        assert times == sorted(times)
        assert all(each.start_ms <= time <= each.end_ms for time in times)
        assert all(0 <= word.p <= 1 for word in each.words)
    assert not spoken or edges[-1] <= ms_of(piece.end_sample)
    return [word.text for each in spoken for word in each.words]


class Bench:
    """The part of `Engines` that `RecogniserReader` needs, on a recogniser of the tests."""

    def __init__(self, recogniser: ToneRecogniser) -> None:
        self.recogniser = recogniser
        self.idle = True
        self.leases = 0

    @property
    def capabilities(self) -> Capabilities:
        return self.recogniser.capabilities

    def lease(self, *, remote: str) -> "Bench":
        assert not remote
        self.leases += 1
        return self

    def release(self) -> None:
        self.leases -= 1


@asynccontextmanager
async def running(reader: WhisperXReader) -> AsyncIterator[None]:
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(reader.run(), name="reader")
        yield


def whisperx(limits: Limits = LIMITS, python: Path = MODELS_PYTHON) -> WhisperXReader:
    return WhisperXReader(
        python, model=lambda: ENGLISH, align_model=None, device="cpu", compute_type="auto", limits=limits
    )


@needs_espeak
@pytest.mark.skipif(not MODELS_PYTHON.exists(), reason="the models environment is not installed")
@pytest.mark.timeout(HANG_S + 10)
async def test_whisperx_reads_a_piece() -> None:
    """One test, because loading torch takes longer than all of it."""
    texts = [text for text, _ in zip(corpus.sentences(SEED), range(9), strict=False)]
    voices = [Voice(f"en-us{variant}", 160, 50) for variant in ("+m4", "+f3", "+m8")]
    said = talk(texts, voices)
    reader = whisperx(msgspec.structs.replace(LIMITS, pass_idle_ms=500))
    assert reader.here
    assert reader.improves("whisperx")
    piece = piece_of(said.audio, *reader.capabilities)
    assert len(piece.utterances) > 2
    async with running(reader):
        assert reader.pid is None, "there is no worker before there is work"
        spoken = await reader.transcribe(wanted(piece))
        words = check(spoken, piece)
        assert all(each.trusted for each in spoken)
        errors = corpus.edits(corpus.plain(said.text), corpus.plain(" ".join(words)))
        assert errors <= 0.05 * len(corpus.plain(said.text))
        starts = {word.text.strip(".,?!").lower(): word.start_ms for each in spoken for word in each.words}
        assert len(starts) > 5
        pid = reader.pid
        assert pid is not None
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE, "it gets what nobody else wants"
        assert await reader.transcribe(wanted(piece, language="auto")) == spoken, "equal audio gives equal words"
        bad = msgspec.structs.replace(wanted(piece), utterances=((0, len(piece.audio) + 1),))
        with pytest.raises(CallFailed):
            await reader.transcribe(bad)
        quiet = msgspec.structs.replace(piece, audio=np.zeros(FRAME_SAMPLES, np.int16), utterances=())
        assert await reader.transcribe(wanted(quiet)) == ()
        asking = asyncio.ensure_future(reader.transcribe(wanted(piece)))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(WorkerLost):
            assert await asking == spoken
        await until(lambda: reader.pid is None)  # it ends when nobody asks for a while
    assert not Path(f"/proc/{pid}").exists()


async def test_a_worker_that_does_not_start_is_given_up(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o700)
    reader = whisperx(msgspec.structs.replace(LIMITS, worker_restart_ms_max=100), python)
    piece = Piece(0, np.zeros(FRAME_SAMPLES, np.int16), ())
    async with running(reader):
        with pytest.raises(Exception, match="does not start"):
            await reader.transcribe(wanted(piece))
        assert not reader.here


async def test_the_recogniser_of_live_talk_reads_a_piece() -> None:
    said = tone_talk(random_sentences(4, 8), silence_ms=900)
    bench = Bench(ToneRecogniser(languages=("en",)))
    reader = RecogniserReader(bench, LIMITS)
    piece = piece_of(said.audio, *reader.capabilities)
    spoken = await reader.transcribe(wanted(piece, language="auto"))
    assert " ".join(check(spoken, piece)) == " ".join(said.texts)
    assert {spec.language for spec in bench.recogniser.specs} == {"en"}
    assert bench.leases == 0
    assert not bench.recogniser.unended
    assert not reader.improves(bench.capabilities.name), "what it heard before is no better now"
    assert reader.improves("pocketsphinx")


async def test_it_waits_while_somebody_speaks() -> None:
    said = tone_talk(random_sentences(4, 2))
    bench = Bench(ToneRecogniser())
    bench.idle = False
    reader = RecogniserReader(bench, LIMITS)
    piece = piece_of(said.audio, *reader.capabilities)
    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
        task: Any = group.create_task(reader.transcribe(wanted(piece)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not bench.recogniser.specs
        bench.idle = True
        assert check(await task, piece)


async def test_audio_that_kills_its_decoder_is_left_as_it_is() -> None:
    said = tone_talk(random_sentences(4, 2))
    losing = Losing(Call.FINAL, range(2))
    bench = Bench(ToneRecogniser(losing))
    reader = RecogniserReader(bench, LIMITS)
    piece = piece_of(said.audio, *reader.capabilities)
    first, second = await reader.transcribe(wanted(piece))
    assert (first.words, first.trusted) == ((), False)
    assert losing.losses == 2, "fewer than live talk may cost"
    assert " ".join(word.text for word in second.words) == said.texts[1]
