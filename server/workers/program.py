"""A worker program that is kept alive: executed, listened to, stopped, and started again when it ends.

Policy: the program gets one end of a socket pair (`--fd`) and nothing else; what it writes to its terminal goes to our
log line by line. When it dies it is started again with a growing pause, for ever. Workers never share memory, threads
or an event loop with the server.

Boundary: what is said over the socket is the caller's (`server.workers.local`, `server.workers.calls`).
Invariants: when `run` has ended, no process of the program is left; what a program said before it died is read to its
last byte.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import streaming
from server.telemetry import METRICS
from streaming.aio import Scope
from streaming.limits import LIMITS, Limits

RESTART_MS_MIN = 100
"""First pause before a restart; doubles up to `Limits.worker_restart_ms_max`, starts over after a life that long."""
STOP_S_MAX = LIMITS.worker_stop_ms_max / 1000
LINE_BYTES_MAX = LIMITS.worker_line_bytes_max
INHERITED_SETTINGS = ("PARLANCE_OFFLINE",)
"""The only `PARLANCE_*` variables a worker sees: secrets and addresses are none of its business."""
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
LEVELS = {"DEBUG": logging.DEBUG, "WARNING": logging.WARNING, "ERROR": logging.ERROR, "CRITICAL": logging.CRITICAL}

log = logging.getLogger(__name__)

Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Talks to the program until its end of the socket closes. May raise `LinkBroken`, which kills it."""


class LinkBroken(Exception):
    """The worker did not keep to the protocol; it is stopped and started anew."""


class Program:
    """`name`: what the log calls it; `argv`: how it is run, without `--fd`; `settings`: variables that it gets besides
    ours; `nice`: how far it stands back behind the server. `state`: "starting" (a process runs, its model is not
    loaded), "ready" (set by the caller) or "down" (a pause before the next try); `restarts`: processes started after
    the first one."""

    def __init__(
        self, name: str, argv: Sequence[str], *, limits: Limits, settings: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._argv = list(argv)
        self._limits = limits
        self._settings = dict(settings or {})
        self.state = "down"
        self.restarts = 0
        self.pid: int | None = None

    async def run(self, converse: Converse) -> None:
        """Keep the program alive until cancelled. Call it from the loop of a thread that lives as long as the server:
        the kernel ends the worker when that thread ends."""
        loop = asyncio.get_running_loop()
        pause_ms = RESTART_MS_MIN
        while True:
            began = loop.time()
            try:
                await self._live(converse)
            except (OSError, LinkBroken, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
                log.error("worker failed", extra={"worker": self.name, "reason": reason})  # noqa: TRY400
            lived_ms = (loop.time() - began) * 1000
            if lived_ms > self._limits.worker_restart_ms_max:
                pause_ms = RESTART_MS_MIN
            log.warning(
                "worker ended", extra={"worker": self.name, "lived_ms": round(lived_ms), "restart_in_ms": pause_ms}
            )
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(2 * pause_ms, self._limits.worker_restart_ms_max)
            self.restarts += 1
            METRICS.worker_restarts.inc()

    async def _live(self, converse: Converse) -> None:
        """One life of the process, from its start until nothing is left of it."""
        async with contextlib.AsyncExitStack() as link:
            reader, writer, theirs = await _open_link(link)
            self.state = "starting"
            try:
                with theirs:
                    process = await asyncio.create_subprocess_exec(
                        *self._argv, "--fd", str(theirs.fileno()),
                        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                        stderr=asyncio.subprocess.STDOUT, pass_fds=(theirs.fileno(),),
                        env=worker_environment(os.environ, self._settings), start_new_session=True,
                    )  # fmt: skip
            except BaseException:
                self.state = "down"
                raise
            assert process.stdout is not None
            self.pid = process.pid
            async with Scope(self.name) as scope:
                lines = scope.spawn(_log_lines(process.stdout, self.name, process.pid), name="log")
                try:
                    async with link:
                        await converse(reader, writer)
                except LinkBroken:
                    process.kill()  # what does not speak our protocol cannot be asked to stop
                    raise
                finally:
                    self.state = "down"
                    await _stop(process)
                    self.pid = None
                    await asyncio.wait({lines}, timeout=STOP_S_MAX)


async def _open_link(
    stack: contextlib.AsyncExitStack,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, socket.socket]:
    """Our end of a new socket pair, closed with `stack`, and the program's end.

    Two transports on two descriptors of one socket: a write to a dead process fails at once and closes its transport,
    and with a common one what the process said last would be thrown away unread."""
    ours, theirs = socket.socketpair()
    stack.enter_context(theirs)
    second = stack.enter_context(ours.dup())
    stack.enter_context(ours)
    _, writer = await asyncio.open_connection(sock=ours)
    stack.push_async_callback(_close, writer)
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can read
    reader, reading = await asyncio.open_connection(sock=second)
    stack.push_async_callback(_close, reading)
    return reader, writer, theirs


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a worker whose socket is closed; kill it when it takes too long."""
    try:
        async with asyncio.timeout(STOP_S_MAX):
            await process.wait()
    except TimeoutError:
        log.warning("worker killed: it did not stop", extra={"worker_pid": process.pid})
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _log_lines(stream: asyncio.StreamReader, name: str, pid: int) -> None:
    """Put the worker's lines into our log; a line is cut at `LINE_BYTES_MAX`."""
    rest = b""
    while data := await stream.read(LINE_BYTES_MAX):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            lines, rest = [*lines, rest], b""
        for line in lines:
            text = line[:LINE_BYTES_MAX].decode(errors="replace")
            level = LEVELS.get(text.partition(" ")[0], logging.INFO)
            log.log(level, "worker wrote", extra={"worker": name, "worker_pid": pid, "line": text})


def worker_environment(ours: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """The worker's variables: ours without our settings, `settings`, one thread per numeric library, and this program's
    packages importable from any folder."""
    root = str(Path(streaming.__file__).parent.parent)
    path = [root, *ours.get("PYTHONPATH", "").split(os.pathsep)]
    kept = {k: v for k, v in ours.items() if not k.startswith("PARLANCE_") or k in INHERITED_SETTINGS}
    return {
        **kept,
        **dict.fromkeys(THREADS, "1"),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(p for p in path if p)),
        "PYTHONUNBUFFERED": "1",
        **settings,
    }


__all__ = ["LinkBroken", "Program", "worker_environment"]
