"""The worker's way to run an engine whose one model serves all utterances.

Policy: the main thread moves frames and keeps all state; one thread asks the model, one call at a time, as
`streaming.recogniser.windows` decides. The engine releases the interpreter while it computes, so audio is taken and
discards are answered meanwhile. A window that fails loses its utterance only; a decode that hangs ends the process,
because nothing can stop its thread. The server knows what is decoded before it begins (`Begun` has left this process),
so whatever a decode does to the process, nobody else is blamed for it.

Boundary: the socket to the server, the engine, a pair of sockets by which a result wakes the main thread.
"""

import logging
import os
import selectors
import socket
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor

from streaming.protocol.frames import Oversized
from streaming.recogniser import link
from streaming.recogniser.engine import Heard, WindowEngine
from streaming.recogniser.peer import REPLIES_BYTES_MAX, Peer
from streaming.recogniser.windows import Windows, Work

TICK_S = 1.0

log = logging.getLogger("parlance.worker")


class SharedModel:
    """`run` serves until the server's end of the socket closes."""

    def __init__(self, server: socket.socket, engine: WindowEngine) -> None:
        capabilities = engine.capabilities
        self._engine = engine
        self._server = Peer(server)
        self._windows = Windows(engine, capabilities)
        self._hello = link.Hello(link.VERSION, capabilities)
        self._told: link.Load | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._work: Work | None = None
        """Chosen and announced, until the model has it."""
        self._result: Future[list[Heard]] | None = None
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Returns the status to exit with: 0, or 1 when the model hangs."""
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._server.put(link.payload(self._hello))
        while True:
            if not self._turn():
                return 0
            if self._result is not None and self._windows.stalled(time.monotonic()):
                log.critical("the model made no progress")
                return 1

    def _turn(self) -> bool:
        """Wait for one round of events and handle it; False when the server is gone."""
        self._watch()
        for key, events in self._selector.select(TICK_S):
            if key.fileobj is self._woken:
                self._woken.recv(64)
                continue
            if events & selectors.EVENT_WRITE:
                self._server.flush()
            if events & selectors.EVENT_READ and not self._read():
                return False
        now = time.monotonic()
        self._collect(now)
        self._answer(self._windows.expire(now))
        load = self._windows.load(now)
        if load is not None and load != self._told:
            self._told = load
            self._answer([load])
        self._decode_next()
        return True

    def _watch(self) -> None:
        """Read unless the server does not take our replies; write when something waits."""
        read = selectors.EVENT_READ if self._server.waiting_bytes <= REPLIES_BYTES_MAX else 0
        wanted = read | (selectors.EVENT_WRITE if self._server.waiting_bytes else 0)
        known = self._selector.get_map().get(self._server.sock)
        if known is None:
            self._selector.register(self._server.sock, wanted)
        elif known.events != wanted:
            self._selector.modify(self._server.sock, wanted)

    def _read(self) -> bool:
        frames = self._server.read()
        if frames is None:
            return False
        for frame in frames:
            try:
                if isinstance(frame, Oversized):
                    raise link.BadFrame(f"a frame of {frame.n_bytes} bytes is too large")
                request = link.decode_request(frame)
            except link.BadFrame as error:
                log.warning("refused a frame: %s", error)
                self._answer([link.Refused(str(error))])
            else:
                self._answer(self._windows.from_server(request, time.monotonic()))
        return True

    def _collect(self, now: float) -> None:
        """Pass on the result of the decode that has ended."""
        if self._result is None or not self._result.done():
            return
        result, self._result = self._result, None
        error = result.exception()
        if error is None:
            self._answer(self._windows.done(result.result(), now))
            return
        # The text of an error may quote what it was given; where it happened is enough.
        where = traceback.extract_tb(error.__traceback__)[-1]
        log.error("decode failed: %s at %s:%s", type(error).__name__, os.path.basename(where.filename), where.lineno)
        self._answer(self._windows.failed("the decoder failed"))

    def _decode_next(self) -> None:
        if self._result is not None or self._server.waiting_bytes:
            return
        if self._work is None:
            self._work = self._windows.begin(time.monotonic())
            if self._work is None:
                return
            self._answer([link.Begun(tuple(job.utterance for job in self._work.jobs))])
            if self._server.waiting_bytes:
                return  # the kernel has not taken the announcement yet
        self._windows.started(time.monotonic())
        self._result = self._thread.submit(self._engine.decode, self._work.windows)
        self._result.add_done_callback(self._wake_up)
        self._work = None

    def _wake_up(self, _: Future[list[Heard]]) -> None:
        """Runs in the model's thread; hardly more than one byte is ever on its way."""
        self._wake.send(b"\0")

    def _answer(self, answers: list[link.Answer]) -> None:
        for answer in answers:
            self._server.put(link.payload(answer))
