"""Two people talk, and real models tell them apart: PocketSphinx writes, the models environment listens."""

import asyncio
from collections import defaultdict
from pathlib import Path

import pytest

from server.store.pool import Database
from server.workers.diariser import LocalDiariser
from server.workers.local import LocalRecogniser, engine_ref
from streaming.aio import Scope
from streaming.limits import LIMITS
from streaming.model import ms_of
from tests.support.node import Peer, log_of, node, somebody
from tests.support.synth import Voice, needs_espeak, talk
from tests.support.waiting import until

HANG_S = 150.0
"""Importing torch takes 16 s on a quiet machine."""
ROOT = Path(__file__).parents[2]
MODELS_PYTHON = ROOT / ".venv-models" / "bin" / "python"
SENTENCES = (
    "the captain of the ship looked at the sea and waited for the morning",
    "every house along the river had a light in one of its windows",
    "she opened the letter and read it twice before she said a word",
    "the road to the village was long and the evening was cold",
    "he told them that the train would leave at seven and not before",
    "nobody in the room had heard of the garden behind the old wall",
)
VOICES = (Voice("en-us", pitch=28), Voice("en+f3", pitch=68, speed=180))


@needs_espeak
@pytest.mark.skipif(not MODELS_PYTHON.exists(), reason="there is no models environment: .venv-models")
async def test_two_voices_have_two_labels_that_stay(database: Database, tmp_path: Path) -> None:
    speech = talk(SENTENCES, VOICES)
    audio = speech.audio.tobytes()
    who = await somebody(database)
    recogniser = LocalRecogniser(engine_ref("pocketsphinx"), command=None, limits=LIMITS)
    diariser = LocalDiariser(MODELS_PYTHON, limits=LIMITS, nice=0)
    async with asyncio.timeout(HANG_S), Scope("workers") as scope:
        scope.spawn(recogniser.run(), name="recogniser")
        scope.spawn(diariser.run(), name="diariser")
        await recogniser.ready()
        await until(lambda: diariser.info is not None or diariser.state == "off")
        if diariser.info is None:
            pytest.skip("the models environment has no weights to tell speakers apart")
        async with node(database, tmp_path, recogniser, limits=LIMITS, diariser=diariser) as one:
            peer = Peer()
            stream = (await one.start(peer, who)).stream
            await one.watch(peer, who, stream.row.room)
            assert stream.listener is not None
            for at in range(0, len(audio), 3_200):
                stream.chunk(at, audio[at : at + 3_200])
                while stream._pipeline.progress.processed_sample < at // 2 - 16_000 or stream.listener.lag_ms > 1_500:
                    await asyncio.sleep(0.005)
            stream.stop(len(audio))
            await peer.until(lambda: any(event["event"] == "recording:ended" for event in peer.events))
            while not stream.listener._over:
                await asyncio.sleep(0.05)
            assert one.speakers is not None
            await one.speakers._queue.join()
        log = await log_of(database, who, stream.row.room)
    said: dict[str, tuple[int, int, str | None]] = {}
    for event in log:
        segments = [event.body] if event.event == "transcript:final" else event.body.get("segments", [])
        said |= {each["segment_id"]: (each["start_ms"], each["end_ms"], each["speaker"]) for each in segments}
    by_voice: dict[int, set[str | None]] = defaultdict(set)
    for number, (_, start, end) in enumerate(speech.sentences):
        middle = ms_of((start + end) // 2)
        by_voice[number % 2] |= {label for a, b, label in said.values() if a <= middle < b}
    assert sorted(map(len, by_voice.values())) == [1, 1], f"each voice has one label: {dict(by_voice)}"
    assert by_voice[0] != by_voice[1]
    assert None not in by_voice[0] | by_voice[1]
