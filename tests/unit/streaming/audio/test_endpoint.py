"""Endpointing on written-down frames: `#` is speech, `.` is not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.audio.endpoint import (
    CONVERSATION,
    DICTATION,
    LECTURE,
    TRANSITIONS,
    Effect,
    Endpointer,
    EndpointRules,
    EndReason,
    Event,
    SilenceRule,
    State,
    UtteranceBegan,
    UtteranceEnded,
    with_endpointing,
    within,
)
from streaming.model import FRAME_SAMPLES, samples_of

RULES = EndpointRules(
    speech_ms_min=96,  # 3 frames
    preroll_ms=160,  # 5
    silences=(SilenceRule(0, 320), SilenceRule(960, 128)),  # 10; from 30 frames on 4
    utterance_ms_max=1_600,  # 50
    postroll_ms=64,  # 2
)


Plain = tuple[str, int] | tuple[str, int, str]


def play(pattern: str, rules: EndpointRules = RULES, base_frame: int = 0) -> list[Plain]:
    """Effects as ("began", frame) and ("ended", frame, reason)."""
    endpointer = Endpointer(rules, base_frame * FRAME_SAMPLES)
    seen = [effect for mark in pattern for effect in endpointer.step(mark == "#")]
    return [plain(effect) for effect in seen]


def plain(effect: Effect) -> Plain:
    frame, rest = divmod(effect.sample, FRAME_SAMPLES)
    assert rest == 0
    if isinstance(effect, UtteranceBegan):
        return "began", frame
    return "ended", frame, effect.reason.value


def test_an_utterance_has_its_pre_roll_and_its_post_roll() -> None:
    assert play("." * 20 + "#" * 10 + "." * 20) == [("began", 15), ("ended", 32, "silence")]


def test_the_end_is_told_when_the_silence_has_lasted_and_not_before() -> None:
    assert play("." * 20 + "#" * 10 + "." * 9) == [("began", 15)]
    assert play("." * 20 + "#" * 10 + "." * 10) == [("began", 15), ("ended", 32, "silence")]


def test_too_little_speech_begins_nothing() -> None:
    assert play(("##" + "." * 10) * 5) == []


@pytest.mark.parametrize("onset", ["#.##", "##.#", "###"])
def test_one_gap_frame_does_not_reset_the_proof(onset: str) -> None:
    assert play("." * 20 + onset)[:1] == [("began", 15)]


def test_two_gap_frames_reset_it() -> None:
    assert play("." * 20 + "##..#") == []


def test_pre_roll_stops_at_the_base_and_at_the_previous_end() -> None:
    assert play("..###", base_frame=100) == [("began", 100)]
    pattern = "." * 5 + "#" * 5 + "." * 10 + "#" * 5 + "." * 10
    spread = EndpointRules(96, 640, RULES.silences, 4_000, 64)
    assert play(pattern, spread) == [
        ("began", 0),
        ("ended", 12, "silence"),
        ("began", 12),
        ("ended", 27, "silence"),
    ]


def test_a_short_pause_is_part_of_the_utterance() -> None:
    assert play("#" * 5 + "." * 9 + "#" * 5 + "." * 10) == [("began", 0), ("ended", 21, "silence")]


def test_long_talk_is_cut_in_a_dip() -> None:
    assert play("#" * 31 + "...." + "#" * 5) == [("began", 0), ("ended", 33, "silence"), ("began", 33)]
    assert play("#" * 20 + "...." + "#" * 5) == [("began", 0)]


def test_talk_without_a_dip_is_cut_at_the_limit_and_goes_on_there() -> None:
    assert play("#" * 120 + "." * 20) == [
        ("began", 0),
        ("ended", 50, "length"),
        ("began", 50),
        ("ended", 100, "length"),
        ("began", 100),
        ("ended", 122, "silence"),
    ]


def test_after_a_cut_a_hesitating_voice_still_goes_on_at_the_cut() -> None:
    assert play("#" * 50 + "." * 3 + "####") == [("began", 0), ("ended", 50, "length"), ("began", 50)]


def test_a_tail_below_the_least_speech_is_no_utterance() -> None:
    assert play("#" * 52 + "." * 30) == [("began", 0), ("ended", 50, "length")]


def test_flush_ends_an_utterance_where_it_stands() -> None:
    endpointer = Endpointer(RULES, 0)
    for _ in range(8):
        endpointer.step(True)
    assert endpointer.force_end() == (UtteranceEnded(8 * FRAME_SAMPLES, EndReason.FLUSH),)
    assert endpointer.force_end() == ()
    assert [e for _ in range(3) for e in endpointer.step(True)] == [UtteranceBegan(8 * FRAME_SAMPLES)]


def test_after_a_flush_speech_is_proven_anew() -> None:
    endpointer = Endpointer(RULES, 0)
    for _ in range(3):
        endpointer.step(True)
    endpointer.force_end()
    assert [endpointer.step(True) for _ in range(3)] == [(), (), (UtteranceBegan(3 * FRAME_SAMPLES),)]


def test_flush_in_silence_does_nothing_and_forgets_no_speech() -> None:
    endpointer = Endpointer(RULES, 0)
    endpointer.step(True)
    endpointer.step(True)
    assert endpointer.force_end() == ()
    assert endpointer.step(True) == (UtteranceBegan(0),)


def test_flush_in_trailing_silence_keeps_the_post_roll_only() -> None:
    endpointer = Endpointer(RULES, 0)
    for mark in "#####.....":
        endpointer.step(mark == "#")
    assert endpointer.force_end() == (UtteranceEnded(7 * FRAME_SAMPLES, EndReason.FLUSH),)


def test_in_speech_holds_through_an_utterance_and_a_cut() -> None:
    endpointer = Endpointer(RULES, 0)
    believed = []
    for mark in "##" + "#" * 48 + "#" + "." * 5:
        endpointer.step(mark == "#")
        believed.append(endpointer.in_speech)
    assert believed == [False] * 2 + [True] * 52 + [False] * 2
    assert endpointer.state is State.IDLE


frames = st.lists(st.tuples(st.sampled_from("#."), st.integers(1, 60)), min_size=1, max_size=20).map(
    lambda runs: "".join(mark * n for mark, n in runs)
) | st.text("#.", min_size=1, max_size=200)

rulebooks = st.builds(
    lambda speech, preroll, silence, dip, longest, postroll: EndpointRules(
        speech * 32,
        preroll * 32,
        (SilenceRule(0, silence * 32), SilenceRule(longest * 16, dip * 32)),
        longest * 32,
        postroll * 32,
    ),
    st.integers(1, 5),
    st.integers(0, 12),
    st.integers(2, 20),
    st.integers(1, 5),
    st.integers(40, 60),
    st.integers(0, 8),
)


@settings(max_examples=150, deadline=None)
@given(pattern=frames, rules=rulebooks, base=st.integers(0, 1_000))
def test_utterances_alternate_in_order_and_settled_audio_stays_settled(
    pattern: str, rules: EndpointRules, base: int
) -> None:
    endpointer = Endpointer(rules, base)
    last, begun, settled = base, None, base
    for mark in pattern:
        for effect in endpointer.step(mark == "#"):
            if isinstance(effect, UtteranceBegan):
                assert begun is None
                assert settled <= effect.sample
                assert last <= effect.sample < endpointer.position
                begun = effect.sample
            else:
                assert begun is not None
                assert begun < effect.sample <= endpointer.position
                assert endpointer.position - begun <= samples_of(rules.utterance_ms_max)
                last, begun = effect.sample, None
        assert settled <= endpointer.settled_sample <= endpointer.position
        settled = endpointer.settled_sample
        assert (begun is None) or settled == begun


@settings(max_examples=150, deadline=None)
@given(pattern=frames, rules=rulebooks, data=st.data())
def test_a_restart_cuts_the_rest_as_the_first_run_did(pattern: str, rules: EndpointRules, data: st.DataObject) -> None:
    """Restarting at any utterance's end, or at whatever was settled at any time, repeats exactly what followed."""
    endpointer = Endpointer(rules, 0)
    effects: list[Effect] = []
    points = [0]
    for mark in pattern:
        now = endpointer.step(mark == "#")
        effects += now
        points += [e.sample for e in now if isinstance(e, UtteranceEnded)]
        points.append(endpointer.settled_sample)
    base = data.draw(st.sampled_from(points))
    again = Endpointer(rules, base)
    repeated = [e for mark in pattern[base // FRAME_SAMPLES :] for e in again.step(mark == "#")]
    begins = [i for i, e in enumerate(effects) if isinstance(e, UtteranceBegan) and e.sample >= base]
    assert repeated == (effects[begins[0] :] if begins else [])


@settings(max_examples=80, deadline=None)
@given(pattern=frames, rules=rulebooks, flushes=st.sets(st.integers(0, 200)))
def test_speech_that_goes_on_loses_no_sample_at_a_boundary(
    pattern: str, rules: EndpointRules, flushes: set[int]
) -> None:
    """Every run of speech that is long enough lies in utterances as a whole, wherever limits and flushes cut it."""
    endpointer = Endpointer(rules, 0)
    covered: set[int] = set()
    begin = 0
    for i, mark in enumerate(pattern + "." * 60):
        effects = endpointer.step(mark == "#") + (endpointer.force_end() if i in flushes else ())
        for effect in effects:
            frame = effect.sample // FRAME_SAMPLES
            if isinstance(effect, UtteranceBegan):
                begin = frame
            else:
                covered.update(range(begin, frame))
    least = rules.speech_ms_min // 32
    at = 0
    for run in pattern.replace(".#", ". #").replace("#.", "# .").split():
        if run[0] == "#" and len(run) >= least:
            lost = [f for f in range(at, at + len(run)) if f not in covered]
            # a tail that is too short to prove speech after a cut is given up, never anything before it
            assert len(lost) < least
            assert not lost or lost[-1] == at + len(run) - 1
        at += len(run)


def test_every_state_is_reachable_and_every_event_is_used() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {target for row in TRANSITIONS.values() for target in row.values()} == set(State)
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


@pytest.mark.parametrize("preset", [CONVERSATION, DICTATION, LECTURE])
def test_presets_fit_whisper_and_grow_impatient(preset: EndpointRules) -> None:
    assert preset.utterance_ms_max <= 30_000
    by_length = sorted(preset.silences, key=lambda rule: rule.utterance_ms_min)
    waits = [rule.silence_ms for rule in by_length]
    assert waits == sorted(waits, reverse=True)
    assert by_length[-1].utterance_ms_min < preset.utterance_ms_max


def test_endpointing_of_a_client_replaces_the_first_silence_and_slows_nothing_else() -> None:
    quick = with_endpointing(CONVERSATION, 200)
    assert [r.silence_ms for r in quick.silences] == [200, 200, 128]
    patient = with_endpointing(CONVERSATION, 5_000)
    assert [r.silence_ms for r in patient.silences] == [5_000, 300, 128]
    assert with_endpointing(CONVERSATION, None) is CONVERSATION
    assert play("." * 20 + "#" * 10 + "." * 4, with_endpointing(RULES, 128))[-1] == ("ended", 32, "silence")


def test_an_engine_with_shorter_utterances_keeps_its_dips() -> None:
    short = within(CONVERSATION, 14_000)
    assert short.utterance_ms_max == 14_000
    assert [r.utterance_ms_min for r in short.silences] == [0, 5_000, 9_000]
    assert within(CONVERSATION, 30_000) is CONVERSATION


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: EndpointRules(96, 160, (SilenceRule(100, 320),), 1_600),
        lambda: EndpointRules(96, 160, (), 1_600),
        lambda: EndpointRules(0, 160, (SilenceRule(0, 320),), 1_600),
        lambda: EndpointRules(96, -1, (SilenceRule(0, 320),), 1_600),
        lambda: EndpointRules(96, 160, (SilenceRule(0, 0),), 1_600),
        lambda: EndpointRules(96, 320, (SilenceRule(0, 320),), 400),
        lambda: within(CONVERSATION, 300),
    ],
)
def test_rules_that_cannot_work_are_refused(wrong: "object") -> None:
    with pytest.raises(ValueError, match=r"must|proven|not negative"):
        wrong()  # type: ignore[operator]
