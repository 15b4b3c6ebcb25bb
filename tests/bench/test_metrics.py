"""What the benchmarks make of events: latencies, stability, broken promises and errors, on takes with known answers."""

from typing import Any

import msgspec
import numpy as np
import pytest

from bench import metrics
from bench.metrics import Heard, Take
from bench.speech import Clip, Cut, Said
from streaming.audio.endpoint import EndReason
from streaming.model import SAMPLE_RATE
from tests.support import corpus


def sample(ms: int) -> int:
    return ms * SAMPLE_RATE // 1000


def partial(at_ms: float, stable: str, unstable: str, *, start_ms: int = 200, **more: Any) -> Heard:
    body = {"segment_id": "s1", "start_ms": start_ms, "end_ms": 0, "stable": stable, "unstable": unstable, **more}
    return Heard(at_ms, "transcript:partial", body)


def final(at_ms: float, *words: tuple[str, int, int], **more: Any) -> Heard:
    body: dict[str, Any] = {
        "segment_id": "s1",
        "start_ms": words[0][1],
        "end_ms": words[-1][2],
        "text": " ".join(w for w, _, _ in words),
        "words": [{"w": w, "start_ms": start, "end_ms": end, "p": 1.0} for w, start, end in words],
        **more,
    }
    return Heard(at_ms, "transcript:final", body)


def ended(at_ms: float, *, segments: int, duration_ms: int = 5_000, reason: str = "stopped") -> Heard:
    return Heard(at_ms, "recording:ended", {"reason": reason, "segment_count": segments, "duration_ms": duration_ms})


CUT = Cut(sample(200), sample(4_400), sample(4_800), EndReason.SILENCE, sample(500))
SAID = final(4_900, ("to", 500, 1_000), ("be", 1_000, 2_000), ("to", 3_900, 4_200))
HEARD = [partial(700, "", ""), partial(1_250, "", "two"), partial(2_100, "to", " be"), SAID]
CLIP = Clip("c", np.zeros(sample(5_000), np.int16), None)
TAKE = Take(CLIP, [CUT], HEARD)


def spoken(*words: tuple[str, int, int]) -> Clip:
    """A clip that knows where its words are."""
    return Clip("c", CLIP.audio, " ".join(w for w, _, _ in words), tuple(Said(*word) for word in words))


def with_clip(clip: Clip, take: Take = TAKE) -> Take:
    return msgspec.structs.replace(take, clip=clip)


def test_the_first_caption_counts_from_the_beginning_of_speech() -> None:
    assert metrics.first_delays(TAKE) == [750]


def test_a_segment_may_begin_later_than_its_utterance() -> None:
    later = [partial(1_250, "", "two", start_ms=640), SAID]
    assert metrics.first_delays(Take(CLIP, [CUT], later)) == [750]
    assert metrics.first_delays(Take(CLIP, [CUT], [partial(1_250, "", "two", start_ms=4_500), SAID])) == []


def test_a_word_counts_from_its_end_to_where_it_is_shown_as_often() -> None:
    assert metrics.word_delays(TAKE) == [1_100, 100, 700]


def test_a_word_is_committed_when_so_many_words_are_stable_and_with_the_final_at_the_latest() -> None:
    assert metrics.commit_delays(TAKE) == [1_100, 2_900, 700]
    early = Take(CLIP, [CUT], [*HEARD[:3], partial(2_600, "to be", ""), SAID])
    assert metrics.commit_delays(early) == [1_100, 600, 700]


def test_the_clips_own_words_say_where_they_end_and_only_correct_ones_count() -> None:
    clip = spoken(("To", 500, 900), ("see", 1_000, 2_000), ("too,", 2_100, 2_200), ("to", 3_900, 4_100))
    assert metrics.word_delays(with_clip(clip)) == [1_200, 800], "neither be nor see and too"
    assert metrics.commit_delays(with_clip(clip)) == [1_200, 800]


def test_a_text_without_times_leaves_them_to_the_engine() -> None:
    assert metrics.word_delays(with_clip(Clip("c", CLIP.audio, "to see to"))) == [1_100, 700]


def test_case_and_punctuation_do_not_hide_a_word() -> None:
    said = final(2_500, ("Fifteen", 500, 1_000), ("tests.", 1_000, 2_000))
    heard = [partial(1_250, "", "fifteen"), partial(2_100, "Fifteen", " tests"), said]
    assert metrics.word_delays(Take(CLIP, [CUT], heard)) == [250, 100]


def test_a_final_counts_from_the_decision_and_only_after_a_silence() -> None:
    assert metrics.final_delays(TAKE) == [100]
    cut = Cut(CUT.begin, CUT.end, CUT.decided, EndReason.LENGTH, CUT.heard)
    assert metrics.final_delays(Take(CLIP, [cut], HEARD)) == []


def test_stable_words_are_those_of_the_last_partial_in_long_utterances() -> None:
    assert metrics.stable_words(TAKE) == (1, 3)
    short = [partial(1_250, "to", ""), final(2_000, ("to", 500, 1_000))]
    assert metrics.stable_words(Take(CLIP, [CUT], short)) == (0, 0)


def test_a_word_is_unstable_when_the_next_event_has_another_one_in_its_place() -> None:
    end = final(2_500, ("We", 500, 1_000), ("said", 1_000, 2_000), ("so.", 2_000, 2_100))

    def found(*heard: Heard) -> tuple[int, int]:
        return metrics.unstable_words(Take(CLIP, [CUT], list(heard)))

    assert found(partial(700, "", "we"), partial(900, "we", " said"), end) == (0, 0), "case and growth change nothing"
    assert found(partial(700, "", "me"), partial(900, "", "we said"), end) == (1, 1)
    assert found(partial(700, "", "he said so"), partial(900, "", "we said so"), end) == (3, 1), "all from the first"
    assert found(partial(700, "", "we said so too"), end) == (1, 1), "taken back"
    other = partial(800, "", "um", start_ms=5_000, segment_id="s2")
    assert found(other, partial(900, "", "", segment_id="s2"), end) == (1, 1), "a segment that came to nothing"


def test_stable_text_is_continued_and_nothing_follows_a_final() -> None:
    end = final(2_500, ("we", 500, 1_000), ("said", 1_000, 2_000))

    def found(*heard: Heard) -> int:
        return len(metrics.violations(Take(CLIP, [CUT], list(heard))))

    assert found(partial(700, "", "me"), partial(1_250, "we", " say"), partial(1_500, "we", ""), end) == 0
    assert found(partial(1_250, "me", " said"), partial(1_500, "we", " said"), end) == 1, "another word"
    assert found(partial(1_250, "we say", ""), end) == 1, "the final has it otherwise"
    assert found(partial(1_250, "we sa", ""), end) == 1, "half a word"
    assert found(partial(1_250, "we", "said"), end) == 1, "no word boundary"
    assert found(end, partial(2_600, "we said", "")) == 1, "late"
    assert found(end, end) == 1, "twice"
    assert found(partial(1_250, "", "we", rev=1), partial(1_500, "we", "", rev=1), end) == 1, "no newer revision"
    assert found(partial(1_250, "", "we", rev=1), partial(1_500, "we", "", rev=3), end) == 0


def test_a_stream_is_complete_with_its_end_its_segments_and_its_utterances() -> None:
    clip = spoken(("to", 500, 1_000), ("be", 1_000, 2_000))
    whole = Take(clip, [CUT], [*HEARD, ended(5_000, segments=1)])
    assert metrics.incomplete(whole) == []
    assert metrics.incomplete(Take(clip, [CUT], HEARD)) == ["the stream did not end as it should"]
    assert metrics.incomplete(Take(clip, [CUT], [*HEARD, ended(5_000, segments=2)])) == ["1 finals of 2"]
    lost = Take(clip, [CUT], [ended(5_000, segments=0)])
    assert metrics.incomplete(lost) == ["the utterance at 200 ms"]
    assert metrics.incomplete(lost, [True]) == ["the utterance at 200 ms"]
    assert metrics.incomplete(lost, [False]) == [], "nor does the model hear anything when it hears it whole"
    silent = msgspec.structs.replace(lost, clip=spoken(("late", 4_500, 4_900)))
    assert metrics.incomplete(silent) == [], "nothing was said in the utterance"
    assert metrics.incomplete(Take(clip, [CUT], [], refused="overloaded")) == []


def test_audio_is_dropped_when_it_is_not_kept_or_not_heard() -> None:
    take = Take(CLIP, [CUT], [*HEARD, ended(5_000, segments=1)], sent_bytes=160_000, durable_bytes=160_000)
    assert metrics.dropped_s(take) == 0
    assert metrics.dropped_s(msgspec.structs.replace(take, durable_bytes=128_000)) == 1
    short = [*HEARD, ended(5_000, segments=1, duration_ms=4_500)]
    assert metrics.dropped_s(msgspec.structs.replace(take, heard=short)) == 0.5


def test_word_errors_are_summed_where_the_text_is_known() -> None:
    known = with_clip(Clip("c", CLIP.audio, "to be two"))
    assert metrics.word_errors([known, TAKE]) == (1, 3)
    assert metrics.word_errors([msgspec.structs.replace(known, refused="overloaded")]) == (0, 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        ("a b c", "a b c", [(0, 0), (1, 1), (2, 2)]),
        ("a b c", "a x c", [(0, 0), (2, 2)]),
        ("a b c", "b c d", [(1, 0), (2, 1)]),
        ("a", "b a", [(0, 1)]),
        ("", "a", []),
    ],
)
def test_equal_words_are_found_in_the_cheapest_alignment(ours: str, theirs: str, pairs: list[tuple[int, int]]) -> None:
    assert metrics.matches(ours.split(), theirs.split()) == pairs


def test_edits_are_those_of_the_slow_way() -> None:
    draw = np.random.default_rng(1)
    for _ in range(50):
        ours, theirs = ([str(n) for n in draw.integers(0, 4, draw.integers(0, 12))] for _ in range(2))
        assert metrics.edits(ours, theirs) == corpus.edits(ours, theirs), (ours, theirs)
