"""Partials and the segment of one utterance that begins at 1,000 ms."""

import unicodedata

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.model import Hypothesis, Partial, Segment, Word, samples_of
from streaming.transcript.agreement import Agreement
from streaming.transcript.segments import SegmentBuilder, text_of


def builder(n: int = 2, holdback: int = 0) -> SegmentBuilder:
    return SegmentBuilder("seg-1", samples_of(1_000), Agreement(n, holdback))


def hyp(text: str, until_ms: int = 2_000) -> Hypothesis:
    words = tuple(Word(w, 1_000 + 200 * i, 1_200 + 200 * i, 0.5) for i, w in enumerate(text.split()))
    return Hypothesis(words, samples_of(until_ms), language="de")


def finish(builder: SegmentBuilder, final: Hypothesis, end_ms: int = 5_000) -> Segment | None:
    return builder.finish(final, ordinal=7, end_sample=samples_of(end_ms))


def without_words(partial: Partial | None) -> Partial | None:
    """What people read of it."""
    assert partial is not None
    assert text_of(partial.words) == partial.stable + partial.unstable
    return msgspec.structs.replace(partial, words=())


def test_a_partial_begins_with_its_first_word() -> None:
    built = builder()
    partial = built.update(Hypothesis((Word("late", 1_400, 1_500),), until_sample=24_000))
    assert partial is not None
    assert (partial.start_ms, partial.words[0].start_ms) == (1_400, 1_400)


def test_partials_count_up_and_end_where_the_audio_ended() -> None:
    b = builder()
    assert without_words(b.update(hyp("so my", 1_500))) == Partial("seg-1", 1, 1_000, 1_500, "", "so my")
    assert without_words(b.update(hyp("so my fellow", 2_000))) == Partial("seg-1", 2, 1_000, 2_000, "so my", " fellow")


def test_a_caption_that_did_not_change_is_not_shown_again() -> None:
    b = builder(n=3)
    assert b.update(Hypothesis((), samples_of(1_500))) is None
    assert b.update(hyp("so", 1_600)) is not None
    assert b.update(hyp("so", 1_900)) is None
    again = b.update(hyp("so my", 2_100))
    assert again is not None
    assert (again.rev, again.end_ms) == (2, 2_100)


def test_a_word_that_turns_stable_is_a_change() -> None:
    b = builder()
    b.update(hyp("so"))
    assert without_words(b.update(hyp("so"))) == Partial("seg-1", 2, 1_000, 2_000, "so", "")


def test_the_end_of_a_caption_never_moves_back() -> None:
    b = builder()
    b.update(hyp("so my", 3_000))
    partial = b.update(hyp("so", 2_000))
    assert partial is not None
    assert partial.end_ms == 3_000


def test_the_segment_is_the_next_revision_and_carries_the_final_words() -> None:
    b = builder()
    b.update(hyp("so"))
    final = Hypothesis((Word("So", 1_100, 1_300, 0.5), Word("my", 1_300, 1_500, 1.0)), 0, language="de", confidence=0.1)
    assert finish(b, final) == Segment(
        "seg-1", 7, 2, 1_100, 1_500, "So my", final.words, speaker=None, language="de", confidence=0.75
    )


def test_the_segment_begins_with_the_last_stable_text() -> None:
    b = builder()
    b.update(hyp("hello world"))
    b.update(hyp("hello world"))
    segment = finish(b, hyp("Hello, world! Again."))
    assert segment is not None
    assert segment.text == "hello world Again."
    assert text_of(segment.words) == segment.text


def test_nothing_said_is_no_segment_and_clears_the_caption() -> None:
    b = builder()
    assert b.clear() is None
    b.update(hyp("uh", 1_500))
    assert finish(b, Hypothesis((), 0)) is None
    assert b.clear() == Partial("seg-1", 2, 1_000, 1_500, "", "")
    assert b.clear() is None


def test_without_a_final_what_is_stable_still_becomes_the_segment() -> None:
    b = builder()
    b.update(hyp("so my"))
    b.update(hyp("so my fellow"))
    cleared = b.clear()
    assert cleared is not None
    assert (cleared.stable, cleared.unstable) == ("so my", "")
    segment = finish(b, Hypothesis((), 0))
    assert segment is not None
    assert segment.text == "so my"


def test_words_without_times_leave_the_segment_the_utterances_own() -> None:
    segment = finish(builder(), Hypothesis((Word("so", 0, 0), Word("my", 0, 0)), 0))
    assert segment is not None
    assert (segment.start_ms, segment.end_ms) == (1_000, 5_000)


def test_overlapping_words_are_parted_at_the_start_of_the_second() -> None:
    segment = finish(builder(), Hypothesis((Word("a", 1_100, 4_000), Word("b", 1_500, 1_700)), 0))
    assert segment is not None
    assert [(w.start_ms, w.end_ms) for w in segment.words] == [(1_100, 1_500), (1_500, 1_700)]
    assert (segment.start_ms, segment.end_ms) == (1_100, 1_700)


def test_text_is_composed() -> None:
    segment = finish(builder(), Hypothesis((Word(unicodedata.normalize("NFD", "übung"), 1_000, 1_500),), 0))
    assert segment is not None
    assert segment.text == "übung" == unicodedata.normalize("NFC", segment.text)


words = st.lists(
    st.builds(
        Word,
        st.sampled_from(["a", "b", "c", " ", "\u0301x", "e\u0301"]),
        st.integers(-500, 7_000),
        st.integers(-500, 7_000),
        st.floats(-1, 2),
    ),
    max_size=8,
).map(tuple)


@settings(max_examples=150, deadline=None)
@given(partials=st.lists(words, max_size=5), final=words, end_ms=st.integers(1_000, 6_000))
def test_whatever_an_engine_says_the_wire_rules_hold(
    partials: list[tuple[Word, ...]], final: tuple[Word, ...], end_ms: int
) -> None:
    b = builder()
    rev, stable = 0, ""
    for said in partials:
        partial = b.update(Hypothesis(said, samples_of(2_000)))
        if partial is not None:
            assert partial.rev == rev + 1
            assert partial.stable.startswith(stable)
            assert partial.start_ms <= partial.end_ms
            rev, stable = partial.rev, partial.stable
    segment = finish(b, Hypothesis(final, 0), end_ms)
    if segment is None:
        assert stable == ""
        cleared = b.clear()
        assert cleared is None or (cleared.rev, cleared.stable, cleared.unstable) == (rev + 1, "", "")
        return
    assert segment.rev == rev + 1
    assert segment.text.startswith(stable)
    assert segment.text == text_of(segment.words) == unicodedata.normalize("NFC", segment.text)
    times = [t for w in segment.words for t in (w.start_ms, w.end_ms)]
    assert times == sorted(times)
    assert 1_000 <= segment.start_ms <= times[0] <= times[-1] <= segment.end_ms <= end_ms
    assert 0 <= segment.confidence <= 1


@pytest.mark.parametrize("text", ["", "a", "a b"])
def test_text_of_joins_with_single_spaces(text: str) -> None:
    assert text_of(hyp(text).words) == text
