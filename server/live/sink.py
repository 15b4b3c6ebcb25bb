"""Where a pipeline's captions go: partials to the room, finals through the committer.

One per pipeline run. After its stream was taken over nothing leaves it: partials are dropped, finals are `Fenced`.
While it is in doubt whether the stream is still ours, partials are dropped too.
"""

import time

import msgspec

from server.rooms.hub import Hub
from server.store.commits import Committer
from server.store.segments import FinalWrite, wire_word
from server.telemetry import METRICS
from streaming.model import Partial, Segment


class RoomSink:
    """`streaming.ports.TranscriptSink` for one stream of one recording."""

    def __init__(
        self,
        *,
        tenant_id: str,
        recording_id: str,
        stream_id: str,
        epoch: int,
        words: bool,
        hub: Hub,
        committer: Committer,
    ) -> None:
        """`words`: the client asked for words with their times in partials too."""
        self._tenant_id = tenant_id
        self._recording_id = recording_id
        self._stream_id = stream_id
        self._epoch = epoch
        self._words = words
        self._hub = hub
        self._committer = committer
        self._key = (tenant_id, f"recording:{recording_id}")
        self.closed = False
        self.doubtful = False

    def partial(self, partial: Partial) -> None:
        if self.closed or self.doubtful or not self._hub.listened(self._key):
            return
        METRICS.partials.inc()
        body = {
            "recording_id": self._recording_id,
            "stream_id": self._stream_id,
            **msgspec.to_builtins(partial),
        }
        del body["words"]
        if self._words:
            body["words"] = [msgspec.to_builtins(wire_word(word)) for word in partial.words]
        self._hub.tell(self._key, "transcript:partial", body)

    async def final(self, segment: Segment, *, committed_sample: int, context: bytes, speakers: bytes) -> None:
        started = time.perf_counter()
        await self._committer.commit(
            FinalWrite(
                tenant_id=self._tenant_id,
                recording_id=self._recording_id,
                epoch=self._epoch,
                segment=segment,
                committed_sample=committed_sample,
                context=context,
                speakers=speakers,
            )
        )
        METRICS.speakers.labelled.inc(segment.speaker is not None)
        METRICS.final_seconds.observe(time.perf_counter() - started)

    def flushed(self, marker: str) -> None:
        if not self.closed:
            self._hub.tell(self._key, "transcript:flushed", {"recording_id": self._recording_id, "marker": marker})
