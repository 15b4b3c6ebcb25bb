"""A stream's place in a room's log, under what a hub may tell it and a log may answer."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from server.edge.events import COMMENT, Encoder, EventStream
from server.store.feed import Event
from streaming.errors import HistoryTruncated, Unavailable
from streaming.limits import LIMITS
from tests.sim import clock

ROOM = "recording:r"
SMALL = msgspec.structs.replace(LIMITS, event_stream_page_events=3, event_stream_early_max=4)


def event(seq: int) -> Event:
    return Event("t", ROOM, seq, 1_700_000_000_000 + seq, "transcript:final", {"text": f'"{seq}"\nÜ'})


class House:
    """A log that takes a second to answer, and a stream that follows it; `written`: blocks as the client gets them."""

    def __init__(self, after_seq: int) -> None:
        self.stream = EventStream(ROOM, Encoder(), SMALL)
        self.stream.cursor = after_seq
        self.count = 0
        self.first_seq = 1
        self.reads = 0
        self.failures = 0
        self.written: list[bytes] = []

    def commit(self, count: int = 1, *, tell: bool = True) -> None:
        for _ in range(count):
            self.count += 1
            if tell:
                self.stream.send_event("transcript:final", event(self.count).wire(), durable=True)

    async def read(self, after: int) -> list[Event]:
        self.reads += 1
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        if after < self.first_seq - 1:
            raise HistoryTruncated("gone", first_seq=self.first_seq)
        found = [event(seq) for seq in range(after + 1, self.count + 1)][: SMALL.event_stream_page_events]
        await asyncio.sleep(1)
        return found

    async def write(self, block: bytes) -> None:
        self.written.append(block)

    @property
    def seqs(self) -> list[int]:
        return [int(block.split(b"\n")[0][4:]) for block in self.written if block.startswith(b"id: ")]


def play(script: Callable[[House], Any], *, after_seq: int = 0) -> None:
    async def main() -> None:
        house = House(after_seq)
        async with asyncio.TaskGroup() as group:
            group.create_task(house.stream.follow(house.read, house.write))
            await script(house)
            house.stream.close()

    clock.run(main())


def test_an_event_is_one_block_that_holds_the_object_of_the_socket() -> None:
    async def script(house: House) -> None:
        house.commit()
        await asyncio.sleep(5)

    house = House(0)
    block = house.stream._encode(event(7).wire())
    lines = block.decode().split("\n")
    assert lines[:2] == ["id: 7", "event: transcript:final"]
    assert json.loads(lines[2].removeprefix("data: ")) == event(7).wire()
    assert lines[3:] == ["", ""]
    play(script)


def test_what_is_told_to_several_is_encoded_once() -> None:
    encode, told = Encoder(), event(1).wire()
    first = encode(told)
    assert encode(told) is first
    assert encode(event(2).wire()) != first
    assert encode(dict(told)) == first


@pytest.mark.parametrize("after_seq", [0, 3, 7, 10])
def test_what_was_missed_comes_page_by_page_then_what_is_told(after_seq: int) -> None:
    async def script(house: House) -> None:
        house.commit(10, tell=False)
        await asyncio.sleep(20)
        assert house.seqs == list(range(after_seq + 1, 11))
        reads = house.reads
        house.commit(3)
        await asyncio.sleep(1)
        assert house.seqs == list(range(after_seq + 1, 14))
        assert house.reads == reads, "at the log's end nothing is read"

    play(script, after_seq=after_seq)


def test_what_is_told_during_a_read_is_neither_lost_nor_doubled() -> None:
    async def script(house: House) -> None:
        for _ in range(12):
            house.commit()
            await asyncio.sleep(0.4)
        await asyncio.sleep(5)
        assert house.seqs == list(range(1, 13))

    play(script)


def test_what_the_buffer_cannot_hold_is_read_from_the_log() -> None:
    async def script(house: House) -> None:
        await asyncio.sleep(2)
        house.commit(SMALL.event_stream_early_max * 5)
        assert len(house.stream._early) <= SMALL.event_stream_early_max
        await asyncio.sleep(30)
        assert house.seqs == list(range(1, house.count + 1))

    play(script)


def test_an_overflow_during_a_read_is_not_forgotten() -> None:
    async def script(house: House) -> None:
        house.commit(tell=False)
        await asyncio.sleep(0.5)
        house.commit(SMALL.event_stream_early_max + 1)
        await asyncio.sleep(30)
        assert house.seqs == list(range(1, house.count + 1))

    play(script)


def test_a_gap_in_what_is_told_is_read_from_the_log() -> None:
    async def script(house: House) -> None:
        await asyncio.sleep(2)
        house.commit(2, tell=False)
        house.commit(2)
        await asyncio.sleep(5)
        assert house.seqs == [1, 2, 3, 4]

    play(script)


def test_ephemeral_events_are_not_passed_on() -> None:
    async def script(house: House) -> None:
        await asyncio.sleep(2)
        house.stream.send_event("transcript:partial", {"room": ROOM, "after_seq": 0}, durable=False)
        await asyncio.sleep(1)
        assert house.written == []

    play(script)


def test_a_comment_says_that_an_idle_stream_is_still_there() -> None:
    async def script(house: House) -> None:
        await asyncio.sleep(2 + 3 * SMALL.event_stream_idle_ms / 1000)
        assert house.written == [COMMENT] * 3
        assert house.reads == 1

    play(script)


def test_a_lost_database_is_waited_for_without_a_storm() -> None:
    async def script(house: House) -> None:
        house.failures = 20
        house.commit(5, tell=False)
        await asyncio.sleep(60)
        assert house.seqs == [1, 2, 3, 4, 5]
        assert house.reads < 25
        assert house.written[:20] == [COMMENT] * 20

    play(script)


@pytest.mark.parametrize("told_by_the_hub", [False, True])
def test_a_log_that_lost_its_beginning_is_said_and_ends_the_stream(told_by_the_hub: bool) -> None:
    async def script(house: House) -> None:
        await asyncio.sleep(2)
        house.commit(10, tell=False)
        house.first_seq = 8
        if told_by_the_hub:
            house.stream.room_truncated(("t", ROOM), 8)
        else:
            house.stream.send_event("e", event(10).wire(), durable=True)
        await asyncio.sleep(5)
        assert house.written == [b'event: history_truncated\ndata: {"room":"recording:r","first_seq":8}\n\n']
        house.commit()
        await asyncio.sleep(60)
        assert len(house.written) == 1

    play(script)


def test_it_ends_between_two_events() -> None:
    async def script(house: House) -> None:
        written = house.write

        async def write(block: bytes) -> None:
            await written(block)
            house.stream.close()

        house.write = write  # type: ignore[method-assign]
        house.commit(3, tell=False)
        async with asyncio.TaskGroup() as group:
            group.create_task(EventStream.follow(house.stream, house.read, house.write))
        assert len(house.written) == 1

    async def main() -> None:
        await script(House(0))

    clock.run(main())
