"""What the benchmarks speak and print: cuts that are known ahead, talks, encodings, the table and the files."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench import captions, encodings, metrics, report, speech
from bench.report import Figure, Result
from bench.speech import Clip, Said, Speaker
from streaming.audio.endpoint import EndReason
from streaming.model import SAMPLE_RATE, Encoding
from streaming.recogniser.card import ModelCard, Padding, card_of
from tests.fakes.tones import ToneEngine, talk
from tests.support.espeak import LIBRARY

needs_voice = pytest.mark.skipif(LIBRARY is None, reason="libespeak-ng is not installed")


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker()


def sample_at(at_ms: float) -> int:
    return int(at_ms * SAMPLE_RATE / 1_000)


def test_cuts_are_known_ahead() -> None:
    said = talk([["hello", "world"], ["again"]], lead_ms=512)
    one, two = speech.cuts(said.audio, ToneEngine().capabilities)
    assert one.reason is two.reason is EndReason.SILENCE
    for cut, words in zip((one, two), said.sentences, strict=True):
        assert cut.heard is not None
        assert abs(metrics.ms(cut.heard) - words[0].start_ms) <= speech.LEVEL_MS
        assert words[-1].end_ms + 570 <= metrics.ms(cut.decided) <= words[-1].end_ms + 670, "600 ms, in frames of 32"
        assert cut.begin < cut.heard < cut.end <= cut.decided


def test_the_table_marks_what_was_missed() -> None:
    kept, missed = Figure("a", 299, "ms", 3, most=300), Figure("b", 0.5, "share", 9, least=0.7)
    text = report.table([Result("x", [kept, missed], {}, {}), Result("y", [], {}, {}, skipped="no espeak-ng")])
    assert [line.split() for line in text.splitlines()] == [
        ["benchmark", "figure", "value", "unit", "n", "promise"],
        ["x", "a", "299", "ms", "3", "<=", "300"],
        ["x", "b", "0.5", "share", "9", ">=", "0.7", "(missed)"],
        ["y", "skipped:", "no", "espeak-ng"],
    ]


def test_percentiles_of_nothing_are_no_figures() -> None:
    assert report.percentiles("a", [], "ms") == []
    p50, p95 = report.percentiles("a", list(range(101)), "ms", p95_most=90)
    assert (p50.value, p50.kept, p95.value, p95.kept, p95.n) == (50, True, 95, False, 101)


def test_a_file_tells_what_it_was_measured_on_and_not_where(tmp_path: Path) -> None:
    path = report.write(tmp_path, Result("x", [], {}, {"ms": [1]}), seed=7, quick=True, seconds=1.23)
    content = json.loads(path.read_text())
    assert set(content["machine"]) == {"cores", "processor", "memory_mib", "system", "python", "load_1min"}
    assert (content["seed"], content["raw"], content["versions"]["parlance"]) == (7, {"ms": [1]}, "0.1.0")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_the_padded_model_is_the_same_with_another_card(tmp_path: Path) -> None:
    same = captions.padded(captions.MICRO, tmp_path / "padded")
    card = card_of(captions.MICRO)
    assert card_of(same).padding == ModelCard().padding == Padding(min_s=30.0)
    assert msgspec.structs.replace(card_of(same), padding=card.padding) == card
    assert (same / "model.bin").read_bytes() == (captions.MICRO / "model.bin").read_bytes()


async def test_a_folder_without_a_model_is_skipped_with_a_sentence(tmp_path: Path) -> None:
    result = await captions.benchmark([], str(tmp_path), [], tmp_path / "out", seed=1, resume=False)
    assert result.figures == []
    assert result.skipped


@needs_voice
def test_a_talk_is_the_same_with_the_same_seed_and_knows_its_words(speaker: Speaker) -> None:
    one, two, other = (speaker.talk("a", 8, seed) for seed in (7, 7, 8))
    assert one.text == two.text != other.text
    # espeak-ng carries state from one utterance to the next: now and then a word is a few milliseconds longer.
    assert abs(len(one.audio) - len(two.audio)) <= len(one.audio) / 100
    assert " ".join(word.text for word in one.words) == one.text
    ends = [0.0, *(time for word in one.words for time in (word.start_ms, word.end_ms))]
    assert ends == sorted(ends)
    assert ends[-1] <= one.seconds * 1_000 - speech.TAIL_MS
    level = np.abs(one.audio.astype(np.int32))
    for word in one.words:
        assert level[sample_at(word.start_ms) : sample_at(word.end_ms)].max() > 500, f"{word} is silent"


@needs_voice
def test_a_talk_without_pauses_has_long_utterances(speaker: Speaker) -> None:
    clip = speaker.talk("long", 60, 3, pauses=False)
    lengths = [(cut.end - cut.begin) / SAMPLE_RATE for cut in speech.cuts(clip.audio, ToneEngine().capabilities)]
    assert max(lengths) > 15, lengths


def test_clips_are_joined_with_their_words() -> None:
    parts = [Clip("a", np.zeros(16_000, np.int16), "a b", (Said("a", 100, 300), Said("b", 400, 500)))] * 2
    whole = speech.joined("ab", parts)
    assert (whole.seconds, whole.text) == (2, "a b a b")
    assert [word.start_ms for word in whole.words] == [100, 400, 1_100, 1_400]


@pytest.mark.parametrize("sent", encodings.SENT, ids=lambda sent: sent.name)
def test_every_encoding_is_decoded_whole(sent: encodings.Sent) -> None:
    audio = talk([["hello", "world"]]).audio
    data = encodings.encoded(audio, sent)
    pieces = encodings.pieces(data, len(audio), sent)
    assert b"".join(pieces) == data
    cpu, decoded_s = encodings.decoding(data, len(audio), sent, cpu_s_min=0)
    assert cpu >= 0
    assert decoded_s == pytest.approx(len(audio) / SAMPLE_RATE, abs=0.06)
    if not sent.encoding.is_container:
        assert all(len(piece) % sent.format.frame_bytes == 0 for piece in pieces)


def test_all_encodings_are_measured() -> None:
    assert {sent.encoding for sent in encodings.SENT} == set(Encoding)
