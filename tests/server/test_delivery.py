"""Bounded delivery over real sockets: a client that reads only when the test says so, and others beside it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from auth.model import Identity
from server.edge.connection import Connection
from server.edge.sockets import Sockets
from server.store import feed
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.limits import KIB, MIB, Limits
from tests.fakes.recogniser import ToneRecogniser
from tests.server.test_limits import door
from tests.support.node import QUICK, Node, node, somebody
from tests.support.raw import BINARY, CLOSE, HANDSHAKE, TEXT, frame, raw_socket, text
from tests.support.wire import wired

HANG_S = 30.0
EVENT_BYTES = 8 * KIB
DEFLATE = "permessage-deflate; client_max_window_bits"


class Reader:
    """A client with small buffers that takes from its socket what it is asked to, and nothing else."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""
        self.session_id = ""

    async def read(self) -> tuple[int, bytes] | None:
        """The next message: opcode and payload. None at the end."""
        async with asyncio.timeout(HANG_S):
            head = await self._exactly(2)
            if head is None:
                return None
            n = head[1]
            if n > 125:
                n = int.from_bytes(await self._exactly(2 if n == 126 else 8) or b"")
            payload = await self._exactly(n)
            return None if payload is None or head[0] & 15 == CLOSE else (head[0] & 15, payload)

    async def _exactly(self, n: int) -> bytes | None:
        while len(self._rest) < n:
            try:
                more = await asyncio.get_running_loop().sock_recv(self._sock, 16 * KIB)
            except ConnectionError:
                more = b""
            if not more:
                return None
            self._rest += more
        taken, self._rest = self._rest[:n], self._rest[n:]
        return taken

    async def text(self) -> str | None:
        """The next text; pings are answered."""
        while (message := await self.read()) is not None:
            if message == (TEXT, b"2"):
                await self.send(text("3"))
            elif message[0] == TEXT:
                return message[1].decode()
        return None

    async def until(self, prefix: str) -> list[str]:
        """All texts up to the first that begins so, which is the last."""
        texts = [await self.text() or pytest.fail("the connection ended")]
        while not texts[-1].startswith(prefix):
            texts.append(await self.text() or pytest.fail(f"the connection ended after {texts[-1][:100]}"))
        return texts

    async def rest(self) -> list[str]:
        """All texts until the end."""
        texts = []
        while (told := await self.text()) is not None:
            texts.append(told)
        return texts

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def call(self, id: int, event: str, obj: Any) -> None:
        await self.send(text(f"42{id}{json.dumps([event, obj])}"))


@asynccontextmanager
async def reader(url: str) -> AsyncIterator[Reader]:
    """A greeted one."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * KIB)
        sock.setblocking(False)
        await loop.sock_connect(sock, (parts.hostname, parts.port))
        client = Reader(sock)
        await client.send(HANDSHAKE.format(host=parts.netloc, more="").encode())
        while b"\r\n\r\n" not in client._rest:
            client._rest += await loop.sock_recv(sock, KIB)
        client._rest = client._rest.partition(b"\r\n\r\n")[2]
        await client.send(text('40{"token":"t"}'))
        ready = json.loads((await client.until('42["ready"'))[-1][2:])[1]
        client.session_id = ready["session_id"]
        yield client


async def publish(one: Node, who: Identity, room: str, count: int, *, size: int = EVENT_BYTES) -> int:
    """Durable events; returns the last one's number."""
    drafts = [feed.Draft(room, "recording:updated", {"text": "x" * size}) for _ in range(count)]
    async with one.database.tenant_tx(who.tenant_id) as connection:
        events = await feed.append(connection, who.tenant_id, drafts, at_ms=0)
    one.hub.announce(events)
    return events[-1].seq


async def fill(one: Node, who: Identity, connection: Connection, room: str, n_bytes: int) -> int:
    """Publish until so much waits for a client that does not read; returns the last number."""
    seq = 0
    while connection._line.queued_bytes < n_bytes:
        seq = await publish(one, who, room, 1)
    return seq


def of(doors: Sockets, client: Reader) -> Connection:
    return doors._connections[client.session_id]


def start_of(room: str, seq: int) -> str:
    """How the message of one of `publish`'s events begins."""
    return f'42["recording:updated",{{"event":"recording:updated","room":"{room}","seq":{seq},'


def durable(texts: list[str]) -> list[int]:
    """Numbers of the durable events, in their order."""
    events = [json.loads(told[2:])[1] for told in texts if told.startswith("42[")]
    return [event["seq"] for event in events if "seq" in event]


async def test_a_client_that_stalls_in_a_busy_room(database: Database, tmp_path: Path) -> None:
    """It costs a bounded amount, the others get everything in order, and it misses nothing durable."""
    who = await somebody(database)
    room = f"user:{who.user_id}"
    async with (
        node(database, tmp_path, ToneRecogniser()) as one,
        door(one, who, QUICK) as (url, doors),
        wired(url, "t") as other,
        reader(url) as stalled,
    ):
        await other.ok("room:join", {"room": room})
        await stalled.call(1, "room:join", {"room": room})
        await stalled.until("431[")
        last = await publish(one, who, room, 3)
        seen = durable(
            await stalled.until(f'42["recording:updated",{{"event":"recording:updated","room":"{room}","seq":3')
        )
        connection, cut, most = of(doors, stalled), METRICS.slow_consumers._value.get(), 0
        while not connection._line.ended:
            last = await publish(one, who, room, 5)
            most = max(most, connection._line.held_bytes)
            await other.wait("recording:updated", lambda event, last=last: event.get("seq") == last)  # type: ignore[misc]
        assert METRICS.slow_consumers._value.get() == cut + 1
        assert MIB // 2 < most <= 2 * MIB
        last = await publish(one, who, room, 5)
        await other.wait("recording:updated", lambda event: event.get("seq") == last)
        assert [event["seq"] for event in other.named("recording:updated")] == list(range(1, last + 1))
        seen += durable(await stalled.rest())
        assert seen == list(range(1, len(seen) + 1)), "what it got before was in order too"
        assert len(seen) < last
        async with reader(url) as back:
            await back.call(2, "room:join", {"room": room, "after_seq": seen[-1]})
            while seen[-1] < last:
                seen += durable([await back.text() or pytest.fail("cut off while it catches up")])
        assert seen == list(range(1, last + 1))


async def test_a_client_catches_up_at_its_own_pace(database: Database, tmp_path: Path) -> None:
    """However long its log is: the next event is told when the last ones were read."""
    who = await somebody(database)
    room = f"user:{who.user_id}"
    async with node(database, tmp_path, ToneRecogniser()) as one, door(one, who, QUICK) as (url, doors):
        last = await publish(one, who, room, 400)
        assert last * EVENT_BYTES > 3 * MIB
        async with reader(url) as slow:
            await slow.call(1, "room:join", {"room": room, "after_seq": 0})
            await slow.until("431[")
            connection, seen = of(doors, slow), []
            while len(seen) < last:
                seen += durable([await slow.text() or pytest.fail("cut off while it catches up")])
                assert connection._line.held_bytes < MIB // 2
        assert seen == list(range(1, last + 1))


async def test_the_answer_comes_before_what_was_missed(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    room = f"user:{who.user_id}"
    async with (
        node(database, tmp_path, ToneRecogniser()) as one,
        door(one, who, QUICK) as (url, doors),
        reader(url) as client,
    ):
        await fill(one, who, of(doors, client), room, 32 * KIB)  # so that the answer has to wait as well
        last = await publish(one, who, room, 5)
        await client.call(1, "room:join", {"room": room, "after_seq": 0})
        await client.until("431[")
        seen = durable(
            await client.until(f'42["recording:updated",{{"event":"recording:updated","room":"{room}","seq":{last}')
        )
        assert seen == list(range(1, last + 1))


async def test_of_a_segment_only_the_newest_waits(database: Database, tmp_path: Path) -> None:
    """Never after its final, never before an event that it follows."""
    who = await somebody(database)
    room = f"user:{who.user_id}"
    key = (who.tenant_id, room)
    async with (
        node(database, tmp_path, ToneRecogniser()) as one,
        door(one, who, QUICK) as (url, doors),
        reader(url) as slow,
    ):
        await slow.call(1, "room:join", {"room": room})
        await slow.until("431[")
        line = of(doors, slow)._line
        await fill(one, who, of(doors, slow), room, 1)
        for rev in range(200):
            for segment_id in ("finished", "open"):
                one.hub.tell(key, "transcript:partial", {"segment_id": segment_id, "rev": rev, "text": "x" * KIB})
        assert line.queued_bytes < 64 * KIB
        before = await publish(one, who, room, 1)
        final = feed.Draft(room, "transcript:final", {"segment_id": "finished"})
        async with one.database.tenant_tx(who.tenant_id) as connection:
            one.hub.announce(await feed.append(connection, who.tenant_id, [final], at_ms=0))
        one.hub.tell(key, "transcript:partial", {"segment_id": "open", "rev": 200})
        one.hub.tell(key, "transcript:flushed", {"marker": "end"})
        texts = await slow.until('42["transcript:flushed"')
        told = [json.loads(told[2:]) for told in texts if told.startswith("42[")]
        partials = [(obj["segment_id"], obj["rev"]) for name, obj in told if name == "transcript:partial"]
        assert partials == [("open", 200)]
        heads = [obj["seq"] if "seq" in obj else obj["after_seq"] for _, obj in told]
        assert heads == sorted(heads), "an ephemeral event follows the event that it names"
        assert heads[-1] == before + 1


async def test_compression_is_refused(database: Database, tmp_path: Path) -> None:
    """An idle connection of a browser would hold 128 kB."""
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one, door(one, who, QUICK) as (url, _):
        target = f"{url}/socket.io/?EIO=4&transport=websocket"
        async with aiohttp.ClientSession() as http, http.ws_connect(target, compress=15) as ws:
            assert ws.compress == 0
            assert "Sec-WebSocket-Extensions" not in ws._response.headers
            assert (await ws.receive_str()).startswith("0{")
        async with raw_socket(url, Sec_WebSocket_Extensions=DEFLATE) as sock:
            assert (await sock.connect({"token": "t"}) or "").startswith("40{")
            assert await sock.until('42["ready"') is not None


async def test_pings_go_out_and_silence_ends_a_connection(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one, door(one, who, QUICK) as (url, doors):
        doors._sio.eio.pulse._interval_s = 0.1
        async with reader(url) as silent:
            connection = of(doors, silent)
            assert (TEXT, b"2") in [await silent.read() for _ in range(3)]
            while await silent.read() is not None:
                pass
            async with asyncio.timeout(HANG_S):
                while not connection.ended:
                    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://elsewhere.example", 400),
        ("null", 400),
        ("https://app.example:8443", 400),
        ("http://[", 400),
        ("http://", 400),
        (None, 101),
        ("https://app.example", 101),
        ("http://{host}", 101),
        ("https://{host}", 101),
    ],
)
async def test_whose_pages_may_connect(database: Database, tmp_path: Path, origin: str | None, status: int) -> None:
    who = await somebody(database)
    async with (
        node(database, tmp_path, ToneRecogniser()) as one,
        door(one, who, QUICK, origins=["https://app.example"]) as (url, doors),
    ):
        assert not doors._origin_allowed(origin or "null", {"HTTP_HOST": ""}) or origin == "https://app.example"
        headers = {} if origin is None else {"Origin": origin.format(host=urlsplit(url).netloc)}
        async with raw_socket(url, **headers) as sock:
            assert sock.status == status


async def test_a_goodbye_comes_after_what_waited(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    room = f"user:{who.user_id}"
    limits = msgspec.structs.replace(QUICK, close_ms_max=20_000)
    async with (
        node(database, tmp_path, ToneRecogniser()) as one,
        door(one, who, limits) as (url, doors),
        reader(url) as client,
    ):
        await client.call(1, "room:join", {"room": room})
        await client.until("431[")
        last = await fill(one, who, of(doors, client), room, 300 * KIB)
        of(doors, client).close("unauthenticated", "The access token has expired.")
        texts = await client.until("1")
        assert durable(texts) == list(range(1, last + 1))
        assert texts[-3].startswith('42["server:closing"')
        assert texts[-2:] == ["41", "1"]


async def test_who_does_not_read_its_goodbye_is_cut_off(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    room = f"user:{who.user_id}"
    limits = msgspec.structs.replace(QUICK, close_ms_max=100)
    async with (
        node(database, tmp_path, ToneRecogniser()) as one,
        door(one, who, limits) as (url, doors),
        reader(url) as client,
    ):
        await client.call(1, "room:join", {"room": room})
        await client.until("431[")
        connection = of(doors, client)
        await fill(one, who, connection, room, 300 * KIB)
        connection.close("unauthenticated", "The access token has expired.")
        await doors._delivery.drain()
        assert connection._line.ended
        assert connection._line._transport.is_closing()


START = {"encoding": "pcm_s16le", "sample_rate": 16_000, "channels": 1}
PLACEHOLDER = {"_placeholder": True, "num": 0}


async def told_of(url: str, fields: dict[str, Any], more: bytes, *, spaced: bool) -> list[Any]:
    """What the server says to a chunk, and whether the connection lives on; `spaced` takes the ordinary way."""
    async with reader(url) as client:
        await client.call(1, "voice:recording:start", START)
        started = json.loads((await client.until("431["))[-1][3:])[0]
        named = {name: started["stream_id"] if value == "own" else value for name, value in fields.items()}
        separators = (", ", ": ") if spaced else (",", ":")
        body = json.dumps(["voice:recording:chunk", named], separators=separators)
        await client.send(text(f"451-{body}") + more + text('422["room:leave",{"room":"recording:none"}]'))
        texts = []
        while (said := await client.text()) is not None and not said.startswith("432["):
            if said.startswith(('42["voice:recording:error"', '42["server:closing"')):
                texts.append(said.replace(started["stream_id"], "own"))
        return [*texts, said is not None]


@pytest.mark.parametrize(
    ("fields", "more", "code"),
    [
        ({"stream_id": "own", "offset": 0, "audio": PLACEHOLDER}, frame(BINARY, bytes(320)), None),
        ({"stream_id": "own", "offset": 640, "audio": PLACEHOLDER}, frame(BINARY, bytes(320)), "offset_mismatch"),
        ({"stream_id": "st_none", "offset": 0, "audio": PLACEHOLDER}, frame(BINARY, bytes(320)), "not_found"),
        ({"stream_id": "own", "offset": -1, "audio": PLACEHOLDER}, frame(BINARY, bytes(320)), "bad_request"),
        ({"stream_id": "own", "offset": 0}, frame(BINARY, bytes(320)), "bad_request"),
        ({"stream_id": "own", "offset": 0, "audio": PLACEHOLDER, "x": 1}, frame(BINARY, bytes(320)), "bad_request"),
        ({"stream_id": "own", "offset": 0, "audio": {**PLACEHOLDER, "num": 1}}, frame(BINARY, b"12"), "bad_request"),
        ({"stream_id": "own", "offset": 0, "audio": PLACEHOLDER}, text("3"), "bad_request"),
        ({"stream_id": "own", "offset": 0, "audio": PLACEHOLDER}, frame(BINARY, b"1") * 2, "bad_request"),
    ],
    ids=["right", "gap", "nobody's", "before the beginning", "no audio", "a field more", "another's", "none", "two"],
)
async def test_the_short_way_of_a_chunk_ends_as_the_ordinary(
    database: Database, tmp_path: Path, fields: dict[str, Any], more: bytes, code: str | None
) -> None:
    """The same text with blanks in it is not known as plain: whatever is wrong, both are told the same."""
    who = await somebody(database)
    async with node(database, tmp_path, ToneRecogniser()) as one, door(one, who, QUICK) as (url, _):
        plain = await told_of(url, fields, more, spaced=False)
        assert plain == await told_of(url, fields, more, spaced=True)
        assert (code or "") in str(plain[:1])
        assert len(plain) == (1 if code is None else 2)


async def test_plain_chunks_take_the_short_way(database: Database, tmp_path: Path) -> None:
    """In order with everything else that their client sends."""
    who = await somebody(database)
    async with (
        node(database, tmp_path, ToneRecogniser()) as one,
        door(one, who, QUICK) as (url, doors),
        reader(url) as client,
    ):
        taken: list[bool] = []
        short = doors._sio.eio.chunk

        def watched(*args: Any) -> bool:
            taken.append(short(*args))
            return taken[-1]

        doors._sio.eio.chunk = watched
        await client.call(1, "voice:recording:start", START)
        stream_id = json.loads((await client.until("431["))[-1][3:])[0]["stream_id"]
        for n in range(20):
            head = json.dumps({"stream_id": stream_id, "offset": 320 * n, "audio": PLACEHOLDER}, separators=(",", ":"))
            await client.send(text(f'451-["voice:recording:chunk",{head}]') + frame(BINARY, bytes(320)))
        await client.call(2, "voice:recording:stop", {"stream_id": stream_id, "offset": 20 * 320})
        assert json.loads((await client.until("432["))[-1][3:]) == [{"ok": True}]
        assert taken == [True] * 20


async def test_an_unread_request_waits_and_then_cuts_its_client_off(database: Database, tmp_path: Path) -> None:
    who = await somebody(database)
    room = f"user:{who.user_id}"
    limits: Limits = msgspec.structs.replace(QUICK, answers_wait_ms_max=100)
    async with (
        node(database, tmp_path, ToneRecogniser()) as one,
        door(one, who, limits) as (url, doors),
        reader(url) as client,
    ):
        await publish(one, who, room, 50)
        connection, most = of(doors, client), 0
        for n in range(100):
            await client.call(n, "events:read", {"room": room, "after_seq": 0})
        async with asyncio.timeout(HANG_S):
            while not connection.ended:
                most = max(most, connection._line.held_bytes)
                await asyncio.sleep(0)
        assert connection._line.ended
        assert most <= limits.answers_waiting_bytes_max + 2 * limits.answer_bytes_max + 64 * KIB
