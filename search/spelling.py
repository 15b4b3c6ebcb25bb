"""Words that are spelled alike: by which keys they are looked up, and how far apart two are.

Policy: a word is stored under its first `KEY_LETTERS` letters and under these with any one left out (`search_keys` in
migration 0015_editions.sql); what was typed is looked up with up to two left out. So one letter that is wrong, missing,
doubled or out of place is always bridged, and most pairs of them. What meets is compared letter by letter: one
mistake is allowed in words of 4 to 7 letters, two in longer ones, none in shorter ones, where everything is alike.

Measured on 50,000 words of a pronouncing dictionary, 600 misspellings each (letters swapped, doubled, changed, added,
left out), against a scan of all words: recall with one mistake 1.00, with two 0.84; 285,000 keys (40 MB with their
index), 0.2 ms to look them up, and 50 to 60 candidates to compare (0.3 ms). With 8 letters two mistakes had 0.53 and
374,000 keys; leaving two letters out of 7 in the table as well had 1.00, but 779,000 keys.

Pure. Invariant: words within one mistake of each other share a key (both of `SPELLED_MIN` letters or more).
"""

from collections.abc import Iterable, Mapping
from itertools import combinations

SPELLED_MIN = 4
"""Letters. Of three, one mistake leaves too little: every such word is like twenty others."""
LONG = 8
"""Letters from which on two mistakes are allowed."""
KEY_LETTERS = 5
WORD_MAX = 40
"""Letters of what is looked for: longer ones are no words that somebody mistyped."""


def mistakes_max(word: str) -> int:
    """How many mistakes a typed word may have."""
    if not SPELLED_MIN <= len(word) <= WORD_MAX:
        return 0
    return 1 if len(word) < LONG else 2


def typed_keys(word: str) -> list[str]:
    """Keys under which words like this one may stand; none for words that are never corrected."""
    if mistakes_max(word) == 0:
        return []
    head = word[:KEY_LETTERS]
    left_out = 2 if len(word) >= LONG else 1
    keys = {head}
    for count in range(1, left_out + 1):
        for places in combinations(range(len(head)), count):
            keys.add("".join(letter for at, letter in enumerate(head) if at not in places))
    return sorted(keys)


def distance(a: str, b: str, at_most: int) -> int | None:
    """Letters to change, add, leave out or swap with their neighbour until one is the other (optimal string
    alignment); None where that takes more than `at_most`."""
    if abs(len(a) - len(b)) > at_most:
        return None
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        before, above, row = row, before, [i]
        for j, other in enumerate(b, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
        if min(row) > at_most:
            return None
    return row[-1] if row[-1] <= at_most else None


def likeliest(typed: str, said: Mapping[str, int], limit: int) -> list[str]:
    """Of words that were said (and how often), those that `typed` may stand for: fewest mistakes first, then the most
    frequent."""
    at_most = mistakes_max(typed)
    near: list[tuple[int, int, str]] = []
    for word, uses in said.items():
        far = distance(typed, word, at_most) if len(word) >= SPELLED_MIN and at_most else None
        if far:
            near.append((far, -uses, word))
    return [word for _, _, word in sorted(near)[:limit]]


def countable(words: Iterable[str]) -> list[str]:
    """Of the folded words of a segment those that are worth remembering, each once, in order: two letters at least,
    and no mere number."""
    return sorted({word for word in words if len(word) >= 2 and not word.isdigit()})
