"""The golden vectors, read the way the server reads: `client_events.json` is decoded, `server_events.json` encoded.

The same files are read by the TypeScript tests. Binary is written as {"$b64": "..."}; `beyond_schema` marks refusals
that JSON Schema cannot express.
"""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.edge.decode import decode
from streaming.errors import BadRequest
from streaming.protocol.messages import CLIENT_EVENTS, DURABLE_EVENTS, SERVER_EVENTS

HERE = Path(__file__).parent
LOGGED = ("event", "room", "seq", "at")


def binary(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["$b64"]) if value.keys() == {"$b64"} else {k: binary(v) for k, v in value.items()}
    return [binary(item) for item in value] if isinstance(value, list) else value


def contains(told: Any, wire: Any) -> bool:
    """`told` says everything that `wire` says; it also names defaults."""
    if isinstance(wire, dict) and isinstance(told, dict):
        return all(key in told and contains(told[key], value) for key, value in wire.items())
    return bool(told == wire)


CLIENT: dict[str, Any] = json.loads((HERE / "client_events.json").read_text(encoding="utf-8"))
SERVER: dict[str, Any] = json.loads((HERE / "server_events.json").read_text(encoding="utf-8"))
VALID = [(event, name) for event, vectors in CLIENT.items() for name in vectors["valid"]]
INVALID = [(event, name) for event, vectors in CLIENT.items() for name in vectors["invalid"]]


def test_every_event_has_vectors_of_both_kinds() -> None:
    assert CLIENT.keys() == CLIENT_EVENTS.keys()
    assert SERVER.keys() == SERVER_EVENTS.keys()
    assert all(vectors["valid"] and vectors["invalid"] for vectors in CLIENT.values())


@pytest.mark.parametrize(("event", "name"), VALID)
def test_a_valid_message_is_taken_with_every_field(event: str, name: str) -> None:
    wire = binary(CLIENT[event]["valid"][name])
    message = decode(event, wire)
    assert type(message) is CLIENT_EVENTS[event]
    assert contains(msgspec.to_builtins(message, builtin_types=(bytes,)), wire)


@pytest.mark.parametrize(("event", "name"), INVALID)
def test_an_invalid_message_is_refused_with_its_field(event: str, name: str) -> None:
    vector = CLIENT[event]["invalid"][name]
    with pytest.raises(BadRequest) as refusal:
        decode(event, binary(vector["message"]))
    assert (refusal.value.code, refusal.value.field) == (vector["code"], vector["field"])


@pytest.mark.parametrize("event", SERVER)
def test_server_messages_are_written_as_the_vectors_say(event: str) -> None:
    for vector in SERVER[event]:
        body = dict(vector)
        if event in DURABLE_EVENTS:
            assert body["event"] == event
            body = {key: value for key, value in body.items() if key not in LOGGED}
        message = msgspec.convert(body, SERVER_EVENTS[event], strict=True)
        assert json.loads(msgspec.json.encode(message)) == body
