"""What waits for Redis: in order, bounded, partials first to go."""

from hypothesis import given
from hypothesis import strategies as st

from server.rooms.outbound import Item, Outbound

PARTIAL, FINAL = Item(b"p" * 10), Item(b"f" * 10, durable=True)


def test_over_the_limit_what_is_ephemeral_goes_first() -> None:
    waiting = Outbound(30)
    assert [waiting.offer(item) for item in (PARTIAL, FINAL, PARTIAL)] == [[], [], []]
    assert waiting.offer(FINAL) == [PARTIAL, PARTIAL]
    assert waiting.offer(FINAL) == []
    assert waiting.offer(PARTIAL) == [PARTIAL]
    assert waiting.offer(FINAL) == [FINAL]
    assert (waiting.take(100), waiting.waiting_bytes) == ([FINAL, FINAL, FINAL], 0)


def test_what_is_taken_at_once_is_bounded_but_never_nothing() -> None:
    waiting = Outbound(100)
    for item in (PARTIAL, FINAL, PARTIAL):
        waiting.offer(item)
    assert waiting.take(5) == [PARTIAL]
    assert waiting.take(20) == [FINAL, PARTIAL]
    assert waiting.take(20) == []


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.integers(0, 2)), max_size=60))
def test_order_and_bytes_hold_whatever_comes(steps: list[tuple[int, bool, int]]) -> None:
    waiting = Outbound(100)
    offered: list[Item] = []
    kept: list[Item] = []
    dropped: list[Item] = []
    for number, (size, durable, takes) in enumerate(steps):
        offered.append(Item(number.to_bytes(2) + b"x" * size, durable=durable))
        dropped += waiting.offer(offered[-1])
        assert waiting.waiting_bytes <= 100
        for _ in range(takes):
            kept += waiting.take(50)
    kept += waiting.take(1_000)
    assert len(waiting) == waiting.waiting_bytes == 0
    assert [item for item in offered if item in kept] == kept
    assert sorted(item.payload for item in kept + dropped) == [item.payload for item in offered]


def test_clear() -> None:
    waiting = Outbound(100)
    waiting.offer(FINAL)
    assert (waiting.clear(), waiting.clear(), waiting.waiting_bytes) == ([FINAL], [], 0)
