"""Waiting for something that must come. Only what is asked says that it came; the limit is there for what hangs."""

import asyncio
from collections.abc import Awaitable, Callable

HANG_S = 120.0
"""Generous: a worker may import torch on a machine that is busy."""
POLL_S = 0.01


async def until(condition: Callable[[], object | Awaitable[object]], *, hang_s: float = HANG_S) -> None:
    """Return once `condition()`, or what it awaits, is true. Raises `TimeoutError`."""
    async with asyncio.timeout(hang_s):
        while True:
            found = condition()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(POLL_S)
