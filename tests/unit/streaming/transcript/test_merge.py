"""What a second reading changes, and what it leaves alone."""

import random
from collections.abc import Sequence

import msgspec
import pytest

from streaming.model import Segment, Turn, Word, samples_of
from streaming.transcript.agreement import key_of, text_of
from streaming.transcript.merge import (
    GUARDED_WORDS_MIN,
    REACH_MS,
    SLACK_MS,
    Changes,
    Merge,
    Spoken,
    Stretch,
    attributed,
    merge,
)

LEXICON = (
    "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett", "kilo", "lima",
    "mike", "no", "no", "yes", "the",
)  # fmt: skip


def words(text: str, start_ms: int, *, each_ms: int = 300, gap_ms: int = 50) -> tuple[Word, ...]:
    return tuple(
        Word(word, start_ms + n * (each_ms + gap_ms), start_ms + n * (each_ms + gap_ms) + each_ms, 0.9)
        for n, word in enumerate(text.split())
    )


def segment(number: int, text: str, start_ms: int, **changes: object) -> Segment:
    said = words(text, start_ms)
    made = Segment(f"r.1.{number}", number, 1, said[0].start_ms, said[-1].end_ms, text, said, None, "en", 0.9)
    return msgspec.structs.replace(made, **changes)


def spoken(text: str, start_ms: int, **changes: object) -> Spoken:
    said = words(text, start_ms)
    end_ms = said[-1].end_ms if said else start_ms + 500
    return msgspec.structs.replace(Spoken(start_ms, end_ms, said, "en"), **changes)


def stretch(*each: Spoken, start_ms: int = 0, end_ms: int = 60_000) -> Stretch:
    return Stretch(start_ms, end_ms, each)


def merged(there: Sequence[Segment], *stretches: Stretch, protected: Sequence[str] = ()) -> Merge:
    return merge(there, stretches, protected=protected, name="r.p1")


def result(there: Sequence[Segment], made: Merge | Changes) -> list[Segment]:
    """The transcript afterwards."""
    by_id = {s.segment_id: s for s in there if s.segment_id not in made.removed}
    by_id |= {s.segment_id: s for s in (*made.revised, *made.inserted)}
    return sorted(by_id.values(), key=lambda s: (s.start_ms, s.ordinal, s.segment_id))


def test_what_is_heard_again_stays_untouched() -> None:
    there = [segment(1, "Hello, world.", 1_000), segment(2, "and so on", 4_000)]
    made = merged(there, stretch(spoken("hello world", 1_080), spoken("And so on.", 3_950)))
    assert made.kept == tuple(there)
    assert (made.revised, made.inserted, made.removed, made.dropped) == ((), (), (), 0)


def test_other_words_in_its_time_make_a_new_revision_of_the_same_segment() -> None:
    there = [segment(1, "the whether is fine", 1_000, rev=3)]
    made = merged(there, stretch(spoken("the weather is fine today", 1_000, language="de")))
    (new,) = made.revised
    assert (new.segment_id, new.ordinal, new.rev, new.text) == ("r.1.1", 1, 4, "the weather is fine today")
    assert (new.start_ms, new.end_ms, new.language) == (there[0].start_ms, there[0].end_ms, "de")
    assert all(new.start_ms <= word.start_ms <= word.end_ms <= new.end_ms for word in new.words)


def test_a_word_across_a_border_stays_where_it_was() -> None:
    there = [segment(1, "one two", 1_000), segment(2, "three four", 1_750)]
    late = spoken("one two three four", 1_350)  # everything a word later
    made = merged(there, stretch(late))
    assert made.kept == tuple(there)


def test_repeated_words_find_their_own_segments() -> None:
    there = [segment(1, "no no", 1_000), segment(2, "no", 3_000), segment(3, "no no no", 5_000)]
    made = merged(there, stretch(spoken("no no", 1_020), spoken("no yes", 3_010), spoken("no no no", 5_040)))
    assert [s.text for s in result(there, made)] == ["no no", "no", "yes", "no no no"] or [
        s.text for s in result(there, made)
    ] == ["no no", "no yes", "no no no"]
    assert {"r.1.1", "r.1.3"} <= {s.segment_id for s in made.kept}


def test_live_recognition_that_heard_nothing_gets_the_whole_transcript() -> None:
    made = merged([], stretch(spoken("one two", 1_000), spoken("three", 9_000), end_ms=30_000))
    assert [(s.segment_id, s.ordinal, s.rev, s.text, s.start_ms) for s in made.inserted] == [
        ("r.p1.1", 0, 1, "one two", 1_000),
        ("r.p1.2", 0, 1, "three", 9_000),
    ]


def test_a_gap_is_filled_with_the_ordinal_of_the_segment_before_and_overlaps_nothing() -> None:
    there = [segment(1, "one", 1_000), segment(2, "five", 4_000)]
    made = merged(there, stretch(spoken("one", 1_000), spoken("two three four", 2_000), spoken("five", 4_000)))
    (new,) = made.inserted
    assert (new.ordinal, new.text) == (1, "two three four")
    assert there[0].end_ms <= new.start_ms <= new.end_ms <= there[1].start_ms
    assert made.kept == tuple(there)


def test_a_long_pause_makes_two_segments() -> None:
    said = (*words("one", 1_000), *words("two", 5_000))
    made = merged([], stretch(Spoken(1_000, 6_000, said, "en")))
    assert [s.text for s in made.inserted] == ["one", "two"]


def test_what_nobody_said_is_removed() -> None:
    there = [segment(1, "thank you", 1_000), segment(2, "alpha bravo", 4_000)]
    made = merged(there, stretch(spoken("alpha bravo", 4_000)))
    assert made.removed == ("r.1.1",)


def test_what_a_person_edited_is_neither_changed_nor_overlapped() -> None:
    there = [segment(1, "alpha", 1_000), segment(2, "Bravo, they wrote", 1_400), segment(3, "delta", 2_800)]
    heard = spoken("alpha beta charlie and delta", 1_000)
    made = merged(there, stretch(heard), protected=["r.1.2"])
    after = result(there, made)
    assert next(s for s in after if s.segment_id == "r.1.2") == there[1]
    for other in after:
        assert other.segment_id == "r.1.2" or other.end_ms <= 1_400 or other.start_ms >= there[1].end_ms
    assert made.dropped == 3


def test_a_word_right_behind_an_edited_segment_is_not_lost() -> None:
    there = [segment(1, "mine", 1_000)]
    end_ms = there[0].end_ms
    late = Spoken(end_ms, end_ms + 400, (Word("bravo", end_ms + 50, end_ms + 350, 0.9),), "en")
    made = merged(there, stretch(late), protected=["r.1.1"])
    assert [s.text for s in made.inserted] == ["bravo"]
    assert made.inserted[0].start_ms >= end_ms


def test_of_two_equal_words_the_one_at_the_same_time_is_meant() -> None:
    there = [segment(1, "no", 1_000), segment(2, "no", 2_000)]
    made = merged(there, stretch(spoken("no", 2_000)))
    assert (made.kept, made.removed) == ((there[1],), ("r.1.1",))


def test_utterances_over_one_another_become_segments_behind_one_another() -> None:
    made = merged([], stretch(spoken("one two", 1_000), spoken("three", 1_500)))
    first, second = made.inserted
    assert first.end_ms <= second.start_ms


def test_an_utterance_that_lost_its_place_changes_nothing() -> None:
    there = [segment(1, "alpha bravo", 1_000), segment(2, "charlie", 5_000)]
    loop = spoken("la la la la la", 1_000, trusted=False)
    made = merged(there, stretch(loop, spoken("charles", 5_000)))
    assert made.kept == (there[0],)
    assert [s.text for s in made.revised] == ["charles"]


def test_a_stretch_that_heard_too_little_is_doubted_and_most_of_them_discard_the_pass() -> None:
    text = " ".join(LEXICON[:GUARDED_WORDS_MIN])
    there = [segment(1, text, 1_000), segment(2, "kilo lima", 62_000)]
    deaf = stretch(spoken("mike", 1_000))
    made = merged(there, deaf, stretch(spoken("kilo", 62_000), start_ms=60_000, end_ms=120_000))
    assert made.kept == (there[0],)
    assert [s.text for s in made.revised] == ["kilo"]
    assert not made.doubtful
    assert merged(there[:1], deaf).doubtful
    fewer = segment(1, " ".join(LEXICON[: GUARDED_WORDS_MIN - 1]), 1_000)
    assert merged([fewer], stretch()).removed == ("r.1.1",), "a few words may be noise"


def test_half_of_the_words_are_enough() -> None:
    text = LEXICON[:GUARDED_WORDS_MIN]
    there = [segment(1, " ".join(text), 1_000)]
    made = merged(there, stretch(spoken(" ".join(text[: GUARDED_WORDS_MIN // 2]), 1_000)))
    assert not made.doubtful
    assert len(made.revised) == 1


def test_words_at_the_edge_of_a_segments_time() -> None:
    there = [segment(1, "alpha", 1_000)]
    end_ms = there[0].end_ms

    def after(middle_ms: int) -> Merge:
        late = Word("bravo", middle_ms - 20, middle_ms + 20, 0.9)
        return merged(there, stretch(Spoken(1_000, middle_ms + 20, (*there[0].words, late), "en")))

    assert [s.text for s in after(end_ms + SLACK_MS).revised] == ["alpha bravo"]
    assert [s.text for s in after(end_ms + SLACK_MS + 1).inserted] == ["bravo"]


def test_a_segment_without_word_times_and_an_empty_reading() -> None:
    bare = segment(1, "alpha bravo", 1_000, words=())
    assert merged([bare], stretch(spoken("alpha bravo", 1_000))).kept == (bare,)
    empty = Spoken(1_000, 1_500, (Word(" ", 1_000, 1_100),), "en")
    assert merged([], stretch(empty)).inserted == ()


def test_outside_of_what_was_read_nothing_happens() -> None:
    there = [segment(1, "alpha", 70_000)]
    assert merged(there, stretch(spoken("bravo", 1_000))).kept == tuple(there)


# --- who says it ------------------------------------------------------------------------------------------------------
def turn(start_ms: int, end_ms: int, speaker: str) -> Turn:
    return Turn(samples_of(start_ms), samples_of(end_ms), speaker)


def test_speakers_change_a_segment_once_and_fall_into_pieces_with_free_ids() -> None:
    first = segment(1, "alpha bravo charlie delta", 1_000, rev=2, speaker="S1")
    taken = segment(9, "echo", 9_000, segment_id="r.1.1~2", speaker="S1")
    made = merged([first, taken], stretch(spoken("alpha beta charlie delta", 1_000), spoken("echo", 9_000)))
    turns = [turn(9_000, 9_400, "S1"), turn(1_000, 1_680, "S1"), turn(1_700, 2_400, "S2")]
    changes = attributed([first, taken], made, turns, ())
    (head,) = changes.revised
    (piece,) = changes.inserted
    assert (head.segment_id, head.rev, head.text, head.speaker) == ("r.1.1", 3, "alpha beta", "S1")
    assert (piece.segment_id, piece.rev, piece.text, piece.speaker, piece.ordinal) == (
        "r.1.1~3", 1, "charlie delta", "S2", 1,
    )  # fmt: skip


def test_only_the_speaker_changes_where_the_words_stay_and_nothing_where_it_is_right() -> None:
    there = [segment(1, "alpha", 1_000, speaker="S1"), segment(2, "bravo", 3_000, speaker="S2")]
    made = merged(there, stretch(spoken("alpha", 1_000), spoken("bravo", 3_000)))
    changes = attributed(there, made, [turn(900, 1_400, "S3"), turn(2_900, 3_400, "S2")], ())
    assert [(s.segment_id, s.rev, s.speaker) for s in changes.revised] == [("r.1.1", 2, "S3")]
    assert attributed(there, made, [turn(900, 1_400, "S3")], ["r.1.1"]).count == 0
    assert attributed(there, None, [], ()).count == 0


def test_what_is_removed_gets_no_speaker() -> None:
    there = [segment(1, "thank you", 1_000)]
    made = merged(there, stretch())
    changes = attributed(there, made, [turn(900, 2_000, "S2")], ())
    assert (changes.revised, changes.inserted, changes.removed) == ((), (), ("r.1.1",))


def test_inserted_segments_get_speakers_too() -> None:
    made = merged([], stretch(spoken("alpha bravo", 1_000)))
    changes = attributed([], made, [turn(900, 2_000, "S2")], ())
    assert [(s.rev, s.speaker) for s in changes.inserted] == [(1, "S2")]


# --- properties -------------------------------------------------------------------------------------------------------
class Case(msgspec.Struct):
    there: list[Segment]
    stretches: list[Stretch]
    protected: set[str]


def drawn(seed: int) -> Case:
    """A talk, what live recognition made of it, and what was read again: each with errors of its own."""
    draw = random.Random(seed)
    talk: list[list[Word]] = []
    at = 500
    for _ in range(draw.randint(3, 14)):
        utterance = []
        for _ in range(draw.randint(1, 9)):
            length = draw.randint(120, 500)
            utterance.append(Word(draw.choice(LEXICON), at, at + length, 0.8))
            at += length + draw.randint(0, 120)
        talk.append(utterance)
        at += draw.choice((200, 700, 2_000))
    there, protected = [], set()
    for number, utterance in enumerate(talk, start=1):
        live = garbled(draw, utterance, draw.choice((0.0, 0.0, 0.1, 0.5)))
        if not live or draw.random() < 0.1:
            continue
        made = Segment(
            f"r.1.{number}", number, 1, live[0].start_ms, live[-1].end_ms, text_of(live), tuple(live), None, "en", 0.8
        )
        there.append(made)
        if draw.random() < 0.15:
            protected.add(made.segment_id)
    stretches: list[Stretch] = []
    begin = 0
    while talk:
        count = draw.randint(1, 4)
        some, talk = talk[:count], talk[count:]
        said = [garbled(draw, utterance, draw.choice((0.0, 0.05)), shift=draw.randint(-80, 80)) for utterance in some]
        end = some[-1][-1].end_ms + 90
        each = tuple(
            Spoken(said_[0].start_ms, said_[-1].end_ms, tuple(said_), "en", draw.random() < 0.95)
            for said_ in said
            if said_
        )
        stretches.append(Stretch(begin, end, each))
        begin = end
    return Case(there, stretches, protected)


def garbled(draw: random.Random, utterance: Sequence[Word], share: float, shift: int = 0) -> list[Word]:
    """With words left out, put in and misheard."""
    words_ = []
    for word in utterance:
        lot = draw.random()
        text = draw.choice(LEXICON) if lot < share / 2 else word.text
        if share / 2 <= lot < share * 0.75:
            continue
        words_.append(Word(text, max(0, word.start_ms + shift), max(0, word.end_ms + shift), 0.8))
        if share * 0.75 <= lot < share:
            words_.append(Word(draw.choice(LEXICON), words_[-1].end_ms, words_[-1].end_ms, 0.8))
    return words_


@pytest.mark.parametrize("seed", range(300))
def test_every_new_word_is_there_once_and_in_order_and_ids_stay(seed: int) -> None:
    case = drawn(seed)
    made = merge(case.there, case.stretches, protected=case.protected, name="r.p1")
    after = result(case.there, made)
    ids = [s.segment_id for s in case.there]
    # Everything is one of four things, once.
    handled = [*(s.segment_id for s in made.kept), *(s.segment_id for s in made.revised), *made.removed]
    assert sorted(handled) == sorted(ids)
    assert not {s.segment_id for s in made.inserted} & set(ids)
    before = {s.segment_id: s for s in case.there}
    for new in made.revised:
        old = before[new.segment_id]
        assert (new.rev, new.ordinal, new.start_ms, new.end_ms) == (old.rev + 1, old.ordinal, old.start_ms, old.end_ms)
        assert [key_of(w.text) for w in new.words] != [key_of(w.text) for w in old.words]
    for name in case.protected:
        assert before[name] in made.kept
    # Words of what was believed, once and in order, but for those over frozen segments.
    now = [key_of(w.text) for s in after if s.segment_id not in made.frozen for w in s.words]
    heard = [w for each in believed(case, made) for w in each.words]
    assert is_subsequence(now, [key_of(w.text) for w in heard]), "nothing new, nothing twice, in order"
    assert len(heard) == len(now) + made.dropped
    free = [w for w in heard if not any(near(w, s) for s in case.there if s.segment_id in made.frozen)]
    assert is_subsequence([key_of(w.text) for w in free], now), "only what lies over frozen segments is dropped"
    # In time.
    starts = [s.start_ms for s in after]
    assert starts == sorted(starts)
    for new in made.inserted:
        assert all(new.end_ms <= s.start_ms or s.end_ms <= new.start_ms for s in case.there), "inserted into a gap"
        assert all(a.end_ms <= b.start_ms for a, b in zip(new.words, new.words[1:], strict=False))
    again = merge(case.there, case.stretches, protected=case.protected, name="r.p1")
    assert again == made, "the same for the same"
    settled = merge(after, case.stretches, protected=case.protected, name="r.p2")
    assert len(settled.inserted) + len(settled.removed) <= made.dropped, "a second time changes next to nothing"


def believed(case: Case, made: Merge) -> list[Spoken]:
    """What the merge had to take: all that is trusted, but for stretches with too few words for what was there."""
    doubted = [st for st in case.stretches if is_doubted(st, case)]
    assert len(doubted) == made.doubted
    return [each for st in case.stretches if st not in doubted for each in st.spoken if each.trusted]


def is_doubted(st: Stretch, case: Case) -> bool:
    unsure = [each for each in st.spoken if not each.trusted]
    theirs = [
        s
        for s in case.there
        if s.segment_id not in case.protected
        and st.start_ms <= (s.start_ms + s.end_ms) // 2 < st.end_ms
        and not any(shared_ms(s, each) > min(SLACK_MS, (s.end_ms - s.start_ms) // 2) for each in unsure)
    ]
    there = sum(len(s.words) for s in theirs)
    return there >= GUARDED_WORDS_MIN and 2 * sum(len(each.words) for each in st.spoken if each.trusted) < there


def shared_ms(segment_: Segment, each: Spoken) -> int:
    return min(segment_.end_ms, each.end_ms) - max(segment_.start_ms, each.start_ms)


def near(word: Word, segment_: Segment) -> bool:
    """It may be one of the segment's words."""
    return word.start_ms - REACH_MS <= segment_.end_ms and segment_.start_ms <= word.end_ms + REACH_MS


def is_subsequence(some: Sequence[str], of: Sequence[str]) -> bool:
    rest = iter(of)
    return all(word in rest for word in some)
