"""The way to one client on virtual time: a transport that is full, and takes as much as the test says."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from server.edge.delivery import BINARY, FLUSH_BYTES, PING, Delivery, Line, encoded, frame
from streaming.aio import Scope
from streaming.limits import KIB, LIMITS, Limits
from streaming.protocol.messages import SERVER_EVENTS, RecordingAck, ServerDraining
from streaming.protocol.outbox import Item
from tests.sim import clock

HIGH, LOW = 64 * KIB, 16 * KIB
"""What asyncio's transports hold before they are full, and where they have room again."""


class Transport:
    """As asyncio's, with the protocol's side of flow control and the waiting for it."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.read = bytearray()
        self.writing_paused = False
        self.aborted = False
        self._room = asyncio.Event()

    def get_extra_info(self, _name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        assert not self.aborted
        self.buffer += data
        if len(self.buffer) > HIGH:
            self.writing_paused = True
            self._room.clear()

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True
        self._room.set()

    def take(self, n_bytes: int) -> None:
        """The client reads."""
        self.read += self.buffer[:n_bytes]
        del self.buffer[:n_bytes]
        if len(self.buffer) <= LOW:
            self.writing_paused = False
            self._room.set()

    async def drain(self) -> None:
        if self.writing_paused:
            await self._room.wait()
        if self.aborted:
            raise ConnectionResetError


class Client:
    """A line and who reads from it."""

    def __init__(self, scope: Scope, limits: Limits = LIMITS) -> None:
        self.transport = Transport()
        self.delivery = Delivery(cast(Any, None), scope, limits)
        request = SimpleNamespace(transport=self.transport, protocol=self.transport)
        self.line = Line(self.delivery, cast(Any, request), cast(Any, self.transport))

    def fill(self, n_bytes: int) -> int:
        """Messages of 1 KiB until so much is queued; returns how many."""
        count = 0
        while self.line.queued_bytes < n_bytes:
            assert self.line.send(Item(b"%08d" % count + bytes(KIB - 8)))
            count += 1
        return count

    async def read_all(self) -> bytes:
        while self.transport.buffer or self.line.queued_bytes:
            self.transport.take(10_000)
            await asyncio.sleep(0.01)
        return bytes(self.transport.read)


def run(script: Any, limits: Limits = LIMITS) -> None:
    async def main() -> None:
        async with Scope("test") as scope:
            await script(Client(scope, limits))

    clock.run(main())


def test_a_message_to_who_reads_is_written_at_once() -> None:
    async def script(client: Client) -> None:
        assert client.line.send(Item(b"1"))
        assert (bytes(client.transport.buffer), client.line.queued_bytes) == (b"1", 0)

    run(script)


def test_what_had_to_wait_arrives_in_order() -> None:
    async def script(client: Client) -> None:
        count = client.fill(300 * KIB)
        read = await client.read_all()
        assert [int(read[at : at + 8]) for at in range(0, len(read), KIB)] == list(range(count))
        assert client.line.taken is None
        assert client.line.send(Item(b"after"))
        assert bytes(client.transport.buffer) == b"after"

    run(script)


def test_nothing_overtakes_what_waits_when_there_is_room_again() -> None:
    async def script(client: Client) -> None:
        client.fill(100 * KIB)
        client.transport.take(HIGH + KIB)
        assert not client.transport.writing_paused
        assert client.line.send(Item(b"last"))
        assert (await client.read_all()).endswith(b"last")

    run(script)


def test_nothing_is_sent_to_who_is_gone() -> None:
    async def script(client: Client) -> None:
        client.transport.aborted = True
        assert not client.line.send(Item(b"1"))
        client.line.ping()
        other = Client(client.delivery.scope)
        other.line.end(1_000)
        assert not other.line.send(Item(b"1"))
        other.line.ping()
        assert not other.transport.buffer + client.transport.buffer

    run(script)


def test_no_more_is_in_the_transport_than_it_asks_for() -> None:
    async def script(client: Client) -> None:
        client.fill(500 * KIB)
        while client.line.queued_bytes:
            assert len(client.transport.buffer) <= HIGH + FLUSH_BYTES
            client.transport.take(1_000)
            await asyncio.sleep(0.01)

    run(script)


def test_who_lets_too_much_wait_is_cut_off() -> None:
    async def script(client: Client) -> None:
        most = 0
        while client.line.send(Item(bytes(KIB))):
            most = max(most, client.line.held_bytes)
        assert client.transport.aborted
        assert most <= LIMITS.outbox_bytes_max + HIGH + KIB
        assert not client.line.send(Item(b"more"))

    run(script)


def test_a_ping_does_not_wait() -> None:
    async def script(client: Client) -> None:
        client.fill(100 * KIB)
        before = client.line.queued_bytes
        client.line.ping()
        assert client.transport.buffer.endswith(PING)
        assert client.line.queued_bytes == before

    run(script)


def test_who_reads_slowly_but_steadily_is_served() -> None:
    """Ten times as long as somebody who reads nothing may take."""

    async def script(client: Client) -> None:
        client.fill(600 * KIB)
        waiting = asyncio.ensure_future(client.delivery.served(client.line))
        took_s = 0.0
        while not waiting.done():
            client.transport.take(5 * KIB)
            await asyncio.sleep(1)
            took_s += 1
        assert took_s * 1_000 > 10 * LIMITS.answers_wait_ms_max
        assert await waiting
        assert not client.line.ended

    run(script)


def test_who_reads_nothing_is_not_served() -> None:
    async def script(client: Client) -> None:
        client.fill(LIMITS.answers_waiting_bytes_max - 2 * KIB)
        assert await client.delivery.served(client.line), "up to there it is"
        client.fill(LIMITS.answers_waiting_bytes_max + 1)
        began = asyncio.get_running_loop().time()
        assert not await client.delivery.served(client.line)
        assert client.transport.aborted
        assert asyncio.get_running_loop().time() - began == pytest.approx(LIMITS.answers_wait_ms_max / 1_000)

    run(script)


def test_who_is_gone_keeps_nobody_waiting() -> None:
    async def script(client: Client) -> None:
        client.fill(300 * KIB)
        waits = [asyncio.ensure_future(wait) for wait in (client.line.below(0), client.delivery.served(client.line))]
        flushed = asyncio.ensure_future(client.line.flushed())
        await asyncio.sleep(1)
        assert not any(wait.done() for wait in [*waits, flushed])
        client.line.abort()
        assert await asyncio.gather(*waits) == [False, False]
        await flushed

    run(script)


def test_a_room_s_event_is_encoded_once_and_never_mistaken() -> None:
    async def script(client: Client) -> None:
        data = {"n": 1}
        items = []
        for event, told in (("a", data), ("a", data), ("b", data), ("a", {"n": 1}), ("a", {"n": 2})):
            client.delivery.tell(client.line, event, told)
            items.append(client.delivery._item)
        assert items[0] is items[1]
        assert items[3] is not items[0]
        expected = [b'42["a",{"n":1}]', b'42["a",{"n":1}]', b'42["b",{"n":1}]', b'42["a",{"n":1}]', b'42["a",{"n":2}]']
        assert bytes(client.transport.buffer) == b"".join(map(frame, expected))
        await asyncio.sleep(0)  # until they are counted

    run(script)


def test_binary_is_one_message_that_nothing_comes_between() -> None:
    item = encoded("e", {"a": b"12", "b": [b"3"]})
    head = b'451-["e",{"a":{"_placeholder":true,"num":0},"b":[{"_placeholder":true,"num":1}]}]'.replace(b"451", b"452")
    assert item.data == frame(head) + frame(b"12", BINARY) + frame(b"3", BINARY)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames(size: int) -> None:
    """RFC 6455, 5.2: whole, unmasked, the shortest form of the length."""
    data = frame(bytes(size))
    head = {0: 2, 125: 2, 126: 4, 65_535: 4, 65_536: 10}[size]
    assert (data[0], len(data)) == (0x81, head + size)
    told = data[1] if head == 2 else int.from_bytes(data[2:head])
    assert told == size


def test_what_replaces_what() -> None:
    partial = {"room": "recording:1", "segment_id": "s", "rev": 1}
    assert encoded("transcript:partial", partial).key == encoded("transcript:final", partial).settles is not None
    assert (
        encoded("transcript:partial", {**partial, "segment_id": "t"}).key != encoded("transcript:partial", partial).key
    )
    assert encoded("transcript:partial", {**partial, "room": "recording:2"}).key != encoded("x", partial).settles
    for event, data in (("recording:updated", partial), ("transcript:partial", "text"), ("transcript:partial", {})):
        assert (encoded(event, data).key, encoded(event, data).settles) == (None, None)
    for odd in ({**partial, "segment_id": []}, {**partial, "room": None}):
        assert encoded("transcript:partial", odd).key is None


def test_of_acknowledgements_of_audio_the_newest_waits() -> None:
    ack = RecordingAck(
        stream_id="one", received_bytes=1, durable_bytes=0, credit_bytes=0, received_ms=0, processed_ms=0,
        committed_ms=0, lag_ms=0, degraded=False,
    )  # fmt: skip

    async def script(client: Client) -> None:
        client.fill(1)
        for received in range(5):
            for stream_id in ("one", "two"):
                told = msgspec.structs.replace(ack, stream_id=stream_id, received_bytes=received)
                assert client.delivery.tell_message(client.line, "voice:recording:ack", told)
        client.delivery.tell_message(client.line, "server:draining", ServerDraining(reconnect_after_ms=1))
        read = await client.read_all()
        assert read.count(b"voice:recording:ack") == 2
        assert read.count(b'"received_bytes":4') == 2
        assert read.rindex(b"voice:recording:ack") < read.index(b"server:draining")

    run(script)


def test_typed_messages_carry_no_binary() -> None:
    """`tell_message` encodes them as JSON; what did carry binary would go out in base64, which no client expects."""
    for name, kind in SERVER_EVENTS.items():
        assert "BytesType" not in repr(msgspec.inspect.type_info(kind)), name
