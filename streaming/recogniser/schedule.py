"""Which windows a shared model decodes next, and which go together.

Policy: finals first and never dropped; otherwise it is the turn of the tenant that got least. Accounts are deficits in
frames decoded, not in windows: what a tenant had is compared with the least-served tenant that waits, nobody saves up
while it wants nothing (it comes back at the level of those who waited), and what is owed is forgotten when nothing
waits at all. A final may overtake the partial of a tenant that had less, but after `OVERTAKES_MAX` such calls in a row
that partial's turn comes: a backlog of finals delays it and does not starve it. Within a tenant the order is that of
asking, finals and partials each.

An utterance has at most one partial waiting: a newer request joins it and keeps its place, and a final replaces it. A
partial that expires is handed back to be asked for again over newer audio, and keeps its place too.

The window whose turn it is is joined by others of equal length, finals first, then again by who got least; everybody
is charged the frames of its own windows, wherever they rode. An utterance that is under suspicion is decoded alone.

Measured in `tests/sim/office.py` (a slow model, p95; alone: words 0.44 s). Thirty streams catch up on a backlog: a lone
stream's words 0.66 s; by arrival 6.3 s, with finals strictly first 4.8 s (3 captions instead of 53). Twice the knee:
0.48 s, by arrival 1.57 s. Four times the knee, 80 tenants: finals 0.85 s, 1.6 s at most; with the oldest of every three
left out 2.0 and 5.6 s (two in a row), with two overtaking calls instead of three 1.6 s, with one 4.0 s. Partials that
never expire: words 0.3 to 0.7 s later.

Pure. Invariants: every final that was put in comes out once, unless its utterance is dropped; accounts of tenants that
wait stay within `OVERTAKES_MAX` + 2 calls of each other, and twice that where finals go by age.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator

import msgspec

REQUESTS_MAX = 8
"""Requests that one decode answers, the newest of them: a caller asks one at a time, or gave the older ones up."""
OVERTAKES_MAX = 3
"""Calls with finals in a row before a tenant that had less gets its partial: it waits for four at most."""
OLDEST_EVERY = 3
"""Every third final is the one that has waited longest, whatever its tenant had: accounts even out slowly where there
are hundreds of tenants, and a final that waits for that is late."""


class Job(msgspec.Struct, frozen=True):
    """One window to decode. `requests`: the partial requests that its result answers; none: it is the final."""

    utterance: int
    requests: tuple[int, ...] = ()

    @property
    def is_final(self) -> bool:
        return not self.requests


class _Tenant:
    """`served`: frames decoded for it, on the clock of all accounts; `turn`: when it last got something; `open`: its
    open utterances; `partials`: by place, a `None` keeps the place of one that was handed back; `ready`: the others."""

    def __init__(self, name: str, served: int) -> None:
        self.name = name
        self.served = served
        self.turn = 0
        self.open = 0
        self.finals: dict[int, Job] = {}
        self.partials: dict[int, Job | None] = {}
        self.ready = 0

    @property
    def account(self) -> tuple[int, int]:
        """The smaller, the sooner is its turn."""
        return self.served, self.turn

    def jobs(self) -> Iterator[Job]:
        yield from self.finals.values()
        yield from (job for job in self.partials.values() if job is not None)


class Schedule:
    """What waits; its size is bounded by the utterances that are open, from `open` to `drop`."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant] = {}
        self._waiting: dict[str, _Tenant] = {}
        """Those of the tenants for whom something is to be decoded."""
        self._left: dict[str, _Tenant] = {}
        """Those without an open utterance, until they owe nothing any more."""
        self._owing: dict[str, _Tenant] = {}
        """Those that were served since something last waited for nobody."""
        self._of: dict[int, _Tenant] = {}
        self._alone: set[int] = set()
        self._asked: dict[int, float] = {}
        """When a waiting partial was asked for, the oldest first."""
        self._finals: dict[int, None] = {}
        """Utterances whose final waits, the oldest first."""
        self._again: list[Job] = []
        self._level = 0
        self._turns = 0
        self._overtook = 0
        self._ranked = 0

    def __len__(self) -> int:
        return len(self._again) + sum(len(tenant.finals) + tenant.ready for tenant in self._waiting.values())

    def __bool__(self) -> bool:
        return bool(self._again or self._waiting)

    @property
    def spread(self) -> int:
        """Frames by which the accounts of those who wait differ."""
        accounts = [tenant.served for tenant in self._waiting.values()]
        return max(accounts, default=0) - min(accounts, default=0)

    def waiting(self) -> Iterator[int]:
        """Utterances for which something is to be decoded."""
        return (job.utterance for tenant in self._waiting.values() for job in tenant.jobs())

    def open(self, utterance: int, tenant: str = "", *, alone: bool = False) -> None:
        """`alone`: never together with another window."""
        owner = self._tenants.get(tenant)
        if owner is None:
            owner = self._tenants[tenant] = _Tenant(tenant, self._level)
        self._left.pop(tenant, None)
        owner.open += 1
        self._of[utterance] = owner
        if alone:
            self._alone.add(utterance)

    def drop(self, utterance: int) -> None:
        """Forget an utterance and what it wants."""
        owner = self._of.get(utterance)
        if owner is None:
            return
        self._remove(owner, utterance)
        del self._of[utterance]
        self._alone.discard(utterance)
        owner.open -= 1
        if not owner.open:
            self._left[owner.name] = owner

    def partial(self, utterance: int, request: int, now: float = 0.0) -> None:
        """Want a partial; without effect once the final is wanted. `now`: monotonic seconds."""
        owner = self._of[utterance]
        if utterance in self._finals:
            return
        waiting = owner.partials.get(utterance)
        before = waiting.requests[1 - REQUESTS_MAX :] if waiting else ()
        owner.partials[utterance] = Job(utterance, (*before, request))
        owner.ready += waiting is None
        self._asked.pop(utterance, None)
        self._asked[utterance] = now
        self._join(owner)

    def final(self, utterance: int) -> None:
        owner = self._of[utterance]
        if utterance not in self._finals:
            self._remove(owner, utterance)
            owner.finals[utterance] = Job(utterance)
            self._finals[utterance] = None
            self._join(owner)

    def again(self, jobs: Iterable[Job]) -> None:
        """These failed together: before anything else, each by itself."""
        self._again += [job for job in jobs if job.utterance in self._of and job.utterance not in self._finals]

    def expired(self, before: float) -> list[Job]:
        """Partials whose newest request is older; each keeps its place for the request that follows."""
        jobs = []
        while self._asked and next(iter(self._asked.values())) < before:
            utterance = next(iter(self._asked))
            del self._asked[utterance]
            owner = self._of[utterance]
            job = owner.partials[utterance]
            assert job is not None, "what was asked for waits"
            owner.partials[utterance] = None
            owner.ready -= 1
            self._leave(owner)
            jobs.append(job)
        return jobs

    def take(
        self, frames: Callable[[int], int] = lambda _utterance: 1, room: Callable[[int], int] = lambda _frames: 1
    ) -> list[Job]:
        """The next call's windows; they wait no longer. `frames`: length of an utterance's window; `room`: how many
        windows of a length go into one call."""
        if self._again:
            return [self._again.pop(0)]
        if not self._waiting:
            self._forget_debts()
            return []
        lead = self._lead()
        length = frames(lead.utterance)
        size = 1 if lead.utterance in self._alone else room(length)
        self._serve(lead, length)
        return [lead, *self._riders(length, frames, size - 1)] if size > 1 else [lead]

    def _lead(self) -> Job:
        """Whose turn it is."""
        waiting = self._waiting.values()
        least = min(waiting, key=lambda tenant: tenant.account)
        self._level = max(self._level, least.served)
        for tenant in [tenant for tenant in self._left.values() if tenant.served <= self._level]:
            self._forget(tenant)
        if not self._finals:
            return next(least.jobs())
        first = min((tenant for tenant in waiting if tenant.finals), key=lambda tenant: tenant.account)
        self._overtook = self._overtook + 1 if first.served > least.served else 0
        if self._overtook > OVERTAKES_MAX:
            self._overtook = 0
            return next(least.jobs())
        self._ranked = (self._ranked + 1) % OLDEST_EVERY
        return Job(next(iter(self._finals))) if not self._ranked else next(first.jobs())

    def _riders(self, length: int, frames: Callable[[int], int], count: int) -> list[Job]:
        """Up to `count` more windows of this length: finals first, then by who got least, newly judged for each."""
        riders: list[Job] = []
        lines = []
        for name, tenant in self._waiting.items():
            jobs = [j for j in tenant.jobs() if j.utterance not in self._alone and frames(j.utterance) == length]
            if jobs:
                lines.append((not jobs[0].is_final, tenant.account, name, jobs[::-1], tenant))
        heapq.heapify(lines)
        while lines and len(riders) < count:
            _, _, name, jobs, tenant = heapq.heappop(lines)
            riders.append(jobs.pop())
            self._serve(riders[-1], length)
            if jobs:
                heapq.heappush(lines, (not jobs[-1].is_final, tenant.account, name, jobs, tenant))
        return riders

    def _serve(self, job: Job, frames: int) -> None:
        owner = self._of[job.utterance]
        self._remove(owner, job.utterance)
        owner.served += frames
        self._owing[owner.name] = owner
        self._turns += 1
        owner.turn = self._turns

    def _join(self, owner: _Tenant) -> None:
        """Who wanted nothing comes back at the level of those who waited."""
        if owner.name not in self._waiting:
            owner.served = max(owner.served, self._level)
            self._waiting[owner.name] = owner

    def _leave(self, owner: _Tenant) -> None:
        if not owner.finals and not owner.ready:
            self._waiting.pop(owner.name, None)

    def _remove(self, owner: _Tenant, utterance: int) -> None:
        """It waits for nothing any more."""
        owner.finals.pop(utterance, None)
        self._finals.pop(utterance, None)
        owner.ready -= owner.partials.pop(utterance, None) is not None
        self._asked.pop(utterance, None)
        if self._again:
            self._again = [job for job in self._again if job.utterance != utterance]
        self._leave(owner)

    def _forget_debts(self) -> None:
        for tenant in list(self._left.values()):
            self._forget(tenant)
        for tenant in self._owing.values():
            tenant.served = self._level
        self._owing.clear()

    def _forget(self, tenant: _Tenant) -> None:
        del self._left[tenant.name], self._tenants[tenant.name]
