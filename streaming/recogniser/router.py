"""Which decoder process serves which utterance, decided without touching a process or a socket.

Policy: a process serves one utterance at a time and is used again. `SPARES` idle ones are kept forked ahead, so an
`Open` never waits for a fork; idle ones beyond `IDLE_MAX` end. A process that dies, answers nonsense or makes no
progress for `STALL_S` takes only its own utterance with it (`Lost`). The dead are replaced at the next `Open` or
tick, never at once: a process that cannot start costs one fork a second, not a fork storm.

Admission needs to know when there is no time for another stream: once a second the router tells who holds how many
places (`Load`), and when the decoders want more time than the cores have, how few streams that is. Nothing is thinned
out here: a partial costs nothing beside the audio, so a stream that cannot keep up shows by its lag.

Bounds: audio sent and not yet decoded is at most `inflight_bytes_max` per utterance, checked here although the
server waits by itself, so every buffer behind this router is bounded whatever the server does.

Pure: each input returns effects for `streaming.recogniser.worker` to carry out, in order.
Invariant: every utterance that was opened gets exactly one of `FinalReady`, `Discarded` or `Lost`.
"""

from typing import TypeAlias

import msgspec

from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE
from streaming.recogniser import link
from streaming.recogniser.cadence import ON_TIME_HOPS
from streaming.recogniser.usage import Usage

SPARES = 2
"""Idle processes kept ahead: a fork takes 3 ms, and more than two utterances rarely begin within it."""
IDLE_MAX = LIMITS.worker_idle_max
STALL_S = LIMITS.worker_stall_ms / 1000
LOAD_EVERY_S = 1.0


class Fork(msgspec.Struct, frozen=True):
    """Start decoder process `child`."""

    child: int


class Send(msgspec.Struct, frozen=True):
    """Send a payload (without header) to `child`; `urgent` first drops what still waits to be sent to it."""

    child: int
    payload: bytes
    urgent: bool = False


class Reply(msgspec.Struct, frozen=True):
    """Send an encoded answer (without header) to the server."""

    payload: bytes


class End(msgspec.Struct, frozen=True):
    """Kill and reap `child`; it is forgotten already."""

    child: int


class Log(msgspec.Struct, frozen=True):
    message: str


Effect: TypeAlias = Fork | Send | Reply | End | Log


class _Child(msgspec.Struct):
    """`owed`: answers that the process owes, `since`: when it last made progress on them."""

    utterance: int | None = None
    tenant: str = ""
    discarding: bool = False
    inflight_bytes: int = 0
    fed_bytes: int = 0
    owed: int = 0
    since: float = 0.0


class Router:
    """`utterances_max`: decoder processes at most; `utterance_ms_max`: twice that much audio ends an utterance;
    `cores`: what the processes share."""

    def __init__(
        self,
        utterances_max: int,
        utterance_ms_max: int,
        *,
        cores: int = 1,
        inflight_bytes_max: int = LIMITS.worker_inflight_bytes_max,
    ) -> None:
        self._max = utterances_max
        self._cores = cores
        self._inflight_bytes_max = inflight_bytes_max
        self._fed_bytes_max = 2 * utterance_ms_max * (SAMPLE_RATE // 1000) * 2
        self._children: dict[int, _Child] = {}
        self._serving: dict[int, int] = {}
        self._next = 0
        self._usage = Usage()
        self._told: link.Load | None = None
        self._told_at = 0.0
        self._worked_s = 0.0
        """By all processes since the last report."""

    def start(self) -> list[Effect]:
        return self._top_up()

    def tick(self, now: float) -> list[Effect]:
        """Once a second: end stalled processes, replace missing spares, tell the load. `now`: monotonic seconds."""
        effects: list[Effect] = []
        for number, child in list(self._children.items()):
            if child.owed and now - child.since > STALL_S:
                effects += self._drop(number, "the decoder made no progress")
        return effects + self._top_up() + self._load(now)

    def from_server(self, payload: bytes, now: float) -> list[Effect]:
        """One payload that the server sent."""
        try:
            request = link.decode_request(payload)
        except link.BadFrame as error:
            return self.refuse(str(error))
        if isinstance(request, link.Open):
            return self._open(request, payload, now)
        number = self._serving.get(request.utterance)
        if number is None:
            # The utterance is lost and the server may not know yet: no defect, but it must learn.
            if isinstance(request, link.Discard):
                return [_reply(link.Discarded(request.utterance))]
            return [_reply(link.Lost(request.utterance, "no such utterance"))]
        child = self._children[number]
        if child.discarding:
            return []
        if not child.owed:
            child.since = now
        child.owed += 1
        if isinstance(request, link.Discard):
            child.discarding = True
            return [Send(number, payload, urgent=True)]
        if isinstance(request, link.Audio):
            child.inflight_bytes += len(request.pcm)
            child.fed_bytes += len(request.pcm)
            if child.inflight_bytes > self._inflight_bytes_max:
                return self._drop(number, "more audio on the way than allowed")
            if child.fed_bytes > self._fed_bytes_max:
                return self._drop(number, "the utterance is too long")
        return [Send(number, payload)]

    def from_child(self, number: int, payload: bytes, now: float) -> list[Effect]:
        """One payload that a decoder process sent."""
        child = self._children.get(number)
        if child is None:
            return []
        try:
            answer = link.decode_answer(payload)
        except link.BadFrame:
            return self._drop(number, "the decoder sent nonsense")
        foreign = link.Hello | link.Refused | link.Lost | link.Begun | link.Load | link.Expired
        if isinstance(answer, foreign) or answer.utterance != child.utterance:
            return self._drop(number, "the decoder answered out of turn")
        self._worked_s += now - child.since
        child.since = now
        child.owed -= 1
        if isinstance(answer, link.Taken):
            child.inflight_bytes -= answer.n_bytes
        ended = isinstance(answer, link.FinalReady) and not child.discarding
        if not ended and not isinstance(answer, link.Discarded):
            return [] if child.discarding else [Reply(payload)]
        del self._serving[answer.utterance]
        self._children[number] = _Child()
        if sum(c.utterance is None for c in self._children.values()) <= IDLE_MAX:
            return [Reply(payload)]
        del self._children[number]
        return [Reply(payload), End(number)]

    def child_gone(self, number: int) -> list[Effect]:
        """The process died or could not be forked."""
        return self._drop(number, "the decoder died") if number in self._children else []

    def refuse(self, reason: str) -> list[Effect]:
        """Answer a frame that made no sense."""
        return [Log(f"refused a frame: {reason}"), _reply(link.Refused(reason))]

    def _open(self, request: link.Open, payload: bytes, now: float) -> list[Effect]:
        if request.utterance in self._serving:
            return self.refuse("an utterance number was used twice")
        idle = next((n for n, c in self._children.items() if c.utterance is None), None)
        effects: list[Effect] = []
        if idle is None:
            if len(self._children) >= self._max:
                return [_reply(link.Lost(request.utterance, "no decoder is free"))]
            idle = self._fork(effects)
        child = self._children[idle]
        child.utterance, child.tenant = request.utterance, request.spec.tenant
        child.since = now
        self._serving[request.utterance] = idle
        return [*effects, Send(idle, payload), *self._top_up()]

    def _load(self, now: float) -> list[Effect]:
        """A place cannot be shared as a model's time can: admission, which gives a model away `ON_TIME_HOPS` times, is
        told of as many times what a place is."""
        seconds = now - self._told_at
        if seconds < LOAD_EVERY_S:
            return []
        serving = [child for child in self._children.values() if child.utterance is not None]
        worked = self._worked_s / seconds / self._cores
        each = ON_TIME_HOPS * max(1 / self._max, worked / max(1, len(serving)))
        wants: dict[str, float] = {}
        for child in serving:
            wants[child.tenant] = wants.get(child.tenant, 0.0) + each
        self._usage.step(wants, {}, len(serving))
        self._told_at, self._worked_s = now, 0.0
        load = link.Load(
            utterances=len(serving),
            busy=round(min(1.0, max(worked, len(serving) / self._max)), 3),
            delay_ms=round(1000 * max((now - child.since for child in serving if child.owed), default=0.0)),
            each=round(self._usage.each or each, 4),
            wants=self._usage.heaviest(),
        )
        changed, self._told = load != self._told, load
        return [_reply(load)] if changed else []

    def _top_up(self) -> list[Effect]:
        effects: list[Effect] = []
        idle = sum(c.utterance is None for c in self._children.values())
        for _ in range(min(SPARES - idle, self._max - len(self._children))):
            self._fork(effects)
        return effects

    def _fork(self, effects: list[Effect]) -> int:
        self._next += 1
        self._children[self._next] = _Child()
        effects.append(Fork(self._next))
        return self._next

    def _drop(self, number: int, reason: str) -> list[Effect]:
        """Forget a process; its utterance is lost, or discarded when that was wanted anyway."""
        child = self._children.pop(number)
        effects: list[Effect] = [Log(f"decoder {number} ends: {reason}"), End(number)]
        if child.utterance is not None:
            del self._serving[child.utterance]
            if child.discarding:
                effects.append(_reply(link.Discarded(child.utterance)))
            else:
                effects.append(_reply(link.Lost(child.utterance, reason)))
        return effects


def _reply(answer: link.Answer) -> Reply:
    return Reply(link.payload(answer))


__all__ = ["IDLE_MAX", "SPARES", "STALL_S", "Effect", "End", "Fork", "Log", "Reply", "Router", "Send"]
