"""The contract of `search.ports.Words`, and of what keeps the vocabulary true: jobs, removals, cascades."""

import asyncio

import msgspec
import pytest

from search.spelling import KEY_LETTERS
from server.store import words as store
from server.store.pool import Connection, Database
from tests.support.keeping import QUICK, Keeper, Talk
from tests.support.waiting import until
from tests.unit.search.test_spelling import stored_keys

TABLES = ("search_words", "search_vocabulary", "search_word_keys", "segment_ledger")


@pytest.fixture
async def keeper(database: Database) -> Keeper:
    return await Keeper(database).open()


@pytest.fixture
async def talk(database: Database) -> Talk:
    return await Talk(database).begin()


async def rows(database: Database, tenant: str = "t") -> dict[str, int]:
    async with database.tenant_tx(tenant) as connection:
        return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


async def vocabulary(database: Database, tenant: str = "t") -> dict[str, int]:
    async with database.tenant_tx(tenant) as connection:
        found = await connection.fetch("SELECT word, uses FROM search_vocabulary")
        summed = await connection.fetch("SELECT word, sum(uses)::bigint AS uses FROM search_words GROUP BY word")
        keyed = await connection.fetch("SELECT word, array_agg(key) AS keys FROM search_word_keys GROUP BY word")
    assert sorted(map(tuple, found)) == sorted(map(tuple, summed)), "the vocabulary follows the words"
    keys = {row["word"]: set(row["keys"]) for row in keyed}
    assert keys == {row["word"]: stored_keys(row["word"]) for row in found if len(row["word"]) >= 4}
    return {row["word"]: row["uses"] for row in found}


async def test_words_are_counted_once_for_each_segment_and_completed_by_frequency(keeper: Keeper, talk: Talk) -> None:
    await talk.say("The weather, the weather!", "Weather and wealth", "We agreed in 1984")
    await keeper.drain()
    assert await keeper.words.complete("t", "anna", "we", 10) == ["weather", "we", "wealth"]
    assert await keeper.words.complete("t", "anna", "we", 1) == ["weather"]
    assert await keeper.words.complete("t", "anna", "19", 10) == [], "numbers are no vocabulary"
    assert await keeper.words.complete("t", "anna", "", 10) == []
    assert (await vocabulary(talk.database))["weather"] == 2


@pytest.mark.parametrize("typed", ["wether", "weahter", "weatther", "xeather", "weathe"])
async def test_a_misspelled_word_is_what_was_said(keeper: Keeper, talk: Talk, typed: str) -> None:
    await talk.say("fine weather", "fine weather", "a leather bag")
    await keeper.drain()
    assert (await keeper.words.similar("t", "anna", [typed, "fine", "bag", "xyzzyx"]))[typed][0] == "weather"


async def test_a_word_that_was_said_is_not_corrected(keeper: Keeper, talk: Talk) -> None:
    await talk.say("leather feather")
    await keeper.drain()
    assert await keeper.words.similar("t", "anna", ["leather"]) == {}
    assert await keeper.words.similar("t", "anna", ["weather"]) == {"weather": ("feather", "leather")}
    assert await keeper.words.similar("t", "anna", []) == {}


async def test_private_recordings_words_are_their_owners_alone(keeper: Keeper, talk: Talk) -> None:
    await talk.recording("mine", private=True)
    await talk.say("plutonium", "plutonium", "polonium", recording="mine")
    await talk.say("polonium")
    await keeper.drain()
    assert await keeper.words.complete("t", "anna", "p", 10) == ["plutonium", "polonium"]
    assert await keeper.words.complete("t", "bert", "p", 10) == ["polonium"]
    assert await keeper.words.similar("t", "anna", ["plutonum"]) == {"plutonum": ("plutonium",)}
    assert await keeper.words.similar("t", "bert", ["plutonum"]) == {}
    assert await keeper.words.similar("t", "bert", ["plutonium"]) == {}, "nobody said it, as far as bert may know"
    async with talk.database.tenant_tx("t") as connection:
        await connection.execute("UPDATE recordings SET visibility = 'private' WHERE recording_id = 'r'")
    assert await keeper.words.complete("t", "bert", "p", 10) == [], "at once, without a job"


async def test_tenants_have_vocabularies_of_their_own(keeper: Keeper, talk: Talk, database: Database) -> None:
    other = await Talk(database, "u").begin()
    await talk.say("plutonium")
    await other.say("polonium")
    await keeper.drain()
    assert await keeper.words.complete("t", "anna", "p", 10) == ["plutonium"]
    assert await keeper.words.complete("u", "anna", "p", 10) == ["polonium"]
    assert await keeper.words.similar("u", "anna", ["plutonum"]) == {}


async def test_nothing_of_revised_and_removed_segments_remains(keeper: Keeper, talk: Talk) -> None:
    first, second = await talk.say("the secret plutonium", "the plutonium")
    await keeper.drain()
    await talk.revise(first, "the weather")
    await keeper.drain()
    assert await vocabulary(talk.database) == {"the": 2, "weather": 1, "plutonium": 1}
    await talk.remove(second)
    await keeper.drain()
    assert await vocabulary(talk.database) == {"the": 1, "weather": 1}
    await talk.remove(first)
    await keeper.drain()
    assert await rows(talk.database) == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize("what", ["recordings", "tenants"])
async def test_nothing_of_a_deleted_recording_or_tenant_remains(keeper: Keeper, talk: Talk, what: str) -> None:
    await talk.say("the secret plutonium", "the plutonium")
    await keeper.drain()
    async with talk.database.tenant_tx("t") as connection:
        await connection.execute("DELETE FROM recordings")
        if what == "tenants":
            await connection.execute("DELETE FROM tenants")
    assert await rows(talk.database) == dict.fromkeys(TABLES, 0)


async def test_a_word_that_goes_and_comes_at_once_keeps_its_keys(keeper: Keeper, talk: Talk) -> None:
    """Two jobs of different recordings: one takes the last use of a word back, the other brings one."""
    await talk.recording("q")
    names = await talk.say(*["plutonium"] * 8)
    await keeper.drain()
    other = Keeper(talk.database)

    async def change(name: str, node: Keeper) -> None:
        await talk.remove(name)
        (came,) = await talk.say("plutonium", recording="q")
        await asyncio.gather(node.indexer.refresh("t", [name]), keeper.indexer.refresh("t", [came]))

    for name in names:
        await change(name, other)
    assert await vocabulary(talk.database) == {"plutonium": 8}


async def test_who_changes_a_tenants_words_does_it_alone(database: Database, talk: Talk) -> None:
    """Else two who change the same words in another order wait for each other, and one of them is broken off."""
    begun = asyncio.Event()

    async def change(first: str, second: str, ready: asyncio.Event | None) -> None:
        async with database.tenant_tx("t") as connection:
            await store.lock(connection, "t")
            await store.count(connection, "t", {("r", first): 1})
            begun.set()
            if ready is not None:
                await ready.wait()
            await store.count(connection, "t", {("r", second): 1})

    async def waits() -> bool:
        async with database.shared_tx() as connection:
            return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    ready = asyncio.Event()
    one = asyncio.ensure_future(change("aaaa", "bbbb", ready))
    await begun.wait()
    other = asyncio.ensure_future(change("bbbb", "aaaa", None))
    await until(waits)
    ready.set()
    await asyncio.gather(one, other)
    assert await vocabulary(database) == {"aaaa": 2, "bbbb": 2}


async def test_the_database_and_the_query_side_have_the_same_keys(database: Database) -> None:
    words = ["weather", "größe", "東京都庁舎", "abcd", "abc", "aaaaaaaa", "x" * 30]
    async with database.shared_tx() as connection:
        for word in words:
            found = {row[0] for row in await connection.fetch("SELECT * FROM search_keys($1)", word)}
            assert found == (stored_keys(word) if len(word) >= 4 else set()), word
    assert KEY_LETTERS == 5


async def test_candidates_are_capped_before_they_are_ranked(database: Database, talk: Talk) -> None:
    limits = msgspec.structs.replace(QUICK, words_complete_max=3, words_similar_max=2)
    keeper = await Keeper(database, limits=limits).open()
    await talk.say(*(f"pa{letter}t" for letter in "bcdefg" for _ in range(ord(letter) - ord("a"))))
    await keeper.drain()
    assert await keeper.words.complete("t", "anna", "pa", 10) == ["pagt", "paft", "paet"]
    assert await keeper.words.similar("t", "anna", ["paxt"]) == {"paxt": ("pagt", "paft")}


async def test_words_of_any_script_and_shape_are_data(keeper: Keeper, talk: Talk) -> None:
    await talk.say("größer Äpfel", "%_\\ o'clock", "ελληνικά", "zzz\U0001f600zzz")
    await keeper.drain()
    assert await keeper.words.complete("t", "anna", "gr", 5) == ["grösser"]
    assert await keeper.words.complete("t", "anna", "%", 5) == []
    assert await keeper.words.complete("t", "anna", "ελ", 5) == ["ελληνικά"]
    assert await keeper.words.complete("t", "anna", "zz", 5) == ["zzz"]


async def test_lookups_use_their_indexes_under_row_level_security(database: Database, talk: Talk) -> None:
    """A condition that is not leakproof would become a filter after a scan of the tenant's words."""
    many = {("r", f"{letter}{n:04}word"): 1 for letter in "abcdefgh" for n in range(500)}
    async with database.tenant_tx("t") as connection:
        await store.lock(connection, "t")
        await store.count(connection, "t", many)
    async with database.tenant_tx("t") as connection:
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        plan = await _plan(connection, store.COMPLETE, "'t', 'anna', 200, 'c', 'd', 500, 8")
        assert "(word >= 'c'::text)" in _conditions(plan)
        plan = await _plan(connection, store.ALIKE, "'t', '{c000,0001w}', 100")
        assert "key = ANY" in _conditions(plan)


async def _plan(connection: Connection, statement: str, values: str) -> str:
    await connection.execute(f"PREPARE looked AS {statement}")
    found = await connection.fetch(f"EXPLAIN EXECUTE looked ({values})")
    await connection.execute("DEALLOCATE looked")
    return "\n".join(row[0] for row in found)


def _conditions(plan: str) -> str:
    return " ".join(line for line in plan.splitlines() if "Index Cond" in line)
