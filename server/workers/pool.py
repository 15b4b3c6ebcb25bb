"""Several workers behind one `Recogniser`: one for each device.

Policy: an utterance goes to the worker that will have the most time for it: the fewest utterances for what each of them
costs there, so a GPU gets more of them than a CPU. One that is down gets none; what it had is offered again by its
callers and goes to the others. Each is started again by itself.

Invariant: an utterance stays where it was opened.
"""

import asyncio
from collections.abc import Sequence

from server.workers.load import Starts, has_room
from server.workers.local import LocalRecogniser
from streaming.aio import Scope
from streaming.errors import Overloaded, WorkerLost
from streaming.limits import Limits
from streaming.model import Capabilities, UtteranceSpec
from streaming.ports import Recogniser, UtteranceDecoder


class Pool(Recogniser):
    """`workers`: at least one, all with the same engine and model."""

    def __init__(self, workers: Sequence[LocalRecogniser], limits: Limits) -> None:
        self.workers = tuple(workers)
        self._limits = limits
        self._starts = Starts(limits.starts_remembered_ms)

    @property
    def state(self) -> str:
        """ "ready" when a worker is, else "starting" or "down"."""
        states = {worker.state for worker in self.workers}
        return next(state for state in ("ready", "starting", "down") if state in states)

    @property
    def whole(self) -> bool:
        """All workers are ready."""
        return all(worker.state == "ready" for worker in self.workers)

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self.workers if worker.pid is not None]

    @property
    def capabilities(self) -> Capabilities:
        """Of the first worker that has said what it can do. Raises `WorkerLost` before."""
        known = next((worker for worker in self.workers if worker.started), self.workers[0])
        return known.capabilities

    def is_thinned(self, tenant: str) -> bool:
        """A tenant's partials come at fewer hops than they should."""
        return any(tenant in worker.load.hops for worker in self.workers)

    def admit(self, tenant: str, *, first: bool = False) -> None:
        """A new stream. Raises `Overloaded` when its captions could not be on time, except for the `first`: no other
        stream is here, so there is nobody to refuse it for."""
        now = asyncio.get_running_loop().time()
        loads = [worker.load for worker in self.workers if worker.state == "ready"]
        if not first and not has_room(tenant, loads, self._starts.of(tenant, now)):
            raise Overloaded(
                "The recogniser has no time for another live stream.", retry_after_ms=self._limits.overloaded_retry_ms
            )
        self._starts.add(tenant, now)

    async def ready(self) -> None:
        """Wait until the first worker has loaded its model."""
        async with Scope("ready") as scope:
            waiting = [scope.spawn(worker.ready(), name=worker.name) for worker in self.workers]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def open(self, spec: UtteranceSpec) -> UtteranceDecoder:
        ready = [worker for worker in self.workers if worker.state == "ready"]
        if not ready:
            raise WorkerLost("the recogniser is not running", retry_after_ms=self._limits.worker_restart_ms_max)
        return await min(ready, key=_load_with_one_more).open(spec)

    async def run(self) -> None:
        """Keep the workers alive until cancelled."""
        async with asyncio.TaskGroup() as group:
            for worker in self.workers:
                group.create_task(worker.run(), name=worker.name)


def _load_with_one_more(worker: LocalRecogniser) -> tuple[bool, float, int]:
    utterances = worker.utterances + 1
    return worker.full, utterances * worker.load.each, utterances
