"""From what a socket delivers to typed messages: the border at which a dict ends.

Pure. Raises `BadRequest` that names the field; text with NUL or lone surrogates is refused here, because neither
Postgres nor UTF-8 can carry it, and text is normalised to NFC.
"""

import re
import unicodedata
from typing import Any

import msgspec

from streaming.errors import BadRequest
from streaming.protocol.messages import CLIENT_EVENTS, ClientMessage

PATH = re.compile(r"at `\$\.?([^`]*)`")
NAMED = re.compile(r"(?:unknown|required) field `([^`]+)`")
BINARY = (bytes, bytearray, memoryview)


def decode(event: str, payload: object) -> ClientMessage:
    """The message of a known event. Raises `BadRequest`."""
    message: ClientMessage = convert(payload, CLIENT_EVENTS[event])
    return message


def convert(payload: object, kind: type[ClientMessage]) -> Any:
    """`payload` as a message of this kind. Raises `BadRequest`."""
    if not isinstance(payload, dict):
        raise BadRequest("One object is expected.")
    _refuse_unstorable(payload, "", 0)
    try:
        return msgspec.convert(payload, kind, builtin_types=BINARY)
    except msgspec.ValidationError as error:
        raise BadRequest(_sentence(str(error)), field=_field(str(error))) from None


def _refuse_unstorable(value: Any, path: str, depth: int) -> None:
    if depth > 8:
        raise BadRequest("The object is nested too deeply.", field=path or None)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise BadRequest("Field names are text.")
            _text(key, path)  # a name that UTF-8 cannot carry cannot be told back either
            inner = f"{path}.{key}" if path else key
            if isinstance(item, str):
                value[key] = _text(item, inner)
            else:
                _refuse_unstorable(item, inner, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, str):
                value[index] = _text(item, f"{path}[{index}]")
            else:
                _refuse_unstorable(item, f"{path}[{index}]", depth + 1)


def _text(text: str, path: str) -> str:
    if text.isascii():
        if "\0" in text:
            raise BadRequest("Text may not contain NUL.", field=path or None)
        return text
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise BadRequest("Text may not contain NUL or lone surrogates.", field=path or None)
    return unicodedata.normalize("NFC", text)


def _field(message: str) -> str | None:
    path, named = PATH.search(message), NAMED.search(message)
    parts = [path.group(1) if path and path.group(1) else "", named.group(1) if named else ""]
    return ".".join(part for part in parts if part) or None


def _sentence(message: str) -> str:
    return message.split(" - at `")[0].rstrip(".") + "."
