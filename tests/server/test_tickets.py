"""Tickets: one path, ten minutes, one member; a way in for players, and for nobody else."""

import time

import aiohttp
import jwt
import pytest

from auth.errors import Unauthenticated
from auth.model import Role
from auth.tokens import TICKET_S, issue, issue_ticket, verify, verify_ticket
from server.config import load
from server.edge.authenticate import Authenticator
from server.secret import signing_secret
from server.store.identity import IdentityStore
from server.store.pool import Database
from tests.fakes.tones import random_sentences, talk
from tests.support.node import somebody
from tests.support.process import Account, ServerProcess
from tests.support.wire import Talk, Wire

SECRET = "s" * 32


async def recorded(wire: Wire, **options: object) -> str:
    live = Talk(wire, talk(random_sentences(90, 1)).audio.tobytes())
    await live.start(**options)
    await live.send()
    await live.stop()
    return live.recording_id


async def ticket_of(parlance: ServerProcess, who: Account, path: str) -> tuple[int, dict[str, object]]:
    async with (
        aiohttp.ClientSession(parlance.url, headers={"Authorization": f"Bearer {who.token}"}) as http,
        http.post("/v1/tickets", json={"path": path}) as response,
    ):
        return response.status, await response.json()


async def status_of(parlance: ServerProcess, path: str, method: str = "GET", **headers: str) -> int:
    async with aiohttp.ClientSession(parlance.url) as http, http.request(method, path, headers=headers) as response:
        return response.status


async def test_a_ticket_opens_its_path_and_no_other(parlance: ServerProcess, alice: Account, wire: Wire) -> None:
    one, two = await recorded(wire), await recorded(wire)
    path, other = (f"/v1/recordings/{name}/media" for name in (one, two))
    status, answer = await ticket_of(parlance, alice, path)
    assert status == 200
    assert abs(int(str(answer["expires_at"])) - time.time() - TICKET_S) < 60
    ticket = answer["ticket"]
    async with aiohttp.ClientSession(parlance.url) as http:
        async with http.get(f"{path}?ticket={ticket}") as response:
            assert (response.status, (await response.read())[:4]) == (200, b"RIFF")
        async with http.get(f"{path}?ticket={ticket}", headers={"Range": "bytes=0-3"}) as response:
            assert (response.status, await response.read()) == (206, b"RIFF")
    assert await status_of(parlance, f"{path}?ticket={ticket}", "HEAD") == 200
    for closed in (
        f"{other}?ticket={ticket}",
        f"{path}?ticket={ticket}x",
        f"{path}?ticket=",
        f"{path}?x=1&ticket={ticket}",
        f"/v1/recordings/{one}?ticket={ticket}",
        f"/v1/recordings/{one}/transcript.json?ticket={ticket}",
        f"/v1/recordings?ticket={ticket}",
        f"{path}?ticket={alice.token}",
    ):
        assert await status_of(parlance, closed) == 401, closed
    for method in ("POST", "PUT", "DELETE"):
        assert await status_of(parlance, f"{path}?ticket={ticket}", method) == 405
    assert await status_of(parlance, f"{path}?ticket={ticket}", Authorization="Bearer x") == 401, (
        "a header outweighs it"
    )
    assert await status_of(parlance, path, Authorization=f"Bearer {ticket}") == 401, "a ticket is no token"
    assert await status_of(parlance, "/v1/tickets", "POST", Authorization=f"Bearer {ticket}") == 401
    printed = "".join(parlance.output)
    assert str(ticket) not in printed
    assert str(ticket).split(".")[2] not in printed


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/v1/recordings", "/v1/recordings/x", "v1/recordings/x/media", "/v1/recordings/x/media/",
        "/v1/recordings/../media", "/v1/recordings/a%2Fb/media", "/v1/recordings/x/media?y=1", "/v1/auth/refresh",
        "/v1/recordings/x/media\n", "//v1/recordings/x/media", "/v1/events", "/v1/events?room=a&room=b",
        "/v1/recordings/" + "x" * 10_000 + "/media",
    ],
)  # fmt: skip
async def test_no_other_path_is_signed(parlance: ServerProcess, alice: Account, path: str) -> None:
    status, body = await ticket_of(parlance, alice, path)
    assert (status, body["code"], body["field"]) == (400, "bad_request", "path")


async def test_strangers_get_no_ticket(
    parlance: ServerProcess, alice: Account, mallory: Account, wire: Wire, other: Wire
) -> None:
    theirs = await recorded(wire)
    mine = await recorded(other)
    path = f"/v1/recordings/{theirs}/media"
    assert (await ticket_of(parlance, mallory, path))[0] == 404
    assert (await ticket_of(parlance, mallory, "/v1/recordings/rec_00000000000000000000/media"))[0] == 404
    _, answer = await ticket_of(parlance, mallory, f"/v1/recordings/{mine}/media")
    assert await status_of(parlance, f"{path}?ticket={answer['ticket']}") == 401
    private = await recorded(wire, visibility="private")
    assert (await ticket_of(parlance, alice, f"/v1/recordings/{private}/media"))[0] == 200
    bob = await parlance.account(wire.named("ready")[0]["tenant"]["name"], "bob", Role.MEMBER)
    assert (await ticket_of(parlance, bob, f"/v1/recordings/{private}/media"))[0] == 404
    forged = signed_by(parlance, mallory, path)
    assert await status_of(parlance, f"{path}?ticket={forged}") == 404, "a ticket gives no more than its owner has"
    async with aiohttp.ClientSession(parlance.url) as http:
        async with http.post("/v1/tickets", json={"path": path}) as response:
            assert response.status == 401
        async with http.post("/v1/tickets", json=[], headers={"Authorization": f"Bearer {alice.token}"}) as response:
            assert response.status == 400


def signed_by(parlance: ServerProcess, who: Account, path: str) -> str:
    """As if the server had given it out."""
    secret = signing_secret(load({"PARLANCE_DATA_DIR": str(parlance.data_dir)}))
    identity = verify(who.token, secret=secret, now=int(time.time()))
    return issue_ticket(identity, path, secret=secret, now=int(time.time()))[0]


async def test_events_of_rooms_that_one_may_read_can_be_opened_with_one_too(
    parlance: ServerProcess, alice: Account, mallory: Account, wire: Wire
) -> None:
    recording = await recorded(wire)
    for room in (f"tenant:{alice.tenant_id}", f"user:{alice.user_id}", f"recording:{recording}"):
        for path in (f"/v1/events?room={room}", f"/v1/events?room={room.replace(':', '%3A')}"):
            assert (await ticket_of(parlance, alice, path))[0] == 200, path
            assert (await ticket_of(parlance, mallory, path))[0] == 404, path
    for room in ("recording:rec_0", "nothing:x", "abc"):
        assert (await ticket_of(parlance, alice, f"/v1/events?room={room}"))[0] == 404, room
    for room in ("ab", "recording:%00", "recording:a%2Fb", "recording:%ff", "recording:" + "x" * 120):
        assert (await ticket_of(parlance, alice, f"/v1/events?room={room}"))[0] == 400, room


async def test_membership_is_looked_up_when_it_is_used(database: Database) -> None:
    who, now = await somebody(database), 1_800_000_000.0
    authenticate = Authenticator(IdentityStore(database), ttl_s=60, clock=lambda: now)
    authenticate.open(SECRET)
    ticket, expires_at = authenticate.ticket(who, "/p")
    assert expires_at == now + TICKET_S
    found = await authenticate.by_ticket(ticket, "/p")
    assert (found.tenant_id, found.user_id, found.role) == (who.tenant_id, who.user_id, who.role)
    async with database.tenant_tx(who.tenant_id) as connection:
        await connection.execute("DELETE FROM memberships WHERE user_id = $1", who.user_id)
    with pytest.raises(Unauthenticated, match="no longer a member"):
        await authenticate.by_ticket(ticket, "/p")


async def test_what_is_no_valid_ticket(database: Database) -> None:
    who = await somebody(database)
    ticket, end = issue_ticket(who, "/p", secret=SECRET, now=1_000)
    assert verify_ticket(ticket, "/p", secret=SECRET, now=end - 1).user_id == who.user_id
    payload = jwt.decode(ticket, options={"verify_signature": False})
    bad = {
        "expired": (ticket, "/p", end),
        "another path": (ticket, "/p2", 1_000),
        "not signed": (jwt.encode(payload, "x" * 32, algorithm="HS256"), "/p", 1_000),
        "algorithm": (jwt.encode(payload, SECRET + SECRET, algorithm="HS512"), "/p", 1_000),
        "no ticket": (issue(who, secret=SECRET, now=1_000, ttl_s=60), "/p", 1_000),
        "longer than": ("x" * 5_000, "/p", 1_000),
        "malformed": ("x", "/p", 1_000),
        "is needed": ("", "/p", 1_000),
        "lacks a claim": (jwt.encode({**payload, "path": None}, SECRET, algorithm="HS256"), "/p", 1_000),
    }
    for reason, (text, path, now) in bad.items():
        with pytest.raises(Unauthenticated, match=reason):
            verify_ticket(text, path, secret=SECRET, now=now)
    with pytest.raises(Unauthenticated, match="not an access token"):
        verify(ticket, secret=SECRET, now=1_000)
