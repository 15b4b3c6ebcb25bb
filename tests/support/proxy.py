"""A TCP proxy that cuts, stalls, slows and corrupts what passes, by command or at seeded random places.

It stands before a TCP port or a unix socket and runs in a thread of its own, so that a test's loop may block. Commands
may come from any thread and hold for all connections, present and coming, until `heal`.

What a flipped byte does: TCP's own checksum lets a wrong one pass about once in a billion packets, TLS never. Without
TLS a flip inside a value makes another value, which no protocol without a checksum can tell; so `Flip.HEAD` spoils the
first bytes of what one side sends at once, where PostgreSQL, Redis and WebSocket keep type and length, and `Flip.ANY`
any byte.
Invariant: what passes without a fault is what was sent, byte for byte.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from tests.support.spawn import free_port

PIECE_BYTES = 16 * 1024
HEAD_BYTES = 4
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: closing sends RST, and what was not sent yet is dropped."""
END_S_MAX = 10.0

T = TypeVar("T")


class Way(Enum):
    UP = "to the server"
    DOWN = "to the client"


class Flip(Enum):
    HEAD = "the first bytes of a piece"
    ANY = "any byte"


BOTH = (Way.UP, Way.DOWN)


class _Faults:
    """What happens to the bytes of one direction."""

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.bytes_per_s = 0.0
        self.latency_s = 0.0
        self.flip: Flip | None = None
        self.flip_chance = 0.0
        self.cut_at: int | None = None
        """Bytes that may still pass, over all connections, before the one that carries the next is cut."""


class Proxy:
    """`port` is free from the beginning and stays the same; `start` and `stop` may be repeated.

    `passed[way]` counts bytes, `cuts` and `flips` what was done."""

    def __init__(self, target: int | Path, *, seed: int = 0) -> None:
        """`target`: a port of 127.0.0.1, or a unix socket."""
        self.port = free_port()
        self.passed = dict.fromkeys(BOTH, 0)
        self.accepted = 0
        """Connections that reached the server."""
        self.cuts = 0
        self.flips = 0
        self._target = target
        self._chance = random.Random(seed)
        self._refusing = False
        self._faults: dict[Way, _Faults] = {}
        self._connections: set[_Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._done = asyncio.Event()

    # --- commands, from any thread --------------------------------------------------------------------------------
    def start(self) -> None:
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="proxy", daemon=True)
        self._thread.start()
        ready.result(END_S_MAX)

    def stop(self) -> None:
        """Cut everything and listen no more."""
        if self._thread is not None:
            self._do(self._done.set)
            self._thread.join(END_S_MAX)
            assert not self._thread.is_alive(), "the proxy did not stop"
            self._thread = None

    def aim(self, target: int | Path) -> None:
        """Where new connections go from now on, as a load balancer would change its mind."""
        self._target = target

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        return len(self._connections)

    def cut(self, *, reset: bool = True) -> int:
        """End all connections at once, with RST or with FIN; returns how many."""
        return self._do(lambda: self._cut_all(reset=reset))

    def cut_after(self, count: int, way: Way = Way.UP) -> None:
        """Cut the connection that carries byte `count` + 1 from now, in the middle of whatever it is."""
        self._set(lambda faults: setattr(faults, "cut_at", count), (way,))

    def refuse(self) -> None:
        """Cut everything; cut newcomers at once, until `heal`."""

        def refuse() -> None:
            self._refusing = True
            self._cut_all(reset=True)

        self._do(refuse)

    def stall(self, *ways: Way) -> None:
        """Read nothing any more (both ways by default); nobody is told."""
        self._set(lambda faults: faults.flowing.clear(), ways)

    def slow(self, *ways: Way, bytes_per_s: float = 0.0, latency_s: float = 0.0) -> None:
        """Each connection gets so many bytes a second (0: any), and each piece waits for `latency_s`."""

        def slow(faults: _Faults) -> None:
            faults.bytes_per_s, faults.latency_s = bytes_per_s, latency_s

        self._set(slow, ways)

    def corrupt(self, *ways: Way, flip: Flip = Flip.HEAD, chance: float = 1.0) -> None:
        """Flip bits of one byte in each piece with this probability."""

        def corrupt(faults: _Faults) -> None:
            faults.flip, faults.flip_chance = flip, chance

        self._set(corrupt, ways)

    def heal(self) -> None:
        """No faults any more. Connections that were stalled go on."""

        def heal() -> None:
            self._refusing = False
            for faults in self._faults.values():
                faults.flowing.set()
                faults.bytes_per_s = faults.latency_s = faults.flip_chance = 0.0
                faults.cut_at = faults.flip = None

        self._do(heal)

    def _set(self, change: Callable[[_Faults], None], ways: tuple[Way, ...]) -> None:
        self._do(lambda: [change(self._faults[way]) for way in ways or BOTH])

    def _do(self, work: Callable[[], T]) -> T:
        """Run `work` on the proxy's loop; returns when it is done."""
        assert self._loop is not None, "start first"

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(END_S_MAX)

    # --- the thread -----------------------------------------------------------------------------------------------
    async def _serve(self, ready: "Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._faults = {way: _Faults() for way in BOTH}
        try:
            server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        except OSError as error:
            ready.set_exception(error)
            return
        async with server:
            ready.set_result(None)
            await self._done.wait()
            server.close()
            while self._connections:
                self._cut_all(reset=True)
                await asyncio.sleep(0)
        self._loop = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            if self._refusing:
                return
            await connection.run()
        finally:
            connection.end(reset=True)
            self._connections.discard(connection)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    def _cut_all(self, *, reset: bool) -> int:
        cut = list(self._connections)
        for connection in cut:
            connection.end(reset=reset)
        self.cuts += len(cut)
        return len(cut)

    # --- what passes ----------------------------------------------------------------------------------------------
    def treat(self, way: Way, data: bytes) -> tuple[bytes, bool]:
        """The bytes that pass, and whether the connection is cut behind them."""
        faults = self._faults[way]
        if faults.flip is not None and self._chance.random() < faults.flip_chance:
            data = self._flipped(data, faults.flip)
        cut = False
        if faults.cut_at is not None:
            cut = faults.cut_at < len(data)
            data = data[: faults.cut_at]
            faults.cut_at = None if cut else faults.cut_at - len(data)
            self.cuts += cut
        self.passed[way] += len(data)
        return data, cut

    def _flipped(self, data: bytes, flip: Flip) -> bytes:
        at = self._chance.randrange(min(len(data), HEAD_BYTES) if flip is Flip.HEAD else len(data))
        self.flips += 1
        return data[:at] + bytes([data[at] ^ self._chance.randrange(1, 256)]) + data[at + 1 :]

    def faults(self, way: Way) -> _Faults:
        return self._faults[way]


class _Connection:
    """One accepted connection and its other half."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Until both directions are over, or `end`."""
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._pass())
            ended = group.create_task(self._ended.wait())
            await asyncio.wait([work, ended], return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            ended.cancel()

    async def _pass(self) -> None:
        try:
            reader, writer = await self._proxy.connect()
        except OSError:
            return  # nobody there: the caller is cut
        self._proxy.accepted += 1
        self._writers.append(writer)
        pumps: tuple[Coroutine[Any, Any, None], ...] = (
            self._pump(Way.UP, self._reader, writer),
            self._pump(Way.DOWN, reader, self._writers[0]),
        )
        await asyncio.gather(*pumps)

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        faults = self._proxy.faults(way)
        try:
            while True:
                await faults.flowing.wait()
                data = await reader.read(PIECE_BYTES)
                await faults.flowing.wait()  # it may have been stalled while it waited for this
                if faults.latency_s or faults.bytes_per_s:
                    per_byte = 1 / faults.bytes_per_s if faults.bytes_per_s else 0.0
                    await asyncio.sleep(faults.latency_s + len(data) * per_byte)
                if not data:
                    writer.write_eof()
                    return
                data, cut = self._proxy.treat(way, data)
                writer.write(data)
                if cut:
                    await writer.drain()
                    self.end(reset=False)
                    return
                await writer.drain()
        except OSError:
            self.end(reset=True)

    def end(self, *, reset: bool) -> None:
        """Close both halves. With FIN what was written still arrives; with RST it may not."""
        self._ended.set()
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if reset and not writer.is_closing():
                if sock is not None and sock.family == socket.AF_INET:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()
            elif not reset:
                writer.close()


def port_of(url: str) -> int:
    """Of an address like http://127.0.0.1:8000."""
    return int(url.rsplit(":", 1)[1])


@contextlib.contextmanager
def proxied(target: int | Path, *, seed: int = 0) -> Iterator[Proxy]:
    """A started proxy that is stopped at the end."""
    proxy = Proxy(target, seed=seed)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
