"""Whatever a socket delivers becomes a message or a `BadRequest`, never anything else."""

import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.edge.decode import convert, decode
from server.edge.delivery import Json
from server.edge.errors import wire_error
from streaming.errors import BadRequest
from streaming.protocol.messages import CLIENT_EVENTS, ConnectAuth, RecordingStart

START: dict[str, Any] = {"encoding": "pcm_s16le"}
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), TEXT, st.binary(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)
FIELDS = sorted({name for kind in CLIENT_EVENTS.values() for name in kind.__struct_encode_fields__})


def objects() -> st.SearchStrategy[dict[Any, Any]]:
    return st.dictionaries(st.one_of(st.sampled_from(FIELDS), TEXT), VALUES, max_size=6)


def sendable(error: BadRequest) -> None:
    """A refusal can be written to the wire."""
    msgspec.json.encode(wire_error(error))


@given(
    st.sampled_from(sorted(CLIENT_EVENTS)), st.one_of(objects(), VALUES, st.dictionaries(SCALARS, VALUES, max_size=3))
)
def test_garbage_is_a_bad_request(event: str, payload: object) -> None:
    try:
        message = decode(event, payload)
    except BadRequest as error:
        sendable(error)
    else:
        assert type(message) is CLIENT_EVENTS[event]
        msgspec.json.encode(message)


@given(st.sampled_from(sorted(CLIENT_EVENTS)), st.data())
def test_a_right_object_with_one_wrong_field_is_a_bad_request_or_taken(event: str, data: st.DataObject) -> None:
    right: dict[str, Any] = {
        "token": "t", "room": "recording:x", "after_seq": 0, "encoding": "pcm_s16le", "stream_id": "s", "offset": 0,
        "audio": b"\0\0", "marker": "m", "request_id": "q", "text": "hello", "segment_id": "s", "subscription_id": "x",
    }  # fmt: skip
    fields = CLIENT_EVENTS[event].__struct_encode_fields__
    payload = {name: value for name, value in right.items() if name in fields}
    decode(event, dict(payload))
    name = data.draw(st.sampled_from(fields))
    try:
        message = decode(event, {**payload, name: data.draw(VALUES)})
    except BadRequest as error:
        sendable(error)
    else:
        msgspec.json.encode(message)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_json_are_a_value_error(data: bytes) -> None:
    for given_ in (data, data.decode("latin-1")):
        try:
            Json.dumps(Json.loads(given_))
        except ValueError:
            continue


def refused(payload: object, kind: type[Any] = RecordingStart) -> BadRequest:
    with pytest.raises(BadRequest) as raised:
        convert(payload, kind)
    sendable(raised.value)
    return raised.value


@pytest.mark.parametrize("bad", ["\0", "a\0b", "\ud800", "é\udfff", "é\0"])
def test_text_that_nothing_can_store_is_refused_wherever_it_stands(bad: str) -> None:
    assert refused({**START, "title": bad}).field == "title"
    assert refused({**START, "vocabulary": ["fine", bad]}).field == "vocabulary[1]"
    assert refused({"token": bad}, ConnectAuth).field == "token"
    refused({**START, bad: 1})
    refused({**START, bad: {"x": [bad]}})


def test_text_becomes_nfc_before_its_length_is_judged() -> None:
    decomposed = unicodedata.normalize("NFD", "Grüße àéîõü")
    message = convert({**START, "title": decomposed, "vocabulary": [decomposed]}, RecordingStart)
    assert message.title == message.vocabulary[0] == "Grüße àéîõü"
    assert convert({**START, "title": "u\u0308" * 200}, RecordingStart).title == "ü" * 200
    grows = "\U0001d15e"  # one code point that NFC writes with two
    assert refused({**START, "title": grows * 101}).field == "title"


@pytest.mark.parametrize("shape", [lambda inner: {"x": inner}, lambda inner: [inner]])
def test_deep_nesting_is_refused_before_it_costs_anything(shape: Any) -> None:
    value: object = 1
    for _ in range(100_000):
        value = shape(value)
    error = refused({**START, "title": value})
    assert "deep" in error.message
    try:
        assert len(error.field or "") < 100
    finally:
        while isinstance(value, dict | list):  # a chain of this length must not be freed recursively
            value = value["x"] if isinstance(value, dict) else value[0]


@pytest.mark.parametrize("payload", [None, 1, 1.5, "text", b"bytes", [], [{}], True, (1,)])
def test_anything_but_an_object_is_refused(payload: object) -> None:
    assert refused(payload).message == "One object is expected."


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({}, "encoding"),
        ({**START, "colour": 1}, "colour"),
        ({**START, "sample_rate": "16000"}, "sample_rate"),
        ({**START, "sample_rate": 10**30}, "sample_rate"),
        ({**START, "sample_rate": True}, "sample_rate"),
        ({**START, "sample_rate": 16_000.5}, "sample_rate"),
        ({**START, "vocabulary": ["a", 7]}, "vocabulary[1]"),
        ({**START, "vocabulary": {}}, "vocabulary"),
        ({**START, "title": b"bytes"}, "title"),
    ],
)
def test_the_field_is_named(payload: object, field: str) -> None:
    assert refused(payload).field == field


def test_a_field_without_a_name_is_refused() -> None:
    nameless: dict[object, object] = {"encoding": "pcm_s16le", 1: 2}
    refused(nameless)


@pytest.mark.parametrize("binary", [b"\1\2", bytearray(b"\1\2"), memoryview(b"\1\2")])
def test_audio_is_bytes_whatever_the_parser_gives(binary: object) -> None:
    message: Any = decode("voice:recording:chunk", {"stream_id": "s", "offset": 0, "audio": binary})
    assert message.audio == b"\1\2"
    assert type(message.audio) is bytes


@pytest.mark.parametrize("audio", ["AQI=", [1, 2], None, {"_placeholder": True, "num": 0}])
def test_audio_that_is_not_binary_is_refused(audio: object) -> None:
    with pytest.raises(BadRequest) as raised:
        decode("voice:recording:chunk", {"stream_id": "s", "offset": 0, "audio": audio})
    assert raised.value.field == "audio"
