"""Whisper through real worker processes and real doors: unseen sentences, dying workers, models that are none."""

import asyncio
import contextlib
import itertools
import logging
import os
import random
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from server.workers.local import LocalRecogniser, engine_ref
from streaming.aio import Scope
from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, Final, Partial, UtteranceSpec
from streaming.ports import Pcm16
from streaming.utterance import Utterance
from tests.support import corpus
from tests.support.process import ServerProcess, running
from tests.support.synth import Speech, Voice, needs_espeak, random_voice, talk
from tests.support.wire import Talk, wired

HANG_S = 60.0
MICRO = Path(__file__).resolve().parents[1] / "models" / "micro-whisper" / "en"
SPEED = 4.0
"""How much faster than life talk is sent: the worker keeps up with 50 times that."""


def recogniser_of(model: Path, engine: str = "") -> LocalRecogniser:
    engine = engine or engine_ref("whisperx")
    return LocalRecogniser(engine, command=None, limits=LIMITS, settings={"PARLANCE_MODEL": str(model)})


@pytest.fixture
async def recogniser() -> AsyncIterator[LocalRecogniser]:
    subject = recogniser_of(MICRO)
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(subject.run(), name="recogniser")
        await subject.ready()
        yield subject


class Live:
    """An utterance under way, fed hop by hop: each hop waits for the partial of the one before."""

    def __init__(self, recogniser: LocalRecogniser) -> None:
        self.partials: list[Partial] = []
        spec = UtteranceSpec("u", 0, "auto")
        self.utterance = Utterance(spec, recogniser=recogniser, on_partial=self.partials.append, limits=LIMITS)
        self._hop = recogniser.capabilities.hop_ms * SAMPLE_RATE // 1000

    async def feed(self, audio: Pcm16) -> None:
        for at in range(0, len(audio), self._hop):
            self.utterance.feed(audio[at : at + self._hop])
            while self.utterance._is_due(self.utterance.samples // self._hop * self._hop):
                await asyncio.sleep(0.001)

    def text(self, final: Final | None) -> str:
        assert final is not None
        end = self.utterance.samples
        segment = self.utterance.builder.finish(final.hypothesis, ordinal=1, end_sample=end)
        assert segment is not None
        for earlier, later in itertools.pairwise(self.partials):
            assert later.stable.startswith(earlier.stable)
        assert segment.text.startswith(self.partials[-1].stable)
        return segment.text


async def recognised(recogniser: LocalRecogniser, audio: Pcm16) -> str:
    live = Live(recogniser)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(live.utterance.run())
        await live.feed(audio)
        live.utterance.end(len(audio))
    return live.text(running.result())


@needs_espeak
class TestWorker:
    async def test_streams_at_once_on_one_model_get_their_own_text(self, recogniser: LocalRecogniser) -> None:
        texts = ["We moved the launch to Friday.", "Is the budget ready?", "Alice found ten tests.", "Thank you Bob."]
        talks = [talk([text], [Voice()]).audio for text in texts]
        assert await asyncio.gather(*(recognised(recogniser, audio) for audio in talks)) == texts
        assert recogniser.restarts == 0

    async def test_a_worker_killed_in_mid_utterance_costs_no_word(self, recogniser: LocalRecogniser) -> None:
        text = "The team will fix the server and test the database."
        audio = talk([text], [Voice()]).audio
        live = Live(recogniser)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(live.utterance.run())
            await live.feed(audio[: len(audio) * 2 // 3])
            assert live.partials[-1].stable
            assert recogniser.pid is not None
            os.kill(recogniser.pid, signal.SIGKILL)
            await live.feed(audio[len(audio) * 2 // 3 :])
            live.utterance.end(len(audio))
        assert live.text(running.result()) == text
        assert recogniser.restarts == 1

    async def test_a_discard_while_decoding_frees_the_place(self, recogniser: LocalRecogniser) -> None:
        audio = talk(["We moved the launch to Friday."], [Voice()]).audio
        for _ in range(recogniser.capabilities.utterances_max + 1):
            decoder = await recogniser.open(UtteranceSpec("u", 0, "en"))
            await decoder.feed(audio)
            asking = asyncio.ensure_future(decoder.partial())
            await asyncio.sleep(0)
            await decoder.discard()
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
        assert await recognised(recogniser, audio) == "We moved the launch to Friday."


class TestStart:
    async def log_of_a_failing_start(self, subject: LocalRecogniser, caplog: pytest.LogCaptureFixture) -> list[str]:
        """What the worker wrote in its first life."""
        caplog.set_level(logging.INFO)
        async with asyncio.timeout(HANG_S), Scope("test") as scope:
            scope.spawn(subject.run(), name="recogniser")
            while subject.restarts < 1:
                await asyncio.sleep(0.01)
        return [str(record.line) for record in caplog.records if hasattr(record, "line")]

    @pytest.mark.parametrize(
        ("files", "sentence"),
        [
            (None, "there is no folder {} with a Whisper model"),
            ([], "{} holds no Whisper model for CTranslate2: model.bin, config.json, tokenizer.json missing"),
        ],
    )
    async def test_a_folder_without_a_model_is_one_clear_sentence(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, files: list[str] | None, sentence: str
    ) -> None:
        folder = tmp_path / "model"
        if files is not None:
            folder.mkdir()
        lines = await self.log_of_a_failing_start(recogniser_of(folder), caplog)
        assert "CRITICAL " + sentence.format(folder) in lines
        assert not any("Traceback" in line for line in lines)

    async def test_an_engine_that_cannot_work_here(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        subject = recogniser_of(tmp_path, "tests.fakes.windows:AbsentEngine")
        assert "CRITICAL there is no model" in await self.log_of_a_failing_start(subject, caplog)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("whisper") / "data", engine="whisperx", model=str(MICRO)) as started:
        yield started


class Score(msgspec.Struct):
    """What a recording's events say about the words that were spoken."""

    said: int = 0
    errors: int = 0
    utterances: int = 0
    stable_words: int = 0
    final_words: int = 0
    """In utterances over 3 s, as `stable_words`."""

    def add(self, speech: Speech, events: list[tuple[str, dict[str, Any]]]) -> None:
        stable: dict[str, str] = {}
        heard: list[str] = []
        for name, event in events:
            if name == "transcript:partial":
                before = stable.get(event["segment_id"], "")
                assert_continues(event["stable"], before)
                stable[event["segment_id"]] = event["stable"]
            elif name == "transcript:final":
                before = stable.get(event["segment_id"], "")
                assert_continues(event["text"], before)
                heard += corpus.plain(event["text"])
                self.utterances += 1
                if event["end_ms"] - event["start_ms"] > 3_000:
                    self.stable_words += len(before.split())
                    self.final_words += len(event["text"].split())
        said = corpus.plain(speech.text)
        self.said += len(said)
        self.errors += corpus.edits(said, heard)


def assert_continues(text: str, stable: str) -> None:
    """Committed text stays, character for character, and ends with a whole word."""
    assert text.startswith(stable)
    assert not stable or text == stable or text[len(stable)] == " "


async def streamed(server: ServerProcess, audio: Pcm16) -> list[tuple[str, dict[str, Any]]]:
    """Events of a recording of `audio`, partials too."""
    account = await server.account(f"w-{uuid.uuid4().hex}")
    async with wired(server.url, account.token) as wire:
        live = Talk(wire, audio.astype("<i2").tobytes())
        await live.start()
        await wire.ok("room:join", {"room": live.room})
        await live.send(speed=SPEED)
        await live.stop()
        return list(wire.events)


@needs_espeak
@pytest.mark.parametrize(
    ("seed", "pauses_ms", "noise_dbfs"), [(31, (900, 1_500), -70.0), (47, (200, 900), -60.0)], ids=["turns", "flow"]
)
async def test_unseen_sentences_through_the_socket(
    server: ServerProcess, seed: int, pauses_ms: tuple[int, int], noise_dbfs: float
) -> None:
    rng = random.Random(seed)
    sentences = corpus.sentences(seed)
    talks = []
    for number in range(4):
        voices = [random_voice(rng) for _ in range(16)] if pauses_ms[0] >= 600 else [random_voice(rng)]
        texts = list(itertools.islice(sentences, 16))
        talks.append(talk(texts, voices, pauses_ms=pauses_ms, noise_dbfs=noise_dbfs, seed=seed + number))
    score = Score()
    for speech, events in zip(talks, await asyncio.gather(*(streamed(server, t.audio) for t in talks)), strict=True):
        score.add(speech, events)
    assert score.errors <= 0.03 * score.said
    assert score.stable_words >= 0.7 * score.final_words > 0
    assert score.utterances == 64 or pauses_ms[0] < 600


async def test_silence_and_noise_give_no_segment(server: ServerProcess) -> None:
    rng = np.random.default_rng(5)
    seconds = [np.zeros(2 * SAMPLE_RATE)]
    for level in (30, 300, 3_000):
        seconds += [level * rng.standard_normal(3 * SAMPLE_RATE), np.zeros(SAMPLE_RATE)]
    events = await streamed(server, np.concatenate(seconds).clip(-32_768, 32_767).astype(np.int16))
    assert not [event for name, event in events if name in ("transcript:partial", "transcript:final")]


@needs_espeak
async def test_a_worker_killed_in_mid_stream_costs_no_word(server: ServerProcess) -> None:
    texts = ["We moved the launch to Friday.", "Is the budget ready?", "Alice found ten tests."]
    speech = talk(texts, [Voice()])
    account = await server.account(f"w-{uuid.uuid4().hex}")
    async with wired(server.url, account.token) as wire:
        live = Talk(wire, speech.audio.astype("<i2").tobytes())
        await live.start()
        await wire.ok("room:join", {"room": live.room})
        await live.send(speech.sentences[1][2] * 2, speed=SPEED)
        await wire.wait("transcript:final", lambda e: e["text"] == texts[0])  # the second sentence is under way
        for worker in server.workers():  # one of them has the stream
            os.kill(worker, signal.SIGKILL)
        await live.send(speed=SPEED)
        await live.stop()
        finals = [event["text"] for event in await live.log() if event["event"] == "transcript:final"]
    assert finals == texts
