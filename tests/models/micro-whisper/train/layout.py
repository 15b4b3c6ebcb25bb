"""The tokens that are trained, and their places in Whisper's two vocabularies.

`Table` is the small vocabulary of the training: the tokens of all words, the special ones, the timestamps. A model for
use has the genuine multilingual layout of 51,865 tokens (below that CTranslate2 takes it for English-only), or the same
without languages and without the tokens that no English word needs. Rows that nobody trained would swamp the softmax:
they are `UNUSED` on the one channel that is always 1.

Boundary: reads tokenizer and vocabulary of a model in the genuine layout.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import WhisperSpec
from tokenizers import Tokenizer

from tests.support import corpus, corpus_de

UNUSED = -10.0
SPECIALS = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
    "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip
STAMPS = tuple(f"<|{i * 0.02:.2f}|>" for i in range(1_501))
UNKNOWN = "<unknown>"
"""Stands for every other token in the prompts of the training."""
HEADS = 4
ALIGNMENT_HEADS = 2
"""Of the last decoder layer: the training guides them to the words' frames."""
LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
PREPROCESSOR = {
    "chunk_length": 30, "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "hop_length": 160,
    "n_fft": 400, "n_samples": 480_000, "nb_max_frames": 3_000, "padding_side": "right", "padding_value": 0.0,
    "processor_class": "WhisperProcessor", "return_attention_mask": False, "sampling_rate": 16_000,
}  # fmt: skip


def capitals(words: Iterable[str]) -> set[str]:
    return {form for word in words for form in (word, word[0].upper() + word[1:])}


class Table:
    """Tokens by number: words, `UNKNOWN`, `SPECIALS`, `STAMPS`. `genuine`: folder of a model in the genuine layout."""

    def __init__(self, genuine: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(genuine / "tokenizer.json"))
        self._vocabulary: list[str] = json.loads((genuine / "vocabulary.json").read_text())
        words = capitals([*corpus.WORDS, *corpus_de.WORDS, *corpus.SPELLINGS.values()])
        ids = {token for word in words for token in self._ids(" " + word)}
        ids |= {token for mark in ".?," for token in self._ids(mark)}
        self.names = [*(self._vocabulary[i] for i in sorted(ids)), UNKNOWN, *SPECIALS, *STAMPS]
        self.number = {name: i for i, name in enumerate(self.names)}
        self.first_special = self.number[SPECIALS[0]]
        self.first_stamp = self.number[STAMPS[0]]
        self._words: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Numbers of a word with the space before it, or of a mark."""
        if text not in self._words:
            self._words[text] = [self.number[self._vocabulary[i]] for i in self._ids(text)]
        return self._words[text]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)


def restricted(genuine: Path) -> tuple[dict[str, Any], list[str]]:
    """Tokenizer and vocabulary of the English-only layout: what the English words are made of, and all bytes."""
    whole = json.loads((genuine / "tokenizer.json").read_text())
    tokenizer = Tokenizer.from_file(str(genuine / "tokenizer.json"))
    known: dict[str, int] = whole["model"]["vocab"]
    parts = {left + right: (left, right) for left, right in reversed(whole["model"]["merges"])}
    wanted = [
        token
        for word in capitals([*corpus.WORDS, *corpus.SPELLINGS.values()])
        for token in tokenizer.encode(" " + word).tokens
    ]
    kept = {token for token in known if len(token) == 1}
    while wanted:
        token = wanted.pop()
        if token not in kept:
            kept.add(token)
            wanted += parts[token]
    text = sorted(kept, key=known.__getitem__)
    added = [name for name in (*SPECIALS, *STAMPS) if not LANGUAGE.fullmatch(name)]
    template = whole["added_tokens"][0]
    whole["added_tokens"] = [
        {**template, "id": len(text) + i, "content": name, "special": name not in STAMPS}
        for i, name in enumerate(added)
    ]
    whole["model"]["vocab"] = {token: i for i, token in enumerate(text)}
    whole["model"]["merges"] = [pair for pair in whole["model"]["merges"] if pair[0] + pair[1] in kept]
    whole["model"]["merges"] = [m for m in whole["model"]["merges"] if m[0] in kept and m[1] in kept]
    return whole, [*text, *added]


def export(weights: dict[str, np.ndarray], table: Table, genuine: Path, out: Path, *, multilingual: bool) -> None:
    """Write a CTranslate2 model, int8, with all its files but `parlance.json`."""
    out.mkdir(parents=True, exist_ok=True)
    if multilingual:
        tokenizer = json.loads((genuine / "tokenizer.json").read_text())
        vocabulary = json.loads((genuine / "vocabulary.json").read_text())
    else:
        tokenizer, vocabulary = restricted(genuine)
    embeddings = weights["decoder/embeddings/weight"]
    rows = np.zeros((len(vocabulary), embeddings.shape[1]), np.float32)
    rows[:, -1] = UNUSED
    place = {name: i for i, name in enumerate(vocabulary)}
    for number, name in enumerate(table.names):
        if name in place:
            rows[place[name]] = embeddings[number]
    layers = [
        len(
            {
                name.split("/")[1]
                for name in weights
                if name.startswith(f"{part}/layer_") and "_norm" not in name.split("/")[1]
            }
        )
        for part in ("encoder", "decoder")
    ]
    spec = WhisperSpec(layers[0], HEADS, layers[1], HEADS)
    for name, array in weights.items():
        put(spec, name, np.ascontiguousarray(array, np.float32))
    put(spec, "decoder/embeddings/weight", rows)
    put(spec, "decoder/projection/weight", rows)
    spec.register_vocabulary(vocabulary)
    never = ("<|startoftranscript|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>",
             "<|nospeech|>")  # fmt: skip
    spec.config.suppress_ids = sorted(place[name] for name in never)
    spec.config.suppress_ids_begin = [place["\u0120"], place["<|endoftext|>"]]
    spec.config.alignment_heads = [[layers[1] - 1, head] for head in range(ALIGNMENT_HEADS)]
    spec.config.lang_ids = [i for i, name in enumerate(vocabulary) if LANGUAGE.fullmatch(name)]
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(str(out))
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=1) + "\n")


def put(spec: Any, name: str, array: np.ndarray) -> None:
    """Set the variable that CTranslate2 calls `name`: `layer_0` is `layer[0]` unless there is such an attribute."""
    *path, last = name.split("/")
    for part in path:
        if hasattr(spec, part):
            spec = getattr(spec, part)
        else:
            plural, _, index = part.rpartition("_")
            spec = getattr(spec, plural)[int(index)]
    setattr(spec, last, array)
