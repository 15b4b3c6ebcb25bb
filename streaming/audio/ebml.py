"""Read numbers and elements of EBML, the binary XML below WebM (RFC 8794).

Pure. Raises `DecodeFailed` for what cannot be EBML; what is only incomplete is None.
"""

from collections.abc import Iterator

import msgspec

from streaming.audio.opus import broken


class Element(msgspec.Struct, frozen=True):
    """`size`: bytes of the content, None when unknown; `header`: bytes of id and size."""

    id: int
    size: int | None
    header: int


def varint(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """(value, length) of an EBML number; None when it is not complete or no number."""
    if at >= len(data) or data[at] == 0:
        return None
    length = 9 - data[at].bit_length()
    if at + length > len(data):
        return None
    value = int.from_bytes(data[at : at + length], "big")
    return value & ((1 << 7 * length) - 1), length


def read_element(data: bytes | bytearray, at: int) -> Element | None:
    """The header at `at`; None when it is not complete."""
    if at >= len(data):
        return None
    id_length = 9 - data[at].bit_length()
    if id_length > 4:
        raise broken("What stands here is not a WebM element.")
    if at + id_length >= len(data):
        return None
    if data[at + id_length] == 0:
        raise broken("A WebM element has a size of more than eight bytes.")
    size = varint(data, at + id_length)
    if size is None:
        return None
    ident = int.from_bytes(data[at : at + id_length], "big")
    unknown = size[0] == (1 << 7 * size[1]) - 1
    return Element(ident, None if unknown else size[0], id_length + size[1])


def children(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Ids and contents of the elements in one that is held."""
    at = 0
    while at < len(content):
        element = read_element(content, at)
        if element is None or element.size is None or at + element.header + element.size > len(content):
            raise broken("A WebM header is cut off inside.")
        begin = at + element.header
        at = begin + element.size
        yield element.id, content[begin:at]


def uint(content: bytes) -> int:
    if len(content) > 8:
        raise broken("A number in a WebM header has more than eight bytes.")
    return int.from_bytes(content, "big")
