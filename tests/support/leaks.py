"""A test fails when it leaves something running: tasks of its event loop, or processes of its own.

Both fixtures are set up before a test's other fixtures and look after those have ended, so what a fixture owns may live
as long as it. What was there before (servers that live for the session) is nobody's leak, nor is what took its place:
a test may kill such a server when it starts it again. Processes that were left are killed, so that one failure does not
become the next test's.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

END_S_MAX = 10.0
"""A process that was told to end may take this long to be gone; more than any of ours needs on a busy machine."""
LOOP_TURNS = 25
"""Turns of the loop in which a cancelled task or a closed transport may finish; each needs a handful."""
POLL_S = 0.01
NOT_OURS = {"AsyncSocket._send_ping": "engine.io's server sleeps through the interval of a socket that is closed"}
"""Coroutines of libraries that outlive their owner by design, and why."""


@pytest.fixture(autouse=True)
def leaves_nothing_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves child processes; for a test with an event loop, tasks too."""
    if request.node.get_closest_marker("asyncio") is not None:
        request.getfixturevalue("leaves_no_task")
    before = children()
    yield
    left = wait_for_end(before)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if left:
        pytest.fail("the test left processes running:\n" + "\n".join(f"{pid} {what}" for pid, what in left.items()))


@pytest.fixture
async def leaves_no_task() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for _ in range(LOOP_TURNS):
        left = {t for t in asyncio.all_tasks() - before - {asyncio.current_task()} if name_of(t) not in NOT_OURS}
        if not left:
            return
        await asyncio.sleep(0)
    pytest.fail("the test left tasks running:\n" + "\n".join(map(repr, left)))


def name_of(task: asyncio.Task[object]) -> str:
    """What the task runs, as its function calls itself."""
    return str(getattr(task.get_coro(), "__qualname__", ""))


def children() -> dict[int, str]:
    """Processes that this one started and has not waited for, with their command lines. Linux only, elsewhere none.

    The kernel lists them by the thread that started them, and moves those of a thread that ends to another one, which
    may have been read already: so they are read until they are the same twice."""
    found = _children()
    while (again := _children()).keys() != found.keys():
        found = again
    return found


def _children() -> dict[int, str]:
    found = {}
    for tasks in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in map(int, tasks.read_text().split()):
                found[pid] = command_of(pid)
    return found


def command_of(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip() or "(ended, not waited for)"
        )
    except OSError:
        return "(gone)"


def wait_for_end(before: dict[int, str]) -> dict[int, str]:
    """The children that are new and do not end within `END_S_MAX`."""
    end = time.monotonic() + END_S_MAX
    while (left := added(before, children())) and time.monotonic() < end:
        time.sleep(POLL_S)
    return left


def added(before: dict[int, str], now: dict[int, str]) -> dict[int, str]:
    """Processes of `now` that are new and do not run the same command as one that ended meanwhile."""
    ended = Counter(what for pid, what in before.items() if pid not in now)
    new = {}
    for pid, what in now.items():
        if pid in before:
            continue
        if ended[what]:
            ended[what] -= 1
        else:
            new[pid] = what
    return new
