"""A segment's words after a person wrote its text anew: words that are the same keep their times, the others share what
is between them.

Policy: old and new words are matched in order, by what `key_of` makes of them, so that a comma or a capital moves
nothing. Words that were put in the place of others get their time, spread by length; words that were put between two
get the pause between these.

Pure. Invariant: times stay in order and inside the segment; joined with single spaces the words are the text.
"""

from collections.abc import Sequence

import msgspec

from streaming.model import Segment, Word
from streaming.transcript.agreement import key_of, text_of


def rewritten(segment: Segment, text: str) -> Segment:
    """The segment's next revision with this text, which has words."""
    words = placed(segment.words, text.split(), segment.start_ms, segment.end_ms)
    return msgspec.structs.replace(
        segment,
        rev=segment.rev + 1,
        text=text_of(words),
        words=words,
        confidence=sum(word.p for word in words) / len(words),
    )


def placed(old: Sequence[Word], new: Sequence[str], start_ms: int, end_ms: int) -> tuple[Word, ...]:
    """`new` as words within [start_ms, end_ms]."""
    words: list[Word] = []
    i = j = 0
    pairs = _common([key_of(word.text) for word in old], [key_of(text) for text in new])
    for i_same, j_same in [*pairs, (len(old), len(new))]:
        if i < i_same:  # in the place of others
            words += _spread(new[j:j_same], old[i].start_ms, old[i_same - 1].end_ms)
        elif j < j_same:  # between two
            pause = old[i - 1].end_ms if i else start_ms, old[i].start_ms if i < len(old) else end_ms
            words += _spread(new[j:j_same], *pause)
        if i_same < len(old):
            same = old[i_same]
            words.append(same if same.text == new[j_same] else msgspec.structs.replace(same, text=new[j_same]))
        i, j = i_same + 1, j_same + 1
    return tuple(words)


def _common(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Places (in `old`, in `new`) of a longest common subsequence, in order. Takes len(old) x len(new) steps, whatever
    the words are; difflib took 1.3 s for 500 words of two kinds."""
    rows = [[0] * (len(new) + 1)]  # rows[-1][j]: how many words old[i:] and new[j:] have in common
    for key in reversed(old):
        after, row = rows[-1], [0] * (len(new) + 1)
        for j in range(len(new) - 1, -1, -1):
            row[j] = after[j + 1] + 1 if key == new[j] else max(after[j], row[j + 1])
        rows.append(row)
    rows.reverse()
    pairs, i, j = [], 0, 0
    while i < len(old) and j < len(new):
        if old[i] == new[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif rows[i + 1][j] >= rows[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def _spread(texts: Sequence[str], start_ms: int, end_ms: int) -> list[Word]:
    """The words one after the other, each as long as it is written. A person is sure of them."""
    span_ms, total = max(0, end_ms - start_ms), sum(map(len, texts))
    words, at = [], 0
    for text in texts:
        begin_ms = start_ms + span_ms * at // total
        at += len(text)
        words.append(Word(text, begin_ms, start_ms + span_ms * at // total, 1.0))
    return words
