"""Every byte once and in order, every mark at its offset."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.errors import Conflict, Unavailable
from streaming.limits import LIMITS
from streaming.tape import Mark, MarkKind, Tape
from tests.sim import clock

SMALL = msgspec.structs.replace(LIMITS, read_bytes=10, flush_marks_max=4)


class Log:
    """`AudioReader` whose byte at i is i mod 251."""

    def __init__(self) -> None:
        self.data = bytearray()

    def grow(self, n_bytes: int) -> int:
        self.data += bytes((len(self.data) + i) % 251 for i in range(n_bytes))
        return len(self.data)

    def read_range(self, start: int, end: int) -> bytes:
        return bytes(self.data[start:end])


def pending(waiting: Coroutine[Any, Any, object]) -> bool:
    """Whether it has to wait; it is given up then."""
    try:
        waiting.send(None)
    except StopIteration:
        return False
    waiting.close()
    return True


def tape(log: Log, *, position: int = 0) -> Tape:
    return Tape(log, position=position, end=len(log.data), limits=SMALL)


async def test_bytes_come_in_pieces_of_the_limit_and_marks_between_them() -> None:
    log = Log()
    log.grow(4)
    subject = tape(log)
    subject.mark(MarkKind.FLUSH, "a")
    subject.extend(log.grow(21))
    subject.mark(MarkKind.PAUSE)
    subject.mark(MarkKind.STOP)
    got = [await subject.next() for _ in range(7)]
    assert got == [
        bytes(range(4)), Mark(MarkKind.FLUSH, 4, "a"), bytes(range(4, 14)), bytes(range(14, 24)), bytes([24]),
        Mark(MarkKind.PAUSE, 25), Mark(MarkKind.STOP, 25),
    ]  # fmt: skip
    assert pending(subject.next())


async def test_pieces_may_be_smaller_than_the_limit() -> None:
    log = Log()
    subject = Tape(log, position=0, end=log.grow(7), limits=SMALL, piece_bytes=3)
    assert [len(await subject.next()) for _ in range(3)] == [3, 3, 1]  # type: ignore[arg-type]


async def test_a_position_behind_the_end_waits_for_the_audio_and_passes_marks() -> None:
    log = Log()
    log.grow(10)
    subject = tape(log, position=16)
    assert pending(subject.next())
    subject.mark(MarkKind.FLUSH, "early")
    assert await subject.next() == Mark(MarkKind.FLUSH, 10, "early")
    subject.extend(log.grow(6))
    assert pending(subject.next())
    subject.extend(log.grow(3))
    assert await subject.next() == bytes([16, 17, 18])
    assert (subject.position, subject.end) == (19, 19)


async def test_marks_are_bounded_and_a_stop_finds_its_place_all_the_same() -> None:
    subject = tape(Log())
    for number in range(SMALL.flush_marks_max):
        subject.mark(MarkKind.FLUSH, str(number))
    for kind in (MarkKind.FLUSH, MarkKind.PAUSE):
        with pytest.raises(Conflict) as refused:
            subject.mark(kind, "one too many")
        assert refused.value.field == "marker"
    subject.mark(MarkKind.STOP)
    told = [await subject.next() for _ in range(SMALL.flush_marks_max + 1)]
    assert [mark.kind for mark in told if isinstance(mark, Mark)] == [MarkKind.FLUSH] * 4 + [MarkKind.STOP]
    subject.mark(MarkKind.FLUSH, "there is room again")


async def test_a_log_that_does_not_give_back_what_it_took_is_an_error() -> None:
    log = Log()
    log.grow(5)
    subject = tape(log)
    subject.extend(8)
    assert await subject.next() == bytes(range(5))
    with pytest.raises(Unavailable):
        await subject.next()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(0, 35)),
        st.tuples(st.just("mark"), st.sampled_from([MarkKind.FLUSH, MarkKind.PAUSE])),
        st.tuples(st.just("read"), st.integers(1, 5)),
    ),
    max_size=40,
)


@given(STEPS, st.integers(0, 40), st.booleans())
def test_whatever_the_order_of_writing_and_reading(
    steps: list[tuple[str, Any]], position: int, reader_waits: bool
) -> None:
    """The reader gets the bytes from its position and the marks, each at the offset at which it was set."""

    async def walk() -> None:
        log = Log()
        subject = tape(log, position=position)
        got = bytearray()
        marks: list[Mark] = []
        set_marks: list[Mark] = []

        async def read() -> None:
            item = await subject.next()
            if isinstance(item, bytes):
                assert 0 < len(item) <= SMALL.read_bytes
                got.extend(item)
            else:
                assert max(item.at, position) == position + len(got), "a mark comes exactly at its offset"
                marks.append(item)
            assert subject.position == position + len(got)

        async def read_on() -> None:
            while True:
                await read()

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_on()) if reader_waits else None
            for action, value in steps:
                if action == "grow":
                    subject.extend(log.grow(value))
                elif action == "mark":
                    if len(set_marks) - len(marks) < SMALL.flush_marks_max:
                        mark = Mark(value, len(log.data), str(len(set_marks)))
                        subject.mark(mark.kind, mark.marker)
                        set_marks.append(mark)
                    else:
                        with pytest.raises(Conflict):
                            subject.mark(value)
                else:
                    for _ in range(value):
                        if reading:
                            await asyncio.sleep(0)
                        elif len(marks) < len(set_marks) or subject.position < subject.end:
                            await read()
            while reading is None and (len(marks) < len(set_marks) or subject.position < subject.end):
                await read()
            await asyncio.sleep(1)
            if reading:
                reading.cancel()
        assert marks == set_marks
        assert bytes(got) == bytes(log.data[position:])

    clock.run(walk())
