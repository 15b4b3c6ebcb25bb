"""Subscriptions on a real database and a real index: each matching revision once, in order, live or missed."""

import asyncio
import random
from typing import Any

import msgspec
import pytest

from server.store import feed
from server.store.pool import Database
from server.telemetry import METRICS
from streaming.errors import BadRequest, HistoryTruncated, Overloaded, QuotaExceeded, Unavailable
from tests.fakes.embedder import FakeEmbedder
from tests.support.keeping import Talk
from tests.support.subscribers import HASTY, Following, Listener, following
from tests.support.waiting import until

ROOM = "index:t"


@pytest.fixture
async def talk(database: Database) -> Talk:
    return await Talk(database).begin()


async def expire(database: Database) -> None:
    """All events are too old."""
    async with database.shared_tx() as connection:
        await feed.expire(connection, age_s=-3_600, limit=10_000)


# --- what is told -------------------------------------------------------------------------------------------------
async def test_what_matches_is_told_once_for_a_revision(database: Database, talk: Talk) -> None:
    async with following(database) as node:
        anna = Listener("t")
        assert await node.subscribe(anna, "budget meeting") == "1.0"
        (name, _) = await talk.say("the meeting about budgets", "a kitten")
        await anna.hears(name)
        await talk.revise(name)
        await until(lambda: anna.matches() == [(name, 1), (name, 2)])
        await talk.revise(name, "nothing of it")
        (last,) = await talk.say("budget meetings again")
        await until(lambda: anna.matches() == [(name, 1), (name, 2), (last, 1)])
        hit = anna.told[-1]["hit"]
        assert (hit["title"], hit["text"], hit["score"]) == ("Talk", "budget meetings again", 1.0)
        assert [hit["text"][start:end] for start, end in hit["highlights"]] == ["budget", "meetings"]
        assert "before" not in hit


async def test_words_are_told_at_once_and_meaning_when_its_vector_comes(database: Database, talk: Talk) -> None:
    embedder = FakeEmbedder()
    async with following(database, embedder=embedder) as node:
        hybrid, words, meaning = Listener("t"), Listener("t"), Listener("t")
        await node.subscribe(hybrid, "money")
        await node.subscribe(words, "money", mode="keyword")
        await node.subscribe(meaning, "money", mode="semantic")
        said, meant = await talk.say("money for the trip", "cash for tea")
        await hybrid.hears(said)
        await words.hears(said)
        assert meaning.matches() == []
        await node.keeper.embed("t", [said, meant])
        await hybrid.hears(said, meant)
        await until(lambda: sorted(meaning.matches()) == sorted([(said, 1), (meant, 1)]))
        (last,) = await talk.say("money at last")
        await hybrid.hears(said, meant, last)
        await words.hears(said, last)
        scores = [told["hit"]["score"] for told in hybrid.told]
        assert scores[0] == scores[2] == 1.0
        assert 0.6 < scores[1] < 0.8


async def test_least_scores_and_filters(database: Database, talk: Talk) -> None:
    await talk.recording("q")
    async with following(database, embedder=FakeEmbedder()) as node:
        anna = Listener("t")
        await node.subscribe(anna, "money", min_score=0.9)
        await node.subscribe(anna, "money", subscription_id="there", filters={"recording_ids": ["q"]})
        vague, exact = await talk.say("cash for tea", "cash")
        elsewhere = await talk.say("money", recording="q")
        await until(node.keeper.is_idle)
        await node.keeper.embed("t", [vague, exact])
        await until(lambda: sorted(anna.matches()) == sorted([(exact, 1), (elsewhere[0], 1)]))
        await anna.hears(*elsewhere, subscription_id="there")


async def test_a_private_recording_is_told_to_its_owner_alone(database: Database, talk: Talk) -> None:
    await talk.recording("mine", owner="bert", private=True)
    async with following(database, embedder=FakeEmbedder()) as node:
        anna, bert = Listener("t"), Listener("t", "bert")
        for listener in (anna, bert):
            await node.subscribe(listener, "money")
        (secret,) = await talk.say("money of mine", recording="mine")
        (other,) = await talk.say("cash", recording="mine")
        await until(node.keeper.is_idle)
        await node.keeper.embed("t", [other, secret])
        (public,) = await talk.say("money for all")
        await bert.hears(secret, other, public)
        await anna.hears(public)
        anna_again = Listener("t")
        await node.subscribe(anna_again, "money", after="1.0")
        await anna_again.hears(public)


async def test_the_model_comes_later_and_nothing_is_missed(database: Database, talk: Talk) -> None:
    embedder = FakeEmbedder()
    embedder.kill()
    async with following(database, embedder=embedder) as node:
        anna = Listener("t")
        await node.subscribe(anna, "money")
        said, meant = await talk.say("money", "cash")
        await anna.hears(said)
        embedder.start()
        await node.keeper.embed("t", [meant, said])
        await anna.hears(said, meant)
        assert ["money"] in embedder.seen


async def test_a_model_that_fails_costs_no_words(database: Database, talk: Talk) -> None:
    embedder = FakeEmbedder()
    async with following(database, embedder=embedder) as node:
        anna = Listener("t")
        await node.subscribe(anna, "refused money")
        await node.subscribe(anna, "cash money", subscription_id="other")
        await node.subscribe(anna, "lethal", subscription_id="lethal")
        (name,) = await talk.say("money was refused, cash was lethal, money")
        await anna.hears(name)
        await anna.hears(name, subscription_id="other")
        await anna.hears(name, subscription_id="lethal")


# --- coming back --------------------------------------------------------------------------------------------------
async def test_who_comes_back_with_its_cursor_misses_nothing_and_hears_nothing_twice(
    database: Database, talk: Talk
) -> None:
    quick = msgspec.structs.replace(HASTY, subscription_page_events=2, subscription_segments_max=3)
    async with following(database, limits=quick) as node:
        said: list[str] = []
        cursor, heard = "1.0", []
        for number in range(6):
            said += await talk.say(*(f"budget {number} {n}" for n in range(5)))
            anna = Listener("t")
            await node.subscribe(anna, "budget", after=cursor)
            enough = max(1, number * 5 + 2 - len(heard))
            await until(lambda anna=anna, enough=enough: len(anna.matches()) >= enough)
            node.gone(anna)
            heard += [name for name, _ in anna.matches()]
            cursor = anna.cursors[-1]
        anna = Listener("t")
        await node.subscribe(anna, "budget", after=cursor)
        rest = [name for name in said if name not in heard]
        await until(lambda: len(anna.matches()) == len(rest))
        assert sorted(heard + [name for name, _ in anna.matches()]) == sorted(said)
        (last,) = await talk.say("budget at last")
        await until(lambda: anna.matches()[-1:] == [(last, 1)])


@pytest.mark.parametrize("seed", range(3))
async def test_between_catching_up_and_live_there_is_neither_a_gap_nor_a_double(
    database: Database, talk: Talk, seed: int
) -> None:
    """Many come while somebody talks, each from somewhere in the past; some do not read for a while."""
    chance = random.Random(seed)
    limits = msgspec.structs.replace(
        HASTY, subscription_page_events=3, subscription_segments_max=4, subscription_events_waiting_max=3
    )
    async with following(database, limits=limits) as node:
        said, listeners = [], []
        for number in range(30):
            said += await talk.say(*(f"budget {number} {n}" for n in range(chance.randrange(1, 4))))
            if chance.random() < 0.4:
                listener = Listener("t")
                if chance.random() < 0.3:
                    listener.takes = chance.randrange(6)
                await node.subscribe(listener, "budget", after="1.0")
                listeners.append(listener)
            for listener in listeners:
                if chance.random() < 0.1:
                    listener.takes = None
        for listener in listeners:
            listener.takes = None
        await until(lambda: all(len(listener.matches()) >= len(said) for listener in listeners))
        for listener in listeners:
            assert sorted(name for name, _ in listener.matches()) == sorted(said)
            at = [tuple(map(int, cursor.split("."))) for cursor in listener.cursors]
            assert at == sorted(set(at))


async def test_who_does_not_read_waits_and_holds_up_nobody(database: Database, talk: Talk) -> None:
    async with following(database) as node:
        await talk.say(*(f"budget {n}" for n in range(6)))
        await until(node.keeper.is_idle)
        slow, quick = Listener("t"), Listener("t")
        slow.takes = 2
        for listener in (slow, quick):
            await node.subscribe(listener, "budget", after="1.0")
        await until(lambda: len(quick.matches()) == 6)
        await talk.say("budget more")
        await until(lambda: len(quick.matches()) == 7)
        assert len(slow.matches()) == 2
        slow.takes = None
        await until(lambda: len(slow.matches()) == 7)
        assert slow.cursors == quick.cursors


async def test_what_is_gone_is_refused_and_who_hears_of_it_later_is_told(database: Database, talk: Talk) -> None:
    async with following(database) as node:
        await talk.say("budget")
        await node.keeper.drain()
        await expire(database)
        anna = Listener("t")
        with pytest.raises(HistoryTruncated) as refusal:
            await node.subscribe(anna, "budget", after="1.0")
        assert refusal.value.first_seq == 2
        assert await node.subscribe(anna, "budget", after="2.0") == "2.0"
        slow = Listener("t")
        slow.takes = 0
        await talk.say("budget")
        await until(lambda: len(anna.matches()) == 1)
        await node.subscribe(slow, "budget", after="2.0")
        await expire(database)
        slow.takes = None
        await until(lambda: slow.told)
        (ended,) = slow.told
        assert (ended["event"], ended["subscription_id"], ended["error"]["code"], ended["error"]["first_seq"]) == (
            "search:unsubscribed", "sub", "history_truncated", 3,
        )  # fmt: skip
        await talk.say("budget")
        await until(lambda: len(anna.matches()) == 2)
        assert slow.matches() == []
        await node.subscribe(slow, "budget")


@pytest.mark.parametrize("after", ["x.y", "1", "1.", ".1", "-1.0", "1.0.0", "٣.٠", " 1.0"])
async def test_a_cursor_of_somebody_else_is_refused(database: Database, talk: Talk, after: str) -> None:
    async with following(database) as node:
        with pytest.raises(BadRequest) as refusal:
            await node.subscribe(Listener("t"), "budget", after=after)
        assert refusal.value.field == "after"


async def test_a_cursor_beyond_the_end_counts_as_the_end(database: Database, talk: Talk) -> None:
    async with following(database) as node:
        assert await node.subscribe(Listener("t"), "budget", after="99.7") == "1.0"


# --- bounds and ends ----------------------------------------------------------------------------------------------
async def test_subscribing_again_replaces_and_unsubscribing_ends(database: Database, talk: Talk) -> None:
    async with following(database) as node:
        anna = Listener("t")
        await node.subscribe(anna, "budget")
        with pytest.raises(BadRequest):
            await node.subscribe(anna, "!?")
        (first,) = await talk.say("budget")
        await anna.hears(first)
        await node.subscribe(anna, "kitten")
        (second, _) = await talk.say("kitten", "budget")
        await anna.hears(first, second)
        node.desk.unsubscribe(anna, "sub")  # type: ignore[arg-type]
        node.desk.unsubscribe(anna, "sub")  # type: ignore[arg-type]
        await until(lambda: not node.hub.listened(("t", ROOM)))
        assert METRICS.searches.subscriptions._value.get() == 0


async def test_subscriptions_are_bounded_for_a_socket_a_user_and_a_node(database: Database, talk: Talk) -> None:
    few = msgspec.structs.replace(
        HASTY, subscriptions_per_socket_max=2, subscriptions_per_user_max=3, subscriptions_max=4
    )
    async with following(database, limits=few) as node:
        listeners = [Listener("t"), Listener("t"), Listener("t", "bert")]

        async def subscribe(at: int, name: str) -> None:
            await node.subscribe(listeners[at], "budget", subscription_id=name)

        await subscribe(0, "1")
        await subscribe(0, "2")
        with pytest.raises(QuotaExceeded):
            await subscribe(0, "3")
        await subscribe(0, "2")
        await subscribe(1, "1")
        with pytest.raises(QuotaExceeded):
            await subscribe(1, "2")
        await subscribe(2, "1")
        with pytest.raises(Overloaded):
            await subscribe(2, "2")
        node.gone(listeners[0])
        await subscribe(2, "2")
        await subscribe(1, "2")


async def test_who_went_meanwhile_leaves_nothing(database: Database, talk: Talk) -> None:
    async with following(database) as node:
        anna = Listener("t")
        anna.ended = True
        with pytest.raises(Unavailable):
            await node.subscribe(anna, "budget")
        assert (node.desk._tenants, node.desk._held, node.desk._count) == ({}, {}, 0)
        assert not node.hub.listened(("t", ROOM))


async def test_a_feed_is_late_and_loses_nothing_while_the_database_is_away(
    database: Database, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(database) as node:
        anna = Listener("t")
        await node.subscribe(anna, "budget")
        away, tried = True, []
        said = node.desk._reader.said

        async def failing(*args: Any, **options: Any) -> Any:
            tried.append(1)
            if away:
                raise Unavailable("away")
            return await said(*args, **options)

        monkeypatch.setattr(node.desk._reader, "said", failing)
        (name,) = await talk.say("budget")
        await until(lambda: len(tried) > 2)
        away = False
        await anna.hears(name)


class Held:
    """Segments are read when the gate is open; `waiting`: somebody wants to."""

    def __init__(self, node: Following, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = asyncio.Event()
        self.waiting = 0
        self._said = node.desk._reader.said
        monkeypatch.setattr(node.desk._reader, "said", self._read)

    async def _read(self, *args: Any, **options: Any) -> Any:
        self.waiting += 1
        await self.gate.wait()
        return await self._said(*args, **options)


async def test_who_subscribes_while_a_feed_is_behind_hears_what_is_said_from_then_on(
    database: Database, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(database) as node:
        anna, bert = Listener("t"), Listener("t", "bert")
        await node.subscribe(anna, "budget")
        held = Held(node, monkeypatch)
        (first,) = await talk.say("budget")
        await until(lambda: held.waiting)
        assert await node.subscribe(bert, "budget") == "2.0"
        held.gate.set()
        (second,) = await talk.say("budget again")
        await bert.hears(second)
        await anna.hears(first, second)


async def test_a_revision_that_was_replaced_before_it_was_read_is_not_told(
    database: Database, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(database) as node:
        anna = Listener("t")
        await node.subscribe(anna, "budget")
        held = Held(node, monkeypatch)
        (name,) = await talk.say("budget")
        await until(lambda: held.waiting)
        await talk.revise(name)
        await until(node.keeper.is_idle)
        held.gate.set()
        (last,) = await talk.say("budget again")
        await until(lambda: anna.matches()[-1:] == [(last, 1)])
        assert anna.matches() == [(name, 2), (last, 1)]


async def test_what_is_not_understood_is_passed_over(database: Database, talk: Talk) -> None:
    async with following(database) as node:
        anna = Listener("t")
        await node.subscribe(anna, "budget")
        strange = [
            feed.Draft(ROOM, "segments:indexed", {"segments": [["x", "r", "one", "words"]]}),
            feed.Draft(ROOM, "segments:indexed", {"segments": [["unknown", "r", 1, "words"]]}),
            feed.Draft(ROOM, "something:else", {}),
        ]
        await written(node, database, strange)
        (name,) = await talk.say("budget")
        await anna.hears(name)
        assert anna.cursors == ["4.1"]


async def written(node: Following, database: Database, drafts: list[feed.Draft]) -> None:
    async with database.tenant_tx("t") as connection:
        events = await feed.append(connection, "t", drafts, at_ms=0)
    node.hub.announce(events)
