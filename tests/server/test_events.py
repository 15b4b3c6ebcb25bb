"""A room's events over HTTP: replayed, followed, refused, ended; as a bare reader sees it."""

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from aiohttp import web

from auth.model import Identity, Role
from auth.tokens import issue
from server.app import LogReader
from server.edge.authenticate import Authenticator
from server.edge.events import EventDoors
from server.edge.http import boundary
from server.rooms.hub import Hub
from server.store import feed
from server.store.feed import Draft
from server.store.identity import IdentityStore
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.aio import Scope
from streaming.limits import LIMITS, Limits
from tests.fakes.tones import random_sentences, talk
from tests.support.node import somebody
from tests.support.process import Account, ServerProcess, running
from tests.support.sse import HANG_S, Sse, following
from tests.support.waiting import until
from tests.support.wire import Talk, Wire, wired

SECRET = "s" * 32


async def recorded(wire: Wire, seed: int, sentences: int = 4, **options: object) -> Talk:
    live = Talk(wire, talk(random_sentences(seed, sentences), silence_ms=700).audio.tobytes())
    await live.start(**options)
    await live.send()
    await live.stop()
    return live


def path_of(live: Talk, **query: object) -> str:
    return "/v1/events?" + "&".join(f"{name}={value}" for name, value in {"room": live.room, **query}.items())


async def test_replayed_then_followed_each_once_and_in_order(
    parlance: ServerProcess, alice: Account, wire: Wire
) -> None:
    said = talk(random_sentences(40, 6), silence_ms=700)
    live = Talk(wire, said.audio.tobytes())
    await live.start()
    await wire.ok("room:join", {"room": live.room})
    await live.send(len(live.pcm) // 4 * 2)
    await wire.wait("transcript:final")
    async with following(parlance.url, path_of(live, after_seq=0), alice.token) as sse:
        assert sse.headers["content-type"].startswith("text/event-stream")
        assert (sse.headers["cache-control"], sse.headers["x-accel-buffering"]) == ("no-store", "no")
        first = await sse.next()
        assert first is not None
        assert first.retry is not None
        assert LIMITS.event_stream_retry_ms_min <= first.retry < LIMITS.event_stream_retry_ms_max
        sending = asyncio.gather(live.send(speed=8))
        blocks = await sse.events(3)
        await sending
        await live.stop()
        blocks += await sse.events(len(said.texts) + 1 - 3)
    log = await live.log()
    assert [block.data for block in blocks] == log, "the same objects as on the socket"
    assert [(block.id, block.event) for block in blocks] == [(str(e["seq"]), e["event"]) for e in log]
    assert blocks[-1].event == "recording:ended"


async def test_it_goes_on_after_what_the_client_has_seen(parlance: ServerProcess, alice: Account, wire: Wire) -> None:
    live = await recorded(wire, 41, 5)

    async def first(path: str, **headers: str) -> str | None:
        async with following(parlance.url, path, alice.token, **headers) as sse:
            return (await sse.event()).id

    assert await first(path_of(live), Last_Event_ID="0") == "1"
    assert await first(path_of(live), Last_Event_ID="4") == "5"
    assert await first(path_of(live, after_seq=2)) == "3"
    assert await first(path_of(live, after_seq=2), Last_Event_ID="4") == "5", "the header outweighs the query"


@pytest.mark.parametrize("query", [{}, {"after_seq": 10**9}])
async def test_from_now_on(parlance: ServerProcess, alice: Account, wire: Wire, query: dict[str, int]) -> None:
    """Without a position, or with one beyond the log's end."""
    room = f"tenant:{alice.tenant_id}"
    await recorded(wire, 42, 1)
    path = f"/v1/events?room={room}" + "".join(f"&{name}={value}" for name, value in query.items())
    async with following(parlance.url, path, alice.token) as sse:
        assert (await sse.next()) is not None
        live = await recorded(wire, 43, 1)
        started, ended = await sse.events(2)
        assert (started.id, started.event, ended.id, ended.event) == ("3", "recording:started", "4", "recording:ended")
        assert started.data["recording"]["id"] == ended.data["recording"]["id"] == live.recording_id


@pytest.mark.parametrize("value", ["", " ", "-1", "+1", "1.0", "x", "0x1", "1 1", "9" * 17])
async def test_a_position_that_is_none(parlance: ServerProcess, alice: Account, wire: Wire, value: str) -> None:
    room = f"tenant:{alice.tenant_id}"
    for path, headers, field in (
        (f"/v1/events?room={room}", {"Last_Event_ID": value}, "Last-Event-ID"),
        (f"/v1/events?room={room}&after_seq={quote(value)}", {}, "after_seq"),
        (f"/v1/events?room={room}&after_seq=1&after_seq=2", {}, "after_seq"),
    ):
        sse = await Sse.request(parlance.url, path, alice.token, **headers)
        problem = await sse.problem()
        assert (sse.status, problem["code"], problem["field"]) == (400, "bad_request", field)
        await sse.close()


async def refusal(url: str, path: str, token: str | None, **headers: str) -> tuple[int, str, str | None]:
    sse = await Sse.request(url, path, token, **headers)
    problem = await sse.problem()
    await sse.close()
    return sse.status, problem["code"], problem.get("field")


async def test_rooms_that_are_none_or_not_the_callers(
    parlance: ServerProcess, alice: Account, mallory: Account, wire: Wire
) -> None:
    live = await recorded(wire, 44, 1)
    private = await recorded(wire, 45, 1, visibility="private")
    tenant = wire.named("ready")[0]["tenant"]["name"]
    bob = await parlance.account(tenant, "bob", Role.MEMBER)
    url = parlance.url
    async with following(url, path_of(live, after_seq=0), bob.token):
        pass
    for stranger in (mallory, bob):
        assert await refusal(url, path_of(private), stranger.token) == (404, "not_found", None)
    theirs = [live.room, f"tenant:{alice.tenant_id}", f"user:{alice.user_id}", "recording:rec_0", "nothing:x", "abc"]
    for room in theirs:
        assert (await refusal(url, f"/v1/events?room={room}", mallory.token))[:2] == (404, "not_found"), room
        assert (await refusal(url, f"/v1/events?room={room}", None))[:2] == (401, "unauthenticated"), room
    for query in ("", "room=", "room=ab", f"room={'x' * 200}", "room=recording:%00", f"room={live.room}&room=abc"):
        assert await refusal(url, f"/v1/events?{query}", alice.token) == (400, "bad_request", "room"), query


async def test_other_methods(parlance: ServerProcess, alice: Account, wire: Wire) -> None:
    live = await recorded(wire, 46, 1)
    path = path_of(live, after_seq=0)
    head = await Sse.request(parlance.url, path, alice.token, method="HEAD", Connection="close")
    assert (head.status, head.headers["cache-control"]) == (200, "no-store")
    assert head.headers["content-type"].startswith("text/event-stream")
    async with asyncio.timeout(HANG_S):
        assert await head.reader.read() == b"", "no body, and the connection is done with it"
    await head.close()
    for method in ("OPTIONS", "POST", "PUT", "DELETE"):
        sse = await Sse.request(parlance.url, path, alice.token, method=method, Content_Length="0")
        assert (sse.status, set(sse.headers["allow"].split(","))) == (405, {"GET", "HEAD"})
        await sse.close()


async def ticket_for(parlance: ServerProcess, who: Account, path: str) -> str:
    async with (
        aiohttp.ClientSession(parlance.url, headers={"Authorization": f"Bearer {who.token}"}) as http,
        http.post("/v1/tickets", json={"path": path}) as response,
    ):
        body = await response.json()
        assert response.status == 200, body
        return str(body["ticket"])


async def test_a_ticket_opens_its_room_wherever_it_begins(parlance: ServerProcess, alice: Account, wire: Wire) -> None:
    live, other = await recorded(wire, 47, 1), await recorded(wire, 48, 1)
    encoded = f"/v1/events?room={quote(live.room, safe='')}"
    for signed in (path_of(live), encoded):
        ticket = await ticket_for(parlance, alice, signed)
        for path in (path_of(live, after_seq=1), f"{encoded}&after_seq=1", path_of(live, after_seq=0)):
            for asked in (f"{path}&ticket={ticket}", path.replace("?", f"?ticket={ticket}&")):
                async with following(parlance.url, asked) as sse:
                    assert (await sse.event()).id == ("1" if "after_seq=0" in asked else "2")
        async with following(parlance.url, path_of(live, ticket=ticket), Last_Event_ID="1") as sse:
            assert (await sse.event()).id == "2"
        media = f"/v1/recordings/{live.recording_id}/media"
        closed = [
            f"{path_of(other)}&ticket={ticket}", f"{path_of(live)}&room={other.room}&ticket={ticket}",
            f"{path_of(live)}&ticket={ticket}x", f"{path_of(live)}&ticket=", f"/v1/events?ticket={ticket}",
            f"{media}?ticket={ticket}", f"{path_of(live)}&ticket={await ticket_for(parlance, alice, media)}",
        ]  # fmt: skip
        for path in closed:
            assert (await refusal(parlance.url, path, None))[:2] == (401, "unauthenticated"), path
        sse = await Sse.request(parlance.url, path_of(live, ticket=ticket), Authorization="Bearer x")
        assert sse.status == 401, "a header outweighs it"
        await sse.close()
    assert ticket not in "".join(parlance.output)


async def test_what_is_too_old_is_said_at_every_door(parlance: ServerProcess, alice: Account, wire: Wire) -> None:
    live = await recorded(wire, 49, 5)
    async with parlance._database_url() as dsn:
        database = Database(dsn)
        await database.open()
        async with database.tenant_tx(alice.tenant_id) as tx:
            await tx.execute("DELETE FROM events WHERE room = $1 AND seq < 4", live.room)
            await tx.execute("UPDATE rooms SET first_seq = 4 WHERE room = $1", live.room)
        await database.close()
    for after_seq in (0, 2):
        sse = await Sse.request(parlance.url, path_of(live), alice.token, Last_Event_ID=str(after_seq))
        problem = await sse.problem()
        assert (sse.status, problem["code"], problem["first_seq"]) == (410, "history_truncated", 4)
        await sse.close()
        for event in ("events:read", "room:join"):
            error = await wire.refused(event, {"room": live.room, "after_seq": after_seq})
            assert (error["code"], error["first_seq"], error["retryable"]) == ("history_truncated", 4, False), event
    async with following(parlance.url, path_of(live, after_seq=3), alice.token) as sse:
        assert [block.id for block in await sse.events(3)] == ["4", "5", "6"]
    page = await wire.ok("events:read", {"room": live.room, "after_seq": 3, "limit": 2})
    assert ([e["seq"] for e in page["events"]], page["first_seq"], page["more"]) == ([4, 5], 4, True)
    joined = await wire.ok("room:join", {"room": live.room, "after_seq": 3})
    assert (joined["seq"], joined["first_seq"]) == (6, 4)
    await wire.wait("recording:ended", lambda e: e["room"] == live.room)
    assert [e["seq"] for _, e in wire.events if e and e.get("room") == live.room and "seq" in e] == [4, 5, 6]
    assert (await wire.ok("events:read", {"room": live.room, "after_seq": 6}))["events"] == []


async def test_the_end_of_the_token_ends_the_stream(parlance: ServerProcess) -> None:
    short = await parlance.account(f"t-{uuid.uuid4().hex}", ttl_s=3)
    async with following(parlance.url, f"/v1/events?room=user:{short.user_id}", short.token) as sse:
        assert [block.event for block in await sse.to_end()] == [None], "in order, after nothing but the greeting"
    assert (await refusal(parlance.url, f"/v1/events?room=user:{short.user_id}", short.token))[0] == 401


async def test_a_stopping_server_ends_streams_between_two_events(tmp_path: Path) -> None:
    """An idle one, a busy one, and one whose client has left off reading."""
    with running(tmp_path / "data") as server:
        alice = await server.account("alice")
        async with wired(server.url, alice.token) as wire:
            live = Talk(wire, talk(random_sentences(50, 12), silence_ms=600).audio.tobytes())
            await live.start()
            path = path_of(live, after_seq=0)
            async with (
                following(server.url, f"/v1/events?room=tenant:{alice.tenant_id}", alice.token) as idle,
                following(server.url, path, alice.token) as busy,
                following(server.url, path, alice.token) as stalled,
            ):
                stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]
                sending = asyncio.gather(live.send(speed=4), return_exceptions=True)
                seen = await busy.events(2)
                stopping = asyncio.gather(asyncio.to_thread(server.stop))
                seen += [block for block in await busy.to_end() if block.event]
                assert all(block.event is None or block.id == "1" for block in await idle.to_end())
                assert await stopping == [0]
                await sending
                assert [block.id for block in seen] == [str(n + 1) for n in range(len(seen))]
            assert (await wire.wait("server:closing"))["code"] == "draining"


# --- one door with limits of its own ----------------------------------------------------------------------------------
class Door:
    """The route alone, on a real database."""

    def __init__(self, database: Database, doors: EventDoors, hub: Hub, url: str, who: Identity) -> None:
        self.doors = doors
        self.url = url
        self.who = who
        self.room = f"tenant:{who.tenant_id}"
        self.path = f"/v1/events?room={self.room}"
        self._database = database
        self._hub = hub

    @property
    def token(self) -> str:
        return self.token_of(self.who)

    def token_of(self, who: Identity) -> str:
        return issue(who, secret=SECRET, now=0, ttl_s=2**40)

    async def say(self, *texts: str) -> None:
        async with self._database.tenant_tx(self.who.tenant_id) as tx:
            drafts = [Draft(self.room, "e", {"text": text}) for text in texts]
            events = await feed.append(tx, self.who.tenant_id, drafts, at_ms=0)
        self._hub.announce(events)


@asynccontextmanager
async def door(database: Database, *, send_buffer: int | None = None, **limits: int) -> AsyncIterator[Door]:
    changed: Limits = msgspec.structs.replace(LIMITS, **limits)
    hub = Hub(LogReader(database), changed)
    authenticate = Authenticator(IdentityStore(database), ttl_s=60, clock=lambda: 1.0)
    authenticate.open(SECRET)
    doors = EventDoors(authenticate=authenticate, database=database, hub=hub, limits=changed)
    app = web.Application(middlewares=[boundary])
    doors.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=HANG_S)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    await web.SockSite(runner, listener).start()
    errors: list[BaseException] = []
    async with Scope("hub", on_error=lambda _, error: errors.append(error)) as scope:
        scope.spawn(hub.run(), name="run")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield Door(database, doors, hub, url, await somebody(database))
        await runner.cleanup()
    assert not errors
    assert not doors._streams


async def test_a_reader_that_takes_nothing_is_cut_off_and_resumes(database: Database) -> None:
    before = METRICS.slow_consumers._value.get()
    async with door(database, send_buffer=8_192, event_stream_write_ms_max=300, event_stream_idle_ms=100) as one:
        await one.say(*("x" * 100_000 for _ in range(100)))
        async with (
            following(one.url, f"{one.path}&after_seq=0", one.token) as slow,
            following(one.url, f"{one.path}&after_seq=0", one.token) as well,
        ):
            got = [int(block.id or 0) for block in await slow.events(3)]
            assert [int(block.id or 0) for block in await well.events(100)] == list(range(1, 101))
            await until(lambda: METRICS.slow_consumers._value.get() == before + 1)
            with suppress(asyncio.IncompleteReadError, ConnectionResetError):
                while True:
                    got.append(int((await slow.event()).id or 0))
            assert len(got) < 100, "it was cut off in the middle"
            async with following(one.url, one.path, one.token, Last_Event_ID=str(got[-1])) as again:
                got += [int(block.id or 0) for block in await again.events(100 - len(got))]
            assert got == list(range(1, 101))
            await one.say("more")
            assert (await well.event()).id == "101", "nobody else suffered"
        assert METRICS.slow_consumers._value.get() == before + 1


async def test_the_end_does_not_wait_for_a_reader_that_takes_nothing(database: Database) -> None:
    async with door(database, send_buffer=8_192, close_ms_max=300) as one:
        await one.say(*("x" * 100_000 for _ in range(100)))
        async with following(one.url, f"{one.path}&after_seq=0", one.token) as stalled:
            await stalled.event()
            stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]
            (_, request) = next(iter(one.doors._streams.values()))
            waits = 0
            while waits < 20:  # until the kernel takes nothing more
                size = request.transport.get_write_buffer_size() if request.transport else 0
                await asyncio.sleep(0.01)
                waits = waits + 1 if request.transport and size == request.transport.get_write_buffer_size() > 0 else 0
            async with asyncio.timeout(HANG_S / 2):  # below the limit of a write
                await one.doors.close()
                await until(lambda: not one.doors._streams)


async def test_a_slow_reader_is_no_stalled_one(database: Database) -> None:
    """It takes longer than the limit for all of it, but always takes something."""
    async with door(database, send_buffer=8_192, event_stream_write_ms_max=2_000) as one:
        await one.say(*("x" * 20_000 for _ in range(50)))
        async with following(one.url, f"{one.path}&after_seq=0", one.token) as slow:
            for seq in range(1, 51):
                assert (await slow.event()).id == str(seq)


async def test_places_are_bounded_per_user_and_per_node(database: Database) -> None:
    async with door(database, event_streams_max=4, event_streams_per_user_max=2) as one:
        others = [await somebody(database, "other", name) for name in ("bob", "eve")]
        rooms = {who: f"/v1/events?room=user:{who.user_id}" for who in [one.who, *others]}
        taken = [await Sse.request(one.url, rooms[one.who], one.token) for _ in range(2)]
        refused = await Sse.request(one.url, one.path, one.token)
        problem = await refused.problem()
        assert (refused.status, problem["code"], problem["retryable"]) == (429, "rate_limited", True)
        assert refused.headers["retry-after"] == str(LIMITS.event_streams_retry_ms // 1000)
        assert problem["retry_after_ms"] == LIMITS.event_streams_retry_ms
        await refused.close()
        assert METRICS.event_streams._value.get() == 2

        await taken.pop().close()
        await until(lambda: sum(not request.transport for _, request in one.doors._streams.values()))
        taken.append(await Sse.request(one.url, one.path, one.token))
        assert taken[-1].status == 200, "who is gone takes no place of his user, though nobody has written to him yet"

        bob, eve = others
        taken.append(await Sse.request(one.url, rooms[bob], one.token_of(bob)))
        assert taken[-1].status == 200
        assert (await refusal(one.url, rooms[eve], one.token_of(eve)))[:2] == (429, "rate_limited"), "the node is full"
        for sse in taken:
            await sse.close()


async def test_a_client_that_went_away_is_noticed_by_the_next_comment(database: Database) -> None:
    async with door(database, event_stream_idle_ms=50) as one:
        sse = await Sse.request(one.url, one.path, one.token)
        while (block := await sse.next()) is not None and block.comment is None:
            pass
        await sse.close()
        await until(lambda: not one.doors._streams)
        assert METRICS.event_streams._value.get() == 0


async def test_streams_opened_while_closing_are_refused(database: Database) -> None:
    async with door(database) as one:
        async with following(one.url, one.path, one.token) as sse:
            await one.doors.close()
            assert len(await sse.to_end()) == 1
        assert (await refusal(one.url, one.path, one.token))[:2] == (503, "draining")


async def test_a_lost_database_answers_before_a_stream_and_is_waited_for_in_one(database: Database) -> None:
    async with door(database) as one:
        await one.say("one")
        async with following(one.url, f"{one.path}&after_seq=0", one.token) as sse:
            assert (await sse.event()).id == "1"
            pool, database._pool = database._pool, None
            assert (await refusal(one.url, one.path, one.token))[:2] == (503, "unavailable")
            stream = next(iter(one.doors._streams))
            stream.send_event("e", {"event": "e", "seq": 3}, durable=True)  # the hub tells of more than it told before
            while (block := await sse.next()) is not None and block.comment is None:
                pass
            database._pool = pool
            await one.say("two")
            assert (await sse.event()).data["text"] == "two"
