"""Pings on virtual time, and the short way of a chunk against the ordinary one."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.edge.decode import decode
from server.edge.engine import CHUNK, LATE_S, EngineSocket, Pulse, plain_chunk
from streaming.errors import BadRequest
from streaming.limits import LIMITS
from streaming.protocol.messages import RecordingChunk
from streaming.protocol.packets import BrokenPacket, Event, PacketReader
from tests.sim import clock

INTERVAL_S = 20.0


class Line:
    """Of a client; `taken` as `server.edge.delivery.Line`'s."""

    def __init__(self) -> None:
        self.pings = 0
        self.taken: int | None = None
        self.aborted = False

    def ping(self) -> None:
        self.pings += 1

    def abort(self) -> None:
        self.aborted = True


def client_of(pulse: Pulse) -> tuple[EngineSocket, Line]:
    server = SimpleNamespace(create_queue=lambda: None, limits=LIMITS)
    client, line = EngineSocket(cast(Any, server), "sid"), Line()
    client.line = cast(Any, line)
    pulse.add(client)
    return client, line


def run(script: Any) -> None:
    async def main() -> None:
        pulse = Pulse(INTERVAL_S)
        await script(pulse)
        pulse.stop()

    clock.run(main())


def test_who_answers_is_pinged_for_ever_and_who_does_not_is_dropped() -> None:
    async def script(pulse: Pulse) -> None:
        (well, well_line), (dead, dead_line) = client_of(pulse), client_of(pulse)
        for n in range(1, 6):
            await asyncio.sleep(INTERVAL_S)
            await asyncio.sleep(1)
            assert well_line.pings == n
            well._heard = True
        assert not well_line.aborted
        assert (dead_line.aborted, dead_line.pings) == (True, 1)
        assert dead is not well

    run(script)


def test_each_is_pinged_in_its_own_time() -> None:
    async def script(pulse: Pulse) -> None:
        _, first = client_of(pulse)
        await asyncio.sleep(7)
        _, second = client_of(pulse)
        await asyncio.sleep(14)
        assert (first.pings, second.pings) == (1, 0)
        await asyncio.sleep(7)
        assert (first.pings, second.pings) == (1, 1)

    run(script)


def test_who_reads_what_waits_for_it_lives() -> None:
    """Its pong may stand behind minutes of what it sends, or its ping behind what it has to read."""

    async def script(pulse: Pulse) -> None:
        _, line = client_of(pulse)
        for n in range(10):
            line.taken = n
            await asyncio.sleep(INTERVAL_S)
        assert not line.aborted
        await asyncio.sleep(2 * INTERVAL_S)  # it takes nothing more
        assert line.aborted

    run(script)


def test_nobody_is_dropped_because_this_process_stood_still() -> None:
    async def script(pulse: Pulse) -> None:
        _, line = client_of(pulse)
        await asyncio.sleep(INTERVAL_S + 1)
        loop = cast(clock.VirtualLoop, asyncio.get_running_loop())
        loop._virtual.now += INTERVAL_S + LATE_S + 1  # as if suspended: what the client said is still unread
        await asyncio.sleep(0.1)
        assert (line.aborted, line.pings) == (False, 2)
        await asyncio.sleep(INTERVAL_S + 1)
        assert line.aborted

    run(script)


def test_who_has_gone_is_forgotten() -> None:
    async def script(pulse: Pulse) -> None:
        client, line = client_of(pulse)
        pulse.discard(client)
        await asyncio.sleep(3 * INTERVAL_S)
        assert (line.pings, line.aborted, pulse._due) == (0, False, {})
        _, other = client_of(pulse)
        await asyncio.sleep(INTERVAL_S + 1)
        assert other.pings == 1, "the timer runs again"

    run(script)


def head_of(fields: dict[str, Any]) -> bytes:
    """A chunk's text as clients write it."""
    return b"451-" + json.dumps(["voice:recording:chunk", fields], separators=(",", ":")).encode()


def ordinary(head: bytes, audio: bytes) -> RecordingChunk | None:
    """What the ordinary way makes of the same message; None where it refuses it."""
    reader = PacketReader(LIMITS)
    try:
        assert reader.feed(head[1:].decode()) is None
        packet = reader.feed(audio)
        assert isinstance(packet, Event)
        if len(packet.arguments) != 2:
            return None
        message = decode(packet.arguments[0], packet.arguments[1])
    except (BrokenPacket, BadRequest):
        return None
    assert isinstance(message, RecordingChunk)
    return message


PLACEHOLDER = {"_placeholder": True, "num": 0}
ODD = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(allow_nan=False), st.text(max_size=3))
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "stream_id": st.one_of(st.just("st_1"), ODD, st.text(max_size=120)),
        "offset": st.one_of(st.integers(0, 2**53), st.integers(), ODD),
        "audio": st.one_of(
            st.just(PLACEHOLDER),
            ODD,
            st.fixed_dictionaries({}, optional={"_placeholder": ODD, "num": ODD, "more": ODD}),
        ),
        "more": ODD,
    },
)


@given(FIELDS)
def test_the_short_way_takes_nothing_that_the_ordinary_would_refuse(fields: dict[str, Any]) -> None:
    head = head_of(fields)
    plain = plain_chunk(head)
    if plain is not None:
        told = ordinary(head, b"audio")
        assert told is not None
        assert (plain.offset, told.audio) == (told.offset, b"audio")
        assert plain.stream_id == told.stream_id or not plain.stream_id.isascii(), "our ids are ASCII"


def test_what_clients_write_takes_the_short_way() -> None:
    head = head_of({"stream_id": "st_1", "offset": 3_200, "audio": PLACEHOLDER})
    assert head.startswith(CHUNK)
    plain = plain_chunk(head)
    assert plain is not None
    assert (plain.stream_id, plain.offset) == ("st_1", 3_200)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stream_id": "st_1", "offset": 0},
        {"stream_id": "st_1", "offset": -1, "audio": PLACEHOLDER},
        {"stream_id": "", "offset": 0, "audio": PLACEHOLDER},
        {"stream_id": "st_1", "offset": 0, "audio": PLACEHOLDER, "more": 1},
        {"stream_id": "st_1", "offset": 0, "audio": {"_placeholder": True, "num": 1}},
        {"stream_id": "st_1", "offset": 0, "audio": {"_placeholder": False, "num": 0}},
        {"stream_id": "st_1", "offset": 0, "audio": {"_placeholder": True, "num": 0, "more": 1}},
    ],
)
def test_what_is_not_plain_does_not(fields: dict[str, Any]) -> None:
    assert plain_chunk(head_of(fields)) is None


@pytest.mark.parametrize(
    "text", [CHUNK, CHUNK + b"}]", CHUNK + b"\xff", b'451-["voice:recording:chunk",{}', CHUNK[:-1]]
)
def test_garbage_does_not_either(text: bytes) -> None:
    assert plain_chunk(text) is None
