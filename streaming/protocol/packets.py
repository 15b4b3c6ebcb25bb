"""What a client's frames say, as Engine.IO 4 and Socket.IO 4 write it, and nothing else.

A stranger decides every byte here, so the grammar is closed: what no client sends breaks the connection
(`BrokenPacket`) instead of being carried on. An event whose JSON cannot be taken (too deep, a number beyond all bounds,
half a surrogate, cut off) is still an event, so that it can be refused, by name where that can be read, and answered.

Pure. Invariant: a reader holds at most `message_bytes_max` of an unfinished message, in `attachments_max` parts.
"""

import re
from enum import Enum
from typing import Any

import msgspec

from streaming.limits import Limits

DEPTH_MAX = 8
"""How deep a placeholder is looked for: PROTOCOL.md puts binary one level deep."""

HEAD = re.compile(r"([0-6])(?:([0-9]{1,3})-)?(/[^,\[{\"]{0,100},?)?([0-9]{1,15})?")
NAME = re.compile(r'\[\s*"([^"\\]{0,100})"\s*,')


class BrokenPacket(Exception):
    """No client of this protocol sends that. The text is one sentence, without anything of what was sent."""


class Frame(Enum):
    """What an Engine.IO frame is for."""

    MESSAGE = "message"
    PONG = "pong"
    NOTHING = "nothing"
    CLOSE = "close"


_FRAMES = {
    "1": Frame.CLOSE,
    "2": Frame.NOTHING,  # the server asks, clients answer
    "3": Frame.PONG,
    "4": Frame.MESSAGE,
    "5": Frame.NOTHING,  # there is nothing to upgrade from
    "6": Frame.NOTHING,
}


def frame_of(data: str | bytes) -> Frame:
    """Raises `BrokenPacket`. Binary is part of a message."""
    if isinstance(data, bytes):
        return Frame.MESSAGE
    frame = _FRAMES.get(data[:1])
    if frame is None:
        raise BrokenPacket("This is no frame of Engine.IO 4.")
    return frame


class Connect(msgspec.Struct, frozen=True):
    """`auth`: whatever stood there as JSON."""

    namespace: str
    auth: Any


class Disconnect(msgspec.Struct, frozen=True):
    pass


class Event(msgspec.Struct, frozen=True):
    """`arguments`: the name, then what came with it; one None where that cannot be taken. `id`: asks for an answer."""

    id: int | None
    arguments: list[Any]


Packet = Connect | Disconnect | Event


class Unfinished:
    """An event that waits for its attachments."""

    def __init__(self, event: Event, wanted: int) -> None:
        self.event = event
        self.wanted = wanted
        self.bytes = 0
        self.parts: list[bytes] = []

    def whole(self) -> Event:
        """Raises `BrokenPacket` for a placeholder of an attachment that there is not."""
        return Event(self.event.id, [_filled(item, self.parts, 0) for item in self.event.arguments])


class PacketReader:
    """One connection's messages, in order: text as it stands behind Engine.IO's `4`, and binary."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._unfinished: Unfinished | None = None

    @property
    def unfinished(self) -> bool:
        """Does an event wait for attachments?"""
        return self._unfinished is not None

    def feed(self, data: object) -> Packet | None:
        """The packet that is complete now. Raises `BrokenPacket`; then the connection ends."""
        if isinstance(data, bytes):
            return self._attachment(data)
        if not isinstance(data, str):
            raise BrokenPacket("This is no message of Socket.IO.")
        if self._unfinished is not None:
            raise BrokenPacket("An attachment is missing.")
        head = HEAD.match(data)
        if head is None:
            raise BrokenPacket("This is no packet of Socket.IO 4.")
        kind, attachments, namespace, given = head.groups()
        rest = data[head.end() :]
        space = (namespace or "/").rstrip(",").partition("?")[0]
        if kind == "0" and attachments is None and given is None:
            return Connect(space, _json(rest) if rest else None)
        if space != "/":
            raise BrokenPacket("There is no such namespace.")
        id = int(given) if given else None
        match kind:
            case "1" if not rest:
                return Disconnect()
            case "2" if attachments is None:
                return _event(rest, id)
            case "3" if attachments is None:
                return None  # the server asks for no acknowledgement
            case "5" if attachments is not None:
                return self._begin(_event(rest, id), int(attachments), len(data))
        raise BrokenPacket("A client does not send this packet.")

    def _begin(self, event: Event, wanted: int, size: int) -> Event | None:
        if wanted > self._limits.attachments_max:
            raise BrokenPacket("Too many attachments.")
        if wanted == 0:
            return event
        self._unfinished = Unfinished(event, wanted)
        self._unfinished.bytes = size
        return None

    def _attachment(self, data: bytes) -> Event | None:
        waiting = self._unfinished
        if waiting is None:
            raise BrokenPacket("Nothing waits for an attachment.")
        waiting.bytes += len(data)
        if waiting.bytes > self._limits.message_bytes_max:
            raise BrokenPacket("The message is too large.")
        waiting.parts.append(data)
        if len(waiting.parts) < waiting.wanted:
            return None
        self._unfinished = None
        return waiting.whole()


def _event(text: str, id: int | None) -> Event:
    try:
        arguments = _json(text)
    except BrokenPacket:
        if not text.startswith("["):
            raise
        name = NAME.match(text)
        return Event(id, [name[1] if name else "", None])
    if not isinstance(arguments, list) or not arguments or not isinstance(arguments[0], str):
        raise BrokenPacket("An event begins with its name.")
    return Event(id, arguments)


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        raise BrokenPacket("This is not JSON that can be taken.") from None


def _filled(value: Any, parts: list[bytes], depth: int) -> Any:
    """`value` with its placeholders filled."""
    if depth > DEPTH_MAX:
        return value
    if isinstance(value, dict):
        if value.get("_placeholder") is True:
            number = value.get("num")
            if type(number) is not int or not 0 <= number < len(parts):
                raise BrokenPacket("A placeholder names no attachment.")
            return parts[number]
        return {key: _filled(item, parts, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, parts, depth + 1) for item in value]
    return value
