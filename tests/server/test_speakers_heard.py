"""Two people talk, and real models tell them apart: PocketSphinx writes, the models environment listens."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from auth.model import Identity
from server.store import feed, speakers, voices
from server.store.pool import Database
from server.workers.diariser import LocalDiariser
from server.workers.local import LocalRecogniser, engine_ref
from streaming.aio import Scope
from streaming.limits import LIMITS
from streaming.model import ms_of
from tests.support.node import Node, Peer, log_of, node, somebody
from tests.support.synth import Speech, Voice, needs_espeak, talk
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


LATER = (
    "in the evening they went back to the house and closed all the windows",
    "the train was late and the captain had to wait in the cold",
    "he had read the letter before and did not want to hear of it",
    "a light was seen behind the wall but nobody went to look",
    "the morning was long and the road along the sea was empty",
    "she told him that the garden would be open in the afternoon",
)


@asynccontextmanager
async def listening(database: Database, folder: Path) -> AsyncIterator[Node]:
    """A node whose captions and speakers come from real models."""
    recogniser = LocalRecogniser(engine_ref("pocketsphinx"), command=None, limits=LIMITS)
    diariser = LocalDiariser(MODELS_PYTHON, limits=LIMITS, nice=0)
    async with asyncio.timeout(HANG_S), Scope("workers") as scope:
        scope.spawn(recogniser.run(), name="recogniser")
        scope.spawn(diariser.run(), name="diariser")
        await recogniser.ready()
        await until(lambda: diariser.info is not None or diariser.state == "off")
        if diariser.info is None:
            pytest.skip("the models environment has no weights to tell speakers apart")
        async with node(database, folder, recogniser, limits=LIMITS, diariser=diariser) as one:
            yield one


async def record(one: Node, database: Database, who: Identity, speech: Speech) -> tuple[str, list[feed.Event]]:
    """The recording's id, and its log when its speakers are told."""
    audio = speech.audio.tobytes()
    peer = Peer()
    stream = (await one.start(peer, who)).stream
    await one.watch(peer, who, stream.row.room)
    listener = stream.listener
    assert listener is not None
    for at in range(0, len(audio), 3_200):
        stream.chunk(at, audio[at : at + 3_200])
        while stream._pipeline.progress.processed_sample < at // 2 - 16_000 or listener.lag_ms > 1_500:
            await asyncio.sleep(0.005)
    stream.stop(len(audio))
    await peer.until(lambda: any(event["event"] == "recording:ended" for event in peer.events))
    await until(lambda: listener._over)
    assert one.speakers is not None
    await one.speakers._queue.join()
    return stream.row.recording_id, await log_of(database, who, stream.row.room)


def labels(log: Sequence[feed.Event], speech: Speech) -> dict[int, str]:
    """The one label of each voice."""
    said: dict[str, tuple[int, int, str | None]] = {}
    for event in log:
        segments = [event.body] if event.event == "transcript:final" else event.body.get("segments", [])
        said |= {each["segment_id"]: (each["start_ms"], each["end_ms"], each["speaker"]) for each in segments}
    by_voice: dict[int, set[str | None]] = defaultdict(set)
    for number, (_, start, end) in enumerate(speech.sentences):
        middle = ms_of((start + end) // 2)
        by_voice[number % 2] |= {label for a, b, label in said.values() if a <= middle < b}
    assert sorted(map(len, by_voice.values())) == [1, 1], f"each voice has one label: {dict(by_voice)}"
    found = {voice: label for voice, (label,) in by_voice.items() if label is not None}
    assert len(set(found.values())) == 2
    return found


@needs_espeak
@pytest.mark.skipif(not MODELS_PYTHON.exists(), reason="there is no models environment: .venv-models")
async def test_two_voices_have_two_labels_that_stay_and_are_known_again_when_enrolled(
    database: Database, tmp_path: Path
) -> None:
    who = await somebody(database)
    first, second = talk(SENTENCES, VOICES), talk(LATER, VOICES[::-1], seed=1)
    async with listening(database, tmp_path) as one:
        name, log = await record(one, database, who, first)
        label = labels(log, first)[1]
        async with database.tenant_tx(who.tenant_id) as connection:
            voice, _ = await voices.enrol(
                connection, who.tenant_id, name, label, "Bea", by=who.user_id, at_ms=1, limits=LIMITS
            )
        later, log = await record(one, database, who, second)
        async with database.tenant_tx(who.tenant_id) as connection:
            people = await speakers.of_recording(connection, who.tenant_id, later)
    found = labels(log, second)
    called = [(event.body["speaker"], event.body["name"]) for event in log if event.event == "speaker:renamed"]
    assert called == [(found[0], "Bea")], "the voice that speaks first now, and nobody else"
    assert {each.label: each.voice_id for each in people} == {found[0]: voice.voice_id, found[1]: None}
