"""Worker programs that answer calls die, hang, lie and refuse; whoever waits is told, and the next call works."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator

import msgspec
import pytest

from server.workers.calls import CallFailed, CallWorker
from streaming import calls
from streaming.aio import Scope
from streaming.errors import NotFound, Unavailable, WorkerLost
from streaming.limits import LIMITS, Limits
from streaming.protocol.frames import FrameReader, framed

HANG_S = 60.0
PROGRAM = """
import os, signal, socket, sys, time
from streaming import calls
from streaming.errors import BadRequest

def answer(body):
    if body == b"pid":
        return str(os.getpid()).encode()
    if body == b"refuse":
        raise BadRequest("Not this one.")
    if body == b"break":
        raise ValueError("a secret")
    if body == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    if body == b"hang":
        signal.pause()
    if body == b"nonsense":
        sock.sendall(b"\\x03\\x00\\x00\\x00abc")
    if body == b"huge answer":
        return bytes(calls.FRAME_BYTES_MAX)
    return body[::-1]

sock = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
calls.serve(sock, b"info of the worker", answer)
"""


def worker(program: str = PROGRAM, stall_s: float = HANG_S, limits: Limits = LIMITS) -> CallWorker:
    return CallWorker("test worker", [sys.executable, "-c", program], stall_s=stall_s, limits=limits)


@contextlib.asynccontextmanager
async def running(subject: CallWorker) -> AsyncIterator[CallWorker]:
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(subject.run(), name="worker")
        await subject.ready()
        yield subject


async def pid_of(subject: CallWorker) -> int:
    return int(await subject.call(b"pid"))


async def test_calls_are_answered_each_to_its_caller() -> None:
    async with running(worker()) as subject:
        assert (subject.info, subject.state) == (b"info of the worker", "ready")
        bodies = [f"call {n}".encode() for n in range(LIMITS.worker_calls_max)]
        assert await asyncio.gather(*map(subject.call, bodies)) == [body[::-1] for body in bodies]
        assert await pid_of(subject) == subject.pid


async def test_before_it_is_ready_a_call_is_refused() -> None:
    subject = worker()
    assert (subject.info, subject.pid) == (None, None)
    with pytest.raises(WorkerLost):
        await subject.call(b"early")


@pytest.mark.parametrize("body", [b"refuse", b"break", b"huge answer", bytes(calls.FRAME_BYTES_MAX)])
async def test_a_call_that_fails_harms_no_other(body: bytes) -> None:
    async with running(worker()) as subject:
        before = await pid_of(subject)
        with pytest.raises(CallFailed) as failed:
            await subject.call(body)
        assert "secret" not in str(failed.value)
        assert await pid_of(subject) == before


@pytest.mark.parametrize("body", [b"die", b"nonsense"])
async def test_a_worker_that_dies_or_lies_fails_all_who_wait_and_comes_back(body: bytes) -> None:
    async with running(worker()) as subject:
        before = await pid_of(subject)
        outcomes = await asyncio.gather(*map(subject.call, [body, b"one", b"two"]), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [WorkerLost] * 3
        await subject.ready()
        assert await subject.call(b"abc") == b"cba"
        assert await pid_of(subject) != before


async def test_a_worker_that_stalls_is_killed_and_an_idle_one_is_not() -> None:
    async with running(worker(stall_s=0.2)) as subject:
        before = subject.pid
        with pytest.raises(WorkerLost):
            await subject.call(b"hang")
        await subject.ready()
        after = subject.pid
        assert after != before
        assert await subject.call(b"abc") == b"cba"
        loop = asyncio.get_running_loop()
        idle = loop.create_future()
        loop.call_later(0.5, idle.set_result, None)  # longer than a call may stall
        await idle
        assert subject.pid == after
        assert await subject.call(b"abc") == b"cba"


async def test_a_stopped_worker_is_killed_though_it_cannot_be_asked() -> None:
    async with running(worker(stall_s=0.2)) as subject:
        stopped = subject.pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(WorkerLost):
            await subject.call(b"abc")
        await subject.ready()
        assert subject.pid != stopped


async def test_callers_are_bounded_and_a_cancelled_one_keeps_its_place() -> None:
    async with running(worker(limits=Limits(worker_calls_max=2))) as subject, Scope("callers") as scope:
        assert subject.pid is not None
        os.kill(subject.pid, signal.SIGSTOP)
        first = scope.spawn(subject.call(b"one"), name="first")
        second = scope.spawn(subject.call(b"two"), name="second")
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        with pytest.raises(Unavailable):
            await subject.call(b"three")
        os.kill(subject.pid, signal.SIGCONT)
        assert await second == b"owt"
        assert await subject.call(b"three") == b"eerht"


async def test_a_program_of_another_version_is_not_talked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    other = PROGRAM.replace("calls.serve(", "calls.VERSION = 0\ncalls.serve(")
    subject = worker(other)
    async with asyncio.timeout(HANG_S), Scope("test") as scope:
        scope.spawn(subject.run(), name="worker")
        while subject.pid is None:
            await asyncio.sleep(0.01)
        first = subject.pid
        while subject.pid in (first, None):
            await asyncio.sleep(0.01)
        assert subject.info is None


async def test_nothing_is_left_when_it_stops() -> None:
    async with running(worker()) as subject:
        pid = subject.pid
        waiting = asyncio.gather(subject.call(b"hang"), return_exceptions=True)
        await asyncio.sleep(0)
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert [type(outcome) for outcome in await waiting] == [WorkerLost]
    assert (subject.info, subject.pid, subject.state) == (None, None, "down")


# --- the program's side ---------------------------------------------------------------------------------------------
class Server:
    """Talks to `calls.serve`, which runs in a thread."""

    def __init__(self) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(HANG_S)
        self.failure: BaseException | None = None
        self._frames = FrameReader(calls.FRAME_BYTES_MAX)
        self._answers: list[calls.Answer] = []
        self._thread = threading.Thread(target=self._serve, args=(theirs,), daemon=True)
        self._thread.start()

    def _serve(self, theirs: socket.socket) -> None:
        with theirs:
            try:
                calls.serve(theirs, b"info", self._handle)
            except ValueError as error:
                self.failure = error

    @staticmethod
    def _handle(body: bytes) -> bytes:
        if body == b"missing":
            raise NotFound("There is no such thing.")
        return body

    def answer(self) -> calls.Answer:
        while not self._answers:
            for payload in self._frames.feed(self.sock.recv(1 << 16)):
                assert isinstance(payload, bytes)
                self._answers.append(calls.decode_answer(payload))
        return self._answers.pop(0)

    def end(self) -> None:
        self.sock.close()
        self._thread.join(HANG_S)
        assert not self._thread.is_alive()


def test_a_program_says_ready_answers_in_order_and_ends_with_its_socket() -> None:
    server = Server()
    assert server.answer() == calls.Ready(calls.VERSION, b"info")
    server.sock.sendall(b"".join(calls.frame(calls.Call(n, body)) for n, body in enumerate([b"a", b"missing", b"c"])))
    expected = [calls.Reply(0, b"a"), calls.Failure(1, "There is no such thing."), calls.Reply(2, b"c")]
    assert [server.answer() for _ in expected] == expected
    server.end()
    assert server.failure is None


def test_a_server_that_goes_in_the_middle_is_no_error() -> None:
    server = Server()
    server.sock.sendall(calls.frame(calls.Call(0, bytes(calls.FRAME_BYTES_MAX - 100))))
    server.end()
    assert server.failure is None


@pytest.mark.parametrize("sent", [framed(b"nonsense", 100), (calls.FRAME_BYTES_MAX + 1).to_bytes(4, "little")])
def test_a_frame_without_sense_ends_the_program(sent: bytes) -> None:
    server = Server()
    server.sock.sendall(sent)
    server._thread.join(HANG_S)
    server.end()
    assert isinstance(server.failure, msgspec.DecodeError | ValueError)
