"""A connection to PostgreSQL whose bytes were damaged on the way: asyncpg stumbles, and for us the database is lost."""

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from server.store import installation, migrate
from server.store.pool import Database, is_lost
from streaming.errors import Unavailable

SSL_REQUEST = 80_877_103
READY = b"Z" + struct.pack("!Ic", 5, b"I")


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


GREETING = b"".join(
    [
        message(b"R", struct.pack("!I", 0)),
        message(b"S", b"server_version\0" + b"18.4\0"),
        message(b"S", b"client_encoding\0UTF8\0"),
        message(b"K", struct.pack("!II", 1, 2)),
        READY,
    ]
)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bytes = READY) -> None:
    """A PostgreSQL whose answer to every statement lost the message that says what was done, or all of it."""
    try:
        while True:
            (size,) = struct.unpack("!I", await reader.readexactly(4))
            (code,) = struct.unpack("!I", (await reader.readexactly(size - 4))[:4])
            writer.write(b"N" if code == SSL_REQUEST else GREETING)
            if code != SSL_REQUEST:
                break
        while True:
            kind = await reader.readexactly(1)
            (size,) = struct.unpack("!I", await reader.readexactly(4))
            await reader.readexactly(size - 4)
            if kind == b"X":
                break
            writer.write(answers)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opened = Database(f"postgresql://somebody@127.0.0.1:{port}/anything")
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()
        server.close()
        await server.wait_closed()


async def test_a_start_waits_for_no_answer_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer, answers=b"")

    monkeypatch.setattr(migrate, "CONNECT_S_MAX", 0.3)
    monkeypatch.setattr(installation, "CONNECT_S_MAX", 0.3)
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    dsn = f"postgresql://somebody@127.0.0.1:{server.sockets[0].getsockname()[1]}/anything"
    try:
        async with asyncio.timeout(60):
            with pytest.raises(Unavailable):
                await migrate.migrate(dsn)
            with pytest.raises(Unavailable):
                await installation.shared_secret(dsn, "proposed")
    finally:
        server.close()
        await server.wait_closed()


async def test_an_answer_that_makes_no_sense_is_a_lost_database(database: Database) -> None:
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            async with database.shared_tx():
                pytest.fail("a transaction began")
        assert type(caught.value.__cause__).__module__ == "builtins", "asyncpg knows this one by now"


@pytest.mark.parametrize("wrong", [AttributeError("ours"), ValueError("ours"), KeyError("ours")])
def test_a_mistake_of_our_own_is_none(wrong: Exception) -> None:
    with pytest.raises(type(wrong)) as caught:
        raise wrong
    assert not is_lost(caught.value)
