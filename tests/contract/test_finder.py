"""Whole searches on every adapter of `search.ports.Index`: `search.finding.Finder` with the truth in Postgres."""

import itertools

import pytest

from search.model import Beside, Filters, Mode, Page, Sort
from search.query import parse
from server.store.pool import Database
from streaming.limits import Limits
from tests.fakes.embedder import FakeEmbedder
from tests.support.indexes import MakeIndex, World, marked


def all_of(pages: list[list[str]]) -> list[str]:
    return list(itertools.chain.from_iterable(pages))


async def test_a_hit_is_what_the_segment_is_now(world: World) -> None:
    name = await world.say("cold tea", speaker="S1")
    (hit,) = await world.hits("tea")
    assert (hit.segment_id, hit.recording_id, hit.title, hit.rev) == (name, "talk", "About talk", 1)
    assert (hit.start_ms, hit.end_ms, hit.text, hit.speaker) == (1000, 1900, "cold tea", "S1")
    assert (hit.before, hit.after, hit.more) == ((), (), 0)
    assert marked(hit) == ["tea"]
    assert hit.score > 0
    await world.set_text(name, "a cup of very cold tea", 2)
    (hit,) = await world.hits("tea")
    assert (hit.text, hit.rev, marked(hit)) == ("a cup of very cold tea", 2, ["tea"]), "the index is behind"


async def test_an_empty_query_has_no_hits(world: World) -> None:
    await world.say("Something")
    for typed in ("", "   ", "?!", "\x00", "🎉"):
        assert await world.page(typed) == await world.full_page(typed) == Page(())
    assert await world.page("something", filters=Filters(tags=("x",))) == Page(())


MARKED = [
    ("She runs every morning", "running", ["runs"]),
    ("O'Brien doesn’t", "o'brien", ["O'Brien"]),
    ("😀🎉 party 🎉 time", "party ti", ["party", "time"]),
    ("Straße und STRASSE", "strasse ", ["Straße", "STRASSE"]),
    ("北京天气很好", "天气", ["天气"]),
    ("<b>bold</b> 3.14", "bold 14", ["bold", "14"]),
]


async def test_words_are_marked_where_they_stand(world: World) -> None:
    await world.say_all([text for text, _, _ in MARKED])
    for _, typed, parts in MARKED:
        (hit,) = await world.hits(typed)
        assert marked(hit) == parts


async def test_what_may_not_be_seen_any_more_is_not_shown(world: World) -> None:
    """Before the index hears of it."""
    await world.recording("gone")
    await world.say_all([f"plan {i}, the budget" for i in range(5)])
    await world.say("a plan that vanishes with its budget", recording="gone")
    async with world.database.tenant_tx(world.tenant) as connection:
        await connection.execute("UPDATE recordings SET visibility = 'private'")
        await connection.execute("DELETE FROM recordings WHERE recording_id = 'gone'")
    for full in (False, True):
        assert all_of(await world.pages("plan", user="bert", limit=2, full=full)) == []
        assert len(all_of(await world.pages("plan", user="anna", limit=2, full=full))) == 5
    assert await world.full_hits("money", user="bert") == []


async def test_words_and_meaning_are_fused(world: World) -> None:
    words, both, meaning, neither = await world.say_all(
        ["money laundering was described in many long chapters", "money", "the budget", "the storm"]
    )
    hits = {hit.segment_id: hit for hit in await world.full_hits("money")}
    assert next(iter(hits)) == both
    assert set(hits) == {words, both, meaning}
    assert [marked(hits[name]) for name in (words, both, meaning)] == [["money"], ["money"], []]
    semantic = await world.full_hits("money", mode=Mode.SEMANTIC)
    assert {hit.segment_id for hit in semantic} == {both, meaning, words}
    assert {hit.segment_id for hit in await world.hits("money")} == {words, both}
    assert neither not in hits


async def test_without_a_vector_the_words_have_to_do(world: World) -> None:
    name = await world.say("money")
    await world.say("the budget")
    for mode in Mode:
        page = await world.finder.full(world.tenant, "anna", parse("money", mode=mode), ())
        assert [hit.segment_id for hit in page.hits] == [name]


async def test_while_a_model_changes_both_are_asked_and_a_hit_counts_once(world: World) -> None:
    old, new = FakeEmbedder("old", 100), FakeEmbedder("new")
    world.models = [old]
    before = await world.say("the budget")
    world.models = [old, new]
    both = await world.say("the budget")
    world.models = [new]
    after = await world.say("the budget")
    world.models = [old, new]
    for mode in (Mode.HYBRID, Mode.SEMANTIC):
        found = [hit.segment_id for hit in await world.full_hits("money", mode=mode)]
        assert sorted(found) == [before, both, after]
    world.models = [old]
    assert {hit.segment_id for hit in await world.full_hits("money")} == {before, both}


@pytest.mark.parametrize("sort", Sort)
@pytest.mark.parametrize("mode", Mode)
async def test_pages_have_no_doubles_and_no_gaps_while_segments_come_in(world: World, sort: Sort, mode: Mode) -> None:
    texts = [
        f"{('tea', 'tea trip', 'travel tea', 'journey tea tea')[i % 4]} {'of words ' * (i % 3)}" for i in range(20)
    ]
    names = await world.say_all(texts)
    full = mode is not Mode.KEYWORD
    seen: list[str] = []
    cursor = None
    while True:
        ask = world.full_page if full else world.page
        page = await ask("tea", sort=sort, mode=mode, limit=4, cursor=cursor)
        seen += [hit.segment_id for hit in page.hits]
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.hits) == 4
        await world.say_all(["tea that came later", "tea tea tea tea"])
    assert len(seen) == len(set(seen))
    assert set(seen) == set(names) if sort is Sort.NEWEST else set(seen) >= set(names)
    if sort is Sort.NEWEST:
        assert seen == names[::-1]


async def test_relevance_has_pages_of_a_bounded_number_of_matches(database: Database, make_index: MakeIndex) -> None:
    limits = Limits(search_candidates_max=10)
    world = await World(database, await make_index(limits), limits).begin()
    names = await world.say_all([f"tea number {i}" for i in range(30)])
    ranked = await world.pages("tea", limit=4)
    assert [len(page) for page in ranked] == [4, 4, 2]
    assert len(set(all_of(ranked))) == 10
    assert all_of(await world.pages("tea", limit=7, sort=Sort.NEWEST)) == names[::-1]


async def test_the_best_hit_of_each_recording(world: World) -> None:
    for name in ("one", "two", "three"):
        await world.recording(name)
        await world.say_all(["tea and more words around it"] * 3 + ["tea budget"], recording=name)
    names = await world.say_all(["tea and more words around it"])
    for full, sort in itertools.product((False, True), Sort):
        pages = await world.pages("tea", limit=2, grouped=True, full=full, sort=sort)
        assert [len(page) for page in pages] == [2, 2]
        recordings = [world.segments[name].recording_id for name in all_of(pages)]
        assert sorted(recordings) == ["one", "talk", "three", "two"]
    hits = await world.hits("tea", grouped=True)
    assert [(hit.recording_id, hit.more) for hit in hits[:3]] == [("three", 3), ("two", 3), ("one", 3)]
    assert (hits[3].segment_id, hits[3].more) == (names[0], 0)


async def test_what_was_said_before_and_after(world: World) -> None:
    await world.recording("other")
    one, two = await world.say_all(["one", "two"], speaker="S1")
    await world.say("between, elsewhere", recording="other")
    hit_, after = await world.say_all(["three", "four"], speaker="S2")
    (hit,) = await world.hits("three", around=1)
    assert hit.before == (Beside(two, "S1", 2000, 2900, "two"),)
    assert hit.after == (Beside(after, "S2", 5000, 5900, "four"),)
    (hit,) = await world.hits("three", around=3)
    assert [beside.segment_id for beside in hit.before] == [one, two]
    assert [beside.segment_id for beside in hit.after] == [after]
    (hit,) = await world.full_hits("three")
    assert (hit.segment_id, hit.before, hit.after) == (hit_, (), ())


async def test_misspelled_words_are_looked_for_as_they_were_said(world: World) -> None:
    world.words.alike = {"wether": ("weather",), "lisbno": ("lisbon",)}
    name = await world.say("The weather in Lisbon")
    page = await world.page("wether in lisbno")
    assert [hit.segment_id for hit in page.hits] == [name]
    assert page.corrections == (("wether", "weather"), ("lisbno", "lisbon"))
    assert marked(page.hits[0]) == ["weather", "Lisbon"]
    full = await world.full_page("wether in lisbno")
    assert (full.hits[0].segment_id, full.corrections) == (name, page.corrections)
