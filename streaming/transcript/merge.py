"""What a second reading of the audio changes in a transcript that is there already.

    words of the second reading + segments -> segments that stay, new revisions of the same ids, new ones, removed ones

Policy: each new word is given to a segment, or to the gap between two. Old and new words are matched first, in order,
by what they say and at most `REACH_MS` apart; a word that matches goes where its old one stands, however the two
readings differ in its time. A word without a match goes to the segment between those of its matched neighbours in whose
own time (within `SLACK_MS`) it lies, else into a gap: there a segment is inserted. So a segment's text changes only
within its own time, and the order of the words is that of the second reading. A segment whose words are the same, case
and punctuation apart, stays as it is: nobody is told of it. One that got no word is removed.

Nothing is taken from a segment that a person edited, that lies in a part of which the second reading is not sure
(`Spoken.trusted`), or in a stretch where it heard less than `HEARD_SHARE_MIN` of the words that were there: a model
that breaks shall not empty a transcript. New words in the time of such segments are dropped.

Pure. Invariants: every new word that was not dropped is in the result once and in order; ids of segments that stay or
are revised do not change; no inserted segment overlaps one that is there.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import count, pairwise

import msgspec

from streaming.model import Segment, Turn, Word, samples_of
from streaming.transcript.agreement import key_of, text_of
from streaming.transcript.speakers import NEAR_MS, split

REACH_MS = 1_500
"""Two readings place the same word up to 0.5 s apart (ends of windows), never further than a short sentence."""
SLACK_MS = 250
"""A segment's own time ends where the recogniser heard its last word end: 60 ms off usually, a syllable at worst."""
PAUSE_MS = 1_000
"""Inserted words that are further apart are two segments."""
HEARD_SHARE_MIN = 0.5
GUARDED_WORDS_MIN = 8
"""Fewer words may be what a recogniser made of a noise: they go when the second reading does not hear them."""
_MATCH, _NEAR = 2.0, 1.0
"""Of two equal words, and what is added when they are at the same time: repeated words find their own."""


class Spoken(msgspec.Struct, frozen=True):
    """An utterance of the second reading. `trusted`: False where the recogniser lost its place, or did not listen."""

    start_ms: int
    end_ms: int
    words: tuple[Word, ...]
    language: str
    trusted: bool = True


class Stretch(msgspec.Struct, frozen=True):
    """Talk from `start_ms` to `end_ms` that was read in one go, cut where nobody speaks."""

    start_ms: int
    end_ms: int
    spoken: tuple[Spoken, ...]


class Merge(msgspec.Struct, frozen=True):
    """`kept`: segments that stay untouched; of them `frozen` could not be changed; `revised` have `rev` + 1; `doubted`:
    stretches in which the second reading heard too little; `dropped`: new words over frozen segments."""

    kept: tuple[Segment, ...]
    revised: tuple[Segment, ...]
    inserted: tuple[Segment, ...]
    removed: tuple[str, ...]
    frozen: frozenset[str]
    doubted: int
    stretches: int
    dropped: int

    @property
    def doubtful(self) -> bool:
        """Most of the second reading is no good: none of it shall count."""
        return 2 * self.doubted > self.stretches


class _Heard(msgspec.Struct, frozen=True):
    """A new word, and which utterance it is from."""

    word: Word
    utterance: int

    @property
    def middle_ms(self) -> int:
        return (self.word.start_ms + self.word.end_ms) // 2


def merge(
    segments: Sequence[Segment],
    stretches: Sequence[Stretch],
    *,
    protected: Collection[str] = (),
    name: str,
) -> Merge:
    """`segments`: those that lie within the stretches, in any order; `stretches`: in order; `protected`: ids that
    nothing may touch; `name`: prefix of the ids of inserted segments."""
    old = sorted(segments, key=lambda s: (s.start_ms, s.ordinal, s.segment_id))
    theirs = _by_stretch(old, stretches)
    doubted = {n for n, stretch in enumerate(stretches) if _is_doubted(theirs[n], stretch, protected)}
    spoken = [
        msgspec.structs.replace(each, trusted=each.trusted and n not in doubted)
        for n, stretch in enumerate(stretches)
        for each in stretch.spoken
    ]
    read = {
        s.segment_id
        for n, stretch in enumerate(stretches)
        if n not in doubted
        for s in theirs[n]
        if not _is_unsure(s, stretch)
    }
    frozen = {s.segment_id for s in old if s.segment_id in protected or s.segment_id not in read}
    heard = [_Heard(word, number) for number, each in enumerate(spoken) if each.trusted for word in _words_of(each)]
    places = _places(old, heard, frozen)
    by_place: dict[int, list[_Heard]] = {}
    dropped = 0
    for place, each in zip(places, heard, strict=True):
        if place is None:
            dropped += 1
        else:
            by_place.setdefault(place, []).append(each)
    kept, revised, removed = [], [], []
    for index, segment in enumerate(old):
        own = by_place.get(2 * index + 1, [])
        if segment.segment_id in frozen or _same(segment, own):
            kept.append(segment)
        elif not own:
            removed.append(segment.segment_id)
        else:
            revised.append(_revised(segment, own, spoken))
    inserted: list[Segment] = []
    for place in sorted(place for place in by_place if place % 2 == 0):
        before, after = place // 2 - 1, place // 2
        ceiling_ms = old[after].start_ms if after < len(old) else None
        floor_ms = old[before].end_ms if before >= 0 else 0
        floor_ms = floor_ms if ceiling_ms is None else min(floor_ms, ceiling_ms)
        ordinal = old[before].ordinal if before >= 0 else 0
        for group in _groups(by_place[place]):
            words = _clamped([each.word for each in group], floor_ms, ceiling_ms)
            inserted.append(_segment(f"{name}.{len(inserted) + 1}", ordinal, words, spoken[group[0].utterance]))
            floor_ms = words[-1].end_ms
    return Merge(
        kept=tuple(kept),
        revised=tuple(revised),
        inserted=tuple(inserted),
        removed=tuple(removed),
        frozen=frozenset(frozen),
        doubted=len(doubted),
        stretches=len(stretches),
        dropped=dropped,
    )


class Changes(msgspec.Struct, frozen=True):
    """What is to be written: `revised` with the `rev` that follows the one that is there."""

    revised: tuple[Segment, ...]
    inserted: tuple[Segment, ...]
    removed: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.revised) + len(self.inserted) + len(self.removed)


def attributed(
    there: Sequence[Segment], made: Merge | None, turns: Sequence[Turn], protected: Collection[str]
) -> Changes:
    """Who says what: `made`, and every other segment that is `there` and not `protected`, laid over `turns`. A segment
    of several speakers falls into pieces; `there` says which ids are taken and which `rev` comes next."""
    revised = {segment.segment_id: segment for segment in made.revised} if made else {}
    removed = made.removed if made else ()
    now = [
        revised.get(segment.segment_id, segment)
        for segment in there
        if segment.segment_id not in protected and segment.segment_id not in removed
    ]
    if not turns:
        return Changes(tuple(revised.values()), made.inserted if made else (), removed)
    revs = {segment.segment_id: segment.rev for segment in there}
    ordered = sorted(turns, key=lambda turn: turn.start_sample)
    longest = max(turn.end_sample - turn.start_sample for turn in ordered)
    starts = [turn.start_sample for turn in ordered]
    taken = set(revs) | {segment.segment_id for segment in (made.inserted if made else ())}
    inserted: list[Segment] = []
    for segment in [*now, *(made.inserted if made else ())]:
        first = bisect_left(starts, samples_of(segment.start_ms - NEAR_MS) - longest)
        last = bisect_right(starts, samples_of(segment.end_ms + NEAR_MS))
        head, *pieces = split(segment, ordered[first:last])
        rev = revs.get(segment.segment_id)
        if rev is None:
            inserted.append(msgspec.structs.replace(head, rev=1))
        elif head.rev > rev:
            revised[head.segment_id] = msgspec.structs.replace(head, rev=rev + 1)
        for piece in pieces:
            free = next(n for n in count(2) if f"{segment.segment_id}~{n}" not in taken)
            taken.add(f"{segment.segment_id}~{free}")
            inserted.append(msgspec.structs.replace(piece, segment_id=f"{segment.segment_id}~{free}", rev=1))
    return Changes(tuple(revised.values()), tuple(inserted), removed)


# --- what is protected ------------------------------------------------------------------------------------------------
def _by_stretch(old: Sequence[Segment], stretches: Sequence[Stretch]) -> list[list[Segment]]:
    """The segments whose middle lies in each stretch."""
    starts = [stretch.start_ms for stretch in stretches]
    found: list[list[Segment]] = [[] for _ in stretches]
    for segment in old:
        middle_ms = (segment.start_ms + segment.end_ms) // 2
        n = bisect_right(starts, middle_ms) - 1
        if n >= 0 and middle_ms < stretches[n].end_ms:
            found[n].append(segment)
    return found


def _is_doubted(theirs: Sequence[Segment], stretch: Stretch, protected: Collection[str]) -> bool:
    """Its second reading has too few words for what was there."""
    free = [s for s in theirs if s.segment_id not in protected and not _is_unsure(s, stretch)]
    there = sum(len(_words(s)) for s in free)
    new = sum(len(each.words) for each in stretch.spoken if each.trusted)
    return there >= GUARDED_WORDS_MIN and new < HEARD_SHARE_MIN * there


def _is_unsure(segment: Segment, stretch: Stretch) -> bool:
    """The second reading does not say what is said there."""
    return any(_touch(segment, each) for each in stretch.spoken if not each.trusted)


def _touch(segment: Segment, spoken: Spoken) -> bool:
    """They share some time, and not only their edges."""
    shared = min(segment.end_ms, spoken.end_ms) - max(segment.start_ms, spoken.start_ms)
    return shared > min(SLACK_MS, (segment.end_ms - segment.start_ms) // 2)


# --- whose word it is -------------------------------------------------------------------------------------------------
def _places(old: Sequence[Segment], heard: Sequence[_Heard], frozen: Collection[str]) -> list[int | None]:
    """Where each new word belongs: 2 n + 1 is segment n, 2 n the gap before it, None nowhere: a frozen segment has
    it."""
    owners = [index for index, segment in enumerate(old) for _ in _words(segment)]
    matches = _matched([word for segment in old for word in _words(segment)], [each.word for each in heard])
    matched = [None if match is None else owners[match] for match in matches]
    ceilings: list[int] = []
    following = len(old)
    for owner in reversed(matched):
        following = following if owner is None else owner
        ceilings.append(following)
    ceilings.reverse()
    places: list[int | None] = []
    floor = 0
    for each, owner, ceiling in zip(heard, matched, ceilings, strict=True):
        place = 2 * owner + 1 if owner is not None else _between(old, each, floor, 2 * ceiling + 1, frozen)
        floor = place
        places.append(place if place % 2 == 0 or old[place // 2].segment_id not in frozen else None)
    return places


def _between(old: Sequence[Segment], heard: _Heard, floor: int, ceiling: int, frozen: Collection[str]) -> int:
    """The place of a word without a match, no further back than `floor` and no further on than `ceiling`."""
    middle = heard.middle_ms
    first, last = floor // 2, min(ceiling // 2, len(old) - 1)
    best, best_ms = None, SLACK_MS + 1
    for index in range(first, last + 1):
        segment = old[index]
        if segment.start_ms > middle + SLACK_MS:
            break
        off_ms = max(segment.start_ms - middle, middle - segment.end_ms, 0)
        if off_ms < best_ms and (off_ms == 0 or segment.segment_id not in frozen):
            best, best_ms = index, off_ms
    if best is not None:
        return 2 * best + 1
    gap = next((n for n in range(first, last + 1) if old[n].start_ms + old[n].end_ms > 2 * middle), last + 1)
    return min(max(2 * gap, floor), ceiling)


def _matched(old: Sequence[Word], new: Sequence[Word]) -> list[int | None]:
    """For each new word the old one that it is: pairs in order, as many as there are, those at the same time first.

    Each new word is compared with the old ones within `REACH_MS` only, so the work grows with the length, not its
    square: the best chain of pairs, by a tree of the best chains that end at or before an old word (Fenwick)."""
    keys = [key_of(word.text) for word in old]
    chains = _Chains(len(old))
    links: list[tuple[int, int, int | None]] = []
    low = 0
    for number, word in enumerate(new):
        while low < len(old) and old[low].start_ms < word.start_ms - REACH_MS - _LONGEST_BACK_MS:
            low += 1
        key = key_of(word.text)
        found = []
        for index in range(low, len(old)):
            apart = old[index].start_ms - word.start_ms
            if apart > REACH_MS + _LONGEST_BACK_MS:
                break
            if abs(apart) <= REACH_MS and keys[index] == key:
                weight, link = chains.best(index)
                found.append((index, weight + _MATCH + _NEAR * (1 - abs(apart) / REACH_MS), link))
        for index, weight, link in found:  # all of them before any is put in: a word pairs once
            links.append((number, index, link))
            chains.put(index, weight, len(links) - 1)
    matches: list[int | None] = [None] * len(new)
    _, at = chains.best(len(old))
    while at is not None:
        number, index, at = links[at]
        matches[number] = index
    return matches


_LONGEST_BACK_MS = 500
"""Words of a transcript are in order by segments; times of neighbours may be so much out of order."""


class _Chains:
    """The heaviest chain of pairs that ends before each old word."""

    def __init__(self, size: int) -> None:
        self._tree: list[tuple[float, int | None]] = [(0.0, None)] * (size + 1)

    def best(self, index: int) -> tuple[float, int | None]:
        """Of the old words before `index`: weight, and the last link."""
        found: tuple[float, int | None] = (0.0, None)
        while index > 0:
            if self._tree[index][0] > found[0]:
                found = self._tree[index]
            index -= index & -index
        return found

    def put(self, index: int, weight: float, link: int) -> None:
        index += 1
        while index < len(self._tree):
            if weight > self._tree[index][0]:
                self._tree[index] = (weight, link)
            index += index & -index


# --- segments ---------------------------------------------------------------------------------------------------------
def _words(segment: Segment) -> tuple[Word, ...]:
    """Its words; of a text without word times, spread over its time."""
    if segment.words or not segment.text.strip():
        return segment.words
    texts = segment.text.split()
    span = segment.end_ms - segment.start_ms
    edges = [segment.start_ms + span * n // len(texts) for n in range(len(texts) + 1)]
    return tuple(Word(text, edges[n], edges[n + 1]) for n, text in enumerate(texts))


def _words_of(spoken: Spoken) -> Iterable[Word]:
    return (word for word in spoken.words if word.text.strip())


def _same(segment: Segment, words: Sequence[_Heard]) -> bool:
    return [key_of(word.text) for word in _words(segment)] == [key_of(each.word.text) for each in words]


def _revised(segment: Segment, heard: Sequence[_Heard], spoken: Sequence[Spoken]) -> Segment:
    """Other words in the same time; the language that most of them are in."""
    words = _clamped([each.word for each in heard], segment.start_ms, segment.end_ms)
    language = Counter(spoken[each.utterance].language for each in heard).most_common(1)[0][0]
    return msgspec.structs.replace(
        segment,
        rev=segment.rev + 1,
        text=text_of(words),
        words=words,
        language=language,
        confidence=sum(word.p for word in words) / len(words),
    )


def _segment(segment_id: str, ordinal: int, words: tuple[Word, ...], spoken: Spoken) -> Segment:
    return Segment(
        segment_id=segment_id,
        ordinal=ordinal,
        rev=1,
        start_ms=words[0].start_ms,
        end_ms=words[-1].end_ms,
        text=text_of(words),
        words=words,
        speaker=None,
        language=spoken.language,
        confidence=sum(word.p for word in words) / len(words),
    )


def _groups(heard: Sequence[_Heard]) -> list[list[_Heard]]:
    """Words that become one inserted segment: of one utterance, without a long pause."""
    groups = [[heard[0]]]
    for before, each in pairwise(heard):
        if each.utterance != before.utterance or each.word.start_ms - before.word.end_ms > PAUSE_MS:
            groups.append([])
        groups[-1].append(each)
    return groups


def _clamped(words: Sequence[Word], start_ms: int, end_ms: int | None) -> tuple[Word, ...]:
    """The words in order and inside [start, end]."""
    placed: list[Word] = []
    earliest = start_ms
    for word in words:
        latest = word.start_ms if end_ms is None else min(word.start_ms, end_ms)
        begin = max(earliest, latest)
        end = max(begin, word.end_ms if end_ms is None else min(word.end_ms, end_ms))
        placed.append(Word(word.text, begin, end, min(max(word.p, 0.0), 1.0)))
        earliest = end
    return tuple(placed)


__all__ = ["Changes", "Merge", "Spoken", "Stretch", "attributed", "merge"]
