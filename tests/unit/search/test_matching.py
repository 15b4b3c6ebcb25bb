"""Expressions: what must occur, whether it does, and where."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.analysis import analyse
from search.matching import expression, marks, matches, merged, tsquery
from search.model import Expression, Form, Term
from search.query import nfc, parse

RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)))


def built(typed: str, *languages: str, similar: dict[str, tuple[str, ...]] | None = None) -> str:
    return tsquery(expression(parse(typed), languages, similar or {}))


@pytest.mark.parametrize(
    ("typed", "languages", "query"),
    [
        ("", ("en",), ""),
        ("stop ", (), "'stop'"),
        ("don't stop", (), "(('don' <-> 't') & 'stop':*)"),
        ("don'", (), "'don':*"),
        ("don't", (), "('don' <-> 't':*)"),
        ("running", ("en",), "('running':* | '~run')"),
        ("running dogs ", ("en",), "(('running' | '~run') & ('dogs' | '~dog'))"),
        ("the house ", ("en",), "('house' | '~hous')"),
        ("house the", ("en",), "('house' | '~hous')"),
        ("the", ("en",), "'the':*"),
        ("to be ", ("en",), "('to' & 'be')"),
        ("Anna's ", ("en",), "(('anna' <-> 's') | '~anna')"),
        ("rock'n'rolls ", ("en",), "(('rock' <-> 'n' <-> 'rolls') | ('~rock' <-> '~n' <-> '~roll'))"),
        ("3 ", ("en", "de"), "'3'"),
        ("häuser ", ("en", "de"), "('häuser' | '~häuser' | '~haus')"),
        ("die runs ", ("en", "fr", "de"), "(('die' | '~die' | '~di') & ('runs' | '~run')) | ('runs' | '~run')"),
    ],
)
def test_what_must_occur(typed: str, languages: tuple[str, ...], query: str) -> None:
    assert built(typed, *languages) == query


def test_other_spellings_are_further_forms_and_none_is_a_prefix() -> None:
    wanted = built("wether in lisbn", "en", similar={"wether": ("weather", "whether"), "lisbn": ("lisbon",)})
    assert wanted == (
        "(('wether' | '~wether' | 'weather' | '~weather' | 'whether' | '~whether') "
        "& ('lisbn':* | '~lisbn' | 'lisbon' | '~lisbon'))"
    )


def test_languages_that_keep_the_same_words_share_a_clause() -> None:
    wanted = expression(parse("weather running "), ("en", "de", "fr"))
    assert len(wanted.clauses) == 1
    assert len(expression(parse("die the weather "), ("en", "de", "fr")).clauses) == 3


def found(typed: str, text: str, language: str = "en", *languages: str) -> bool:
    return matches(expression(parse(typed), languages or (language,)), analyse(nfc(text), language))


def test_whether_it_occurs() -> None:
    assert found("running", "she runs")
    assert found("wea", "fine weather")
    assert not found("wea ", "fine weather")
    assert not found("running", "a runway")
    assert found("l'hom", "l’homme", "und")
    assert not found("l'hom", "homme l", "und")
    assert not found("fine rain ", "fine weather")
    assert found("who runs ", "Anna runs", "en", "de", "en")
    assert not matches(Expression(()), analyse("anything", "en"))
    assert not found("weather", "")


def parts(typed: str, text: str, language: str = "en") -> list[str]:
    text = nfc(text)
    return [text[a:b] for a, b in marks(expression(parse(typed), (language,)), analyse(text, language))]


def test_where_it_occurs() -> None:
    assert parts("she run", "She runs, we run.") == ["runs", "run"]
    assert parts("green tea ", "green tea") == ["green", "tea"], "a space stays between"
    assert parts("o'brien is", "O'Brien isn’t") == ["O'Brien"]
    assert parts("state of the art", "state-of-the-art", "und") == ["state", "of", "the", "art"]
    assert parts("l'eau", "l'eau, l eau, eau", "und") == ["l'eau", "l", "eau"]


def test_positions_are_code_points_of_the_text_not_of_its_folded_form() -> None:
    assert parts("strasse ", "😀 ΣΊΣΥΦΟΣ 🎉 Straße!") == ["Straße"]


def test_only_words_of_clauses_that_match_are_marked() -> None:
    """ "die" is a word in English, none of its own in German."""
    wanted = expression(parse("die runde "), ("de", "en"))
    text = "die lange Runde"
    assert [text[a:b] for a, b in marks(wanted, analyse(text, "de"))] == ["die", "Runde"]
    wanted = expression(parse("die häuser "), ("de", "en"))
    text = "die im Haus"
    assert [text[a:b] for a, b in marks(wanted, analyse(text, "de"))] == ["Haus"]


def test_a_text_that_matches_no_more_is_marked_where_it_can_be() -> None:
    assert parts("cold tea", "hot tea") == ["tea"]


FORMS = st.builds(
    Form, st.lists(st.sampled_from(("a", "ab", "b", "~a", "~b")), min_size=1, max_size=3).map(tuple), st.booleans()
)
TERMS = st.builds(Term, st.lists(FORMS, min_size=1, max_size=2).map(tuple))
CLAUSES = st.lists(TERMS, min_size=1, max_size=2).map(tuple)
EXPRESSIONS = st.builds(Expression, st.lists(CLAUSES, max_size=2).map(tuple))


@given(EXPRESSIONS, st.lists(st.sampled_from(("a", "ab", "abc", "b", "ba")), max_size=6))
def test_a_text_that_matches_has_marks_and_one_that_has_none_does_not_match(
    wanted: Expression, words: list[str]
) -> None:
    analysed = analyse(" ".join(words), "en")
    if matches(wanted, analysed):
        assert marks(wanted, analysed)


@given(RANGES)
def test_merged_ranges_cover_the_same_and_stay_apart(ranges: list[tuple[int, int]]) -> None:
    out = merged(ranges)
    assert {i for a, b in out for i in range(a, b)} == {i for a, b in ranges for i in range(a, b)}
    assert all(a < b for a, b in out)
    assert all(one[1] < two[0] for one, two in pairwise(out))
