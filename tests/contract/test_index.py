"""The contract of `search.ports.Index`. Every adapter joins through `INDEXES`; truth lies in the segments table."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.model import Filters, Hit, IndexDocument, Mode, Page, SegmentName, Sort, TextVector
from search.ports import Index
from search.postgres import PostgresIndex
from search.query import parse, quoted, tsquery
from server.store.pool import Database
from streaming.errors import BadRequest
from streaming.limits import LIMITS, Limits
from tests.fakes.embedder import FakeEmbedder, vector_of

INDEXES: dict[str, Callable[[Database, Limits], Index]] = {
    "postgres": lambda database, limits: PostgresIndex(database.tenant_tx, limits),
}
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = itertools.count(1)


class World:
    """Two users in a tenant of its own; writes segments and indexes them."""

    def __init__(self, database: Database, index: Index) -> None:
        self.database = database
        self.index = index
        self.tenant = f"tenant-{next(_numbers)}-{id(self)}"
        self.ordinals = itertools.count(1)
        self.segments: dict[str, IndexDocument] = {}

    async def begin(self) -> "World":
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute("INSERT INTO tenants (tenant_id, name) VALUES ($1, $1)", self.tenant)
            for user in ("anna", "bert"):
                await connection.execute("INSERT INTO users VALUES ($1, $2, $2)", self.tenant, user)
        await self.recording("talk")
        return self

    async def recording(self, name: str, *, owner: str = "anna", private: bool = False) -> None:
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute(
                """INSERT INTO recordings (tenant_id, recording_id, owner_id, title, visibility, language, state,
                                           engine, encoding, sample_rate, channels, started_at)
                   VALUES ($1, $2, $3, 'About ' || $2, $4, 'auto', 'live', 'test', 'pcm_s16le', 16000, 1, $5)""",
                self.tenant, name, owner, "private" if private else "tenant", BEGIN,
            )  # fmt: skip

    async def call(self, label: str, name: str, *, recording: str = "talk") -> None:
        """Name a speaker; nothing is indexed anew for it."""
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute(
                """INSERT INTO recording_speakers (tenant_id, recording_id, label, name) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (tenant_id, recording_id, label) DO UPDATE SET name = excluded.name""",
                self.tenant, recording, label, name,
            )  # fmt: skip

    async def say(self, text: str, **fields: Any) -> str:
        """One more segment, a second after the one before; searchable when this returns."""
        (name,) = await self.say_all([text], **fields)
        return name

    async def say_all(self, texts: list[str], *, recording: str = "talk", language: str = "en",
                      owner: str = "anna", private: bool = False, speaker: str | None = None) -> list[str]:  # fmt: skip
        documents = []
        async with self.database.tenant_tx(self.tenant) as connection:
            for text in texts:
                ordinal = next(self.ordinals)
                name = f"s{ordinal:05}"
                await connection.execute(
                    """INSERT INTO segments (tenant_id, recording_id, segment_id, ordinal, rev, start_ms, end_ms, text,
                                             words, speaker, language, confidence)
                       VALUES ($1, $2, $3, $4, 1, $5, $6, $7, '[]', $8, $9, 1)""",
                    self.tenant, recording, name, ordinal, ordinal * 1000, ordinal * 1000 + 900, text, speaker,
                    language,
                )  # fmt: skip
                spoken = (BEGIN + timedelta(seconds=ordinal)).timestamp() * 1000
                documents.append(
                    IndexDocument(name, recording, owner, private, int(spoken), 1, text, language, speaker)
                )
        await self.index.put(self.tenant, documents)
        self.segments.update((d.segment_id, d) for d in documents)
        return [d.segment_id for d in documents]

    async def set_text(self, name: str, text: str, rev: int) -> None:
        async with self.database.tenant_tx(self.tenant) as connection:
            await connection.execute(
                "UPDATE segments SET text = $3, rev = $4 WHERE tenant_id = $1 AND segment_id = $2",
                self.tenant, name, text, rev,
            )  # fmt: skip

    def document(self, name: str, text: str, rev: int) -> IndexDocument:
        held = self.segments[name]
        return IndexDocument(
            name, held.recording_id, held.owner_id, held.private, held.spoken_at_ms, rev, text, held.language
        )

    async def page(self, text: str, *, user: str = "anna", **options: Any) -> Page:
        return await self.index.search(self.tenant, user, parse(text, **options))

    async def hits(self, text: str, **options: Any) -> list[Hit]:
        return list((await self.page(text, **options)).hits)

    async def texts(self, text: str, **options: Any) -> set[str]:
        return {hit.text for hit in await self.hits(text, **options)}

    async def pages(self, text: str, *, limit: int, **options: Any) -> list[str]:
        """The ids of all hits, page by page."""
        names: list[str] = []
        cursor = None
        while True:
            page = await self.page(text, limit=limit, cursor=cursor, **options)
            names += [hit.segment_id for hit in page.hits]
            cursor = page.next_cursor
            if cursor is None:
                return names


@pytest.fixture(params=sorted(INDEXES))
def make_index(request: pytest.FixtureRequest, database: Database) -> Callable[..., Index]:
    return lambda limits=LIMITS: INDEXES[request.param](database, limits)


@pytest.fixture
async def world(database: Database, make_index: Callable[..., Index]) -> World:
    return await World(database, make_index()).begin()


def marked(hit: Hit) -> list[str]:
    return [hit.text[start:end] for start, end in hit.highlights]


async def test_a_word_is_found_as_soon_as_put_returns(world: World) -> None:
    name = await world.say("The weather in Lisbon is fine.")
    (hit,) = await world.hits("lisbon")
    assert (hit.segment_id, hit.recording_id, hit.title, hit.rev) == (name, "talk", "About talk", 1)
    assert (hit.start_ms, hit.end_ms, hit.text) == (1000, 1900, "The weather in Lisbon is fine.")
    assert marked(hit) == ["Lisbon"]
    assert hit.score > 0


@pytest.mark.parametrize("typed", ["w", "we", "WEAT", "weather", "fine wea", "Fine, wea"])
async def test_the_last_word_is_a_prefix_in_any_case(world: World, typed: str) -> None:
    await world.say("Fine weather today")
    assert await world.texts(typed) == {"Fine weather today"}


@pytest.mark.parametrize("typed", ["weat ", "weat.", "wea fine", "fine weather tomorrow", "eather"])
async def test_what_does_not_match(world: World, typed: str) -> None:
    await world.say("Fine weather today")
    assert await world.hits(typed) == []


@pytest.mark.parametrize("typed", ["", "   ", "?!", "\x00", "🎉"])
async def test_an_empty_query_has_no_hits(world: World, typed: str) -> None:
    await world.say("Something")
    assert await world.page(typed) == Page(())


async def test_stems_match_in_the_language_of_the_segment(world: World) -> None:
    await world.say("She runs every morning", language="en")
    await world.say("Die Häuser stehen leer", language="de-CH")
    await world.say("runs of an unknown tongue", language="und")
    assert await world.texts("running ") == {"She runs every morning"}
    assert await world.texts("running") == {"She runs every morning"}
    assert await world.texts("haus ") == {"Die Häuser stehen leer"}
    (hit,) = await world.hits("running")
    assert marked(hit) == ["runs"]


async def test_stop_words_need_not_occur_but_can_be_searched(world: World) -> None:
    await world.say("Anna runs the bakery")
    await world.say("to be or not to be")
    assert await world.texts("who is running ") == {"Anna runs the bakery"}
    assert await world.texts("not to be ") == {"to be or not to be"}
    assert await world.texts("the") == {"Anna runs the bakery"}


async def test_a_typed_stem_does_not_become_a_prefix(world: World) -> None:
    """`running` stems to `run`; as a prefix that would find every runway."""
    await world.say("The runway is closed")
    assert await world.hits("running") == []
    assert await world.texts("run") == {"The runway is closed"}


async def test_tenants_never_see_each_other(world: World, database: Database, make_index: Callable[..., Index]) -> None:
    other = await World(database, make_index()).begin()
    await world.say("A secret of the first")
    await other.say("A secret of the second")
    assert await world.texts("secret") == {"A secret of the first"}
    assert await other.texts("secret") == {"A secret of the second"}
    assert await world.hits("secret", filters=Filters(recording_ids=("second",))) == []
    await other.index.remove(other.tenant, [name for name in world.segments if name not in other.segments])
    assert await world.texts("secret") == {"A secret of the first"}


async def test_a_private_recording_is_found_by_its_owner_only(world: World) -> None:
    await world.recording("diary", owner="bert", private=True)
    await world.say("Dear diary", recording="diary", owner="bert", private=True)
    assert await world.texts("diary", user="bert") == {"Dear diary"}
    assert await world.hits("diary", user="anna") == []
    assert await world.hits("diary", user="anna", sort=Sort.NEWEST) == []


async def test_a_recording_turned_private_is_hidden_before_it_is_indexed_again(world: World) -> None:
    await world.say_all([f"plan {i}" for i in range(5)])
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute("UPDATE recordings SET visibility = 'private'")
    assert await world.pages("plan", user="bert", limit=2) == []
    assert len(await world.pages("plan", user="anna", limit=2)) == 5


async def test_a_deleted_recording_is_never_found(world: World) -> None:
    await world.recording("gone")
    await world.say("vanishing words", recording="gone")
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute("DELETE FROM recordings WHERE recording_id = 'gone'")
    assert await world.hits("vanishing") == []


async def test_filters(world: World) -> None:
    await world.recording("second")
    one = await world.say("apples in english", speaker="S1", language="en")
    two = await world.say("apples in american", speaker="S2", language="en-US", recording="second")
    three = await world.say("apples auf deutsch", speaker="S1", language="de")

    async def names(filters: Filters) -> set[str]:
        found = {hit.segment_id for hit in await world.hits("apples", filters=filters)}
        assert found == set(await world.pages("apples", limit=1, filters=filters, sort=Sort.NEWEST))
        return found

    start = int(BEGIN.timestamp()) * 1000
    assert await names(Filters(recording_ids=("second",))) == {two}
    assert await names(Filters(recording_ids=("second", "talk", "no such"))) == {one, two, three}
    assert await names(Filters(speakers=("S1",))) == {one, three}
    assert await names(Filters(speakers=("S1",), languages=("DE",))) == {three}
    assert await names(Filters(languages=("en",))) == {one, two}
    assert await names(Filters(languages=("en-us",))) == {two}
    assert await names(Filters(from_ms=start + 2000)) == {two, three}
    assert await names(Filters(from_ms=start + 2000, to_ms=start + 3000)) == {two}
    assert await names(Filters(to_ms=2**63)) == {one, two, three}
    assert await names(Filters(from_ms=2**63)) == set()
    assert await names(Filters(tags=("important",))) == set()
    assert await names(Filters(speakers=("\x00", "\ud800"))) == set()
    assert await names(Filters(speakers=())) == {one, two, three}


async def test_speakers_are_found_by_label_and_by_name(world: World) -> None:
    await world.recording("second")
    one = await world.say("apples", speaker="S1")
    two = await world.say("apples", speaker="S2")
    three = await world.say("apples", speaker="S1", recording="second")
    await world.say("apples")
    await world.call("S1", "Ädä Lovelace")
    await world.call("S2", "Bob")
    await world.call("S1", "bob", recording="second")
    await embed_all(world, FakeEmbedder())

    async def found(*speakers: str) -> set[str]:
        names = {hit.segment_id for hit in await world.hits("apples", filters=Filters(speakers=speakers))}
        assert set(await near_ids(world, "apples", filters=Filters(speakers=speakers))) == names
        return names

    assert await found("S1") == {one, three}
    assert await found("BOB") == {two, three}
    assert await found("ädÄ lovelace", "S2") == {one, two}
    assert await found("lovelace") == set(), "whole names"
    await world.call("S2", "Carol")
    assert await found("bob") == {three}
    assert await found("carol") == {two}
    other = await World(world.database, world.index).begin()
    await other.call("S1", "Carol")
    assert await found("carol") == {two}, "names of other tenants are none"


async def test_newest_comes_first_when_asked(world: World) -> None:
    names = await world.say_all(["tea tea tea", "tea", "some tea", "a very long sentence that mentions tea once"])
    assert [hit.segment_id for hit in await world.hits("tea", sort=Sort.NEWEST)] == names[::-1]


async def test_relevance_prefers_more_matches_and_then_the_newer(world: World) -> None:
    dense, plain, same = await world.say_all(
        ["tea tea tea tea", "tea with much else in it", "tea with much else in it"]
    )
    assert [hit.segment_id for hit in await world.hits("tea")] == [dense, same, plain]


@pytest.mark.parametrize("sort", Sort)
async def test_pages_have_no_doubles_and_no_gaps_while_segments_come_in(world: World, sort: Sort) -> None:
    names = await world.say_all([f"tea {'tea ' * (i % 7)} number {i}" for i in range(40)])
    seen: list[str] = []
    cursor = None
    while True:
        page = await world.page("tea", sort=sort, limit=7, cursor=cursor)
        seen += [hit.segment_id for hit in page.hits]
        cursor = page.next_cursor
        if cursor is None:
            break
        await world.say_all(["tea that came later", "tea tea tea tea tea tea tea tea tea"])
    assert len(seen) == len(set(seen))
    assert set(seen) == set(names)


async def test_relevance_ranks_a_bounded_number_of_newest_matches(
    database: Database, make_index: Callable[..., Index]
) -> None:
    world = await World(database, make_index(Limits(search_candidates_max=10))).begin()
    names = await world.say_all([f"tea number {i}" for i in range(30)])
    assert set(await world.pages("tea", limit=4)) == set(names[-10:])
    assert set(await world.pages("tea", limit=4, sort=Sort.NEWEST)) == set(names)


async def test_a_late_segment_of_an_older_time_makes_no_gap(
    database: Database, make_index: Callable[..., Index]
) -> None:
    world = await World(database, make_index(Limits(search_candidates_max=10))).begin()
    late = await world.say("to be revised")
    names = await world.say_all([f"tea number {i}" for i in range(9)])
    first = await world.page("tea", limit=4)
    await world.set_text(late, "tea after all", 2)
    await world.index.put(world.tenant, [world.document(late, "tea after all", 2)])
    rest = await world.page("tea", limit=20, cursor=first.next_cursor)
    assert {hit.segment_id for hit in first.hits + rest.hits} >= set(names)


async def test_a_revision_replaces_and_an_older_one_does_not(world: World) -> None:
    name = await world.say("Meet at the bank")
    await world.set_text(name, "Meet at the tank", 3)
    await world.index.put(world.tenant, [world.document(name, "Meet at the tank", 3)])
    await world.index.put(world.tenant, [world.document(name, "Meet at the rank", 2)])
    assert await world.hits("bank") == []
    assert await world.hits("rank") == []
    (hit,) = await world.hits("tank")
    assert (hit.rev, marked(hit)) == (3, ["tank"])


async def test_putting_again_changes_nothing_and_unknown_segments_are_skipped(world: World) -> None:
    name = await world.say("just once")
    document = world.document(name, "just once", 1)
    ghost = IndexDocument("ghost", "talk", "anna", False, 0, 1, "just never", "en")
    await world.index.put(world.tenant, [document, document, ghost])
    await world.index.put(world.tenant, [])
    assert [hit.segment_id for hit in await world.hits("just")] == [name]


async def test_highlights_fit_the_current_text_while_the_index_is_behind(world: World) -> None:
    name = await world.say("cold tea")
    await world.set_text(name, "a cup of very cold tea", 2)
    (hit,) = await world.hits("tea")
    assert (hit.text, marked(hit)) == ("a cup of very cold tea", ["tea"])


async def test_removed_segments_are_not_found(world: World) -> None:
    name = await world.say("forget me")
    await world.index.remove(world.tenant, [name, "unknown"])
    await world.index.remove(world.tenant, [])
    assert await world.hits("forget") == []


WEIRD = [
    ('O\'Brien doesn’t "quote" \\ back\\slashes', "o'brien", ["O'Brien"]),
    ("she doesn’t know", "doesn't", ["doesn’t"]),
    ("l’homme et l’eau", "homme", ["homme"]),
    ("😀🎉 party 🎉 time", "party ti", ["party", "time"]),
    ("𝒶 𐐀𐐁𐐂 deseret", "𐐨𐐩", ["𐐀𐐁𐐂"]),
    ("مرحبا بالعالم اليوم", "بالعالم", ["بالعالم"]),
    ("שלום עולם", "עול", ["עולם"]),
    ("cafe\u0301 au lait", "café", ["café"]),
    ("Straße und STRASSE", "strasse ", ["Straße", "STRASSE"]),
    ("北京天气很好", "天气", ["天气"]),
    ("हिन्दी में बात", "हिन्दी", ["हिन्दी"]),
    ("<b>bold</b> & <i>it's</i> 3.14", "bold 14", ["bold", "14"]),
    ("mail me at someone@example.com or https://example.org/path", "example", ["example", "example"]),
    ("state-of-the-art", "state of the art", ["state", "of", "the", "art"]),
    ("' OR 1=1; DROP TABLE segments; --", "' or 1=1; drop", ["OR", "1", "1", "DROP"]),
]


@pytest.mark.parametrize(("text", "typed", "parts"), WEIRD, ids=[typed for _, typed, _ in WEIRD])
async def test_weird_text(world: World, text: str, typed: str, parts: list[str]) -> None:
    await world.say(text, language="und")
    (hit,) = await world.hits(typed)
    assert marked(hit) == parts


async def test_a_text_of_ten_kilobytes(world: World) -> None:
    text = " ".join(f"word{i}" for i in range(1200)) + " needle 🎉"
    assert len(text.encode()) > 9_000
    await world.say(text)
    (hit,) = await world.hits("needle")
    assert marked(hit) == ["needle"]


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "ä", "a" * 500, "kgA="])
async def test_a_foreign_cursor_is_refused(world: World, cursor: str) -> None:
    with pytest.raises(BadRequest) as caught:
        await world.page("tea", cursor=cursor)
    assert caught.value.field == "cursor"


async def test_a_cursor_of_another_query_is_refused(world: World) -> None:
    await world.say_all(["tea one", "tea two"])
    page = await world.page("tea", limit=1)
    with pytest.raises(BadRequest):
        await world.page("coffee", limit=1, cursor=page.next_cursor)


async def test_the_search_function_refuses_the_tenant_of_another_transaction(world: World) -> None:
    await world.say("a secret")
    arguments = [world.tenant, "anna", ["'secret'"], True, *[None] * 5, False, 10, 500, *[None] * 5]
    call = "SELECT * FROM search_segments(" + ", ".join(f"${i + 1}" for i in range(17)) + ")"
    async with world.database.tenant_tx(world.tenant) as connection:
        assert len(await connection.fetch(call, *arguments)) == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.tenant_tx("somebody else") as connection:
            await connection.fetch(call, *arguments)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.shared_tx() as connection:
            await connection.fetch(call, None, *arguments[1:])


# --- by meaning ---------------------------------------------------------------------------------------------------
EMBEDDER = "concepts"


async def embed_all(world: World, embedder: FakeEmbedder) -> int:
    """Give every due segment its vector, as the filler does."""
    assert embedder.info is not None
    done = 0
    while names := await world.index.due(embedder.info.model, 100):
        for tenant in dict.fromkeys(name.tenant_id for name in names):
            due = [name.segment_id for name in names if name.tenant_id == tenant]
            texts = await world.index.due_texts(tenant, due)
            vectors = await embedder.embed([t.text for t in texts])
            made = [TextVector(t.segment_id, t.mark, v) for t, v in zip(texts, vectors, strict=True)]
            done += await world.index.put_vectors(tenant, embedder.info.model, made)
    return done


async def near(world: World, text: str, *, user: str = "anna", **options: Any) -> list[Hit]:
    query = parse(text, **options)
    return list((await world.index.search_near(world.tenant, user, query, FakeEmbedder().query(text))).hits)


async def near_ids(world: World, text: str, **options: Any) -> list[str]:
    return [hit.segment_id for hit in await near(world, text, **options)]


async def near_pages(world: World, text: str, *, limit: int, **options: Any) -> list[str]:
    names: list[str] = []
    cursor = None
    while True:
        query = parse(text, limit=limit, cursor=cursor, **options)
        page = await world.index.search_near(world.tenant, "anna", query, FakeEmbedder().query(text))
        names += [hit.segment_id for hit in page.hits]
        assert len(page.hits) <= limit
        cursor = page.next_cursor
        if cursor is None:
            return names


async def test_what_means_the_same_is_found_without_a_common_word(world: World) -> None:
    name = await world.say("we need to talk about the travel budget")
    await world.say("the kitten sleeps")
    await embed_all(world, FakeEmbedder())
    assert await world.hits("money for the journey") == []
    for mode in (Mode.HYBRID, Mode.SEMANTIC):
        (hit,) = await near(world, "money for the journey", mode=mode)
        assert (hit.segment_id, hit.title, hit.text) == (name, "About talk", "we need to talk about the travel budget")
        assert (hit.start_ms, hit.end_ms, hit.rev) == (1000, 1900, 1)
        assert hit.highlights == ()
        assert hit.score > 0
    assert await near(world, "quantum physics") == []
    assert await near(world, "") == []
    assert await near(world, "money", filters=Filters(tags=("x",))) == []


async def test_words_and_meaning_are_fused(world: World) -> None:
    words, both, meaning, neither = await world.say_all(
        ["money laundering was described in many long chapters", "money", "the budget", "the storm"]
    )
    await embed_all(world, FakeEmbedder())
    hits = {hit.segment_id: hit for hit in await near(world, "money")}
    assert next(iter(hits)) == both
    assert set(hits) == {words, both, meaning}
    assert [marked(hits[name]) for name in (words, both, meaning)] == [["money"], ["money"], []]
    assert set(await near_ids(world, "money", mode=Mode.SEMANTIC)) == {both, meaning, words}
    assert await near_ids(world, "laundering", mode=Mode.SEMANTIC) == [words]
    assert neither not in hits


async def test_a_segment_is_due_until_its_text_has_a_vector(world: World, database: Database) -> None:
    name = await world.say("the budget")
    await world.index.put(world.tenant, [world.document(name, "the budget", 1)])
    assert await world.index.due(EMBEDDER, 10) == [SegmentName(world.tenant, name)]
    assert await world.index.due_count(EMBEDDER) == 1
    assert await embed_all(world, FakeEmbedder()) == 1
    assert await world.index.due(EMBEDDER, 10) == []
    assert await near_ids(world, "money") == [name]

    await world.index.put(world.tenant, [world.document(name, "the budget", 2)])  # times moved, the words did not
    assert await world.index.due(EMBEDDER, 10) == []

    await world.set_text(name, "the storm", 3)
    await world.index.put(world.tenant, [world.document(name, "the storm", 3)])
    assert await near_ids(world, "money") == [], "nothing is found by what it no longer says"
    assert await world.index.due_count(EMBEDDER) == 1
    await embed_all(world, FakeEmbedder())
    assert await near_ids(world, "weather") == [name]

    await world.index.remove(world.tenant, [name])
    assert await world.index.due(EMBEDDER, 10) == []
    assert await near_ids(world, "weather") == []


async def test_the_newest_are_due_first_across_tenants(
    world: World, database: Database, make_index: Callable[..., Index]
) -> None:
    other = await World(database, make_index()).begin()
    other.ordinals = itertools.count(3)
    old, older = (await world.say_all(["one", "two"]))[::-1]
    (new,) = await other.say_all(["three"])
    expected = [SegmentName(other.tenant, new), SegmentName(world.tenant, old), SegmentName(world.tenant, older)]
    assert await world.index.due(EMBEDDER, 10) == expected
    assert await world.index.due(EMBEDDER, 2) == expected[:2]


async def test_a_vector_of_a_text_that_was_replaced_meanwhile_is_dropped(world: World) -> None:
    name = await world.say("the budget")
    (before,) = await world.index.due_texts(world.tenant, [name, "unknown"])
    await world.set_text(name, "the storm", 2)
    (ahead,) = await world.index.due_texts(world.tenant, [name])
    assert (ahead.text, before.mark != ahead.mark) == ("the storm", True)
    await world.index.put(world.tenant, [world.document(name, "the storm", 2)])
    vector = TextVector(name, before.mark, vector_of(before.text))
    assert await world.index.put_vectors(world.tenant, EMBEDDER, [vector]) == 0
    assert await near_ids(world, "money") == []
    assert await world.index.due_count(EMBEDDER) == 1


async def test_a_text_that_is_ahead_of_its_index_job_is_embedded_once(world: World) -> None:
    name = await world.say("the budget")
    await world.set_text(name, "the storm", 2)
    assert await embed_all(world, FakeEmbedder()) == 1
    await world.index.put(world.tenant, [world.document(name, "the storm", 2)])
    assert await world.index.due_count(EMBEDDER) == 0
    assert await near_ids(world, "weather") == [name]


async def test_a_text_without_a_vector_is_set_aside_until_it_changes(world: World) -> None:
    name = await world.say("what no model can read")
    (text,) = await world.index.due_texts(world.tenant, [name])
    assert await world.index.put_vectors(world.tenant, EMBEDDER, [TextVector(name, text.mark, None)]) == 1
    assert await world.index.due(EMBEDDER, 10) == []
    assert await near(world, "budget") == []
    assert [n.segment_id for n in await world.index.due("another", 10)] == [name]
    await world.set_text(name, "the budget", 2)
    await world.index.put(world.tenant, [world.document(name, "the budget", 2)])
    assert await embed_all(world, FakeEmbedder()) == 1


@pytest.mark.parametrize("other", ["another", "zzz"])
async def test_vectors_of_another_model_count_for_nothing_and_are_made_anew(world: World, other: str) -> None:
    """A model is told by its name, which may sort before or after; it may have other dimensions."""
    names = await world.say_all(["the budget", "some cash"])
    assert await embed_all(world, FakeEmbedder(other, dimensions=100)) == 2
    assert await near(world, "money") == []
    assert await world.index.due_count(EMBEDDER) == 2
    assert await world.index.due_count(other) == 0
    assert await embed_all(world, FakeEmbedder()) == 2
    assert set(await near_ids(world, "money")) == set(names)
    query = parse("money")
    with_other = FakeEmbedder(other, dimensions=100).query("money")
    assert (await world.index.search_near(world.tenant, "anna", query, with_other)).hits == ()


async def test_neighbours_of_other_tenants_are_never_found(
    world: World, database: Database, make_index: Callable[..., Index]
) -> None:
    other = await World(database, make_index()).begin()
    other.ordinals = itertools.count(100)
    await world.say("the first budget")
    theirs = await other.say("the second budget")
    await embed_all(world, FakeEmbedder())
    assert [hit.text for hit in await near(world, "money")] == ["the first budget"]
    assert [hit.text for hit in await near(other, "money")] == ["the second budget"]
    assert await near(world, "money", filters=Filters(recording_ids=("second",))) == []
    (text,) = await other.index.due_texts(other.tenant, [theirs])
    assert await world.index.due_texts(world.tenant, [theirs]) == []
    stolen = TextVector(theirs, text.mark, vector_of("storm"))
    assert await world.index.put_vectors(world.tenant, EMBEDDER, [stolen]) == 0
    assert len(await near(other, "money")) == 1


async def test_neighbours_in_a_private_recording_are_their_owners(world: World) -> None:
    await world.recording("diary", owner="bert", private=True)
    name = await world.say("my budget", recording="diary", owner="bert", private=True)
    await embed_all(world, FakeEmbedder())
    for mode, sort in itertools.product((Mode.HYBRID, Mode.SEMANTIC), Sort):
        assert await near_ids(world, "money", user="bert", mode=mode, sort=sort) == [name]
        assert await near(world, "money", user="anna", mode=mode, sort=sort) == []


async def test_neighbours_in_a_recording_turned_private_are_hidden_at_once(world: World) -> None:
    await world.say_all([f"budget {i}" for i in range(5)])
    await embed_all(world, FakeEmbedder())
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute("UPDATE recordings SET visibility = 'private'")
    assert await near(world, "money", user="bert", limit=2) == []
    assert len(await near(world, "money", user="anna")) == 5


async def test_neighbours_of_a_deleted_recording_are_gone(world: World) -> None:
    await world.recording("gone")
    await world.say("vanishing budget", recording="gone")
    await embed_all(world, FakeEmbedder())
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute("DELETE FROM recordings WHERE recording_id = 'gone'")
    assert await near(world, "money") == []
    assert await world.index.due("another", 10) == []


async def test_filters_hold_for_neighbours_too(world: World) -> None:
    await world.recording("second")
    one = await world.say("budget in english", speaker="S1", language="en")
    two = await world.say("budget in american", speaker="S2", language="en-US", recording="second")
    three = await world.say("budget auf deutsch", speaker="S1", language="de")
    await embed_all(world, FakeEmbedder())

    async def names(filters: Filters) -> set[str]:
        found = await near_ids(world, "money", filters=filters)
        assert set(found) == set(await near_pages(world, "money", limit=1, filters=filters, sort=Sort.NEWEST))
        return set(found)

    start = int(BEGIN.timestamp()) * 1000
    assert await names(Filters()) == {one, two, three}
    assert await names(Filters(recording_ids=("second",))) == {two}
    assert await names(Filters(speakers=("S1",), languages=("DE",))) == {three}
    assert await names(Filters(languages=("en",))) == {one, two}
    assert await names(Filters(from_ms=start + 2000)) == {two, three}
    assert await names(Filters(from_ms=start + 2000, to_ms=start + 3000)) == {two}
    assert await names(Filters(tags=("important",))) == set()


@pytest.mark.parametrize("sort", Sort)
@pytest.mark.parametrize("mode", [Mode.HYBRID, Mode.SEMANTIC])
async def test_fused_pages_have_no_doubles_and_no_gaps_while_segments_come_in(
    world: World, sort: Sort, mode: Mode
) -> None:
    texts = [f"{('tea', 'a trip', 'travel tea', 'journey tea tea')[i % 4]} {'of words ' * (i % 3)}" for i in range(40)]
    names = await world.say_all(texts)
    embedder = FakeEmbedder()
    await embed_all(world, embedder)
    seen: list[str] = []
    cursor = None
    while True:
        query = parse("tea", mode=mode, sort=sort, limit=7, cursor=cursor)
        page = await world.index.search_near(world.tenant, "anna", query, embedder.query("tea"))
        seen += [hit.segment_id for hit in page.hits]
        cursor = page.next_cursor
        if cursor is None:
            break
        await world.say_all(["tea that came later", "tea"])
        await embed_all(world, embedder)
    assert len(seen) == len(set(seen))
    assert set(seen) == set(names)
    if sort is Sort.NEWEST:
        assert seen == names[::-1]


async def test_no_hit_is_shown_twice_while_vectors_are_being_made(world: World) -> None:
    names = await world.say_all([f"{('tea', 'a trip')[i % 2]} {'word ' * i}" for i in range(30)])
    embedder = FakeEmbedder()
    seen: list[str] = []
    cursor = None
    while True:
        query = parse("tea", limit=4, cursor=cursor)
        page = await world.index.search_near(world.tenant, "anna", query, embedder.query("tea"))
        seen += [hit.segment_id for hit in page.hits]
        cursor = page.next_cursor
        if cursor is None:
            break
        due = await world.index.due_texts(world.tenant, [n.segment_id for n in await world.index.due(EMBEDDER, 5)])
        made = [TextVector(d.segment_id, d.mark, vector_of(d.text)) for d in due]
        await world.index.put_vectors(world.tenant, EMBEDDER, made)
    assert len(seen) == len(set(seen))
    assert set(seen) >= set(names[::2])


async def test_a_cursor_of_another_mode_is_refused(world: World) -> None:
    await world.say_all(["tea one", "tea two"])
    await embed_all(world, FakeEmbedder())
    query = parse("tea", limit=1)
    page = await world.index.search_near(world.tenant, "anna", query, FakeEmbedder().query("tea"))
    for mode in (Mode.KEYWORD, Mode.SEMANTIC):
        with pytest.raises(BadRequest):
            parse("tea", limit=1, cursor=page.next_cursor, mode=mode)


SYNTAX = st.text(st.sampled_from("ab'\"\\:*&|!()<->% \x00\u2019é今😀") | st.characters(), max_size=40)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(typed=SYNTAX)
async def test_nothing_typed_is_tsquery_syntax(database: Database, typed: str) -> None:
    """Whatever is typed asks for its words: no operator comes from the text, nothing raises."""
    query = parse(typed)
    async with database.shared_tx() as connection:
        built = await connection.fetchval("SELECT to_tsquery('simple', $1)::text", tsquery(query))
        operands = await connection.fetchval(
            "SELECT search_tsquery($1, $2, ARRAY['english', 'simple'])::text", [quoted(w) for w in query.words], True
        )
    assert "!" not in built
    assert "|" not in built
    assert (built == "") is (query.words == ())
    assert (operands is None) is (query.words == ())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(word=SYNTAX.filter(lambda text: text != "" and not any("\ud800" <= c <= "\udfff" for c in text)))
async def test_a_quoted_operand_is_one_operand_even_of_raw_text(database: Database, word: str) -> None:
    async with database.shared_tx() as connection:
        nodes = await connection.fetchval("SELECT to_tsquery('simple', $1)::text", f"{quoted(word)} & 'anchor'")
    assert nodes.endswith("'anchor'")
    assert "!" not in nodes.replace("'!'", "")
