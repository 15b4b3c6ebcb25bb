"""The outbox of one client: order, the limit of bytes, what replaces what."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.limits import KIB, LIMITS
from streaming.protocol.outbox import ITEM_BYTES, Item, Outbox, Verdict

A, B = ("partial", "recording:1", "a"), ("partial", "recording:1", "b")


def drain(outbox: Outbox) -> list[bytes]:
    taken = []
    while len(outbox):
        taken += outbox.take(1)
    return taken


def test_what_must_arrive_leaves_in_order() -> None:
    outbox = Outbox(64 * KIB)
    for n in range(5):
        assert outbox.offer(Item(b"%d" % n)) is Verdict.QUEUED
    assert outbox.take(3) == [b"0", b"1", b"2"]
    assert outbox.offer(Item(b"5")) is Verdict.QUEUED
    assert drain(outbox) == [b"3", b"4", b"5"]
    assert (outbox.waiting_bytes, len(outbox)) == (0, 0)


def test_the_newest_of_a_key_waits_at_the_end() -> None:
    outbox = Outbox(64 * KIB)
    outbox.offer(Item(b"a1", key=A))
    outbox.offer(Item(b"b1", key=B))
    outbox.offer(Item(b"event"))
    outbox.offer(Item(b"a2", key=A))
    assert drain(outbox) == [b"b1", b"event", b"a2"]


def test_a_partial_neither_waits_for_its_final_nor_follows_it() -> None:
    outbox = Outbox(64 * KIB)
    outbox.offer(Item(b"a1", key=A))
    outbox.offer(Item(b"b1", key=B))
    assert outbox.offer(Item(b"final a", settles=A)) is Verdict.QUEUED
    assert len(outbox) == 2, "the partial went when its final came"
    assert outbox.offer(Item(b"a2", key=A)) is Verdict.DROPPED
    outbox.offer(Item(b"again final a", settles=A))  # a replay after leaving and joining again
    assert drain(outbox) == [b"b1", b"final a", b"again final a"]
    assert outbox.offer(Item(b"a3", key=A)) is Verdict.QUEUED, "what is settled is known while the final waits"


def test_over_the_limit_the_momentary_goes_first_the_oldest_first() -> None:
    size = ITEM_BYTES + 10
    outbox = Outbox(5 * size)
    outbox.offer(Item(b"a" * 10, key=A))
    outbox.offer(Item(b"b", key=B))
    outbox.offer(Item(b"1" * 10))
    assert outbox.offer(Item(b"c" * 10, key=("status",))) is Verdict.DROPPED
    assert outbox.offer(Item(b"2" * 10)) is Verdict.QUEUED
    assert [data[:1] for data in drain(outbox)] == [b"b", b"1", b"2"]


def test_at_the_limit() -> None:
    size = ITEM_BYTES + 100
    outbox = Outbox(3 * size)
    outbox.offer(Item(b"", key=A))
    for _ in range(3):
        assert outbox.offer(Item(bytes(100))) is Verdict.QUEUED
    assert outbox.waiting_bytes == 3 * size
    before = len(outbox)
    assert outbox.offer(Item(b"", settles=B)) is Verdict.OVERFLOW
    assert (len(outbox), outbox.waiting_bytes) == (before, 3 * size), "an overflow changes nothing"
    outbox.take(1)
    assert outbox.offer(Item(b"")) is Verdict.QUEUED


def test_at_least_one_is_taken_and_else_no_more_than_asked_for() -> None:
    outbox = Outbox(64 * KIB)
    outbox.offer(Item(bytes(1_000)))
    outbox.offer(Item(bytes(10)))
    outbox.offer(Item(bytes(10)))
    assert [len(data) for data in outbox.take(20)] == [1_000]
    assert [len(data) for data in outbox.take(20)] == [10, 10]
    assert outbox.take(20) == []


OFFERS = st.lists(
    st.one_of(
        st.tuples(st.just("must"), st.none(), st.integers(0, 400)),
        st.tuples(st.just("partial"), st.sampled_from("abc"), st.integers(0, 400)),
        st.tuples(st.just("final"), st.sampled_from("abc"), st.integers(0, 400)),
        st.tuples(st.just("take"), st.none(), st.integers(1, 900)),
    ),
    max_size=60,
)


@given(OFFERS, st.integers(300, 6_000))
def test_whatever_is_offered(steps: list[tuple[str, str | None, int]], bytes_max: int) -> None:
    """Must-arrive in order and each once; of partials a subsequence, none after its final as long as that waits, none
    that is older than another of its key that was delivered; never over the limit."""
    outbox = Outbox(bytes_max)
    must: list[int] = []
    kinds: dict[int, tuple[str, str | None]] = {}
    delivered: list[int] = []
    waiting_finals: set[int] = set()
    for number, (kind, name, size) in enumerate(steps):
        if kind == "take":
            taken = [int(data.split(b":")[0]) for data in outbox.take(size)]
            delivered += taken
            waiting_finals -= set(taken)
            continue
        data = b"%d:" % number + bytes(size)
        kinds[number] = (kind, name)
        key = ("partial", "room", name) if name else None
        if kind == "partial":
            verdict = outbox.offer(Item(data, key=key))
            if any(kinds[final] == ("final", name) for final in waiting_finals):
                assert verdict is Verdict.DROPPED
            assert verdict is not Verdict.OVERFLOW
        else:
            verdict = outbox.offer(Item(data, settles=key if kind == "final" else None))
            assert verdict is not Verdict.DROPPED
            if verdict is Verdict.QUEUED:
                must.append(number)
                if kind == "final":
                    waiting_finals.add(number)
        assert 0 <= outbox.waiting_bytes <= bytes_max
    delivered += [int(data.split(b":")[0]) for data in drain(outbox)]
    assert outbox.waiting_bytes == 0
    assert [n for n in delivered if kinds[n][0] != "partial"] == must
    assert delivered == sorted(delivered), "nothing overtakes what was offered before it"
    assert len(set(delivered)) == len(delivered)


@pytest.mark.parametrize("size", [1, 300])
@pytest.mark.parametrize("kind", ["event", "partial", "final"])
def test_waiting_bytes_are_memory(kind: str, size: int) -> None:
    """An item costs no more than it is counted, keys and all, so the limit is one of memory."""
    outbox = Outbox(LIMITS.outbox_bytes_max)
    tracemalloc.start()
    try:
        for n in range(100_000):
            key = ("partial", "recording:1", f"seg_{n}") if kind != "event" else None
            item = Item(bytes(size), key=key if kind == "partial" else None, settles=key if kind == "final" else None)
            if outbox.offer(item) is not Verdict.QUEUED:
                break
        del item, key
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(outbox) > 1_000
    assert held <= outbox.waiting_bytes * 1.05
