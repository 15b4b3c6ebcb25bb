"""Run a program behind everything else: in a session of its own, ended with its block and with this process.

Invariant: when the block has ended, no process of the program's group that it started itself is left.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

import server
from server.models import launch
from streaming.limits import LIMITS

NICE = 10
"""Half the way back: it gets a tenth of a busy core and all of an idle one."""
LINE_BYTES_MAX = LIMITS.worker_line_bytes_max
NOT_INHERITED = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH")
"""They would lead an installer to another environment than the named one."""


class Ended(msgspec.Struct, frozen=True):
    """How a program ended. `strange`: the last line that was no event, which may tell why."""

    status: int
    strange: str

    def __str__(self) -> str:
        return f"with status {self.status}: {self.strange or 'it gave no reason'}"


@contextlib.asynccontextmanager
async def background(
    command: Sequence[str], *, settings: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The started program; its stdout and stderr come through one pipe. Our own settings stay here: secrets and
    addresses are none of its business. Raises OSError."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PARLANCE_") and k not in NOT_INHERITED}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(NICE), *command,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**kept, **(settings or {})}, cwd="/", start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def lines(process: asyncio.subprocess.Process) -> AsyncGenerator[str, None]:
    """What the program writes, line by line; a line is cut at `LINE_BYTES_MAX`."""
    assert process.stdout is not None
    rest = b""
    while data := await process.stdout.read(LINE_BYTES_MAX):
        *whole, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            whole, rest = [*whole, rest], b""
        for piece in whole:
            yield piece[:LINE_BYTES_MAX].decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def module(name: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command and settings that run one of this program's modules with this interpreter."""
    root = str(Path(server.__file__).parent.parent)
    return [sys.executable, "-m", name, *arguments], {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}


async def told(command: Sequence[str], settings: Mapping[str, str], heard: Callable[[str], bool]) -> Ended:
    """Run a program that prints events, to its end; killed when the caller is cancelled. `heard`: takes a line, and
    says whether it was an event. Raises OSError."""
    strange = ""
    async with background(command, settings=settings) as process:
        async with contextlib.aclosing(lines(process)) as output:
            async for line in output:
                if not heard(line):
                    strange = line.strip() or strange
        return Ended(await process.wait(), strange)
