"""The Whisper engine in this process, on the micro model: what it finds, hears and says about itself."""

import itertools
import random
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streaming.model import SAMPLE_RATE, Hypothesis, UtteranceSpec
from streaming.ports import Pcm16
from streaming.recogniser.card import CARD, MEL_FRAMES_MAX, ModelCard, Padding, card_of
from streaming.recogniser.carry import Carry, packed, unpacked
from streaming.recogniser.decoding import ENDLESS_LOGPROB, GREEDY, SEARCHED, Ask, Decoder
from streaming.recogniser.engine import EngineUnavailable, Heard, Window
from streaming.recogniser.place import find, name_of
from streaming.recogniser.policy import Piece
from streaming.recogniser.rolling import Progress
from streaming.recogniser.whisper import WhisperEngine
from tests.support import corpus
from tests.support.synth import Voice, needs_espeak, random_voice, say, talk

MICRO = Path(__file__).resolve().parents[1] / "models" / "micro-whisper" / "en"
SPEC = UtteranceSpec("u", 0, "auto")
HOP = 7_680


@pytest.fixture(scope="module")
def engine() -> WhisperEngine:
    loaded = WhisperEngine(str(MICRO))
    loaded.load()
    return loaded


def decoder_of(engine: WhisperEngine) -> Decoder:
    assert engine._live is not None
    return engine._live


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
        token = decoder_of(engine).tokenizer("en").encode(" the")[0]
        given = tuple(Piece("the", (token,) * 10, 0, 0, 1.0) for _ in range(100))
        spec = msgspec.structs.replace(SPEC, vocabulary=("launch",) * 200)
        audio = talk(["Is the budget ready?"], [Voice()]).audio
        for is_final in (False, True):
            heard = engine.decode([Window(spec, audio, is_final, Progress(fixed=given))])[0]
            assert heard.hypothesis.fixed >= 100

    @pytest.mark.parametrize("kind", ["nothing", "silence", "hiss", "hum", "tone"])
    def test_nobody_speaks(self, engine: WhisperEngine, kind: str) -> None:
        noise = np.random.default_rng(3).standard_normal(3 * SAMPLE_RATE)
        audio = {
            "nothing": np.empty(0),
            "silence": np.zeros(3 * SAMPLE_RATE),
            "hiss": 300 * noise,
            "tone": 8_000 * np.sin(np.arange(3 * SAMPLE_RATE) * 2 * np.pi * 440 / SAMPLE_RATE),
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


def carrying() -> WhisperEngine:
    """The same model, as if the text before did it good."""
    engine = WhisperEngine(str(MICRO), ModelCard(padding=Padding(0.0, 2.0), window_s=3.0))
    engine.load()
    return engine


@needs_espeak
class TestBatches:
    def talks(self, count: int) -> list[Pcm16]:
        rng = random.Random(3)
        texts = itertools.islice(corpus.sentences(3, words_min=3), 2 * count)
        pairs = itertools.batched(texts, 2) if hasattr(itertools, "batched") else zip(texts, texts, strict=True)
        return [talk(list(pair), [random_voice(rng)], pauses_ms=(150, 400)).audio for pair in pairs]

    def test_what_a_window_says_does_not_depend_on_its_neighbours(self) -> None:
        engine = carrying()
        talks = self.talks(6)
        vocabularies = ((), ("launch",), (), ("Zürich", "budget"), (), ())
        alone: list[object] = [None] * len(talks)
        together: list[object] = [None] * len(talks)
        batches = set()
        for end in range(HOP, max(map(len, talks)) + HOP, HOP):
            for memories, at_once in ((alone, False), (together, True)):
                windows = {}
                for number, audio in enumerate(talks):
                    if end - HOP < len(audio):
                        spec = msgspec.structs.replace(
                            SPEC,
                            utterance_id=f"u{number}",
                            vocabulary=vocabularies[number],
                            words=number % 2 == 1,
                            context=packed(Carry(text="We need ten tests." if number % 3 == 0 else "")),
                        )
                        windows[number] = Window(spec, audio[:end], end >= len(audio), memories[number])
                groups: dict[tuple[int, int], list[int]] = {}
                for number, window in windows.items():
                    groups.setdefault((engine.frames(window), -1 if at_once else number), []).append(number)
                for numbers in groups.values():
                    batches.add(len(numbers))
                    heard = engine.decode([windows[number] for number in numbers])
                    for number, one in zip(numbers, heard, strict=True):
                        memories[number] = one
            assert together == alone
            for number in range(len(talks)):
                for memories in (alone, together):
                    one = memories[number]
                    memories[number] = one.memory if isinstance(one, Heard) else one
        assert max(batches) > 2, "windows of equal length came together"

    def test_a_text_without_an_end_is_cut_where_it_would_be_alone(self, engine: WhisperEngine) -> None:
        decoder = decoder_of(engine)
        long, short = self.talks(2)
        audios = [audio.astype(np.float32) / 32_768 for audio in (long, short)]
        encoded = decoder.encode(audios, max(decoder.frames(len(audio)) for audio in audios))
        # As if the second window had next to no audio: its tokens are capped far below those of the first.
        asks = [Ask(0, len(long), "en"), Ask(1, 0, "en")]
        texts = decoder.write(encoded, asks, GREEDY)
        (alone,) = decoder.write(encoded, asks[1:], GREEDY)
        assert texts[1] == alone
        assert (alone.is_cut, alone.logprob, len(alone.tokens)) == (True, ENDLESS_LOGPROB, 8)
        assert not texts[0].is_cut

    def test_times_do_not_depend_on_neighbours_with_more_words(self, engine: WhisperEngine) -> None:
        decoder = decoder_of(engine)
        tokens = decoder.tokenizer("en").encode(" The search is red and the customer is ready.")
        for n_samples in (2 * HOP, 3 * HOP):
            audios = [audio[:n_samples].astype(np.float32) / 32_768 for audio in self.talks(6)]
            encoded = decoder.encode(audios, 350)
            asks = [Ask(row, n_samples, "en") for row in range(len(audios))]
            texts = [tokens[: 1 + row] for row in range(len(audios))]
            alone = [decoder.align(encoded, [ask], [text])[0] for ask, text in zip(asks, texts, strict=True)]
            assert decoder.align(encoded, asks, texts) == alone

    def test_windows_of_nearly_equal_length_can_be_decoded_together(self, engine: WhisperEngine) -> None:
        lengths = range(2 * SAMPLE_RATE, 4 * SAMPLE_RATE, HOP // 2)
        frames = {engine.frames(Window(SPEC, np.zeros(n, np.int16), False)) for n in lengths}
        assert len(frames) < len(lengths)
        assert all(n % 2 == 0 and n <= MEL_FRAMES_MAX for n in frames)
        cut = Progress(cut=SAMPLE_RATE)
        assert engine.frames(Window(SPEC, np.zeros(2 * SAMPLE_RATE, np.int16), False, cut)) == min(
            engine.frames(Window(SPEC, np.zeros(SAMPLE_RATE, np.int16), False)), *frames
        )
        assert engine.capabilities.batch_max > 1


@needs_espeak
class TestTimes:
    def test_partials_have_exact_times_where_they_are_wanted(self, engine: WhisperEngine) -> None:
        speech = talk(["We moved the launch to Friday."], [Voice()])
        _, start, end = speech.sentences[0]
        found = {}
        for words in (False, True):
            spec = msgspec.structs.replace(SPEC, words=words)
            heard = engine.decode([Window(spec, speech.audio[: end + 1_600], False)])[0]
            assert isinstance(heard.memory, Progress)
            found[words] = heard.memory.words
        assert [word.text for word in found[False]] == [word.text for word in found[True]]
        assert all(word.aligned for word in found[True])
        assert not any(word.aligned for word in found[False]), "an alignment costs a seventh of an update"
        assert abs(found[False][0].start - start) < 3_200, "a guess is inside what is loud"
        assert abs(found[False][-1].end - end) < 3_200

    def test_a_final_has_exact_times_of_what_was_fixed_before(self, engine: WhisperEngine) -> None:
        speech = talk(["We moved the launch to Friday."], [Voice()])
        memory: object = None
        for end in range(HOP, len(speech.audio), HOP):
            memory = engine.decode([Window(SPEC, speech.audio[:end], False, memory)])[0].memory
        whole = engine.decode([Window(SPEC, speech.audio, True, memory)])[0]
        at_once = engine.decode([Window(SPEC, speech.audio, True)])[0]
        assert isinstance(whole.memory, Progress)
        assert all(word.aligned for word in whole.memory.words)
        for one, other in zip(whole.hypothesis.words, at_once.hypothesis.words, strict=True):
            assert (one.text, abs(one.start_ms - other.start_ms) <= 150) == (other.text, True)


@needs_espeak
class TestCarrying:
    def test_the_text_before_is_the_prompt(self) -> None:
        engine = carrying()
        decoder = decoder_of(engine)
        assert engine.capabilities.in_order
        audio = talk(["Is the budget ready?"], [Voice()]).audio
        heard = engine.decode([Window(SPEC, audio, True)])[0]
        assert unpacked(heard.context).text == "Is the budget ready?"
        prompt = decoder.prompt("en", ("launch",), "We need ten tests. " * 30)
        tokenizer = decoder.tokenizer("en")
        assert prompt[0] == tokenizer.sot_prev
        assert tokenizer.decode(list(prompt)).startswith(" launch")
        assert len(prompt) <= 1 + len(tokenizer.encode(" launch")) + 64
        assert decoder.prompt("en", (), "") == ()

    def test_a_model_that_does_not_profit_carries_nothing(self, engine: WhisperEngine) -> None:
        assert not engine.capabilities.in_order
        assert decoder_of(engine).prompt("en", ("launch",), "We need ten tests.") == ()
        audio = talk(["Is the budget ready?"], [Voice()]).audio
        assert engine.decode([Window(SPEC, audio, True)])[0].context == b""

    def test_what_is_improbable_is_searched_again_and_is_no_prompt(self) -> None:
        engine = carrying()
        decoder = decoder_of(engine)
        tried = 0
        for text in itertools.islice(corpus.sentences(9, words_min=4), 6):
            audio = talk([text], [Voice()]).audio[::-1].copy()
            sound = audio.astype(np.float32) / 32_768
            encoded = decoder.encode([sound], decoder.frames(len(sound)))
            ask = Ask(0, len(audio), "en")
            (greedy,), (searched,) = (decoder.write(encoded, [ask], how) for how in (GREEDY, SEARCHED))
            heard = final(engine, audio)
            if greedy.logprob < -1.0 and searched.logprob > greedy.logprob:
                tried += 1
                assert text_of(heard.hypothesis) == decoder.tokenizer("en").decode(list(searched.tokens)).strip()
                assert unpacked(heard.context).text == ""
            elif greedy.logprob > -0.5:
                assert unpacked(heard.context).text == text_of(heard.hypothesis)
        assert tried, "talk backwards is improbable"


@needs_espeak
def test_another_model_writes_the_final_behind_what_is_fixed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    padded = tmp_path / "model"
    shutil.copytree(MICRO, padded)
    (padded / CARD).write_bytes(msgspec.json.encode(ModelCard(name="micro-whisper-en", carry=False)))
    monkeypatch.setenv("PARLANCE_FINAL_MODEL", str(padded))
    engine = WhisperEngine(str(MICRO), ModelCard(padding=Padding(0.0, 2.0), window_s=3.0, carry=False, name="live"))
    engine.load()
    assert engine.capabilities.model == "live + micro-whisper-en"
    audio = talk(["Is the budget ready?", "We moved the launch to Friday."], [Voice()], pauses_ms=(200, 300)).audio
    memory: object = None
    heard = None
    for end in range(HOP, len(audio), HOP):
        heard = engine.decode([Window(SPEC, audio[:end], False, memory)])[0]
        memory = heard.memory
    assert heard is not None
    stable = [word.text for word in heard.hypothesis.words[: heard.hypothesis.fixed]]
    assert (
        engine.frames(Window(SPEC, audio, True, memory))
        == MEL_FRAMES_MAX
        > engine.frames(Window(SPEC, audio, False, memory))
    )
    # One call may hold partials and finals of equal length: each goes to its own model.
    whole, other = engine.decode([Window(SPEC, audio, True, memory), Window(SPEC, audio, False, memory)])
    words = [word.text for word in whole.hypothesis.words]
    assert words[: len(stable)] == stable
    assert " ".join(words) == "Is the budget ready? We moved the launch to Friday."
    assert other.context == b""
    assert isinstance(whole.memory, Progress)
    assert all(word.aligned for word in whole.memory.words)


class TestFinding:
    def test_the_capabilities(self, engine: WhisperEngine) -> None:
        capabilities = engine.capabilities
        assert (capabilities.name, capabilities.model, capabilities.languages) == (
            "whisperx",
            "micro-whisper-en",
            ("en",),
        )
        assert "tests" in (capabilities.notice or "")
        assert capabilities.tasks == ("transcribe",)

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


def test_a_padding_has_steps() -> None:
    assert Padding().frames(50) == MEL_FRAMES_MAX
    assert Padding(0.0, 2.0, 0.5).frames(120) == 350
    assert Padding(0.0, 2.0, 0.5).frames(150) == 350
    assert Padding(0.0, 2.0, 0.5).frames(151) == 400
    assert Padding(0.0, 2.0, 0.5).frames(2_999) == MEL_FRAMES_MAX
    assert Padding(0.0, 0.0, 0.02).frames(0) == 2
