"""What a worker with one shared model owes to whom, decided without touching a model, a thread or a socket.

Keeps the audio of every open utterance, turns requests into calls (`streaming.recogniser.schedule` says whose) and
results into answers. Audio is taken the moment it comes; a discard frees its place at once, also while the utterance is
being decoded: the result then means nothing.

Policy: a call takes `CALL_PART` of the time between two partials at most, or `CALL_TIMES` what one window takes:
nothing interrupts it, and whoever comes meanwhile waits for its end. A partial that has waited for a hop is handed
back, because the server has newer audio by then. A batch that fails is tried window by window, so that one bad window
loses its utterance only. Each second the costs of what is open are compared with the model's time (`cadence`).

Bounds: `utterances_max` utterances, each with at most twice the audio of the longest one.

Pure: requests, results and times in, answers out; `streaming.recogniser.shared` carries them.
Invariant: every utterance that was opened gets exactly one of `FinalReady`, `Discarded` or `Lost`.
"""

import msgspec
import numpy as np

from streaming.limits import LIMITS
from streaming.model import Capabilities, Final, UtteranceSpec, samples_of
from streaming.ports import Pcm16
from streaming.recogniser import link
from streaming.recogniser.cadence import Cadence, Turns
from streaming.recogniser.costs import Costs
from streaming.recogniser.engine import Heard, Window, WindowEngine
from streaming.recogniser.schedule import Job, Schedule
from streaming.recogniser.usage import Usage

STALL_S_MIN, STALL_S = LIMITS.worker_stall_ms_min / 1000, LIMITS.worker_stall_ms / 1000
STALL_TIMES = 30
"""A call that takes so many times what was predicted is not alive."""
CALL_PART = 0.25
"""Of the time between two partials: 120 ms at 480. It is what a stream that comes a moment too late waits, so a lone
stream notices the others by a quarter of a hop at most."""
CALL_TIMES = 2
"""Where one window takes longer than that (a large model with fixed costs: 200 ms a call, 10 ms a window), others have
to ride along all the same: 30 streams beside a lone one, whose words come at 0.89 s (p95) instead of 1.47 s one by one;
the finals of 90 streams at 0.69 s instead of 1.69 s. Three times is no better, 1.5 times lets 70% of the partials
expire."""
LOAD_EVERY_S = 1.0
SPEAKS_S = 1.5
"""Without audio for so long an utterance wants no partials: its client stalls. Audio comes ten times a second."""
CROWD_WEIGHT = 0.1
"""Of the newest call that left others waiting."""


class _Utterance:
    """`fed_at`: when audio came last; `memory`: the engine's; `frames`: length of its window, None after a change."""

    def __init__(self, spec: UtteranceSpec, parts: int) -> None:
        self.spec = spec
        self.memory: object = None
        self.turns = Turns(parts)
        self.ended = False
        self.fed_at = 0.0
        self.samples = 0
        self.frames: int | None = None
        self._buffer: Pcm16 = np.empty(0, np.int16)

    def add(self, audio: Pcm16, now: float) -> None:
        """Append to a buffer that grows by half: windows are views of it, and never written to again."""
        end = self.samples + len(audio)
        if end > len(self._buffer):
            grown = np.empty(max(end, len(self._buffer) * 3 // 2), np.int16)
            grown[: self.samples] = self._buffer[: self.samples]
            self._buffer = grown
        self._buffer[self.samples : end] = audio
        self.samples, self.fed_at, self.frames = end, now, None

    def window(self) -> Window:
        return Window(self.spec, self._buffer[: self.samples], self.ended, self.memory)


class Work(msgspec.Struct, frozen=True):
    """What one call decodes: `jobs` with their `windows`, all `frames` long. `crowded`: others have to wait for it."""

    jobs: tuple[Job, ...]
    windows: tuple[Window, ...]
    frames: int
    crowded: bool = False


class Windows:
    """The open utterances of one shared model. One `Work` is under way at a time: `begin`, then `done` or `failed`.
    `now` is in monotonic seconds everywhere."""

    def __init__(self, engine: WindowEngine, capabilities: Capabilities | None = None) -> None:
        self._engine = engine
        capabilities = capabilities or engine.capabilities
        self._max = capabilities.utterances_max
        self._batch_max = capabilities.batch_max
        self._samples_max = 2 * samples_of(capabilities.utterance_ms_max)
        self._hop_s = capabilities.hop_ms / 1000
        self._parts = capabilities.parts
        self._open: dict[int, _Utterance] = {}
        self._schedule = Schedule()
        self.costs = Costs()
        self._cadence = Cadence()
        self._under_way: tuple[Work, tuple[_Utterance, ...]] | None = None
        self._since = 0.0
        self._told_at = -LOAD_EVERY_S
        self._spent = _Spent()
        self._usage = Usage()

    @property
    def spread(self) -> int:
        """Frames by which the tenants that wait were served differently."""
        return self._schedule.spread

    def from_server(self, request: link.Request, now: float) -> list[link.Answer]:
        """What the server wants; returns the answers that it gets at once."""
        if isinstance(request, link.Open):
            return self._begin_utterance(request)
        number = request.utterance
        utterance = self._open.get(number)
        if isinstance(request, link.Discard):
            self._forget(number)
            return [link.Discarded(number)]
        if utterance is None:
            return [link.Lost(number, "no such utterance")]
        if isinstance(request, link.Audio):
            utterance.add(link.pcm_samples(request.pcm), now)
            if utterance.samples > self._samples_max:
                return self._lose(number, "the utterance is too long")
            return [link.Taken(number, len(request.pcm))]
        if isinstance(request, link.AskPartial):
            self._schedule.partial(number, request.request, now)
        else:
            utterance.ended, utterance.frames = True, None
            self._schedule.final(number)
        return []

    def expire(self, now: float) -> list[link.Answer]:
        """Hand back the partials that have waited for a hop."""
        jobs = self._schedule.expired(now - self._hop_s)
        return [link.Expired(job.utterance, request) for job in jobs for request in job.requests]

    def begin(self, now: float) -> Work | None:
        """The next thing to decode, None while something is under way or nothing waits."""
        if self._under_way is not None:
            return None
        jobs = self._schedule.take(self._frames, self._room)
        if not jobs:
            return None
        utterances = tuple(self._open[job.utterance] for job in jobs)
        windows = tuple(utterance.window() for utterance in utterances)
        work = Work(tuple(jobs), windows, self._frames(jobs[0].utterance), crowded=bool(self._schedule))
        self._under_way, self._since = (work, utterances), now
        return work

    def started(self, now: float) -> None:
        """What was begun is with the model now, and its time counts."""
        self._since = now

    def done(self, heard: list[Heard], now: float) -> list[link.Answer]:
        """What is under way has these results."""
        work, utterances = self._end_work()
        seconds = now - self._since
        self.costs.learn(work.frames, len(work.jobs), seconds)
        self._spent.count(work, seconds)
        answers: list[link.Answer] = []
        for job, utterance, result in zip(work.jobs, utterances, heard, strict=True):
            if self._open.get(job.utterance) is not utterance:
                continue
            if job.is_final:
                self._forget(job.utterance)
                answers.append(link.FinalReady(job.utterance, Final(result.hypothesis, result.context)))
                continue
            utterance.memory, utterance.frames = result.memory, None
            pace = self._cadence.hops(utterance.spec.tenant)
            hops = utterance.turns.next(pace if self._parts > 1 else max(1, pace))
            hypothesis = msgspec.structs.replace(result.hypothesis, hops=hops)
            answers += [link.PartialReady(job.utterance, request, hypothesis) for request in job.requests]
        return answers

    def failed(self, reason: str) -> list[link.Answer]:
        """What is under way has no result. `reason` never holds speech."""
        work, utterances = self._end_work()
        known = [j for j, u in zip(work.jobs, utterances, strict=True) if self._open.get(j.utterance) is u]
        if len(work.jobs) > 1:
            self._schedule.again(known)
            return []
        return [answer for job in known for answer in self._lose(job.utterance, reason)]

    def stalled(self, now: float) -> bool:
        """What is under way takes too long to be alive."""
        if self._under_way is None:
            return False
        work = self._under_way[0]
        expected = self.costs.seconds(work.frames, len(work.jobs))
        patience = min(STALL_S, max(STALL_S_MIN, STALL_TIMES * expected)) if expected else STALL_S
        return now - self._since > patience

    def load(self, now: float) -> link.Load | None:
        """Once a second: how busy the model is and for whom; None in between."""
        seconds = now - self._told_at
        if seconds < LOAD_EVERY_S:
            return None
        self._told_at = now
        partials: dict[str, float] = {}
        speaking = 0
        costs: dict[int, float] = {}
        for utterance in self._open.values():
            frames = self._frames_of(utterance)
            if frames not in costs:
                costs[frames] = self._cost(frames)
            if not utterance.ended and now - utterance.fed_at < SPEAKS_S:
                speaking += 1
                tenant = utterance.spec.tenant
                partials[tenant] = partials.get(tenant, 0.0) + costs[frames] / self._hop_s
        busy, finals = self._spent.shares(seconds)
        self._usage.step(partials, finals, speaking)
        self._cadence.step(self._usage.wants, self._usage.each)
        return link.Load(
            utterances=len(self._open),
            busy=round(busy, 3),
            delay_ms=round(1000 * self._delay(now, costs)),
            each=round(self._usage.each, 4),
            wants=self._usage.heaviest(),
            hops=self._cadence.thinned,
        )

    def _delay(self, now: float, costs: dict[int, float]) -> float:
        """Seconds until all that waits now would be decoded. `costs`: of one window, by its length."""
        waiting = sum(costs[self._frames(number)] for number in self._schedule.waiting())
        if self._under_way is not None:
            work = self._under_way[0]
            waiting += max(0.0, self.costs.seconds(work.frames, len(work.jobs)) - (now - self._since))
        return waiting

    def _cost(self, frames: int) -> float:
        """Seconds of the model's time for one window, among as many as are found when many wait."""
        size = self._room(frames)
        if self._spent.crowd is not None:
            size = min(size, max(1, round(self._spent.crowd)))
        return self.costs.seconds(frames, size) / size

    def _room(self, frames: int) -> int:
        seconds_max = max(CALL_PART * self._hop_s, CALL_TIMES * self.costs.seconds(frames))
        return self.costs.fits(frames, self._batch_max, seconds_max)

    def _frames(self, number: int) -> int:
        return self._frames_of(self._open[number])

    def _frames_of(self, utterance: _Utterance) -> int:
        if utterance.frames is None:
            utterance.frames = self._engine.frames(utterance.window())
        return utterance.frames

    def _begin_utterance(self, request: link.Open) -> list[link.Answer]:
        if request.utterance in self._open:
            return [link.Refused("an utterance number was used twice")]
        if len(self._open) >= self._max:
            return [link.Lost(request.utterance, "no place is free")]
        self._open[request.utterance] = _Utterance(request.spec, self._parts)
        self._schedule.open(request.utterance, request.spec.tenant, alone=request.spec.alone)
        return []

    def _end_work(self) -> tuple[Work, tuple[_Utterance, ...]]:
        assert self._under_way is not None, "a result belongs to a work"
        ended, self._under_way = self._under_way, None
        return ended

    def _lose(self, number: int, reason: str) -> list[link.Answer]:
        self._forget(number)
        return [link.Lost(number, reason)]

    def _forget(self, number: int) -> None:
        self._open.pop(number, None)
        self._schedule.drop(number)


class _Spent:
    """What the model did since the last report. `crowd`: windows in a call that left others waiting, which is what a
    batch finds when it is needed; None: never seen."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.finals: dict[str, float] = {}
        self.crowd: float | None = None

    def count(self, work: Work, seconds: float) -> None:
        self.seconds += seconds
        size = len(work.jobs)
        if work.crowded:
            self.crowd = size if self.crowd is None else self.crowd + CROWD_WEIGHT * (size - self.crowd)
        for job, window in zip(work.jobs, work.windows, strict=True):
            if job.is_final:
                tenant = window.spec.tenant
                self.finals[tenant] = self.finals.get(tenant, 0.0) + seconds / size

    def shares(self, seconds: float) -> tuple[float, dict[str, float]]:
        """Of these seconds: all that was decoded, and the finals by tenant; then it begins anew."""
        busy = min(1.0, self.seconds / seconds)
        finals = {tenant: spent / seconds for tenant, spent in self.finals.items()}
        self.seconds, self.finals = 0.0, {}
        return busy, finals


__all__ = ["CALL_PART", "STALL_S", "Windows", "Work"]
