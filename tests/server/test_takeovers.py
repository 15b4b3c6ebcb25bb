"""A stream is taken over by who can run it, or not at all."""

from pathlib import Path

import numpy as np
import pytest

from server.store.pool import Database
from streaming.errors import Unavailable, WorkerLost
from streaming.model import Capabilities
from tests.fakes.recogniser import ToneRecogniser
from tests.fakes.tones import random_sentences, talk
from tests.support.node import Always, Peer, feed_all, node, somebody, texts_of

TWO = [random_sentences(seed, 2, words=(3, 3)) for seed in (82, 83)]
"""Twice two sentences with 700 ms between them: a conversation's two utterances, and one of a lecture."""
TALKS = [talk(pair, silence_ms=700) for pair in TWO]
SAID = talk(random_sentences(81, 2), silence_ms=800)
AUDIO = SAID.audio.tobytes()


class Starting(Always):
    """Whose worker has not said yet what it is."""

    @property
    def capabilities(self) -> Capabilities:
        raise WorkerLost("The recogniser is starting.")


async def test_a_node_whose_engine_is_not_ready_takes_no_stream_from_another(
    database: Database, tmp_path: Path
) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as ready, node(database, tmp_path, ToneRecogniser()) as young:
        young.desk._engines = Starting(ToneRecogniser())
        peer = Peer()
        started = await ready.start(peer, who)
        with pytest.raises(Unavailable):
            await young.resume(Peer(), who, started)
        await ready.watch(peer, who, started.stream.row.room)
        feed_all(started.stream, AUDIO)
        started.stream.stop(len(AUDIO))
        await peer.until(lambda: any(event["event"] == "recording:ended" for event in peer.events))
        assert not peer.failures
        assert await texts_of(database, who, started.stream.recording_id) == SAID.texts


@pytest.mark.parametrize(
    ("options", "texts", "task"),
    [
        ({"preset": "lecture", "task": "translate"}, 2, "translate"),
        ({"preset": "lecture", "endpointing_ms": 600}, 4, "transcribe"),
        ({}, 4, "transcribe"),
    ],
)
async def test_what_was_asked_for_at_the_start_survives_a_takeover(
    database: Database, tmp_path: Path, options: dict[str, object], texts: int, task: str
) -> None:
    who = await somebody(database)
    pause = np.zeros(16_000, np.int16)
    audio = np.concatenate([TALKS[0].audio, pause, TALKS[1].audio, pause]).tobytes()
    half = len(np.concatenate([TALKS[0].audio, pause]).tobytes())
    first = ToneRecogniser(tasks=("transcribe", "translate"))
    second = ToneRecogniser(tasks=("transcribe", "translate"))
    async with node(database, tmp_path, first) as one, node(database, tmp_path, second, name="two") as two:
        old, new = Peer(), Peer()
        started = await one.start(old, who, **options)
        await one.watch(old, who, started.stream.row.room)
        feed_all(started.stream, audio[:half])
        await old.until(lambda: len([e for e in old.events if e["event"] == "transcript:final"]) == texts // 2)
        resumed = await two.resume(new, who, started)
        await two.watch(new, who, resumed.stream.row.room)
        feed_all(resumed.stream, audio, start=resumed.offset)
        resumed.stream.stop(len(audio))
        await new.until(lambda: any(event["event"] == "recording:ended" for event in new.events))
        assert not new.failures
        found = await texts_of(database, who, resumed.stream.recording_id)
    assert " ".join(found).lower() == " ".join(text for said in TALKS for text in said.texts).lower()
    assert len(found) == texts
    assert {spec.task for spec in (*first.specs, *second.specs)} == {task}
    assert second.specs, "the new owner heard something"
