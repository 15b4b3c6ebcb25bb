"""What an utterance leaves for the next one of its stream: the language it was in, and the end of its text.

Text and not tokens, so that it means the same to another model, which may take the stream over. It travels as
`Final.context`, stored with the stream: bounded, and whatever cannot be read is as if nothing had been said before.

Pure.
"""

import msgspec

TEXT_CHARS_MAX = 300
"""Some 60 words: more than `CARRY_TOKENS_MAX` of the prompt can hold."""
VERSION = 1


class Carry(msgspec.Struct, frozen=True, array_like=True):
    """`language`: the stream's from now on, None while it is not certain; `text`: the end of what was said."""

    version: int = VERSION
    language: str | None = None
    text: str = ""


NOTHING = Carry()


def packed(carry: Carry) -> bytes:
    text = carry.text
    if len(text) > TEXT_CHARS_MAX:
        text = text[-TEXT_CHARS_MAX:].partition(" ")[2] or text[-TEXT_CHARS_MAX:]
    return msgspec.msgpack.encode(msgspec.structs.replace(carry, text=text))


def unpacked(context: bytes) -> Carry:
    """What `packed` made; `NOTHING` of anything else."""
    try:
        carry = msgspec.msgpack.decode(context, type=Carry)
    except msgspec.DecodeError:
        return NOTHING
    return carry if carry.version == VERSION and len(carry.text) <= TEXT_CHARS_MAX else NOTHING
