"""What is particular to the index in Postgres: its expressions, its functions, and what it shares with the truth."""

import shutil
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.analysis import ALGORITHMS, analyse
from search.matching import expression, matches, tsquery
from search.model import LATEST_US, Bounds, Edition, EditionState, Expression, Form, Held, IndexDocument, Term
from search.postgres import EXPIRE_ROWS, PostgresIndex, tsvector
from search.query import nfc, parse, quoted
from server.store.migrate import FOLDER, migrate
from server.store.pool import Database
from server.store.transcripts import StoredTranscripts
from streaming.limits import LIMITS
from tests.support.indexes import World

SHARED = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database, PostgresIndex(database.tenant_tx)).begin()


# --- expressions --------------------------------------------------------------------------------------------------
TOKENS = st.sampled_from(("a", "ab", "abc", "b", "ba", "run", "~run", "~a", "~b", "rünn"))
FORMS = st.builds(Form, st.lists(TOKENS, min_size=1, max_size=3).map(tuple), st.booleans())
TERMS = st.builds(Term, st.lists(FORMS, min_size=1, max_size=3).map(tuple))
CLAUSES = st.lists(TERMS, min_size=1, max_size=3).map(tuple)
EXPRESSIONS = st.builds(Expression, st.lists(CLAUSES, min_size=1, max_size=3).map(tuple))
TEXTS = st.lists(st.sampled_from(("a", "ab", "abc", "b", "ba", "run", "runs", "running", "rünn")), max_size=8)


@SHARED
@given(wanted=EXPRESSIONS, texts=st.lists(TEXTS.map(" ".join), min_size=1, max_size=10))
async def test_memory_and_database_agree_on_what_matches(
    database: Database, wanted: Expression, texts: list[str]
) -> None:
    analysed = [analyse(text, "en") for text in texts]
    async with database.shared_tx() as connection:
        rows = await connection.fetch(
            "SELECT t::tsvector @@ $2::text::tsquery AS found FROM unnest($1::text[]) WITH ORDINALITY AS u (t, n)"
            " ORDER BY n",
            [tsvector(text) for text in analysed],
            tsquery(wanted),
        )
    assert [row["found"] for row in rows] == [matches(wanted, text) for text in analysed]


SYNTAX = st.text(st.sampled_from("ab'\"\\:*&|!()<->%~ \x00\u2019é今😀") | st.characters(), max_size=40)


@SHARED
@given(typed=SYNTAX, spoken=SYNTAX)
async def test_nothing_typed_or_said_is_syntax(database: Database, typed: str, spoken: str) -> None:
    """Whatever is typed asks for its words: no operator comes from the text, nothing raises."""
    query = parse(typed)
    wanted = tsquery(expression(query, ("en", "de")))
    words = [word for entry in query.words for word in entry.split(" ")]
    text = analyse(nfc(spoken).encode("utf-8", "ignore").decode(), "de")
    async with database.shared_tx() as connection:
        built = await connection.fetchval("SELECT $1::text::tsquery::text", wanted)
        held = await connection.fetchval("SELECT tsvector_to_array($1::text::tsvector)", tsvector(text))
    assert "!" not in built
    assert (built == "") is (words == [])
    assert set(held) == {token for token, _ in text.tokens()}


@SHARED
@given(word=SYNTAX.filter(lambda text: text.strip("\x00 ") != "" and not any("\ud800" <= c <= "\udfff" for c in text)))
async def test_a_quoted_operand_is_one_operand_even_of_raw_text(database: Database, word: str) -> None:
    async with database.shared_tx() as connection:
        nodes = await connection.fetchval("SELECT numnode($1::text::tsquery)", f"{quoted(word)} & 'anchor'")
    assert nodes == 3


async def test_words_of_all_languages_are_kept_as_they_are(database: Database) -> None:
    async with database.shared_tx() as connection:
        for language in ("und", *ALGORITHMS):
            text = analyse(nfc("Straße, ΣΊΣΥΦΟΣ; książkami हिन्दी 北京 الكتاب ծառեր runs"), language)
            held = await connection.fetchval("SELECT tsvector_to_array($1::text::tsvector)", tsvector(text))
            assert set(held) == {token for token, _ in text.tokens()}, language


async def test_the_longest_text_of_the_longest_words_fits(world: World) -> None:
    size, words = LIMITS.search_word_chars_max, LIMITS.search_text_chars_max // LIMITS.search_word_chars_max
    text = " ".join(chr(0x10428 + n % 40) * (size - 4) + f"{n:04}" for n in range(words + 100))
    assert len(text.encode()) > 3 * LIMITS.search_text_chars_max
    name = await world.say(text, language="en")
    assert await world.matched(f"{text.split()[0]} ") == [name]
    assert await world.matched(f"{text.split()[words - 1]} ") == [name]
    assert await world.matched(f"{text.split()[words]} ") == []


async def test_more_words_than_a_tsvector_has_positions_are_found(world: World) -> None:
    count = LIMITS.search_text_words_max
    name = await world.say(" ".join(f"w{n}" for n in range(count + 1)))
    assert await world.matched(f"w{count - 1} ") == [name]
    assert await world.matched(f"w{count - 2}'w{count - 1} ") == [name], "side by side, at the end"
    assert await world.matched(f"w{count} ") == []


# --- functions ----------------------------------------------------------------------------------------------------
MATCH = "SELECT * FROM search_match(" + ", ".join(f"${n}" for n in range(1, 17)) + ")"


async def test_the_match_function_refuses_the_tenant_of_another_transaction(world: World) -> None:
    await world.say("a secret")
    arguments: list[Any] = [world.tenant, "anna", "'secret'", *[None] * 10, False, 10, 500]
    call = MATCH.replace("$3,", "$3::text::tsquery,")
    async with world.database.tenant_tx(world.tenant) as connection:
        assert len(await connection.fetch(call, *arguments)) == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.tenant_tx("somebody else") as connection:
            await connection.fetch(call, *arguments)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.shared_tx() as connection:
            await connection.fetch(call, None, *arguments[1:])


@pytest.mark.parametrize("function", ["search_visible", "search_candidates"])
async def test_what_is_behind_the_guards_cannot_be_called(world: World, function: str) -> None:
    count = 10 if function == "search_visible" else 14
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.tenant_tx(world.tenant) as connection:
            await connection.fetch(f"SELECT * FROM {function}({', '.join(['NULL'] * count)})")


# --- what it shares with the truth --------------------------------------------------------------------------------
async def test_a_segment_that_is_gone_is_skipped_and_its_recording_takes_all_along(world: World) -> None:
    ghost = IndexDocument("ghost", "talk", "anna", False, 0, 1, "just never", "en", vectors=world.vectors("never"))
    name = await world.say("just once")
    await world.index.put(world.tenant, [ghost, world.segments[name]])
    assert await world.matched("just") == [name]
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute("DELETE FROM recordings")
    assert await world.index.held(world.tenant, None, 10) == ([], None)


async def test_rows_of_another_analysis_are_told_as_old_and_found_as_they_were_said(world: World) -> None:
    name = await world.say("she runs")
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute("UPDATE segment_index SET analysis = 0, tsv = '''she'':1 ''runs'':2 ''run'':4'")
    assert await world.index.held_of(world.tenant, [name]) == [Held(name, 0, ("concepts",))]
    assert await world.matched("runs ") == [name]
    assert await world.matched("running ") == []
    await world.index.put(world.tenant, [world.segments[name]])
    assert await world.index.held(world.tenant, None, 10) == ([Held(name, 1, ("concepts",))], None)
    assert await world.matched("running ") == [name]


async def vector_rows(world: World) -> list[tuple[object, ...]]:
    async with world.database.tenant_tx(world.tenant) as connection:
        rows = await connection.fetch(
            "SELECT model, due, searched, embedding IS NOT NULL AS made, text_key FROM segment_vectors"
        )
    return [(row["model"], row["due"], row["searched"], row["made"]) for row in rows]


async def test_an_older_document_puts_no_older_vector_into_the_truth(world: World) -> None:
    """Its text is not the segment's any more: the vector of the present one is due, and nothing takes its place."""
    name = await world.say("the budget")
    late = world.segments[name]
    revised = await world.set_text(name, "the storm", 2)
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute("UPDATE segment_vectors SET due = true, searched = false, embedding = NULL")
    await world.index.put(world.tenant, [late])
    assert await vector_rows(world) == [("concepts", True, False, False)]
    assert await world.near("money") == []
    await world.index.put(world.tenant, [revised])
    assert await vector_rows(world) == [("concepts", False, True, True)]


async def test_a_revision_of_the_same_text_leaves_its_vector_as_it_is(world: World) -> None:
    name = await world.say("the budget")
    async with world.database.tenant_tx(world.tenant) as connection:
        before = await connection.fetchval("SELECT ctid::text FROM segment_vectors")
    held = world.segments[name]
    await world.index.put(world.tenant, [msgspec.structs.replace(held, rev=2, spoken_at_ms=held.spoken_at_ms + 5)])
    async with world.database.tenant_tx(world.tenant) as connection:
        after = await connection.fetchval("SELECT ctid::text FROM segment_vectors")
    assert before == after, "not written again"
    assert [(f.segment_id, f.spoken_at_us) for f in await world.nearest("money")] == [
        (name, (held.spoken_at_ms + 5) * 1000)
    ]


async def test_a_vector_that_is_taken_out_of_the_index_stays_in_the_truth(world: World) -> None:
    name = await world.say("the budget")
    for take_out in (
        world.index.remove(world.tenant, [name]),
        world.index.put(world.tenant, [msgspec.structs.replace(world.segments[name], vectors=())]),
        world.index.forget(world.tenant),
    ):
        await take_out
        assert await vector_rows(world) == [("concepts", False, False, True)]
        assert await world.near("money") == []
        await world.index.put(world.tenant, [world.segments[name]])
        assert await world.near("money") == [name]


async def test_whose_vector_it_is_by_names_of_any_kind(world: World) -> None:
    """Names of models are people's: commas, quotes and spaces in them divide nothing."""
    name = await world.say("the budget")
    odd = "a,b 'c' {d}"
    vectors = tuple(msgspec.structs.replace(v, model=odd) for v in world.vectors("the budget"))
    await world.index.put(world.tenant, [msgspec.structs.replace(world.segments[name], vectors=vectors)])
    assert await world.index.held_of(world.tenant, [name]) == [Held(name, 1, (odd,))]


async def test_it_is_freed_with_its_last_edition(world: World) -> None:
    """Another adapter's does not keep it."""
    other = await world.another()
    names = await world.say_all(["the budget", "the storm"])
    await other.say("the budget")
    dropped = Edition(1, 1, "concepts", EditionState.CURRENT, "postgres")
    add = "INSERT INTO index_editions (adapter, schema, analysis, state) VALUES ($1, 1, 1, $2)"
    async with world.database.shared_tx() as connection:
        await connection.execute(add, "postgres", "building")
        await connection.execute(add, "weaviate", "current")
    await world.index.drop(dropped)
    assert await world.matched("budget") == await world.near("money") == names[:1]
    async with world.database.shared_tx() as connection:
        await connection.execute("UPDATE index_editions SET state = 'retired' WHERE adapter = 'postgres'")
    await world.index.drop(dropped)
    await world.index.drop(dropped)
    assert await world.index.tenants() == []
    assert await vector_rows(world) == [("concepts", False, False, True)] * 2, "the truth stays"


@pytest.mark.parametrize("rows", [EXPIRE_ROWS, EXPIRE_ROWS + 1])
async def test_all_of_it_is_freed(world: World, rows: int) -> None:
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute(
            """INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text, words,
                                     language, confidence)
               SELECT $1, 'talk', 's' || n, n, 1, n, n, 'tea', '[]', 'en', 1 FROM generate_series(1, $2) n""",
            world.tenant, rows,
        )  # fmt: skip
        await connection.execute(
            """INSERT INTO segment_index (tenant_id, segment_id, recording_id, owner_id, private, spoken_at, rev,
                                          language, tsv)
               SELECT $1, segment_id, 'talk', 'anna', false, now(), 1, 'en', '' FROM segments""",
            world.tenant,
        )  # fmt: skip
    assert await world.index.tenants() == [world.tenant]
    await world.index.drop(Edition(1, 1, "", EditionState.CURRENT, "postgres"))
    assert await world.index.tenants() == []


BEFORE = """
INSERT INTO tenants (tenant_id, name) VALUES ('t', 't');
INSERT INTO users VALUES ('t', 'u', 'u');
INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state, engine, encoding,
                        sample_rate, channels)
    VALUES ('t', 'r', 'u', 'Talk', 'tenant', 'auto', 'ended', 'test', 'pcm_s16le', 16000, 1);
INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text, words, language,
                      confidence)
    SELECT 't', 'r', 's' || n, n, 3, n, n, 'she runs', '[]', language, 1
    FROM unnest(ARRAY['en-us', 'nb', 'und']) WITH ORDINALITY AS u (language, n);
INSERT INTO segment_index (tenant_id, segment_id, recording_id, owner_id, private, spoken_at, rev, language, tsv)
    SELECT tenant_id, segment_id, 'r', 'u', false, now(), rev, language, search_vector(text, language) FROM segments;
"""


async def test_what_was_indexed_before_is_found_as_it_was_said_and_told_as_old(empty_dsn: str, tmp_path: Path) -> None:
    for path in FOLDER.glob("*.sql"):
        if path.name < "0015":
            shutil.copy(path, tmp_path)
    await migrate(empty_dsn, tmp_path)
    owner = await asyncpg.connect(empty_dsn)
    await owner.execute(BEFORE)
    await owner.close()
    await migrate(empty_dsn)
    database = Database(empty_dsn)
    await database.open()
    try:
        index = PostgresIndex(database.tenant_tx)
        languages = await StoredTranscripts(database.tenant_tx).languages("t")
        assert languages == ("en", "no")
        bounds = Bounds(user_id="u", newest_us=LATEST_US, limit=10)
        found = await index.match("t", expression(parse("runs "), languages), bounds)
        assert sorted(f.segment_id for f in found) == ["s1", "s2", "s3"]
        assert {held.rev for held in (await index.held("t", None, 10))[0]} == {0}
    finally:
        await database.close()
