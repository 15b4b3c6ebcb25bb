"""The models that stand for Whisper in the tests, on voices and sentences that they never heard.

Bounds are several times what `tests/models/micro-whisper/measure.py` found: they say that a model is the right one, not
how good it is.
"""

import itertools
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from streaming.model import SAMPLE_RATE, Hypothesis, UtteranceSpec
from streaming.ports import Pcm16
from streaming.recogniser.engine import Window
from streaming.recogniser.whisper import WhisperEngine
from tests.support import corpus, corpus_de
from tests.support.models import CARD, ENGLISH, MICRO, PACK, unpacked
from tests.support.synth import Speech, Voice, needs_espeak, talk

HOP = 7_680
VARIANTS = ("+m4", "+m8", "+f3", "+f5")
SEED = 77


@cache
def engine(name: str) -> WhisperEngine:
    loaded = WhisperEngine(str(ENGLISH if name == "en" else unpacked(name)))
    loaded.load()
    return loaded


def final(name: str, audio: Pcm16, language: str = "en", task: str = "transcribe") -> Hypothesis:
    spec = UtteranceSpec("u", 0, language, task=task)
    return engine(name).decode([Window(spec, audio, True)])[0].hypothesis


def text_of(hypothesis: Hypothesis) -> str:
    return " ".join(word.text for word in hypothesis.words)


@cache
def said(language: str, count: int) -> tuple[Speech, ...]:
    rng = random.Random(SEED)
    source, base = (corpus_de, "de") if language == "de" else (corpus, "en-us")
    texts = itertools.islice(source.sentences(SEED, words_min=3), count)
    return tuple(
        talk([text], [Voice(base + rng.choice(VARIANTS), rng.randint(135, 205), rng.randint(32, 72))]) for text in texts
    )


def error_rate(pairs: Iterator[tuple[str, str]]) -> float:
    errors = words = 0
    for wanted, heard in pairs:
        errors += corpus.edits(corpus.plain(wanted), corpus.plain(heard))
        words += len(corpus.plain(wanted))
    return errors / words


@needs_espeak
class TestHearing:
    @pytest.mark.parametrize("name", ["en", "multilingual", "large"])
    def test_english(self, name: str) -> None:
        speeches = said("en", 30)
        assert error_rate((speech.text, text_of(final(name, speech.audio))) for speech in speeches) <= 0.04

    def test_german(self) -> None:
        heard = ((speech.text, text_of(final("multilingual", speech.audio, "de"))) for speech in said("de", 30))
        assert error_rate(heard) <= 0.15

    def test_german_in_english(self) -> None:
        speeches = said("de", 30)
        heard = (text_of(final("multilingual", speech.audio, "de", "translate")) for speech in speeches)
        assert error_rate((corpus_de.english(s.text), text) for s, text in zip(speeches, heard, strict=True)) <= 0.15

    @pytest.mark.parametrize("language", ["en", "de"])
    def test_which_language_it_is(self, language: str) -> None:
        found = [final("multilingual", speech.audio, "auto").language for speech in said(language, 20)]
        assert found.count(language) >= 19

    def test_an_utterance_of_twenty_seconds_without_a_pause(self) -> None:
        texts = list(itertools.islice(corpus.sentences(SEED + 1, words_min=5), 9))
        speech = talk(texts, [Voice("en-us+m4", 160)], pauses_ms=(0, 0))
        assert len(speech.audio) > 18 * SAMPLE_RATE
        spec, memory = UtteranceSpec("u", 0, "en"), None
        for end in range(HOP, len(speech.audio), HOP):
            memory = engine("en").decode([Window(spec, speech.audio[:end], False, memory)])[0].memory
        heard = engine("en").decode([Window(spec, speech.audio, True, memory)])[0].hypothesis
        assert error_rate(iter([(speech.text, text_of(heard))])) <= 0.1

    def test_where_the_words_are(self) -> None:
        speech = talk(["We have ten tests."], [Voice("en-us+f3")])
        heard = final("multilingual", speech.audio)
        _, start, end = speech.sentences[0]
        assert abs(heard.words[0].start_ms - start // 16) < 150
        assert abs(heard.words[-1].end_ms - end // 16) < 150

    @pytest.mark.parametrize("name", ["en", "multilingual", "large"])
    def test_nothing_where_nobody_speaks(self, name: str) -> None:
        rng = np.random.default_rng(SEED)
        hiss = np.asarray(rng.standard_normal(4 * SAMPLE_RATE) * 500, np.int16)
        for sound in (np.zeros(4 * SAMPLE_RATE, np.int16), hiss):
            assert text_of(final(name, sound)) == ""


class TestUnpacking:
    def test_once_for_each_content(self, tmp_path: Path) -> None:
        first = unpacked("multilingual", tmp_path)
        made = (first / "model.bin").stat().st_ino
        assert unpacked("multilingual", tmp_path) == first
        assert (first / "model.bin").stat().st_ino == made
        assert (first / CARD).read_bytes() == (MICRO / "multilingual" / CARD).read_bytes()
        assert [path.name for path in tmp_path.iterdir()] == [first.name]

    def test_the_repository_holds_a_few_megabytes(self) -> None:
        assert sum(path.stat().st_size for path in MICRO.rglob("*") if path.is_file()) < 12_000_000
        assert (MICRO / "large" / PACK).is_file()


class TestGerman:
    def test_every_word_has_a_meaning_that_the_english_corpus_knows(self) -> None:
        assert corpus_de.MEANINGS.keys() == corpus_de.WORDS
        assert {word for meaning in corpus_de.MEANINGS.values() for word in meaning.split()} <= corpus.WORDS

    def test_in_english(self) -> None:
        assert corpus_de.english("Wir haben zehn Tests.") == "We have ten tests."
        assert corpus_de.english("Guten Morgen Alice.") == "Good morning Alice."
        assert corpus_de.english("Das Treffen beginnt morgen.") == "The meeting starts tomorrow."

    def test_equal_seeds_say_the_same(self) -> None:
        one, other = (list(itertools.islice(corpus_de.sentences(3), 50)) for _ in range(2))
        assert one == other
        assert len(set(one)) == 50
