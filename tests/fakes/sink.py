"""The transcript sink in memory. It keeps what it is told, in order, and checks the promises made of captions."""

import asyncio

from streaming.errors import Fenced
from streaming.model import Partial, Segment


class MemorySink:
    """`streaming.ports.TranscriptSink`. `told`: everything in order, a partial, a segment or a flush marker;
    `commits`, `contexts`, `speakers`: the committed sample, the engine's context and the listener's state after each
    segment; `fence_at`: number of the final that finds itself fenced."""

    def __init__(self, *, commit_s: float = 0.0, fence_at: int | None = None) -> None:
        self._commit_s = commit_s
        self._fence_at = fence_at
        self.told: list[Partial | Segment | str] = []
        self.commits: list[int] = []
        self.contexts: list[bytes] = []
        self.speakers: list[bytes] = []
        self._shown: dict[str, Partial] = {}
        self._finished: set[str] = set()
        self._committing = False

    @property
    def segments(self) -> list[Segment]:
        return [item for item in self.told if isinstance(item, Segment)]

    @property
    def partials(self) -> list[Partial]:
        return [item for item in self.told if isinstance(item, Partial)]

    @property
    def texts(self) -> list[str]:
        return [segment.text for segment in self.segments]

    def partial(self, partial: Partial) -> None:
        last = self._shown.get(partial.segment_id)
        assert partial.segment_id not in self._finished, "no partial follows its final"
        if last is not None:
            assert partial.rev > last.rev, "rev grows"
            assert partial.stable.startswith(last.stable), "stable only grows"
            grown = partial.stable[len(last.stable) :]
            assert not grown or not last.stable or grown[0] == " ", "it ended inside a word"
            assert partial.end_ms >= last.end_ms
        assert partial.stable == partial.stable.strip()
        assert not partial.unstable or (partial.unstable[0] == " ") == bool(partial.stable)
        self._shown[partial.segment_id] = partial
        self.told.append(partial)

    async def final(self, segment: Segment, *, committed_sample: int, context: bytes, speakers: bytes) -> None:
        assert not self._committing, "finals are committed one after the other"
        self._committing = True
        await asyncio.sleep(self._commit_s)
        self._committing = False
        if self._fence_at is not None and len(self.commits) >= self._fence_at:
            raise Fenced("taken over")
        shown = self._shown.get(segment.segment_id)
        if shown is not None:
            assert segment.text.startswith(shown.stable), "the final begins with what was stable"
            assert not shown.stable or segment.text[len(shown.stable) :][:1] in ("", " "), "it ended inside a word"
            assert segment.rev > shown.rev
        assert not self.commits or committed_sample > self.commits[-1]
        self._finished.add(segment.segment_id)
        self.commits.append(committed_sample)
        self.contexts.append(context)
        self.speakers.append(speakers)
        self.told.append(segment)

    def flushed(self, marker: str) -> None:
        self.told.append(marker)
