"""The bench of commit policies: what each of them fixes, and the virtual clock it is measured on."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import metrics, policies
from bench.metrics import FINAL, PARTIAL, Heard, Take, ms
from bench.policies import WAYS, Confident, HoldBack, HoldTime, Nothing, Open, Way
from bench.speech import Clip, Speaker
from streaming.model import SAMPLE_RATE
from streaming.recogniser.policy import Piece, Tail, newest
from streaming.recogniser.whisper import HOP_MS, WhisperEngine
from tests.support.models import ENGLISH
from tests.support.synth import needs_espeak

WORD = SAMPLE_RATE // 4


def pieces(text: str, p: float = 1.0) -> list[Piece]:
    """Words of 250 ms, one after the other."""
    return [Piece(word, (), n * WORD, (n + 1) * WORD, p) for n, word in enumerate(text.split())]


def tail(text: str, p: float = 1.0, until: int = 3 * WORD) -> Tail:
    return Tail(tuple(pieces(text, p)), until)


TAILS = st.lists(st.lists(st.sampled_from(["a", "b.", "c"]), max_size=5).map(" ".join), min_size=1, max_size=3)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@given(TAILS, st.booleans(), st.floats(0, 1))
def test_no_policy_fixes_more_than_was_heard(way: Way, tails: list[str], at_rest: bool, p: float) -> None:
    heard = newest([tail(text, p, (8 + n) * WORD) for n, text in enumerate(tails)], way.policy.span)
    assert 0 <= way.policy.fixed(heard, at_rest=at_rest) <= len(heard[-1].words)


def test_what_each_fixes() -> None:
    three = "we moved it."

    def fixed(policy: HoldBack | HoldTime | Open | Nothing, until: int = 3 * WORD, *, at_rest: bool = False) -> int:
        return policy.fixed([tail(three, until=until - policy.span), tail(three, until=until)], at_rest=at_rest)

    assert [fixed(HoldBack(n)) for n in (1, 2, 3, 4)] == [2, 1, 0, 0]
    assert fixed(HoldBack(2), at_rest=True) == 3
    assert [fixed(HoldTime(0), until) for until in (WORD - 1, WORD, 3 * WORD)] == [0, 1, 3]
    assert [fixed(HoldTime(ms)) for ms in (249, 250, 251)] == [2, 2, 1]
    assert (fixed(Open()), fixed(Nothing())) == (3, 0)


def test_what_is_probable_and_lies_behind_needs_no_second_window() -> None:
    policy = Confident(0.9, 250)
    assert policy.fixed([tail("we moved it", 0.9)], at_rest=False) == 2
    assert policy.fixed([tail("we moved it", 0.89)], at_rest=False) == 0
    before = tail("we moved it", 0.1, until=3 * WORD - policy.span)
    assert policy.fixed([before, tail("we moved it", 0.1)], at_rest=False) == 2


def test_sound_in_noise_and_far_away() -> None:
    tone = (8_000 * np.sin(np.arange(SAMPLE_RATE) / 5)).astype(np.int16)
    clip = Clip("tone", tone, None)
    noise = policies.noisy(clip, 20, seed=1).audio.astype(float) - tone
    assert noise.std() == pytest.approx(tone.astype(float).std() / 10, rel=0.1)
    assert policies.quieter(clip, 20).audio.max() == pytest.approx(tone.max() / 10, rel=0.01)


def test_words_that_were_fixed_early_and_are_wrong() -> None:
    def event(name: str, at_ms: float, **body: object) -> Heard:
        return Heard(at_ms, name, {"segment_id": "s", **body})

    heard = [event(PARTIAL, 1, stable="to bee", unstable=" or"), event(FINAL, 2, text="to bee or nut")]
    clip = Clip("c", np.zeros(1, np.int16), "to be or not")
    assert policies.early_errors(Take(clip, [], heard)) == (2, 1)


@needs_espeak
def test_talk_on_the_virtual_clock() -> None:
    clip = Speaker().talk("talk", 4.0, 3)
    engine = WhisperEngine(str(ENGLISH))
    engine.load()
    (take,) = policies.follow(engine, HOP_MS, [clip]).takes
    assert len(take.finals) == len(take.cuts)
    assert metrics.violations(take) == []
    begins = {f"u{number}": ms(cut.begin) for number, cut in enumerate(take.cuts)}
    for event in take.heard:
        after_ms = event.at_ms - begins[event.body["segment_id"]]
        assert event.name == FINAL or after_ms % HOP_MS == pytest.approx(0.0, abs=1e-6)
    assert [event.at_ms for event in take.heard] == sorted(event.at_ms for event in take.heard)
    rows = {row.name: row for row in policies.rows_of("x", policies.follow(engine, HOP_MS, [clip]), promised=True)}
    assert rows["x: captions against the rules"].value == 0
    assert rows["x: wrong among words fixed early"].n <= len(msgspec.to_builtins(clip.words))
