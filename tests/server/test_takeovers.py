"""A stream is taken over by who can run it, or not at all."""

from pathlib import Path

import pytest

from server.store.pool import Database
from streaming.errors import Unavailable, WorkerLost
from streaming.model import Capabilities
from tests.fakes.recogniser import ToneRecogniser
from tests.fakes.tones import random_sentences, talk
from tests.support.node import Always, Peer, feed_all, node, somebody, texts_of

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
