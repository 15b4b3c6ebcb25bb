"""Start in order, run until told to stop or until a component fails, stop in the opposite order.

A component is a coroutine that runs for the life of the process. One that fails ends the process with status 1 (the
supervisor starts it again; everything that matters is in Postgres and the audio log); a session that fails ends only
itself. Readiness is told part by part through `/readyz`.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from server.config import Config
from server.secret import known_secret, new_secret, signing_secret
from server.store.installation import shared_secret
from server.store.pool import Database
from streaming.aio import Scope
from streaming.errors import Unavailable

log = logging.getLogger(__name__)

RETRY_S = 2.0
"""Between looks for a database that was configured but is not there at the start."""


class Components:
    """Named long-running coroutines. `stop` ends them in the opposite order of their start."""

    def __init__(self) -> None:
        self._scopes: list[Scope] = []
        self._failed = asyncio.get_running_loop().create_future()

    def start(self, name: str, coro: Coroutine[Any, Any, None]) -> None:
        scope = Scope(name, on_error=self._component_failed)
        self._scopes.append(scope)
        scope.spawn(coro, name="run")

    def _component_failed(self, name: str, error: BaseException) -> None:
        log.critical("component failed", extra={"component": name}, exc_info=error)
        if not self._failed.done():
            self._failed.set_result(name)

    async def wait_failed(self) -> str:
        """The name of the first component that failed."""
        return str(await asyncio.shield(self._failed))

    async def stop(self) -> None:
        while self._scopes:
            await self._scopes.pop().close()


class StopRequest:
    """SIGTERM or SIGINT, once; a second one is left to the default handler and ends the process at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Return when one of them returns; cancel the others. An error passes."""
    async with Scope("first of") as scope:
        tasks = [scope.spawn(wait, name="wait") for wait in waits]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def secret_of(config: Config, dsn: str) -> str:
    """What signs this installation's tokens: as configured; from the database, where nodes share one; else from the
    data folder. `dsn`: the migrated database. Raises `ConfigError`, `Unavailable`."""
    if config.secret is not None or not config.shared:
        return signing_secret(config)
    return await shared_secret(dsn, known_secret(config) or new_secret())


async def open_database(database: Database, dsn: str, migrate: Callable[[str], Awaitable[list[str]]]) -> None:
    """Migrate and connect; a configured database that is not there yet is waited for, with a line each time."""
    while True:
        try:
            applied = await migrate(dsn)
            await database.open(dsn)
        except (Unavailable, OSError) as error:
            log.warning("database not reachable, trying again", extra={"error": type(error).__name__})
            await asyncio.sleep(RETRY_S)
            continue
        if applied:
            log.info("migrations applied", extra={"count": len(applied)})
        return
