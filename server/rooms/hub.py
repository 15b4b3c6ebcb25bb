"""Rooms of this node: who listens, up to which event each has been told, and how a newcomer catches up.

Policy: an event is delivered to live members in the order of its room's log, each once. A member that joins is not
live at first: it reads the log page by page until it stands at the room's head, and only then goes live, in the same
step of the loop, so there is neither a gap nor a double between replay and live. What is announced out of order waits
for its predecessors; when they do not come, `run` reads them from the log (Postgres is the truth, announcing a hint).
What happens here is told to the other nodes (`Bus`), what they tell takes the same way (`hear`); what neither told is
found by `server.rooms.marks`. Strangers who only write may speak to a room (`relay`), but never move its log.

Boundary: members are told through `Member.send_event`, the log is read through `LogReader`; no socket, no SQL.
Invariant: for each member and room, delivered seq grows by exactly 1 from where it joined.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from server.rooms.bus import ALONE, HERE, Bus
from server.rooms.bus import RoomKey as RoomKey  # known by this name from here
from server.rooms.partials import Partials
from server.store.feed import Event, Head
from streaming.aio import Signal
from streaming.errors import HistoryTruncated, Unavailable
from streaming.limits import Limits

log = logging.getLogger(__name__)

REPAIR_INTERVAL_S = 1.0
"""DESIGN decision 5: a lost announcement is at most a second late."""

PARTIAL, FINAL = "transcript:partial", "transcript:final"

LOGGED = frozenset({"event", "room", "seq", "at"})
"""The fields of a durable event that are not its body."""
ADDRESSED = frozenset({"room", "seq", "after_seq"})
"""Fields of an ephemeral event that its node gives it, whatever the sender wrote."""


class Member(Protocol):
    """One connection."""

    def send_event(self, event: str, data: dict[str, Any], *, durable: bool) -> None:
        """Queue an event to the client; never waits, never raises for a slow or gone client."""
        ...

    def room_truncated(self, key: RoomKey, first_seq: int) -> None:
        """The log lost events, because of their age, before the member was told of them: it has left the room, and may
        join again from `first_seq` on. Never waits, never raises."""
        ...


class LogReader(Protocol):
    """The event log of a tenant (`server.store.feed` behind `tenant_tx`)."""

    async def head(self, tenant_id: str, room: str) -> Head: ...

    async def read(self, tenant_id: str, room: str, after_seq: int, limit: int) -> list[Event]: ...


class _Membership:
    """`placed`: its join has read the log's head, so `cursor` holds; `cursor`: last seq this member was told of;
    `live`: told as events are announced."""

    __slots__ = ("cursor", "live", "placed")

    def __init__(self) -> None:
        self.placed = False
        self.cursor = 0
        self.live = False


class _Room:
    """`head`: last seq that live members were told of; `early`: announced events whose predecessors are missing."""

    __slots__ = ("early", "head", "members", "partials")

    def __init__(self) -> None:
        self.head: int | None = None
        self.members: dict[Member, _Membership] = {}
        self.early: dict[int, Event] = {}
        self.partials = Partials()


class Hub:
    """Membership and ordered delivery. `run` is a component of the lifecycle."""

    def __init__(self, reader: LogReader, limits: Limits, bus: Bus = ALONE) -> None:
        self._reader = reader
        self._limits = limits
        self._bus = bus
        self._rooms: dict[RoomKey, _Room] = {}
        self._named: dict[str, set[RoomKey]] = {}
        """Rooms by their name alone, for strangers; ids are random, so a name has one tenant."""
        self._stale: dict[RoomKey, None] = {}
        """Rooms whose log is to be read, in the order in which it was asked for."""
        self._wake = Signal()

    # --- joining ----------------------------------------------------------------------------------------------
    async def join(self, member: Member, key: RoomKey, *, after_seq: int | None) -> Head:
        """Become a member that is not yet live; follow with `catch_up`. Subscribes first, then looks at the log.

        Raises `HistoryTruncated`, `Unavailable`."""
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = _Room()
            self._named.setdefault(key[1], set()).add(key)
        membership = room.members[member] = _Membership()
        try:
            head = await self._reader.head(*key)
            if after_seq is not None and after_seq < head.first_seq - 1:
                raise HistoryTruncated("The oldest events of this room are gone.", first_seq=head.first_seq)
        except BaseException:
            self._drop(member, key, membership)
            raise
        if room.head is None:
            room.head = head.seq
            self._advance(room)
        if room.early or room.head < head.seq or key in self._stale:
            self.resync(*key)
        membership.cursor = head.seq if after_seq is None else min(after_seq, head.seq)
        membership.placed = True
        return head

    def enter(self, member: Member, key: RoomKey) -> bool:
        """Become a live member at once, for events from now on; False where the room's log was not looked at yet: then
        `join`. Spares those who come by the thousand a look at the log each."""
        room = self._rooms.get(key)
        if room is None or room.head is None:
            return False
        membership = room.members[member] = _Membership()
        membership.cursor, membership.placed, membership.live = room.head, True, True
        return True

    async def catch_up(
        self, member: Member, key: RoomKey, *, ready: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Tell the member what it missed, then make it live. Ends early when it left meanwhile, or joins anew: that
        join has a `catch_up` of its own. `ready`: waits until the member can take one more."""
        room = self._rooms.get(key)
        membership = room.members.get(member) if room else None
        if room is None or membership is None or not membership.placed:
            return
        while room.members.get(member) is membership:
            assert room.head is not None
            if membership.cursor >= room.head:
                membership.live = True
                return
            try:
                page = await self._reader.read(*key, membership.cursor, self._limits.replay_page_events)
                first_seq = await self._first_seq(key, page)
            except Unavailable:
                page, first_seq = [], 0
            if room.members.get(member) is not membership:
                return
            if first_seq > membership.cursor + 1:
                self._drop(member, key, membership)
                member.room_truncated(key, first_seq)
                return
            if not page:  # the database is away: late, not lost
                await asyncio.sleep(REPAIR_INTERVAL_S)
                continue
            for event in page:
                if ready is not None:
                    await ready()
                    if room.members.get(member) is not membership:
                        return
                if event.seq == membership.cursor + 1:
                    membership.cursor = event.seq
                    member.send_event(event.event, event.wire(), durable=True)

    async def _first_seq(self, key: RoomKey, page: list[Event]) -> int:
        """Where the log begins again after what `page` was read after: logs have no holes, but lose their beginning."""
        return page[0].seq if page else (await self._reader.head(*key)).first_seq

    def leave(self, member: Member, key: RoomKey) -> None:
        """Idempotent."""
        room = self._rooms.get(key)
        if room is not None and member in room.members:
            self._drop(member, key, room.members[member])

    def _drop(self, member: Member, key: RoomKey, membership: _Membership) -> None:
        room = self._rooms.get(key)
        if room is None:
            return
        if room.members.get(member) is membership:
            del room.members[member]
        if not room.members:
            self._rooms.pop(key, None)
            self._stale.pop(key, None)
            if (keys := self._named.get(key[1])) is not None:
                keys.discard(key)
                if not keys:
                    del self._named[key[1]]

    # --- telling ----------------------------------------------------------------------------------------------
    def announce(self, events: Sequence[Event]) -> None:
        """Tell live members everywhere of events that were committed here, in the order of each room's log."""
        if self._bus.others:
            for event in events:
                self._bus.emit((event.tenant_id, event.room), event.event, event.wire())
        self._accept(events)

    def _accept(self, events: Sequence[Event]) -> None:
        for event in events:
            key = (event.tenant_id, event.room)
            room = self._rooms.get(key)
            if room is None or (room.head is not None and event.seq <= room.head):
                continue
            if len(room.early) < self._limits.join_buffer_events_max:
                room.early[event.seq] = event
            else:
                self.resync(*key)
            if room.head is None:
                continue  # the first member is joining: the head it is reading may or may not include this event
            self._advance(room)
            if room.early:
                self.resync(*key)

    def _advance(self, room: _Room) -> None:
        assert room.head is not None
        for seq in [seq for seq in room.early if seq <= room.head]:
            del room.early[seq]
        while (event := room.early.pop(room.head + 1, None)) is not None:
            room.head = event.seq
            if event.event == FINAL:
                room.partials.final(event.body.get("segment_id"))
            wire = event.wire()
            for member, membership in list(room.members.items()):
                if membership.live and event.seq > membership.cursor:
                    membership.cursor = event.seq
                    member.send_event(event.event, wire, durable=True)

    def tell(self, key: RoomKey, event: str, body: dict[str, Any]) -> int:
        """An ephemeral event to the live members everywhere; adds `room` and `after_seq`. Returns how many were told
        here."""
        if self._bus.others:
            self._bus.emit(key, event, body)
        room = self._rooms.get(key)
        if room is None or (event == PARTIAL and not room.partials.may_show(HERE, body.get("segment_id"))):
            return 0
        return self._whisper(key[1], room, event, body)

    def _whisper(self, name: str, room: _Room, event: str, body: dict[str, Any]) -> int:
        wire = {"room": name, "after_seq": room.head or 0, **body}
        live = [member for member, membership in room.members.items() if membership.live]
        for member in live:
            member.send_event(event, wire, durable=False)
        return len(live)

    def listened(self, key: RoomKey) -> bool:
        """May anybody listen, here or at another node? Spares the encoding of partials nobody sees."""
        return key in self._rooms or self._bus.others

    # --- what others tell -------------------------------------------------------------------------------------
    def hear(self, key: RoomKey, event: str, data: dict[str, Any], *, node: str = "another") -> None:
        """What another node emitted. An event with `seq` is a hint that takes the way of `announce`: delivered in
        order, each once; anything else is told to who is live now."""
        room = self._rooms.get(key)
        if room is None:
            return
        if "seq" in data:
            body = {name: value for name, value in data.items() if name not in LOGGED}
            self._accept([Event(key[0], key[1], int(data["seq"]), int(data["at"]), event, body)])
        elif event != PARTIAL or room.partials.may_show(node, data.get("segment_id")):
            self._whisper(key[1], room, event, data)

    def owned(self, tenant_id: str, recording_id: str, epoch: int, *, node: str) -> None:
        """`node` took the recording's stream over: partials of its older owners are void."""
        room = self._rooms.get((tenant_id, f"recording:{recording_id}"))
        if room is not None:
            room.partials.owned(node, epoch)

    def relay(self, name: str, event: str, data: Any) -> int:
        """What a stranger says to a room here, as an ephemeral event; returns how many were told. An object gets this
        node's `room` and `after_seq` and loses its `seq`: the log is ours alone. Anything else passes as it is."""
        told = 0
        for key in tuple(self._named.get(name, ())):
            room = self._rooms[key]
            if isinstance(data, dict):
                body = {field: value for field, value in data.items() if field not in ADDRESSED}
                told += self._whisper(name, room, event, body)
                continue
            for member, membership in list(room.members.items()):
                if membership.live:
                    member.send_event(event, data, durable=False)
                    told += 1
        return told

    # --- repair -----------------------------------------------------------------------------------------------
    def resync(self, tenant_id: str, room: str) -> None:
        """The room's log may hold events that nobody announced here: read them soon."""
        if (tenant_id, room) in self._rooms:
            self._stale[(tenant_id, room)] = None
            self._wake.set()

    def joined(self) -> list[tuple[RoomKey, int]]:
        """Every room with members here, and the last event they were told of."""
        return [(key, room.head) for key, room in self._rooms.items() if room.head is not None]

    async def run(self) -> None:
        """Read what was announced out of order or not at all."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(REPAIR_INTERVAL_S)  # most gaps close by themselves: the other commit is on its way
            for key in list(self._stale):
                self._stale.pop(key, None)  # first: what is committed after the look at the log needs another one
                try:
                    await self.repair(key)
                except Unavailable:
                    log.warning("event log cannot be read, trying again")
                    self.resync(*key)

    async def repair(self, key: RoomKey) -> None:
        """Read from the log what follows the room's head, to its end. Raises `Unavailable`."""
        room = self._rooms.get(key)
        if room is not None and room.head is None:
            self._stale[key] = None  # until the first join knows the head, and asks for a resync itself
            return
        while room is not None:
            assert room.head is not None
            head = room.head
            page = await self._reader.read(*key, head, self._limits.replay_page_events)
            self._truncate(key, room, await self._first_seq(key, page))
            for event in page:
                if event.seq > room.head:
                    room.early[event.seq] = event
            self._advance(room)
            if len(page) < self._limits.replay_page_events or room.head == head:
                return

    def _truncate(self, key: RoomKey, room: _Room, first_seq: int) -> None:
        """The log begins at `first_seq`: live members that stand before it have lost what lies between."""
        assert room.head is not None
        if first_seq <= room.head + 1:
            return
        room.head = first_seq - 1
        for member, membership in list(room.members.items()):
            if membership.live and membership.cursor < room.head:
                self._drop(member, key, membership)
                member.room_truncated(key, first_seq)
