"""Places and rates at the edge, on a clock of the test's own."""

import sys

import msgspec
import pytest

from auth.model import Identity, Role
from server.edge.admission import RETRY_MS, WEIGHTS, Admission
from streaming.errors import Overloaded, RateLimited
from streaming.limits import LIMITS, Limits, check
from streaming.protocol.messages import CLIENT_EVENTS, UNACKNOWLEDGED

HOME = "192.0.2.7"


def somebody(user: str = "u1", tenant: str = "t1") -> Identity:
    return Identity(
        user_id=user, user_name=user, tenant_id=tenant, tenant_name=tenant, role=Role.OWNER, expires_at=2**40
    )


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def limits(**changed: int) -> Limits:
    return msgspec.structs.replace(LIMITS, **changed)


def test_places_of_a_user_a_tenant_and_a_node() -> None:
    door = Admission(limits(sockets_max=4), per_user=2, per_tenant=3)
    visits = [door.handshake(None) for _ in range(6)]
    visits[0].enter(somebody())
    visits[1].enter(somebody())
    with pytest.raises(RateLimited, match="one user") as refused:
        visits[2].enter(somebody())
    assert refused.value.retry_after_ms == RETRY_MS
    visits[2].enter(somebody("u2"))
    with pytest.raises(RateLimited, match="one tenant"):
        visits[3].enter(somebody("u3"))
    visits[3].enter(somebody("u3", "t2"))
    with pytest.raises(Overloaded):
        visits[4].enter(somebody("u4", "t3"))
    visits[0].leave()
    visits[4].enter(somebody())
    for visit in visits:
        visit.end()
        visit.end()
    assert (door.sockets, door.visits) == (0, 0)
    assert [len(p) for p in (door.user_places, door.tenant_places, door.address_places)] == [0, 0, 0]


def test_an_address_without_places_hears_why_at_connect_and_then_nothing() -> None:
    door = Admission(LIMITS, per_address=2)
    visits = [door.handshake(HOME) for _ in range(4)]
    visits[1].knock()
    for visit in visits[2:]:
        with pytest.raises(RateLimited, match="one address") as refused:
            visit.knock()
        assert refused.value.retry_after_ms == RETRY_MS
    with pytest.raises(RateLimited):
        door.handshake(HOME)
    door.handshake("192.0.2.8").knock()
    door.handshake(None).knock()
    for visit in visits[:3]:
        visit.end()
    door.handshake(HOME).knock()


def test_a_node_full_of_handshakes_takes_up_no_more() -> None:
    door = Admission(limits(sockets_max=2, handshakes_max=3))
    visits = [door.handshake(None) for _ in range(5)]
    with pytest.raises(Overloaded):
        door.handshake(None)
    visits[0].end()
    door.handshake(None)


def test_a_loop_of_connections_is_slowed_and_a_restart_is_not() -> None:
    clock = Clock()
    door = Admission(limits(connects_per_s=10, connects_burst=20), per_address=100, clock=clock)
    for _ in range(120):  # everybody behind this address, and some more
        visit = door.handshake(HOME)
        visit.knock()
        visit.end()
    visit = door.handshake(HOME)
    with pytest.raises(RateLimited, match="too often") as refused:
        visit.knock()
    visit.end()
    assert refused.value.retry_after_ms == 100
    clock.s += 0.1
    door.handshake(HOME).knock()
    door.handshake("192.0.2.8").knock()


def test_five_thousand_come_back_at_once() -> None:
    door = Admission(LIMITS)
    for n in range(5_000):
        visit = door.handshake(HOME)
        visit.enter(somebody())
        visit.event("room:join")
        assert visit.received(300) == 0, n


def test_events_of_a_socket_a_user_and_a_tenant() -> None:
    clock = Clock()
    small = limits(
        events_per_s=10, events_burst=5, events_per_user_per_s=20, events_per_user_burst=8,
        events_per_tenant_per_s=40, events_per_tenant_burst=14,
    )  # fmt: skip
    door = Admission(small, clock=clock)

    def enter(user: str) -> list[bool]:
        visit = door.handshake(None)
        visit.enter(somebody(user))
        taken = []
        for _ in range(6):
            try:
                visit.event("room:leave")
                taken.append(True)
            except RateLimited:
                taken.append(False)
        return taken

    assert enter("a") == [True] * 5 + [False]  # the socket's own
    assert enter("a") == [True] * 3 + [False] * 3  # 8 of the user
    assert enter("b") == [True] * 5 + [False]
    assert enter("c") == [True] + [False] * 5  # 14 of the tenant
    clock.s += 10
    assert enter("c") == [True] * 5 + [False]


def test_what_a_socket_is_refused_costs_its_user_nothing() -> None:
    door = Admission(limits(events_per_s=1, events_burst=5, events_per_user_burst=7), clock=Clock())
    loud, quiet = door.handshake(None), door.handshake(None)
    loud.enter(somebody())
    quiet.enter(somebody())
    for _ in range(5):
        loud.event("room:leave")
    for _ in range(100):
        with pytest.raises(RateLimited):
            loud.event("room:leave")
    quiet.event("room:leave")
    quiet.event("room:leave")


def test_expensive_events_weigh_more() -> None:
    assert WEIGHTS.keys() <= CLIENT_EVENTS.keys() - UNACKNOWLEDGED
    for name, weight in WEIGHTS.items():
        visit = Admission(limits(events_burst=20), clock=Clock()).handshake(None)
        for _ in range(20 // weight):
            visit.event(name)
        with pytest.raises(RateLimited):
            visit.event(name if 20 % weight == 0 else "voice:recording:start")


def test_a_client_that_does_not_listen_runs_away() -> None:
    clock = Clock()
    small = limits(events_per_s=10, events_burst=5, events_refused_max=20, events_refused_ms=10_000)
    visit = Admission(small, clock=clock).handshake(None)

    def refused() -> int:
        """Events refused until it counts as running away."""
        for n in range(1, 1_000):
            try:
                visit.event("room:leave")
            except RateLimited:
                if visit.runaway:
                    return n
        raise AssertionError

    assert refused() == 5 + 21
    clock.s += 10
    assert refused() == 5 + 21


def test_bytes_are_slowed_and_never_refused() -> None:
    clock = Clock()
    small = limits(received_bytes_per_s=1_000, received_burst_bytes=5_000, received_bytes_min=100)
    visit = Admission(small, clock=clock).handshake(None)
    assert visit.received(5_000) == 0
    assert visit.received(500) == 0.5
    clock.s += 0.5
    assert visit.received(1) == 0.1, "a small message counts as `received_bytes_min`"
    assert visit.received(10**9) == small.received_delay_ms_max / 1_000


def test_bytes_of_one_user_count_together() -> None:
    small = limits(received_bytes_per_group_per_s=1_000, received_burst_bytes_per_group=5_000, received_bytes_min=1)
    door = Admission(small, clock=Clock())
    first, second, other = (door.handshake(None) for _ in range(3))
    first.enter(somebody())
    second.enter(somebody())
    other.enter(somebody("u2", "t2"))
    assert first.received(5_000) == 0
    assert second.received(100) == 0.1
    assert other.received(5_000) == 0


def test_ten_minutes_of_outage_arrive_within_seconds() -> None:
    clock = Clock()
    visit = Admission(LIMITS, clock=clock).handshake(HOME)
    visit.enter(somebody())
    for _ in range(600 * 10):  # 48 kHz stereo s16le in chunks of 100 ms
        clock.s += visit.received(19_200)
    assert clock.s < 10
    small = Admission(LIMITS, clock=Clock()).handshake(HOME)
    assert sum(small.received(400) for _ in range(600 * 10)) == 0, "Opus in chunks of 100 ms"


def test_hello_is_waited_for_until_somebody_entered() -> None:
    clock = Clock()
    visit = Admission(LIMITS, clock=clock).handshake(HOME)
    assert visit.hello_left_ms() == LIMITS.hello_ms_max
    clock.s += LIMITS.hello_ms_max / 1_000 + 1
    assert visit.hello_left_ms() == 0
    visit.enter(somebody())
    assert visit.hello_left_ms() is None
    visit.leave()
    assert visit.hello_left_ms() is None, "its end is due anyway"


def test_hellos_are_counted() -> None:
    door = Admission(LIMITS)
    visit = door.handshake(None)
    assert [visit.hello() for _ in range(LIMITS.hellos_max + 1)] == [True] * LIMITS.hellos_max + [False]
    visit = door.handshake(None)
    assert visit.hello()
    visit.enter(somebody())
    assert not visit.hello(), "nobody enters twice"


def test_requests_of_an_address_and_of_a_user() -> None:
    clock = Clock()
    door = Admission(limits(requests_per_s=10, requests_burst=3, events_per_user_burst=9), clock=clock)
    for _ in range(3):
        door.request(HOME)
    with pytest.raises(RateLimited) as refused:
        door.request(HOME)
    assert refused.value.retry_after_ms == 100
    door.request("192.0.2.8")
    for _ in range(100):
        door.request(None)
    door.request_of(somebody())
    door.request_of(somebody())
    with pytest.raises(RateLimited):
        door.request_of(somebody())
    door.request_of(somebody("u2"))


def test_a_million_addresses_grow_nothing() -> None:
    door = Admission(limits(admission_keys_max=500), clock=Clock())
    for n in range(20_000):
        address = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
        door.request(address)
        visit = door.handshake(address)
        visit.enter(somebody(f"u{n}", f"t{n}"))
        visit.event("room:leave")
        visit.received(100)
        visit.end()
    kept = [door._connects, door._requests]
    kept += [b for rates in (door.users, door.tenants, door.addresses) for b in (rates.events, rates.received)]
    assert [len(buckets) for buckets in kept] == [500] * 8
    assert [len(p) for p in (door.user_places, door.tenant_places, door.address_places)] == [0, 0, 0]


def test_what_is_remembered_of_a_key_is_small() -> None:
    door = Admission(LIMITS)
    bucket = door.addresses.events.of(HOME, 0)
    held = sys.getsizeof(bucket) + 3 * sys.getsizeof(0.5) + sys.getsizeof(HOME) + 100  # its slot in the dict
    assert held <= 300, "streaming/limits.py says so at admission_keys_max"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hello_ms_max", 20_000),
        ("received_delay_ms_max", 7_000),
        ("received_burst_bytes", LIMITS.credit_bytes_max),
        ("received_bytes_per_s", LIMITS.credit_bytes_max),
        ("received_bytes_per_group_per_s", LIMITS.received_bytes_per_s - 1),
        ("events_per_user_per_s", LIMITS.events_per_s),
        ("events_per_tenant_burst", LIMITS.events_per_user_burst),
        ("events_refused_max", LIMITS.events_burst),
        ("admission_keys_max", LIMITS.sockets_max - 1),
        ("streams_per_tenant_max", LIMITS.streams_per_user_max),
    ],
)
def test_limits_of_admission_that_contradict_each_other_are_refused(name: str, value: int) -> None:
    with pytest.raises(AssertionError):
        check(limits(**{name: value}))
