"""Owned tasks. The only place that calls `asyncio.create_task`.

Policy: every task belongs to a `Scope`; leaving the scope cancels and awaits all of its tasks, so nothing is
fire-and-forget. A task that fails hands its exception to the scope's `on_error`; without one, the scope's
`failed` future carries it and `Scope.wait_failed` raises it (a component that fails ends the process).
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Self

ErrorHandler = Callable[[str, BaseException], None]


class Scope:
    """An owner of tasks; an async context manager.

    Invariant: after `__aexit__` no task of the scope runs."""

    def __init__(self, name: str, *, on_error: ErrorHandler | None = None, tasks_max: int = 100_000) -> None:
        self._name = name
        self._on_error = on_error
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tasks_max = tasks_max
        self._failed: asyncio.Future[None] | None = None
        self._closing = False

    def __len__(self) -> int:
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        self._failed = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def spawn(self, coro: Coroutine[Any, Any, Any], *, name: str) -> "asyncio.Task[Any]":
        """Run `coro` as a task of this scope. Raises RuntimeError when the scope is closed or full."""
        if self._closing or len(self._tasks) >= self._tasks_max:
            coro.close()
            raise RuntimeError(f"scope {self._name} is closed or full")
        task = asyncio.create_task(coro, name=f"{self._name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if self._on_error is not None:
            self._on_error(task.get_name(), error)
        elif self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def wait_failed(self) -> None:
        """Wait until a task of the scope failed, then raise its error."""
        assert self._failed is not None, "enter the scope first"
        await asyncio.shield(self._failed)

    async def close(self) -> None:
        """Cancel and await every task. Idempotent."""
        self._closing = True
        current = asyncio.current_task()
        while pending := [t for t in self._tasks if t is not current]:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if self._failed is not None:
            if not self._failed.done():
                self._failed.cancel()
            elif not self._failed.cancelled():
                self._failed.exception()


class Signal:
    """A level that one task waits for and others raise: `asyncio.Event` that clears as it is taken."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()


async def cancel_and_wait(task: "asyncio.Task[Any]") -> None:
    """Cancel `task` and wait until it ended; its result or error is dropped, our own cancellation is not."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


__all__ = ["ErrorHandler", "Scope", "Signal", "cancel_and_wait"]
