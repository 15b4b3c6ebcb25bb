"""Whose search runs next: a query per keystroke, of which only the newest of a slot counts.

Policy: of a slot one query runs and the newest waits; those between are superseded at once. One that runs is never
broken off: it learns that it is stale and ends early. A slot keeps its place in the line when a newer query takes the
older one's, so that who types fast is served as soon as others. Tenants take turns: next is the one with the fewest
searches running, of equals the one that was served longest ago; within a tenant, who waits longest. A query rests while
it waits for anything but the index (its vector), and lines up again behind all that have no answer yet. A query that
waited too long is late: somebody is told so, and nobody looks for it any more.

Pure: every call is given `now` in milliseconds. Invariant: of a slot at most one query runs, and one that was offered
before it neither starts nor waits.
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from streaming.errors import Overloaded, QuotaExceeded
from streaming.limits import Limits

What = TypeVar("What")


class Asked(Generic[What]):
    """One query. `owner`: the connection that asks; `what`: the caller's own; `since_ms`: it waits since then. `stale`:
    a newer one waits in its slot, or nobody wants it any more; `cancelled`: nothing more is told of it; `has_turn`: it
    counts as running."""

    __slots__ = ("cancelled", "has_turn", "owner", "request_id", "since_ms", "slot", "stale", "tenant_id", "what")

    def __init__(self, tenant_id: str, owner: Hashable, slot: str, request_id: str, what: What) -> None:
        self.tenant_id = tenant_id
        self.owner = owner
        self.slot = slot
        self.request_id = request_id
        self.what = what
        self.since_ms = 0.0
        self.stale = False
        self.cancelled = False
        self.has_turn = False


class _Slot(Generic[What]):
    """`running`, which may be resting or in the line again, and `waiting`: of its queries; at least one is there."""

    __slots__ = ("owner", "running", "waiting")

    def __init__(self, owner: "_Owner[What]") -> None:
        self.owner = owner
        self.running: Asked[What] | None = None
        self.waiting: Asked[What] | None = None


class _Owner(Generic[What]):
    def __init__(self, tenant: "_Tenant[What]") -> None:
        self.tenant = tenant
        self.slots: dict[str, _Slot[What]] = {}
        self.running = 0


class _Tenant(Generic[What]):
    """`line`: slots with a query that waits, those who came first before; `again`: those whose running query does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.line: dict[_Slot[What], None] = {}
        self.again: dict[_Slot[What], None] = {}
        self.owners = 0
        self.running = 0


class Turns(Generic[What]):
    """The searches of one node."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owners: dict[Hashable, _Owner[What]] = {}
        self._tenants: dict[str, _Tenant[What]] = {}
        """Those with a search, in the order in which they were served."""
        self.running = 0
        self.waiting = 0

    def offer(self, asked: Asked[What], now_ms: float) -> Asked[What] | None:
        """Wait for a turn; returns the one that this supersedes before it ran. Raises `QuotaExceeded` for too many
        slots, `Overloaded` when too many wait."""
        limits = self._limits
        owner = self._owners.get(asked.owner)
        slot = None if owner is None else owner.slots.get(asked.slot)
        if owner is not None and slot is None and len(owner.slots) >= limits.search_slots_per_socket_max:
            raise QuotaExceeded(f"At most {limits.search_slots_per_socket_max} search slots per socket.", field="slot")
        older = None if slot is None else slot.waiting
        if older is None and self.waiting >= limits.searches_waiting_max:
            raise Overloaded("Too many searches wait at this node.", retry_after_ms=limits.search_retry_ms)
        if owner is None:
            tenant = self._tenants.setdefault(asked.tenant_id, _Tenant(asked.tenant_id))
            tenant.owners += 1
            owner = self._owners[asked.owner] = _Owner(tenant)
        if slot is None:
            slot = owner.slots[asked.slot] = _Slot(owner)
        asked.since_ms = now_ms
        slot.waiting = asked
        if older is None:
            self.waiting += 1
            owner.tenant.line[slot] = None
        if slot.running is not None:
            slot.running.stale = True
        return older

    def running_in(self, owner: Hashable, slot: str) -> Asked[What] | None:
        """What runs in this slot."""
        held = self._owners.get(owner)
        return held.slots[slot].running if held is not None and slot in held.slots else None

    def start(self) -> list[Asked[What]]:
        """Those whose turn it is: they run from now on, until `rest` or `done`."""
        begun: list[Asked[What]] = []
        while self.running < self._limits.searches_running_max:
            if (slot := self._first(lambda tenant: (s for s in tenant.line if s.running is None))) is not None:
                self._leave(slot.owner.tenant.line, slot)
                slot.running, slot.waiting = slot.waiting, None
            elif (slot := self._first(lambda tenant: iter(tenant.again))) is not None:
                self._leave(slot.owner.tenant.again, slot)
            else:
                break
            asked, tenant = slot.running, slot.owner.tenant
            assert asked is not None, "it stood in a line"
            asked.has_turn = True
            self.running += 1
            slot.owner.running += 1
            tenant.running += 1
            self._tenants[tenant.name] = self._tenants.pop(tenant.name)
            begun.append(asked)
        return begun

    def rest(self, asked: Asked[What]) -> None:
        """It gives its turn to others; its slot stays its own."""
        if not asked.has_turn:
            return
        asked.has_turn = False
        self.running -= 1
        if (slot := self._slot_of(asked)) is not None and slot.running is asked:
            slot.owner.running -= 1
            slot.owner.tenant.running -= 1

    def again(self, asked: Asked[What], now_ms: float) -> None:
        """It rested and wants a turn. Who is gone gets none."""
        if (slot := self._slot_of(asked)) is not None and slot.running is asked:
            asked.since_ms = now_ms
            self.waiting += 1
            slot.owner.tenant.again[slot] = None

    def late(self, now_ms: float) -> list[Asked[What]]:
        """Those that have waited too long; those that did not run yet are forgotten."""
        before_ms = now_ms - self._limits.search_wait_ms_max
        too_late: list[Asked[What]] = []
        for tenant in list(self._tenants.values()):
            for slot in list(tenant.again):
                if slot.running is not None and slot.running.since_ms <= before_ms:
                    self._leave(tenant.again, slot)
                    too_late.append(slot.running)
            for slot in list(tenant.line):
                if slot.waiting is not None and slot.waiting.since_ms <= before_ms:
                    too_late.append(slot.waiting)
                    self._drop(slot)
        return too_late

    def done(self, asked: Asked[What]) -> None:
        """A query that ran has ended. Harmless when its owner is gone."""
        self.rest(asked)
        slot = self._slot_of(asked)
        if slot is not None and slot.running is asked:
            if slot in slot.owner.tenant.again:
                self._leave(slot.owner.tenant.again, slot)
            slot.running = None
            self._tidy(asked, slot)

    def cancel(self, owner: Hashable, request_id: str) -> Asked[What] | None:
        """Nobody wants these any more; returns the one that runs. Unknown ids are fine."""
        held = self._owners.get(owner)
        for slot in list(held.slots.values()) if held is not None else ():
            if slot.waiting is not None and slot.waiting.request_id == request_id:
                self._drop(slot)
            if slot.running is not None and slot.running.request_id == request_id:
                slot.running.stale = slot.running.cancelled = True
                return slot.running
        return None

    def gone(self, owner: Hashable) -> None:
        """The connection is: nothing of it waits any more, and what runs counts for nobody but the node."""
        held = self._owners.pop(owner, None)
        if held is None:
            return
        for slot in held.slots.values():
            for line in (held.tenant.line, held.tenant.again):
                if slot in line:
                    self._leave(line, slot)
            if slot.running is not None:
                slot.running.stale = slot.running.cancelled = True
        held.tenant.running -= held.running
        self._left(held.tenant)

    def _slot_of(self, asked: Asked[What]) -> _Slot[What] | None:
        owner = self._owners.get(asked.owner)
        return None if owner is None else owner.slots.get(asked.slot)

    def _first(self, ready: Callable[[_Tenant[What]], Iterator[_Slot[What]]]) -> _Slot[What] | None:
        """Of those that are ready, the one whose turn is next."""
        found: _Slot[What] | None = None
        for tenant in self._tenants.values():
            if tenant.running >= self._limits.searches_per_tenant_max:
                continue
            if found is None or tenant.running < found.owner.tenant.running:
                may_run = (s for s in ready(tenant) if s.owner.running < self._limits.searches_per_socket_max)
                found = next(may_run, found)
        return found

    def _leave(self, line: dict[_Slot[What], None], slot: _Slot[What]) -> None:
        del line[slot]
        self.waiting -= 1

    def _drop(self, slot: _Slot[What]) -> None:
        """The query that waits in it."""
        asked = slot.waiting
        if asked is not None:
            self._leave(slot.owner.tenant.line, slot)
            slot.waiting = None
            self._tidy(asked, slot)

    def _tidy(self, asked: Asked[What], slot: _Slot[What]) -> None:
        if slot.running is not None or slot.waiting is not None:
            return
        del slot.owner.slots[asked.slot]
        if not slot.owner.slots:
            del self._owners[asked.owner]
            self._left(slot.owner.tenant)

    def _left(self, tenant: _Tenant[What]) -> None:
        """One of its owners has nothing here any more."""
        tenant.owners -= 1
        if not tenant.owners:
            del self._tenants[tenant.name]


__all__ = ["Asked", "Turns"]
