"""Every client event with every object that is almost right, to a real server: each is answered, nothing breaks.

The objects are the golden vectors with something exchanged, added, lost or nested. They are sent on a connection that
has a live stream, so that what is nearly right gets far.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import socketio.packet
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from streaming.limits import LIMITS
from streaming.protocol.messages import CLIENT_EVENTS, UNACKNOWLEDGED
from tests.support.process import Account, ServerProcess, running
from tests.support.raw import BINARY, HANG_S, RawSocket, frame, raw_socket, text

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "client_events.json").read_text(encoding="utf-8"))
EVENTS_A_ROUND = 25
"""Fewer than the malformed events that close a connection (100 in 10 s)."""
KNOWN = {"st_1": "STREAM", "rec_1": "RECORDING", "recording:rec_1": "ROOM"}
LARGE = {"LONG": "x" * 5_000, "HUGE": 10**400}
"""Put in when it is sent, so that a failure can be read."""

TEXTS = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["", "\0", "\ud800", "LONG", "HUGE", "recording:", "user:x", "tenant:x", "__proto__", "e\u0301", "STREAM", "ROOM"]
)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, -1, 2**53, 2**53 + 1, -0.0, 1e308])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | st.binary(max_size=20)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


@st.composite
def objects(draw: st.DrawFn, event: str) -> Any:
    """A message of this event, and what was done to it."""
    valid = list(GOLDEN[event]["valid"].values())
    invalid = [case["message"] for case in GOLDEN[event]["invalid"].values() if isinstance(case["message"], dict)]
    given = draw(st.sampled_from([*valid, *valid, *invalid]))
    obj: Any = json.loads(json.dumps(given))
    names = [*obj, *CLIENT_EVENTS[event].__struct_fields__]
    match draw(st.integers(0, 6)):
        case 0:
            return obj
        case 1:
            return draw(JUNK)
        case 2:
            obj.pop(draw(st.sampled_from(names)), None)
        case 3:
            obj[draw(TEXTS)] = draw(JUNK)
        case 4:
            obj[draw(st.sampled_from(names))] = nested(draw(st.sampled_from([1, 8, 9, 200])))
        case _:
            for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
                obj[name] = draw(JUNK)
    return obj


@st.composite
def sendings(draw: st.DrawFn) -> tuple[str, list[Any]]:
    event = draw(st.sampled_from(sorted(CLIENT_EVENTS)) | TEXTS)
    one = objects(event) if event in CLIENT_EVENTS else JUNK
    return event, draw(st.lists(one, min_size=1, max_size=1) | st.lists(one, max_size=3))


ROUND = st.lists(sendings(), min_size=EVENTS_A_ROUND, max_size=EVENTS_A_ROUND)


def encoded(event: str, arguments: list[Any], number: int, names: dict[str, str]) -> bytes:
    """The frames of one event that asks for an answer."""

    def known(value: Any) -> Any:
        if isinstance(value, str):
            return LARGE.get(value, names.get(KNOWN.get(value, value), value))
        if isinstance(value, dict):
            if value.keys() == {"$b64"}:
                return b"\x01\x02"
            return {key: known(item) for key, item in value.items()}
        return [known(item) for item in value] if isinstance(value, list) else value

    data, parts = socketio.packet.Packet.deconstruct_binary([event, *map(known, arguments)])
    if len(parts) > LIMITS.attachments_max:  # a broken packet, which `test_socket` sends
        data, parts = [event, None], []
    kind = f"45{len(parts)}-" if parts else "42"
    return text(f"{kind}{number}{json.dumps(data)}") + b"".join(frame(BINARY, part) for part in parts)


class Stranger:
    """A loop of its own, because hypothesis wants a function and each round a connection."""

    def __init__(self, server: ServerProcess, runner: asyncio.Runner) -> None:
        self.server = server
        self.runner = runner
        self.account: Account = runner.run(server.account("strangers"))
        self.neighbour: Account = runner.run(server.account("neighbours"))

    async def round(self, sent: list[tuple[str, list[Any]]]) -> None:
        async with raw_socket(self.server.url) as sock, raw_socket(self.server.url) as other:
            await sock.connect({"token": self.account.token})
            await other.connect({"token": self.neighbour.token})
            names = await self._stream(sock)
            for number, (event, arguments) in enumerate(sent):
                await sock.send(encoded(event, arguments, number, names))
            for number, (event, arguments) in enumerate(sent):
                answer = await answer_of(sock, number)
                assert answer is not None, f"{event!r} {arguments!r} was not answered: {sock.texts[-1:]}"
                if event not in UNACKNOWLEDGED:
                    assert answer["ok"] is True or answer["error"]["code"] != "internal", (event, arguments, answer)
            room = f"user:{self.neighbour.user_id}"
            await other.send(text(f'427["events:read",{{"room":"{room}","after_seq":0}}]'))
            answer = await answer_of(other, 7)
            assert answer is not None
            assert answer["ok"] is True

    async def _stream(self, sock: RawSocket) -> dict[str, str]:
        await sock.send(text('429["voice:recording:start",{"encoding":"pcm_s16le"}]'))
        started = await answer_of(sock, 9)
        assert started is not None
        sock.texts.clear()
        recording_id = started["recording_id"]
        return {"STREAM": started["stream_id"], "RECORDING": recording_id, "ROOM": f"recording:{recording_id}"}


async def answer_of(sock: RawSocket, number: int) -> Any:
    """What stands in the acknowledgement; `{}` for an empty one, None when the connection ended without."""
    got = await asyncio.wait_for(sock.until(f"43{number}["), HANG_S)
    return None if got is None else next(iter(msgspec.json.decode(got[len(f"43{number}") :])), {})


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    with running(tmp_path_factory.mktemp("events") / "data", abandon_ms="1000") as server, asyncio.Runner() as runner:
        yield Stranger(server, runner)


def check(stranger: Stranger, sent: list[tuple[str, list[Any]]]) -> None:
    stranger.runner.run(stranger.round(sent))
    assert stranger.server.running
    assert "Traceback" not in "".join(stranger.server.output)


@settings(
    max_examples=25, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(sent=ROUND)
def test_every_event_with_almost_any_object_is_answered(stranger: Stranger, sent: list[tuple[str, list[Any]]]) -> None:
    check(stranger, sent)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@settings(
    max_examples=250, deadline=None, database=None, print_blob=True, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(sent=ROUND)
def test_many_events_are_answered(stranger: Stranger, sent: list[tuple[str, list[Any]]]) -> None:
    check(stranger, sent)
