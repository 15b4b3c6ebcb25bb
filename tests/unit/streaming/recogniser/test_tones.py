"""The tone engine hears exactly, or nothing."""

import random

import numpy as np
import pytest
import soxr

from streaming.model import Hypothesis, UtteranceSpec, Word
from streaming.ports import Pcm16
from tests.fakes import tones


def spec(start_sample: int = 0) -> UtteranceSpec:
    return UtteranceSpec("utterance", start_sample, "en")


def hear(audio: Pcm16, start_sample: int) -> Hypothesis:
    utterance = tones.ToneEngine().begin(spec(start_sample))
    utterance.feed(audio)
    return utterance.final().hypothesis


def all_words(talk: tones.Talk) -> list[Word]:
    return [word for sentence in talk.sentences for word in sentence]


def check(heard: tuple[Word, ...], said: list[Word], *, off_ms: int) -> None:
    assert [word.text for word in heard] == [word.text for word in said]
    for ours, theirs in zip(heard, said, strict=True):
        assert abs(ours.start_ms - theirs.start_ms) <= off_ms
        assert abs(ours.end_ms - theirs.end_ms) <= off_ms


@pytest.mark.parametrize("seed", range(8))
def test_words_are_heard_from_any_first_sample_in_any_pieces_and_in_noise(seed: int) -> None:
    rng = random.Random(seed)
    talk = tones.talk([*tones.random_sentences(seed, 3), ["llama", "aaabb00", "it's", "a"]])
    first = rng.randrange(300 * 16)
    noise = np.random.default_rng(seed).normal(0, 60, len(talk.audio) - first)
    audio = (talk.audio[first:] * rng.choice([1.0, 0.3]) + noise).astype(np.int16)
    utterance = tones.ToneEngine().begin(spec(first))
    at = 0
    while at < len(audio):
        size = rng.randrange(1, 5_000)
        utterance.feed(audio[at : at + size])
        at += size
    check(utterance.final().hypothesis.words, all_words(talk), off_ms=3)


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_anywhere_gives_only_whole_words(seed: int) -> None:
    rng = random.Random(seed)
    talk = tones.talk(tones.random_sentences(seed, 2))
    for _ in range(20):
        first, last = sorted(rng.sample(range(len(talk.audio)), 2))
        whole = [w.text for w in all_words(talk) if first <= w.start_ms * 16 and w.end_ms * 16 <= last]
        heard = [w.text for w in hear(talk.audio[first:last], first).words]
        said = [w.text for w in all_words(talk)]
        assert set(heard) <= set(said)
        assert [w for w in heard if w in whole] == whole


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_words_survive_resampling(rate: int) -> None:
    talk = tones.talk(tones.random_sentences(1, 2), sample_rate=rate)
    audio = np.asarray(soxr.resample(talk.audio, rate, 16_000), np.int16)
    check(hear(audio, 0).words, all_words(talk), off_ms=4)


def test_a_partial_grows_by_whole_words() -> None:
    talk = tones.talk(tones.random_sentences(2, 2))
    said = [w.text for w in all_words(talk)]
    utterance = tones.ToneEngine().begin(spec())
    counts = []
    for at in range(0, len(talk.audio), 1_600):
        utterance.feed(talk.audio[at : at + 1_600])
        words = [w.text for w in utterance.partial().words]
        assert words == said[: len(words)]
        counts.append(len(words))
    assert counts == sorted(counts)
    assert counts[-1] == len(said)


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(16_000, np.int16),
        np.full(16_000, 32_767, np.int16),
        np.random.default_rng(3).integers(-32_768, 32_767, 48_000).astype(np.int16),
        (8_000 * np.sin(np.arange(16_000) / 5)).astype(np.int16),
    ],
    ids=["silence", "constant", "noise", "sine"],
)
def test_other_sounds_are_no_words(audio: Pcm16) -> None:
    assert hear(audio, 0).words == ()


def test_random_sentences_are_reproducible_and_without_repeats() -> None:
    sentences = tones.random_sentences(7, 20)
    assert sentences == tones.random_sentences(7, 20) != tones.random_sentences(8, 20)
    words = [word for sentence in sentences for word in sentence]
    assert len(set(words)) == len(words)


def test_a_character_without_tones_is_refused() -> None:
    for word in ("Upper", "two words", "", "ü"):
        with pytest.raises(ValueError, match="without tones"):
            tones.encode([word])
