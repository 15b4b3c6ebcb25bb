"""A query per keystroke: the newest of a slot counts, slots are bounded, and a search that is over holds none. What
each phase holds with a vector, without one and when there is none in time. What of it is remembered."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest

from auth.model import Identity, Role
from search.finding import Finder
from search.meaning import QueryVectors
from search.model import Cursor, Hit, Mode, Page, Position, Query, QueryVector
from search.query import encode_cursor, parse, query_key
from server.edge.admission import Admission
from server.edge.connection import Connection, Expiries
from server.edge.delivery import Delivery, Line
from server.edge.search.desk import Answers, SearchDesk
from server.edge.search.remembered import SearchLog
from server.rooms.hub import Hub
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.errors import BadRequest, Overloaded, ParlanceError, QuotaExceeded, Unavailable
from streaming.limits import LIMITS, Limits
from streaming.protocol.messages import ServerMessage
from streaming.protocol.searches import SearchFilters, SearchQuery
from tests.fakes.embedder import FakeEmbedder
from tests.sim import clock

WHO = Identity(user_id="u", user_name="ann", tenant_id="t", tenant_name="acme", role=Role.OWNER, expires_at=0)


def page(name: str) -> Page:
    return Page((Hit(name, "r", "Talk", None, 0, 1, 1, name, (), 1.0),))


class Found:
    """A `Finder` that takes a second, or fails. Finds "words" or "meaning"; `by`: how it was asked."""

    def __init__(self, error: Exception | None = None, seconds: float = 1.0) -> None:
        self.asked: list[tuple[str, str]] = []
        self.by: list[str] = []
        self.running_max = self.running = 0
        self.cancelled = 0
        self._error = error
        self._seconds = seconds

    async def instant(self, tenant_id: str, user_id: str, _query: Query) -> Page:
        return await self._answer(tenant_id, user_id, "words")

    async def full(self, tenant_id: str, user_id: str, query: Query, vectors: Sequence[QueryVector]) -> Page:
        for vector in vectors:
            assert vector.values.tolist() == FakeEmbedder().query(query.text).values.tolist()
        return await self._answer(tenant_id, user_id, "meaning" if vectors else "words")

    async def _answer(self, tenant_id: str, user_id: str, by: str) -> Page:
        self.asked.append((tenant_id, user_id))
        self.by.append(by)
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            await asyncio.sleep(self._seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if self._error is not None:
            raise self._error
        return page(by)


class NoDatabase:
    """Takes what is written, and gives nothing back."""

    @asynccontextmanager
    async def tenant_tx(self, _tenant_id: str, *, long: bool = False) -> AsyncIterator[None]:
        yield None


class Outbox:
    """What the connection was told: (event, request id)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []

    def tell_message(self, _line: Line, event: str, message: ServerMessage) -> bool:
        data = msgspec.to_builtins(message)
        self.told.append((event.removeprefix("search:"), data["request_id"]))
        self.bodies.append(data)
        return True

    @property
    def phases(self) -> list[tuple[str, str, bool]]:
        """(phase, what was found, whether it is degraded) of all results."""
        return [
            (b["phase"], " ".join(hit["text"] for hit in b["hits"]), b.get("degraded", False))
            for b in self.bodies
            if "phase" in b
        ]


def connection_of(outbox: Outbox, who: Identity = WHO) -> Connection:
    return Connection(
        "sid", who, line=cast(Line, None), delivery=cast(Delivery, outbox), hub=cast(Hub, None),
        expiries=cast(Expiries, None), on_error=cast(Any, None), limits=LIMITS,
        visit=Admission(LIMITS).handshake(None),
    )  # fmt: skip


def desk_of(finder: Found, embedder: Any, limits: Limits = LIMITS) -> SearchDesk:
    vectors = QueryVectors(lambda: [embedder] if embedder else [], limits)
    return SearchDesk(Answers(cast(Finder, finder), vectors), SearchLog(cast(Database, NoDatabase()), limits), limits)


def play(script: Any, finder: Found | None = None, embedder: Any = None, limits: Limits = LIMITS) -> Outbox:
    """`embedder`: makes one on the script's loop."""
    outbox = Outbox()

    async def main() -> None:
        model = embedder() if embedder else None
        connection = connection_of(outbox)
        async with connection.scope:
            desk = desk_of(finder or Found(), model, limits)
            await script(
                lambda **wanted: desk.query(connection, SearchQuery(**wanted)),
                desk,
                connection,
                *([model] if model else []),
            )
            desk.gone(connection)
        assert (desk._turns.running, desk._turns.waiting, desk._turns._owners) == (0, 0, {})

    clock.run(main())
    return outbox


def test_a_newer_query_waits_for_the_running_one_and_supersedes_those_between() -> None:
    """The running one is not broken off: its instant answer comes, its second phase does not."""
    finder = Found()

    async def script(ask: Any, *_: Any) -> None:
        for number in range(4):
            ask(request_id=str(number), text="word")
            await asyncio.sleep(0.2)
        ask(request_id="other", text="word", slot="other")
        await asyncio.sleep(5)

    told = play(script, finder).told
    assert [each for each in told if each[1] != "other"] == [
        ("superseded", "1"), ("superseded", "2"), ("results", "0"), ("superseded", "0"), ("results", "3"),
        ("results", "3"),
    ]  # fmt: skip
    assert [each for each in told if each[1] == "other"] == [("results", "other")] * 2
    assert finder.cancelled == 0


def test_a_query_at_the_moment_of_the_answer() -> None:
    """The older one is either answered before, or superseded; nothing of it comes after anything of the newer."""

    async def script(ask: Any, *_: Any) -> None:
        ask(request_id="old", text="word")
        await asyncio.sleep(1.0)
        ask(request_id="new", text="word")
        await asyncio.sleep(5)

    told = play(script).told
    assert told[-2:] == [("results", "new")] * 2
    assert told[:-2] in ([("results", "old")] * 2, [("results", "old"), ("superseded", "old")])


def test_slots_are_bounded_and_finished_searches_hold_none() -> None:
    async def script(ask: Any, _: Any, connection: Connection) -> None:
        for round_ in range(3):
            for number in range(LIMITS.search_slots_per_socket_max):
                ask(request_id="r", text="word", slot=f"{round_} {number}")
            with pytest.raises(QuotaExceeded):
                ask(request_id="r", text="word", slot="one too many")
            ask(request_id="again", text="word", slot=f"{round_} 0")
            await asyncio.sleep(10)

    finder = Found(seconds=0.1)
    play(script, finder)
    assert finder.running_max == LIMITS.searches_per_socket_max


def test_who_gets_no_turn_in_time_is_told_when_to_come_again() -> None:
    async def script(ask: Any, desk: SearchDesk, _: Connection) -> None:
        ask(request_id="runs", text="word")
        ask(request_id="waits", text="word", slot="other")
        with pytest.raises(Overloaded):
            await within_a_turn(desk)
        await asyncio.sleep(20)
        await within_a_turn(desk)

    one = msgspec.structs.replace(LIMITS, searches_running_max=1)
    outbox = play(script, Found(seconds=4.0), limits=one)
    assert outbox.told == [("failed", "waits"), ("results", "runs"), ("results", "runs")]
    error = outbox.bodies[0]["error"]
    assert (error["code"], error["retry_after_ms"]) == ("overloaded", LIMITS.search_retry_ms)


async def within_a_turn(desk: SearchDesk) -> None:
    async with desk.turn(WHO):
        await asyncio.sleep(0)


def test_a_turn_that_is_given_up_is_free() -> None:
    """Who asks over HTTP leaves while it waits, or while it runs."""

    async def script(ask: Any, desk: SearchDesk, _: Connection) -> None:
        async with desk.turn(WHO):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await within_a_turn(desk)
        await within_a_turn(desk)

    play(script, limits=msgspec.structs.replace(LIMITS, searches_running_max=1))


def test_who_waits_for_a_vector_holds_up_nobody() -> None:
    async def script(ask: Any, _desk: Any, _connection: Any, embedder: FakeEmbedder) -> None:
        embedder.gate.clear()
        ask(request_id="meant", text="money")
        await asyncio.sleep(1.5)
        assert embedder.running == 1
        ask(request_id="words", text="money", mode="keyword", slot="other")
        await asyncio.sleep(1.2)
        embedder.gate.set()
        await asyncio.sleep(5)

    one = msgspec.structs.replace(LIMITS, searches_running_max=1, embed_query_ms_max=60_000)
    told = play(script, embedder=FakeEmbedder, limits=one).told
    assert told == [("results", "meant"), ("results", "words"), ("results", "words"), ("results", "meant")]


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

    outbox = play(script, Found(error, seconds=1.0 if error else 30.0))
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
    index = Found()

    async def script(ask: Any, *_: Any) -> None:
        ask(request_id="a", text="word")
        await asyncio.sleep(5)

    play(script, index)
    assert index.asked == [("t", "u")]


# --- what each phase holds ----------------------------------------------------------------------------------------
def phases(embedder: Any = FakeEmbedder, **wanted: Any) -> list[tuple[str, str, bool]]:
    async def script(ask: Any, *_: Any) -> None:
        ask(request_id="a", **wanted)
        await asyncio.sleep(10)

    return play(script, embedder=embedder).phases


def down() -> FakeEmbedder:
    embedder = FakeEmbedder()
    embedder.kill()
    return embedder


def stuck() -> FakeEmbedder:
    embedder = FakeEmbedder()
    embedder.gate.clear()
    return embedder


def test_full_adds_what_is_near() -> None:
    assert phases(text="money") == [("instant", "words", False), ("full", "meaning", False)]


def test_semantic_has_nothing_to_say_at_the_instant() -> None:
    assert phases(text="money", mode="semantic") == [("instant", "", False), ("full", "meaning", False)]


@pytest.mark.parametrize("embedder", [None, down, stuck])
def test_without_a_vector_in_time_the_words_answer_and_say_so(embedder: Any) -> None:
    assert phases(embedder, text="money") == [("instant", "words", False), ("full", "words", True)]
    assert phases(embedder, text="money", mode="semantic") == [("instant", "", False), ("full", "words", True)]


@pytest.mark.parametrize("text", ["lethal", "refused"])
def test_a_model_that_fails_is_none(text: str) -> None:
    assert phases(text=text) == [("instant", "words", False), ("full", "words", True)]


@pytest.mark.parametrize("embedder", [FakeEmbedder, None])
def test_keywords_want_no_vector(embedder: Any) -> None:
    assert phases(embedder, text="money", mode="keyword") == [("instant", "words", False), ("full", "words", False)]


def test_what_has_no_meaning_of_its_own_is_not_embedded() -> None:
    seen: list[FakeEmbedder] = []

    def made() -> FakeEmbedder:
        seen.append(FakeEmbedder())
        return seen[0]

    for text in ("m", "the", "", "who is it"):
        assert phases(made, text=text) == [("instant", "words", False), ("full", "words", False)]
        assert phases(made, text=text, mode="semantic") == [("instant", "", False), ("full", "", False)]
    assert phases(made, text="money", filters=SearchFilters(tags=["x"]))[-1] == ("full", "words", False)
    assert seen[0].seen == []


def cursor(mode: str, *, fused: bool) -> str:
    query = parse("money", mode=Mode(mode))
    return encode_cursor(Cursor(query_key(query), Position(0.1, 5, "s"), 5, fused, 0, 0))


@pytest.mark.parametrize("mode", ["hybrid", "semantic"])
def test_the_next_page_of_a_fused_order_comes_as_full_only(mode: str) -> None:
    wanted = {"text": "money", "mode": mode, "cursor": cursor(mode, fused=True)}
    assert phases(**wanted) == [("full", "meaning", False)]

    async def script(ask: Any, *_: Any) -> None:
        ask(request_id="a", **wanted)
        await asyncio.sleep(10)

    outbox = play(script, embedder=down)
    assert outbox.told == [("failed", "a")]
    assert outbox.bodies[0]["error"]["code"] == "unavailable"
    assert outbox.bodies[0]["error"]["retryable"] is True


def test_the_next_page_of_words_goes_on_with_words() -> None:
    wanted = {"text": "money", "cursor": cursor("hybrid", fused=False)}
    assert phases(**wanted) == [("instant", "words", False), ("full", "words", True)]


def test_a_fused_cursor_is_none_of_a_search_by_keywords() -> None:
    assert phases(text="money", mode="keyword", cursor=cursor("keyword", fused=True)) == []


def test_no_result_of_an_older_query_comes_after_it_waited_for_its_vector() -> None:
    async def script(ask: Any, _desk: Any, _connection: Any, embedder: FakeEmbedder) -> None:
        embedder.gate.clear()
        ask(request_id="old", text="money")
        await asyncio.sleep(1.5)
        assert embedder.running == 1
        ask(request_id="new", text="money for")
        embedder.gate.set()
        await asyncio.sleep(10)

    finder = Found()
    told = play(script, finder, embedder=FakeEmbedder).told
    assert told == [("results", "old"), ("superseded", "old"), ("results", "new"), ("results", "new")]
    assert finder.cancelled == 0


def test_the_second_phase_of_a_query_is_left_out_when_a_newer_one_waits() -> None:
    """Nothing is embedded or looked for by its meaning."""
    finder = Found()
    seen: list[list[str]] = []

    async def script(ask: Any, _desk: Any, _connection: Any, embedder: FakeEmbedder) -> None:
        ask(request_id="old", text="money")
        await asyncio.sleep(0.5)
        ask(request_id="new", text="money for tea")
        await asyncio.sleep(10)
        seen.extend(embedder.seen)

    told = play(script, finder, embedder=FakeEmbedder).told
    assert told == [("results", "old"), ("superseded", "old"), ("results", "new"), ("results", "new")]
    assert finder.by == ["words", "words", "meaning"]
    assert seen == [["money for tea"]]


def test_a_search_cancelled_while_it_waits_for_its_vector_says_nothing_more() -> None:
    async def script(ask: Any, desk: SearchDesk, connection: Connection, embedder: FakeEmbedder) -> None:
        embedder.gate.clear()
        ask(request_id="a", text="money")
        await asyncio.sleep(1.5)
        desk.cancel(connection, "a")
        embedder.gate.set()
        await asyncio.sleep(10)
        assert embedder.running == 0

    assert play(script, embedder=FakeEmbedder).told == [("results", "a")]


# --- what is remembered -------------------------------------------------------------------------------------------
def test_what_was_found_can_be_opened_once_and_nothing_else() -> None:
    async def script(ask: Any, desk: SearchDesk, connection: Connection) -> None:
        ask(request_id="a", text="money")
        await asyncio.sleep(5)
        log = desk.remembered
        assert log.clicked(connection, "a", "words")
        assert log.clicked(connection, "a", "words")
        assert not log.clicked(connection, "a", "meaning"), "nobody was told of it"
        assert not log.clicked(connection, "b", "words")
        other = connection_of(Outbox())
        assert not log.clicked(other, "a", "words")
        waiting = log._unwritten["t"]
        assert [search.text for search in waiting.searches] == ["money"]
        assert waiting.clicks == [waiting.searches[0].search_id]

    play(script)


def test_of_a_connection_so_many_answers_are_known() -> None:
    async def script(ask: Any, desk: SearchDesk, connection: Connection) -> None:
        count = LIMITS.search_clicks_remembered + 1
        for number in range(count):
            ask(request_id=str(number), text=f"word {number}")
            await asyncio.sleep(5)
        known = [desk.remembered.clicked(connection, str(number), "words") for number in range(count)]
        assert known == [False] + [True] * (count - 1)

    play(script)


def test_what_waits_to_be_remembered_is_bounded() -> None:
    limits = msgspec.structs.replace(LIMITS, searches_unwritten_max=2)

    async def script(ask: Any, desk: SearchDesk, connection: Connection) -> None:
        before = METRICS.searches.forgotten._value.get()
        for number in range(4):
            ask(request_id=str(number), text=f"{number} words")
            await asyncio.sleep(5)
            desk.remembered.clicked(connection, str(number), "words")
        assert METRICS.searches.forgotten._value.get() - before == 6
        assert len(desk.remembered._unwritten["t"]) == limits.searches_unwritten_max

    play(script, limits=limits)
