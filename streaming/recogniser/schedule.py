"""Which utterance a shared model hears next.

Policy: finals first, in order of arrival, and never dropped; then the partial that was asked for first. An utterance
has at most one partial waiting: a newer request joins it and keeps its place, so one decode answers both, and a final
takes its place.

This is where fairness between tenants and batches of equal windows belong: `take` would return several jobs.

Pure. Invariant: every final that was put in comes out once, unless its utterance is dropped.
"""

import msgspec

REQUESTS_MAX = 8
"""Requests that one decode answers, the newest of them: a caller asks one at a time, or gave the older ones up."""


class Job(msgspec.Struct, frozen=True):
    """One window to decode. `requests`: the partial requests that its result answers; none: it is the final."""

    utterance: int
    requests: tuple[int, ...] = ()

    @property
    def is_final(self) -> bool:
        return not self.requests


class Schedule:
    """Jobs that wait; their number is bounded by the utterances that are open."""

    def __init__(self) -> None:
        self._finals: dict[int, Job] = {}
        self._partials: dict[int, Job] = {}

    def __len__(self) -> int:
        return len(self._finals) + len(self._partials)

    def partial(self, utterance: int, request: int) -> None:
        """Want a partial; without effect once the final is wanted."""
        if utterance in self._finals:
            return
        waiting = self._partials.get(utterance)
        before = waiting.requests[1 - REQUESTS_MAX :] if waiting else ()
        self._partials[utterance] = Job(utterance, (*before, request))

    def final(self, utterance: int) -> None:
        self._partials.pop(utterance, None)
        self._finals.setdefault(utterance, Job(utterance))

    def drop(self, utterance: int) -> None:
        """Forget what an utterance wants."""
        self._partials.pop(utterance, None)
        self._finals.pop(utterance, None)

    def take(self) -> Job | None:
        """The next job; it waits no longer."""
        for jobs in (self._finals, self._partials):
            for utterance in jobs:
                return jobs.pop(utterance)
        return None
