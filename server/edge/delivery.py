"""From the server to one client: encode once, queue without waiting, cut off who does not read.

python-socketio's queue per client has no limit and its emit costs a task per recipient; here an event of a room is
encoded once for all members and put into their queues directly. A client whose queue is full is cut off as
`slow_consumer` and resumes from the log.

Boundary: the only module besides `sockets` that knows Socket.IO's insides (python-socketio 5.18).
"""

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Any

import msgspec
import socketio
from engineio import packet as eio_packet

from server.telemetry import METRICS
from streaming.aio import Scope
from streaming.limits import Limits

log = logging.getLogger(__name__)

ENCODED_MAX = 64
"""Events remembered in encoded form: members of a room are told one after another, so a few are enough."""

QUEUE_LOOK_S = 0.02


class Delivery:
    """Puts events into the queues of connected clients. Used from the loop's thread only."""

    def __init__(self, sio: socketio.AsyncServer, scope: Scope, limits: Limits) -> None:
        self._sio = sio
        self._scope = scope
        self._limits = limits
        self._closing: set[asyncio.Task[None]] = set()
        self._encoded: OrderedDict[int, tuple[Any, list[str | bytes]]] = OrderedDict()

    def send(self, sid: str, event: str, data: dict[str, Any]) -> bool:
        """Queue one event. False when the client is gone or was cut off."""
        eio_sid = self._sio.manager.eio_sid_from_sid(sid, "/")
        socket = self._sio.eio.sockets.get(eio_sid) if eio_sid else None
        if socket is None or socket.closed:
            return False
        if socket.queue.qsize() >= self._limits.outbox_packets_max:
            self._slow(sid, socket.queue.qsize())
            return False
        for part in self._encode(event, data):
            socket.queue.put_nowait(eio_packet.Packet(eio_packet.MESSAGE, data=part))
        METRICS.events_sent.inc()
        return True

    async def served(self, sid: str) -> bool:
        """Wait until the client has read most of what it was sent; False when it does not and was cut off.

        Called before a request is handled: acknowledgements go into the same queue, and only this client waits."""
        end = time.monotonic() + self._limits.answers_wait_ms_max / 1000
        while (queued := self._queued(sid)) > self._limits.answers_waiting_max:
            if time.monotonic() > end:
                self._slow(sid, queued)
                return False
            await asyncio.sleep(QUEUE_LOOK_S)
        return True

    def _queued(self, sid: str) -> int:
        eio_sid = self._sio.manager.eio_sid_from_sid(sid, "/")
        socket = self._sio.eio.sockets.get(eio_sid) if eio_sid else None
        return socket.queue.qsize() if socket is not None else 0

    def _slow(self, sid: str, queued: int) -> None:
        METRICS.slow_consumers.inc()
        log.warning("slow consumer cut off", extra={"sid": sid, "queued": queued})
        self.cut_off(sid)

    def close_soon(self, sid: str) -> None:
        """Let the queue be written, close in an orderly way, and cut off after a while what does not go."""
        task = self._scope.spawn(self._close(sid), name=f"close {sid}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def drain(self) -> None:
        """Wait for the closes under way; each is bounded by `Limits.close_ms_max`."""
        if self._closing:
            await asyncio.wait(self._closing)

    async def _close(self, sid: str) -> None:
        eio_sid = self._sio.manager.eio_sid_from_sid(sid, "/")
        environ = self._sio.get_environ(sid)
        try:
            async with asyncio.timeout(self._limits.close_ms_max / 1000):
                await self._sio.disconnect(sid)
                if eio_sid is not None:
                    await self._sio.eio.disconnect(eio_sid)
        except TimeoutError:
            _abort(environ)

    def cut_off(self, sid: str) -> None:
        """Drop the connection without waiting for its queue."""
        _abort(self._sio.get_environ(sid))

    def _encode(self, event: str, data: dict[str, Any]) -> list[str | bytes]:
        known = self._encoded.get(id(data))
        if known is not None and known[0] is data:
            return known[1]
        encoded = self._sio.packet_class(socketio.packet.EVENT, data=[event, data], namespace="/").encode()
        parts = encoded if isinstance(encoded, list) else [encoded]
        self._encoded[id(data)] = (data, parts)
        if len(self._encoded) > ENCODED_MAX:
            self._encoded.popitem(last=False)
        return parts


def _abort(environ: dict[str, Any] | None) -> None:
    request = environ.get("aiohttp.request") if environ else None
    if request is not None and request.transport is not None:
        request.transport.abort()


class Json:
    """The `json` module of python-socketio, by msgspec: three times as fast, and it refuses NaN and infinity."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise ValueError("not JSON") from error
