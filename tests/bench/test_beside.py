"""What is measured beside Node: turns, medians and ratios, and the clients that count what they are sent."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import beside, fanout, intake, replay
from bench.beside import NODE, OURS, Runs, alternate
from bench.crowd import BINARY, MASK, TEXT, Crowd, Later, Link, Lost, frame, frames

URL = "http://127.0.0.1:1"


# --- turns, medians, ratios ---------------------------------------------------------------------------------------
async def test_the_sides_take_turns() -> None:
    order: list[str] = []

    async def measure(side: str) -> dict[str, float]:
        order.append(side)
        return {"value": float(len(order))}

    runs = await alternate((OURS, NODE), 3, measure)
    assert order == [OURS, NODE] * 3
    assert [run["value"] for run in runs.of[OURS]] == [1, 3, 5]
    assert [run["value"] for run in runs.of[NODE]] == [2, 4, 6]


def runs_of(ours: list[float], node: list[float] | None = None) -> Runs:
    sides = {OURS: ours} | ({NODE: node} if node else {})
    return Runs({side: [{"cpu": value} for value in values] for side, values in sides.items()})


def test_one_bad_run_moves_no_median_and_the_ratio_is_of_medians() -> None:
    runs = runs_of([10, 90, 11, 12, 10], [20, 22, 21, 200, 20])
    assert (runs.median(OURS, "cpu"), runs.median(NODE, "cpu")) == (11, 21)
    assert runs.ratio("cpu") == 11 / 21
    assert runs.spread(NODE, "cpu") == (20, 200)


def test_the_promise_stands_at_the_ratio() -> None:
    rows = runs_of([12, 12, 12], [10, 10, 10]).figures("cpu", "CPU", "us", most=1.1)
    assert [(row.name, row.value, row.n) for row in rows] == [
        ("CPU, parlance", 12, 3), ("CPU, node", 10, 3), ("CPU, ratio", 1.2, 3),
    ]  # fmt: skip
    assert [row.kept for row in rows] == [True, True, False]


def test_without_node_ours_stands_alone() -> None:
    rows = runs_of([12, 14, 13]).figures("cpu", "CPU", "us", most=1.1)
    assert [(row.name, row.value, row.promise) for row in rows] == [("CPU, parlance", 13, "")]


def test_why_node_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert beside.node_missing() == "Node.js and npm are not installed; ours was measured alone"
    assert beside.sides() == ((OURS,), beside.node_missing())
    assert beside.versions(beside.node_missing()) == {}
    for name in ("node", "npm"):
        (tmp_path / name).write_text("#!/bin/sh\necho v18.1.0\n")
        (tmp_path / name).chmod(0o755)
    assert beside.node_missing() == "Node.js v18.1.0 is older than 20; ours was measured alone"


def test_packages_that_cannot_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(beside, "NODE_FOLDER", tmp_path)
    (tmp_path / "package-lock.json").write_text("{}")
    (tmp_path / "node").write_text("#!/bin/sh\necho v20.1.0\n")
    (tmp_path / "npm").write_text("#!/bin/sh\nexit 1\n")
    for name in ("node", "npm"):
        (tmp_path / name).chmod(0o755)
    assert beside.node_missing() == "the packages of bench/node could not be installed; ours was measured alone"
    (tmp_path / "npm").write_text('#!/bin/sh\n[ -n "$AGAIN" ] && exit 1\n/bin/mkdir node_modules\n')
    assert beside.node_missing() == ""
    monkeypatch.setenv("AGAIN", "1")
    assert beside.node_missing() == "", "what was installed is not installed again"
    (tmp_path / "package-lock.json").write_text("{ }")
    assert beside.node_missing() != "", "but other packages are"


# --- frames -------------------------------------------------------------------------------------------------------
def plain(opcode: int, payload: bytes) -> bytes:
    """A server's frame."""
    size = len(payload)
    head = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 65_536 else b"\x7f" + size.to_bytes(8)
    return bytes([0x80 | opcode]) + head + payload


SIZES = (0, 1, 3, 4, 125, 126, 65_535, 65_536)


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_to_the_server_is_masked(size: int) -> None:
    payload = np.random.default_rng(size).bytes(size)
    sent = frame(BINARY, payload)
    assert sent[0] == 0x82
    assert sent[1] & 0x80, "masked"
    unmasked = plain(BINARY, payload)
    assert sent[1] & 0x7F == unmasked[1]
    head = len(unmasked) - size
    assert sent[2:head] == unmasked[2:head], "the same length"
    assert sent[head : head + 4] == MASK
    masked = sent[head + 4 :]
    assert bytes(byte ^ MASK[n % 4] for n, byte in enumerate(masked)) == payload


def test_frames_of_a_server_are_found_whole() -> None:
    payloads = [bytes([65 + n]) * size for n, size in enumerate(SIZES)]
    data = b"".join(plain(TEXT, payload) for payload in payloads)
    found, rest = frames(data)
    assert [data[begin:end] for _, begin, end in found] == payloads
    assert {first for first, _, _ in found} == {0x81}
    assert rest == len(data)
    for cut in (1, 65_536, 65_540):  # within the last frame, and before it
        found, rest = frames(data[:-cut])
        assert [data[begin:end] for _, begin, end in found] == payloads[: len(found)]
        assert rest == len(data) - len(plain(TEXT, payloads[-1]))


# --- clients ------------------------------------------------------------------------------------------------------
class Transport:
    """What a link writes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


def text(message: str) -> bytes:
    return plain(TEXT, message.encode())


def event(n: int, sent_us: int = 5) -> bytes:
    return text(f'42["transcript:partial",{{"room":"r","n":{n},"sent_us":{sent_us},"stable":"x"}}]')


HELLO = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n" + text('0{"sid":"s"}')
GREETING = text('40{"sid":"t"}') + text('42["ready",{"protocol":1}]')


def linked(crowd: Crowd) -> tuple[Link, Transport]:
    link, transport = Link(crowd, len(crowd.links), URL), Transport()
    link.connection_made(transport)  # type: ignore[arg-type]
    crowd.links.append(link)
    return link, transport


async def test_a_client_counts_what_it_is_sent_however_it_is_cut() -> None:
    data = HELLO + GREETING + b"".join(event(n) for n in (1, 2, 3)) + text("2") + event(5) + event(6)
    for size in (1, 7, len(data)):
        crowd = Crowd("token", deflate=True)
        link, transport = linked(crowd)
        for at in range(0, len(data), size):
            link.data_received(data[at : at + size])
        assert link.connected.result() is None
        assert (crowd.delivered, crowd.disorder, link.last) == (5, 1, 6), "4 is missing"
        assert crowd.bytes == sum(len(event(n)) - 2 for n in (1, 2, 3, 5, 6))
        assert crowd.latency_ms(50, URL) == crowd.latency_ms(50) > 0
        request, connect, pong = transport.written
        assert b"permessage-deflate" in request
        assert connect == frame(TEXT, b'40{"token": "token"}')
        assert pong == frame(TEXT, b"3")


async def test_an_answer_finds_its_call() -> None:
    crowd = Crowd("token")
    link, transport = linked(crowd)
    link.data_received(HELLO + GREETING)

    async def answer(number: int, body: str) -> Any:
        calling = asyncio.ensure_future(link.call("some:event", {"a": 1}))
        await asyncio.sleep(0)
        assert transport.written[-1] == frame(TEXT, f'42{number}["some:event", {{"a": 1}}]'.encode())
        link.data_received(text(f"43{number}[{body}]"))
        return await calling

    assert await answer(0, '{"ok":true,"b":2}') == {"ok": True, "b": 2}
    with pytest.raises(Lost, match="not_found"):
        await answer(0, '{"ok":false,"error":{"code":"not_found"}}')


async def test_a_lost_client_is_counted_and_a_closed_one_is_not() -> None:
    crowd = Crowd("token")
    link, _ = linked(crowd)
    link.data_received(HELLO + GREETING)
    waiting = asyncio.ensure_future(crowd.until_delivered(9, or_lost=True))
    await asyncio.sleep(0)
    link.connection_lost(None)
    await waiting
    assert crowd.lost == 1
    other, transport = linked(crowd)
    other.data_received(HELLO + GREETING)
    crowd.close()
    other.connection_lost(None)
    assert transport.aborted
    assert crowd.lost == 1


async def test_a_refusal_is_an_error_and_no_lost_connection() -> None:
    crowd = Crowd("token")
    for body, kind in (('{"data":{"retryable":true}}', Later), ('{"data":{"code":"unauthenticated"}}', Lost)):
        link, _ = linked(crowd)
        link.data_received(HELLO + text("44" + body))
        link.connection_lost(None)
        assert type(link.connected.exception()) is kind
    assert crowd.lost == 0


async def test_who_waits_is_told_what_did_not_come() -> None:
    crowd = Crowd("token")
    with pytest.raises(Lost, match="0 delivered of 3, 0 connections lost"):
        await crowd.until_delivered(3, hang_s=0.01)


# --- what is sent -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [300, 2_000])
def test_an_event_has_the_size_that_it_is_said_to_have(size: int) -> None:
    import json

    body = {"n": 1_234, "sent_us": 1_234_567_890, **fanout.body_of(size), "segment_id": "seg_1234"}
    message = "42" + json.dumps([fanout.EVENT, body], separators=(",", ":"))
    assert len(message) == size


def test_a_file_holds_what_was_sent_or_it_does_not(tmp_path: Path) -> None:
    source = intake.Source.__new__(intake.Source)
    source.chunk, source.sent = b"abcd", 12
    path = tmp_path / "audio"
    path.write_bytes(b"abcd" * 3)
    assert intake.holds(path, source)
    for wrong in (b"abcd" * 2, b"abcd" * 2 + b"abce", b"abcd" * 4):
        path.write_bytes(wrong)
        assert not intake.holds(path, source)


def test_ids_are_read_from_a_stream_however_it_is_cut() -> None:
    blocks = [b'1a\r\nid: %d\nevent: x\ndata: {"id: 5": 1}\n\n\r\n' % n for n in range(1, 200)]
    data = b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(blocks)
    for size in (1, 10, 33, len(data)):
        rest, seen = b"", []
        for at in range(0, len(data), size):
            ids, rest = replay.ids_in(rest + data[at : at + size])
            seen += ids
        assert seen == list(range(1, 200))
        assert len(rest) <= replay.ID_CHARS_MAX
