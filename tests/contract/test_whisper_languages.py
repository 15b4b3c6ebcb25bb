"""The multilingual micro Whisper in this process: which language, translated or not, alone and among others."""

import itertools
import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from streaming.model import UtteranceSpec, samples_of
from streaming.ports import Pcm16
from streaming.recogniser.carry import Carry, packed, unpacked
from streaming.recogniser.engine import EngineUnavailable, Heard, Window
from streaming.recogniser.languages import SURE_SAMPLES
from streaming.recogniser.rolling import Progress
from streaming.recogniser.whisper import WhisperEngine
from tests.support import corpus, corpus_de
from tests.support.models import ENGLISH
from tests.support.models import unpacked as unpacked_model
from tests.support.synth import Voice, needs_espeak, talk

pytestmark = needs_espeak
AUTO = UtteranceSpec("u", 0, "auto")
HOP = 7_680
GERMAN = "Der Server ist neu und der Vertrag ist fertig."
ENGLISH_TEXT = "The server is new and the contract is ready."


@pytest.fixture(scope="module")
def engine() -> WhisperEngine:
    loaded = WhisperEngine(str(unpacked_model("multilingual")))
    loaded.load()
    return loaded


@pytest.fixture(scope="module")
def english_only() -> WhisperEngine:
    loaded = WhisperEngine(str(ENGLISH))
    loaded.load()
    return loaded


def spoken(text: str, language: str) -> Pcm16:
    return talk([text], [Voice("de" if language == "de" else "en-us", 150)]).audio


def words_of(heard: Heard) -> list[str]:
    return corpus.plain(" ".join(word.text for word in heard.hypothesis.words))


def followed(engine: WhisperEngine, spec: UtteranceSpec, audio: Pcm16) -> list[Heard]:
    """Every hop, then the final; text that is fixed stays."""
    heard: list[Heard] = []
    for end in [*range(HOP, len(audio), HOP), len(audio)]:
        memory = heard[-1].memory if heard else None
        heard += engine.decode([Window(spec, audio[:end], end == len(audio), memory)])
    for before, after in itertools.pairwise(heard):
        fixed = before.hypothesis.fixed
        assert [w.text for w in after.hypothesis.words[:fixed]] == [w.text for w in before.hypothesis.words[:fixed]]
    return heard


class TestDetection:
    @pytest.mark.parametrize(("text", "language"), [(GERMAN, "de"), (ENGLISH_TEXT, "en")])
    def test_a_stream_has_the_language_of_its_first_sentence(
        self, engine: WhisperEngine, text: str, language: str
    ) -> None:
        heard = followed(engine, AUTO, spoken(text, language))
        assert heard[-1].hypothesis.language == language
        assert unpacked(heard[-1].context).language == language
        assert all(one.hypothesis.fixed == 0 for one in heard if not progress_of(one).settled)
        settled = [progress_of(one).language for one in heard if progress_of(one).settled]
        assert settled
        assert set(settled) == {language}

    def test_once_it_is_known_the_stream_keeps_it(self, engine: WhisperEngine) -> None:
        first = engine.decode([Window(AUTO, spoken(GERMAN, "de"), True)])[0]
        english = spoken(ENGLISH_TEXT, "en")
        assert engine.decode([Window(AUTO, english, True)])[0].hypothesis.language == "en"
        spec = msgspec.structs.replace(AUTO, context=first.context)
        for heard in followed(engine, spec, english):
            assert heard.hypothesis.language == "de"
        assert unpacked(heard.context).language == "de"

    def test_within_an_utterance_it_does_not_change(self, engine: WhisperEngine) -> None:
        texts = [GERMAN, ENGLISH_TEXT]
        audio = talk(texts, [Voice("de", 150), Voice("en-us", 150)], pauses_ms=(200, 200)).audio
        languages = [heard.hypothesis.language for heard in followed(engine, AUTO, audio)]
        known = languages.index("de")
        assert set(languages[known:]) == {"de"}

    def test_a_short_word_settles_nothing(self, engine: WhisperEngine) -> None:
        audio = spoken(GERMAN, "de")[: SURE_SAMPLES - 1]
        heard = engine.decode([Window(AUTO, audio, False)])[0]
        assert (progress_of(heard).settled, heard.hypothesis.fixed) == (False, 0)
        assert unpacked(engine.decode([Window(AUTO, audio, True)])[0].context).language is None

    def test_a_language_that_was_asked_for_is_not_detected(self, engine: WhisperEngine) -> None:
        spec = msgspec.structs.replace(AUTO, language="de-AT")
        heard = engine.decode([Window(spec, spoken(ENGLISH_TEXT, "en"), False)])[0]
        assert (heard.hypothesis.language, progress_of(heard).settled) == ("de", True)

    def test_a_stream_that_another_model_began_goes_on(
        self, engine: WhisperEngine, english_only: WhisperEngine
    ) -> None:
        for context in (packed(Carry(language="de")), packed(Carry(language="xx"))):
            spec = msgspec.structs.replace(AUTO, context=context)
            window = Window(spec, spoken(ENGLISH_TEXT, "en"), True)
            assert words_of(english_only.decode([window])[0]) == corpus.plain(ENGLISH_TEXT)
        assert words_of(engine.decode([window])[0]) == corpus.plain(ENGLISH_TEXT), "detected anew"


def progress_of(heard: Heard) -> Progress:
    assert isinstance(heard.memory, Progress)
    return heard.memory


class TestText:
    def said(self, count: int) -> list[str]:
        return list(itertools.islice(corpus_de.sentences(77, words_min=4), count))

    def errors(self, engine: WhisperEngine, spec: UtteranceSpec, texts: Sequence[str], meant: Sequence[str]) -> float:
        wrong = said = 0
        for text, wanted in zip(texts, meant, strict=True):
            heard = followed(engine, spec, spoken(text, "de"))[-1]
            assert heard.hypothesis.language == ("en" if spec.task == "translate" else "de")
            wrong += corpus.edits(corpus.plain(wanted), words_of(heard))
            said += len(corpus.plain(wanted))
        return wrong / said

    def test_german(self, engine: WhisperEngine) -> None:
        texts = self.said(12)
        assert self.errors(engine, AUTO, texts, texts) <= 0.2

    def test_german_into_english(self, engine: WhisperEngine) -> None:
        texts = self.said(12)
        spec = msgspec.structs.replace(AUTO, task="translate", language="de")
        assert self.errors(engine, spec, texts, [corpus_de.english(text) for text in texts]) <= 0.2
        heard = engine.decode([Window(spec, spoken(GERMAN, "de"), True)])[0]
        assert unpacked(heard.context).language is None, "asked for, not found"

    def test_an_english_model_does_not_translate(self, english_only: WhisperEngine) -> None:
        spec = msgspec.structs.replace(AUTO, task="translate")
        audio = spoken(ENGLISH_TEXT, "en")
        texts = [words_of(english_only.decode([Window(one, audio, True)])[0]) for one in (spec, AUTO)]
        assert texts == [corpus.plain(ENGLISH_TEXT)] * 2

    def test_the_prompt_is_left_out_where_the_card_says_so(self, engine: WhisperEngine) -> None:
        audio = spoken(GERMAN, "de")
        spec = msgspec.structs.replace(AUTO, language="de")
        prompted = msgspec.structs.replace(
            spec, vocabulary=("Zürich", "Vertrag"), context=packed(Carry(text="Guten Morgen."))
        )
        plain, other = (engine.decode([Window(one, audio, True)])[0] for one in (spec, prompted))
        assert other == plain


class TestBatches:
    def test_languages_and_tasks_in_one_call_are_as_each_alone(self, engine: WhisperEngine) -> None:
        """English, German, a translation, and streams that have not said which: hop by hop, partials and finals."""
        rng = random.Random(5)
        german, english = corpus_de.sentences(5, words_min=5), corpus.sentences(5, words_min=5)
        wishes = [("en", "en", "transcribe"), ("de", "de", "transcribe"), ("de", "de", "translate"),
                  ("auto", "de", "transcribe"), ("auto", "en", "transcribe"), ("auto", "de", "translate")]  # fmt: skip
        specs = [
            UtteranceSpec(f"u{n}", 0, wish, task=task, words=rng.random() < 0.5)
            for n, (wish, _, task) in enumerate(wishes)
        ]
        talks = [spoken(next(german if spoken_in == "de" else english), spoken_in) for _, spoken_in, _ in wishes]
        size = min(map(len, talks))
        talks = [audio[:size] for audio in talks]  # equal frames: one call for all
        alone: list[Heard | None] = [None] * len(talks)
        together = list(alone)
        for end in [*range(HOP, size, HOP), size]:
            windows = [
                Window(spec, audio[:end], end == size, before.memory if before is not None else None)
                for spec, audio, before in zip(specs, talks, together, strict=True)
            ]
            by_frames: dict[int, list[int]] = {}
            for number, window in enumerate(windows):
                by_frames.setdefault(engine.frames(window), []).append(number)
            alone = [engine.decode([window])[0] for window in windows]
            for numbers in by_frames.values():
                for number, heard in zip(numbers, engine.decode([windows[n] for n in numbers]), strict=True):
                    together[number] = heard
            assert together == alone
        languages = [one.hypothesis.language for one in alone if one is not None]
        assert languages == ["en", "de", "en", "de", "en", "en"]


def test_finals_of_a_model_that_knows_fewer_languages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLANCE_FINAL_MODEL", str(ENGLISH))
    with pytest.raises(EngineUnavailable, match="knows fewer languages"):
        WhisperEngine(str(unpacked_model("multilingual"))).load()


def test_silence_says_no_language(engine: WhisperEngine) -> None:
    silence = np.random.default_rng(2).normal(0, 8, samples_of(1_000)).astype(np.int16)
    heard = engine.decode([Window(AUTO, silence, True)])[0]
    assert heard.hypothesis.words == ()
    assert unpacked(heard.context).language is None
