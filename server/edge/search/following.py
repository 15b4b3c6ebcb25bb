"""A tenant's index feed as this node's subscriptions follow it: what is next, who is live, who catches up.

Policy: the feed is the room `index:<tenant>` of the event log, which no client may join or read. The hub tells its
events in order, each once; what was missed is read from the log. Subscriptions that stand where the feed stands are
live: a batch of segments is read by one query and matched against all of them. The others catch up, all together and
page by page, from where the one furthest behind stands. Both take turns, so a tenant has one matching pass at a time.
A live match is the outbox's matter; who catches up and does not read what it is told waits, and holds up nobody else.

Boundary: `Feed` is a `Member` of the hub's room; segments come through `Reader`. No SQL, no sockets.
Invariant: each subscription is told of what matches after its position, in the feed's order, each once: between
catching up and live there is neither a gap nor a double, because `position` moves in the same step of the loop in which
segments are matched.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from search.live import Heard, Interest, Match, Stage, Subscriptions
from search.model import EmbedderInfo, Vector
from server.edge.connection import Connection
from server.edge.errors import AnyError, wire_error
from server.edge.search.wire import Position, cursor, wire_match
from server.rooms.hub import RoomKey
from server.store.feed import Event
from server.telemetry import METRICS
from streaming.aio import Signal
from streaming.errors import HistoryTruncated, ParlanceError, Unavailable
from streaming.limits import Limits
from streaming.protocol import searches as s

log = logging.getLogger(__name__)

INDEXED = "segments:indexed"


class Indexed(msgspec.Struct, frozen=True, array_like=True):
    """What an event says of one segment."""

    segment_id: str
    recording_id: str
    rev: int
    stage: Stage


class Item(msgspec.Struct, frozen=True):
    """A segment of the feed; `at`: its own position, behind it."""

    at: Position
    indexed: Indexed


class Reader(Protocol):
    """The event log and the segments of a tenant. Every method may raise `Unavailable`."""

    async def read(self, tenant_id: str, room: str, after_seq: int, limit: int) -> list[Event]: ...

    async def languages(self, tenant_id: str) -> Sequence[str]:
        """Those the tenant speaks, as `search.analysis.language_key` has them."""
        ...

    async def said(
        self, tenant_id: str, segment_ids: Sequence[str], *, meant: Sequence[str], models: Sequence[str]
    ) -> dict[str, Heard]:
        """Segments as they are now; those of `meant` with their vectors of these models."""
        ...


class Subscription:
    """`position`: what stands before it in the feed has been told; while it is live the feed's counts, when it is
    later. `vector`: of the model that it was asked of, None in it for a text that this model cannot embed."""

    __slots__ = ("connection", "interest", "name", "position", "vector")

    def __init__(self, connection: Connection, name: str, interest: Interest, position: Position) -> None:
        self.connection = connection
        self.name = name
        self.interest = interest
        self.position = position
        self.vector: tuple[EmbedderInfo, Vector | None] | None = None

    def tell(self, match: Match["Subscription"], heard: Heard, at: Position) -> None:
        found = s.SearchMatch(subscription_id=self.name, cursor=cursor(at), hit=wire_match(match, heard))
        self.connection.send("search:match", found)

    def end(self, error: AnyError) -> None:
        """The server ends it."""
        self.connection.send(
            "search:unsubscribed", s.SearchUnsubscribed(subscription_id=self.name, error=wire_error(error))
        )


class Feed:
    """Of one tenant. `run` works until it is cancelled. `model`: of the vectors that texts can be given now; `wants`:
    takes a subscription that needs one, and places it when it has it."""

    def __init__(
        self,
        key: RoomKey,
        reader: Reader,
        *,
        model: Callable[[], EmbedderInfo | None],
        wants: Callable[["Feed", Subscription], None],
        limits: Limits,
    ) -> None:
        self.key = key
        self.position: Position = (1, 0)
        """What stands before it has been matched against who is live."""
        self.seen = 0
        """The last event that the hub told of."""
        self._reader = reader
        self._model = model
        self._wants = wants
        self._limits = limits
        self._live: Subscriptions[Subscription] = Subscriptions()
        self._catching: Subscriptions[Subscription] = Subscriptions()
        self._behind: dict[Subscription, None] = {}
        self._early: deque[tuple[int, list[Indexed]]] = deque(maxlen=limits.subscription_events_waiting_max)
        self._changed = Signal()
        self._truncated: int | None = None

    def stand(self, seq: int) -> None:
        """The feed's newest event, as the hub knows it at the join."""
        self.position, self.seen = (seq + 1, 0), seq

    # --- as a member ------------------------------------------------------------------------------------------
    def send_event(self, event: str, data: dict[str, Any], *, durable: bool) -> None:
        if durable:
            self.seen = data["seq"]
            self._early.append((self.seen, indexed_of(event, data.get("segments"))))
            self._changed.set()

    def room_truncated(self, _key: RoomKey, first_seq: int) -> None:
        self._truncated = first_seq
        self._changed.set()

    # --- subscriptions ----------------------------------------------------------------------------------------
    def admit(self, subscription: Subscription) -> None:
        """It begins; first it gets its vector, where there can be one."""
        info = self._model()
        if info is not None and subscription.interest.by_meaning and not _has(subscription, info):
            self._wants(self, subscription)
        else:
            self.place(subscription)

    def place(self, subscription: Subscription) -> None:
        """Among the live ones, or those who catch up."""
        is_live = subscription.position >= self.position
        held = self._live if is_live else self._catching
        held.add(subscription, subscription.interest)
        if subscription.vector is not None:
            info, vector = subscription.vector
            held.give(info, {subscription: vector})
        if not is_live:
            self._behind[subscription] = None
            self._changed.set()

    def drop(self, subscription: Subscription) -> None:
        """Harmless when it is not there."""
        self._live.remove(subscription)
        self._catching.remove(subscription)
        self._behind.pop(subscription, None)

    # --- following --------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Raises `HistoryTruncated` when the log lost what was not matched yet."""
        learned = False
        while True:
            try:
                if not learned:
                    languages = await self._reader.languages(self.key[0])
                    self._live.learn(languages)
                    self._catching.learn(languages)
                    learned = True
                await self._step()
            except Unavailable:
                await asyncio.sleep(self._limits.subscription_retry_ms / 1000)

    async def _step(self) -> None:
        """A pass for who is live, a page for who catches up, or a wait for something to do."""
        if self._truncated is not None:
            raise HistoryTruncated("The oldest events of the index are gone.", first_seq=self._truncated)
        idle = self.seen < self.position[0]
        if not idle:
            await self._follow()
        moved = bool(self._behind) and await self._catch_up()
        if idle and not moved:
            await self._wait(self._limits.subscription_retry_ms / 1000 if self._behind else None)

    async def _wait(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _follow(self) -> None:
        """One pass over what is new."""
        items, end = self._take(await self._next(), self.position)
        heard = await self._heard(items, self._live)
        self._demote(heard)
        for item, match in _found(self._live, items, heard):
            if item.at > match.key.position:
                match.key.tell(match, heard[item.at], item.at)
        self.position = end

    async def _next(self) -> list[tuple[int, list[Indexed]]]:
        """The events from the feed's position on, some of them: as they were told, or from the log."""
        seq, place = self.position
        while self._early and self._early[0][0] < seq:
            self._early.popleft()
        if not place and self._early and self._early[0][0] == seq:
            return list(self._early)
        return await self._page(self.position)

    async def _page(self, start: Position) -> list[tuple[int, list[Indexed]]]:
        """From the log. Raises `HistoryTruncated` when it begins later."""
        events = await self._reader.read(*self.key, start[0] - 1, self._limits.subscription_page_events)
        first_seq = events[0].seq if events else self.seen + 1
        if first_seq > start[0]:
            raise HistoryTruncated("The oldest events of the index are gone.", first_seq=first_seq)
        return [(event.seq, indexed_of(event.event, event.body.get("segments"))) for event in events]

    def _take(self, events: Iterable[tuple[int, list[Indexed]]], start: Position) -> tuple[list[Item], Position]:
        """What stands behind `start`, a pass of it, and the position behind that."""
        items: list[Item] = []
        end = start
        for seq, segments in events:
            for place, indexed in enumerate(segments, start=1):
                if (seq, place) > start:
                    if len(items) >= self._limits.subscription_segments_max:
                        return items, end
                    items.append(Item((seq, place), indexed))
                    end = (seq, place)
            end = (seq + 1, 0)
        return items, end

    async def _heard(self, items: Sequence[Item], held: Subscriptions[Subscription]) -> dict[Position, Heard]:
        """Segments whose revision is still the one that the feed tells of, by where they stand in it."""
        if not items or not len(held):
            return {}
        info = self._model()
        models = held.models | ({info.model} if info is not None else set())
        names = dict.fromkeys(item.indexed.segment_id for item in items)
        meant = dict.fromkeys(item.indexed.segment_id for item in items if item.indexed.stage is not Stage.WORDS)
        said = await self._reader.said(self.key[0], list(names), meant=list(meant), models=sorted(models))
        heard: dict[Position, Heard] = {}
        for item in items:
            segment = said.get(item.indexed.segment_id)
            if segment is not None and segment.rev == item.indexed.rev:
                heard[item.at] = msgspec.structs.replace(segment, stage=item.indexed.stage)
        return heard

    def _demote(self, heard: dict[Position, Heard]) -> None:
        """The model came after some subscriptions: these get their vectors and then catch up from here."""
        info = self._model()
        if info is None or not any(v.model == info.model for segment in heard.values() for v in segment.vectors):
            return
        for subscription, _ in self._live.lacking(info.model):
            subscription.position = max(subscription.position, self.position)
            self.drop(subscription)
            self._wants(self, subscription)

    # --- catching up ------------------------------------------------------------------------------------------
    async def _catch_up(self) -> bool:
        """One page for those who stand behind and read what they are told; False when nobody does."""
        reading = {held for held in self._behind if not held.connection.behind}
        if not reading:
            return False
        start = min(held.position for held in reading)
        try:
            events = await self._page(start)
        except HistoryTruncated as error:
            self._end_before((error.first_seq, 0), error)
            return True
        items, end = self._take(events, start)
        end = min(end, self.position)
        items = [item for item in items if item.at <= end]
        heard = await self._heard(items, self._catching)
        stopped = self._tell(items, heard, reading)
        for held in reading & self._behind.keys():
            held.position = max(held.position, stopped.get(held.connection, end))
            if held.position >= self.position:
                self.drop(held)
                self.place(held)
        return True

    def _tell(
        self, items: Sequence[Item], heard: dict[Position, Heard], reading: set[Subscription]
    ) -> dict[Connection, Position]:
        """Returns who did not read on, and what it has been told until then."""
        stopped: dict[Connection, Position] = {}
        for item, match in _found(self._catching, items, heard):
            held = match.key
            if held not in reading or item.at <= held.position or held.connection in stopped:
                continue
            if held.connection.behind:
                stopped[held.connection] = (item.at[0], item.at[1] - 1)
            else:
                held.tell(match, heard[item.at], item.at)
        return stopped

    def _end_before(self, first: Position, error: ParlanceError) -> None:
        for held in [held for held in self._behind if held.position < first]:
            self.drop(held)
            held.end(error)


def _has(subscription: Subscription, info: EmbedderInfo) -> bool:
    return subscription.vector is not None and subscription.vector[0] == info


def _found(
    held: Subscriptions[Subscription], items: Sequence[Item], heard: dict[Position, Heard]
) -> list[tuple[Item, Match[Subscription]]]:
    """Matches in the feed's order."""
    there = [item for item in items if item.at in heard]
    if not there:
        return []
    began = time.perf_counter()
    matches = held.matching([heard[item.at] for item in there])
    METRICS.searches.matching_seconds.observe(time.perf_counter() - began)
    METRICS.searches.matches.inc(len(matches))
    return [(there[match.place], match) for match in matches]


def indexed_of(event: str, segments: object) -> list[Indexed]:
    """What an event of the feed tells of; nothing of what is not understood."""
    if event != INDEXED:
        return []
    try:
        return msgspec.convert(segments, list[Indexed])
    except msgspec.ValidationError:
        log.warning("an index event is not understood")
        return []
