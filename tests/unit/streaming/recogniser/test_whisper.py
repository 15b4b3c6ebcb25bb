"""The Whisper engine in this process, on the micro model: what it finds, hears and says about itself."""

import itertools
import random
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from faster_whisper.tokenizer import Tokenizer

from streaming.model import SAMPLE_RATE, Hypothesis, UtteranceSpec
from streaming.ports import Pcm16
from streaming.recogniser.engine import EngineUnavailable, Heard, Window
from streaming.recogniser.rolling import Piece, Progress
from streaming.recogniser.whisper import (
    CARD,
    ModelCard,
    Padding,
    WhisperEngine,
    card_of,
    find,
    hypothesis_of,
    name_of,
    pieces_of,
)
from tests.support import corpus
from tests.support.synth import Voice, needs_espeak, random_voice, say, talk

MICRO = Path(__file__).resolve().parents[3] / "models" / "micro-whisper" / "en"
SPEC = UtteranceSpec("u", 0, "auto")
HOP = 7_680


@pytest.fixture(scope="module")
def engine() -> WhisperEngine:
    loaded = WhisperEngine(str(MICRO))
    loaded.load()
    return loaded


def text_of(hypothesis: Hypothesis) -> str:
    return " ".join(word.text for word in hypothesis.words)


def final(engine: WhisperEngine, audio: Pcm16) -> Heard:
    return engine.decode([Window(SPEC, audio, True)])[0]


class TestHearing:
    @needs_espeak
    def test_a_sentence_with_its_case_punctuation_and_times(self, engine: WhisperEngine) -> None:
        speech = talk(["Is the budget ready?"], [Voice()])
        heard = final(engine, speech.audio).hypothesis
        assert (text_of(heard), heard.language, heard.until_sample) == ("Is the budget ready?", "en", len(speech.audio))
        _, start, end = speech.sentences[0]
        assert abs(heard.words[0].start_ms - start // 16) < 150
        assert abs(heard.words[-1].end_ms - end // 16) < 150
        assert all(0.3 < word.p <= 1.0 for word in heard.words)

    @needs_espeak
    def test_new_sentences_in_new_voices(self, engine: WhisperEngine) -> None:
        rng = random.Random(2_024)
        errors = words = 0
        for sentence in itertools.islice(corpus.sentences(2_024), 40):
            heard = final(engine, talk([sentence], [random_voice(rng)]).audio).hypothesis
            said = corpus.plain(sentence)
            errors += corpus.edits(said, corpus.plain(text_of(heard)))
            words += len(said)
        assert errors <= 0.03 * words

    @needs_espeak
    def test_fixed_words_only_grow_and_the_final_begins_with_them(self, engine: WhisperEngine) -> None:
        texts = list(itertools.islice(corpus.sentences(7, words_min=5), 6))
        speech = talk(texts, [Voice("en-us+m4", 150)], pauses_ms=(150, 400))
        memory: object = None
        fixed = ""
        cuts = set()
        for end in range(HOP, len(speech.audio), HOP):
            heard = engine.decode([Window(SPEC, speech.audio[:end], False, memory)])[0]
            memory = heard.memory
            assert isinstance(memory, Progress)
            cuts.add(memory.cut)
            words = [word.text for word in heard.hypothesis.words]
            now = " ".join(words[: heard.hypothesis.fixed])
            assert now.startswith(fixed)
            fixed = now
        assert len(cuts) > 2, "finished sentences leave the window"
        whole = text_of(engine.decode([Window(SPEC, speech.audio, True, memory)])[0].hypothesis)
        assert whole.startswith(fixed)
        said = corpus.plain(speech.text)
        assert corpus.edits(said, corpus.plain(whole)) <= 0.1 * len(said)

    @needs_espeak
    def test_a_vocabulary_is_a_prompt_where_the_model_profits(self, engine: WhisperEngine) -> None:
        audio = talk(["We moved the launch to Friday."], [Voice()]).audio
        spec = msgspec.structs.replace(SPEC, vocabulary=("launch", "Zürich") * 100)
        assert text_of(engine.decode([Window(spec, audio, True)])[0].hypothesis) == "We moved the launch to Friday."
        prompted = WhisperEngine(str(MICRO), ModelCard(padding=Padding(0.0, 2.0)))
        prompted.load()
        heard = prompted.decode([Window(msgspec.structs.replace(SPEC, vocabulary=("launch",)), audio, True)])[0]
        assert "launch" in text_of(heard.hypothesis)

    @needs_espeak
    def test_more_given_words_than_the_decoder_has_room_for(self, engine: WhisperEngine) -> None:
        token = engine._tokenizer_of("en").encode(" the")[0]
        given = tuple(Piece("the", (token,) * 10, 0, 0, 1.0) for _ in range(100))
        spec = msgspec.structs.replace(SPEC, vocabulary=("launch",) * 200)
        audio = talk(["Is the budget ready?"], [Voice()]).audio
        for is_final in (False, True):
            heard = engine.decode([Window(spec, audio, is_final, Progress(fixed=given))])[0]
            assert heard.hypothesis.fixed >= 100

    @pytest.mark.parametrize("kind", ["nothing", "silence", "hiss", "hum"])
    def test_nobody_speaks(self, engine: WhisperEngine, kind: str) -> None:
        noise = np.random.default_rng(3).standard_normal(3 * SAMPLE_RATE)
        audio = {
            "nothing": np.empty(0),
            "silence": np.zeros(3 * SAMPLE_RATE),
            "hiss": 300 * noise,
            "hum": 1_000 * np.sin(np.arange(3 * SAMPLE_RATE) * 2 * np.pi * 50 / SAMPLE_RATE),
        }[kind].astype(np.int16)
        assert final(engine, audio).hypothesis.words == ()

    @needs_espeak
    def test_equal_audio_gives_equal_words(self, engine: WhisperEngine) -> None:
        audio = say("The team will fix the server.")
        expected = final(engine, audio)
        noise = np.random.default_rng(1).integers(-32_768, 32_767, 2 * SAMPLE_RATE).astype(np.int16)
        final(engine, noise)
        assert final(engine, audio) == expected


class TestFinding:
    def test_the_capabilities(self, engine: WhisperEngine) -> None:
        capabilities = engine.capabilities
        assert (capabilities.name, capabilities.model, capabilities.languages) == (
            "whisperx",
            "micro-whisper-en",
            ("en",),
        )
        assert "tests" in (capabilities.notice or "")

    def test_no_setting_no_folder_no_such_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PARLANCE_MODEL", raising=False)
        with pytest.raises(EngineUnavailable, match="PARLANCE_MODEL names no"):
            WhisperEngine().load()
        with pytest.raises(EngineUnavailable, match="there is no folder"):
            find(str(tmp_path / "nowhere"))
        for name in ("whisper-9000", "nobody/never-made"):
            with pytest.raises(EngineUnavailable, match=f"no Whisper model called {name} is on this machine"):
                find(name)

    def test_a_folder_that_is_no_model_says_what_is_missing(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(EngineUnavailable, match=r"model\.bin, tokenizer\.json missing"):
            find(str(tmp_path))

    @pytest.mark.parametrize("broken", ["model.bin", "tokenizer.json", CARD])
    def test_a_broken_file_is_one_sentence(self, tmp_path: Path, broken: str) -> None:
        folder = tmp_path / "model"
        shutil.copytree(MICRO, folder)
        (folder / broken).write_bytes(b"nonsense" * 100)
        with pytest.raises(EngineUnavailable) as raised:
            WhisperEngine(str(folder)).load()
        assert str(folder) in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_the_setting_names_the_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PARLANCE_MODEL", str(MICRO))
        engine = WhisperEngine()
        engine.load()
        assert engine.capabilities.model == "micro-whisper-en"

    def test_without_a_card_padding_is_safe(self, tmp_path: Path) -> None:
        assert card_of(tmp_path) == ModelCard(padding=Padding(30.0, 0.0))

    def test_what_people_call_a_model(self, tmp_path: Path) -> None:
        cached = tmp_path / "models--Systran--faster-whisper-base.en" / "snapshots" / "0a1b"
        plain = tmp_path / "small"
        for folder in (cached, plain):
            folder.mkdir(parents=True)
        assert name_of("base.en", cached) == "base.en"
        assert name_of(str(cached), cached) == "base.en"
        assert name_of(str(plain), plain) == "small"


class TestPieces:
    @pytest.fixture
    def tokenizer(self, engine: WhisperEngine) -> Tokenizer:
        return engine._tokenizer_of("en")

    def words(self, tokenizer: Tokenizer, text: str, *, first: bool = True) -> list[str]:
        tokens = tokenizer.encode(text)
        pieces = pieces_of(tokens, list(range(len(tokens) + 1)), [1.0] * len(tokens), tokenizer, first=first)
        for before, after in itertools.pairwise(pieces):
            assert before.end <= after.start
        return [piece.text for piece in pieces]

    def test_words_are_what_stands_between_spaces(self, tokenizer: Tokenizer) -> None:
        assert self.words(tokenizer, " The café isn't open, is it?") == ["The", "café", "isn't", "open,", "is", "it?"]
        assert self.words(tokenizer, "Hello") == ["Hello"]
        assert self.words(tokenizer, "") == []

    def test_what_is_glued_to_a_fixed_word_is_left_out(self, tokenizer: Tokenizer) -> None:
        assert self.words(tokenizer, ". The launch", first=False) == ["The", "launch"]
        assert self.words(tokenizer, " The launch", first=False) == ["The", "launch"]

    def test_half_a_character_is_none(self, tokenizer: Tokenizer) -> None:
        tokens = tokenizer.encode(" ready 好")[:-1]
        pieces = pieces_of(tokens, list(range(len(tokens) + 1)), [1.0] * len(tokens), tokenizer, first=True)
        assert [piece.text for piece in pieces] == ["ready"]

    def test_where_nobody_writes_spaces_clauses_are_the_words(self, engine: WhisperEngine) -> None:
        tokenizer = Tokenizer(engine._tokenizer, False)
        tokenizer.language_code = "zh"
        assert self.words(tokenizer, "你好，今天很好。我们") == ["你好，", "今天很好。", "我们"]


def test_words_lie_inside_the_audio_in_order() -> None:
    words = (Piece("a", (), 8_000, 4_000, 1.2), Piece("b", (), 2_000, 99_000, 0.5), Piece("c", (), 99_000, 99_000, 0.5))
    heard = hypothesis_of(Progress(fixed=words[:1], tails=(words[1:],), language="de"), 16_000, 32_000)
    assert [(w.text, w.start_ms, w.end_ms) for w in heard.words] == [
        ("a", 1_500, 1_520),
        ("b", 1_500, 3_000),
        ("c", 2_980, 3_000),
    ]
    assert (heard.fixed, heard.language, heard.until_sample) == (1, "de", 48_000)
    assert all(0 <= word.p <= 1 for word in heard.words)
