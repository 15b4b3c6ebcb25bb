"""What frames say, by the book of Engine.IO 4 and Socket.IO 4, and everything that is not in it."""

import json
from typing import Any

import msgspec
import pytest
import socketio.packet
from hypothesis import given
from hypothesis import strategies as st

from streaming.limits import LIMITS
from streaming.protocol.packets import BrokenPacket, Connect, Disconnect, Event, Frame, Packet, PacketReader, frame_of


def read(*frames: object) -> Packet | None:
    """What the last of these frames completes."""
    reader, packet = PacketReader(LIMITS), None
    for frame in frames:
        packet = reader.feed(frame)
    return packet


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        ("1", Frame.CLOSE),
        ("2", Frame.NOTHING),
        ("2probe", Frame.NOTHING),
        ("3", Frame.PONG),
        ("42[]", Frame.MESSAGE),
        ("4", Frame.MESSAGE),
        ("5", Frame.NOTHING),
        ("6", Frame.NOTHING),
        (b"", Frame.MESSAGE),
        (b"4", Frame.MESSAGE),
    ],
)
def test_frames(frame: str | bytes, kind: Frame) -> None:
    assert frame_of(frame) is kind


@pytest.mark.parametrize("frame", ["", "0", "7", "9", "a", "b", "bAAAA", "²", "٤", "\0", "-1", '{"a":1}'])
def test_what_is_no_frame(frame: str) -> None:
    with pytest.raises(BrokenPacket):
        frame_of(frame)


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("0", Connect("/", None)),
        ('0{"token":"t"}', Connect("/", {"token": "t"})),
        ('0/,{"token":"t"}', Connect("/", {"token": "t"})),
        ("0/admin", Connect("/admin", None)),
        ("0/admin?x=1,{}", Connect("/admin", {})),
        ("1", Disconnect()),
        ("1/,", Disconnect()),
        ('2["a"]', Event(None, ["a"])),
        ('20["a",{"b":1}]', Event(0, ["a", {"b": 1}])),
        ('2/,12["a",null]', Event(12, ["a", None])),
        ('50-["a"]', Event(None, ["a"])),
        ("3", None),
        ('37["answer"]', None),
        ('2["a",{"_placeholder":true,"num":0}]', Event(None, ["a", {"_placeholder": True, "num": 0}])),
    ],
)
def test_packets(text: str, packet: Packet | None) -> None:
    assert read(text) == packet


@pytest.mark.parametrize(
    "text",
    [
        "", "9", "a", "4", '4{"message":"x"}', "2", "2[]", "2{}", "2[1]", "2[[]]", '2"a"', "2null", '2 ["a"', "2{",
        '2/admin,["a"]', "1/admin", "1x", '21-["a"]', '0 ["a"]x', "0{", '05-{}', "012{}", "5", '5["a"]',
        '55-["a"]', '5999-["a"]', '59999999999-["a"]', '6["a"]', '61-["a"]', '2٣["a"]', '2' + '1' * 99 + '["a"]',
        "\x00", "2\x00",
    ],
)  # fmt: skip
def test_what_is_no_packet(text: str) -> None:
    with pytest.raises(BrokenPacket):
        read(text)


@pytest.mark.parametrize("data", [None, 7, {"a": 1}, ["a"], b""])
def test_what_is_no_text_where_text_belongs(data: object) -> None:
    with pytest.raises(BrokenPacket):
        read(data)


@pytest.mark.parametrize(
    "rest", ["[" * 100_000, "1e999]", '"\\ud800"]', "NaN]", '{"a":', "9" * 400_000 + "]", '"\x01"]', ""]
)
def test_an_event_that_cannot_be_taken_is_still_answered_by_name(rest: str) -> None:
    assert read(f'217["room:join",{rest}') == Event(17, ["room:join", None])


@pytest.mark.parametrize(
    "text", ["[", "[}", '["a', '["a"]x', "[" * 100_000, '["\\ud800",{}]', '["\\u0061",1e999]', "[1,"]
)
def test_where_the_name_cannot_be_read_either_it_is_an_unknown_event(text: str) -> None:
    assert read(f"217{text}") == Event(17, ["", None])


def test_attachments_take_their_places() -> None:
    two = '52-8["a",{"b":{"_placeholder":true,"num":1},"c":[{"_placeholder":true,"num":0}]}]'
    assert read(two, b"x") is None
    assert read(two, b"x", b"yy") == Event(8, ["a", {"b": b"yy", "c": [b"x"]}])


@pytest.mark.parametrize("num", ["1", "-1", "1.0", '"0"', "true", "null", "[]", "1e30", "9" * 30])
def test_a_placeholder_of_nothing(num: str) -> None:
    with pytest.raises(BrokenPacket):
        read('51-["a",{"_placeholder":true,"num":' + num + "}]", b"x")
    with pytest.raises(BrokenPacket):
        read('51-["a",{"_placeholder":true}]', b"x")


def test_a_placeholder_deeper_than_binary_may_be_is_left_where_it_is() -> None:
    deep = '51-["a",' + "[" * 900 + '{"_placeholder":true,"num":0}' + "]" * 900 + "]"
    assert isinstance(read(deep, b"x"), Event)


@pytest.mark.parametrize("next", ['2["a"]', "1", "0", "", '51-["a"]'])
def test_nothing_but_attachments_follows_their_announcement(next: str) -> None:
    with pytest.raises(BrokenPacket):
        read('52-["a"]', b"x", next)


def test_one_attachment_too_many() -> None:
    with pytest.raises(BrokenPacket):
        read('51-["a"]', b"x", b"y")


def test_the_limit_of_attachments() -> None:
    n = LIMITS.attachments_max
    assert isinstance(read(f'5{n}-["a"]', *[b"x"] * n), Event)
    with pytest.raises(BrokenPacket):
        read(f'5{n + 1}-["a"]')


def test_the_limit_of_a_message_counts_its_attachments_together() -> None:
    limits = msgspec.structs.replace(LIMITS, message_bytes_max=100)
    head = '52-["a"]'
    for last, fits in ((100 - len(head) - 60, True), (100 - len(head) - 59, False)):
        reader = PacketReader(limits)
        reader.feed(head)
        reader.feed(bytes(60))
        if fits:
            assert reader.feed(bytes(last)) is not None
        else:
            with pytest.raises(BrokenPacket):
                reader.feed(bytes(last))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.text(max_size=9), VALUES, st.none() | st.integers(0, 10**12))
def test_what_the_library_writes_is_read(name: str, value: Any, id: int | None) -> None:
    written = socketio.packet.Packet(socketio.packet.EVENT, data=[name, value], namespace="/", id=id).encode()
    frames = written if isinstance(written, list) else [written]
    if len(frames) - 1 <= LIMITS.attachments_max:
        assert read(*frames) == Event(id, [name, value])


@given(st.lists(st.text(max_size=30) | st.binary(max_size=30), max_size=6))
def test_any_frames_give_packets_or_break(frames: list[str | bytes]) -> None:
    reader = PacketReader(LIMITS)
    for frame in frames:
        try:
            reader.feed(frame)
        except BrokenPacket:
            return


@given(
    st.text(alphabet='0123456-/,[]{}":ax_', max_size=24),
    st.sampled_from(["", '{"_placeholder":true,"num":0}', json.dumps(["a", {}])]),
)
def test_almost_packets_give_packets_or_break(text: str, tail: str) -> None:
    reader = PacketReader(LIMITS)
    try:
        for frame in (text + tail, b"x", b"y"):
            reader.feed(frame)
    except BrokenPacket:
        return
