"""Whispers of real sizes without what they learned: the compute of tiny.en, base.en, small.en or large-v3-turbo with
weights drawn at random.

What a forward costs depends on its sizes and not on the numbers inside, so a random model says what a real one takes of
a machine, without a download. Sizes, token numbers and alignment heads are those of openai/whisper (model.py,
`_ALIGNMENT_HEADS` of __init__.py); the weights are stored as int8, which CTranslate2 turns into whatever the engine
asks for.

    .venv/bin/python -m bench.shapes tiny.en base.en      # makes what is not there yet, prints the folders

Boundary: folders under `~/.cache/parlance/shapes`, outside the checkout. Invariant: a folder that exists is whole.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from ctranslate2.specs import WhisperSpec
from faster_whisper.tokenizer import _LANGUAGE_CODES
from numpy.typing import NDArray

VERSION = 1
"""Of what `make` writes: another number makes folders anew."""
FRAMES_MAX, TOKENS_MAX = 1_500, 448
TIMESTAMPS = 1_501
"""From 0 to 30 s in steps of 20 ms."""
SPREAD = 0.02
"""Standard deviation of the weights: what transformers initialises a Whisper with."""


class Shape(msgspec.Struct, frozen=True):
    """`width`: of the layers; `vocabulary`: below 51,865 the model is English only; `heads`: (layer, head) of the
    decoder that say where words are."""

    width: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    heads: tuple[tuple[int, int], ...]
    mels: int = 80

    @property
    def n_heads(self) -> int:
        return self.width // 64


SHAPES = {
    "tiny.en": Shape(384, 4, 4, 51_864, ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4))),
    "base.en": Shape(512, 6, 6, 51_864, ((3, 3), (4, 7), (5, 1), (5, 5), (5, 7))),
    "small.en": Shape(
        768, 12, 12, 51_864,
        ((6, 6), (7, 0), (7, 3), (7, 8), (8, 2), (8, 5), (8, 7), (9, 0), (9, 4), (9, 8), (9, 10), (10, 0), (10, 1),
         (10, 2), (10, 3), (10, 6), (10, 11), (11, 2), (11, 4)),
    ),
    "large-v3-turbo": Shape(1_280, 32, 4, 51_866, ((2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14)), mels=128),
}  # fmt: skip


def cache() -> Path:
    """Where shapes are kept on this machine."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "parlance" / "shapes"


def folder_of(name: str) -> Path:
    """Where the shape is, or will be. Raises KeyError for a name that is none of `SHAPES`."""
    return cache() / f"{name}-{SHAPES[name].width}-v{VERSION}"


def make(name: str) -> Path:
    """The shape's folder; made first when it is not there: 1 s for tiny.en, minutes and 4 GB of memory for the
    largest."""
    folder = folder_of(name)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        write(SHAPES[name], part)
        part.chmod(0o755)
        part.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def write(shape: Shape, folder: Path) -> None:
    """A CTranslate2 model of this shape into an empty folder."""
    draw = np.random.default_rng(0)
    spec = WhisperSpec(shape.encoder_layers, shape.n_heads, shape.decoder_layers, shape.n_heads)
    _Filler(draw, shape).fill(spec)
    tokens = list(vocabulary(shape.vocabulary))
    spec.register_vocabulary(tokens)
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], []
    spec.config.lang_ids = [n for n, token in enumerate(tokens) if token[2:-2] in _LANGUAGE_CODES]
    spec.config.alignment_heads = [list(head) for head in shape.heads]
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(str(folder))


def vocabulary(size: int) -> Iterator[str]:
    """Tokens that nobody reads, and the special ones where Whisper has them."""
    languages = _LANGUAGE_CODES if size > 51_865 else _LANGUAGE_CODES[:99]
    special = [
        *("<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in languages), "<|translate|>"),
        *("<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
    ]
    yield from (f"w{n}" for n in range(size - len(special) - TIMESTAMPS))
    yield from special
    yield from (f"<|{n * 0.02:.2f}|>" for n in range(TIMESTAMPS))


class _Filler:
    """Puts random numbers of the right sizes where a converter puts what was learned."""

    def __init__(self, draw: np.random.Generator, shape: Shape) -> None:
        self._draw = draw
        self._shape = shape

    def fill(self, spec: Any) -> None:
        width, shape = self._shape.width, self._shape
        encoder, decoder = spec.encoder, spec.decoder
        for conv, channels in ((encoder.conv1, shape.mels), (encoder.conv2, width)):
            conv.weight, conv.bias = self._random(width, channels, 3), self._zeros(width)
        encoder.position_encodings.encodings = self._random(FRAMES_MAX, width)
        decoder.position_encodings.encodings = self._random(TOKENS_MAX, width)
        decoder.embeddings.weight = decoder.projection.weight = self._random(shape.vocabulary, width)
        for half in (encoder, decoder):
            self._norm(half.layer_norm)
            for layer in half.layer:
                self._attention(layer.self_attention, (3 * width, width))
                if half is decoder:
                    self._attention(layer.attention, (width, 2 * width, width))
                self._norm(layer.ffn.layer_norm)
                self._linear(layer.ffn.linear_0, 4 * width, width)
                self._linear(layer.ffn.linear_1, width, 4 * width)

    def _attention(self, spec: Any, outputs: tuple[int, ...]) -> None:
        self._norm(spec.layer_norm)
        for linear, size in zip(spec.linear, outputs, strict=True):
            self._linear(linear, size, self._shape.width)

    def _linear(self, spec: Any, outputs: int, inputs: int) -> None:
        spec.weight, spec.bias = self._random(outputs, inputs), self._zeros(outputs)

    def _norm(self, spec: Any) -> None:
        spec.gamma, spec.beta = np.ones(self._shape.width, np.float32), self._zeros(self._shape.width)

    def _random(self, *size: int) -> NDArray[np.float32]:
        return self._draw.standard_normal(size, dtype=np.float32) * np.float32(SPREAD)

    def _zeros(self, size: int) -> NDArray[np.float32]:
        return np.zeros(size, np.float32)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or SHAPES:
        print(make(wanted))
