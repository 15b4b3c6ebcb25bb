"""The tests' Whisper doing everything twice: once as itself, once with a model of another shape.

The text comes from the small model, so that agreement, flicker and word errors stay real. Each `encode`, `generate` and
`align` that is asked of it is asked once more of a model of another shape with random weights: the same batch, the same
frames, prompts as long, as many steps of the decoder. What that answers is thrown away.

Policy: the wrapper stands where `ctranslate2.models.Whisper` stands and knows nothing of who calls it, who may batch as
he likes. A batch takes as many steps as its longest row; the real one would drop rows that have ended, so the compute
of batches is an upper bound.

Boundary: our workers (`bench.compute`) and the servers of others (`bench.peers`), whose environments have ctranslate2
and numpy and nothing of ours: no other import here. Invariant: what is answered is what the small model says.
"""

import collections
import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np

ENCODED_MAX = 8
"""Encoder outputs of the shape that are kept for the decoder, newest of each size; 61 MB each at most on a GPU."""
FILLER = 300
"""A token that means nothing."""


class Mirrored:
    """Stands for `small`, a `ctranslate2.models.Whisper`, and does everything once more with `large`."""

    def __init__(self, small: Any, large: Any, small_folder: Path, large_folder: Path) -> None:
        self._small = small
        self._large = large
        ours = _ids(small_folder)
        theirs = _ids(large_folder)
        special = {token: number for token, number in theirs.items() if token.startswith("<|")}
        self._special = {number: special.get(token, FILLER) for token, number in ours.items() if token.startswith("<|")}
        self._end = special["<|endoftext|>"]
        self._lead = ours["<|notimestamps|>"]
        probe = ctranslate2.StorageView.from_array(np.zeros((1, small.n_mels, 2), np.float32))
        self._width = small.encode(probe).shape[-1]
        probe = ctranslate2.StorageView.from_array(np.zeros((1, large.n_mels, 2), np.float32))
        self._large_width = large.encode(probe).shape[-1]
        self._encoded: collections.OrderedDict[tuple[int, int], Any] = collections.OrderedDict()

    def __getattr__(self, name: str) -> Any:
        """What costs nothing is the small model's."""
        return getattr(self._small, name)

    def encode(self, features: Any, to_cpu: bool = False) -> Any:
        rows, mels, frames = features.shape
        wanted = features if mels == self._large.n_mels else _zeros(rows, self._large.n_mels, frames)
        encoded = self._large.encode(wanted, to_cpu=to_cpu)
        key = (rows, encoded.shape[1])
        self._encoded[key] = encoded
        self._encoded.move_to_end(key)
        while len(self._encoded) > ENCODED_MAX:
            self._encoded.popitem(last=False)
        return self._small.encode(features, to_cpu=to_cpu)

    def generate(self, features: Any, prompts: Sequence[Sequence[int]], **options: Any) -> Any:
        said = self._small.generate(features, prompts, **options)
        most = options.get("max_length", 448) // 2  # CTranslate2 gives half of it to the text
        length = max(len(result.sequences_ids[0]) for result in said)
        forced = {"suppress_tokens": [self._end], "max_length": self._room(prompts, min(most, length + 1))}
        self._large.generate(self._memory(features), [self._mapped(p) for p in prompts], **{**options, **forced})
        return said

    def align(
        self,
        features: Any,
        start_sequence: Sequence[int],
        text_tokens: Sequence[Sequence[int]],
        *rest: Any,
        **more: Any,
    ) -> Any:
        mapped = [self._mapped(tokens) for tokens in text_tokens]
        self._large.align(self._memory(features), self._mapped(start_sequence), mapped, *rest, **more)
        return self._small.align(features, start_sequence, text_tokens, *rest, **more)

    def detect_language(self, features: Any) -> Any:
        if self._large.is_multilingual:
            self._large.detect_language(self._memory(features))
        return self._small.detect_language(features)

    def _memory(self, features: Any) -> Any:
        """The shape's encoder output where the engine gives the small model's; else what both have to encode."""
        rows, positions, width = features.shape
        if width != self._width:
            return features if positions == self._large.n_mels else _zeros(rows, self._large.n_mels, width)
        known = self._encoded.get((rows, positions))
        return known if known is not None else _zeros(rows, positions, self._large_width)

    def _mapped(self, tokens: Sequence[int]) -> list[int]:
        return [self._special.get(token, FILLER) for token in tokens]

    def _room(self, prompts: Sequence[Sequence[int]], text: int) -> int:
        """The `max_length` that lets a decoder which never ends write so many tokens, those of the prompt's text
        included: CTranslate2 takes the smaller of its half and what the rest of the prompt leaves."""
        rest = max(_index(prompt, self._lead) for prompt in prompts)
        return max(2 * text, text + rest)


def _ids(folder: Path) -> dict[str, int]:
    return {token: number for number, token in enumerate(json.loads((folder / "vocabulary.json").read_bytes()))}


def _zeros(*size: int) -> Any:
    return ctranslate2.StorageView.from_array(np.zeros(size, np.float32))


def _index(prompt: Sequence[int], token: int) -> int:
    return list(prompt).index(token) if token in prompt else len(prompt) - 1


@contextlib.contextmanager
def mirrored(shape: Path | None) -> Iterator[list[Mirrored]]:
    """Every Whisper that is loaded in this block works twice; which ones did, in order. None: as they are."""
    real = ctranslate2.models.Whisper
    made: list[Mirrored] = []

    def load(model_path: str, *rest: Any, **options: Any) -> Mirrored:
        small = real(model_path, *rest, **options)
        large = real(str(shape), *rest, **{**options, "files": None})
        made.append(Mirrored(small, large, Path(model_path), Path(str(shape))))
        return made[-1]

    if shape is not None:
        ctranslate2.models.Whisper = load
    try:
        yield made
    finally:
        ctranslate2.models.Whisper = real
