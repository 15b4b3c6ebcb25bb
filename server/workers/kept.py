"""A worker process of the models environment that is kept only where there are weights for it.

Policy: a worker says what it can do when it is ready. One that can do nothing is ended again, because a process with
torch takes 500 MB for nothing, and the next is not started before `recheck`: a model was pulled, or the environment was
installed. What waits while the worker dies gets `WorkerLost`; the caller has what it asked about and asks again.

Boundary: the worker answers over `streaming.calls`; what is said is its subclass' business.
Invariant: `info` is there exactly while a call can be answered.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from server.workers.calls import CallWorker
from streaming.aio import Signal
from streaming.errors import WorkerLost

Info = TypeVar("Info")

log = logging.getLogger(__name__)


class KeptWorker(Generic[Info]):
    """`python`: the models environment's interpreter, which may not be there yet; `make`: a worker that does not run
    yet; `able`: what it says it can do, None for nothing; `present`, `absent`: logged for each case."""

    def __init__(
        self,
        name: str,
        python: Path,
        make: Callable[[], CallWorker],
        able: Callable[[bytes], Info | None],
        *,
        present: str,
        absent: str,
    ) -> None:
        self._name = name
        self._python = python
        self._make = make
        self._able = able
        self._logged = {True: present, False: absent}
        self._again = Signal()
        self._worker: CallWorker | None = None
        self._said: bytes | None = None
        self._info: Info | None = None

    @property
    def state(self) -> str:
        """ "starting", "ready" or "down"; "off" while there are no weights."""
        return "off" if self._worker is None else self._worker.state

    @property
    def pid(self) -> int | None:
        return None if self._worker is None else self._worker.pid

    @property
    def info(self) -> Info | None:
        """What can be had now; None while the worker is not ready."""
        said = None if self._worker is None else self._worker.info
        if said is not self._said:
            self._said = said
            self._info = None if said is None else self._able(said)
        return self._info

    def recheck(self) -> None:
        """Look again: a model or the environment arrived. A running worker is started anew."""
        self._again.set()

    async def call(self, body: bytes) -> bytes:
        """Raises `WorkerLost` (ask again), `Unavailable` when too many wait (ask later), `CallFailed` (do not)."""
        if self._worker is None:
            raise WorkerLost(f"There is no {self._name} worker now.")
        return await self._worker.call(body)

    async def run(self) -> None:
        """A component: keep a worker where there is work for it, until cancelled."""
        while True:
            found = await asyncio.to_thread(self._python.exists) and await self._serve()
            if not found:
                await self._again.wait()

    async def _serve(self) -> bool:
        """Run a worker until it is to look again; False when it has no weights."""
        self._worker = worker = self._make()
        try:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(worker.run(), name=self._name)
                await worker.ready()
                found = self.info is not None
                log.info(self._logged[found])
                if found:
                    await self._again.wait()
                running.cancel()
        finally:
            self._worker = None
        return found
