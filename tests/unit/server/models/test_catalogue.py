"""Names of models, the files of them that are needed, and which are enough."""

import subprocess
import sys

import msgspec
import pytest

from server.models.catalogue import (
    DEFAULT,
    MODELS,
    Kind,
    UnknownModel,
    by_repo,
    complete,
    megabytes,
    resolve,
    wanted_files,
)
from server.models.tiers import REST

WHISPER = [".gitattributes", "README.md", "config.json", "model.bin", "tokenizer.json", "vocabulary.txt"]
FASTER_WHISPER = """
import json, sys
from faster_whisper.utils import _MODELS
sys.stdout.write(json.dumps(_MODELS))
"""


def test_the_names_are_those_of_faster_whisper() -> None:
    told = subprocess.run([sys.executable, "-c", FASTER_WHISPER], capture_output=True, timeout=60, check=True)
    theirs = msgspec.json.decode(told.stdout, type=dict[str, str])
    ours = {model.name: model.repo for model in MODELS.values() if model.kind is Kind.WHISPER}
    assert ours.items() <= theirs.items()
    assert set(REST) == set(ours), "each may be chosen"


def test_names_resolve() -> None:
    assert resolve("default").name == DEFAULT
    assert resolve("large-v3-turbo").repo == "mobiuslabsgmbh/faster-whisper-large-v3-turbo"
    assert resolve("align-de").kind is Kind.ALIGNMENT
    assert resolve("Systran/faster-whisper-tiny").name == "tiny"
    assert resolve("somebody/their-whisper").kind is Kind.OTHER
    assert by_repo("facebook/wav2vec2-base-960h").name == "align-en"


@pytest.mark.parametrize("name", ["basee", "", "../../etc", "a/b/c", "a/..", "-x/y", "https://example.org/model"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UnknownModel):
        resolve(name)


def test_a_refusal_has_near_names() -> None:
    with pytest.raises(UnknownModel, match=r"did you mean small or small\.en\?"):
        resolve("smal")


def test_what_is_fetched_of_a_whisper() -> None:
    assert wanted_files(WHISPER) == ["config.json", "model.bin", "tokenizer.json", "vocabulary.txt"]
    assert wanted_files([*WHISPER, "parlance.json"])[2:4] == ["parlance.json", "tokenizer.json"]
    assert complete(wanted_files(WHISPER))
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        assert not complete([file for file in WHISPER if file != name])


def test_what_is_fetched_of_a_transformer() -> None:
    both = ["README.md", "config.json", "vocab.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5"]
    assert wanted_files(both) == ["README.md", "config.json", "model.safetensors", "vocab.json"]
    old = ["config.json", "vocab.json", "pytorch_model.bin", "language_model/lm.bin", "training_args.bin"]
    assert wanted_files(old) == ["config.json", "pytorch_model.bin", "vocab.json"]
    sentence = ["modules.json", "config.json", "1_Pooling/config.json", "model.safetensors", "onnx/model.onnx"]
    assert wanted_files(sentence) == ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json"]
    assert complete(wanted_files(both))
    assert complete(wanted_files(old))
    assert not complete(["config.json", "vocab.json"])


def test_sizes_for_people() -> None:
    assert [megabytes(n) for n in (0, 500_000, 146_000_000, 1_528_000_000)] == ["0.0 MB", "0.5 MB", "146 MB", "1.5 GB"]
