"""The tests' Whisper with the compute of another shape: the same words, and as much asked of the shape."""

import json
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest

from bench import baseline, compute, mirror, shapes, speech
from bench.compute import Shaped
from bench.mirror import Mirrored, mirrored
from bench.shapes import SHAPES, Shape
from bench.speech import Speaker
from streaming.model import UtteranceSpec
from streaming.recogniser.engine import EngineUnavailable, Window, load_class
from streaming.recogniser.whisper import WhisperEngine
from tests.support.espeak import LIBRARY

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "tests" / "models" / "micro-whisper" / "en"
NANO = Shape(64, 1, 1, 51_864, ((0, 0),))


class Spy:
    """Keeps what a model was asked."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.asked: list[tuple[str, Any, Any]] = []
        self.options: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if not callable(found):
            return found

        def asked(*given: Any, **options: Any) -> Any:
            answer = found(*given, **options)
            self.options = options
            self.asked.append((name, given, answer))
            return answer

        return asked


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    shapes.write(NANO, folder)
    return folder


@pytest.fixture
def both(nano: Path) -> tuple[Mirrored, Spy, Spy]:
    small, large = (Spy(ctranslate2.models.Whisper(str(path), intra_threads=1)) for path in (MICRO, nano))
    model = Mirrored(small, large, MICRO, nano)
    small.asked.clear()
    large.asked.clear()
    return model, small, large


def ids() -> dict[str, int]:
    return mirror._ids(MICRO)


def features(rows: int, frames: int = 300) -> ctranslate2.StorageView:
    draw = np.random.default_rng(frames)
    return ctranslate2.StorageView.from_array(draw.standard_normal((rows, 80, frames), dtype=np.float32) * 0.1)


@pytest.mark.parametrize("prompt", [["sot"], ["prev", 5, 6, 7, "sot"], ["prev", *range(40), "sot"]], ids=len)
@pytest.mark.parametrize("given", [0, 4])
@pytest.mark.parametrize("options", [{"beam_size": 1}, {"beam_size": 1, "max_length": 24}, {"beam_size": 3}], ids=str)
def test_the_shape_writes_as_many_tokens_behind_as_long_a_prompt(
    nano: Path, both: tuple[Mirrored, Spy, Spy], prompt: list[Any], given: int, options: dict[str, Any]
) -> None:
    model, small, large = both
    names = {"sot": "<|startoftranscript|>", "prev": "<|startofprev|>"}
    head = [ids()[names[part]] if isinstance(part, str) else part for part in prompt]
    if "max_length" in options:  # and the small model writes until it is reached
        most = options["max_length"] + 2 * len(head) + 2 * given
        options = {**options, "max_length": most, "suppress_tokens": [ids()["<|endoftext|>"]]}
    asked = [*head, ids()["<|notimestamps|>"], *range(300, 300 + given)]
    encoded = model.encode(features(2))
    model.generate(encoded, [asked, asked], sampling_temperature=0.0, **options)

    (_, _, ours), (_, theirs_given, theirs) = small.asked[-1], large.asked[-1]
    longest = max(len(result.sequences_ids[0]) for result in ours)
    steps = min(longest + 1, options.get("max_length", 448) // 2)  # the end is a step as well
    assert [len(result.sequences_ids[0]) for result in theirs] == [steps, steps]
    end = json.loads((nano / "vocabulary.json").read_bytes()).index("<|endoftext|>")
    assert large.options["suppress_tokens"] == [end], "it may not end by chance"
    assert [len(p) for p in theirs_given[1]] == [len(asked)] * 2
    assert list(theirs_given[0].shape) == [2, 150, NANO.width]


def test_encodings_that_the_engine_put_together_are_of_the_same_size(both: tuple[Mirrored, Spy, Spy]) -> None:
    model, _, large = both
    one = np.array(model.encode(features(1)))
    batch = ctranslate2.StorageView.from_array(np.concatenate([one, one, one]))
    start = ids()["<|startoftranscript|>"]
    said = model.generate(batch, [[start, ids()["<|notimestamps|>"]]] * 3, beam_size=1)
    assert len(said) == 3
    assert list(large.asked[-1][1][0].shape) == [3, 150, NANO.width]
    model.align(batch, [start], [[300, 301]] * 3, 150)
    assert large.asked[-1][0] == "align"
    assert [len(tokens) for tokens in large.asked[-1][1][2]] == [2, 2, 2]


def test_a_shape_with_more_mel_bands_hears_as_many_frames(tmp_path: Path) -> None:
    shapes.write(Shape(64, 1, 1, 51_866, ((0, 0),), mels=128), tmp_path)
    small, large = (Spy(ctranslate2.models.Whisper(str(path), intra_threads=1)) for path in (MICRO, tmp_path))
    Mirrored(small, large, MICRO, tmp_path).encode(features(2, 200))
    assert list(large.asked[-1][1][0].shape) == [2, 128, 200]
    assert large.asked[-1][2].shape == [2, 100, 64]


def test_shapes_are_those_of_whisper() -> None:
    """The numbers of parameters that openai/whisper names, in millions: 39, 74, 244 and 809."""
    for name, millions in {"tiny.en": 39, "base.en": 74, "small.en": 244, "large-v3-turbo": 809}.items():
        shape = SHAPES[name]
        width = shape.width
        layer = 12 * width**2
        count = shape.encoder_layers * layer + shape.decoder_layers * (layer + 4 * width**2)
        count += shape.vocabulary * width + (1_500 + 448) * width + 3 * width * (shape.mels + width)
        assert count / 1e6 == pytest.approx(millions, rel=0.06), name
        assert all(layer < shape.decoder_layers and head < shape.n_heads for layer, head in shape.heads)


def test_a_vocabulary_has_the_special_tokens_and_the_size_of_the_shape(nano: Path) -> None:
    tokens = json.loads((nano / "vocabulary.json").read_bytes())
    assert len(tokens) == len(set(tokens)) == NANO.vocabulary
    assert {"<|endoftext|>", "<|startofprev|>", "<|notimestamps|>", "<|en|>", "<|0.00|>", "<|30.00|>"} <= set(tokens)
    assert not ctranslate2.models.Whisper(str(nano)).is_multilingual
    assert len(list(shapes.vocabulary(51_866))) == 51_866


def test_a_shape_is_made_once_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(SHAPES, "nano", NANO)
    folder = shapes.make("nano")
    written = (folder / "model.bin").stat()
    assert shapes.make("nano") == folder == shapes.folder_of("nano")
    assert (folder / "model.bin").stat().st_mtime_ns == written.st_mtime_ns
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "no part is left"


def test_engines_are_named_by_their_shape() -> None:
    for name in SHAPES:
        engine = load_class(compute.reference(name))
        assert issubclass(engine, Shaped)
        assert name == engine.SHAPE


@pytest.mark.skipif(LIBRARY is None, reason="libespeak-ng is not installed")
def test_the_engine_says_the_same_with_another_compute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PARLANCE_MODEL", str(MICRO))
    monkeypatch.setitem(SHAPES, "nano", NANO)

    class Nano(Shaped):
        SHAPE = "nano"

    with pytest.raises(EngineUnavailable, match=r"bench\.shapes"):
        Nano().load()
    shapes.make("nano")
    plain, shaped = WhisperEngine(), Nano()
    plain.load()
    shaped.load()
    assert "nano" in shaped.capabilities.model
    assert ctranslate2.models.Whisper.__name__ == "Whisper", "the library is left as it was"
    window = Window(UtteranceSpec("u", 0, "en"), Speaker().talk("a", 3, 1).audio, is_final=True)
    assert shaped.decode([window]) == plain.decode([window])


def test_an_engine_without_a_whisper_is_no_shape(monkeypatch: pytest.MonkeyPatch, nano: Path) -> None:
    with mirrored(nano) as made:
        pass
    assert made == []
    monkeypatch.setattr(shapes, "folder_of", lambda _: nano)
    monkeypatch.setattr(WhisperEngine, "load", lambda _: None)
    with pytest.raises(EngineUnavailable, match="mirrored"):
        compute.TinyEn().load()


@pytest.mark.parametrize("shape", [None, "nano"])
def test_the_loop_decodes_the_last_30_s_once_a_second(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nano: Path, shape: str | None
) -> None:
    monkeypatch.setattr(shapes, "folder_of", lambda _: nano)
    np.save(tmp_path / "audio.npy", speech.quiet(3_500, seed=1))
    order = baseline.Order(str(MICRO), shape, "cpu", str(tmp_path / "audio.npy"))
    found = baseline.run(order)
    assert (found.decodes, found.audio_s) == (3, 3)
    assert found.cpu_per_second > 0
    assert found.streams_max == found.audio_s / found.wall_s


@pytest.mark.parametrize("seconds", [1, 45])
def test_the_loop_pads_to_30_s_and_takes_no_more(seconds: int) -> None:
    loop = baseline.Loop(baseline.Order(str(MICRO), None, "cpu", ""))
    spy = Spy(loop._whisper.model)
    loop._whisper.model = spy
    loop.decode(speech.quiet(seconds * 1_000, seed=1))
    assert [list(given[0].shape) for name, given, _ in spy.asked if name == "encode"] == [[1, 80, 3_000]]
