"""Engine references and the pure parts of the PocketSphinx engine."""

import pytest

from streaming.recogniser.engine import load_class
from streaming.recogniser.pocketsphinx import mean_of, word_text
from tests.fakes.tones import ToneEngine


def test_a_reference_names_a_class() -> None:
    assert load_class("tests.fakes.tones:ToneEngine") is ToneEngine


@pytest.mark.parametrize(
    "reference", ["", "tests.fakes.tones", ":ToneEngine", "tests.fakes.tones:", "math:pi", "math:no"]
)
def test_a_wrong_reference_is_a_value_error(reference: str) -> None:
    with pytest.raises(ValueError, match=r"engine .*"):
        load_class(reference)


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ("read", "read"),
        ("read(2)", "read"),
        ("they're(13)", "they're"),
        ("<s>", ""),
        ("</s>", ""),
        ("<sil>", ""),
        ("[NOISE]", ""),
        ("[SPEECH]", ""),
        ("++UH++", ""),
        ("o.k.", "o.k."),
    ],
)
def test_only_words_are_words(entry: str, word: str) -> None:
    assert word_text(entry) == word


def test_a_mean_is_thirteen_finite_numbers() -> None:
    mean = ",".join(["41.5"] + ["-1"] * 12)
    assert mean_of(mean.encode()) == mean
    for wrong in ("", "1,2", mean + ",1", mean.replace("41.5", "nan"), mean.replace("41.5", "1e9"), "x" * 5_000, "é"):
        assert mean_of(wrong.encode()) is None
