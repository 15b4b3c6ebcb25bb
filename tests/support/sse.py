"""A bare reader of server-sent events over HTTP/1.1: sockets and lines, as RFC 9112 and the HTML standard tell them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

HANG_S = 30.0


class Block(msgspec.Struct, frozen=True):
    """What stood between two empty lines; `comment` and `retry` are lines that are no event."""

    id: str | None
    event: str | None
    data: Any
    comment: str | None
    retry: int | None


class Sse:
    """One answer. `next` gives block after block, None when the server ended the stream in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self._text = b""
        self._ended = False

    @classmethod
    async def request(
        cls, base: str, path: str, token: str | None = None, *, method: str = "GET", **headers: str
    ) -> Self:
        """Open, and read the head of the answer. Header names are written with _ for -."""
        url = urlsplit(base)
        assert url.hostname is not None
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        lines = [f"{method} {path} HTTP/1.1", f"Host: {url.netloc}"]
        lines += [f"Authorization: Bearer {token}"] if token else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = cls(reader, writer)
        async with asyncio.timeout(HANG_S):
            answer.status = int((await reader.readline()).split()[1])
            while (line := (await reader.readline()).decode().strip()) != "":
                name, _, value = line.partition(":")
                answer.headers[name.lower()] = value.strip()
        return answer

    async def problem(self) -> dict[str, Any]:
        """The body of a refusal."""
        async with asyncio.timeout(HANG_S):
            body: dict[str, Any] = json.loads(await self.reader.readexactly(int(self.headers["content-length"])))
        return body

    async def next(self) -> Block | None:
        """Raises `IncompleteReadError` when the connection was cut."""
        while b"\n\n" not in self._text:
            if self._ended:
                assert self._text == b"", "the stream ended inside of an event"
                return None
            async with asyncio.timeout(HANG_S):
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                self._text += (await self.reader.readexactly(size + 2))[:-2]
            self._ended = size == 0
        text, _, self._text = self._text.partition(b"\n\n")
        return parse(text.decode())

    async def event(self) -> Block:
        """The next block that is an event."""
        while True:
            block = await self.next()
            assert block is not None, "the server ended the stream"
            if block.event is not None:
                return block

    async def events(self, count: int) -> list[Block]:
        return [await self.event() for _ in range(count)]

    async def to_end(self) -> list[Block]:
        """Everything until the server ends the stream."""
        found = []
        while (block := await self.next()) is not None:
            found.append(block)
        return found

    async def close(self) -> None:
        self.writer.transport.abort()


def parse(text: str) -> Block:
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        assert name not in fields, f"twice in one block: {name}"
        fields[name] = value.removeprefix(" ")
    assert fields.keys() <= {"id", "event", "data", "retry", ""}, fields
    return Block(
        id=fields.get("id"),
        event=fields.get("event"),
        data=json.loads(fields["data"]) if "data" in fields else None,
        comment=fields.get(""),
        retry=int(fields["retry"]) if "retry" in fields else None,
    )


@asynccontextmanager
async def following(base: str, path: str, token: str | None = None, **headers: str) -> AsyncIterator[Sse]:
    """A stream that was taken, closed at the end."""
    sse = await Sse.request(base, path, token, **headers)
    try:
        assert sse.status == 200, await sse.problem()
        yield sse
    finally:
        await sse.close()
