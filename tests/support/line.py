"""A Socket.IO connection over nothing but a WebSocket, for tests that cut, stall and spoil it.

Every wait ends with the connection (`Lost`), nothing is left running after `close`, and a message costs some 30 us, so
that hundreds of clients fit beside the servers under test. For tests of the protocol itself `tests/support/wire.py`
uses the stock client.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import aiohttp

from tests.support.wire import HANG_S

Event = dict[str, Any]
Hear = Callable[[str, Event], None]
MESSAGE_BYTES_MAX = 16 * 2**20


class Lost(Exception):
    """The connection is gone, was refused, or brought what nobody can read."""


class Line:
    """One connection. `hear` is called with every event, in order; then `closed` is set, and `ended` called."""

    def __init__(self, hear: Hear, ended: Callable[[], None] = lambda: None) -> None:
        self.closed = asyncio.Event()
        self.why = ""
        self._hear = hear
        self._ended = ended
        self._answers: dict[int, asyncio.Future[Event]] = {}
        self._asked = 0
        self._ready: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._http: aiohttp.ClientSession | None = None
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None

    async def open(self, url: str, token: str, *, within_s: float = HANG_S) -> Event:
        """Connect; returns `ready`. Raises `Lost`."""
        try:
            async with asyncio.timeout(within_s):
                self._http = aiohttp.ClientSession()
                self._ws = await self._http.ws_connect(
                    f"{url}/socket.io/?EIO=4&transport=websocket", max_msg_size=MESSAGE_BYTES_MAX
                )
                self._reader = asyncio.get_running_loop().create_task(self._read(self._ws), name="line")
                await self._ws.send_str("40" + json.dumps({"token": token}))
                return await self._ready
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._lost(error) from error

    async def _read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        try:
            async for message in ws:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                await self._take(ws, message.data)
        except (Lost, ValueError, LookupError, TypeError, OSError, aiohttp.ClientError) as error:
            self.why = self.why or repr(error)
        finally:
            self._end()

    async def _take(self, ws: aiohttp.ClientWebSocketResponse, text: str) -> None:
        kind = text[:2]
        if text == "2":
            await ws.send_str("3")
        elif kind == "42":
            event, body = json.loads(text[2:])
            if event == "ready" and not self._ready.done():  # who waited may have given up
                self._ready.set_result(body)
            self._hear(event, body)
        elif kind == "43":
            start = text.index("[")
            answer = self._answers.pop(int(text[2:start]))
            if not answer.done():
                answer.set_result(json.loads(text[start:])[0])
        elif kind == "44":
            raise Lost(text)

    def _end(self) -> None:
        self.closed.set()
        self._ended()
        for waiting in (*self._answers.values(), self._ready):
            if not waiting.done():
                waiting.set_exception(Lost(self.why or "closed"))
                waiting.exception()  # nobody has to fetch it
        self._answers.clear()

    def _lost(self, error: BaseException) -> Lost:
        return error if isinstance(error, Lost) else Lost(self.why or repr(error))

    async def call(self, event: str, obj: Event, *, within_s: float = HANG_S) -> Event:
        """The acknowledgement, whatever it says. Raises `Lost`, also when it does not come in time."""
        self._asked += 1
        answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        if self.closed.is_set():
            raise Lost(self.why or "closed")
        self._answers[self._asked] = answer
        try:
            async with asyncio.timeout(within_s):
                await self._send(f"42{self._asked}" + json.dumps([event, obj]))
                return await answer
        except TimeoutError as error:
            raise self._lost(error) from error

    async def chunk(self, stream_id: str, offset: int, audio: bytes) -> None:
        """`voice:recording:chunk`. Raises `Lost`."""
        body = {"stream_id": stream_id, "offset": offset, "audio": {"_placeholder": True, "num": 0}}
        await self._send("451-" + json.dumps(["voice:recording:chunk", body]))
        await self._send(audio)

    async def _send(self, data: str | bytes) -> None:
        if self.closed.is_set() or self._ws is None:
            raise Lost(self.why or "closed")
        try:
            await (self._ws.send_str(data) if isinstance(data, str) else self._ws.send_bytes(data))
        except (OSError, aiohttp.ClientError) as error:
            raise self._lost(error) from error

    def cut(self) -> None:
        """End the transport without a goodbye."""
        connection = None if self._ws is None else self._ws._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()

    async def close(self) -> None:
        """Cut, and wait for everything of ours to end. Idempotent."""
        self.cut()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        if self._ws is not None:
            self._ws._response.close()  # the library gives its connection back only after a goodbye
        if self._http is not None:
            await self._http.close()
