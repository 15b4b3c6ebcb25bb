"""Frames that no client sends, by seed: what a stranger may write into a WebSocket of ours."""

import json
import random
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from streaming.protocol.messages import CLIENT_EVENTS
from tests.support.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, text, unmasked

Rng = random.Random
PLACEHOLDER = {"_placeholder": True, "num": 0}
EVENTS = [*CLIENT_EVENTS, "connect", "disconnect", "*", "", "nothing:here", "__class__"]
GOOD = [
    '42["room:leave",{"room":"user:x"}]',
    '421["room:join",{"room":"user:x"}]',
    '4212["events:read",{"room":"recording:x","after_seq":0}]',
    '423["search:query",{"request_id":"q","text":"harbour"}]',
    '424["voice:recording:stop",{"stream_id":"st_1","offset":0}]',
    '451-["voice:recording:chunk",{"stream_id":"st_1","offset":0,"audio":{"_placeholder":true,"num":0}}]',
]


def noise(rng: Rng, n: int) -> str:
    return "".join(
        chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xD800), rng.randrange(10)))) for _ in range(n)
    )


def random_text(rng: Rng) -> list[bytes]:
    return [text(rng.choice(["", "4", "42", "40", "45", "46", "b4"]) + noise(rng, rng.randrange(40)))]


def random_binary(rng: Rng) -> list[bytes]:
    return [frame(BINARY, rng.randbytes(rng.randrange(200)))]


def random_bytes(rng: Rng) -> list[bytes]:
    """Not even a frame."""
    return [rng.randbytes(rng.randrange(1, 60))]


def mutated(rng: Rng) -> list[bytes]:
    """A right packet with a few letters lost, doubled or changed."""
    letters = list(rng.choice(GOOD))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(letters))
        match rng.randrange(4):
            case 0:
                del letters[at:]
            case 1:
                letters[at] = chr(rng.randrange(1, 127))
            case 2:
                letters.insert(at, rng.choice('0123456789[]{}",-:/\\'))
            case 3:
                letters[at:at] = letters[at : at + 10]
        if not letters:
            break
    return [text("".join(letters))] + [frame(BINARY, b"xy")] * rng.randrange(2)


def placeholders(rng: Rng) -> list[bytes]:
    """Binary events whose placeholders and attachments do not fit."""
    number: Any = rng.choice([0, 1, 7, -1, 1.5, "0", None, True, [], {}, 10**30, 10**400])
    value: Any = {"_placeholder": rng.choice([True, 1, "true", None]), "num": number}
    for _ in range(rng.choice([0, 0, 1, 3, 30])):
        value = rng.choice([[value], {"a": value}])
    announced = rng.choice(["0", "1", "2", "3", "9", "99", "9999999999", "99999999999", "-1", ""])
    head = f"45{announced}-{rng.choice(['', '7', '99999'])}"
    obj = json.dumps([rng.choice(EVENTS), {"audio": value, "stream_id": "st", "offset": 0}])
    return [text(head + obj)] + [frame(BINARY, rng.randbytes(rng.randrange(20))) for _ in range(rng.randrange(4))]


def interrupted(rng: Rng) -> list[bytes]:
    """An attachment that does not come; something else does."""
    head = text(
        '451-["voice:recording:chunk",' + json.dumps({"stream_id": "s", "offset": 0, "audio": PLACEHOLDER}) + "]"
    )
    return [head, *rng.choice([random_text, controls, mutated, packets])(rng)]


def namespaces(rng: Rng) -> list[bytes]:
    space = rng.choice(["/admin", "/", "/?a=b", "/" + "x" * rng.choice([1, 99, 5_000]), "/\0", "//", "/*"])
    return [
        text(rng.choice(["40", "41", "42", "421", "43", "45", "46"]) + space + rng.choice(["", ",", ",{}", ',["a"]']))
    ]


def packets(rng: Rng) -> list[bytes]:
    """Kinds that a client does not send, or not twice."""
    tail = rng.choice(["", "{}", "[]", '["a"]', '{"token":"t"}', '{"token":7}', "null", '"x"', "7", '[{"a":1}]'])
    return [text("4" + rng.choice("0123456789") + rng.choice(["", "0", "17", "9" * 30, "1-", "/,"]) + tail)]


def engine(rng: Rng) -> list[bytes]:
    """Engine.IO's own packets."""
    return [text(rng.choice("0123456789b") + rng.choice(["", "probe", "{}", "x" * 100]))] * rng.choice([*[1] * 11, 50])


def events(rng: Rng) -> list[bytes]:
    """Objects that are none of ours, with an answer asked for."""
    given = json.dumps(thing(rng, 0))
    return [text(f"42{rng.randrange(1_000)}" + f"[{json.dumps(rng.choice(EVENTS))},{given}]")]


def thing(rng: Rng, depth: int) -> Any:
    match rng.randrange(9 if depth < 4 else 7):
        case 0:
            return rng.choice([None, True, False])
        case 1:
            return rng.choice([0, -1, 2**53, 2**64, -(10**40), 1e308, 5e-324, float("nan"), float("inf")])
        case 2:
            return noise(rng, rng.randrange(12))
        case 3:
            return rng.choice(["\0", "\ud800", "\udfff\ud800", "é", "e\u0301", "\U0001f600", "x" * 10_000])
        case 4:
            return PLACEHOLDER
        case 5:
            return {"room": "user:x", "after_seq": rng.choice([0, -1, 2**60])}
        case 6:
            return {"stream_id": "st", "offset": rng.randrange(99), "audio": rng.choice([[], "x", PLACEHOLDER])}
        case 7:
            return [thing(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {noise(rng, rng.randrange(4)): thing(rng, depth + 1) for _ in range(rng.randrange(4))}


def numbers_and_nests(rng: Rng) -> list[bytes]:
    """JSON that costs more than it weighs."""
    inner = rng.choice(["[" * 5_000, '{"a":' * 5_000, "9" * 20_000, "1e999999", '"\\ud800"', "-", "[" * 99 + "]" * 99])
    return [text(f'42{rng.choice(["", "5"])}["room:join",{inner}' + rng.choice(["", "]"]))]


def fragments(rng: Rng) -> list[bytes]:
    """One message in many frames, finished or not, with others between them."""
    whole = rng.choice(GOOD).encode()
    cuts = sorted(rng.randrange(len(whole)) for _ in range(rng.randrange(1, 5)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    made = [frame(TEXT if i == 0 else CONTINUATION, p, fin=False) for i, p in enumerate(pieces[:-1])]
    if rng.random() < 0.4:
        made.insert(rng.randrange(len(made) + 1), rng.choice([*controls(rng), text("2"), frame(BINARY, b"x")]))
    return [*made, *([frame(CONTINUATION, pieces[-1])] if rng.random() < 0.7 else [])]


def controls(rng: Rng) -> list[bytes]:
    kind = rng.choice([PING, PING, PONG])
    return [frame(kind, rng.randbytes(rng.choice([0, 4, 125])))] * rng.choice([*[1] * 11, 30])


def broken_frames(rng: Rng) -> list[bytes]:
    """Against RFC 6455."""
    payload = rng.choice(GOOD).encode()
    return [
        rng.choice(
            [
                frame(TEXT, b"42\xff\xfe[" + rng.randbytes(5)),
                frame(TEXT, payload, masked=False),
                frame(TEXT, payload, reserved=rng.randrange(1, 8)),
                frame(rng.choice([3, 4, 5, 6, 7, 11, 12, 15]), payload),
                frame(PING, bytes(126)),
                frame(PING, b"x", fin=False),
                frame(CONTINUATION, payload),
                frame(TEXT, payload, length=2 ** rng.choice([21, 31, 40, 62, 63])),
                frame(TEXT, payload, length=len(payload) + 7),
                frame(
                    CLOSE, rng.choice([b"", b"\x03", b"\x03\xe8", b"\x00\x00x", b"\x03\xe8\xff\xff", b"\x13\x88" * 60])
                ),
            ]
        )
    ]


def oversize(rng: Rng) -> list[bytes]:
    return [frame(rng.choice([TEXT, BINARY]), b"4" * rng.choice([2**20, 2**20 + 1, 2**20 + 2**17]))]


KINDS: list[tuple[int, Callable[[Rng], list[bytes]]]] = [
    (10, random_text), (8, random_binary), (3, random_bytes), (14, mutated), (14, placeholders), (6, interrupted),
    (6, namespaces), (8, packets), (6, engine), (14, events), (4, numbers_and_nests), (6, fragments), (5, controls),
    (5, broken_frames), (0.15, oversize),
]  # fmt: skip
"""With how often, in relation."""


SWALLOWS = frozenset({random_bytes, fragments, broken_frames})
"""May leave the server in the middle of a frame, of which the next bytes are then a part."""
AUTHS: list[Any] = [
    None, {}, [], "x", 7, {"token": ""}, {"token": "x.y.z"}, {"token": None}, {"token": "x" * 5_000}, {"token": "\0"},
    {"token": "t", "extra": 1}, {"token": "\ud800"}, {"a": [[[[[[[[[[[]]]]]]]]]]]},
]  # fmt: skip


class Mischief(msgspec.Struct, frozen=True):
    """What one stranger does: CONNECT with a good token (`signs_in`), with `auth`, or not at all (`silent`), then these
    frames. `swallows`: what follows them may be taken for a part of them."""

    signs_in: bool
    silent: bool
    auth: Any
    frames: list[bytes]
    swallows: bool
    ends_politely: bool


def mischief(seed: str) -> Mischief:
    rng = Rng(seed)
    kinds = rng.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS], k=rng.choice([1, 1, 2, 4, 8, 16]))
    signs_in = rng.random() < 0.8
    return Mischief(
        signs_in=signs_in,
        silent=not signs_in and rng.random() < 0.5,
        auth=rng.choice(AUTHS),
        frames=[piece for kind in kinds for piece in kind(rng)],
        swallows=not SWALLOWS.isdisjoint(kinds),
        ends_politely=rng.random() < 0.3,
    )


if __name__ == "__main__":
    for piece in mischief(sys.argv[1]).frames:
        sys.stdout.write(f"{unmasked(piece)[:300]!r}\n")
