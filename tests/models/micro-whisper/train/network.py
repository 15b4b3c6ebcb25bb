"""Whisper's network as functions of its weights, named as CTranslate2 names them.

Two things make the training cheap. Of the padding up to 30 s only some positions are computed; in every attention each
counts for as many as it stands for. And the positions of the decoder and the timestamps' rows are sinusoids times a
learnt matrix, so that each is learnt from all.

Pure: weights and a batch in, numbers out.
"""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .layout import ALIGNMENT_HEADS, HEADS, STAMPS, UNKNOWN, UNUSED, Table
from .speech import PHONEMES

POSITIONS, PLACES = 1_500, 448
STAMP_MATRIX, PLACE_MATRIX = "train/stamps", "train/places"
SINUSOID = "train/sinusoid"
PHONEME = "train/phonemes"
CONSTANT = ("encoder/position_encodings/encodings", SINUSOID)
SAMPLED = 24
BLOCK, HALO, FAR = 128, 32, 64
NEAR_ALL = 300
"""Positions from which on an attention is sampled; `BLOCK` queries share their keys."""
SHIFTS = ((-1, 1, -3, 3), (-2, 2, -6, 6), (-4, 4, 0, 12))
"""Positions by which the heads of the first encoder layers look aside before they have learnt anything."""
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32}

Weights = dict[str, torch.Tensor]


class Size(NamedTuple):
    width: int = 128
    inner: int = 384
    encoder: int = 3
    decoder: int = 2


def shapes(size: Size, tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    d, inner = size.width, size.inner
    yield from (("encoder/conv1/weight", (d, 80, 3)), ("encoder/conv1/bias", (d,)))
    yield from (("encoder/conv2/weight", (d, d, 3)), ("encoder/conv2/bias", (d,)))
    for part, layers in (("encoder", size.encoder), ("decoder", size.decoder)):
        for layer in range(layers):
            name = f"{part}/layer_{layer}"
            blocks = [(f"{name}/self_attention", ((3 * d, d), (d, d)))]
            if part == "decoder":
                blocks.append((f"{name}/attention", ((d, d), (2 * d, d), (d, d))))
            blocks.append((f"{name}/ffn", ((inner, d), (d, inner))))
            for block, matrices in blocks:
                yield from ((f"{block}/layer_norm/gamma", (d,)), (f"{block}/layer_norm/beta", (d,)))
                for i, shape in enumerate(matrices):
                    yield from ((f"{block}/linear_{i}/weight", shape), (f"{block}/linear_{i}/bias", shape[:1]))
        yield from ((f"{part}/layer_norm/gamma", (d,)), (f"{part}/layer_norm/beta", (d,)))
    yield from (("decoder/embeddings/weight", (tokens, d)), (STAMP_MATRIX, (d, d)), (PLACE_MATRIX, (d, d)))
    yield from (("encoder/position_encodings/encodings", (POSITIONS, d)), (SINUSOID, (len(STAMPS), d)))
    yield from ((f"{PHONEME}/weight", (PHONEMES, d)), (f"{PHONEME}/bias", (PHONEMES,)))


def sinusoid(n: int, width: int) -> torch.Tensor:
    rates = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(n)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def fresh(size: Size, table: Table) -> Weights:
    """Weights that have learnt nothing; the encoder's heads look aside by `SHIFTS`."""
    weights: Weights = {}
    for name, shape in shapes(size, table.first_stamp):
        if name.endswith("gamma"):
            weights[name] = torch.ones(shape)
        elif name in CONSTANT:
            weights[name] = sinusoid(*shape)
        elif len(shape) == 1:
            weights[name] = torch.zeros(shape)
        elif len(shape) == 3:
            weights[name] = torch.nn.init.kaiming_normal_(torch.empty(shape))
        elif name in (STAMP_MATRIX, PLACE_MATRIX):
            weights[name] = 0.13 * torch.eye(shape[0]) + 0.005 * torch.randn(shape)
        elif name == "decoder/embeddings/weight":
            weights[name] = 0.08 * torch.randn(shape)
        else:
            parts = torch.empty(shape).split(size.width) if "attention" in name else (torch.empty(shape),)
            weights[name] = torch.cat([torch.nn.init.xavier_uniform_(part) for part in parts])
    for layer in range(size.encoder):
        q, k, v = weights[f"encoder/layer_{layer}/self_attention/linear_0/weight"].split(size.width)
        aside = [looking_aside(shift, size.width) for shift in SHIFTS[layer % len(SHIFTS)]]
        joint = torch.cat([0.3 * q + torch.cat([a for a, _ in aside]), 0.3 * k + torch.cat([b for _, b in aside]), v])
        weights[f"encoder/layer_{layer}/self_attention/linear_0/weight"] = joint
    return pinned(weights, table)


def looking_aside(shift: int, width: int, strength: float = 1.6) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key of one head that attends `shift` positions away, by the positions' sinusoids."""
    half, depth = width // 2, width // HEADS
    q, k = torch.zeros(depth, width), torch.zeros(depth, width)
    for i in range(depth // 2):
        angle = shift * math.exp(-math.log(10_000) / (half - 1) * i)
        k[i, i] = k[depth // 2 + i, half + i] = 1
        q[i, i] = q[depth // 2 + i, half + i] = math.cos(angle)
        q[i, half + i], q[depth // 2 + i, i] = math.sin(angle), -math.sin(angle)
    return strength * q, strength * k


def pinned(weights: Weights, table: Table) -> Weights:
    """Hold the last channel behind the decoder at 1, so that a row can say no to being predicted."""
    with torch.no_grad():
        weights["decoder/layer_norm/gamma"][-1] = 0
        weights["decoder/layer_norm/beta"][-1] = 1
        weights["decoder/embeddings/weight"][table.number[UNKNOWN]] = 0
        weights["decoder/embeddings/weight"][table.number[UNKNOWN], -1] = UNUSED
    return weights


def started(size: Size, table: Table, folders: list[Path]) -> Weights:
    """Fresh weights, with what the models in `folders` know; a later folder only adds tokens. A layer that they have
    not begins as one that changes nothing."""
    weights = fresh(size, table)
    rows = weights["decoder/embeddings/weight"]
    found: set[str] = set()
    for number, folder in enumerate(folders):
        model = stored(folder / "model.bin")
        place = {name: i for i, name in enumerate(json.loads((folder / "vocabulary.json").read_text()))}
        embeddings = model.pop("decoder/embeddings/weight")
        for token, name in enumerate(table.names[: table.first_stamp]):
            if name in place and name not in found and embeddings[place[name], -1] > UNUSED / 2:
                rows[token] = embeddings[place[name]]
                found.add(name)
        if number == 0:
            at = place[STAMPS[0]]
            for matrix, target in (
                (STAMP_MATRIX, embeddings[at : at + len(STAMPS)]),
                (PLACE_MATRIX, model["decoder/position_encodings/encodings"]),
            ):
                known = sinusoid(len(target), size.width).double().numpy()  # nearly dependent: float32 fails
                solution = np.linalg.lstsq(known, target.double().numpy(), rcond=1e-4)[0]
                weights[matrix] = torch.from_numpy(solution).float()
            weights.update({name: value for name, value in model.items() if name in weights})
            for name, value in weights.items():
                if name not in model and name.split("/")[1].startswith("layer_") and ends_block(name):
                    value.zero_()
    return pinned(weights, table)


def ends_block(name: str) -> bool:
    """A matrix whose product is added to the stream."""
    *_, block, matrix, kind = name.split("/")
    last = {"self_attention": "linear_1", "attention": "linear_2", "ffn": "linear_1"}
    return kind == "weight" and last.get(block) == matrix


def stored(file: Path) -> Weights:
    """All matrices and vectors of a model.bin of CTranslate2, version 6, as float32."""
    data, at = file.read_bytes(), 0

    def take(code: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize(code)
        return int(value)

    def text() -> str:
        nonlocal at
        size = take("H")
        at += size
        return data[at - size : at - 1].decode()

    take("I"), text(), take("I")
    arrays: dict[str, np.ndarray] = {}
    for _ in range(take("I")):
        name = text()
        shape = tuple(take("I") for _ in range(take("B")))
        dtype, size = DTYPES[take("B")], take("I")
        if shape:
            arrays[name] = np.frombuffer(data[at : at + size], dtype).reshape(shape).astype(np.float32)
        at += size
    for name in [name for name in arrays if name.endswith("_scale")]:
        scale, of = arrays.pop(name), name.removesuffix("_scale")
        arrays[of] = arrays[of] / scale.reshape(-1, *[1] * (arrays[of].ndim - 1))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[f"{name}/weight"], w[f"{name}/bias"])


def norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}/gamma"], w[f"{name}/beta"])


def heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def joined(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


def feed_forward(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    hidden = F.gelu(linear(w, f"{name}/linear_0", norm(w, f"{name}/layer_norm", x)))
    return x + linear(w, f"{name}/linear_1", hidden)


def layers(w: Weights, part: str) -> list[str]:
    return sorted(
        {
            "/".join(name.split("/")[:2])
            for name in w
            if name.startswith(f"{part}/layer_") and "norm" not in name.split("/")[1]
        }
    )


class Encoded(NamedTuple):
    """`states`: (batch, positions, width); `positions`: where each stands in the window; `bias`: log of how many it
    stands for; `real`: how many of them are no samples of the padding."""

    states: torch.Tensor
    positions: torch.Tensor
    bias: torch.Tensor
    real: int


def encode(w: Weights, mel: torch.Tensor, *, whole: bool, generator: torch.Generator | None = None) -> Encoded:
    """`mel`: (batch, 80, frames); `whole`: its last frames are padding that goes on up to 30 s."""
    x = F.gelu(F.conv1d(mel, w["encoder/conv1/weight"], w["encoder/conv1/bias"], padding=1))
    x = F.gelu(F.conv1d(x, w["encoder/conv2/weight"], w["encoder/conv2/bias"], stride=2, padding=1)).transpose(1, 2)
    x = x[:, :POSITIONS]
    real = x.shape[1]
    positions, bias = torch.arange(real), torch.zeros(real)
    if whole and real < POSITIONS - SAMPLED:
        real -= 2  # behind the last frames nothing follows: they are not as the padding within
        rest = POSITIONS - real
        sampled = torch.randperm(rest, generator=generator)[:SAMPLED].sort().values + real
        x = torch.cat([x[:, :real], x[:, real - 1 : real].expand(-1, SAMPLED, -1)], 1)
        positions = torch.cat([positions[:real], sampled])
        bias = torch.cat([bias[:real], torch.full((SAMPLED,), math.log(rest / SAMPLED))])
    x = x + w["encoder/position_encodings/encodings"][positions]
    for name in layers(w, "encoder"):
        attention = f"{name}/self_attention"
        q, k, v = linear(w, f"{attention}/linear_0", norm(w, f"{attention}/layer_norm", x)).chunk(3, -1)
        seen = attended(heads(q), heads(k), heads(v), bias)
        x = feed_forward(w, f"{name}/ffn", x + linear(w, f"{attention}/linear_1", joined(seen)))
    return Encoded(norm(w, "encoder/layer_norm", x), positions, bias, real)


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Attention of (batch, heads, positions, depth) to all positions; in a long window to the ones around and to some
    of the others, each of which counts for as many as it stands for: three quarters of the training were attention."""
    n = q.shape[2]
    if n < NEAR_ALL:
        mask = bias.to(q.dtype)
        return softmax_attention(q, k, v, mask)
    blocks = -(-n // BLOCK)
    starts = (torch.arange(blocks) * BLOCK).clamp(max=n - BLOCK)
    near = starts[:, None] + torch.arange(-HALO, BLOCK + HALO)
    far = torch.randint(0, n, (blocks, FAR))
    outside = (far < near[:, :1]) | (far > near[:, -1:])
    inside = (near >= 0) & (near < n)
    keys = torch.cat([near.clamp(0, n - 1), far], 1)
    weight = torch.log((n - inside.sum(1, keepdim=True)) / outside.sum(1, keepdim=True).clamp(min=1).float())
    own = torch.cat([torch.where(inside, 0.0, -1e4), torch.where(outside, weight, -1e4)], 1)
    mask = (own + bias[keys])[:, None, None, None].to(q.dtype)
    queries = starts[:, None] + torch.arange(BLOCK)

    def picked(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x[:, :, index.flatten()].unflatten(2, index.shape).permute(2, 0, 1, 3, 4)

    seen = softmax_attention(picked(q, queries), picked(k, keys), picked(v, keys), mask)
    seen = seen.permute(1, 2, 0, 3, 4)
    whole = seen[:, :, :-1].flatten(2, 3)
    return torch.cat([whole, seen[:, :, -1, whole.shape[2] - n :]], 2)


def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-1, -2) + mask
    return scores.softmax(-1).to(v.dtype) @ v


def rows(w: Weights) -> torch.Tensor:
    """All tokens' rows, timestamps included."""
    return torch.cat([w["decoder/embeddings/weight"], waves(w, STAMP_MATRIX, len(STAMPS))])


def waves(w: Weights, matrix: str, count: int) -> torch.Tensor:
    """Sinusoids times a learnt matrix, in full precision."""
    with torch.autocast("cpu", enabled=False):
        return w[SINUSOID][:count] @ w[matrix]


def decode(w: Weights, tokens: torch.Tensor, encoded: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (batch, tokens, vocabulary), and how the heads for the alignment look at the positions: log
    probabilities (batch, heads, tokens, positions)."""
    table = rows(w)
    x = F.embedding(tokens, table) + waves(w, PLACE_MATRIX, tokens.shape[1])
    looks = x
    names = layers(w, "decoder")
    for name in names:
        attention = f"{name}/self_attention"
        q, k, v = linear(w, f"{attention}/linear_0", norm(w, f"{attention}/layer_norm", x)).chunk(3, -1)
        seen = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=True)
        x = x + linear(w, f"{attention}/linear_1", joined(seen))
        attention = f"{name}/attention"
        q = heads(linear(w, f"{attention}/linear_0", norm(w, f"{attention}/layer_norm", x)))
        k, v = (heads(part) for part in linear(w, f"{attention}/linear_1", encoded.states).chunk(2, -1))
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=encoded.bias[None].to(q.dtype))
        if name == names[-1]:
            q, k = q[:, :ALIGNMENT_HEADS], k[:, :ALIGNMENT_HEADS]
            scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1]) + encoded.bias
            looks = scores.log_softmax(-1)
        x = feed_forward(w, f"{name}/ffn", x + linear(w, f"{attention}/linear_2", joined(seen)))
    return norm(w, "decoder/layer_norm", x) @ table.T.to(x.dtype), looks


def finished(w: Weights) -> dict[str, np.ndarray]:
    """The weights that CTranslate2 wants."""
    whole = {name: value for name, value in w.items() if not name.startswith("train/")}
    whole["decoder/embeddings/weight"] = rows(w)
    whole["decoder/position_encodings/encodings"] = waves(w, PLACE_MATRIX, PLACES)
    return {name: value.detach().float().numpy() for name, value in whole.items()}
