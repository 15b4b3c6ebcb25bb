"""One suite for both client managers, with real python-socketio servers and clients, and a real Redis for the second.

What is emitted, by the server or by whoever may publish, ends in the hub and in the one bounded `send`."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import socketio
from aiohttp import web
from engineio import packet as eio_packet

from server.rooms.bus import ALONE
from server.rooms.hub import Hub
from server.rooms.manager import BoundedManager, BoundedRedisManager
from server.rooms.redisbus import RedisBus
from server.store.feed import Event
from streaming.aio import Scope
from streaming.limits import LIMITS
from tests.support.redis import Redis
from tests.support.waiting import until
from tests.support.wire import HANG_S, Wire
from tests.unit.server.rooms.test_hub import KEY, Listener, Log

ROOM = KEY[1]
PATIENT = msgspec.structs.replace(LIMITS, redis_answer_ms_max=60_000, node_expiry_ms=120_000)
"""A busy machine is no lost Redis: what is ephemeral would be gone."""
SECRET = "the secret of the installation under test"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis") / "redis")
    server.start()
    yield server
    server.stop()


class Member:
    """A socket in a room."""

    def __init__(self, sid: str, send: Callable[[str, str, Any], None]) -> None:
        self._sid, self._send = sid, send

    def send_event(self, event: str, data: dict[str, Any], *, durable: bool) -> None:
        self._send(self._sid, event, data)

    def room_truncated(self, *_: Any) -> None:
        raise AssertionError("nothing expires here")


class Node:
    """A python-socketio server whose sockets join ROOM when they say `join`. `gate`: connects wait for it."""

    def __init__(self, bus: RedisBus | None, log: Log) -> None:
        self.bus = bus
        self.hub = Hub(log, LIMITS, bus or ALONE)
        manager = BoundedRedisManager(bus) if bus else BoundedManager()
        self.sio = socketio.AsyncServer(client_manager=manager, async_mode="aiohttp", async_handlers=False)
        manager.attach(self.hub, self._send)
        self.sent = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        self.ended: list[str] = []
        self.sio.on("connect", self._connect)
        self.sio.on("join", self._join)
        self.sio.on("disconnect", self._disconnect)

    async def _connect(self, sid: str, _environ: Any, _auth: Any = None) -> None:
        self.waiting.set()
        await self.gate.wait()

    async def _join(self, sid: str, _data: Any = None) -> dict[str, bool]:
        member = Member(sid, self._send)
        await self.hub.join(member, KEY, after_seq=None)
        await self.hub.catch_up(member, KEY)
        return {"ok": True}

    async def _disconnect(self, sid: str, _reason: str) -> None:
        self.ended.append(sid)

    def _send(self, sid: str, event: str, data: Any) -> None:
        """What `server.edge.delivery` does, without its limits."""
        self.sent += 1
        encoded = self.sio.packet_class(socketio.packet.EVENT, data=[event, data], namespace="/").encode()
        socket = self.sio.eio.sockets[self.sio.manager.eio_sid_from_sid(sid, "/")]
        for part in encoded if isinstance(encoded, list) else [encoded]:
            socket.queue.put_nowait(eio_packet.Packet(eio_packet.MESSAGE, data=part))


class Site:
    """Nodes of one installation and their clients. `nodes` has one node for the in-process manager, else two."""

    def __init__(self, redis: Redis | None) -> None:
        self.redis = redis
        self.log = Log()
        self.nodes: list[Node] = []
        self.urls: list[str] = []
        self.wires: list[Wire] = []
        self.sids: list[str] = []

    async def wire(self, node: int = 0, *, joined: bool = True) -> Wire:
        client = Wire()
        self.wires.append(client)
        await client._client.connect(self.urls[node], transports=["websocket"])
        client._ws = client._client.eio.ws
        self.sids.append(client._client.get_sid())
        if joined:
            await client.ok("join", {})
        return client

    @property
    def last(self) -> int:
        """The index of the last node: another one, where there is another."""
        return len(self.nodes) - 1


Errors = list[BaseException]


@asynccontextmanager
async def sited(redis: Redis | None) -> AsyncIterator[Site]:
    site = Site(redis)
    errors: Errors = []
    async with AsyncExitStack() as stack:
        scope = await stack.enter_async_context(Scope("site", on_error=lambda _, error: errors.append(error)))
        for number in range(1 if redis is None else 2):
            bus = RedisBus(redis.url, node=f"node {number}", limits=PATIENT) if redis else None
            node = Node(bus, site.log)
            site.nodes.append(node)
            if bus is not None:
                bus.ears = node.hub
                bus.open(SECRET)
                scope.spawn(bus.run(), name=f"bus {number}")
            scope.spawn(node.hub.run(), name=f"hub {number}")
            app = web.Application()
            node.sio.attach(app)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            listener = web.TCPSite(runner, "127.0.0.1", 0)
            await listener.start()
            assert listener._server is not None
            port = listener._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
            site.urls.append(f"http://127.0.0.1:{port}")
            stack.push_async_callback(node.sio.shutdown)
        if redis is not None:
            await until(lambda: all(node.bus is not None and node.bus.others for node in site.nodes))
        try:
            yield site
        finally:
            for client in site.wires:
                await client.close()
    assert not errors, errors


@pytest.fixture(scope="module", params=["in-process", "redis"])
def between(request: pytest.FixtureRequest) -> Redis | None:
    """What lies between the nodes."""
    return request.getfixturevalue("redis") if request.param == "redis" else None


@pytest.fixture
async def site(between: Redis | None) -> AsyncIterator[Site]:
    async with sited(between) as made:
        yield made


@pytest.fixture
async def cluster(redis: Redis) -> AsyncIterator[Site]:
    async with sited(redis) as made:
        yield made


async def test_to_a_room_for_its_members_everywhere_and_nobody_else(site: Site) -> None:
    near, far = await site.wire(), await site.wire(site.last)
    outside = await site.wire(joined=False)
    await site.nodes[0].sio.emit("my:event", {"x": 1, "seq": 7, "after_seq": 3}, room=ROOM)
    for wire in (near, far):
        assert await wire.wait("my:event") == {"room": ROOM, "after_seq": 0, "x": 1}
    await site.nodes[0].sio.emit("my:end", {})
    await far.wait("my:end")
    await site.nodes[site.last].sio.emit("my:last", {})
    for wire in (near, far, outside):
        await wire.wait("my:last")
    assert [len(wire.named("my:event")) for wire in (near, far, outside)] == [1, 1, 0], "nor twice, by its own echo"


async def test_to_one_socket_wherever_it_is(site: Site) -> None:
    near, far = await site.wire(), await site.wire(site.last)
    for name in ("room", "to"):
        await site.nodes[0].sio.emit(f"my:{name}", {"x": 1}, **{name: site.sids[1]})
        assert await far.wait(f"my:{name}") == {"x": 1}
    await site.nodes[0].sio.emit("my:end", {})
    await near.wait("my:end")
    assert [name for name, _ in near.events] == ["my:end"]


async def test_to_all_but_some(site: Site) -> None:
    near, far = await site.wire(joined=False), await site.wire(site.last, joined=False)
    await site.nodes[0].sio.emit("my:event", {"x": 1}, skip_sid=site.sids[1])
    await site.nodes[0].sio.emit("my:end", None)
    for wire in (near, far):
        await wire.wait("my:end")
    assert (near.named("my:event"), far.named("my:event")) == ([{"x": 1}], [])


async def test_to_several_rooms_and_sockets(site: Site) -> None:
    near, far = await site.wire(), await site.wire(site.last, joined=False)
    await site.nodes[0].sio.emit("my:event", {"x": 1}, room=[ROOM, site.sids[1]])
    assert await near.wait("my:event") == {"room": ROOM, "after_seq": 0, "x": 1}
    assert await far.wait("my:event") == {"x": 1}


@pytest.mark.parametrize("data", [b"\x00\xff", {"audio": b"\x00\xff", "more": [b"", {"deep": b"x"}]}, "text", 3, []])
async def test_any_value_and_binary(site: Site, data: Any) -> None:
    far = await site.wire(site.last)
    await site.nodes[0].sio.emit("my:event", data, room=ROOM)
    added = {"room": ROOM, "after_seq": 0} if isinstance(data, dict) else None
    got = await far.wait("my:event")
    assert got == ({**data, **added} if added else data)


async def test_nobody_hears_before_he_is_let_in(site: Site) -> None:
    """Rooms of sockets hold those who are still being asked for their token."""
    node = site.nodes[0]
    await site.wire(joined=False)
    node.gate.clear()
    node.waiting.clear()
    connecting = asyncio.gather(site.wire(joined=False))
    await node.waiting.wait()
    await node.sio.emit("my:secret", {})
    node.gate.set()
    (late,) = await connecting
    await node.sio.emit("my:end", {})
    await late.wait("my:end")
    assert late.named("my:secret") == []
    assert len(site.wires[0].named("my:secret")) == 1


async def test_other_namespaces_and_answers_are_not_had(site: Site) -> None:
    near = await site.wire()
    await site.nodes[0].sio.emit("my:event", {}, namespace="/other")
    await site.nodes[0].sio.emit("my:event", {}, room="recording:unknown")
    await site.nodes[0].sio.emit("my:event", {}, room="no room of ours")
    with pytest.raises(NotImplementedError):
        await site.nodes[0].sio.emit("my:event", {}, room=ROOM, callback=lambda *_: None)
    await site.nodes[0].sio.emit("my:end", {})
    await near.wait("my:end")
    assert near.named("my:event") == []


async def test_an_event_to_many_makes_no_tasks(site: Site) -> None:
    """The stock manager makes one for each recipient."""
    for _ in range(5):
        await site.wire()
    node, before = site.nodes[0], len(asyncio.all_tasks())
    most = before
    send = node._send

    def counted(sid: str, event: str, data: Any) -> None:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        send(sid, event, data)

    node.sio.manager._send = counted
    await node.sio.emit("my:event", {})
    assert (node.sent, most, len(asyncio.all_tasks())) == (5, before, before)


async def test_leaving_is_of_this_node_alone(site: Site) -> None:
    """Disconnecting, entering and closing rooms go nowhere over Redis."""
    near, far = await site.wire(joined=False), await site.wire(site.last, joined=False)
    sio, bus = site.nodes[0].sio, site.nodes[0].bus
    published: list[bytes] = []
    if bus is not None:
        publish, bus.publish = bus.publish, lambda message: (published.append(message), publish(message))[1]  # type: ignore[method-assign]
        await sio.disconnect(site.sids[1])
        await sio.enter_room(site.sids[1], "stock room")
    await sio.enter_room(site.sids[0], "stock room")
    await sio.emit("my:stock", {}, room="stock room")
    await near.wait("my:stock")
    await sio.close_room("stock room")
    await sio.disconnect(site.sids[0])
    await near.closed.wait()
    await until(lambda: site.nodes[0].ended == [site.sids[0]])
    if site.redis is not None:
        await sio.emit("my:end", {})
        await far.wait("my:end")
        assert far.named("my:stock") == []
        assert [b'"method":"emit"' in message for message in published] == [True, True]


# --- strangers on the channel -----------------------------------------------------------------------------------------
@asynccontextmanager
async def stranger(redis: Redis) -> AsyncIterator[socketio.AsyncRedisManager]:
    manager = socketio.AsyncRedisManager(redis.url, write_only=True)
    yield manager
    if manager.redis is not None:
        await manager.redis.aclose()


async def publish(redis: Redis, *messages: bytes | str, channel: str = "socketio") -> None:
    async with stranger(redis) as manager:
        manager._redis_connect()
        for message in messages:
            await manager.redis.publish(channel, message)


async def test_a_write_only_manager_reaches_every_node(cluster: Site, redis: Redis) -> None:
    wires = [await cluster.wire(0), await cluster.wire(1)]
    async with stranger(redis) as manager:
        await manager.emit("my:event", {"seq": 5, "x": b"\x00\x01"}, room=ROOM)
        await manager.emit("my:all", {"n": 1})
        await manager.emit("my:one", b"\x02", to=cluster.sids[1])
    for wire in wires:
        assert await wire.wait("my:event") == {"room": ROOM, "after_seq": 0, "x": b"\x00\x01"}
        assert await wire.wait("my:all") == {"n": 1}
    assert await wires[1].wait("my:one") == b"\x02"
    assert wires[0].named("my:one") == []


async def test_a_program_without_a_loop_reaches_them_too(cluster: Site, redis: Redis) -> None:
    far = await cluster.wire(1)
    program = """if True:
        import sys, socketio
        manager = socketio.RedisManager(sys.argv[1], write_only=True)
        manager.emit("my:event", {"text": "Grüße", "x": b"123"}, room=sys.argv[2])
        manager.emit("my:all", ("several", "arguments"))
    """
    command = [sys.executable, "-c", program, redis.url, ROOM]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=HANG_S)
    assert await far.wait("my:event") == {"room": ROOM, "after_seq": 0, "text": "Grüße", "x": b"123"}
    assert await far.wait("my:all") == ["several", "arguments"]


GARBAGE = [
    b"",
    b"\x00\xff\xfe not JSON",
    b'{"method": "emit"}',
    b"[1, 2, 3]",
    b'"emit"',
    b"null",
    b'{"method": "explode", "event": "x"}',
    b'{"method": "emit", "event": 3, "data": {}, "namespace": "/"}',
    b'{"method": "emit", "event": "my:event", "data": NaN}',
    b'{"method": "emit", "event": "my:event", "data": {"a": 1}, "binary": true}',
    b'{"method": "emit", "event": "my:event", "data": [{"_placeholder": true, "num": 7}], "binary": true}',
    b'{"method": "emit", "event": "my:event", "data": [{}, "abc"], "binary": true}',
    b'{"method": "emit", "event": "my:event", "data": [{}], "room": {"a": 1}}',
    b'{"method": "emit", "event": "my:event", "data": [{}], "skip_sid": 7}',
    b'{"method": "emit", "event": "my:event", "data": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    b'{"method": "emit", "event": "my:event", "data": ["' + b"x" * LIMITS.hint_bytes_max + b'"]}',
    b'{"method": "disconnect", "sid": "SID", "namespace": "/"}',
    b'{"method": "close_room", "room": "SID", "namespace": "/"}',
    b'{"method": "enter_room", "sid": "SID", "room": "recording:r", "namespace": "/"}',
    b'{"method": "leave_room", "sid": "SID", "room": null, "namespace": "/"}',
    b'{"method": "callback", "sid": "SID", "id": 1, "args": [], "host_id": "x"}',
]


async def test_garbage_is_passed_over(cluster: Site, redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """On both channels: nobody is moved or disconnected, the next event arrives, and there is a line for each kind."""
    near = await cluster.wire()
    messages = [message.replace(b"SID", cluster.sids[0].encode()) for message in GARBAGE]
    bus = cluster.nodes[0].bus
    assert bus is not None
    for channel in bus.channels:
        await publish(redis, *messages, *messages, channel=channel)
        async with stranger(redis) as manager:
            await manager.emit("my:end", {"channel": channel}, room=ROOM)
        await near.wait("my:end", lambda end, channel=channel: end["channel"] == channel)
    assert [name for name, _ in near.events] == ["my:end", "my:end"]
    assert not [record for record in caplog.records if record.exc_info]
    ours = [record for record in caplog.records if record.name.startswith("server.")]
    assert len([record for record in ours if record.levelname != "INFO"]) <= 2 * 3, "two nodes, three kinds"


async def test_what_strangers_publish_moves_no_log(cluster: Site, redis: Redis) -> None:
    """Not as an event with a number, and not on the channel of the nodes, whose seal they lack."""
    member = Listener()
    await cluster.nodes[1].hub.join(member, KEY, after_seq=None)
    await cluster.nodes[1].hub.catch_up(member, KEY)
    bus = cluster.nodes[0].bus
    assert bus is not None
    forged = RedisBus(redis.url, node="forger", limits=PATIENT)
    forged.ears = Hub(Log(), LIMITS)
    forged.open("another secret than the installation's own")
    lie = Event(KEY[0], ROOM, 1, 1, "transcript:final", {"text": "never said"}).wire()
    async with stranger(redis) as manager:
        await manager.emit("transcript:final", lie, room=ROOM)
        async with Scope("forger") as scope:
            scope.spawn(forged.run(), name="run")
            await until(lambda: forged._link.up)
            forged._presence.others = True
            forged._channel = bus._channel
            forged.emit(KEY, "transcript:final", lie)
            await until(lambda: not len(forged._link._waiting))
            await manager.emit("my:end", {}, room=ROOM)
            await until(lambda: len(member.told) == 2)
    assert member.seqs == []
    assert member.told[0] == {"event": "transcript:final", "room": ROOM, "after_seq": 0, "at": 1, "text": "never said"}
    cluster.nodes[0].hub.announce([cluster.log.commit()])
    await until(lambda: member.seqs == [1])
