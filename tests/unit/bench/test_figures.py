"""What the benchmarks make of events: latencies, shares and the table, on takes whose answer is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import encodings, live, report, speech, whisper
from bench.live import Heard, Take
from bench.report import Figure, Result
from bench.speech import Clip, Cut
from streaming.audio.endpoint import EndReason
from streaming.model import SAMPLE_RATE, Encoding
from streaming.recogniser.whisper import ModelCard, Padding, card_of
from tests.fakes.tones import ToneEngine, talk
from tests.support.synth import needs_espeak


def sample(ms: int) -> int:
    return ms * SAMPLE_RATE // 1000


def partial(at_ms: float, stable: str, unstable: str, *, start_ms: int = 200) -> Heard:
    body = {"segment_id": "s1", "start_ms": start_ms, "end_ms": 0, "stable": stable, "unstable": unstable}
    return Heard(at_ms, "transcript:partial", body)


def final(at_ms: float, *words: tuple[str, int, int]) -> Heard:
    body: dict[str, Any] = {
        "segment_id": "s1",
        "start_ms": words[0][1],
        "end_ms": words[-1][2],
        "text": " ".join(w for w, _, _ in words),
        "words": [{"w": w, "start_ms": start, "end_ms": end, "p": 1.0} for w, start, end in words],
    }
    return Heard(at_ms, "transcript:final", body)


CUT = Cut(sample(200), sample(4_400), sample(4_800), EndReason.SILENCE, sample(500))
SAID = final(4_900, ("to", 500, 1_000), ("be", 1_000, 2_000), ("to", 3_900, 4_200))
HEARD = [partial(700, "", ""), partial(1_250, "", "two"), partial(2_100, "to ", "be"), SAID]
TAKE = Take(Clip("c", np.zeros(sample(5_000), np.int16), "to be two"), [CUT], HEARD)


def test_the_first_caption_counts_from_the_beginning_of_speech() -> None:
    assert live.first_delays(TAKE) == [750]


def test_a_word_counts_from_its_end_to_where_it_is_shown_as_often() -> None:
    assert live.word_delays(TAKE) == [1_100, 100, 700]


def test_a_final_counts_from_the_decision_and_only_after_a_silence() -> None:
    assert live.final_delays(TAKE) == [100]
    cut = Cut(CUT.begin, CUT.end, CUT.decided, EndReason.LENGTH, CUT.heard)
    assert live.final_delays(Take(TAKE.clip, [cut], HEARD)) == []


def test_a_segment_may_begin_later_than_its_utterance() -> None:
    later = [partial(1_250, "", "two", start_ms=640), SAID]
    assert live.first_delays(Take(TAKE.clip, [CUT], later)) == [750]
    assert live.first_delays(Take(TAKE.clip, [CUT], [partial(1_250, "", "two", start_ms=4_500), SAID])) == []


def test_case_and_punctuation_do_not_hide_a_word() -> None:
    said = final(2_500, ("Fifteen", 500, 1_000), ("tests.", 1_000, 2_000))
    heard = [partial(1_250, "", "fifteen"), partial(2_100, "Fifteen", " tests"), said]
    assert live.word_delays(Take(TAKE.clip, [CUT], heard)) == [250, 100]


def test_stable_text_is_continued_and_nothing_follows_a_final() -> None:
    end = final(2_500, ("we", 500, 1_000), ("said", 1_000, 2_000))

    def found(*heard: Heard) -> int:
        return live.violations(Take(TAKE.clip, [CUT], list(heard)))

    assert found(partial(700, "", "me"), partial(1_250, "we", " say"), partial(1_500, "we", ""), end) == 0
    assert found(partial(1_250, "me", " said"), partial(1_500, "we", " said"), end) == 1, "another word"
    assert found(partial(1_250, "we say", ""), end) == 1, "the final has it otherwise"
    assert found(partial(1_250, "we sa", ""), end) == 1, "half a word"
    assert found(end, partial(2_600, "we said", "")) == 1, "late"


def test_stable_words_are_those_of_the_last_partial_in_long_utterances() -> None:
    assert live.stable_words(TAKE) == (1, 3)
    short = [partial(1_250, "to", ""), final(2_000, ("to", 500, 1_000))]
    assert live.stable_words(Take(TAKE.clip, [CUT], short)) == (0, 0)


def test_word_errors_need_a_reference() -> None:
    assert live.word_errors([TAKE]) == pytest.approx(1 / 3, abs=1e-3)
    assert live.word_errors([Take(Clip("c", TAKE.clip.audio, None), [CUT], HEARD)]) is None


def test_cuts_are_known_ahead() -> None:
    said = talk([["hello", "world"], ["again"]], lead_ms=512)
    one, two = speech.cuts(said.audio, ToneEngine().capabilities)
    assert one.reason is two.reason is EndReason.SILENCE
    for cut, words in zip((one, two), said.sentences, strict=True):
        assert cut.heard is not None
        assert abs(live.ms(cut.heard) - words[0].start_ms) <= speech.LEVEL_MS
        assert words[-1].end_ms + 570 <= live.ms(cut.decided) <= words[-1].end_ms + 670, "600 ms, in frames of 32"
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
    same = whisper.padded(whisper.MICRO, tmp_path / "padded")
    card = card_of(whisper.MICRO)
    assert card_of(same).padding == ModelCard().padding == Padding(min_s=whisper.PADDED_S)
    assert (card_of(same).window_s, card_of(same).vocabulary) == (card.window_s, card.vocabulary)
    assert (same / "model.bin").read_bytes() == (whisper.MICRO / "model.bin").read_bytes()


async def test_a_folder_without_a_model_is_skipped_with_a_sentence(tmp_path: Path) -> None:
    result = await whisper.benchmark(str(tmp_path), {1: 1}, seed=1)
    assert result.figures == []
    assert result.skipped


@needs_espeak
def test_a_talk_of_the_benchmark_is_the_same_with_the_same_seed() -> None:
    one, two, other = (whisper.spoken("a", 2, seed) for seed in (7, 7, 8))
    assert one.text == two.text != other.text
    # espeak-ng carries state from one utterance to the next: now and then a word is a few milliseconds longer.
    assert abs(len(one.audio) - len(two.audio)) <= len(one.audio) / 100
    assert abs(len(one.audio) - len(other.audio)) > len(one.audio) / 100


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
