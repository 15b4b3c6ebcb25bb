"""What `/readyz` tells: parts that keep the server from serving, and parts that were lost after it began to.

Policy (PROTOCOL.md): 503 while starting, migrating or stopping, and while a configured part was absent at the start;
a part lost later gives 200 with its name in `degraded`, because the server still takes audio and heals by itself.
A part that the server starts without is named in `missing` until its probe finds it for the first time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between looks at the parts: one trivial query a second."""
ANSWER_S_MAX = 2.0
"""A part that takes longer to answer counts as lost."""

Probe = Callable[[], Awaitable[bool]]
"""True when the part works; an error or silence counts as False."""


class Readiness:
    """`missing`: parts that keep the server from serving; `degraded`: parts that were lost later."""

    def __init__(self) -> None:
        self.missing: set[str] = {"start"}
        self.degraded: set[str] = set()


async def watch(readiness: Readiness, probes: Mapping[str, Probe]) -> None:
    """A component: keep `degraded` true."""
    while True:
        for name, probe in probes.items():
            works = await _works(probe)
            if name in readiness.missing:
                if works:
                    readiness.missing.discard(name)
            elif not works and name not in readiness.degraded:
                log.warning("a part is lost", extra={"part": name})
                readiness.degraded.add(name)
            elif works and name in readiness.degraded:
                log.info("a part is back", extra={"part": name})
                readiness.degraded.discard(name)
        await asyncio.sleep(LOOK_S)


async def _works(probe: Probe) -> bool:
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            return await probe()
    except Exception:  # the component boundary: whatever a probe raises, its part does not work
        return False
