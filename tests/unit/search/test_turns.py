"""Whose search runs next: the newest of a slot, fairly between tenants, within bounds."""

import random
from collections import Counter

import pytest

from search.turns import Asked, Turns
from streaming.errors import Overloaded, QuotaExceeded
from streaming.limits import Limits

LIMITS = Limits(
    searches_running_max=3, searches_per_tenant_max=2, searches_per_socket_max=1, searches_waiting_max=40,
    search_slots_per_socket_max=4,
)  # fmt: skip


def asked(request_id: str, owner: str = "socket", slot: str = "s", tenant: str = "t") -> Asked[None]:
    return Asked(tenant, owner, slot, request_id, None)


def ids(these: list[Asked[None]]) -> list[str]:
    return [each.request_id for each in these]


def offered(turns: Turns[None], *these: Asked[None], now_ms: float = 0) -> list[str]:
    """Request ids of those that were superseded before they ran."""
    return [older.request_id for each in these if (older := turns.offer(each, now_ms)) is not None]


def test_one_runs_the_newest_waits_and_those_between_are_superseded() -> None:
    turns: Turns[None] = Turns(LIMITS)
    first, second, third = asked("1"), asked("2"), asked("3")
    assert offered(turns, first) == []
    assert ids(turns.start()) == ["1"]
    assert not first.stale
    assert offered(turns, second) == []
    assert first.stale
    assert not first.cancelled
    assert offered(turns, third) == ["2"]
    assert turns.start() == []
    turns.done(first)
    assert ids(turns.start()) == ["3"]
    turns.done(third)
    assert (turns.running, turns.waiting, turns._owners, turns._tenants) == (0, 0, {}, {})


def test_slots_of_a_socket_take_turns_and_are_bounded() -> None:
    turns: Turns[None] = Turns(LIMITS)
    many = [asked(str(n), slot=str(n)) for n in range(4)]
    offered(turns, *many)
    with pytest.raises(QuotaExceeded):
        turns.offer(asked("5", slot="5"), 0)
    order = []
    for _ in many:
        (running,) = turns.start()
        order.append(running.request_id)
        turns.done(running)
    assert order == ["0", "1", "2", "3"]


def test_a_newer_query_keeps_the_place_of_the_older() -> None:
    turns: Turns[None] = Turns(LIMITS)
    offered(turns, asked("a"), asked("b", slot="other"))
    (first,) = turns.start()
    offered(turns, asked("c", slot="third"))
    assert offered(turns, asked("d", slot="other")) == ["b"]
    turns.done(first)
    assert ids(turns.start()) == ["d"]


def test_tenants_take_turns_whatever_one_of_them_asks_for() -> None:
    turns: Turns[None] = Turns(LIMITS)
    offered(turns, *(asked(f"big {n}", owner=f"big {n}", tenant="big") for n in range(20)))
    running = turns.start()
    assert ids(running) == ["big 0", "big 1"], "a tenant leaves room"
    offered(turns, *(asked(f"small {n}", owner=f"small {n}", tenant="small") for n in range(3)))
    running += turns.start()
    assert ids(running)[2:] == ["small 0"]
    served: Counter[str] = Counter()
    for _ in range(4):
        turns.done(running.pop(0))
        begun = turns.start()
        served.update(each.tenant_id for each in begun)
        running += begun
    assert served == {"small": 2, "big": 2}


def test_who_rests_makes_room_and_comes_after_those_without_an_answer() -> None:
    turns: Turns[None] = Turns(LIMITS)
    first, second = asked("1"), asked("2", slot="other")
    offered(turns, first, second)
    assert ids(turns.start()) == ["1"]
    turns.rest(first)
    assert ids(turns.start()) == ["2"], "its turn is free"
    turns.again(first, 0)
    offered(turns, asked("3", slot="third"))
    assert turns.start() == []
    turns.done(second)
    (third,) = turns.start()
    assert third.request_id == "3"
    turns.done(third)
    assert ids(turns.start()) == ["1"]
    assert turns.running_in("socket", "s") is first
    turns.done(first)
    assert (turns.running, turns.waiting, turns._owners) == (0, 0, {})


def test_a_slot_whose_query_rests_runs_no_other() -> None:
    turns: Turns[None] = Turns(LIMITS)
    first = asked("1")
    offered(turns, first)
    turns.start()
    turns.rest(first)
    offered(turns, asked("2"))
    assert first.stale
    assert turns.start() == []
    turns.again(first, 0)
    assert ids(turns.start()) == ["1"]
    turns.done(first)
    assert ids(turns.start()) == ["2"]


def test_who_waits_too_long_is_told_and_forgotten() -> None:
    turns: Turns[None] = Turns(LIMITS)
    running, late, again = asked("1", owner="a"), asked("2", owner="b"), asked("3", owner="c")
    offered(turns, running, late, again)
    assert ids(turns.start()) == ["1", "2"]
    turns.done(late)
    turns.start()
    turns.rest(again)
    turns.again(again, 100)
    offered(turns, asked("4", owner="d"), now_ms=50)
    wait_ms = LIMITS.search_wait_ms_max
    assert turns.late(wait_ms + 49) == []
    assert ids(turns.late(wait_ms + 50)) == ["4"]
    assert ids(turns.late(wait_ms + 100)) == ["3"]
    assert turns.waiting == 0
    turns.done(again)
    turns.done(running)
    assert (turns.running, turns._owners, turns._tenants) == (0, {}, {})


def test_so_many_may_wait_and_a_newer_query_takes_no_more_room() -> None:
    turns: Turns[None] = Turns(LIMITS)
    offered(turns, *(asked(str(n), owner=str(n)) for n in range(LIMITS.searches_waiting_max)))
    with pytest.raises(Overloaded) as refusal:
        turns.offer(asked("more", owner="more"), 0)
    assert refusal.value.retry_after_ms == LIMITS.search_retry_ms
    assert offered(turns, asked("newer", owner="7")) == ["7"]
    assert "more" not in turns._owners


def test_cancelled_and_gone_ones_say_nothing_and_leave_nothing() -> None:
    turns: Turns[None] = Turns(LIMITS)
    running, resting = asked("1"), asked("2", slot="other")
    offered(turns, resting)
    turns.start()
    turns.rest(resting)
    turns.again(resting, 0)
    offered(turns, running, asked("3"))
    assert turns.cancel("socket", "unknown") is None
    assert turns.cancel("nobody", "1") is None
    assert turns.cancel("socket", "3") is None, "it waits: it is forgotten"
    turns.cancel("socket", "2")
    assert resting.cancelled
    offered(turns, asked("4", slot="third"))
    turns.gone("socket")
    turns.gone("socket")
    assert (turns.waiting, turns._owners, turns._tenants) == (0, {}, {})
    for each in (running, resting):
        turns.again(each, 0)
        turns.done(each)
    assert (turns.running, turns.start()) == (0, [])


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_bounds_hold_and_everything_ends(seed: int) -> None:
    """Invariant: one query of a slot runs, and none that is older than one that ran or was superseded."""
    chance = random.Random(seed)
    turns: Turns[int] = Turns(LIMITS)
    running: list[Asked[int]] = []
    resting: list[Asked[int]] = []
    newest: dict[tuple[str, str], int] = {}
    for number in range(400):
        match chance.randrange(7):
            case 0 | 1 | 2:
                owner = str(chance.randrange(6))
                each: Asked[int] = Asked(str(int(owner) % 3), owner, str(chance.randrange(4)), str(number), number)
                turns.offer(each, number)
            case 3 if running:
                turns.done(running.pop(chance.randrange(len(running))))
            case 4 if running:
                each = running.pop(chance.randrange(len(running)))
                turns.rest(each)
                resting.append(each)
            case 5 if resting:
                turns.again(resting.pop(chance.randrange(len(resting))), number)
            case 6 if chance.random() < 0.2:
                turns.gone(str(chance.randrange(6)))
        for each in turns.start():
            key = (str(each.owner), each.slot)
            assert each.what >= newest.get(key, 0), "an older one after a newer"
            newest[key] = each.what
            running.append(each)
        assert turns.running == len(running) <= LIMITS.searches_running_max
        tenants = Counter(each.tenant_id for each in running if not each.cancelled)
        assert all(count <= LIMITS.searches_per_tenant_max for count in tenants.values())
        owners = Counter(each.owner for each in running if not each.cancelled)
        assert all(count <= LIMITS.searches_per_socket_max for count in owners.values())
    for number in range(6):
        turns.gone(str(number))
    for each in running:
        turns.done(each)
    assert (turns.running, turns.waiting, turns._owners, turns._tenants) == (0, 0, {}, {})
