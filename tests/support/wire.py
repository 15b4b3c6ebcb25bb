"""A bare Socket.IO client for tests: the protocol as PROTOCOL.md tells it, with nothing of ours in between."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import socketio

HANG_S = 30.0
"""A generous bound on waiting for something that must come."""

Event = tuple[str, dict[str, Any]]


class Wire:
    """One connection. `events` holds everything the server sent, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = asyncio.Event()
        self._arrived = asyncio.Condition()
        self._http = aiohttp.ClientSession()  # ours: the library forgets its own when the server dies
        self._client = socketio.AsyncClient(reconnection=False, handle_sigint=False, http_session=self._http)
        self._ws: Any = None
        self._client.on("*", self._on_any)
        self._client.on("disconnect", self._on_disconnect)

    async def _on_any(self, event: str, data: Any = None) -> None:
        async with self._arrived:
            self.events.append((event, data))
            self._arrived.notify_all()

    async def _on_disconnect(self, *_: Any) -> None:
        self.closed.set()
        async with self._arrived:
            self._arrived.notify_all()

    async def connect(self, url: str, token: str | None) -> dict[str, Any]:
        """Returns `ready`."""
        await self._client.connect(url, auth={"token": token} if token else None, transports=["websocket"])
        self._ws = self._client.eio.ws
        return await self.wait("ready")

    async def call(self, event: str, obj: Any) -> dict[str, Any]:
        """The acknowledgement, whatever it says."""
        answer = await self._client.call(event, obj, timeout=int(HANG_S))
        assert isinstance(answer, dict), f"{event} was not acknowledged with one object: {answer!r}"
        return answer

    async def ok(self, event: str, obj: Any) -> dict[str, Any]:
        """The acknowledgement of what must succeed."""
        answer = await self.call(event, obj)
        assert answer["ok"] is True, answer
        return answer

    async def refused(self, event: str, obj: Any) -> dict[str, Any]:
        """The error of what must be refused."""
        answer = await self.call(event, obj)
        assert answer["ok"] is False, answer
        error: dict[str, Any] = answer["error"]
        return error

    async def emit(self, event: str, obj: Any) -> None:
        await self._client.emit(event, obj)

    async def wait(self, event: str, where: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The first event of this name, past or coming, for which `where` holds."""
        async with asyncio.timeout(HANG_S), self._arrived:
            while True:
                for name, data in self.events:
                    if name == event and where(data):
                        return data
                await self._arrived.wait()

    def named(self, event: str) -> list[dict[str, Any]]:
        return [data for name, data in self.events if name == event]

    async def close(self) -> None:
        await self._client.disconnect()
        if self._ws is not None:
            await self._ws.close()
        await self._http.close()

    async def vanish(self) -> None:
        """Cut the transport without a goodbye."""
        self._client.eio.ws._response.connection.transport.abort()
        async with asyncio.timeout(HANG_S):
            await self.closed.wait()


@asynccontextmanager
async def wired(url: str, token: str | None) -> AsyncIterator[Wire]:
    """A connected client."""
    wire = Wire()
    try:
        await wire.connect(url, token)
        yield wire
    finally:
        await wire.close()


class Talk:
    """A recording being streamed by a test: `pcm` is s16le mono at `rate`."""

    def __init__(self, wire: Wire, pcm: bytes, *, rate: int = 16_000) -> None:
        self.wire = wire
        self.pcm = pcm
        self.rate = rate
        self.recording_id = ""
        self.stream_id = ""
        self.resume_token = ""
        self.sent = 0
        self._granted = 0

    @property
    def room(self) -> str:
        return f"recording:{self.recording_id}"

    async def start(self, **options: Any) -> dict[str, Any]:
        answer = await self.wire.ok(
            "voice:recording:start", {"encoding": "pcm_s16le", "sample_rate": self.rate, "channels": 1, **options}
        )
        self.took(answer)
        return answer

    def took(self, answer: dict[str, Any]) -> None:
        """`answer`: a positive acknowledgement of `voice:recording:start`."""
        self.recording_id, self.stream_id = answer["recording_id"], answer["stream_id"]
        self.resume_token, self.sent = answer["resume_token"], answer["offset"]
        self._granted = answer["offset"] + answer["credit_bytes"]

    async def resume(self, wire: Wire) -> dict[str, Any]:
        """Take the stream over on another connection."""
        self.wire = wire
        return await self.start(recording_id=self.recording_id, resume_token=self.resume_token)

    async def send(self, upto: int | None = None, *, chunk: int = 3_200, speed: float = 0.0) -> None:
        """Send up to byte `upto` within the credit; `speed` 0 is as fast as the server takes it."""
        upto = len(self.pcm) if upto is None else min(upto, len(self.pcm))
        while self.sent < upto:
            data = self.pcm[self.sent : min(self.sent + chunk, upto)]
            await self._credit(self.sent + len(data))
            await self.wire.emit(
                "voice:recording:chunk", {"stream_id": self.stream_id, "offset": self.sent, "audio": data}
            )
            self.sent += len(data)
            if speed:
                await asyncio.sleep(len(data) / (2 * self.rate) / speed)

    async def _credit(self, end: int) -> None:
        if end <= self._granted:
            return
        await self.wire.wait(
            "voice:recording:ack",
            lambda ack: ack["stream_id"] == self.stream_id and ack["received_bytes"] + ack["credit_bytes"] >= end,
        )

    async def stop(self) -> dict[str, Any]:
        """Stop and wait for the end; returns `recording:ended`, which a member hears without joining anything."""
        await self.wire.ok("voice:recording:stop", {"stream_id": self.stream_id, "offset": self.sent})
        return await self.wire.wait("recording:ended", lambda e: e["recording"]["id"] == self.recording_id)

    async def log(self) -> list[dict[str, Any]]:
        """All durable events of the recording's room."""
        events: list[dict[str, Any]] = []
        while True:
            page = await self.wire.ok("events:read", {"room": self.room, "after_seq": len(events), "limit": 100})
            events += page["events"]
            if not page["more"]:
                return events
