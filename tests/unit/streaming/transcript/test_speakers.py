"""Who said which words, and the pieces of a final."""

from itertools import groupby, pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.model import Segment, Turn, Word, samples_of
from streaming.transcript.speakers import NEAR_MS, SWITCH_MS, attribute, speaker_of, split


def said(*words: tuple[str, int, int]) -> tuple[Word, ...]:
    return tuple(Word(text, start, end, 0.1 * number) for number, (text, start, end) in enumerate(words, start=1))


def turn(speaker: str, start_ms: int, end_ms: int) -> Turn:
    return Turn(samples_of(start_ms), samples_of(end_ms), speaker)


def segment(words: tuple[Word, ...], text: str | None = None, speaker: str | None = None) -> Segment:
    said = " ".join(word.text for word in words) if text is None else text
    return Segment(
        "r.1.4", 4, 3, words[0].start_ms, words[-1].end_ms, said,
        words, speaker, "en", 0.5,
    )  # fmt: skip


TALK = said(("So,", 0, 300), ("ready?", 350, 700), ("Yes,", 1_000, 1_300), ("go", 1_350, 1_600), ("on.", 1_600, 2_000))
TURNS = (turn("S1", 0, 750), turn("S2", 950, 2_050))


def test_a_final_of_two_speakers_falls_into_pieces() -> None:
    first, second = split(segment(TALK, speaker="S2"), TURNS)
    assert first == Segment("r.1.4", 4, 4, 0, 700, "So, ready?", TALK[:2], "S1", "en", pytest.approx(0.15))
    assert second == Segment("r.1.4~2", 4, 1, 1_000, 2_000, "Yes, go on.", TALK[2:], "S2", "en", pytest.approx(0.4))


def test_a_third_piece_has_the_next_number() -> None:
    pieces = split(segment(TALK), (turn("S1", 0, 320), turn("S2", 340, 720), turn("S1", 950, 2_000)))
    assert [(piece.segment_id, piece.text, piece.speaker) for piece in pieces] == [
        ("r.1.4", "So,", "S1"), ("r.1.4~2", "ready?", "S2"), ("r.1.4~3", "Yes, go on.", "S1"),
    ]  # fmt: skip


def test_a_final_of_one_speaker_gets_the_label_and_nothing_else() -> None:
    whole = segment(TALK)
    assert split(whole, (turn("S3", 0, 2_000),)) == (msgspec.structs.replace(whole, rev=4, speaker="S3"),)


def test_what_is_right_already_is_no_revision() -> None:
    whole = segment(TALK, speaker="S3")
    assert split(whole, (turn("S3", 0, 2_000),)) == (whole,)


def test_without_turns_nearby_nothing_changes() -> None:
    whole = segment(TALK, speaker="S3")
    far = turn("S1", 2_000 + NEAR_MS + 1, 9_000)
    assert split(whole, ()) == split(whole, (far,)) == (whole,)
    assert speaker_of(TALK, ()) is None
    assert speaker_of((), TURNS) is None


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_stray_word_is_no_turn(at: int) -> None:
    """At the ends as well as in the middle."""
    words = said(*((f"w{number}", 200 * number, 200 * number + 200) for number in range(4)))
    turns = [turn("S2" if number == at else "S1", 200 * number, 200 * number + 200) for number in range(4)]
    assert attribute(words, turns) == ["S1"] * 4


@pytest.mark.parametrize(("length_ms", "pieces"), [(2 * SWITCH_MS, 1), (2 * SWITCH_MS + 1, 3)])
def test_a_longer_one_is_a_turn(length_ms: int, pieces: int) -> None:
    end = 1_000 + length_ms
    words = said(("one", 0, 1_000), ("two", 1_000, end), ("three", end, end + 1_000))
    turns = (turn("S1", 0, 1_000), turn("S2", 1_000, end), turn("S1", end, end + 1_000))
    assert len(split(segment(words), turns)) == pieces


def test_who_goes_on_keeps_the_words_where_two_speak_at_once() -> None:
    words = said(("and", 0, 500), ("then", 500, 1_000), ("we", 1_000, 1_500), ("left", 1_500, 2_000))
    turns = (turn("S1", 0, 2_000), turn("S2", 500, 1_500))
    assert attribute(words, turns) == ["S1"] * 4


def test_a_word_between_turns_is_the_nearer_ones() -> None:
    words = said(("a", 0, 1_000), ("b", 1_300, 1_400), ("c", 2_000, 3_000))
    turns = [turn("S1", 0, 1_000), turn("S2", 1_900, 3_000)]
    assert attribute(words, turns) == ["S1", "S1", "S2"]
    assert attribute(words, [turns[0], turn("S2", 1_600, 3_000)]) == ["S1", "S2", "S2"]


def test_most_words_count_not_most_time() -> None:
    words = said(("well", 0, 2_000), ("I", 2_000, 2_300), ("do", 2_300, 2_600), ("not", 2_600, 2_900))
    assert speaker_of(words, (turn("S1", 0, 2_000), turn("S2", 2_000, 2_900))) == "S2"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ready? Yes", ["ready?", "Yes"]),
        ("ready ? Yes", ["ready ?", "Yes"]),
        ("«ready?» «Yes»", ["«ready?»", "«Yes»"]),
        ("ready?Yes", ["ready?", "Yes"]),
        ("(ready?)\n  – Yes!", ["(ready?)\n  –", "Yes!"]),
    ],
)
def test_punctuation_stays_with_its_word(text: str, pieces: list[str]) -> None:
    words = said(("ready", 0, 700), ("Yes", 1_000, 2_000))
    cut = split(segment(words, text), TURNS)
    assert [piece.text for piece in cut] == pieces


def test_a_text_that_does_not_hold_its_words_is_never_cut() -> None:
    words = said(("twenty", 0, 700), ("one", 1_000, 1_300), ("yes", 1_300, 2_000))
    (whole,) = split(segment(words, "21, yes"), TURNS)
    assert (whole.text, whole.words, whole.speaker, whole.rev) == ("21, yes", words, "S2", 4)


def test_equal_words_are_found_each_in_its_place() -> None:
    words = said(("no", 0, 700), ("no", 1_000, 2_000))
    assert [piece.text for piece in split(segment(words, "no, no!"), TURNS)] == ["no,", "no!"]


spans = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 900)), min_size=1, max_size=12)
somebody = st.lists(
    st.builds(
        lambda label, start, length: turn(f"S{label}", start, start + length),
        st.integers(1, 3), st.integers(0, 6_000), st.integers(1, 3_000),
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=300)
@given(spans, somebody, st.lists(st.sampled_from(["a", "b,", "c.", "ää", "?"]), min_size=12, max_size=12))
def test_pieces_keep_everything(lengths: list[tuple[int, int]], turns: list[Turn], texts: list[str]) -> None:
    at, words = 0, []
    for text, (pause, length) in zip(texts, lengths, strict=False):
        words.append(Word(text, at + pause, at + pause + length))
        at += pause + length
    whole = segment(tuple(words))
    pieces = split(whole, turns)
    assert tuple(word for piece in pieces for word in piece.words) == whole.words
    assert " ".join(piece.text for piece in pieces) == whole.text
    assert all(piece.text == " ".join(word.text for word in piece.words) for piece in pieces)
    assert (pieces[0].segment_id, pieces[0].start_ms, pieces[-1].end_ms) == (whole.segment_id, 0 + lengths[0][0], at)
    assert len({piece.segment_id for piece in pieces}) == len(pieces)
    starts = [piece.start_ms for piece in pieces]
    assert all(a < b for a, b in pairwise(starts)), "each stands behind the one before"
    if len(pieces) > 1:
        speakers = [piece.speaker for piece in pieces]
        assert [label for label, _ in groupby(speakers)] == speakers, "each change is a change of speaker"
