"""Fetching a model from the server's or the command line's side, and the Whisper that comes by itself.

Policy (DESIGN, decision 10): with `engine=auto` and no Whisper here the tier's is fetched in the background. An
unreachable hub is one line in the log, then rare tries. Weights that come another way (`parlance models pull` beside
the running server) are noticed too.

Boundary: `server.models.fetch` runs as a process behind everything else; whoever is cancelled kills it, and what has
arrived stays.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from server.models.catalogue import MODELS, megabytes
from server.models.events import Done, Failed, FetchFailed, Note, Progress, parse
from server.models.process import module, told
from streaming.aio import Scope
from streaming.limits import Limits
from streaming.protocol.messages import StatusTask

TASK = "whisper_model"
LOOK_S = 5.0
"""Between looks into the cache: twelve file names."""

log = logging.getLogger(__name__)


async def fetch(name: str, cache: Path, tell: Callable[[Progress | Note], None]) -> Done:
    """Fetch a model, telling how it goes. Raises `FetchFailed`; killed with everything kept when cancelled."""
    end: Done | Failed | None = None

    def heard(line: str) -> bool:
        nonlocal end
        match event := parse(line):
            case Progress() | Note():
                tell(event)
            case Done() | Failed():
                end = event
        return event is not None

    command, settings = module("server.models.fetch", name, "--cache", str(cache))
    ended = await told(command, settings, heard)
    if isinstance(end, Done) and ended.status == 0:
        return end
    if isinstance(end, Failed):
        raise FetchFailed(end.reason, end.message)
    raise FetchFailed("failed", f"The program that fetches models ended {ended}.")


class ModelFetch:
    """`run` is a component that ends once a Whisper is here, after `on_model` was called with its folder. `name`: what
    is fetched; `look`: finds one that will do; `offline`: nothing is fetched, but what comes by hand is noticed. `task`
    is what the page shows, None when there is nothing to tell."""

    def __init__(
        self,
        cache: Path,
        *,
        name: str,
        look: Callable[[], Path | None],
        offline: bool,
        limits: Limits,
        on_model: Callable[[Path], Awaitable[object]],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._cache = cache
        self._offline = offline
        self._limits = limits
        self._on_model = on_model
        self._on_change = on_change
        self._name = name
        self._find = look
        self._logged_s = float("-inf")
        self.task: StatusTask | None = None

    async def run(self) -> None:
        """Until a Whisper is here."""
        path = await self._look()
        if path is None:
            async with Scope("whisper") as scope:
                waits = [scope.spawn(self._appear(), name="look")]
                if not self._offline:
                    waits.append(scope.spawn(self._arrive(), name="fetch"))
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                path = done.pop().result()
        if self.task is not None:
            self._tell("done", 1.0, f"Whisper {self._name} is here.")
        log.info("whisper weights are here", extra={"folder": str(path)})
        await self._on_model(path)

    async def _look(self) -> Path | None:
        return await asyncio.to_thread(self._find)

    async def _appear(self) -> Path:
        """Wait until somebody put a Whisper into the cache."""
        while True:
            await asyncio.sleep(LOOK_S)
            if (path := await self._look()) is not None:
                return path

    async def _arrive(self) -> Path:
        """Fetch it, trying again for ever where that can help."""
        size = f" ({megabytes(MODELS[self._name].size_bytes)})" if self._name in MODELS else ""
        while True:
            self._tell("running", 0.0, f"Fetching Whisper {self._name}{size}.")
            try:
                return Path((await fetch(self._name, self._cache, self._heard)).path)
            except FetchFailed as error:
                self._put_off(error.message, "waiting" if error.reason == "unreachable" else "failed")
            except OSError as error:
                self._put_off(f"The program that fetches models cannot be started: {error.strerror}.", "failed")
            await asyncio.sleep(self._limits.model_retry_ms / 1000)

    def _put_off(self, why: str, state: Literal["waiting", "failed"]) -> None:
        log.warning("whisper cannot be fetched now", extra={"model": self._name, "reason": why})
        self._tell(state, None, f"Whisper {self._name} cannot be fetched now: {why}")

    def _heard(self, event: Progress | Note) -> None:
        if isinstance(event, Note):
            log.info("fetching whisper", extra={"note": event.text})
            return
        here, total = megabytes(event.done_bytes), megabytes(event.total_bytes)
        self._tell("running", event.fraction, f"Fetching Whisper {self._name}: {here} of {total}.")
        now_s = asyncio.get_running_loop().time()
        if now_s - self._logged_s >= self._limits.models_log_interval_ms / 1000:
            self._logged_s = now_s
            log.info("fetching whisper", extra={"model": self._name, "percent": round(event.fraction * 100)})

    def _tell(self, state: Literal["waiting", "running", "done", "failed"], fraction: float | None, text: str) -> None:
        self.task = StatusTask(name=TASK, state=state, fraction=fraction, text=text)
        self._on_change()
