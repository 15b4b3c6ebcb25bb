"""Clients of other servers, as `bench.load` is of ours: the same pieces, the same clock, the same beginnings, in a
process of their own (`python -m bench.peers.load`). Streams are open before anybody speaks; a server that is full is
asked until it is not. What a server still owes `Orders.hang_s` after the last word does not come any more.
"""

import asyncio
import contextlib
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import msgspec
import numpy as np
import uvloop

from bench.live import PIECE, PIECE_MS
from bench.load import PATIENCE_S, Order
from bench.peers.wire import Dialect, Shown, WhisperLive, WhisperLiveKit

READY_S_MAX = 60.0
"""Of one connection: WhisperLive loads a model for each, where it is told to."""
RETRY_S = 1.0
QUIET_S, SETTLED_S = 15.0, 2.0
"""WhisperLive's client leaves after so long without a message (`disconnect_if_no_response_for`); once all words are
completed it need not wait for more of the same."""
LOOK_S = 0.1


class Orders(msgspec.Struct, frozen=True):
    """`kind`: a name of `DIALECTS`; `options`: of WhisperLive's first message."""

    kind: str
    url: str
    streams: list[Order]
    hang_s: float
    model: str = ""
    options: dict[str, Any] = {}


class Brief(msgspec.Struct, frozen=True):
    """What one stream saw. `refused`: it never began; `lost`: its connection ended by itself; `unfinished`: it had to
    be cut off."""

    shown: list[Shown]
    refused: str = ""
    lost: str = ""
    unfinished: bool = False


class Report(msgspec.Struct, frozen=True):
    briefs: list[Brief]
    cpu_s: float


class Connection:
    """One stream: `open`, then `speak`."""

    def __init__(self, session: aiohttp.ClientSession, orders: Orders, number: int) -> None:
        self._session = session
        self._orders = orders
        self._number = number
        self._dialect = self._fresh()
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    def _fresh(self) -> Dialect:
        orders = self._orders
        return (
            WhisperLiveKit()
            if orders.kind == "wlk"
            else WhisperLive(f"bench-{self._number}", orders.model, orders.options)
        )

    async def open(self) -> None:
        """Returns when audio may be sent, or `refused` says why not."""
        end = time.perf_counter() + PATIENCE_S
        while True:
            self._dialect = self._fresh()
            try:
                await asyncio.wait_for(self._greet(), READY_S_MAX)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._dialect.refused = f"{type(error).__name__}: {error}"
            if self._dialect.ready and not self._dialect.refused:
                return
            if self._socket is not None:
                await self._socket.close()
            if time.perf_counter() + RETRY_S > end:
                self._dialect.refused = self._dialect.refused or "the connection ended before it was ready"
                return
            await asyncio.sleep(RETRY_S)

    async def _greet(self) -> None:
        self._socket = await self._session.ws_connect(self._orders.url, max_msg_size=0)
        if (opening := self._dialect.opening()) is not None:
            await self._socket.send_str(opening)
        while not self._dialect.ready and not self._dialect.refused:
            message = await self._socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            self._dialect.read(message.data)

    async def speak(self, order: Order) -> Brief:
        dialect, socket = self._dialect, self._socket
        if dialect.refused or socket is None:
            return Brief([], refused=dialect.refused or "no connection")
        audio = np.load(order.audio)
        await asyncio.sleep(order.delay_s)
        screen = _Screen(dialect, time.perf_counter())
        following = asyncio.create_task(screen.follow(socket))
        try:
            for at in range(0, len(audio), PIECE):
                await asyncio.sleep(max(0.0, screen.began + (at // PIECE + 1) * PIECE_MS / 1_000 - time.perf_counter()))
                await socket.send_bytes(dialect.piece(audio[at : at + PIECE]))
            unfinished = await self._finish(socket, screen, following)
        except (aiohttp.ClientError, ConnectionError) as error:
            return Brief(screen.shown, lost=f"{type(error).__name__}: {error}")
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
                await asyncio.wait_for(socket.close(), RETRY_S)
        return Brief(screen.shown, lost=screen.lost, unfinished=unfinished)

    async def _finish(
        self, socket: aiohttp.ClientWebSocketResponse, screen: "_Screen", following: "asyncio.Task[None]"
    ) -> bool:
        """Wait until nothing more is to come, and say goodbye; whether it was cut off."""
        end = time.perf_counter() + self._orders.hang_s
        if not self._dialect.hangs_up:
            await socket.send_bytes(self._dialect.farewell)
        screen.newest = time.perf_counter()
        while not following.done() and not self._dialect.over:
            now = time.perf_counter()
            quiet_s = SETTLED_S if self._dialect.settled else QUIET_S
            if self._dialect.hangs_up and now - screen.newest > quiet_s:
                await socket.send_bytes(self._dialect.farewell)
                return False
            if now > end:
                return True
            await asyncio.sleep(LOOK_S)
        return False


class _Screen:
    """What a reader of the captions sees. `newest`: when a message came."""

    def __init__(self, dialect: Dialect, began: float) -> None:
        self.began = began
        self.newest = began
        self.shown: list[Shown] = []
        self.lost = ""
        self._dialect = dialect

    async def follow(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        last: tuple[str, str] | None = None
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            self.newest = time.perf_counter()
            now = self._dialect.read(message.data)
            if now is not None and now != last:
                self.shown.append(Shown(round((self.newest - self.began) * 1_000, 1), *now))
                last = now
        if not self._dialect.over:
            self.lost = f"the server closed the connection ({socket.close_code})"


async def serve() -> None:
    loop = asyncio.get_running_loop()
    orders = msgspec.json.decode(await loop.run_in_executor(None, sys.stdin.buffer.readline), type=Orders)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
        )
        connections = [Connection(session, orders, number) for number in range(len(orders.streams))]
        await asyncio.gather(*(connection.open() for connection in connections))
        os.write(1, b"ready\n")
        await loop.run_in_executor(None, sys.stdin.buffer.readline)
        began = time.process_time()
        briefs = await asyncio.gather(
            *(one.speak(order) for one, order in zip(connections, orders.streams, strict=True))
        )
        cpu_s = time.process_time() - began
    sys.stdout.buffer.write(msgspec.json.encode(Report(list(briefs), cpu_s)))


if __name__ == "__main__":
    uvloop.run(serve())
