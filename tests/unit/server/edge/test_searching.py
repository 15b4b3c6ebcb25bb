"""A query per keystroke: the newest of a slot counts, slots are bounded, and a search that is over holds none."""

import asyncio
from typing import Any, cast

import pytest

from auth.model import Identity, Role
from search.model import Page, Query
from search.ports import Index
from server.edge.connection import Connection
from server.edge.delivery import Delivery
from server.edge.searching import SearchDesk
from server.rooms.hub import Hub
from streaming.aio import Scope
from streaming.errors import BadRequest, ParlanceError, QuotaExceeded, Unavailable
from streaming.limits import LIMITS
from streaming.protocol.messages import SearchQuery
from tests.sim import clock

WHO = Identity(user_id="u", user_name="ann", tenant_id="t", tenant_name="acme", role=Role.OWNER, expires_at=0)


class Answers:
    """An `Index` that takes a second, or fails."""

    def __init__(self, error: Exception | None = None, seconds: float = 1.0) -> None:
        self.asked: list[tuple[str, str]] = []
        self._error = error
        self._seconds = seconds

    async def search(self, tenant_id: str, user_id: str, _query: Query) -> Page:
        self.asked.append((tenant_id, user_id))
        await asyncio.sleep(self._seconds)
        if self._error is not None:
            raise self._error
        return Page(hits=(), next_cursor=None)


class Outbox:
    """What the connection was told: (event, request id)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []

    def send(self, _sid: str, event: str, data: dict[str, Any]) -> bool:
        self.told.append((event.removeprefix("search:"), data["request_id"]))
        self.bodies.append(data)
        return True


def play(script: Any, index: Answers | None = None) -> Outbox:
    outbox = Outbox()

    async def main() -> None:
        async with Scope("connection") as scope:
            connection = Connection(
                "sid", WHO, delivery=cast(Delivery, outbox), hub=cast(Hub, None), scope=scope, limits=LIMITS
            )
            desk = SearchDesk(cast(Index, index or Answers()), LIMITS)
            await script(lambda **wanted: desk.query(connection, SearchQuery(**wanted)), desk, connection)

    clock.run(main())
    return outbox


def test_a_newer_query_of_a_slot_supersedes_the_older() -> None:
    async def script(ask: Any, *_: Any) -> None:
        for number in range(3):
            ask(request_id=str(number), text="word")
            await asyncio.sleep(0.5)
        ask(request_id="other", text="word", slot="other")
        await asyncio.sleep(5)

    assert play(script).told == [
        ("superseded", "0"), ("superseded", "1"), ("results", "2"), ("results", "2"), ("results", "other"),
        ("results", "other"),
    ]  # fmt: skip


def test_a_query_at_the_moment_of_the_answer() -> None:
    """The older one is either answered before, or superseded and never answered."""

    async def script(ask: Any, *_: Any) -> None:
        ask(request_id="old", text="word")
        await asyncio.sleep(1.0)
        ask(request_id="new", text="word")
        await asyncio.sleep(5)

    told = play(script).told
    assert told[-2:] == [("results", "new")] * 2
    assert told[:-2] in ([("superseded", "old")], [("results", "old")] * 2)


def test_slots_are_bounded_and_finished_searches_hold_none() -> None:
    async def script(ask: Any, _: Any, connection: Connection) -> None:
        for round_ in range(3):
            for number in range(LIMITS.search_slots_per_socket_max):
                ask(request_id="r", text="word", slot=f"{round_} {number}")
            with pytest.raises(QuotaExceeded):
                ask(request_id="r", text="word", slot="one too many")
            ask(request_id="again", text="word", slot=f"{round_} 0")
            await asyncio.sleep(5)
        assert len(connection.searches) <= LIMITS.search_slots_per_socket_max

    play(script)


def test_a_cancelled_search_says_nothing_more() -> None:
    async def script(ask: Any, desk: SearchDesk, connection: Connection) -> None:
        ask(request_id="a", text="word")
        desk.cancel(connection, "unknown")
        desk.cancel(connection, "a")
        desk.cancel(connection, "a")
        await asyncio.sleep(5)

    assert play(script).told == []


@pytest.mark.parametrize(
    ("error", "code"), [(Unavailable("away"), "unavailable"), (KeyError("a secret"), "internal"), (None, "unavailable")]
)
def test_a_failed_search_says_so(error: ParlanceError | None, code: str) -> None:
    """None: it takes longer than it may."""

    async def script(ask: Any, *_: Any) -> None:
        ask(request_id="a", text="word")
        await asyncio.sleep(60)

    outbox = play(script, Answers(error, seconds=1.0 if error else 30.0))
    assert outbox.told == [("failed", "a")]
    assert outbox.bodies[0]["error"]["code"] == code
    assert "secret" not in str(outbox.bodies)


def test_a_bad_query_supersedes_nothing() -> None:
    async def script(ask: Any, *_: Any) -> None:
        ask(request_id="good", text="word")
        with pytest.raises(BadRequest):
            ask(request_id="bad", text="word", cursor="nonsense")
        await asyncio.sleep(5)

    assert play(script).told == [("results", "good")] * 2


def test_the_index_is_asked_for_the_caller() -> None:
    index = Answers()

    async def script(ask: Any, *_: Any) -> None:
        ask(request_id="a", text="word")
        await asyncio.sleep(5)

    play(script, index)
    assert index.asked == [("t", "u")]
