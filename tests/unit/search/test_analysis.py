"""Texts become the same tokens everywhere, for ever."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.analysis import ALGORITHMS, ANALYSIS, STEM, STOPS, analyse, is_stop, language_key, stem
from search.query import nfc, words_of
from streaming.limits import LIMITS

SAMPLES = (
    *("running", "houses", "weather", "häuser", "geschichten", "gegangen", "chevaux", "nationalement", "hablando"),
    *("canciones", "книгами", "говорили", "kitaplar", "talossa", "házak", "bøgerne", "cidades", "parlavano", "domů"),
    *("książkami", "ποδηλάτων", "الكتاب", "पुस्तकों", "ծառեր", "leabhair", "knygų", "casele", "etxeak", "llibres"),
)


def test_the_tokens_of_a_text() -> None:
    analysed = analyse("The weather isn't fine: 3 houses!", "en-GB")
    assert analysed.tokens() == [
        ("the", 1),
        ("weather", 2),
        ("~weather", 2),
        ("isn", 3),
        ("~isn", 3),
        ("t", 4),
        ("fine", 5),
        ("~fine", 5),
        ("3", 6),
        ("houses", 7),
        ("~hous", 7),
    ]
    assert [word.folded for word in analysed.words] == ["the", "weather", "isn", "t", "fine", "3", "houses"]
    assert analysed.stems == [None, "weather", "isn", None, "fine", None, "hous"]


def test_the_same_token_at_many_places() -> None:
    assert analyse("tea, Tea, teas", "en").places == {"tea": [1, 2], "~tea": [1, 2, 3], "teas": [3]}


def test_a_language_without_a_stemmer_has_words_only() -> None:
    assert analyse("runs 今天", "zh").tokens() == [("runs", 1), ("今", 2), ("天", 3)]
    assert stem("runs", "und") is None
    assert not is_stop("the", "und")


@pytest.mark.parametrize(
    ("tag", "key"),
    [("en", "en"), ("EN-us", "en"), ("de-CH", "de"), ("nb", "no"), ("nn-NO", "no"), ("zh", ""), ("", ""), ("..", "")],
)
def test_languages_as_far_as_words_depend_on_them(tag: str, key: str) -> None:
    assert language_key(tag) == key


def test_tokens_change_only_with_their_number() -> None:
    """An index holds tokens: when this fails, `ANALYSIS` grows, everything is indexed again, and this is noted anew."""
    stems = {key: [stem(word, key) for word in SAMPLES] for key in sorted(ALGORITHMS)}
    stops = {path.stem: path.read_text() for path in sorted(STOPS.glob("*.txt"))}
    digest = hashlib.sha256(json.dumps([stems, stops]).encode()).hexdigest()[:16]
    assert (ANALYSIS, digest) == (1, "74c077f30c41762f")


@pytest.mark.parametrize("path", sorted(STOPS.glob("*.txt")), ids=lambda path: path.stem)
def test_stop_words_are_folded_words_of_a_language_with_stems(path: Path) -> None:
    assert language_key(path.stem) == path.stem
    words = path.read_text().split()
    assert len(words) > 50
    assert words == sorted(set(words))
    assert all([span.folded for span in words_of(nfc(word))] == [word] for word in words)
    assert all(is_stop(word, path.stem) and stem(word, path.stem) is None for word in words)


@given(st.text(max_size=60), st.sampled_from(sorted(ALGORITHMS)))
def test_no_text_breaks_and_no_word_is_taken_for_a_stem(text: str, language: str) -> None:
    analysed = analyse(nfc(text), language)
    tokens = analysed.tokens()
    assert [token for token, _ in tokens if not token.startswith(STEM)] == [word.folded for word in analysed.words]
    assert all(1 <= position <= len(analysed.words) and token != STEM for token, position in tokens)


def test_texts_are_cut_after_so_many_words() -> None:
    most = LIMITS.search_text_words_max
    assert len(analyse("word " * most, "en").words) == most
    assert len(analyse("word " * (most + 1), "en").words) == most


def test_texts_are_cut_after_so_many_code_points() -> None:
    word = "é" * LIMITS.search_word_chars_max
    fit = LIMITS.search_text_chars_max // len(word)
    rest = "é" * (LIMITS.search_text_chars_max - fit * len(word))
    assert len(analyse(f"{word} " * fit + rest, "und").words) == fit + 1
    assert len(analyse(f"{word} " * fit + rest + "é", "und").words) == fit


def test_threads_stem_alike() -> None:
    words = [f"{sample}{n}" for n in range(300) for sample in ("running", "houses", "weather")]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: [stem(word, "en") for word in words], range(8)))
    assert all(result == results[0] for result in results)
