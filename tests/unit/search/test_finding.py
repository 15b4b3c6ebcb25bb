"""Whole searches over an index and a truth in memory: order, pages, corrections, and what is asked of whom."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from search.finding import BEGUN_MAX, Finder, Memory
from search.model import IndexDocument, Mode, ModelVector, Page, QueryVector, Sort
from search.query import parse
from streaming.errors import BadRequest, Unavailable
from streaming.limits import LIMITS, Limits
from tests.fakes.embedder import FakeEmbedder, vector_of
from tests.fakes.index import MemoryIndex, MemoryTranscripts, MemoryWords

TENANT, USER = "t", "u"
NOW_US = 1_800_000_000_000_000
DAY_MS = 86_400_000


class Scene:
    """An index with some talk, and a Finder on it whose clock stands still."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.index = MemoryIndex(limits)
        self.transcripts = MemoryTranscripts(self.index)
        self.words = MemoryWords()
        self.finder = self.another_finder()
        self.numbers = itertools.count(1)

    def another_finder(self) -> Finder:
        """As another node has."""
        return Finder(self.index, self.transcripts, self.words, self.limits, now=lambda: NOW_US)

    async def say(self, *texts: str, recording: str = "r", days_old: float = 1.0) -> list[str]:
        """Each a millisecond after the one before."""
        documents = []
        for text in texts:
            n = next(self.numbers)
            at_ms = NOW_US // 1000 - int(days_old * DAY_MS) + n
            vector = ModelVector("concepts", vector_of(text))
            documents.append(IndexDocument(f"s{n:03}", recording, USER, False, at_ms, 1, text, "en", vectors=(vector,)))
        await self.index.put(TENANT, documents)
        return [document.segment_id for document in documents]

    async def page(self, text: str, *, full: bool = False, finder: Finder | None = None, **options: Any) -> Page:
        query = parse(text, limits=self.limits, **options)
        finder = finder or self.finder
        if full:
            return await finder.full(TENANT, USER, query, vectors(text))
        return await finder.instant(TENANT, USER, query)

    async def names(self, text: str, **options: Any) -> list[str]:
        return ids(await self.page(text, **options))


def vectors(text: str) -> list[QueryVector]:
    return [FakeEmbedder().query(text)]


def ids(page: Page) -> list[str]:
    return [hit.segment_id for hit in page.hits]


# --- order --------------------------------------------------------------------------------------------------------
async def test_of_two_that_match_as_well_the_newer_comes_first_and_a_better_one_before_both() -> None:
    scene = Scene()
    (old,) = await scene.say("tea and more", days_old=100)
    (better,) = await scene.say("tea tea tea", days_old=200)
    (new,) = await scene.say("tea and more")
    assert await scene.names("tea") == [better, new, old]
    assert await scene.names("tea", sort=Sort.NEWEST) == [new, old, better]


async def test_age_decides_only_as_far_as_a_fifth() -> None:
    scene = Scene()
    (old,) = await scene.say("tea tea tea more", days_old=10_000)
    (new,) = await scene.say("tea more more more")
    assert await scene.names("tea") == [old, new]


# --- what is asked of whom ----------------------------------------------------------------------------------------
async def test_an_empty_query_asks_nobody() -> None:
    scene = Scene()
    scene.index.lost = True
    for full in (False, True):
        assert await scene.page("", full=full) == Page(())


async def test_a_lost_index_is_told() -> None:
    scene = Scene()
    scene.index.lost = True
    for full in (False, True):
        with pytest.raises(Unavailable):
            await scene.page("tea", full=full)


async def test_the_full_answer_goes_on_with_what_the_instant_one_found() -> None:
    scene = Scene()
    (tea, trip) = await scene.say("tea", "a trip")
    query = parse("tea")
    for given in (vectors("tea"), ()):
        await scene.finder.instant(TENANT, USER, query)
        scene.index.asked.clear()
        page = await scene.finder.full(TENANT, USER, query, given)
        assert ids(page) == ([tea, trip] if given else [tea])
        assert "match" not in scene.index.asked
    await scene.finder.full(TENANT, USER, query, ())
    assert "match" in scene.index.asked, "once"
    await scene.finder.instant(TENANT, USER, query)
    scene.index.asked.clear()
    assert ids(await scene.finder.full("another", USER, query, ())) == []
    await scene.finder.full(TENANT, "another", query, ())
    await scene.finder.full(TENANT, USER, parse("tea"), ())
    assert scene.index.asked.count("match") == 3, "nobody else's, and no other query"


async def test_no_more_matches_are_kept_than_queries_are_under_way() -> None:
    scene = Scene()
    await scene.say("tea")
    queries = [parse("tea") for _ in range(BEGUN_MAX + 1)]
    for query in queries:
        await scene.finder.instant(TENANT, USER, query)
    assert len(scene.finder._begun) == BEGUN_MAX
    scene.index.asked.clear()
    await scene.finder.full(TENANT, USER, queries[1], ())
    assert scene.index.asked == []
    await scene.finder.full(TENANT, USER, queries[0], ())
    assert scene.index.asked == ["match"]


async def test_words_are_marked_only_where_they_were_found() -> None:
    scene = Scene()
    (meant,) = await scene.say("the trip")
    (hit,) = (await scene.page("a trip and money ", full=True)).hits
    assert (hit.segment_id, hit.highlights) == (meant, ())
    (hit,) = (await scene.page("trips ", full=True)).hits
    assert hit.highlights == ((4, 8),)


async def test_meaning_alone_asks_for_no_words() -> None:
    scene = Scene()
    await scene.say("tea", "a trip")
    scene.index.asked.clear()
    assert len(await scene.names("tea", full=True, mode=Mode.SEMANTIC)) == 2
    assert scene.index.asked == ["near"]
    assert len(await scene.names("tea", mode=Mode.SEMANTIC)) == 1, "without a vector the words have to do"


# --- pages --------------------------------------------------------------------------------------------------------
async def shuffled(scene: Scene, names: Sequence[str]) -> None:
    """What was below is better than all now."""
    held = scene.index._held[TENANT]
    for name in names:
        document = held[name][0]
        await scene.index.put(TENANT, [msgspec.structs.replace(document, text="tea tea tea tea tea tea")])


@pytest.mark.parametrize("full", [False, True])
async def test_what_rises_between_two_pages_is_neither_repeated_nor_skipped(full: bool) -> None:
    scene = Scene()
    names = await scene.say(*[f"tea {'more ' * n}" for n in range(9)])
    first = await scene.page("tea", limit=3, full=full)
    assert ids(first) == names[:3]
    await shuffled(scene, [names[2], names[8]])
    second = await scene.page("tea", limit=3, full=full, cursor=first.next_cursor)
    again = await scene.page("tea", limit=3, full=full, cursor=first.next_cursor)
    assert ids(second) == ids(again) == [names[8], names[3], names[4]]
    third = await scene.page("tea", limit=9, full=full, cursor=second.next_cursor)
    assert ids(third) == names[5:8]
    assert third.next_cursor is None


async def test_another_node_continues_after_the_last_position() -> None:
    scene = Scene()
    names = await scene.say(*[f"tea {'more ' * n}" for n in range(9)])
    first = await scene.page("tea", limit=3)
    other = scene.another_finder()
    second = await scene.page("tea", limit=3, cursor=first.next_cursor, finder=other)
    third = await scene.page("tea", limit=3, cursor=second.next_cursor, finder=other)
    assert ids(second) + ids(third) == names[3:]
    assert third.next_cursor is None
    await shuffled(scene, names[7:8])
    back = await scene.page("tea", limit=9, cursor=first.next_cursor, finder=other)
    assert ids(back) == [*names[3:7], names[8]], "what rose above it is not seen there"


async def test_what_came_later_is_on_no_page() -> None:
    scene = Scene()
    names = await scene.say("tea one", "tea two more", "tea three more words")
    first = await scene.page("tea", limit=1)
    await scene.say("tea", days_old=-1)
    rest = await scene.page("tea", limit=5, cursor=first.next_cursor)
    assert ids(first) + ids(rest) == names
    assert len(await scene.names("tea")) == 4, "though it is said to be of tomorrow"


async def test_what_is_said_to_be_of_tomorrow_is_on_later_pages_too() -> None:
    """Audio that is sent faster than it was spoken."""
    scene = Scene()
    names = await scene.say("tea", "tea more", "tea more more", days_old=-1)
    first = await scene.page("tea", limit=1)
    assert ids(first) + await scene.names("tea", limit=5, cursor=first.next_cursor) == names


async def test_later_pages_reach_all_candidates() -> None:
    scene = Scene(Limits(search_first_max=4, search_candidates_max=8))
    names = await scene.say(*[f"tea {'more ' * n}" for n in range(10)])
    first = await scene.page("tea", limit=3)
    rest = await scene.page("tea", limit=100, cursor=first.next_cursor)
    assert [bounds.limit for bounds in scene.index.bounds] == [4, 8]
    assert sorted(ids(first) + ids(rest)) == names[2:], "the newest"
    assert rest.next_cursor is None


async def test_of_a_group_that_was_shown_nothing_is_shown_again() -> None:
    scene = Scene()
    for recording in "abcd":
        await scene.say("tea", "tea and more", recording=recording)
    first = await scene.page("tea", limit=2, grouped=True)
    assert [(hit.recording_id, hit.more) for hit in first.hits] == [("d", 1), ("c", 1)]
    await scene.say("tea tea", recording="c", days_old=2)
    rest = await scene.page("tea", limit=9, grouped=True, cursor=first.next_cursor)
    assert [hit.recording_id for hit in rest.hits] == ["b", "a"]
    elsewhere = scene.another_finder()
    rest = await scene.page("tea", limit=9, grouped=True, cursor=first.next_cursor, finder=elsewhere)
    assert [hit.recording_id for hit in rest.hits] == ["b", "a"]


async def test_a_hidden_hit_leaves_a_place_empty_and_the_pages_go_on() -> None:
    scene = Scene()
    names = await scene.say(*[f"tea {'more ' * n}" for n in range(4)])
    scene.transcripts.hidden = set(names[:2])
    first = await scene.page("tea", limit=2)
    assert ids(first) == []
    assert await scene.names("tea", limit=2, cursor=first.next_cursor) == names[2:]


async def test_an_order_with_vectors_is_continued_with_vectors_only() -> None:
    scene = Scene()
    await scene.say("tea", "a trip", "tea tea")
    first = await scene.page("tea", limit=1, full=True)
    query = parse("tea", limit=1, cursor=first.next_cursor)
    with pytest.raises(BadRequest) as refused:
        await scene.finder.instant(TENANT, USER, query)
    assert refused.value.field == "cursor"
    with pytest.raises(Unavailable):
        await scene.finder.full(TENANT, USER, query, ())
    assert len(ids(await scene.finder.full(TENANT, USER, query, vectors("tea")))) == 1


async def test_an_order_of_words_is_continued_without_vectors() -> None:
    scene = Scene()
    one, _, three = await scene.say("tea and more", "a trip", "tea tea")
    first = await scene.page("tea", limit=1)
    scene.index.asked.clear()
    assert ids(first) + await scene.names("tea", limit=5, full=True, cursor=first.next_cursor) == [three, one]
    assert "near" not in scene.index.asked


def test_what_was_shown_is_remembered_within_bounds_and_for_its_user() -> None:
    memory = Memory(ids_max=10)
    one = memory.keep("t", "u", frozenset("abcde"))
    two = memory.keep("t", "u", frozenset("fghij"))
    assert one != two
    assert memory.of("t", "u", one) == frozenset("abcde")
    assert memory.of("t", "v", one) is None
    assert memory.of("x", "u", one) is None
    three = memory.keep("t", "u", frozenset("k"))
    assert memory.of("t", "u", one) is None, "the oldest is forgotten"
    assert (memory.of("t", "u", two), memory.of("t", "u", three)) == (frozenset("fghij"), frozenset("k"))


async def test_without_its_memory_a_cursor_still_continues() -> None:
    scene = Scene(Limits(search_shown_max=2))
    names = await scene.say(*[f"tea {'more ' * n}" for n in range(7)])
    seen: list[str] = []
    cursor = None
    while True:
        page = await scene.page("tea", limit=3, cursor=cursor)
        seen += ids(page)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == names


# --- corrections --------------------------------------------------------------------------------------------------
async def test_words_that_nobody_said_are_looked_for_in_other_spellings() -> None:
    scene = Scene()
    (name,) = await scene.say("The weather in Lisbon")
    scene.words.alike = {"wether": ("weather", "leather")}
    page = await scene.page("wether lisbon ")
    assert ids(page) == [name]
    assert page.corrections == (("wether", "weather"), ("wether", "leather"))
    assert scene.words.asked == [["wether", "lisbon"]]


async def test_nothing_is_corrected_when_that_finds_nothing_more() -> None:
    scene = Scene()
    (name,) = await scene.say("tea with ginger")
    scene.words.alike = {"ginger": ("finger",), "nothing": ("something",)}
    page = await scene.page("ginger ")
    assert (ids(page), page.corrections) == ([name], ())
    page = await scene.page("nothing ")
    assert (ids(page), page.corrections) == ([], ())


@pytest.mark.parametrize(("hits", "asks"), [(LIMITS.search_few_hits - 1, True), (LIMITS.search_few_hits, False)])
@pytest.mark.parametrize("sort", Sort)
async def test_only_when_there_are_few_hits(hits: int, asks: bool, sort: Sort) -> None:
    scene = Scene()
    await scene.say(*["green weather"] * hits)
    page = await scene.page("weather ", sort=sort, limit=1)
    assert (scene.words.asked != [], page.corrections) == (asks, ())


async def test_only_words_that_can_be_misspelled() -> None:
    scene = Scene()
    await scene.page("abc abcd 1234 don't wethr")
    assert scene.words.asked == [["abcd", "wethr"]]


async def test_the_word_that_is_being_typed_is_corrected_only_when_nothing_is_found() -> None:
    scene = Scene()
    (name,) = await scene.say("weather in Lisbon")
    scene.words.alike = {"lisb": ("list",), "lisbno": ("lisbon",)}
    assert await scene.names("weather lisb") == [name]
    assert scene.words.asked == [["weather"]]
    page = await scene.page("weather lisbno")
    assert (ids(page), page.corrections) == ([name], (("lisbno", "lisbon"),))
    assert scene.words.asked[1:] == [["weather", "lisbno"]]


async def test_where_nothing_has_all_words_some_suffice() -> None:
    scene = Scene()
    names = await scene.say("budget of the year", "a year in Lisbon", "weather")
    scene.words.alike = {"lisbno": ("lisbon",)}
    page = await scene.page("budget lisbno ")
    assert (set(ids(page)), page.loosened, page.corrections) == (set(names[:2]), True, (("lisbno", "lisbon"),))
    page = await scene.page("budget ye")
    assert (ids(page), page.loosened) == (names[:1], False)
    page = await scene.page("nothing ")
    assert (ids(page), page.loosened) == ([], False)


@pytest.mark.parametrize("sort", Sort)
async def test_pages_of_some_words_go_on_so(sort: Sort) -> None:
    scene = Scene()
    names = await scene.say(*["green weather"] * 4, *["blue budget"] * 4)
    seen: list[str] = []
    cursor = None
    while True:
        page = await scene.page("weather budget ", limit=3, sort=sort, cursor=cursor)
        assert page.loosened
        seen += ids(page)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(names)


async def test_beside_meaning_all_words_are_wanted() -> None:
    scene = Scene()
    tea, _ = await scene.say("tea", "budget")
    query = parse("tea budget ")
    instant = await scene.finder.instant(TENANT, USER, query)
    assert (len(instant.hits), instant.loosened) == (2, True)
    page = await scene.finder.full(TENANT, USER, query, vectors("tea"))
    assert (page.hits[0].segment_id, page.hits[0].highlights, page.loosened) == (tea, (), False)
    degraded = await scene.finder.full(TENANT, USER, parse("tea budget "), ())
    assert (len(degraded.hits), degraded.loosened) == (2, True)


@pytest.mark.parametrize(("sort", "typed"), [*itertools.product(Sort, ["wether", "wether "])])
async def test_later_pages_are_corrected_alike(sort: Sort, typed: str) -> None:
    scene = Scene()
    names = await scene.say(*[f"weather {'more ' * n}" for n in range(8)])
    scene.words.alike = {"wether": ("weather",)}
    seen: list[str] = []
    cursor = None
    while True:
        page = await scene.page(typed, limit=3, sort=sort, cursor=cursor)
        assert page.corrections == (("wether", "weather"),)
        seen += ids(page)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == (names if sort is Sort.RELEVANCE else names[::-1])


async def test_pages_that_were_not_corrected_stay_so() -> None:
    scene = Scene()
    await scene.say("weather one", "weather two", "leather three")
    first = await scene.page("weather ", limit=1)
    scene.words.alike = {"weather": ("leather",)}
    rest = await scene.page("weather ", limit=9, cursor=first.next_cursor)
    assert (len(rest.hits), rest.corrections) == (1, ())
