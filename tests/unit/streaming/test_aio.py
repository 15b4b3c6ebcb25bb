"""Owned tasks: nothing outlives its scope, no failure is silent."""

import asyncio

import pytest

from streaming.aio import Scope, Signal, cancel_and_wait
from tests.sim import clock


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise ValueError("broken")


def test_leaving_cancels_and_awaits_every_task() -> None:
    ends: list[str] = []

    async def reluctant(name: str) -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(5)
            ends.append(name)

    async def main() -> None:
        async with Scope("s") as scope:
            for name in ("a", "b"):
                scope.spawn(reluctant(name), name=name)
            await asyncio.sleep(0)
            assert len(scope) == 2
        assert sorted(ends) == ["a", "b"]
        assert len(scope) == 0

    clock.run(main())


def test_a_task_that_is_begun_while_closing_is_refused() -> None:
    refused: list[str] = []

    async def main() -> None:
        scope = Scope("s")

        async def again() -> None:
            try:
                await forever()
            finally:
                with pytest.raises(RuntimeError, match="closed or full"):
                    scope.spawn(forever(), name="late")
                refused.append("late")

        async with scope:
            scope.spawn(again(), name="again")
            await asyncio.sleep(0)
        await scope.close()

    clock.run(main())
    assert refused == ["late"]


def test_tasks_are_bounded_and_ended_ones_make_room() -> None:
    async def main() -> None:
        async with Scope("s", tasks_max=2) as scope:
            one = scope.spawn(forever(), name="1")
            scope.spawn(forever(), name="2")
            with pytest.raises(RuntimeError, match="closed or full"):
                scope.spawn(forever(), name="3")
            await cancel_and_wait(one)
            scope.spawn(forever(), name="3")

    clock.run(main())


def test_a_failure_goes_to_the_handler_and_the_others_live_on() -> None:
    errors: list[tuple[str, str]] = []

    async def main() -> None:
        async with Scope("s", on_error=lambda name, error: errors.append((name, str(error)))) as scope:
            alive = scope.spawn(forever(), name="alive")
            scope.spawn(fail(), name="broken")
            await asyncio.sleep(1)
            assert not alive.done()

    clock.run(main())
    assert errors == [("s/broken", "broken")]


def test_without_a_handler_a_failure_is_waited_for() -> None:
    async def main() -> None:
        async with Scope("s") as scope:
            scope.spawn(fail(), name="broken")
            scope.spawn(fail(), name="also broken")
            with pytest.raises(ValueError, match="broken"):
                await scope.wait_failed()

    clock.run(main())


def test_a_task_may_close_its_own_scope() -> None:
    async def main() -> None:
        scope = Scope("s")
        other = scope.spawn(forever(), name="other")
        closer = scope.spawn(scope.close(), name="closer")
        await closer
        assert other.cancelled()

    clock.run(main())


def test_a_signal_is_a_level_that_is_taken() -> None:
    async def main() -> None:
        signal = Signal()
        signal.set()
        signal.set()
        await signal.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(signal.wait(), 1)
        signal.set()
        await asyncio.wait_for(signal.wait(), 1)

    clock.run(main())


def test_cancel_and_wait_drops_the_tasks_error_but_not_our_own_cancellation() -> None:
    async def spoilt() -> None:
        try:
            await forever()
        finally:
            raise ValueError("on the way out")

    async def stubborn() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(100)

    async def main() -> None:
        async with Scope("s", on_error=lambda *_: None) as scope:
            broken = scope.spawn(spoilt(), name="spoilt")
            await asyncio.sleep(0)
            await cancel_and_wait(broken)
            assert broken.done()
            slow = scope.spawn(stubborn(), name="stubborn")
            await asyncio.sleep(0)
            waiting = scope.spawn(cancel_and_wait(slow), name="waiting")
            await asyncio.sleep(1)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()

    clock.run(main())
