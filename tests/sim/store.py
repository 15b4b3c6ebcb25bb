"""The one database of a simulated installation: what the SQL does, with commits that fail and answers that are lost."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from server.rooms.bus import RoomKey
from server.store.feed import Event, Head
from streaming.errors import Fenced, StreamEnded, Unavailable
from streaming.listener import Settled
from streaming.model import Segment
from streaming.transcript.speakers import split

TENANT = "t"


class StreamRow(msgspec.Struct):
    """The fencing row."""

    epoch: int = 0
    committed_sample: int = 0
    next_ordinal: int = 1
    context: bytes = b""
    speakers: bytes = b""
    ended: bool = False


class Trouble(msgspec.Struct, frozen=True):
    """How often what goes wrong, as probabilities per occasion. `bus`: a hint is lost; `storage`: a put fails;
    `partition`: a node is cut off from everything for a while, and goes on as if its streams were still its own."""

    worker: float = 0.0
    commit: float = 0.0
    answer: float = 0.0
    cut: float = 0.0
    crash: float = 0.0
    power: float = 0.0
    leave: float = 0.0
    bus: float = 0.0
    storage: float = 0.0
    partition: float = 0.0


class Store:
    """Postgres. Also the hub's `LogReader`."""

    def __init__(self, rng: random.Random, trouble: Trouble) -> None:
        self._rng = rng
        self._trouble = trouble
        self.streams: dict[str, StreamRow] = defaultdict(StreamRow)
        self.segments: dict[str, list[Segment]] = defaultdict(list)
        self.events: dict[str, list[Event]] = defaultdict(list)

    async def _round_trip(self) -> None:
        await asyncio.sleep(self._rng.choice([0.0, 0.001, 0.01, 0.3]))
        if self._rng.random() < self._trouble.commit:
            raise Unavailable("away")

    async def take_over(self, name: str) -> StreamRow:
        await self._round_trip()
        row = self.streams[name]
        if row.ended:
            raise StreamEnded("over")
        row.epoch += 1
        return msgspec.structs.replace(row)

    async def write(
        self, name: str, epoch: int, segment: Segment, committed_sample: int, context: bytes, speakers: bytes
    ) -> Event | None:
        """The logged event; None when this ordinal is there already. Raises `Fenced`, `Unavailable`."""
        await self._round_trip()
        row = self.streams[name]
        if row.ended or row.epoch != epoch:
            raise Fenced("taken over")
        if segment.ordinal < row.next_ordinal:
            return None
        assert segment.ordinal == row.next_ordinal, "finals of a stream come in order"
        assert all(segment.segment_id != known.segment_id for known in self.segments[name]), "ids are unique"
        self.segments[name].append(segment)
        row.next_ordinal += 1
        row.context = context
        row.speakers = speakers or row.speakers
        row.committed_sample = max(row.committed_sample, committed_sample)
        event = self._log(name, "transcript:final", segment.text, segment.segment_id)
        await self._answer()
        return event

    async def revise(self, name: str, epoch: int, finals: Sequence[Settled], state: bytes) -> Event | None:
        """Finals that somebody else spoke, or several people, as they are now (`server.live.speakers`). None when there
        is nothing to tell. Raises `Fenced`, `Unavailable`."""
        await self._round_trip()
        row = self.streams[name]
        if row.epoch != epoch:
            raise Fenced("taken over")
        row.speakers = state
        changed: list[str] = []
        for final in finals:
            at = next(n for n, known in enumerate(self.segments[name]) if known.segment_id == final.segment.segment_id)
            pieces = split(self.segments[name][at], final.turns)
            if self.segments[name][at].text == final.segment.text and pieces != (self.segments[name][at],):
                self.segments[name][at : at + 1] = pieces
                changed += [piece.segment_id for piece in pieces]
        event = self._log(name, "transcript:revised", "", " ".join(changed)) if changed else None
        await self._answer()
        return event

    async def since(self, name: str, from_ms: int) -> list[Segment]:
        """As `server.store.segments.since`."""
        await self._round_trip()
        return [segment for segment in self.segments[name] if segment.end_ms > from_ms]

    async def renew(self, name: str, epoch: int, settled_sample: int) -> None:
        await self._round_trip()
        row = self.streams[name]
        if row.ended or row.epoch != epoch:
            raise Fenced("taken over")
        row.committed_sample = max(row.committed_sample, settled_sample)

    async def end(self, name: str, epoch: int) -> Event:
        await self._round_trip()
        row = self.streams[name]
        if row.ended or row.epoch != epoch:
            raise Fenced("taken over")
        row.ended = True
        return self._log(name, "recording:ended", "")

    def _log(self, name: str, event: str, text: str, segment_id: str = "") -> Event:
        log = self.events[name]
        log.append(Event(TENANT, name, len(log) + 1, 0, event, {"text": text, "segment_id": segment_id}))
        return log[-1]

    async def _answer(self) -> None:
        await asyncio.sleep(self._rng.choice([0.0, 0.001, 0.01]))
        if self._rng.random() < self._trouble.answer:
            raise Unavailable("written, but nobody hears of it")

    async def behind(self, known: Sequence[tuple[RoomKey, int]]) -> list[RoomKey]:
        """As `server.rooms.marks.Heads`."""
        await self._round_trip()
        return [key for key, seq in known if len(self.events[key[1]]) > seq]

    async def head(self, _tenant: str, room: str) -> Head:
        await self._round_trip()
        return Head(len(self.events[room]), 1)

    async def read(self, _tenant: str, room: str, after_seq: int, limit: int) -> list[Event]:
        await self._round_trip()
        found = self.events[room][after_seq:][:limit]
        await self._answer()
        return found
