"""What `/readyz` says of parts that are absent, come, go and come back; in virtual time."""

import asyncio

from server.health import LOOK_S, Readiness, watch
from streaming.aio import Scope
from tests.sim import clock


def test_absent_at_the_start_is_missing_and_lost_later_is_degraded() -> None:
    works = {"database": True, "redis": False}

    async def probe(name: str) -> bool:
        return works[name]

    async def main() -> None:
        readiness = Readiness()
        readiness.missing = {"redis", "start"}
        async with Scope("watch") as scope:
            probes = {name: (lambda name=name: probe(name)) for name in works}
            scope.spawn(watch(readiness, probes), name="watch")
            for state, missing, degraded in [
                ((True, False), {"redis", "start"}, set()),
                ((False, False), {"redis", "start"}, {"database"}),
                ((True, True), {"start"}, set()),
                ((True, False), {"start"}, {"redis"}),
                ((True, True), {"start"}, set()),
            ]:
                works["database"], works["redis"] = state
                await asyncio.sleep(2 * LOOK_S)
                assert (readiness.missing, readiness.degraded) == (missing, degraded)

    clock.run(main())


def test_a_probe_that_fails_or_hangs_finds_nothing() -> None:
    async def fails() -> bool:
        raise ZeroDivisionError

    async def hangs() -> bool:
        await asyncio.sleep(1_000_000)
        return True

    async def main() -> None:
        readiness = Readiness()
        async with Scope("watch") as scope:
            scope.spawn(watch(readiness, {"one": fails, "two": hangs}), name="watch")
            await asyncio.sleep(10)
        assert readiness.degraded == {"one", "two"}

    clock.run(main())
