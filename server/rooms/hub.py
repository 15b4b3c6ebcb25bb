"""Rooms of this node: who listens, up to which event each has been told, and how a newcomer catches up.

Policy: an event is delivered to live members in the order of its room's log, each once. A member that joins is not
live at first: it reads the log page by page until it stands at the room's head, and only then goes live, in the same
step of the loop, so there is neither a gap nor a double between replay and live. What is announced out of order waits
for its predecessors; when they do not come, `run` reads them from the log (Postgres is the truth, announcing a hint).

Boundary: members are told through `Member.send_event`, the log is read through `LogReader`; no socket, no SQL.
Invariant: for each member and room, delivered seq grows by exactly 1 from where it joined.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from server.store.feed import Event, Head
from streaming.aio import Signal
from streaming.errors import HistoryTruncated, Unavailable
from streaming.limits import Limits

log = logging.getLogger(__name__)

REPAIR_INTERVAL_S = 1.0
"""DESIGN decision 5: a lost announcement is at most a second late."""

RoomKey = tuple[str, str]
"""(tenant id, room name): the same name in two tenants is two rooms."""


class Member(Protocol):
    """One connection."""

    def send_event(self, event: str, data: dict[str, Any], *, durable: bool) -> None:
        """Queue an event to the client; never waits, never raises for a slow or gone client."""
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

    __slots__ = ("early", "head", "members")

    def __init__(self) -> None:
        self.head: int | None = None
        self.members: dict[Member, _Membership] = {}
        self.early: dict[int, Event] = {}


class Hub:
    """Membership and ordered delivery. `run` is a component of the lifecycle."""

    def __init__(self, reader: LogReader, limits: Limits) -> None:
        self._reader = reader
        self._limits = limits
        self._rooms: dict[RoomKey, _Room] = {}
        self._stale: dict[RoomKey, None] = {}
        """Rooms whose log is to be read, in the order in which it was asked for."""
        self._wake = Signal()

    # --- joining ----------------------------------------------------------------------------------------------
    async def join(self, member: Member, key: RoomKey, *, after_seq: int | None) -> Head:
        """Become a member that is not yet live; follow with `catch_up`. Subscribes first, then looks at the log.

        Raises `HistoryTruncated`, `Unavailable`."""
        room = self._rooms.setdefault(key, _Room())
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

    async def catch_up(self, member: Member, key: RoomKey) -> None:
        """Tell the member what it missed, then make it live. Ends early when it left meanwhile, or joins anew: that
        join has a `catch_up` of its own."""
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
            except Unavailable:
                page = []
            if room.members.get(member) is not membership:
                return
            if not any(event.seq == membership.cursor + 1 for event in page):  # the database is away: late, not lost
                await asyncio.sleep(REPAIR_INTERVAL_S)
                continue
            for event in page:
                if event.seq == membership.cursor + 1:
                    membership.cursor = event.seq
                    member.send_event(event.event, event.wire(), durable=True)

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

    # --- telling ----------------------------------------------------------------------------------------------
    def announce(self, events: Sequence[Event]) -> None:
        """Tell live members of committed events, in the order of each room's log."""
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
            wire = event.wire()
            for member, membership in list(room.members.items()):
                if membership.live and event.seq > membership.cursor:
                    membership.cursor = event.seq
                    member.send_event(event.event, wire, durable=True)

    def tell(self, key: RoomKey, event: str, body: dict[str, Any]) -> int:
        """An ephemeral event to the live members; adds `room` and `after_seq`. Returns how many were told."""
        room = self._rooms.get(key)
        if room is None:
            return 0
        wire = {"room": key[1], "after_seq": room.head or 0, **body}
        live = [member for member, membership in room.members.items() if membership.live]
        for member in live:
            member.send_event(event, wire, durable=False)
        return len(live)

    def listened(self, key: RoomKey) -> bool:
        """Does anybody on this node listen? Spares the encoding of partials nobody sees."""
        return key in self._rooms

    # --- repair -----------------------------------------------------------------------------------------------
    def resync(self, tenant_id: str, room: str) -> None:
        """The room's log may hold events that nobody announced here: read them soon."""
        if (tenant_id, room) in self._rooms:
            self._stale[(tenant_id, room)] = None
            self._wake.set()

    async def run(self) -> None:
        """Read what was announced out of order or not at all."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(REPAIR_INTERVAL_S)  # most gaps close by themselves: the other commit is on its way
            for key in list(self._stale):
                self._stale.pop(key, None)  # first: what is committed after the look at the log needs another one
                try:
                    await self._repair(key)
                except Unavailable:
                    log.warning("event log cannot be read, trying again")
                    self.resync(*key)

    async def _repair(self, key: RoomKey) -> None:
        room = self._rooms.get(key)
        if room is not None and room.head is None:
            self._stale[key] = None  # until the first join knows the head, and asks for a resync itself
            return
        while room is not None:
            assert room.head is not None
            head = room.head
            page = await self._reader.read(*key, head, self._limits.replay_page_events)
            for event in page:
                if event.seq > room.head:
                    room.early[event.seq] = event
            self._advance(room)
            if len(page) < self._limits.replay_page_events or room.head == head:
                return
