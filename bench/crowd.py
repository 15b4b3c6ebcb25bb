"""Many Socket.IO clients in one process, for little: what measures both servers must not be what is measured.

A client is a TCP connection that speaks WebSocket (RFC 6455), Engine.IO 4 and Socket.IO 5 as far as a server's
messages need it. Of an event that is measured it reads the number `n` and the time `sent_us` out of the bytes; nothing
else is decoded. Frames to the server are masked with a key that is not zero: some servers skip the work for zero.

Invariant: an event counts as delivered when it is complete; a number that is not the last one's successor is disorder.
"""

import asyncio
import json
import resource
import socket
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np

MASK = bytes((0x37, 0xFA, 0x21, 0x3D))
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
"""What browsers offer."""
PER_ADDRESS = 5_000
"""Connections from one loopback address: the kernel has 28,000 ports for each."""
CONNECTING_MAX = 64
BACK_S = 0.5
HANG_S = 60.0


class Lost(Exception):
    """A server refused a client, closed on it, or did not deliver."""


class Later(Lost):
    """A server that has too much to do asks the client to come back."""


def frame(opcode: int, payload: bytes) -> bytes:
    """One masked frame."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65_536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8)
    key = (MASK * (size // 4 + 1))[:size]
    return head + MASK + (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)


def frames(data: bytes) -> tuple[list[tuple[int, int, int]], int]:
    """(first byte, begin, end) of each complete frame of a server in `data`, and where the rest begins."""
    found = []
    at, size = 0, len(data)
    while size - at >= 2:
        length, begin = data[at + 1], at + 2
        if length == 126:
            begin = at + 4
            length = int.from_bytes(data[at + 2 : begin])
        elif length == 127:
            begin = at + 10
            length = int.from_bytes(data[at + 2 : begin])
        end = begin + length
        if end > size:
            break
        found.append((data[at], begin, end))
        at = end
    return found, at


class Link(asyncio.Protocol):
    """One client. `connected`: the namespace is, and the server said `ready`."""

    def __init__(self, crowd: "Crowd", number: int, url: str) -> None:
        self.crowd = crowd
        self.number = number
        self.url = url
        self.latencies_us = crowd.latencies_us[url]
        self.last = 0
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers: dict[int, asyncio.Future[Any]] = {}
        self.compressed = False
        self._inflate: Any = None
        self._rest = b""
        self._upgraded = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        offer = DEFLATE if self.crowd.deflate else ""
        transport.write(
            (
                f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {urlsplit(self.url).netloc}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{offer}\r\n"
            ).encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        self.crowd.gone(self)
        for waiting in (self.connected, *self.answers.values()):
            if not waiting.done():
                waiting.set_exception(Lost(f"client {self.number} lost its connection"))
                waiting.exception()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        if not self._upgraded:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            self._upgrade(data[:end])
            data = data[end + 4 :]
        found, at = frames(data)
        self._rest = data[at:]
        for first, begin, end in found:
            self._frame(first, data, begin, end)

    def _upgrade(self, head: bytes) -> None:
        self._upgraded = True
        if not head.startswith(b"HTTP/1.1 101"):
            self._refused(head[:80].decode(errors="replace"))
        self.compressed = b"permessage-deflate" in head

    def _refused(self, why: str, *, later: bool = False) -> None:
        if not self.connected.done():
            self.connected.set_exception(Later(why) if later else Lost(why))
        self.transport.abort()

    def _frame(self, first: int, data: bytes, begin: int, end: int) -> None:
        crowd = self.crowd
        if first & 0x40:  # permessage-deflate (RFC 7692)
            self._inflate = self._inflate or zlib.decompressobj(-zlib.MAX_WBITS)
            data = self._inflate.decompress(data[begin:end] + b"\x00\x00\xff\xff")
            first, begin, end = first & ~0x40, 0, len(data)
        if first == 0x81 and data.startswith(crowd.subject, begin):
            at = data.index(b'"n":', begin, end) + 4
            n = int(data[at : data.index(b",", at, end)])
            at = data.index(b'"sent_us":', at, end) + 10
            crowd.took(self, n, int(data[at : data.index(b",", at, end)]), end - begin)
        elif first == 0x81:
            self._text(data[begin:end])
        elif first & 15 == PING:
            self.transport.write(frame(PONG, data[begin:end]))
        elif first & 15 == CLOSE:
            self.transport.abort()
        elif first != 0x82:
            self._refused(f"an unexpected frame: {first:#x}")

    def _text(self, text: bytes) -> None:
        if text == b"2":
            self.transport.write(frame(TEXT, b"3"))
        elif text.startswith(b"0"):
            self.transport.write(frame(TEXT, b"40" + json.dumps({"token": self.crowd.token}).encode()))
        elif text.startswith(b'42["ready",'):
            self.connected.set_result(None)
        elif text.startswith(b"43"):
            at = text.index(b"[")
            self.answers.pop(int(text[2:at])).set_result(json.loads(text[at:])[0])
        elif text.startswith(b"44"):
            self._refused(text.decode(), later=b'"retryable":true' in text)
        elif text.startswith(b"42["):
            name, *rest = json.loads(text[2:])
            self.crowd.heard(self, name, rest[0] if rest else None)

    # --- to the server ----------------------------------------------------------------------------------------
    async def call(self, event: str, obj: Any) -> dict[str, Any]:
        """The acknowledgement of what must succeed."""
        number = len(self.answers)
        waiting = self.answers[number] = asyncio.get_running_loop().create_future()
        self.transport.write(frame(TEXT, f"42{number}{json.dumps([event, obj])}".encode()))
        async with asyncio.timeout(HANG_S):
            answer: dict[str, Any] = await waiting
        if answer.get("ok") is not True:
            raise Lost(f"{event} was answered {answer}")
        return answer

    def attach(self, event: str, head: str, binary: bytes) -> None:
        """An event whose last field is binary: `head` is its object's beginning, `binary` a whole frame."""
        text = f'451-["{event}",{{{head}{{"_placeholder":true,"num":0}}}}]'
        self.transport.write(frame(TEXT, text.encode()) + binary)


class Crowd:
    """Clients of one server, or of several. `subject`: the event that is measured."""

    def __init__(self, token: str, *, subject: str = "transcript:partial", deflate: bool = False) -> None:
        self.token = token
        self.deflate = deflate
        self.subject = f'42["{subject}",'.encode()
        self.links: list[Link] = []
        self.lost = 0
        self.asked_back = 0
        """Times a client was refused and told to come back, which it did."""
        self.delivered = 0
        self.bytes = 0
        self.disorder = 0
        self.latencies_us: defaultdict[str, list[int]] = defaultdict(list)
        """By the server that delivered."""
        self.others: list[tuple[int, str, Any]] = []
        """Events that are not measured, but for `server:status`."""
        self._closing = False
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._target = 0

    async def connect(self, url: str, size: int, *, receive_bytes: int = 0) -> None:
        """Returns when so many more are greeted; `receive_bytes`: of their sockets' buffers. Raises `Lost`."""
        places = asyncio.Semaphore(CONNECTING_MAX)

        async def one(number: int) -> Link:
            async with places, asyncio.timeout(HANG_S):
                while True:
                    link = await self._add(url, number, receive_bytes)
                    try:
                        await link.connected
                    except Later:
                        self.asked_back += 1
                        await asyncio.sleep(BACK_S)
                    else:
                        return link

        begin = len(self.links)
        self.links += await asyncio.gather(*(one(begin + n) for n in range(size)))

    async def _add(self, url: str, number: int, receive_bytes: int) -> Link:
        """One TCP connection, not yet greeted."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.bind((f"127.0.0.{2 + number // PER_ADDRESS}", 0))
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", urlsplit(url).port))
        _, link = await loop.create_connection(lambda: Link(self, number, url), sock=sock)
        return link

    def took(self, link: Link, n: int, at_us: int, size: int) -> None:
        if n != link.last + 1:
            self.disorder += link.last != 0
        link.last = n
        self.bytes += size
        link.latencies_us.append(time.monotonic_ns() // 1_000 - at_us)
        self.delivered += 1
        if self.delivered == self._target:
            self.look()

    def heard(self, link: Link, name: str, obj: Any) -> None:
        if name != "server:status":
            self.others.append((link.number, name, obj))
            self.look()

    def gone(self, link: Link) -> None:
        refused = link.connected.done() and link.connected.exception() is not None
        if not self._closing and not refused:
            self.lost += 1
            self.look()

    def look(self) -> None:
        """See who waits for what is now there."""
        for condition, waiting in list(self._waiting):
            if not waiting.done() and condition():
                waiting.set_result(None)

    async def until(self, condition: Callable[[], bool], hang_s: float = HANG_S) -> None:
        """Wait for something that an event makes true. Raises `Lost` when it does not come."""
        if condition():
            return
        entry = condition, asyncio.get_running_loop().create_future()
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(hang_s):
                await entry[1]
        except TimeoutError:
            raise Lost(f"{self.delivered} delivered of {self._target}, {self.lost} connections lost") from None
        finally:
            self._waiting.remove(entry)

    async def until_delivered(self, total: int, hang_s: float = HANG_S, *, or_lost: bool = False) -> None:
        self._target = total
        await self.until(lambda: self.delivered >= total or (or_lost and self.lost > 0), hang_s)

    def latency_ms(self, percent: float, url: str | None = None) -> float:
        """Of what one server delivered, or all of them."""
        lists = self.latencies_us.values() if url is None else [self.latencies_us[url]]
        return float(np.percentile(np.concatenate([np.asarray(found) for found in lists if found]), percent)) / 1_000

    def heard_by(self, name: str) -> set[int]:
        """Numbers of the clients that heard this event."""
        return {number for number, event, _ in self.others if event == name}

    def forget(self) -> None:
        """Begin a new measurement."""
        self.delivered = self.bytes = self.disorder = self._target = 0
        for latencies in self.latencies_us.values():
            latencies.clear()
        self.others.clear()

    def close(self) -> None:
        self._closing = True
        for link in self.links:
            link.transport.abort()


def room_for(connections: int) -> None:
    """Files enough for so many connections here and in the servers that are started. Raises `Lost`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 512
    if soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Lost(f"this account may open {hard} files, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
