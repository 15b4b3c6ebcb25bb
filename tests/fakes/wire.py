"""A peer that speaks the few events of the wire that a client needs, and misbehaves on command.

It is a real Socket.IO server on a real socket; what a healthy server never does (cut a connection in the middle,
repeat events, leave one out, withhold credit) is a method or an attribute here. It holds all state across connections,
as a server's database would.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import socketio
from aiohttp import web

HANG_S = 30.0

Answer = dict[str, Any]


def refusal(code: str, **extra: Any) -> Answer:
    return {"ok": False, "error": {"code": code, "message": "No.", "retryable": False, **extra}}


def hit(text: str, **fields: Any) -> dict[str, Any]:
    """A hit as the server writes it."""
    return {
        "segment_id": f"g-{text}",
        "recording_id": "r1",
        "title": "Talk",
        "speaker": None,
        "start_ms": 0,
        "end_ms": 900,
        "rev": 1,
        "text": text,
        "highlights": [[0, len(text)]],
        "score": 1.0,
        **fields,
    }


def match(number: int, text: str) -> dict[str, Any]:
    """What a subscription is told, but for its name."""
    return {"cursor": f"{number}.0", "hit": hit(text)}


class Take(msgspec.Struct):
    """One recording as the peer has it. `credit_bytes` stays as set; `durable_lag`: bytes received, not yet durable."""

    recording_id: str
    stream_id: str
    audio: bytearray
    credit_bytes: int
    durable: int = 0
    durable_lag: int = 0
    acks: bool = True
    stopped: bool = False
    chunks: list[tuple[int, int]] = []
    log: list[str] = []


class WirePeer:
    def __init__(self) -> None:
        self.sio = socketio.AsyncServer(async_mode="aiohttp", async_handlers=False, transports=["websocket"])
        self.sio.on("connect", self._connect)
        self.sio.on("*", self._event)
        self.url = ""
        self.connects: list[dict[str, Any]] = []
        self.sids: list[str] = []
        self.refuse: list[dict[str, str]] = []
        self.silent: set[str] = set()
        self.received: list[tuple[str, Any]] = []
        self.answers: dict[str, list[Any]] = {}
        self.rooms: dict[str, list[dict[str, Any]]] = {}
        self.first_seq: dict[str, int] = {}
        self.takes: dict[str, Take] = {}
        self.matches: list[dict[str, Any]] = []
        self.first_match = 1
        self.subscriptions: dict[str, str] = {}
        self.credit_bytes = 64_000
        self.durable_lag = 0
        self.changed = asyncio.Condition()

    # --- what tests do --------------------------------------------------------------------------------------------
    async def until(self, condition: Any) -> None:
        """Wait until `condition()` holds after some event."""
        async with asyncio.timeout(HANG_S), self.changed:
            await self.changed.wait_for(condition)

    async def cut(self) -> None:
        """Drop every connection without a word, as a broken network does."""
        for sid in self.sids:
            environ = self.sio.get_environ(sid)
            transport = environ["aiohttp.request"].transport if environ else None
            if transport is not None:
                transport.abort()
        self.sids.clear()

    async def emit(self, event: str, body: dict[str, Any]) -> None:
        await self.sio.emit(event, body, to=self.sids[-1])

    def write(self, room: str, text: str) -> dict[str, Any]:
        """Append to a room's log without telling anybody."""
        log = self.rooms.setdefault(room, [])
        event = {"event": "transcript:final", "room": room, "seq": len(log) + 1, "at": 0, "text": text}
        log.append(event)
        return event

    def end(self, take: Take, reason: str = "stopped") -> None:
        """The recording is over, and its log says why."""
        take.stopped = True
        log = self.rooms.setdefault(f"recording:{take.recording_id}", [])
        log.append(
            {
                "event": "recording:ended",
                "room": f"recording:{take.recording_id}",
                "seq": len(log) + 1,
                "reason": reason,
            }
        )

    async def tell(self, room: str, text: str) -> None:
        await self.emit("transcript:final", self.write(room, text))

    async def say(self, *texts: str) -> None:
        """What every subscription matches, and those of open connections are told."""
        for text in texts:
            self.matches.append(match(len(self.matches) + 1, text))
            for name, sid in self.subscriptions.items():
                if sid in self.sids:
                    await self._match(sid, name, self.matches[-1])

    async def acknowledge(self, take: Take) -> None:
        take.durable = max(take.durable, len(take.audio) - take.durable_lag)
        await self.emit(
            "voice:recording:ack",
            {
                "stream_id": take.stream_id,
                "received_bytes": len(take.audio),
                "durable_bytes": take.durable,
                "credit_bytes": take.credit_bytes,
            },
        )

    def names(self) -> list[str]:
        return [name for name, _ in self.received]

    # --- the peer -------------------------------------------------------------------------------------------------
    async def _connect(self, sid: str, _environ: dict[str, Any], auth: Any) -> None:
        self.connects.append(auth)
        if self.refuse:
            detail = self.refuse.pop(0)
            error = socketio.exceptions.ConnectionRefusedError(detail["message"])
            error.error_args = {"message": detail["message"], "data": detail}
            raise error
        self.sids.append(sid)
        self.sio.start_background_task(self._greet, sid)

    async def _greet(self, sid: str) -> None:
        await self.sio.emit(
            "ready",
            {
                "protocol": 1,
                "features": [],
                "session_id": sid,
                "user": {"id": "u1", "name": "Ana", "roles": ["owner"]},
                "tenant": {"id": "t1", "name": "demo"},
                "engine": {"name": "fake", "model": "none", "state": "ready", "later": 1},
                "limits": {},
                "server_time": time.time_ns() // 1_000_000,
                "later": True,
            },
            to=sid,
        )
        async with self.changed:
            self.changed.notify_all()

    async def _event(self, event: str, sid: str, body: Any = None) -> Any:
        self.received.append((event, body))
        try:
            if event in self.silent:
                # No acknowledgement: an object that python-socketio would send is what a silent server withholds.
                await asyncio.sleep(0)
                raise _Withheld
            if self.answers.get(event):
                answer = self.answers[event].pop(0)
                return await answer(body) if callable(answer) else answer
            match event:
                case "room:join":
                    return self._join(sid, body)
                case "events:read":
                    return self._read(body)
                case "search:subscribe":
                    return self._subscribe(sid, body)
                case "search:unsubscribe":
                    self.subscriptions.pop(body["subscription_id"], None)
                    return {"ok": True}
                case "voice:recording:start":
                    return self._start(body)
                case "voice:recording:chunk":
                    return await self._chunk(body)
                case "voice:recording:stop":
                    return self._stop(body)
                case "voice:recording:flush" | "voice:recording:pause" | "voice:recording:resume":
                    self.takes_by_stream(body["stream_id"]).log.append(event.rpartition(":")[2])
                    return {"ok": True}
                case _:
                    return {"ok": True}
        finally:
            async with self.changed:
                self.changed.notify_all()

    def takes_by_stream(self, stream_id: str) -> Take:
        return next(take for take in self.takes.values() if take.stream_id == stream_id)

    def _join(self, sid: str, body: dict[str, Any]) -> Answer:
        log = self.rooms.setdefault(body["room"], [])
        first = self.first_seq.get(body["room"], 1)
        after = body.get("after_seq")
        if after is not None and after < first - 1:
            return refusal("history_truncated", first_seq=first)
        if after is not None:
            self.sio.start_background_task(self._replay, sid, log[after:])
        return {"ok": True, "room": body["room"], "seq": len(log), "first_seq": first}

    async def _replay(self, sid: str, events: list[dict[str, Any]]) -> None:
        for event in events:
            await self.sio.emit(event["event"], event, to=sid)

    def _read(self, body: dict[str, Any]) -> Answer:
        log = self.rooms.get(body["room"], [])
        page = log[body["after_seq"] :][: body["limit"]]
        return {"ok": True, "events": page, "seq": len(log), "more": body["after_seq"] + len(page) < len(log)}

    def _subscribe(self, sid: str, body: dict[str, Any]) -> Answer:
        after = int(body["after"].partition(".")[0]) if "after" in body else len(self.matches)
        if after < self.first_match - 1:
            return refusal("history_truncated", first_seq=self.first_match)
        self.sio.start_background_task(self._catch_up, sid, body["subscription_id"], after)
        return {"ok": True, "cursor": f"{after}.0"}

    async def _catch_up(self, sid: str, name: str, after: int) -> None:
        while after < len(self.matches):
            await self._match(sid, name, self.matches[after])
            after += 1
        self.subscriptions[name] = sid

    async def _match(self, sid: str, name: str, matched: dict[str, Any]) -> None:
        await self.sio.emit("search:match", {**matched, "subscription_id": name}, to=sid)

    def _start(self, body: dict[str, Any]) -> Answer:
        number = self.names().count("voice:recording:start")
        recording_id = body.get("recording_id")
        if recording_id is None:
            recording_id = f"r{number}"
            self.takes[recording_id] = Take(
                recording_id, "", bytearray(), self.credit_bytes, durable_lag=self.durable_lag
            )
        take = self.takes[recording_id]
        if take.stopped:
            return refusal("stream_ended")
        if body.get("recording_id") is not None:
            if body.get("resume_token") != f"secret-{recording_id}":
                return refusal("recording_busy")
            # A restarted server only has what was durable.
            del take.audio[take.durable :]
        take.stream_id = f"s{number}"
        return {
            "ok": True,
            "recording_id": recording_id,
            "stream_id": take.stream_id,
            "resume_token": f"secret-{recording_id}",
            "offset": len(take.audio),
            "credit_bytes": take.credit_bytes,
            "engine": {"name": "fake"},
        }

    async def _chunk(self, body: dict[str, Any]) -> None:
        take = next((t for t in self.takes.values() if t.stream_id == body["stream_id"]), None)
        if take is None:
            return
        offset, audio = body["offset"], body["audio"]
        take.chunks.append((offset, len(audio)))
        assert isinstance(audio, bytes)
        if offset != len(take.audio):
            error = {"code": "offset_mismatch", "message": "No.", "retryable": False}
            await self.emit(
                "voice:recording:error",
                {"stream_id": take.stream_id, "error": error, "expected_offset": len(take.audio), "fatal": False},
            )
            return
        take.audio += audio
        take.log.append("chunk")
        if take.acks:
            await self.acknowledge(take)

    def _stop(self, body: dict[str, Any]) -> Answer:
        take = self.takes_by_stream(body["stream_id"])
        if body["offset"] != len(take.audio):
            return refusal("offset_mismatch", expected=len(take.audio))
        self.end(take)
        take.log.append("stop")
        return {"ok": True}


class _Withheld(Exception):
    """Leaves python-socketio without a return value: it sends no acknowledgement."""


@asynccontextmanager
async def wire_peer() -> AsyncIterator[WirePeer]:
    peer = WirePeer()
    app = web.Application()
    peer.sio.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    peer.url = f"http://127.0.0.1:{port}"
    try:
        yield peer
    finally:
        await peer.cut()
        await peer.sio.shutdown()
        await runner.cleanup()
