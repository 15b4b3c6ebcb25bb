"""Hubs of several nodes over a bus that loses, doubles, delays and reorders, mended by the log; in virtual time.

A failing seed runs alone: `pytest -k "test_name[seed]"`."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from server.rooms.bus import HERE, RoomKey
from server.rooms.hub import Hub
from server.rooms.marks import Marks
from server.store.feed import Event
from streaming.aio import Scope
from streaming.errors import Unavailable
from streaming.limits import LIMITS
from tests.sim import clock
from tests.unit.server.rooms.test_hub import KEY, OTHER, SMALL, Listener, Log

SEEDS = range(40)


class Weather:
    """What the network does to a message. `orderly`: messages of one node stay in order, as over one connection."""

    def __init__(self, rng: random.Random, *, lost: float, doubled: float, delay_s: float, orderly: bool) -> None:
        self.rng = rng
        self.lost, self.doubled, self.delay_s, self.orderly = lost, doubled, delay_s, orderly


class Room:
    """`Heads` and `LogReader` over one log; the database may be away."""

    def __init__(self) -> None:
        self.log = Log()
        self.looks = 0

    async def behind(self, known: Sequence[tuple[RoomKey, int]]) -> list[RoomKey]:
        self.looks += 1
        if self.log.away:
            raise Unavailable("away")
        return [key for key, seq in known if len(self.log.events[key]) > seq]


class Radio:
    """One node's `Bus`."""

    def __init__(self, name: str, weather: Weather, scope: Scope, *, others: bool) -> None:
        self.name, self.weather, self.scope, self.others = name, weather, scope, others
        self.ears: list[Hub] = []
        self.own: Hub | None = None
        self.sent = 0
        self._free: dict[Hub, float] = {}

    def emit(self, key: RoomKey, event: str, data: dict[str, Any]) -> None:
        self._send(lambda hub: hub.hear(key, event, data, node=self.name), event)

    def fence(self, tenant_id: str, recording_id: str, epoch: int) -> None:
        assert self.own is not None
        self.own.owned(tenant_id, recording_id, epoch, node=HERE)
        self._send(lambda hub: hub.owned(tenant_id, recording_id, epoch, node=self.name), "fence")

    def _send(self, say: Callable[[Hub], None], event: str) -> None:
        self.sent += 1
        for hub in self.ears:
            rng = self.weather.rng
            if event != "fence" and rng.random() < self.weather.lost:
                continue
            for _ in range(2 if rng.random() < self.weather.doubled else 1):
                at = asyncio.get_running_loop().time() + rng.random() * self.weather.delay_s
                if self.weather.orderly:
                    at = self._free[hub] = max(at, self._free.get(hub, 0.0) + 1e-6)
                self.scope.spawn(self._later(at, hub, say), name="message")

    async def _later(self, at: float, hub: Hub, say: Callable[[Hub], None]) -> None:
        await asyncio.sleep(at - asyncio.get_running_loop().time())
        say(hub)


class Nodes:
    """Some nodes on one log."""

    def __init__(self, scope: Scope, weather: Weather, count: int, *, redis: bool) -> None:
        self.scope = scope
        self.room = Room()
        self.rng = weather.rng
        self.radios = [Radio(f"node {n}", weather, scope, others=redis) for n in range(count)]
        self.hubs = [Hub(self.room.log, SMALL, radio) for radio in self.radios]
        self.marks = [Marks(hub, self.room, LIMITS) for hub in self.hubs]
        for radio, hub, marks in zip(self.radios, self.hubs, self.marks, strict=True):
            radio.own = hub
            radio.ears = [other for other in self.hubs if other is not hub and redis]
            scope.spawn(hub.run(), name="hub")
            scope.spawn(marks.run(), name="marks")

    async def join(self, hub: Hub, member: Listener, after_seq: int | None = None, key: RoomKey = KEY) -> int:
        member.seqs.clear()
        head = await hub.join(member, key, after_seq=after_seq)
        self.scope.spawn(hub.catch_up(member, key), name="catch up")
        return head.seq if after_seq is None else min(after_seq, head.seq)


def play(script: Callable[[Nodes], Awaitable[None]], *, count: int = 2, redis: bool = True, **weather: Any) -> None:
    errors: list[BaseException] = []
    settings: dict[str, Any] = {"lost": 0.0, "doubled": 0.0, "delay_s": 0.001, "orderly": True, **weather}
    sky = Weather(random.Random(settings.pop("seed", 0)), **settings)

    async def main() -> None:
        async with Scope("nodes", on_error=lambda _, error: errors.append(error)) as scope:
            await script(Nodes(scope, sky, count, redis=redis))
        assert not errors, errors

    clock.run(main())


@pytest.mark.parametrize("redis", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_member_sees_every_event_once_in_order(seed: int, redis: bool) -> None:
    """Whatever is lost, doubled, late or out of order, and without any bus; over lost databases, joins and leaves."""

    async def script(nodes: Nodes) -> None:
        rng = nodes.rng
        expected: dict[Listener, int] = {}
        homes: dict[Listener, Hub] = {}

        async def watch(member: Listener) -> None:
            for _ in range(rng.randint(1, 4)):
                await asyncio.sleep(rng.random() * 5)
                expected.pop(member, None)
                if member in homes:
                    homes[member].leave(member, KEY)
                homes[member] = rng.choice(nodes.hubs)
                after_seq = rng.choice([None, rng.randint(0, 30)])
                expected[member] = await nodes.join(homes[member], member, after_seq)

        async def speak() -> None:
            for _ in range(rng.randint(1, 40)):
                await asyncio.sleep(rng.choice([0.0, 0.0, 0.01, 0.3, 1.5]))
                events = [nodes.room.log.commit() for _ in range(rng.randint(1, 4))]
                rng.choice(nodes.hubs).announce(events)

        async def fail() -> None:
            await asyncio.sleep(rng.random() * 10)
            nodes.room.log.away = True
            await asyncio.sleep(rng.random() * 4)
            nodes.room.log.away = False

        members = [Listener() for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(retried(watch, member))
            group.create_task(speak())
            group.create_task(fail())
        await asyncio.sleep(20)
        last = len(nodes.room.log.events[KEY])
        for member in members:
            assert member.seqs == list(range(expected[member] + 1, last + 1))

    play(script, count=3, redis=redis, seed=seed, lost=0.3, doubled=0.3, delay_s=1.5, orderly=False)


async def retried(watch: Callable[[Listener], Awaitable[None]], member: Listener) -> None:
    """As a client does when the database is away."""
    while True:
        try:
            return await watch(member)
        except Unavailable:
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("redis", [True, False])
def test_a_lost_hint_is_a_second_late(redis: bool) -> None:
    """Nothing else comes that would show the gap, and the whole batch of hints is gone."""

    async def script(nodes: Nodes) -> None:
        member = Listener()
        await nodes.join(nodes.hubs[1], member)
        await asyncio.sleep(3)
        nodes.hubs[0].announce([nodes.room.log.commit() for _ in range(5)])
        await asyncio.sleep(LIMITS.marks_interval_ms / 1000 + 0.1)
        assert member.seqs == [1, 2, 3, 4, 5]

    play(script, redis=redis, lost=1.0)


def test_after_the_bus_is_back_nobody_waits_for_the_next_second() -> None:
    async def script(nodes: Nodes) -> None:
        member = Listener()
        await nodes.join(nodes.hubs[1], member)
        await asyncio.sleep(3.1)
        nodes.hubs[0].announce([nodes.room.log.commit()])
        nodes.marks[1].soon()
        await asyncio.sleep(0.1)
        assert member.seqs == [1]

    play(script, lost=1.0)


def test_where_nobody_is_joined_nothing_is_asked() -> None:
    async def script(nodes: Nodes) -> None:
        await asyncio.sleep(10)
        assert nodes.room.looks == 0
        member = Listener()
        await nodes.join(nodes.hubs[0], member)
        await asyncio.sleep(10)
        assert 8 <= nodes.room.looks <= 11

    play(script)


def test_many_rooms_are_asked_for_in_several_queries_and_read_a_few_at_a_time() -> None:
    rooms = LIMITS.marks_rooms_max + 1
    keys = [("t1", f"recording:{number}") for number in range(rooms)]

    async def script(nodes: Nodes) -> None:
        member = Listener()
        for key in keys:
            await nodes.join(nodes.hubs[0], member, key=key)
            nodes.room.log.commit(key)
        await asyncio.sleep(0.2)
        reading = most = 0

        def begin() -> float:
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            return 0.001

        def end() -> float:
            nonlocal reading
            reading -= 1
            return 0.0

        nodes.room.log.before, nodes.room.log.after = begin, end
        looks = nodes.room.looks
        await nodes.marks[0].look()
        assert nodes.room.looks - looks == 2
        assert sorted(event["room"] for event in member.told) == sorted(room for _, room in keys)
        assert most == LIMITS.marks_reads_max

    play(script)


def test_two_tenants_with_the_same_room_name_hear_nothing_of_each_other() -> None:
    async def script(nodes: Nodes) -> None:
        ann, bob = Listener(), Listener()
        await nodes.join(nodes.hubs[1], ann)
        await nodes.join(nodes.hubs[1], bob, key=OTHER)
        await asyncio.sleep(1)
        nodes.hubs[0].announce([nodes.room.log.commit()])
        nodes.hubs[0].tell(KEY, "transcript:partial", {"segment_id": "sg1"})
        await asyncio.sleep(5)
        assert (len(ann.told), bob.told) == (2, [])

    play(script)


def test_an_ephemeral_event_says_where_this_node_stands() -> None:
    async def script(nodes: Nodes) -> None:
        member = Listener()
        nodes.room.log.commit()
        await nodes.join(nodes.hubs[1], member)
        await asyncio.sleep(1)
        assert nodes.hubs[0].tell(KEY, "file:progress", {"upload_id": "u"}) == 0, "nobody is here"
        await asyncio.sleep(1)
        assert member.told == [{"room": KEY[1], "after_seq": 1, "upload_id": "u"}]

    play(script)


@pytest.mark.parametrize("redis", [True, False])
def test_partials_are_made_where_somebody_may_listen(redis: bool) -> None:
    async def script(nodes: Nodes) -> None:
        assert nodes.hubs[0].listened(KEY) is redis
        nodes.hubs[0].tell(KEY, "transcript:partial", {})
        nodes.hubs[0].announce([nodes.room.log.commit()])
        assert nodes.radios[0].sent == (2 if redis else 0), "and nothing is encoded for nobody"

    play(script, redis=redis)


# --- captions ---------------------------------------------------------------------------------------------------------
class Reader(Listener):
    """What a person sees: partials and finals, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def send_event(self, event: str, data: dict[str, Any], *, durable: bool) -> None:
        super().send_event(event, data, durable=durable)
        self.seen.append(("final" if durable else data["stream_id"], data["segment_id"]))


async def speak(nodes: Nodes, node: int, stream_id: str, segments: range) -> None:
    """A stream: partials of each segment, then its final, which is announced a little after its commit."""
    hub = nodes.hubs[node]
    for number in segments:
        segment = {"segment_id": f"{stream_id}-{number}", "stream_id": stream_id}
        for _ in range(nodes.rng.randint(0, 4)):
            hub.tell(KEY, "transcript:partial", segment)
            await asyncio.sleep(nodes.rng.random() * 0.3)
        log = nodes.room.log.events[KEY]
        log.append(Event(*KEY, len(log) + 1, 0, "transcript:final", segment))
        hub.announce(log[-1:])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_partial_follows_its_final(seed: int) -> None:
    """Redis is slow and lossy, so that the log is often faster."""

    async def script(nodes: Nodes) -> None:
        readers = [Reader() for _ in nodes.hubs]
        for hub, reader in zip(nodes.hubs, readers, strict=True):
            await nodes.join(hub, reader)
        await asyncio.sleep(1)
        await speak(nodes, 0, "st1", range(20))
        await asyncio.sleep(10)
        for reader in readers:
            assert reader.seqs == list(range(1, 21))
            for place, (kind, segment_id) in enumerate(reader.seen):
                if kind != "final":
                    assert ("final", segment_id) not in reader.seen[:place]

    play(script, seed=seed, lost=0.2, delay_s=4.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_takeover_the_old_owner_is_not_shown(seed: int) -> None:
    """It does not know yet that it is fenced, or was asleep."""

    async def script(nodes: Nodes) -> None:
        readers = [Reader() for _ in nodes.hubs]
        for hub, reader in zip(nodes.hubs, readers, strict=True):
            await nodes.join(hub, reader)
        await asyncio.sleep(1)
        await speak(nodes, 0, "st1", range(3))

        async def ghost() -> None:
            for _ in range(50):
                nodes.hubs[0].tell(KEY, "transcript:partial", {"segment_id": "st1-3", "stream_id": "st1"})
                await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as group:
            group.create_task(ghost())
            await asyncio.sleep(1)
            nodes.radios[1].fence(KEY[0], "r", 2)
            group.create_task(speak(nodes, 1, "st2", range(5)))
        await asyncio.sleep(10)
        for reader in readers:
            kinds = [kind for kind, _ in reader.seen]
            if "st2" in kinds:
                assert "st1" not in kinds[kinds.index("st2") :]
            assert reader.seqs == list(range(1, 9))
        nodes.radios[0].fence(KEY[0], "r", 3)
        await asyncio.sleep(10)
        for _ in range(20):
            nodes.hubs[0].tell(KEY, "transcript:partial", {"segment_id": "st3-0", "stream_id": "st3"})
        await asyncio.sleep(10)
        assert all("st3" in [kind for kind, _ in reader.seen] for reader in readers), "it may come back"

    play(script, count=3, seed=seed, lost=0.2, delay_s=2.0)


# --- strangers --------------------------------------------------------------------------------------------------------
def test_strangers_speak_and_move_nothing() -> None:
    async def script(nodes: Nodes) -> None:
        hub = nodes.hubs[0]
        member = Listener()
        nodes.room.log.commit()
        await nodes.join(hub, member)
        await asyncio.sleep(1)
        lie = {"event": "transcript:final", "room": "recording:other", "seq": 2, "at": 1, "after_seq": 9, "text": "hi"}
        assert hub.relay(KEY[1], "my:event", lie) == 1
        told = {"event": "transcript:final", "room": KEY[1], "at": 1, "after_seq": 1, "text": "hi"}
        assert member.told == [told], "without a seq"
        assert hub.relay(KEY[1], "my:event", b"bytes") == 1
        assert hub.relay("recording:nobody", "my:event", {}) == 0
        hub.announce([nodes.room.log.commit()])
        assert member.seqs == [2]
        assert nodes.radios[0].sent == 1, "strangers are heard by each node for itself"

    play(script)


def test_a_room_that_nobody_is_in_is_forgotten_by_its_name_too() -> None:
    async def script(nodes: Nodes) -> None:
        hub = nodes.hubs[0]
        member, other = Listener(), Listener()
        await nodes.join(hub, member)
        await nodes.join(hub, other, key=OTHER)
        await asyncio.sleep(1)
        hub.leave(member, KEY)
        assert hub.relay(KEY[1], "my:event", {}) == 1, "the other tenant's"
        hub.leave(other, OTHER)
        assert hub.relay(KEY[1], "my:event", {}) == 0
        assert not hub._named

    play(script)
