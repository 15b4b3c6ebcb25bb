"""What the alignment worker makes of a model's folder, without whisperx."""

from pathlib import Path

import msgspec
import pytest

from streaming.errors import BadRequest, Unavailable
from streaming.recogniser.alignment import ALIGN_MS_MAX, Align
from streaming.recogniser.whisperx import Aligner, card_languages, find

FILES = ("config.json", "vocab.json", "model.safetensors")


def model(folder: Path, card: str | None, files: tuple[str, ...] = FILES) -> str:
    for name in files:
        (folder / name).touch()
    if card is not None:
        (folder / "README.md").write_text(card)
    return str(folder)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlanguage: en\n---\n# A model", ("en",)),
        ("---\nlicense: mit\nlanguage:\n- en-US\n- de\ntags:\n- audio\n---\n", ("en", "de")),
        ("---\nlanguage: [pt, en]\ndatasets:\n- x\n---\n", ("pt", "en")),
        ("---\nlicense: mit\n---\nlanguage: en\n", ()),
        ("language: en", ()),
        ("", ()),
        (None, ()),
    ],
)
def test_a_model_card_says_what_it_speaks(tmp_path: Path, card: str | None, expected: tuple[str, ...]) -> None:
    model(tmp_path, card)
    assert card_languages(tmp_path) == expected


def test_a_folder_is_taken_whole_or_not_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = model(tmp_path, "---\nlanguage: en\n---\n")
    assert list(find(folder, None)) == ["en"]
    assert list(find(folder, "de-AT")) == ["de"]
    (tmp_path / "vocab.json").unlink()
    assert find(folder, None) == {}
    (tmp_path / "README.md").unlink()
    assert find(folder, None) == {}
    assert "does not say its language" in caplog.text


def test_what_is_no_request_is_refused_before_anything_is_loaded() -> None:
    aligner = Aligner({})
    with pytest.raises(BadRequest):
        aligner.handle(b"\xff")
    for pcm in (b"\0", bytes(32 * ALIGN_MS_MAX + 2)):
        with pytest.raises(BadRequest, match="size"):
            aligner.handle(msgspec.msgpack.encode(Align("en", ("a",), pcm)))
    with pytest.raises(Unavailable):
        aligner.handle(msgspec.msgpack.encode(Align("en", ("a",), bytes(4))))
