"""The embedding models that are open: the configured one, and for queries the one before while the index changes.

Policy: what was said before is found by the older model's vectors until the index has all of the newer one's, so a
second worker is kept for as long as the current edition has another model than the configured worker. If that model
cannot be loaded any more, search goes on with words and the newer vectors, which is logged once.

Boundary: `Embedder`s made by `make` from what the configuration said; editions through the store. `run` is a component.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

from search.ports import Embedder
from server.store.editions import StoredEditions
from streaming.aio import Scope
from streaming.errors import Unavailable
from streaming.limits import LIMITS, Limits

log = logging.getLogger(__name__)


class RunningEmbedder(Embedder, Protocol):
    async def run(self) -> None:
        """Keep it alive until cancelled."""
        ...


class Embedders:
    """`configured`: runs elsewhere; `make`: another one, by how the configuration named its model ("" the default)."""

    def __init__(
        self,
        configured: Embedder,
        make: Callable[[str], RunningEmbedder],
        editions: StoredEditions,
        limits: Limits = LIMITS,
    ) -> None:
        self._configured = configured
        self._make = make
        self._editions = editions
        self._limits = limits
        self._older: tuple[str, Embedder] | None = None

    def open(self) -> tuple[Embedder, ...]:
        """Those that queries are to be embedded with, the configured one first, which may not be ready."""
        if self._older is not None:
            model, older = self._older
            if older.info is not None and older.info.model == model:
                return self._configured, older
        return (self._configured,)

    async def run(self) -> None:
        while True:
            await self._configured.ready()
            wanted = await self._wanted()
            if wanted is None:
                await self._pause()
            else:
                await self._keep(*wanted)

    async def _wanted(self) -> tuple[str, str] | None:
        """(model, how it was named) of the edition that is searched, where it is another than the configured one."""
        info = self._configured.info
        with contextlib.suppress(Unavailable):
            for edition in await self._editions.all():
                shape = edition.shape
                if edition.state == "current" and shape.model and info is not None and shape.model != info.model:
                    return shape.model, shape.spec
        return None

    async def _keep(self, model: str, spec: str) -> None:
        """Run it for as long as it is wanted."""
        log.info("the model of the searched index is kept for queries", extra={"model": model})
        older = self._make(spec)
        began, told = time.monotonic(), False
        async with Scope("older embedder") as scope:
            scope.spawn(older.run(), name="run")
            self._older = (model, older)
            try:
                while await self._wanted() == (model, spec):
                    late = time.monotonic() - began > self._limits.worker_hello_ms_max / 1000
                    if late and not told and older not in self.open():
                        told = True
                        log.warning("the model of the searched index cannot be loaded", extra={"model": model})
                    await self._pause()
            finally:
                self._older = None

    async def _pause(self) -> None:
        await asyncio.sleep(self._limits.index_look_ms / 1000)
