"""A WebSocket of single bytes for tests that send what no client would: frames by hand over TCP, RFC 6455."""

import asyncio
import contextlib
import json
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
HANDSHAKE = (
    "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n"
)
HANG_S = 60.0
"""A generous bound on waiting for something that must come."""


def frame(
    opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, reserved: int = 0, length: int | None = None
) -> bytes:
    """One frame. `length`: what it claims, when that is not what it has."""
    n = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if n < 126:
        head += bytes([mask_bit | n])
    elif n < 65_536:
        head += bytes([mask_bit | 126]) + struct.pack(">H", n)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", n & (2**64 - 1))
    if not masked:
        return head + payload
    mask = os.urandom(4)
    key = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(len(payload), "big")


def unmasked(data: bytes) -> bytes:
    """A frame's payload in the clear, for people who read a failure."""
    if len(data) < 2 or not data[1] & 0x80:
        return data
    at = {126: 4, 127: 10}.get(data[1] & 0x7F, 2)
    mask, payload = data[at : at + 4], data[at + 4 :]
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)) if len(mask) == 4 else data


def text(content: str) -> bytes:
    return frame(TEXT, content.encode("utf-8", "surrogatepass"))


class RawSocket:
    """One connection. `texts` holds the text messages the server sent, `closed` is set when it ended the transport."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.texts: list[str] = []
        self.status = 0
        self.closed = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._arrived = asyncio.Condition()

    async def handshake(self, host: str, **headers: str) -> int:
        """Returns the HTTP status."""
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self._writer.write(HANDSHAKE.format(host=host, more=more).encode())
        async with asyncio.timeout(HANG_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        self.status = int(head.split()[1])
        return self.status

    async def send(self, data: bytes) -> None:
        """Bytes as they are; what the server no longer reads is dropped."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            self._writer.write(data)
            async with asyncio.timeout(HANG_S):
                await self._writer.drain()

    async def listen(self) -> None:
        """Collect what comes until the server ends the connection."""
        try:
            while True:
                first, second = await self._reader.readexactly(2)
                n = second & 0x7F
                if n > 125:
                    n = int.from_bytes(await self._reader.readexactly(2 if n == 126 else 8), "big")
                payload = await self._reader.readexactly(n)
                if first & 0xF == CLOSE:
                    return
                if first & 0xF == TEXT:
                    async with self._arrived:
                        self.texts.append(payload.decode())
                        self._arrived.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.closed.set()
            async with self._arrived:
                self._arrived.notify_all()

    async def until(self, prefix: str) -> str | None:
        """The first text that begins so; None when the connection ended without one."""
        async with asyncio.timeout(HANG_S), self._arrived:
            while True:
                for content in self.texts:
                    if content.startswith(prefix):
                        return content
                if self.closed.is_set():
                    return None
                await self._arrived.wait()

    async def connect(self, auth: Any) -> str | None:
        """CONNECT of Socket.IO; the server's answer, None when it hung up instead."""
        await self.send(text("40" + json.dumps(auth)))
        return await self.until("4")

    def abort(self) -> None:
        self._writer.transport.abort()

    def half_close(self) -> None:
        """Nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()


@asynccontextmanager
async def raw_socket(url: str, **headers: str) -> AsyncIterator[RawSocket]:
    """An open WebSocket whose `listen` runs."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=4 * 2**20)
    sock = RawSocket(reader, writer)
    async with asyncio.TaskGroup() as tasks:
        try:
            await sock.handshake(parts.netloc, **headers)
            tasks.create_task(sock.listen())
            yield sock
        finally:
            sock.abort()
