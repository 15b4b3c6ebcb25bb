"""The contract of `search.ports.Index`: what every adapter finds, and what none does (`tests.support.indexes`)."""

import itertools
import random

import msgspec
import pytest

from search.analysis import analyse
from search.matching import expression, matches
from search.model import Expression, Filters, Held, Position, Sort
from search.query import nfc, parse
from server.store.pool import Database
from server.store.transcripts import note_languages
from streaming.limits import Limits
from tests.fakes.embedder import FakeEmbedder, vector_of
from tests.support.indexes import BEGIN, MakeIndex, World

START_MS = int(BEGIN.timestamp()) * 1000


# --- by words -----------------------------------------------------------------------------------------------------
async def test_a_word_is_found_as_soon_as_put_returns(world: World) -> None:
    name = await world.say("The weather in Lisbon is fine.")
    (found,) = await world.found("lisbon")
    assert (found.segment_id, found.recording_id) == (name, "talk")
    assert found.spoken_at_us == (START_MS + 1000) * 1000
    assert found.score > 0


async def test_the_last_word_is_a_prefix_in_any_case(world: World) -> None:
    await world.say("Fine weather today")
    for typed in ("w", "we", "WEAT", "weather", "fine wea", "Fine, wea"):
        assert await world.texts(typed) == {"Fine weather today"}, typed
    for typed in ("weat ", "weat.", "wea fine", "fine weather tomorrow", "eather"):
        assert await world.found(typed) == [], typed


async def test_an_expression_without_clauses_matches_nothing(world: World) -> None:
    await world.say("Something")
    bounds = await world.bounds(parse("any"))
    assert await world.index.match(world.tenant, Expression(()), bounds) == []


async def test_stems_match_in_the_language_of_the_segment(world: World) -> None:
    await world.say("She runs every morning", language="en")
    await world.say("Die Häuser stehen leer", language="de-CH")
    await world.say("runs of an unknown tongue", language="und")
    assert await world.texts("running ") == {"She runs every morning"}
    assert await world.texts("running") == {"She runs every morning"}
    assert await world.texts("haus ") == {"Die Häuser stehen leer"}
    assert await world.texts("runs ") == {"She runs every morning", "runs of an unknown tongue"}


async def test_stop_words_need_not_occur_but_can_be_searched(world: World) -> None:
    await world.say("Anna runs the bakery")
    await world.say("to be or not to be")
    assert await world.texts("who is running ") == {"Anna runs the bakery"}
    assert await world.texts("bakery where the") == {"Anna runs the bakery"}
    assert await world.texts("not to be ") == {"to be or not to be"}
    assert await world.texts("the") == {"Anna runs the bakery"}


async def test_a_typed_stem_does_not_become_a_prefix(world: World) -> None:
    """`running` stems to `run`; as a prefix that would find every runway."""
    await world.say("The runway is closed")
    assert await world.found("running") == []
    assert await world.texts("run") == {"The runway is closed"}


WEIRD = [
    ('O\'Brien doesn’t "quote" \\ back\\slashes', "o'brien"),
    ("she doesn’t know", "doesn't"),
    ("l’homme et l’eau", "homme"),
    ("😀🎉 party 🎉 time", "party ti"),
    ("𝒶 𐐀𐐁𐐂 deseret", "𐐨𐐩"),
    ("مرحبا بالعالم اليوم", "بالعالم"),
    ("שלום עולם", "עול"),
    ("cafe\u0301 au lait", "café"),
    ("Straße und STRASSE", "strasse "),
    ("北京天气很好", "天气"),
    ("हिन्दी में बात", "हिन्दी"),
    ("<b>bold</b> & <i>it's</i> 3.14", "bold 14"),
    ("mail me at someone@example.com or https://example.org/path", "example"),
    ("state-of-the-art", "state of the art"),
    ("' OR 1=1; DROP TABLE segments; --", "' or 1=1; drop"),
]


async def test_weird_text(world: World) -> None:
    names = await world.say_all([text for text, _ in WEIRD], language="und")
    for name, (text, typed) in zip(names, WEIRD, strict=True):
        assert name in await world.matched(typed), text


async def test_words_typed_side_by_side_must_stand_so(world: World) -> None:
    beside = await world.say("l'homme est là", language="und")
    await world.say("homme et l eau", language="und")
    assert await world.matched("l'homme ") == [beside]
    assert await world.matched("l'hom") == [beside]
    assert await world.matched("homme'l ") == []
    together = await world.say("天气北京", language="und")
    assert await world.matched("天气 ") == [together]
    assert await world.matched("北天 ") == []


VOCABULARY = ("run", "runs", "running", "house", "houses", "Haus", "Häuser", "the", "die", "of", "3", "tea", "team")


async def test_what_is_found_is_what_matches_in_memory(world: World) -> None:
    """Subscriptions, highlights and both indexes may never disagree."""
    drawn = random.Random(7)
    for language in ("en", "de", "und"):
        texts = [
            drawn.choice((" ", "'", ", ")).join(drawn.choices(VOCABULARY, k=drawn.randint(1, 6))) for _ in range(25)
        ]
        await world.say_all(texts, language=language)
    languages = await world.transcripts.languages(world.tenant)
    assert languages == ("de", "en")
    analysed = {d.segment_id: analyse(nfc(d.text), d.language) for d in world.segments.values()}
    hits = 0
    for _ in range(60):
        typed = drawn.choice((" ", " ", "'")).join(drawn.choices(VOCABULARY, k=drawn.randint(1, 3)))
        typed = typed[: drawn.randint(2, len(typed))] if len(typed) > 2 else typed
        typed += drawn.choice(("", " "))
        wanted = expression(parse(typed), languages)
        expected = {name for name, text in analysed.items() if matches(wanted, text)}
        assert set(await world.matched(typed)) == expected, typed
        hits += len(expected)
    assert hits > 60


async def test_a_text_of_ten_kilobytes(world: World) -> None:
    text = " ".join(f"word{i}" for i in range(1200)) + " needle 🎉"
    assert len(text.encode()) > 9_000
    name = await world.say(text)
    assert await world.matched("needle") == [name]


# --- who sees what ------------------------------------------------------------------------------------------------
async def test_tenants_never_see_each_other(world: World) -> None:
    other = await world.another()
    await world.say("A secret budget of the first")
    other.ordinals = itertools.count(1)
    (theirs,) = await other.say_all(["A secret budget of the second"])
    assert await world.texts("secret") == {"A secret budget of the first"}
    assert await other.texts("secret") == {"A secret budget of the second"}
    assert len(await world.near("money")) == len(await other.near("money")) == 1
    await other.index.remove(other.tenant, [theirs])
    assert await world.texts("secret") == {"A secret budget of the first"}, "the same id, another tenant's"
    assert len(await world.near("money")) == 1
    assert await other.found("secret") == []
    assert await other.near("money") == []


async def test_a_private_recording_is_found_by_its_owner_only(world: World) -> None:
    await world.recording("diary", owner="bert", private=True)
    name = await world.say("Dear diary, my budget", recording="diary", owner="bert", private=True)
    assert await world.matched("diary", user="bert") == [name]
    assert await world.near("money", user="bert") == [name]
    for sort in Sort:
        assert await world.found("diary", user="anna", sort=sort) == []
    assert await world.near("money", user="anna") == []


async def test_filters(world: World) -> None:
    await world.recording("second")
    one = await world.say("apple budget in english", speaker="S1", language="en")
    two = await world.say("apple budget in american", speaker="S2", language="en-US", recording="second")
    three = await world.say("apple budget auf deutsch", speaker="S1", language="de")

    async def names(**given: object) -> set[str]:
        filters = parse("any", filters=Filters(**given)).filters  # type: ignore[arg-type]
        found = set(await world.matched("apple", filters=filters))
        assert found == set(await world.matched("apple", filters=filters, sort=Sort.NEWEST))
        assert found == set(await world.near("money", filters=filters))
        return found

    assert await names() == {one, two, three}
    assert await names(recording_ids=("second",)) == {two}
    assert await names(recording_ids=("second", "talk", "no such")) == {one, two, three}
    assert await names(speakers=("S1",)) == {one, three}
    assert await names(speakers=("S1",), languages=("DE",)) == {three}
    assert await names(languages=("en",)) == {one, two}
    assert await names(languages=("en-us",)) == {two}
    assert await names(from_ms=START_MS + 2000) == {two, three}
    assert await names(from_ms=START_MS + 2000, to_ms=START_MS + 3000) == {two}
    assert await names(to_ms=2**63) == {one, two, three}
    assert await names(from_ms=2**63) == set()
    assert await names(from_ms=-(2**63)) == {one, two, three}
    assert await names(to_ms=-(2**63)) == set()
    assert await names(speakers=('S1" OR',)) == set()


async def test_speakers_are_found_by_label_and_by_name(world: World) -> None:
    await world.recording("second")
    one = await world.say("apple budget", speaker="S1")
    two = await world.say("apple budget", speaker="S2")
    three = await world.say("apple budget", speaker="S1", recording="second")
    await world.say("apple budget")
    await world.call("S1", "Ädä Lovelace")
    await world.call("S2", "Bob")
    await world.call("S1", "bob", recording="second")

    async def found(*speakers: str) -> set[str]:
        names = set(await world.matched("apple", filters=Filters(speakers=speakers)))
        assert set(await world.near("money", filters=Filters(speakers=speakers))) == names
        return names

    assert await found("S1") == {one, three}
    assert await found("BOB") == {two, three}
    assert await found("ädÄ lovelace", "S2") == {one, two}
    assert await found("lovelace") == set(), "whole names"
    await world.call("S2", "Carol")
    assert await found("bob") == {three}
    assert await found("carol") == {two}
    other = await world.another()
    await other.call("S1", "Carol")
    assert await found("carol") == {two}, "names of other tenants are none"


# --- order --------------------------------------------------------------------------------------------------------
async def test_newest_first_after_a_position(world: World) -> None:
    names = await world.say_all(["tea tea tea", "tea", "some tea", "a very long sentence that mentions tea once"])
    found = await world.found("tea", sort=Sort.NEWEST)
    assert [f.segment_id for f in found] == names[::-1]
    assert {f.score for f in found} == {0.0}
    assert await world.matched("tea", sort=Sort.NEWEST, limit=3) == names[:0:-1]
    after = Position(0.0, found[1].spoken_at_us, found[1].segment_id)
    assert await world.matched("tea", sort=Sort.NEWEST, after=after) == names[1::-1]
    assert await world.matched("tea", sort=Sort.NEWEST, after=after, limit=1) == [names[1]]


async def test_of_equal_times_the_lower_id_comes_first_and_pages_divide_them(world: World) -> None:
    documents = await world.write_all(["tea"] * 5)
    at = documents[0].spoken_at_ms
    await world.index.put(world.tenant, [msgspec.structs.replace(d, spoken_at_ms=at) for d in documents])
    names = [d.segment_id for d in documents]
    assert await world.matched("tea", sort=Sort.NEWEST) == names
    assert await world.matched("tea") == names
    after = Position(0.0, at * 1000, names[1])
    assert await world.matched("tea", sort=Sort.NEWEST, after=after) == names[2:]


async def test_relevance_prefers_more_matches_and_then_the_newer(world: World) -> None:
    dense, plain, same = await world.say_all(
        ["tea tea tea tea", "tea with much else in it", "tea with much else in it"]
    )
    assert await world.matched("tea") == [dense, same, plain]
    assert await world.matched("tea", limit=2) == [dense, same]
    scores = [found.score for found in await world.found("tea")]
    assert scores == sorted(scores, reverse=True)


async def test_nothing_spoken_later_than_the_bound(world: World) -> None:
    one, two, _ = await world.say_all(["tea budget one", "tea budget two", "tea budget three"])
    newest_us = (START_MS + 2000) * 1000
    for sort in Sort:
        assert set(await world.matched("tea", sort=sort, newest_us=newest_us)) == {one, two}
    assert set(await world.near("money", newest_us=newest_us)) == {one, two}
    assert await world.matched("tea", newest_us=newest_us - 1) == [one]


async def test_relevance_ranks_the_newest_of_too_many(database: Database, make_index: MakeIndex) -> None:
    limits = Limits(search_candidates_max=10)
    world = await World(database, await make_index(limits), limits).begin()
    names = await world.say_all([f"tea number {i}" for i in range(30)])
    found = await world.matched("tea")
    assert len(found) == 10
    assert set(found) <= set(names)
    assert set(await world.matched("tea", sort=Sort.NEWEST, limit=30)) == set(names)


# --- by meaning ---------------------------------------------------------------------------------------------------
async def test_what_means_the_same_is_found_without_a_common_word(world: World) -> None:
    name = await world.say("we need to talk about the travel budget")
    await world.say("the kitten sleeps")
    (found,) = await world.nearest("money for the journey")
    assert (found.segment_id, found.recording_id) == (name, "talk")
    expected = float(vector_of("money for the journey") @ vector_of("we need to talk about the travel budget"))
    assert found.score == pytest.approx(expected, abs=0.01)
    assert found.spoken_at_us == (START_MS + 1000) * 1000
    assert await world.near("quantum physics") == []


async def test_the_most_alike_come_first_and_no_more_than_asked_for(world: World) -> None:
    texts = ["budget budget storm kitten", "budget", "budget budget storm", "budget budget budget storm"]
    names = await world.say_all(texts)
    alike = [names[1], names[3], names[2], names[0]]
    assert await world.near("money") == alike
    assert await world.near("money", limit=2) == alike[:2]


async def test_a_revision_replaces_words_and_vector(world: World) -> None:
    name = await world.say("meet at the bank about the budget")
    revised = await world.set_text(name, "meet at the tank in the storm", 3)
    await world.index.put(world.tenant, [revised])
    assert await world.found("bank") == []
    assert await world.near("money") == []
    assert await world.matched("tank") == await world.near("weather") == [name]
    assert await world.index.held_of(world.tenant, [name, "unknown"]) == [Held(name, 3, ("concepts",))]


async def test_a_document_without_a_vector_is_found_by_its_words_only(world: World) -> None:
    name = await world.say("the budget")
    document = world.segments[name]
    bare = msgspec.structs.replace(document, vectors=(), rev=2)
    await world.index.put(world.tenant, [bare])
    assert await world.matched("budget") == [name]
    assert await world.near("money") == []
    assert await world.index.held_of(world.tenant, [name]) == [Held(name, 2, ())]
    await world.index.put(world.tenant, [document])
    assert await world.near("money") == [name]


@pytest.mark.parametrize("dimensions", [384, 100])
async def test_vectors_of_each_model_are_found_by_it_alone(world: World, dimensions: int) -> None:
    """While a model changes, some segments have vectors of both, others of one."""
    other = FakeEmbedder("another", dimensions)
    both = await world.say("the budget")
    world.models = [other]
    late = await world.say("some cash")
    assert await world.near("money", model=FakeEmbedder()) == [both]
    assert await world.near("money", model=other) == [late]
    world.models = [FakeEmbedder(), other]
    document = msgspec.structs.replace(world.segments[both], vectors=world.vectors("the budget"))
    await world.index.put(world.tenant, [document])
    assert await world.near("money", model=FakeEmbedder()) == [both]
    assert set(await world.near("money", model=other)) == {both, late}
    assert await world.near("money", model=FakeEmbedder("a third")) == []
    assert await world.index.held_of(world.tenant, [both]) == [Held(both, 1, ("another", "concepts"))]


# --- what it holds ------------------------------------------------------------------------------------------------
async def test_putting_again_changes_nothing(world: World) -> None:
    name = await world.say("just once")
    document = world.segments[name]
    await world.index.put(world.tenant, [document, document])
    await world.index.put(world.tenant, [])
    assert await world.matched("just") == [name]
    assert await world.index.held(world.tenant, None, 10) == ([Held(name, 1, ("concepts",))], None)


async def test_of_one_segment_the_last_document_counts(world: World) -> None:
    """Whoever writes last has looked last; the numbers of revisions decide nothing here."""
    name = await world.say("the first")
    newer, older = (msgspec.structs.replace(world.segments[name], rev=rev, vectors=()) for rev in (5, 2))
    await world.index.put(world.tenant, [newer, older])
    assert await world.index.held_of(world.tenant, [name]) == [Held(name, 2)]
    await world.index.put(world.tenant, [newer])
    assert await world.index.held_of(world.tenant, [name]) == [Held(name, 5)]


async def test_removed_segments_are_not_found(world: World) -> None:
    name = await world.say("forget my budget")
    await world.index.remove(world.tenant, [name, "unknown"])
    await world.index.remove(world.tenant, [])
    assert await world.found("forget") == []
    assert await world.near("money") == []
    assert await world.index.held_of(world.tenant, [name]) == []


async def test_a_tenant_is_forgotten_and_no_other(world: World) -> None:
    other = await world.another()
    await world.say_all(["one budget", "two"])
    await other.say("three budget")
    assert {world.tenant, other.tenant} <= set(await world.index.tenants())
    assert await world.index.tenants() == sorted(await world.index.tenants())
    await world.index.forget(world.tenant)
    await world.index.forget("nobody")
    assert await world.index.held(world.tenant, None, 10) == ([], None)
    assert await world.near("money") == []
    assert world.tenant not in await world.index.tenants()
    assert await other.texts("three") == {"three budget"}


async def test_all_that_is_held_page_by_page(world: World) -> None:
    names = await world.say_all([f"number {i}" for i in range(7)])
    held: list[Held] = []
    after = None
    while True:
        page, after = await world.index.held(world.tenant, after, 3)
        assert len(page) <= 3
        held += page
        if after is None:
            break
    assert sorted(h.segment_id for h in held) == names
    assert {(h.rev, h.models) for h in held} == {(1, ("concepts",))}
    assert sorted(h.segment_id for h in await world.index.held_of(world.tenant, names[2:4])) == names[2:4]


async def test_what_an_index_says_of_itself(world: World) -> None:
    capabilities = world.index.capabilities
    assert capabilities.name
    assert capabilities.vectors
    assert capabilities.schema >= 1


async def test_languages_are_noted_once_each(world: World) -> None:
    async with world.database.tenant_tx(world.tenant) as connection:
        await note_languages(connection, world.tenant, ["en-US", "en", "nb", "und", "zh", ""])
        await note_languages(connection, world.tenant, ["NN", "de"])
        await note_languages(connection, world.tenant, [])
    assert await world.transcripts.languages(world.tenant) == ("de", "en", "no")
