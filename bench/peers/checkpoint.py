"""A Whisper for CTranslate2 as the checkpoint that PyTorch programs load, with the same numbers.

    python -m bench.peers.checkpoint FOLDER CHECKPOINT.pt

WhisperLiveKit's own policy takes the encoder from CTranslate2 and the decoder from PyTorch (`--model-path`); of the
tests' models only the first form exists. The layout of `model.bin` is that of ctranslate2.specs.model_spec, version 6;
the names on the other side are openai/whisper's (model.py).

Policy: that program's feed-forward layers are four times as wide as its others; narrower ones get rows and columns of
zeros, which change nothing (GELU(0) is 0). Boundary: `weights` needs numpy alone, `save` the torch of the other's
environment.
"""

import base64
import gzip
import importlib
import json
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

VERSION = 6
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
Floats = NDArray[np.float32]
Reader = Callable[[str], Floats]
HALVES = ("encoder", "decoder")
NORMS = {"gamma": "weight", "beta": "bias"}


def read(path: Path) -> dict[str, NDArray[np.generic]]:
    """The variables of a model.bin, as they are stored; equal ones are there once. Raises ValueError for a version
    other than `VERSION`."""
    found = {}
    with path.open("rb") as file:
        (version,) = struct.unpack("<I", file.read(4))
        if version != VERSION:
            raise ValueError(f"{path.name} is of version {version}, not {VERSION}")
        _string(file)
        _, count = struct.unpack("<II", file.read(8))
        for _ in range(count):
            name = _string(file)
            (rank,) = struct.unpack("<B", file.read(1))
            shape = struct.unpack(f"<{rank}I", file.read(4 * rank))
            kind, size = struct.unpack("<BI", file.read(5))
            found[name] = np.frombuffer(file.read(size), DTYPES[kind]).reshape(shape)
        (aliases,) = struct.unpack("<I", file.read(4))
        for _ in range(aliases):
            alias, name = _string(file), _string(file)
            found[alias] = found[name]
    return found


def _string(file: BinaryIO) -> str:
    (size,) = struct.unpack("<H", file.read(2))
    return file.read(size)[:-1].decode()


def weights(stored: dict[str, NDArray[np.generic]]) -> dict[str, Floats]:
    """By openai/whisper's names, as float32."""

    def floats(name: str) -> Floats:
        values = stored[name].astype(np.float32)
        if f"{name}_scale" in stored:
            scale = stored[f"{name}_scale"].astype(np.float32)
            values = values / scale.reshape(-1, *([1] * (values.ndim - 1)))
        return np.asarray(values, np.float32)

    found = {
        "decoder.token_embedding.weight": floats("decoder/embeddings/weight"),
        **{f"{half}.positional_embedding": floats(f"{half}/position_encodings/encodings") for half in HALVES},
    }
    for conv in ("conv1", "conv2"):
        found |= {f"encoder.{conv}.{part}": floats(f"encoder/{conv}/{part}") for part in ("weight", "bias")}
    for half, last in (("encoder", "ln_post"), ("decoder", "ln")):
        found |= {f"{half}.{last}.{to}": floats(f"{half}/layer_norm/{part}") for part, to in NORMS.items()}
        for layer in range(layers(stored, half)):
            found |= _block(floats, f"{half}/layer_{layer}", f"{half}.blocks.{layer}", cross=half == "decoder")
    return found


def _block(floats: Reader, source: str, target: str, *, cross: bool) -> dict[str, Floats]:
    own, other = f"{source}/self_attention", f"{source}/attention"
    found = _linears(floats, f"{own}/linear_0", f"{target}.attn", ("query", "key", "value"))
    found |= _linears(floats, f"{own}/linear_1", f"{target}.attn", ("out",))
    found |= _norm(floats, own, f"{target}.attn_ln")
    if cross:
        found |= _linears(floats, f"{other}/linear_0", f"{target}.cross_attn", ("query",))
        found |= _linears(floats, f"{other}/linear_1", f"{target}.cross_attn", ("key", "value"))
        found |= _linears(floats, f"{other}/linear_2", f"{target}.cross_attn", ("out",))
        found |= _norm(floats, other, f"{target}.cross_attn_ln")
    wide, narrow = floats(f"{source}/ffn/linear_0/weight"), floats(f"{source}/ffn/linear_1/weight")
    missing = 4 * wide.shape[1] - wide.shape[0]
    found[f"{target}.mlp.0.weight"] = np.pad(wide, ((0, missing), (0, 0)))
    found[f"{target}.mlp.0.bias"] = np.pad(floats(f"{source}/ffn/linear_0/bias"), (0, missing))
    found[f"{target}.mlp.2.weight"] = np.pad(narrow, ((0, 0), (0, missing)))
    found[f"{target}.mlp.2.bias"] = floats(f"{source}/ffn/linear_1/bias")
    return found | _norm(floats, f"{source}/ffn", f"{target}.mlp_ln")


def _linears(floats: Reader, source: str, target: str, names: Sequence[str]) -> dict[str, Floats]:
    """One layer of CTranslate2 is one or several of the other's; its keys have no bias there."""
    found = {}
    parts = zip(
        np.split(floats(f"{source}/weight"), len(names)), np.split(floats(f"{source}/bias"), len(names)), strict=True
    )
    for name, (weight, bias) in zip(names, parts, strict=True):
        found[f"{target}.{name}.weight"] = weight
        if name != "key":
            found[f"{target}.{name}.bias"] = bias
    return found


def _norm(floats: Reader, source: str, target: str) -> dict[str, Floats]:
    return {f"{target}.{to}": floats(f"{source}/layer_norm/{part}") for part, to in NORMS.items()}


def layers(stored: dict[str, NDArray[np.generic]], half: str) -> int:
    return len({name.split("/")[1] for name in stored if name.startswith(f"{half}/layer_") and name.count("/") > 2})


def dimensions(stored: dict[str, NDArray[np.generic]]) -> dict[str, int]:
    """openai/whisper's ModelDimensions."""
    vocabulary, width = stored["decoder/embeddings/weight"].shape
    sizes = {"n_mels": stored["encoder/conv1/weight"].shape[1], "n_vocab": vocabulary}
    for half, name in (("encoder", "audio"), ("decoder", "text")):
        sizes |= {
            f"n_{name}_ctx": stored[f"{half}/position_encodings/encodings"].shape[0],
            f"n_{name}_state": width,
            f"n_{name}_head": int(stored[f"{half}/num_heads"]),
            f"n_{name}_layer": layers(stored, half),
        }
    return sizes


def alignment_heads(folder: Path) -> str:
    """As `--custom-alignment-heads` wants them: openai/whisper's packed mask."""
    sizes = dimensions(read(folder / "model.bin"))
    mask = np.zeros((sizes["n_text_layer"], sizes["n_text_head"]), np.bool_)
    for layer, head in json.loads((folder / "config.json").read_bytes())["alignment_heads"]:
        mask[layer, head] = True
    return base64.b85encode(gzip.compress(mask.tobytes(), mtime=0)).decode()


def save(folder: Path, target: Path) -> None:
    torch = importlib.import_module("torch")
    stored = read(folder / "model.bin")
    state = {name: torch.from_numpy(values.copy()) for name, values in weights(stored).items()}
    torch.save({"dims": dimensions(stored), "model_state_dict": state}, str(target))


if __name__ == "__main__":
    save(Path(sys.argv[1]), Path(sys.argv[2]))
