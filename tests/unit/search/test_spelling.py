"""Words that are spelled alike: keys bridge a mistake, distances decide."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.spelling import (
    KEY_LETTERS,
    LONG,
    SPELLED_MIN,
    WORD_MAX,
    countable,
    distance,
    likeliest,
    mistakes_max,
    typed_keys,
)

WORDS = st.text("abcdeßéж", min_size=SPELLED_MIN, max_size=12)


def stored_keys(word: str) -> set[str]:
    """As `search_keys` in 0015_editions.sql; tests/contract/test_words.py holds the two together."""
    head = word[:KEY_LETTERS]
    return {head} | {head[:at] + head[at + 1 :] for at in range(len(head))}


def mistaken(word: str) -> Iterator[str]:
    """Every word that is one mistake away."""
    for at in range(len(word) + 1):
        for letter in "axß":
            yield word[:at] + letter + word[at:]
            if at < len(word):
                yield word[:at] + letter + word[at + 1 :]
        if at < len(word):
            yield word[:at] + word[at + 1 :]
            yield word[:at] + word[at] + word[at:]
        if at + 1 < len(word):
            yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]


@pytest.mark.parametrize(
    ("a", "b", "at_most", "far"),
    [
        ("weather", "weather", 1, 0),
        ("wether", "weather", 1, 1),
        ("weahter", "weather", 1, 1),
        ("weatherr", "weather", 1, 1),
        ("wexther", "weather", 1, 1),
        ("wxxther", "weather", 1, None),
        ("wxxther", "weather", 2, 2),
        ("aweath", "weather", 2, None),
        ("", "ab", 2, 2),
        ("ca", "abc", 2, None),
    ],
)
def test_distance_counts_mistakes_up_to_a_bound(a: str, b: str, at_most: int, far: int | None) -> None:
    assert distance(a, b, at_most) == distance(b, a, at_most) == far


@given(WORDS)
def test_a_word_with_one_mistake_shares_a_key_with_the_right_one(word: str) -> None:
    for typed in mistaken(word):
        if len(typed) >= SPELLED_MIN:
            assert stored_keys(word).intersection(typed_keys(typed)), (word, typed)
            assert distance(typed, word, 1) is not None


def test_how_many_mistakes_a_word_may_have() -> None:
    assert [mistakes_max("x" * n) for n in (SPELLED_MIN - 1, SPELLED_MIN, LONG - 1, LONG, WORD_MAX, WORD_MAX + 1)] == [
        0, 1, 1, 2, 2, 0,
    ]  # fmt: skip
    assert typed_keys("the") == []
    assert typed_keys("x" * (WORD_MAX + 1)) == []


def test_the_nearest_is_the_likeliest_then_the_most_frequent() -> None:
    said = {"weather": 1, "leather": 50, "feather": 50, "weathered": 9, "whether": 3, "wea": 99}
    assert likeliest("weathr", said, 5) == ["weather"]
    assert likeliest("xeather", said, 5) == ["feather", "leather", "weather"]
    assert likeliest("weathere", said, 2) == ["weathered", "weather"]
    assert likeliest("weather", said, 5) == ["feather", "leather"], "itself is no correction"
    assert likeliest("the", said, 5) == []


def test_what_is_remembered_of_a_segment() -> None:
    assert countable(["we", "a", "we", "1984", "mp3", "東"]) == ["mp3", "we"]


def test_two_mistakes_in_long_words_are_mostly_bridged() -> None:
    """Figures are in the module's docstring; here, that the second left-out letter is worth its keys."""
    draw = random.Random(5)
    words = {"".join(draw.choices("abcdefghijklmnop", k=draw.randint(LONG, 11))) for _ in range(400)}
    met = tried = 0
    for word in sorted(words):
        once = draw.choice(sorted(set(mistaken(word)) - {word}))
        twice = draw.choice(sorted(set(mistaken(once))))
        if distance(twice, word, 2) == 2 and len(twice) >= LONG:
            tried += 1
            met += bool(stored_keys(word).intersection(typed_keys(twice)))
    assert tried > 200
    assert met / tried > 0.75
