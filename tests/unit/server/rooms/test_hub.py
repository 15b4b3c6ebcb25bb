"""Joining, replaying and telling, under every order in which commits, announcements, reads and joins may come.

Time is virtual: a delay only decides what happens before what."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.rooms.hub import Hub, RoomKey
from server.store.feed import Event, Head
from streaming.aio import Scope
from streaming.errors import HistoryTruncated, Unavailable
from streaming.limits import LIMITS
from tests.sim import clock

KEY = ("t1", "recording:r")
OTHER = ("t2", "recording:r")
SMALL = msgspec.structs.replace(LIMITS, replay_page_events=3, join_buffer_events_max=6)


class Log:
    """`LogReader`: a read sees what is committed at its middle; `before` and `after` say how long each half takes."""

    def __init__(self) -> None:
        self.events: dict[RoomKey, list[Event]] = defaultdict(list)
        self.first_seq = 1
        self.before: Callable[[], float] = lambda: 0.0
        self.after: Callable[[], float] = lambda: 0.0
        self.away = False
        self.reads = 0

    def expire(self, first_seq: int) -> None:
        self.first_seq = first_seq

    def commit(self, key: RoomKey = KEY) -> Event:
        log = self.events[key]
        log.append(Event(key[0], key[1], len(log) + 1, 0, "transcript:final", {"text": f"{key[0]} {len(log) + 1}"}))
        return log[-1]

    async def head(self, tenant_id: str, room: str) -> Head:
        await asyncio.sleep(self.before())
        found = Head(len(self.events[(tenant_id, room)]), self.first_seq)
        await self._answer()
        return found

    async def read(self, tenant_id: str, room: str, after_seq: int, limit: int) -> list[Event]:
        self.reads += 1
        await asyncio.sleep(self.before())
        found = self.events[(tenant_id, room)][max(after_seq, self.first_seq - 1) :][:limit]
        await self._answer()
        return found

    async def _answer(self) -> None:
        await asyncio.sleep(self.after())
        if self.away:
            raise Unavailable("away")


class Listener:
    """A `Member`. `seqs`: durable events since the last join began."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.seqs: list[int] = []
        self.truncated: list[tuple[RoomKey, int]] = []

    def send_event(self, event: str, data: dict[str, Any], *, durable: bool) -> None:
        self.told.append(data)
        if durable:
            self.seqs.append(data["seq"])

    def room_truncated(self, key: RoomKey, first_seq: int) -> None:
        self.truncated.append((key, first_seq))


class House:
    """A hub that runs, its log, and what a socket's handlers do."""

    def __init__(self, scope: Scope) -> None:
        self.log = Log()
        self.hub = Hub(self.log, SMALL)
        self._scope = scope
        scope.spawn(self.hub.run(), name="hub")

    async def join(self, member: Listener, key: RoomKey = KEY, *, after_seq: int | None = None) -> Head:
        member.seqs.clear()
        head = await self.hub.join(member, key, after_seq=after_seq)
        self._scope.spawn(self.hub.catch_up(member, key), name="catch up")
        return head

    def commit(self, count: int = 1, key: RoomKey = KEY) -> None:
        """Commit and announce."""
        for _ in range(count):
            self.hub.announce([self.log.commit(key)])


def play(script: Callable[[House], Any]) -> None:
    """Run a script against a house; what the hub's own tasks raise fails the test."""
    errors: list[BaseException] = []

    async def main() -> None:
        async with Scope("house", on_error=lambda _, error: errors.append(error)) as scope:
            house = House(scope)
            await script(house)
            await asyncio.sleep(0)
        assert not errors, errors

    clock.run(main())


def test_without_after_seq_live_only() -> None:
    async def script(house: House) -> None:
        house.commit(4)
        member = Listener()
        assert await house.join(member) == Head(4, 1)
        await asyncio.sleep(1)
        house.commit(2)
        assert member.seqs == [5, 6]

    play(script)


@pytest.mark.parametrize("after_seq", [0, 1, 7, 10, 99])
def test_with_after_seq_what_was_missed_and_then_live(after_seq: int) -> None:
    async def script(house: House) -> None:
        house.commit(10)
        member = Listener()
        await house.join(member, after_seq=after_seq)
        house.commit()
        await asyncio.sleep(1)
        house.commit()
        assert member.seqs == list(range(min(after_seq, 10) + 1, 13))

    play(script)


def test_announced_while_the_head_is_read() -> None:
    """Whether the head that is read includes them or not."""

    async def script(house: House) -> None:
        house.commit(2)
        for before, after in [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]:
            house.log.before, house.log.after = partial(float, before), partial(float, after)
            member = Listener()
            joining = asyncio.ensure_future(house.join(member))
            await asyncio.sleep(0.5)
            house.commit(2)
            head = await joining
            house.commit()
            await asyncio.sleep(10)
            last = len(house.log.events[KEY])
            assert member.seqs == list(range(head.seq + 1, last + 1))
            house.hub.leave(member, KEY)

    play(script)


def test_out_of_order_announcements_wait_for_their_predecessors() -> None:
    async def script(house: House) -> None:
        member = Listener()
        await house.join(member)
        await asyncio.sleep(1)
        one, two, three = (house.log.commit() for _ in range(3))
        house.hub.announce([three])
        house.hub.announce([two])
        assert member.seqs == []
        house.hub.announce([one])
        assert member.seqs == [1, 2, 3]
        house.hub.announce([one, two, three])
        assert member.seqs == [1, 2, 3], "announced twice, told once"

    play(script)


@pytest.mark.parametrize("gap", [1, 2, 3, 8])
def test_a_lost_announcement_is_read_from_the_log(gap: int) -> None:
    async def script(house: House) -> None:
        member = Listener()
        await house.join(member)
        await asyncio.sleep(1)
        for _ in range(gap):
            house.log.commit()
        house.commit()
        assert member.seqs == []
        await asyncio.sleep(2)
        assert member.seqs == list(range(1, gap + 2))

    play(script)


def test_resync_finds_what_nobody_announced() -> None:
    async def script(house: House) -> None:
        member = Listener()
        await house.join(member)
        await asyncio.sleep(1)
        house.log.commit()
        house.hub.resync(*KEY)
        await asyncio.sleep(2)
        assert member.seqs == [1]

    play(script)


def test_a_resync_during_a_repair_is_not_forgotten() -> None:
    """What is committed after the repair has looked at the log needs another look."""

    async def script(house: House) -> None:
        member = Listener()
        await house.join(member)
        await asyncio.sleep(1)
        house.log.after = lambda: 3.0
        house.hub.resync(*KEY)
        await asyncio.sleep(2)
        assert house.log.reads == 1, "the repair has looked and waits for the answer"
        house.log.commit()
        house.hub.resync(*KEY)
        await asyncio.sleep(20)
        assert member.seqs == [1]

    play(script)


def test_a_repair_waits_out_a_lost_database() -> None:
    async def script(house: House) -> None:
        member = Listener()
        await house.join(member)
        await asyncio.sleep(1)
        house.log.away = True
        house.log.commit()
        house.hub.resync(*KEY)
        await asyncio.sleep(100)
        assert member.seqs == []
        house.log.away = False
        await asyncio.sleep(5)
        assert member.seqs == [1]

    play(script)


def test_a_replay_waits_out_a_lost_database_without_a_storm() -> None:
    async def script(house: House) -> None:
        house.commit(5)
        member = Listener()
        await house.join(member, after_seq=0)
        house.log.away = True
        await asyncio.sleep(100)
        assert house.log.reads < 110
        house.log.away = False
        await asyncio.sleep(5)
        assert member.seqs == [1, 2, 3, 4, 5]

    play(script)


@pytest.mark.parametrize("first_seq", [3, 6])
def test_a_replay_whose_events_became_too_old_ends_and_says_so(first_seq: int) -> None:
    """Retention deleted under it: some of its events, or all that there are."""

    async def script(house: House) -> None:
        house.commit(5)
        house.log.before = lambda: 1.0
        member = Listener()
        await house.join(member, after_seq=0)
        house.log.expire(first_seq)
        await asyncio.sleep(100)
        assert (member.seqs, member.truncated) == ([], [(KEY, first_seq)])
        assert not house.hub.listened(KEY), "it has left the room"
        assert house.log.reads == 1, "and nobody goes on looking"
        await house.join(member, after_seq=first_seq - 1)
        house.commit()
        await asyncio.sleep(10)
        assert member.seqs == list(range(first_seq, 7))

    play(script)


@pytest.mark.parametrize("first_seq", [4, 6])
def test_live_members_whose_next_event_became_too_old_are_told(first_seq: int) -> None:
    """Its announcement was lost, and the repair finds it deleted; who stands further on goes on."""

    async def script(house: House) -> None:
        house.commit(2)
        behind, further = Listener(), Listener()
        await house.join(behind)
        await asyncio.sleep(1)
        for _ in range(3):
            house.log.commit()
        await house.join(further)  # finds the log at 5, and has the room repaired
        house.log.expire(first_seq)
        await asyncio.sleep(10)
        assert (behind.seqs, behind.truncated) == ([], [(KEY, first_seq)])
        house.commit()
        assert (behind.seqs, further.seqs, further.truncated) == ([], [6], [])
        assert house.hub._rooms[KEY].members.keys() == {further}

    play(script)


def test_the_buffer_of_early_events_is_bounded_and_nothing_is_lost() -> None:
    async def script(house: House) -> None:
        house.log.before = house.log.after = lambda: 5.0
        member = Listener()
        joining = asyncio.ensure_future(house.join(member))
        await asyncio.sleep(7)  # the head is read, its answer under way
        house.commit(5 * SMALL.join_buffer_events_max)
        assert len(house.hub._rooms[KEY].early) <= SMALL.join_buffer_events_max
        assert (await joining).seq == 0
        await asyncio.sleep(200)
        assert member.seqs == list(range(1, 5 * SMALL.join_buffer_events_max + 1))

    play(script)


def test_a_gap_that_the_first_joiner_finds_is_repaired() -> None:
    """The announcement before it was lost, and no other follows."""

    async def script(house: House) -> None:
        house.log.after = lambda: 5.0
        member = Listener()
        joining = asyncio.ensure_future(house.join(member))
        await asyncio.sleep(1)
        house.log.commit()
        house.commit()
        await joining
        await asyncio.sleep(60)
        assert member.seqs == [1, 2]

    play(script)


def test_a_joiner_that_finds_the_room_behind_has_it_repaired() -> None:
    async def script(house: House) -> None:
        first, second = Listener(), Listener()
        await house.join(first)
        await asyncio.sleep(1)
        house.log.commit()  # its announcement is lost
        assert (await house.join(second)).seq == 1
        await asyncio.sleep(5)
        assert (first.seqs, second.seqs) == ([1], [])
        house.commit()
        assert (first.seqs, second.seqs) == ([1, 2], [2])

    play(script)


def test_history_truncated() -> None:
    async def script(house: House) -> None:
        house.commit(10)
        house.log.first_seq = 5
        member = Listener()
        with pytest.raises(HistoryTruncated) as raised:
            await house.join(member, after_seq=3)
        assert raised.value.first_seq == 5
        assert not house.hub.listened(KEY), "who was refused is no member"
        await house.join(member, after_seq=4)
        await asyncio.sleep(1)
        assert member.seqs == [5, 6, 7, 8, 9, 10]

    play(script)


@pytest.mark.parametrize("others", [0, 1])
def test_a_failed_join_leaves_nothing_behind(others: int) -> None:
    async def script(house: House) -> None:
        for _ in range(others):
            await house.join(Listener())
        house.log.away = True
        with pytest.raises(Unavailable):
            await house.join(Listener())
        assert house.hub.listened(KEY) == bool(others)
        house.log.away = False
        member = Listener()
        await house.join(member)
        await asyncio.sleep(1)
        house.commit()
        assert member.seqs == [1]

    play(script)


def test_leaving_during_a_join_that_then_fails() -> None:
    async def script(house: House) -> None:
        house.log.after = lambda: 1.0
        member = Listener()
        joining = asyncio.ensure_future(house.join(member))
        await asyncio.sleep(0.5)
        house.hub.leave(member, KEY)
        house.log.away = True
        with pytest.raises(Unavailable):
            await joining

    play(script)


def test_a_page_under_way_is_not_told_after_a_new_join() -> None:
    async def script(house: House) -> None:
        house.commit(5)
        house.log.after = lambda: 1.0
        member = Listener()
        await house.join(member, after_seq=0)
        await asyncio.sleep(0.5)
        await house.join(member, after_seq=3)
        await asyncio.sleep(10)
        assert member.seqs == [4, 5]

    play(script)


def test_leaving_during_the_replay_stops_it() -> None:
    async def script(house: House) -> None:
        house.commit(30)
        house.log.before = lambda: 1.0
        member = Listener()
        await house.join(member, after_seq=0)
        await asyncio.sleep(2.5)
        told = list(member.seqs)
        assert 0 < len(told) < 30
        house.hub.leave(member, KEY)
        house.hub.leave(member, KEY)
        house.commit()
        await asyncio.sleep(60)
        assert member.seqs == told
        assert not house.hub.listened(KEY)

    play(script)


def test_two_tenants_with_the_same_room_name_never_mix() -> None:
    async def script(house: House) -> None:
        one, two = Listener(), Listener()
        await house.join(one, KEY, after_seq=0)
        await house.join(two, OTHER, after_seq=0)
        await asyncio.sleep(1)
        house.commit(2, KEY)
        house.commit(5, OTHER)
        assert house.hub.tell(KEY, "transcript:partial", {"stable": "for one"}) == 1
        house.hub.leave(one, KEY)
        assert house.hub.tell(KEY, "transcript:partial", {"stable": "for nobody"}) == 0
        assert (one.seqs, two.seqs) == ([1, 2], [1, 2, 3, 4, 5])
        assert all(data["text"].startswith("t2 ") for data in two.told)
        assert [data["stable"] for data in one.told if "stable" in data] == ["for one"]

    play(script)


def test_ephemeral_events_reach_live_members_only_and_say_after_which_event() -> None:
    async def script(house: House) -> None:
        house.commit(7)
        live, late = Listener(), Listener()
        await house.join(live)
        await asyncio.sleep(1)
        house.log.before = lambda: 1.0
        await house.join(late, after_seq=0)
        assert house.hub.tell(KEY, "transcript:partial", {"stable": "a"}) == 1
        assert live.told == [{"room": KEY[1], "after_seq": 7, "stable": "a"}]
        await asyncio.sleep(60)
        house.commit()
        assert house.hub.tell(KEY, "transcript:partial", {"stable": "b"}) == 2
        for member in (live, late):
            assert member.told[-1] == {"room": KEY[1], "after_seq": 8, "stable": "b"}
            assert member.told[-2]["seq"] == 8, "never before the event it follows"

    play(script)


def test_members_are_told_the_same_object_so_that_it_is_encoded_once() -> None:
    async def script(house: House) -> None:
        members = [Listener() for _ in range(3)]
        for member in members:
            await house.join(member)
        await asyncio.sleep(1)
        house.commit()
        house.hub.tell(KEY, "transcript:partial", {})
        assert len({id(member.told[0]) for member in members}) == len({id(member.told[1]) for member in members}) == 1

    play(script)


def test_a_second_join_replaces_the_first_also_while_that_is_under_way() -> None:
    """The server's own join after the connect, and the client's with `after_seq` that overtakes it."""

    async def script(house: House) -> None:
        house.commit(5)
        for first_s, second_s in [(1.0, 1.0), (1.0, 3.0), (3.0, 1.0)]:
            waits = iter([first_s, second_s])
            house.log.before = lambda waits=waits: next(waits, 0.0)  # type: ignore[misc]
            member = Listener()
            own = asyncio.ensure_future(house.join(member))
            await asyncio.sleep(0.5)
            again = asyncio.ensure_future(house.join(member, after_seq=2))
            await asyncio.gather(own, again)
            house.commit()
            await asyncio.sleep(10)
            assert member.seqs == list(range(3, len(house.log.events[KEY]) + 1))
            house.hub.leave(member, KEY)

    play(script)


# --- every order ------------------------------------------------------------------------------------------------------
PAUSE = st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.3, 1.0, 2.0])
SOCKET = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.one_of(st.none(), st.integers(0, 12))),
        st.tuples(st.just("leave"), st.none()),
        st.tuples(st.just("wait"), PAUSE),
    ),
    min_size=1,
    max_size=5,
)
WRITES = st.lists(st.tuples(PAUSE, PAUSE, st.sampled_from(["announce", "announce", "announce", "lose"])), max_size=12)


@given(
    sockets=st.lists(SOCKET, min_size=1, max_size=3),
    writes=WRITES,
    halves=st.lists(PAUSE, min_size=1, max_size=8),
)
def test_each_event_once_and_in_order_whatever_comes_first(
    sockets: list[list[tuple[str, Any]]], writes: list[tuple[float, float, str]], halves: list[float]
) -> None:
    """Each member, from its last join on, hears every event from where it joined, to the last one."""

    async def script(house: House) -> None:
        turns = iter(halves * 1_000)
        house.log.before = house.log.after = lambda: next(turns)
        house.commit(4)
        expected: dict[Listener, int] = {}

        async def join(member: Listener, after_seq: int | None) -> None:
            expected.pop(member, None)
            head = await house.join(member, after_seq=after_seq)
            expected[member] = head.seq if after_seq is None else min(after_seq, head.seq)

        async def socket(member: Listener, steps: list[tuple[str, Any]]) -> None:
            for action, value in steps:
                if action == "join":
                    await join(member, value)
                elif action == "leave":
                    expected.pop(member, None)
                    house.hub.leave(member, KEY)
                else:
                    await asyncio.sleep(value)

        async def tell_later(event: Event, after_s: float, how: str) -> None:
            await asyncio.sleep(after_s)
            if how == "announce":
                house.hub.announce([event])
            else:
                house.hub.resync(*KEY)

        async def write(group: asyncio.TaskGroup) -> None:
            for before_s, after_s, how in writes:
                await asyncio.sleep(before_s)
                group.create_task(tell_later(house.log.commit(), after_s, how))

        members = [Listener() for _ in sockets]
        async with asyncio.TaskGroup() as group:
            for member, steps in zip(members, sockets, strict=True):
                group.create_task(socket(member, steps))
            group.create_task(write(group))
        await asyncio.sleep(200)
        house.log.before = house.log.after = lambda: 0.0
        house.commit()
        await asyncio.sleep(10)
        last = len(house.log.events[KEY])
        for member in members:
            if member in expected:
                assert member.seqs == list(range(expected[member] + 1, last + 1))
            else:
                assert last not in member.seqs

    play(script)
