"""Queries from typed text, words from any text, and cursors."""

import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.model import Cursor, Filters, Mode, Position, Query, Sort
from search.query import (
    WORD_CHARS_MAX,
    WordSpan,
    decode_cursor,
    encode_cursor,
    has_meaning,
    nfc,
    parse,
    query_key,
    quoted,
    words_of,
)
from streaming.errors import BadRequest
from streaming.limits import LIMITS, Limits

ANY = st.text(max_size=60)


def folded(text: str) -> list[str]:
    return [span.folded for span in words_of(nfc(text))]


@pytest.mark.parametrize(
    ("typed", "words", "prefix"),
    [
        ("", (), False),
        (" \t\n", (), False),
        ("?!…", (), False),
        ("\x00", (), False),
        ("😀", (), False),
        ("Hello", ("hello",), True),
        ("hello wor", ("hello", "wor"), True),
        ("hello wor ", ("hello", "wor"), False),
        ("hello, world!", ("hello", "world"), False),
        ("don't", ("don t",), True),
        ("Don’t go", ("don t", "go"), True),
        ("don'", ("don",), True),
        ("'quoted'", ("quoted",), True),
        ("rock'n'roll ", ("rock n roll",), False),
        ("state-of-the", ("state", "of", "the"), True),
        ("3.14", ("3", "14"), True),
        ("snake_case", ("snake", "case"), True),
        ("STRASSE Straße ", ("strasse", "strasse"), False),
        ("cafe\u0301", ("café",), True),
        ("今天 ok", ("今 天", "ok"), True),
        ("mix中文ed", ("mix 中 文 ed",), True),
        ("हिन्दी", ("हिन्दी",), True),
        ("می\u200cخواهم", ("میخواهم",), True),
        ("a\u00adb", ("ab",), True),
        ("10 m² or ½", ("10", "m", "or"), False),
        ("\u0301 lone mark", ("lone", "mark"), True),
        ("\ud800word", ("word",), True),
    ],
)
def test_words_and_prefix(typed: str, words: tuple[str, ...], prefix: bool) -> None:
    query = parse(typed)
    assert (query.words, query.prefix) == (words, prefix)
    assert query.is_empty is (words == ())


def test_words_past_the_limit_are_dropped_and_then_nothing_is_a_prefix() -> None:
    limits = Limits(query_words_max=3)
    assert parse("one two three", limits=limits).prefix
    query = parse("one two three four", limits=limits)
    assert (query.words, query.prefix) == (("one", "two", "three"), False)
    assert parse("don't won't", limits=limits).words == ("don t", "won")


def test_long_words_are_cut_alike_in_query_and_text() -> None:
    word = "a" * 500
    assert list(parse(word).words) == folded(word) == ["a" * WORD_CHARS_MAX]
    assert folded("é" * 500) == ["é" * WORD_CHARS_MAX]


@pytest.mark.parametrize(("asked", "given_"), [(-5, 1), (0, 1), (20, 20), (10**9, LIMITS.search_hits_max)])
def test_the_limit_is_clamped(asked: int, given_: int) -> None:
    assert parse("tea", limit=asked).limit == given_


@pytest.mark.parametrize(("asked", "given_"), [(-1, 0), (2, 2), (99, LIMITS.search_neighbours_max)])
def test_neighbours_are_clamped(asked: int, given_: int) -> None:
    assert parse("tea", around=asked).around == given_


@given(ANY)
def test_folded_words_hold_nothing_but_letters_digits_and_marks(text: str) -> None:
    for span in words_of(nfc(text)):
        assert span.folded
        assert len(span.folded) <= WORD_CHARS_MAX
        assert all(unicodedata.category(c)[0] in "LNM" for c in span.folded)


@given(ANY)
def test_spans_are_in_order_and_within_the_text(text: str) -> None:
    text = nfc(text)
    end = 0
    for span in words_of(text):
        assert end <= span.start < span.end <= len(text)
        end = span.end


@given(st.text(st.sampled_from("aZ0'- _\n") | st.characters(codec="ascii"), max_size=30))
def test_ascii_text_is_taken_apart_like_any_other(text: str) -> None:
    """A letter of another script behind it, and it is read character by character."""
    *spans, last = words_of(f"{text} é")
    assert words_of(text) == spans
    assert last == WordSpan("é", len(text) + 1, len(text) + 2)


@given(ANY)
def test_a_text_is_found_by_itself(text: str) -> None:
    """Query and index fold alike: the tokens of a query are those of the text."""
    query = parse(text)
    assert " ".join(query.words).split() == folded(text)[: LIMITS.query_words_max]


@given(ANY)
def test_a_quoted_word_ends_where_it_ends(word: str) -> None:
    operand = quoted(word)
    inside = operand[1:-1]
    assert "\x00" not in operand
    assert (operand[0], operand[-1]) == ("'", "'")
    assert inside.replace("\\\\", "").count("\\") == 0
    assert inside.replace("''", "").count("'") == 0


@pytest.mark.parametrize(
    ("filters", "empty"),
    [
        (Filters(), False),
        (Filters(recording_ids=(), speakers=(), languages=(), tags=()), False),
        (Filters(tags=("x",)), True),
        (Filters(speakers=("\x00",)), True),
        (Filters(recording_ids=("\ud800", "fine")), False),
        (Filters(from_ms=5, to_ms=5), True),
        (Filters(from_ms=5, to_ms=6), False),
    ],
)
def test_filters_that_cannot_be_met_make_an_empty_query(filters: Filters, empty: bool) -> None:
    assert parse("tea", filters=filters).is_empty is empty


def test_language_filters_are_lower_case() -> None:
    assert parse("tea", filters=Filters(languages=("en-US",))).filters.languages == ("en-us",)


# --- meaning ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("typed", ["", "?!", "m", "the", "who is it", "What about you", "don't", "is it w", "天", "1"])
def test_what_says_nothing_of_its_own_is_not_embedded(typed: str) -> None:
    assert not has_meaning(parse(typed))


@pytest.mark.parametrize("typed", ["mo", "the budget", "who paid", "天气", "über", "42", "isn't working", "und der"])
def test_what_says_something_is(typed: str) -> None:
    assert has_meaning(parse(typed))


def test_the_typed_text_is_kept_for_its_meaning() -> None:
    assert parse("  Don't pay,\ncafe\u0301! ").text == "Don't pay,\ncaf\u00e9!"
    assert parse("\ud800lone \udfff surrogates").text == "lone  surrogates"
    assert parse("tea").mode is Mode.HYBRID


# --- cursors ------------------------------------------------------------------------------------------------------
QUERY = parse("tea")
LAST = Position(0.25, 1_700_000_000_000_000, "s1")
CURSOR = Cursor(query_key(QUERY), LAST, 1_700_000_000_000_001, fused=True, corrected=1, shown=2**48 - 1)


def test_a_cursor_survives_the_way_to_the_client_and_back() -> None:
    text = encode_cursor(CURSOR)
    assert text.isascii()
    assert len(text) <= 500
    assert parse("tea", cursor=text).cursor == CURSOR


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: raw.hex()))
def test_garbage_is_no_cursor(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_cursor(text, QUERY)
    assert caught.value.field == "cursor"


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        [query_key(QUERY), [0.5, 1, "s"], 1],
        [query_key(QUERY), [0.5, 1, "s"], 1, False, 0, 0, "more"],
        [query_key(QUERY), [0.5, 1, ""], 1, False, 0, 0],
        [query_key(QUERY), [0.5, 1, "a\x00b"], 1, False, 0, 0],
        [query_key(QUERY), [0.5, 10**18, "s"], 1, False, 0, 0],
        [query_key(QUERY), ["0.5", 1, "s"], 1, False, 0, 0],
        [query_key(QUERY), [0.5, 1, "s"], 10**18, False, 0, 0],
        [query_key(QUERY), [0.5, 1, "s"], 1, None, 0, 0],
        [query_key(QUERY), [0.5, 1, "s"], 1, False, 4, 0],
        [query_key(QUERY), [0.5, 1, "s"], 1, False, 0, -1],
        [query_key(QUERY) ^ 1, [0.5, 1, "s"], 1, False, 0, 0],
    ],
)
def test_a_forged_cursor_is_refused(content: Any) -> None:
    with pytest.raises(BadRequest):
        decode_cursor(encode_cursor(content), QUERY)
    assert msgspec.msgpack.encode(content)


@pytest.mark.parametrize(
    "other",
    [
        parse("tea "),
        parse("coffee"),
        parse("tea", sort=Sort.NEWEST),
        parse("tea", mode=Mode.SEMANTIC),
        parse("tea", mode=Mode.KEYWORD),
        parse("tea", grouped=True),
        parse("tea", filters=Filters(speakers=("S1",))),
    ],
)
def test_a_cursor_belongs_to_one_query(other: Query) -> None:
    with pytest.raises(BadRequest):
        decode_cursor(encode_cursor(CURSOR), other)
    assert decode_cursor(encode_cursor(CURSOR), parse("TEA", limit=5, around=2)) == CURSOR
