"""A recogniser that has no time: new streams are refused in time, whoever comes back is served, and is told of it."""

from pathlib import Path

import pytest

from server.store.pool import Database
from streaming.errors import Overloaded
from streaming.limits import LIMITS
from tests.fakes.recogniser import ToneRecogniser
from tests.fakes.tones import talk
from tests.support.node import Always, Peer, feed_all, node, somebody, texts_of

SAID = talk([["alpha", "bravo"], ["charlie"]], silence_ms=800)
AUDIO = SAID.audio.tobytes()


class Overworked(Always):
    """Has no time while `busy`."""

    busy = False

    def admit(self, tenant_id: str) -> None:
        assert tenant_id
        if self.busy:
            raise Overloaded("No time.", retry_after_ms=LIMITS.overloaded_retry_ms)

    def is_thinned(self, _tenant_id: str) -> bool:
        return self.busy


async def test_only_new_streams_are_refused_and_those_there_are_told(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one:
        engines = Overworked(ToneRecogniser())
        one.desk._engines = engines
        peer, later = Peer(), Peer()
        started = await one.start(peer, who)
        feed_all(started.stream, AUDIO[:32_000])
        await peer.until(lambda: bool(peer.acks))
        assert not any(ack.degraded for ack in peer.acks)
        engines.busy = True
        with pytest.raises(Overloaded) as refused:
            await one.start(Peer(), who)
        assert refused.value.retry_after_ms == LIMITS.overloaded_retry_ms
        assert not one.desk._starting, "a refusal keeps no place"
        again = await one.resume(later, who, started)
        await one.watch(later, who, again.stream.row.room)
        feed_all(again.stream, AUDIO, start=again.offset)
        await later.until(lambda: any(ack.degraded for ack in later.acks))
        again.stream.stop(len(AUDIO))
        await later.until(lambda: any(event["event"] == "recording:ended" for event in later.events))
        assert await texts_of(database, who, again.stream.recording_id) == SAID.texts
        engines.busy = False
        assert await one.start(Peer(), who)
