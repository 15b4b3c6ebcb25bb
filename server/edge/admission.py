"""Who may come in, and how much they may ask: places and rates of sockets, users, tenants and addresses at this node.

Places and rates of asking refuse with `rate_limited` and say when to come again; who does not listen is closed. Bytes
are never refused, because they are audio: a socket that sends too fast is read more slowly, so TCP holds its sender
back, and nothing is lost (refusing would cost a second copy of the same audio, and its client a repair).

A socket is counted from its handshake to its end. Who gets no place is told so at CONNECT, where a reason can be given;
only far above all limits does HTTP refuse the handshake itself.

Boundary: `Admission.middleware` sees every HTTP request, handshakes among them; `sockets` tells a `Visit` of events,
`reading` of bytes. Memory: places end with their sockets, rates of at most `admission_keys_max` are kept.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self

from aiohttp import web

from auth.model import Identity
from server.config import Config
from server.edge.addresses import counted_as, networks
from streaming.errors import Overloaded, ParlanceError, RateLimited
from streaming.limits import Limits
from streaming.protocol.rates import Bucket, Buckets, Places, Rate

SOCKETS_PATH = "/socket.io"
UNCOUNTED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by machines that must get an answer when everybody else gets none."""

RETRY_MS = 5_000
"""For a place: others leave, or a ghost's ping times out (40 s)."""

WEIGHTS = {
    "voice:recording:start": 10,  # a transaction, a file, an engine's place
    "events:read": 3,  # up to 1,000 events, 5 ms; who reads pages waits for each
    "room:join": 4,  # a read, and the replay behind it
    "search:query": 4,  # 10 ms of database
    "search:suggest": 3,  # two reads of some ms
    "search:history": 3,
    "search:subscribe": 3,  # 4 ms of the embedder, and the replay behind it
    "auth:refresh": 2,
}
"""Events that cost more than one of the others (0.1 ms), at most."""

REQUEST_WEIGHT = 4


class Rates:
    """Rates of all users, all tenants or all addresses."""

    def __init__(self, *, events: Rate, received: Rate, keys_max: int) -> None:
        self.events = Buckets(events, keys_max=keys_max)
        self.received = Buckets(received, keys_max=keys_max)


class Admission:
    """The counts of one node. Used from the loop's thread only."""

    def __init__(
        self,
        limits: Limits,
        *,
        per_user: int = 6_000,
        per_tenant: int = 8_000,
        per_address: int = 6_000,
        trusted_proxies: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`per_*`: places. `clock`: seconds."""
        self.limits = limits
        self.per_user, self.per_tenant, self.per_address = per_user, per_tenant, per_address
        self._trusted = networks(trusted_proxies)
        self._clock = clock
        self.sockets = 0
        """Visits whose CONNECT was taken."""
        self.visits = 0
        self.user_places, self.tenant_places, self.address_places = Places(), Places(), Places()
        keys_max = limits.admission_keys_max
        bytes_of_many = Rate(limits.received_bytes_per_group_per_s, limits.received_burst_bytes_per_group)
        events_of_many = Rate(limits.events_per_tenant_per_s, limits.events_per_tenant_burst)
        self.users = Rates(
            events=Rate(limits.events_per_user_per_s, limits.events_per_user_burst),
            received=bytes_of_many,
            keys_max=keys_max,
        )
        self.tenants = Rates(events=events_of_many, received=bytes_of_many, keys_max=keys_max)
        self.addresses = Rates(events=events_of_many, received=bytes_of_many, keys_max=keys_max)
        self.socket_events = Rate(limits.events_per_s, limits.events_burst)
        self.socket_received = Rate(limits.received_bytes_per_s, limits.received_burst_bytes)
        refused = limits.events_refused_max
        self.socket_refused = Rate(refused * 1_000 // limits.events_refused_ms, refused)
        self._connects = Buckets(Rate(limits.connects_per_s, limits.connects_burst + per_address), keys_max=keys_max)
        self._requests = Buckets(Rate(limits.requests_per_s, limits.requests_burst), keys_max=keys_max)

    @classmethod
    def configured(cls, config: Config, limits: Limits) -> Self:
        """As the settings say."""
        return cls(
            limits,
            per_user=config.connections_per_user,
            per_tenant=config.connections_per_tenant,
            per_address=config.connections_per_address,
            trusted_proxies=config.trusted_proxies,
        )

    def now_ms(self) -> float:
        return self._clock() * 1_000

    # --- HTTP -------------------------------------------------------------------------------------------------
    @property
    def middleware(self) -> Any:
        """For `web.Application.middlewares`, inside the one that makes problem documents of errors."""

        @web.middleware
        async def count(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if request.path in UNCOUNTED:
                return await handler(request)
            address = counted_as(request.remote, request.headers.getall("X-Forwarded-For", ()), self._trusted)
            if not request.path.startswith(SOCKETS_PATH):
                self.request(address)
                return await handler(request)
            visit = request[VISIT] = self.handshake(address)
            try:
                return await handler(request)
            finally:
                visit.end()

        return count

    def request(self, address: str | None) -> None:
        """A request, before anybody knows whose. Raises `RateLimited`."""
        if address is not None:
            now_ms = self.now_ms()
            _refuse_above(self._requests.of(address, now_ms).take(now_ms), "requests from this address")

    def request_of(self, who: Identity) -> None:
        """The same request, of this person: it costs what an event costs. Raises `RateLimited`."""
        now_ms = self.now_ms()
        for wait_ms in (
            self.users.events.of(who.user_id, now_ms).take(now_ms, REQUEST_WEIGHT),
            self.tenants.events.of(who.tenant_id, now_ms).take(now_ms, REQUEST_WEIGHT),
        ):
            _refuse_above(wait_ms, "requests")

    # --- sockets ----------------------------------------------------------------------------------------------
    def handshake(self, address: str | None) -> "Visit":
        """A socket that is being opened; its `end` must follow. Raises `Overloaded`, `RateLimited` when not even a
        reason at CONNECT can be promised."""
        if self.visits >= self.limits.sockets_max + self.limits.handshakes_max:
            raise Overloaded("This node has no place for another socket.", retry_after_ms=RETRY_MS)
        refusal: ParlanceError | None = None
        if address is not None:
            now_ms = self.now_ms()
            taken = self.address_places.of(address)
            if taken >= 2 * self.per_address:
                raise RateLimited("Too many sockets from this address.", retry_after_ms=RETRY_MS)
            wait_ms = self._connects.of(address, now_ms).take(now_ms)
            if taken >= self.per_address:
                refusal = RateLimited(f"At most {self.per_address} sockets from one address.", retry_after_ms=RETRY_MS)
            elif wait_ms:
                refusal = RateLimited("This address connects too often.", retry_after_ms=wait_ms)
            self.address_places.take(address)
        self.visits += 1
        return Visit(self, address, refusal)


class Visit:
    """One socket, from its handshake to its end."""

    __slots__ = (
        "_address", "_admission", "_ended", "_events", "_hellos", "_received", "_refusal", "_refused", "_who",
        "began_ms", "entered",
    )  # fmt: skip

    def __init__(self, admission: Admission, address: str | None, refusal: ParlanceError | None) -> None:
        self.began_ms = admission.now_ms()
        self.entered = False
        self._admission = admission
        self._address = address
        self._refusal = refusal
        self._hellos = 0
        self._who: tuple[str, str] | None = None
        self._ended = False
        self._events = [Bucket(admission.socket_events)]
        self._received = [Bucket(admission.socket_received)]
        self._refused: Bucket | None = None
        if address is not None:
            self._events.append(admission.addresses.events.of(address, self.began_ms))
            self._received.append(admission.addresses.received.of(address, self.began_ms))

    def hello(self) -> bool:
        """A CONNECT packet came; False: the last of too many."""
        self._hellos += 1
        return self._hellos <= self._admission.limits.hellos_max and not self.entered

    def hello_left_ms(self) -> float | None:
        """How long CONNECT is still waited for; None once it was taken."""
        if self.entered:
            return None
        return max(0.0, self.began_ms + self._admission.limits.hello_ms_max - self._admission.now_ms())

    def knock(self) -> None:
        """Before anybody is asked who this is. Raises `RateLimited`, `Overloaded`."""
        if self._refusal is not None:
            raise self._refusal
        if self._admission.sockets >= self._admission.limits.sockets_max:
            raise Overloaded("This node has no place for another connection.", retry_after_ms=RETRY_MS)

    def enter(self, who: Identity) -> None:
        """Take this person's place. Raises `RateLimited`, `Overloaded`."""
        self.knock()
        admission = self._admission
        if admission.user_places.of(who.user_id) >= admission.per_user:
            raise RateLimited(f"At most {admission.per_user} connections of one user.", retry_after_ms=RETRY_MS)
        if admission.tenant_places.of(who.tenant_id) >= admission.per_tenant:
            raise RateLimited(f"At most {admission.per_tenant} connections of one tenant.", retry_after_ms=RETRY_MS)
        admission.user_places.take(who.user_id)
        admission.tenant_places.take(who.tenant_id)
        admission.sockets += 1
        self.entered = True
        self._who = (who.user_id, who.tenant_id)
        now_ms = admission.now_ms()
        for rates, key in ((admission.users, who.user_id), (admission.tenants, who.tenant_id)):
            self._events.append(rates.events.of(key, now_ms))
            self._received.append(rates.received.of(key, now_ms))

    def event(self, name: str) -> None:
        """An event that is answered. Raises `RateLimited`; what the socket itself may not ask costs others nothing."""
        now_ms = self._admission.now_ms()
        weight = WEIGHTS.get(name, 1)
        for bucket in self._events:
            _refuse_above(bucket.take(now_ms, weight), "events")

    @property
    def runaway(self) -> bool:
        """To be asked after each refused event: were there so many that this client does not listen?"""
        if self._refused is None:
            self._refused = Bucket(self._admission.socket_refused)
        return self._refused.take(self._admission.now_ms()) > 0

    def received(self, n_bytes: int) -> float:
        """Bytes were read; the seconds until the next should be."""
        limits, now_ms = self._admission.limits, self._admission.now_ms()
        n = max(n_bytes, limits.received_bytes_min)
        waits_ms = (bucket.owe(now_ms, n, wait_ms_max=limits.received_delay_ms_max) for bucket in self._received)
        return max(waits_ms) / 1_000

    def leave(self) -> None:
        """The person has gone; the socket may be there for a moment. Harmless when repeated."""
        if self._who is not None:
            user_id, tenant_id = self._who
            self._who = None
            self._admission.user_places.free(user_id)
            self._admission.tenant_places.free(tenant_id)
            self._admission.sockets -= 1

    def end(self) -> None:
        """The socket has gone. Harmless when repeated."""
        self.leave()
        if not self._ended:
            self._ended = True
            self._admission.visits -= 1
            if self._address is not None:
                self._admission.address_places.free(self._address)


ADMISSION: Final = web.AppKey("admission", Admission)
VISIT: Final = web.RequestKey("visit", Visit)
"""Where a handshake's request holds its visit."""


def _refuse_above(wait_ms: int, what: str) -> None:
    if wait_ms > 0:
        raise RateLimited(f"Too many {what}; slow down.", retry_after_ms=wait_ms)
