"""What Whisper writes where nobody speaks, and again and again: each guard of the engine, on the micro model.

The texts are made up, because a model that invents nothing proves no guard; the sounds are real to the engine."""

import itertools
import random
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from streaming.model import SAMPLE_RATE, UtteranceSpec
from streaming.ports import Pcm16
from streaming.recogniser import whisper
from streaming.recogniser.card import ModelCard, Padding
from streaming.recogniser.carry import Carry, packed
from streaming.recogniser.decoding import GREEDY, SEARCHED, Ask, Decoder, Encoded, Text
from streaming.recogniser.engine import Window
from streaming.recogniser.guards import (
    DOUBTFUL_LOGPROB,
    LOOP_TOKENS_MIN,
    UNLIKELY_LOGPROB,
    VOICED_MS_MIN,
    loop_start,
)
from streaming.recogniser.pieces import unplaced
from streaming.recogniser.policy import Piece
from streaming.recogniser.rolling import Progress
from streaming.recogniser.whisper import WhisperEngine
from tests.support import corpus, nonspeech
from tests.support.models import ENGLISH
from tests.support.synth import Voice, needs_espeak, random_voice, talk

SPEC = UtteranceSpec("u", 0, "en")
SAID = "Is the budget ready?"
OTHER = "We moved the launch to Friday."
DOUBTFUL, UNLIKELY, LIKELY = DOUBTFUL_LOGPROB - 0.01, UNLIKELY_LOGPROB - 0.01, -0.05


@pytest.fixture(scope="module")
def engine() -> WhisperEngine:
    """As if the text before did the model good."""
    loaded = WhisperEngine(str(ENGLISH), ModelCard(padding=Padding(0.0, 1.0), window_s=5.0))
    loaded.load()
    return loaded


@pytest.fixture(scope="module")
def speech() -> Pcm16:
    return talk([SAID], [Voice()]).audio


def quiet() -> Pcm16:
    return np.random.default_rng(4).normal(0, 10, 2 * SAMPLE_RATE).astype(np.int16)


class Case:
    """A window that is encoded, and of which anything may have been written."""

    def __init__(self, engine: WhisperEngine, audio: Pcm16, *, is_final: bool = True, before: str = "") -> None:
        assert engine._live is not None
        self.engine, self.decoder = engine, engine._live
        spec = msgspec.structs.replace(SPEC, context=packed(Carry(text=before)))
        self.hearing = whisper._Hearing(Window(spec, audio, is_final))
        self.encoded: Encoded = self.decoder.encode(
            [audio.astype(np.float32) / 32_768], self.decoder.frames(len(audio))
        )
        engine._settle(self.decoder, self.encoded, [self.hearing])
        self.hearing.ask = whisper._ask(self.decoder, 0, self.hearing)

    def text(self, words: str, logprob: float, *, is_cut: bool = False) -> Text:
        return Text(tuple(self.decoder.tokenizer("en").encode(" " + words)), logprob, is_cut)

    def written(self, how: dict[str, object]) -> Text:
        (text,) = self.decoder.write(self.encoded, [self.hearing.ask], how)
        return text

    def checked(self, text: Text) -> Text:
        return self.engine._checked(self.decoder, self.encoded, self.hearing, text)


NONE = Text((), 0.0)


@needs_espeak
class TestInvented:
    @pytest.mark.parametrize("is_final", [False, True])
    def test_doubtful_text_is_none_where_nothing_is_voiced(
        self, engine: WhisperEngine, speech: Pcm16, is_final: bool
    ) -> None:
        silent = Case(engine, quiet(), is_final=is_final)
        assert silent.checked(silent.text(OTHER, DOUBTFUL)) == NONE
        sure = silent.text(OTHER, LIKELY)
        assert silent.checked(sure) == sure, "a voice may be too soft for the detector"
        spoken = Case(engine, speech, is_final=is_final)
        doubtful = spoken.text(OTHER, DOUBTFUL)
        assert spoken.checked(doubtful) == doubtful, "nothing is lost where somebody speaks"

    def test_so_much_voice_is_worth_a_word(self, engine: WhisperEngine, speech: Pcm16) -> None:
        room = quiet()
        counts = []
        for ms in range(0, 400, 40):
            audio = room.copy()
            audio[: ms * 16] += speech[SAMPLE_RATE // 2 :][: ms * 16]
            case = Case(engine, audio)
            voiced = engine._voiced_ms(audio)
            assert (case.checked(case.text(OTHER, DOUBTFUL)) == NONE) == (voiced < VOICED_MS_MIN)
            counts.append(voiced)
        assert min(counts) == 0
        assert max(counts) >= VOICED_MS_MIN

    def test_what_is_known_from_silence_is_none_there_however_probable(
        self, engine: WhisperEngine, speech: Pcm16
    ) -> None:
        silent, spoken = Case(engine, quiet()), Case(engine, speech)
        assert silent.checked(silent.text("Thank you.", LIKELY)) == NONE
        said = spoken.text("Thank you.", LIKELY)
        assert spoken.checked(said) == said

    def test_what_is_unlikely_is_none_where_the_model_doubts_that_somebody_speaks(
        self, engine: WhisperEngine, speech: Pcm16, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = Case(engine, speech, is_final=False)
        p = case.decoder.no_speech(case.encoded, case.hearing.ask)
        assert p < 0.5
        unlikely, doubtful = case.text(OTHER, UNLIKELY), case.text(OTHER, DOUBTFUL)
        assert case.checked(unlikely) == unlikely
        monkeypatch.setattr(whisper, "NO_SPEECH", p - 0.001)
        assert case.checked(unlikely) == NONE
        assert case.checked(doubtful) == doubtful

    def test_marks_alone_are_no_text(self, engine: WhisperEngine, speech: Pcm16) -> None:
        case = Case(engine, speech)
        for marks in ("...", ".", "- ?"):
            assert case.checked(case.text(marks, LIKELY)) == NONE
        said = case.text("- Yes.", LIKELY)
        assert case.checked(said) == said

    def test_the_model_tells_silence_from_speech(self, engine: WhisperEngine, speech: Pcm16) -> None:
        silent, spoken = Case(engine, quiet()), Case(engine, speech)
        assert spoken.decoder.no_speech(spoken.encoded, spoken.hearing.ask) < 0.3
        assert silent.decoder.no_speech(silent.encoded, silent.hearing.ask) > 0.7


@needs_espeak
class TestSuspicious:
    def test_a_final_that_is_unlikely_is_searched_again(self, engine: WhisperEngine, speech: Pcm16) -> None:
        case = Case(engine, speech)
        assert case.checked(case.text(OTHER, UNLIKELY)) == case.written(SEARCHED)
        assert not case.hearing.is_trusted, "and is no prompt"

    def test_one_that_repeats_itself_too(self, engine: WhisperEngine, speech: Pcm16) -> None:
        case = Case(engine, speech)
        assert case.checked(case.text("in the morning " * 12, -0.4)) == case.written(SEARCHED)
        assert not case.hearing.is_trusted

    def test_one_that_did_not_end_whatever_it_seems_worth(self, engine: WhisperEngine, speech: Pcm16) -> None:
        case = Case(engine, speech)
        assert case.checked(case.text(OTHER, 0.0, is_cut=True)) == case.written(SEARCHED)

    def test_what_is_found_is_taken_only_when_it_is_better(self, engine: WhisperEngine) -> None:
        case = Case(engine, talk([SAID], [Voice()]).audio[::-1].copy())
        found = case.written(SEARCHED)
        for logprob, wanted in ((found.logprob - 0.01, found), (found.logprob + 0.01, None)):
            text = case.text("in the morning " * 12, logprob)
            assert case.checked(text) == (wanted or text)

    def test_a_partial_is_not(self, engine: WhisperEngine, speech: Pcm16) -> None:
        case = Case(engine, speech, is_final=False)
        text = case.text(OTHER, UNLIKELY)
        assert case.checked(text) == text

    def test_a_likely_final_is_not(self, engine: WhisperEngine, speech: Pcm16) -> None:
        case = Case(engine, speech)
        text = case.text(OTHER, UNLIKELY + 0.02)
        assert case.checked(text) == text
        assert case.hearing.is_trusted

    def test_a_text_that_only_repeats_its_prompt_is_written_without_it(
        self, engine: WhisperEngine, speech: Pcm16
    ) -> None:
        case = Case(engine, speech, is_final=False, before=f"Hello. {OTHER}")
        assert case.hearing.ask.before
        text = case.checked(case.text(OTHER, LIKELY))
        assert case.hearing.ask.before == ()
        assert text == case.written(GREEDY)
        again = Case(engine, speech, is_final=False, before=f"{OTHER} Hello.")
        kept = again.text(OTHER, LIKELY)
        assert again.checked(kept) == kept


def test_behind_a_cut_a_first_word_without_a_space_is_kept(engine: WhisperEngine) -> None:
    """Behind given words it is the end of the last one, which is fixed."""
    decoder = engine._live
    assert decoder is not None
    written = unplaced(decoder.tokenizer("en").encode("Hello everyone"), 1.0)
    fixed = (Piece("Yes.", (7,), 0, 800, 1.0),)
    for cut_words, words in ((1, ["Hello", "everyone"]), (0, ["everyone"])):
        progress = Progress(fixed=fixed, cut=800 * cut_words, cut_words=cut_words, language="en", settled=True)
        hearing = whisper._Hearing(Window(SPEC, quiet(), False, progress))
        assert [piece.text for piece in whisper._pieces(decoder, hearing, written)] == words


def test_a_loop_is_cut_where_it_began(engine: WhisperEngine) -> None:
    assert engine._live is not None
    ask, written = Ask(0, 10 * SAMPLE_RATE, "en", given=(7, 8)), [7, 8, 1, 2, *[3, 4, 5] * 4]
    text = engine._live._text(ask, 50, SimpleNamespace(sequences_ids=[written], scores=[-0.1]))
    assert (text.tokens, text.is_cut) == ((1, 2, 3, 4, 5), True)
    assert text.logprob == pytest.approx(-0.1 * len(written) / (len(written) - 2 + 1)), "the mean over what is new"


def sounds() -> list[Pcm16]:
    """What passes for a voice and is none, and talk backwards."""
    synthesiser = [nonspeech.minute("wah", number)[: 12 * SAMPLE_RATE] for number in range(2)]
    return [*synthesiser, talk([SAID, OTHER], [Voice()]).audio[::-1].copy()]


@needs_espeak
def test_nonsense_is_bounded_and_does_not_loop(engine: WhisperEngine) -> None:
    decoder: Decoder | None = engine._live
    assert decoder is not None
    for audio in sounds():
        memory: object = None
        for end in [*range(7_680, len(audio), 7_680), len(audio)]:
            heard = engine.decode([Window(SPEC, audio[:end], end == len(audio), memory)])[0]
            memory = heard.memory
            tokens = [token for piece in memory.words for token in piece.tokens]  # type: ignore[attr-defined]
            assert len(tokens) <= 8 + 10 * len(audio) / SAMPLE_RATE
        tail = [token for piece in memory.tails[-1].words for token in piece.tokens]  # type: ignore[attr-defined]
        start = loop_start(tail)
        assert start is None, f"{LOOP_TOKENS_MIN} tokens of the same"


@needs_espeak
def test_nobody_is_silenced_in_noise(engine: WhisperEngine) -> None:
    """Talk 10 dB above white noise: the words may be wrong, an utterance is not empty."""
    rng = random.Random(10)
    for seed, text in enumerate(itertools.islice(corpus.sentences(10, words_min=3), 8)):
        clean = talk([text], [random_voice(rng)]).audio.astype(np.float64)
        loud = np.sqrt((clean**2).mean())
        noise = np.random.default_rng(seed).normal(0, loud * 10 ** (-10 / 20), len(clean))
        audio = np.clip(clean + noise, -32_768, 32_767).astype(np.int16)
        assert engine.decode([Window(SPEC, audio, True)])[0].hypothesis.words
