"""The recogniser worker: a program that a server executes, `python -m streaming.recogniser.worker`.

It loads the engine's model, says `Hello` and serves, in one of two ways. A `WindowEngine` is one model for all
utterances: `streaming.recogniser.shared` asks it from a thread. For an `Engine` this process stays single-threaded,
forks decoder processes that share the model's pages, and moves frames between the server and them as
`streaming.recogniser.router` decides. Such decoders hold the interpreter for hundreds of milliseconds at a time, so
each utterance gets a process and never a thread.

Boundary: one inherited unix socket (`--fd`) is the only way in and out; the log goes to stderr as plain lines without
anything that was said. Interrupts are the server's to handle and are ignored here.
Invariant: nothing outlives the server. The main process ends at the end of its socket, which the kernel closes
whatever kills the server; decoders end at the end of theirs, and by a signal when the main process dies.
"""

import argparse
import contextlib
import ctypes
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import cast

from streaming.limits import KIB
from streaming.protocol.frames import FrameReader, Oversized
from streaming.recogniser import link
from streaming.recogniser.engine import (
    Engine,
    EngineUnavailable,
    EngineUtterance,
    cores,
    is_window_engine,
    load_class,
)
from streaming.recogniser.peer import READ_BYTES, REPLIES_BYTES_MAX, Peer
from streaming.recogniser.router import Effect, End, Fork, Log, Reply, Router, Send
from streaming.recogniser.shared import SharedModel

SOCKET_BYTES = 64 * KIB
"""Kernel buffer towards a decoder: what lies there cannot be taken back by a discard, so at most 2 s of audio."""
TICK_S = 1.0
PR_SET_PDEATHSIG = 1

log = logging.getLogger("parlance.worker")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="streaming.recogniser.worker", description="Run by the server.")
    parser.add_argument("--engine", required=True, help="package.module:Class")
    parser.add_argument("--fd", required=True, type=int, help="inherited unix stream socket to the server")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(os.getppid())
    server = socket.socket(fileno=options.fd)
    began = time.monotonic()
    engine = load_class(options.engine)()
    try:
        engine.load()
    except EngineUnavailable as error:
        log.critical("%s", error)
        return 1
    log.info("model loaded in %d ms", (time.monotonic() - began) * 1000)
    if is_window_engine(engine):
        status = SharedModel(server, engine).run()
        logging.shutdown()
        os._exit(status)  # a decode may be under way: its thread can be neither stopped nor waited for
    require_one_thread()
    gc.collect()
    gc.freeze()  # the collector's marks would otherwise unshare every page of the model's objects
    Zygote(server, cast("Engine", engine)).run()
    return 0


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent dies; ends at once if that has happened. Linux only,
    elsewhere the end of the socket has to do."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def require_one_thread() -> None:
    """Raises RuntimeError when the engine has left a thread: a fork would copy the locks that it holds, for ever."""
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and (count := len(list(tasks.iterdir()))) > 1:
        raise RuntimeError(f"the engine left {count - 1} threads: it cannot be forked")


class Zygote:
    """The worker's main process: carries out what the router decides."""

    def __init__(self, server: socket.socket, engine: Engine) -> None:
        self._engine = engine
        self._server = Peer(server)
        self._children: dict[int, tuple[int, Peer]] = {}
        self._selector = selectors.DefaultSelector()
        capabilities = engine.capabilities
        self._router = Router(capabilities.utterances_max, capabilities.utterance_ms_max, cores=cores())
        self._hello = link.Hello(link.VERSION, capabilities)

    def run(self) -> None:
        """Serve until the server's end of the socket closes."""
        self._apply(self._router.start())
        self._server.put(link.payload(self._hello))
        next_tick = time.monotonic() + TICK_S
        try:
            while self._turn(max(0.0, next_tick - time.monotonic())):
                if time.monotonic() >= next_tick:
                    self._apply(self._router.tick(time.monotonic()))
                    next_tick = time.monotonic() + TICK_S
        finally:
            for number in list(self._children):
                self._end(number)

    def _turn(self, timeout_s: float) -> bool:
        """Wait for one round of events and handle it; False when the server is gone."""
        self._watch(self._server, None)
        for number, (_, peer) in self._children.items():
            self._watch(peer, number)
        for key, events in self._selector.select(timeout_s):
            source: int | None = key.data
            if source is not None and source not in self._children:
                continue  # ended by an earlier event of this round
            peer = self._server if source is None else self._children[source][1]
            if events & selectors.EVENT_WRITE:
                peer.flush()
            if events & selectors.EVENT_READ and not self._read(peer, source):
                return False
        return True

    def _watch(self, peer: Peer, number: int | None) -> None:
        """Read unless the server does not take our replies; write when something waits."""
        read = selectors.EVENT_READ if self._server.waiting_bytes <= REPLIES_BYTES_MAX else 0
        wanted = read | (selectors.EVENT_WRITE if peer.waiting_bytes else 0)
        known = self._selector.get_map().get(peer.sock)
        if known is not None and known.events == wanted:
            return
        if known is not None:
            self._selector.unregister(peer.sock)
        if wanted:
            self._selector.register(peer.sock, wanted, number)

    def _read(self, peer: Peer, number: int | None) -> bool:
        frames = peer.read()
        if frames is None:
            if number is None:
                return False
            self._apply(self._router.child_gone(number))
            return True
        now = time.monotonic()
        for frame in frames:
            if number is not None:
                payload = b"" if isinstance(frame, Oversized) else frame
                self._apply(self._router.from_child(number, payload, now))
            elif isinstance(frame, Oversized):
                self._apply(self._router.refuse(f"a frame of {frame.n_bytes} bytes is too large"))
            else:
                self._apply(self._router.from_server(frame, now))
        return True

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(child, payload, urgent):
                    if child in self._children:
                        self._children[child][1].put(payload, urgent=urgent)
                case Reply(payload):
                    self._server.put(payload)
                case Log(message):
                    log.warning(message)
                case End(child):
                    self._end(child)
                case Fork(child):
                    self._fork(child)

    def _fork(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            log.warning("no decoder could be forked: %s", error.strerror)
            ours.close()
            theirs.close()
            self._apply(self._router.child_gone(number))
            return
        if pid == 0:
            run_child(
                self._engine, theirs, parent, [ours, self._server.sock, *(p.sock for _, p in self._children.values())]
            )
        theirs.close()
        self._children[number] = (pid, Peer(ours))

    def _end(self, number: int) -> None:
        """Kill and reap a decoder. It is never in the middle of anything that a kill could harm."""
        if number not in self._children:
            return  # its fork failed
        pid, peer = self._children.pop(number)
        with contextlib.suppress(KeyError):
            self._selector.unregister(peer.sock)
        peer.sock.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def run_child(engine: Engine, sock: socket.socket, parent: int, others: list[socket.socket]) -> None:
    """Life of a decoder process; does not return. `others`: sockets of the main process that it must not hold."""
    status = 1
    try:
        die_with_parent(parent)
        for other in others:
            other.close()
        sock.setblocking(True)
        Decoder(engine, sock).run()
        status = 0
    except BaseException as error:  # the process boundary: nothing of the parent may run in the child
        # The text of an error may quote what it was given; where it happened is enough.
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"
        log.error("decoder failed: %s at %s", type(error).__name__, place)  # noqa: TRY400 - no text of the error
    finally:
        os._exit(status)


class Decoder:
    """Serves the utterances of one decoder process, strictly in the order of its messages."""

    def __init__(self, engine: Engine, sock: socket.socket) -> None:
        self._engine = engine
        self._sock = sock
        self._utterance: EngineUtterance | None = None

    def run(self) -> None:
        reader = FrameReader(link.FRAME_BYTES_MAX)
        while data := self._sock.recv(READ_BYTES):
            for payload in reader.feed(data):
                if isinstance(payload, Oversized):
                    raise link.BadFrame("the router sent an oversized frame")
                answer = self._handle(link.decode_request(payload))
                if answer is not None:
                    self._sock.sendall(link.frame(answer))

    def _handle(self, request: link.Request) -> link.Answer | None:
        utterance = self._utterance
        if isinstance(request, link.Open):
            self._utterance = self._engine.begin(request.spec)
            return None
        if isinstance(request, link.Discard):
            self._utterance = None
            if utterance is not None:
                utterance.discard()
            return link.Discarded(request.utterance)
        if utterance is None:
            raise link.BadFrame("the router sent a request without an utterance")
        if isinstance(request, link.Audio):
            utterance.feed(link.pcm_samples(request.pcm))
            return link.Taken(request.utterance, len(request.pcm))
        if isinstance(request, link.AskPartial):
            return link.PartialReady(request.utterance, request.request, utterance.partial())
        self._utterance = None
        return link.FinalReady(request.utterance, utterance.final())


if __name__ == "__main__":
    sys.exit(main())
