"""LocalAgreement-n: a word is committed once n hypotheses in a row begin with it (Macháček et al. 2023, "Turning
Whisper into Real-Time Transcription System").

Every hypothesis covers the utterance from its start. Its words that belong to what is committed are found by aligning
the two (`join`), the rest is its tail; the longest common beginning of the last n tails is committed, except for the
newest hypothesis' last `holdback_words`, which still lack their right context. Words are compared without case and
punctuation, and committed as the newest hypothesis spells them. Words that the engine itself declares fixed are
committed at once.

Committed words never change, also where the final hypothesis disagrees: it only says how the text goes on.

Pure. Invariants: `stable` only grows; the final text begins with it, character for character.
"""

import unicodedata
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from streaming.model import Hypothesis, Word

_TIME_STEP_MS = 100
"""Joints closer in time than this count as equally good: engines place words no better than to about 0.1 s."""

_MATCH_MS = 300
"""Two equal words whose middles are no farther apart are the same word, heard twice; farther apart, said twice."""


def clean(words: Iterable[Word]) -> tuple[Word, ...]:
    """`words` in NFC with single inner spaces and without NUL, which no database keeps; empty ones are left out."""
    cleaned = []
    for word in words:
        text = unicodedata.normalize("NFC", " ".join(word.text.replace("\0", "").split()))
        if text:
            cleaned.append(word if text == word.text else msgspec.structs.replace(word, text=text))
    return tuple(cleaned)


def text_of(words: Iterable[Word]) -> str:
    """The words joined with single spaces."""
    return " ".join(word.text for word in words)


def key_of(text: str) -> str:
    """What two words are compared by: case and punctuation change from hypothesis to hypothesis, words do not."""
    folded = unicodedata.normalize("NFC", text.casefold())
    return "".join(char for char in folded if char.isalnum() or unicodedata.category(char)[0] in "MS") or text


def agreed(tails: Sequence[Sequence[str]]) -> int:
    """How many words all `tails` begin with."""
    count = 0
    for column in zip(*tails, strict=False):
        first, *others = map(key_of, column)
        if any(key != first for key in others):
            break
        count += 1
    return count


def _key(word: Word) -> str:
    return key_of(word.text)


def join(committed: Sequence[Word], words: Sequence[Word]) -> int:
    """How many of `words` say what `committed` says; `words[that:]` goes on from there.

    The beginning of `words` with the least edit distance to `committed` (insert, delete, replace cost 1; two words
    written as one, or one as two, cost nothing). Ties go to a joint behind the last committed word itself, so that it
    is not doubled, then to the one nearest in time to the end of `committed`, then to the most similar count."""
    same = 0
    ours, theirs = [_key(word) for word in committed], [_key(word) for word in words]
    for our, their in zip(ours, theirs, strict=False):
        if our != their:
            break
        same += 1
    if same == len(ours):
        return same
    costs = _distances(ours[same:], theirs[same:])

    def rank(count: int) -> tuple[int, bool, int, int]:
        at = same + count
        matched = (
            at > 0
            and theirs[at - 1] == ours[-1]
            and abs(_middle_ms(words[at - 1]) - _middle_ms(committed[-1])) <= _MATCH_MS
        )
        gap_ms = _time_gap_ms(committed, words, at)
        return costs[count], not matched, gap_ms // _TIME_STEP_MS, abs(at - len(ours))

    return same + min(range(len(costs)), key=rank)


def _distances(ours: Sequence[str], theirs: Sequence[str]) -> list[int]:
    """Edit distance between all of `ours` and each beginning of `theirs`: len(theirs) + 1 numbers.

    At most 150 x 150 words in 30 s of fast speech: 5 ms, and only while a hypothesis contradicts what is committed."""
    above: list[int] = []
    row = list(range(len(theirs) + 1))
    for i, our in enumerate(ours):
        before, above, row = above, row, [i + 1]
        for j, their in enumerate(theirs):
            cost = min(above[j] + (our != their), above[j + 1] + 1, row[j] + 1)
            if i > 0 and ours[i - 1] + our == their:
                cost = min(cost, before[j])
            if j > 0 and theirs[j - 1] + their == our:
                cost = min(cost, above[j - 1])
            row.append(cost)
    return row


def _time_gap_ms(committed: Sequence[Word], words: Sequence[Word], at: int) -> int:
    """How far the end of `committed` is from the joint before `words[at]`: 0 between the middles of its neighbours."""
    end = committed[-1].end_ms
    before = _middle_ms(words[at - 1]) if at > 0 else end
    after = _middle_ms(words[at]) if at < len(words) else end
    return max(0, before - end, end - after)


def _middle_ms(word: Word) -> int:
    return (word.start_ms + word.end_ms) // 2


class Agreement:
    """The committed and the open words of one utterance."""

    def __init__(self, n: int, holdback_words: int) -> None:
        """`n`: hypotheses in a row that must agree (1 commits at once, 0 leaves it to the engine's fixed words);
        `holdback_words`: see the module."""
        if n < 0 or holdback_words < 0:
            raise ValueError("agreement takes no negative number of hypotheses or words")
        self._n = n
        self._holdback = holdback_words
        self._committed: tuple[Word, ...] = ()
        self._tails: deque[tuple[Word, ...]] = deque(maxlen=max(n, 1))

    @property
    def stable_words(self) -> tuple[Word, ...]:
        return self._committed

    @property
    def stable(self) -> str:
        """The committed text, without a space at its end."""
        return text_of(self._committed)

    @property
    def unstable_words(self) -> tuple[Word, ...]:
        """What the newest hypothesis adds to the committed words."""
        return self._tails[-1] if self._tails else ()

    @property
    def unstable(self) -> str:
        """The text of `unstable_words`; begins with a space when both have text."""
        text = text_of(self.unstable_words)
        return f" {text}" if text and self._committed else text

    def update(self, hyp: Hypothesis) -> None:
        """Take a newer hypothesis over the utterance so far. One that is shorter than what is committed commits
        nothing and leaves nothing open."""
        words = clean(hyp.words)
        at = join(self._committed, words)
        newest = words[at:]
        self._tails.append(newest)
        count = max(0, len(clean(hyp.words[: hyp.fixed])) - at)
        if self._n and len(self._tails) == self._n:
            count = max(
                count, min(agreed([[w.text for w in tail] for tail in self._tails]), len(newest) - self._holdback)
            )
        self._committed += newest[:count]
        self._tails = deque((tail[count:] for tail in self._tails), maxlen=self._tails.maxlen)

    def finish(self, final: Hypothesis) -> tuple[Word, ...]:
        """The words of the final text: the committed ones, then what the final hypothesis adds. Where the two say the
        same, the final hypothesis gives times and confidence."""
        words = clean(final.words)
        at = join(self._committed, words)
        head = self._committed
        if [_key(word) for word in head] == [_key(word) for word in words[:at]]:
            head = tuple(msgspec.structs.replace(new, text=old.text) for old, new in zip(head, words, strict=False))
        return head + words[at:]
