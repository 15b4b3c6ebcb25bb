"""What a worker with one shared model owes to whom, decided without touching a model, a thread or a socket.

Keeps the audio of every open utterance, turns requests into jobs (`streaming.recogniser.schedule`) and results into
answers. Audio is taken the moment it comes; a discard frees its place at once, also while the utterance is being
decoded: the result then means nothing.

Bounds: `utterances_max` utterances, each with at most twice the audio of the longest one.

Pure: requests and results in, answers out; `streaming.recogniser.shared` carries them.
Invariant: every utterance that was opened gets exactly one of `FinalReady`, `Discarded` or `Lost`.
"""

import msgspec
import numpy as np

from streaming.limits import LIMITS
from streaming.model import Final, UtteranceSpec, samples_of
from streaming.ports import Pcm16
from streaming.recogniser import link
from streaming.recogniser.engine import Heard, Window
from streaming.recogniser.schedule import Job, Schedule

STALL_S = LIMITS.worker_stall_ms / 1000


class _Utterance:
    def __init__(self, spec: UtteranceSpec) -> None:
        self.spec = spec
        self.memory: object = None
        self.samples = 0
        self._pieces: list[Pcm16] = []

    def add(self, audio: Pcm16) -> None:
        self._pieces.append(audio)
        self.samples += len(audio)

    @property
    def audio(self) -> Pcm16:
        if len(self._pieces) != 1:
            self._pieces = [np.concatenate(self._pieces) if self._pieces else np.empty(0, np.int16)]
        return self._pieces[0]


class Work(msgspec.Struct, frozen=True):
    """A job with the window to decode for it."""

    job: Job
    window: Window


class Windows:
    """The open utterances of one shared model. One `Work` is under way at a time: `begin`, then `done` or `failed`."""

    def __init__(self, utterances_max: int, utterance_ms_max: int) -> None:
        self._max = utterances_max
        self._samples_max = 2 * samples_of(utterance_ms_max)
        self._open: dict[int, _Utterance] = {}
        self._schedule = Schedule()
        self._under_way: tuple[Work, _Utterance] | None = None
        self._since = 0.0

    def from_server(self, request: link.Request) -> list[link.Answer]:
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
            utterance.add(link.pcm_samples(request.pcm))
            if utterance.samples > self._samples_max:
                return self._lose(number, "the utterance is too long")
            return [link.Taken(number, len(request.pcm))]
        if isinstance(request, link.AskPartial):
            self._schedule.partial(number, request.request)
        else:
            self._schedule.final(number)
        return []

    def begin(self, now: float) -> Work | None:
        """The next thing to decode, None while something is under way or nothing waits. `now`: monotonic seconds."""
        if self._under_way is not None:
            return None
        job = self._schedule.take()
        if job is None:
            return None
        utterance = self._open[job.utterance]
        work = Work(job, Window(utterance.spec, utterance.audio, job.is_final, utterance.memory))
        self._under_way, self._since = (work, utterance), now
        return work

    def done(self, heard: Heard) -> list[link.Answer]:
        """What is under way has this result."""
        job, utterance = self._end_work()
        if self._open.get(job.utterance) is not utterance:
            return []
        if job.is_final:
            self._forget(job.utterance)
            return [link.FinalReady(job.utterance, Final(heard.hypothesis, heard.context))]
        utterance.memory = heard.memory
        return [link.PartialReady(job.utterance, request, heard.hypothesis) for request in job.requests]

    def failed(self, reason: str) -> list[link.Answer]:
        """What is under way has no result. `reason` never holds speech."""
        job, utterance = self._end_work()
        return self._lose(job.utterance, reason) if self._open.get(job.utterance) is utterance else []

    def stalled(self, now: float) -> bool:
        """What is under way takes too long to be alive."""
        return self._under_way is not None and now - self._since > STALL_S

    def _begin_utterance(self, request: link.Open) -> list[link.Answer]:
        if request.utterance in self._open:
            return [link.Refused("an utterance number was used twice")]
        if len(self._open) >= self._max:
            return [link.Lost(request.utterance, "no place is free")]
        self._open[request.utterance] = _Utterance(request.spec)
        return []

    def _end_work(self) -> tuple[Job, _Utterance]:
        assert self._under_way is not None, "a result belongs to a work"
        work, utterance = self._under_way
        self._under_way = None
        return work.job, utterance

    def _lose(self, number: int, reason: str) -> list[link.Answer]:
        self._forget(number)
        return [link.Lost(number, reason)]

    def _forget(self, number: int) -> None:
        self._open.pop(number, None)
        self._schedule.drop(number)
