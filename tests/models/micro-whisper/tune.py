"""Makes the micro Whisper hear through telephone bandwidth, other sample rates and Opus.

The encoder alone is trained, and it learns from itself: what it made of the clean sound it must make of the same sound
after a channel, and the unchanged decoder must then say the same. So decoder, vocabulary and alignment heads stay
byte for byte, and no condition that worked is unlearned. Runs from the repository in the models environment:

    PYTHONPATH=. .venv-models/bin/python tests/models/micro-whisper/tune.py MODEL OUT --minutes 8

MODEL: folder with the CTranslate2 model; OUT: folder that gets the whole model with the new encoder.

Boundary: reads MODEL, writes OUT, speaks through libespeak-ng; two processes, three CPU threads. Voices m4, m8, f3 and
f5 are never used: tests hear them.
"""

import argparse
import io
import logging
import math
import multiprocessing
import random
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F
from faster_whisper.feature_extractor import FeatureExtractor
from tokenizers import Tokenizer

from tests.support import corpus
from tests.support.espeak import Espeak

log = logging.getLogger("tune")

RATE = 16_000
ENCODER_LAYERS, DECODER_LAYERS, HEADS = 3, 2, 4
POSITIONS = 1_500
"""Encoder positions of 30 s."""
TAIL_FRAMES = 200
"""Zeros behind a short window: the 2 s of parlance.json."""
SAMPLED = 24
"""Padding positions that stand for all of a 30 s window, weighted by their number: a sixth of the work."""
BATCH_S = 150
"""Sound in a batch, with padding."""
POOL = 5_000
BASES = ("en-us", "en-us", "en-us", "en", "en", "en-gb-x-rp", "en-us-nyc", "en-gb-scotland")
VARIANTS = ("", "", "+m1", "+m2", "+m3", "+m5", "+m6", "+m7", "+f1", "+f2", "+f4")
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32}
"""By the number in model.bin."""
STATES_WEIGHT = 0.5
"""Of the distance of the states, against that of the words: the states carry the word times."""

Wave = Any
Weights = dict[str, torch.Tensor]


class Variable(NamedTuple):
    shape: tuple[int, ...]
    dtype: int
    data: bytes


class Model:
    """The file model.bin of CTranslate2, version 6: variables in their order, and all else as it was."""

    def __init__(self, file: Path) -> None:
        self._bytes = file.read_bytes()
        self._at = 0
        self._take("I")
        self._string()
        self._take("I")
        count = self._take("I")
        self._head, self.variables = self._bytes[: self._at], {}
        for _ in range(count):
            name = self._string()
            shape = tuple(self._take("I") for _ in range(self._take("B")))
            dtype, size = self._take("B"), self._take("I")
            self.variables[name] = Variable(shape, dtype, self._bytes[self._at : self._at + size])
            self._at += size
        self._foot = self._bytes[self._at :]

    def weights(self) -> Weights:
        """All matrices and vectors as float32."""
        arrays = {
            name: np.frombuffer(v.data, DTYPES[v.dtype]).reshape(v.shape).astype(np.float32)
            for name, v in self.variables.items()
            if v.shape and v.dtype in (0, 1)
        }
        for name in [name for name in arrays if name.endswith("_scale")]:
            scale, of = arrays.pop(name), name.removesuffix("_scale")
            arrays[of] = arrays[of] / scale.reshape(-1, *[1] * (arrays[of].ndim - 1))
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def put(self, name: str, value: torch.Tensor) -> None:
        old, array = self.variables[name], value.detach().numpy().astype(np.float32)
        if old.dtype == 1:
            rows = array.reshape(len(array), -1)
            scale = (127 / np.abs(rows).max(1)).astype(np.float32)
            array = np.rint(rows * scale[:, None]).astype(np.int8)
            self.variables[f"{name}_scale"] = self.variables[f"{name}_scale"]._replace(data=scale.tobytes())
        self.variables[name] = old._replace(data=array.tobytes())

    def save(self, file: Path) -> None:
        parts = [self._head]
        for name, v in self.variables.items():
            parts.append(struct.pack("<H", len(name) + 1) + name.encode() + b"\0")
            parts.append(struct.pack(f"<B{len(v.shape)}IBI", len(v.shape), *v.shape, v.dtype, len(v.data)))
            parts.append(v.data)
        file.write_bytes(b"".join(parts) + self._foot)

    def _take(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self._bytes, self._at)
        self._at += struct.calcsize(code)
        return int(value)

    def _string(self) -> str:
        size = self._take("H")
        self._at += size
        return self._bytes[self._at - size : self._at - 1].decode()


# The network, as CTranslate2 names its weights


def linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[f"{name}/weight"], w[f"{name}/bias"])


def norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}/gamma"], w[f"{name}/beta"])


def heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    return F.scaled_dot_product_attention(heads(q), heads(k), heads(v), **options).transpose(1, 2).flatten(2)


def feed_forward(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    hidden = F.gelu(linear(w, f"{name}/linear_0", norm(w, f"{name}/layer_norm", x)))
    return x + linear(w, f"{name}/linear_1", hidden)


class Padding(NamedTuple):
    """`positions`: (n,) padding positions behind the sound that stand for the rest of 30 s; `weight`: log of how many
    each stands for."""

    positions: torch.Tensor
    weight: float


def encode(w: Weights, mel: torch.Tensor, padding: Padding | None) -> tuple[torch.Tensor, torch.Tensor]:
    """States (batch, positions, width) of mel (batch, 80, frames), and the bias that attention to them needs."""
    x = F.gelu(F.conv1d(mel, w["encoder/conv1/weight"], w["encoder/conv1/bias"], padding=1))
    x = F.gelu(F.conv1d(x, w["encoder/conv2/weight"], w["encoder/conv2/bias"], stride=2, padding=1)).transpose(1, 2)
    positions, bias = torch.arange(x.shape[1]), torch.zeros(x.shape[1])
    if padding is not None:  # behind the last frames, which are padding, nothing else follows
        x, positions, bias = x[:, :-2], positions[:-2], bias[:-2]
        x = torch.cat([x, x[:, -1:].expand(-1, len(padding.positions), -1)], 1)
        positions = torch.cat([positions, padding.positions])
        bias = torch.cat([bias, torch.full((len(padding.positions),), padding.weight)])
    x = x + w["encoder/position_encodings/encodings"][positions]
    for layer in range(ENCODER_LAYERS):
        name = f"encoder/layer_{layer}"
        q, k, v = linear(w, f"{name}/self_attention/linear_0", norm(w, f"{name}/self_attention/layer_norm", x)).chunk(
            3, -1
        )
        x = x + linear(w, f"{name}/self_attention/linear_1", attend(q, k, v, attn_mask=bias[None].to(q.dtype)))
        x = feed_forward(w, f"{name}/ffn", x)
    return norm(w, "encoder/layer_norm", x), bias


def decode(w: Weights, tokens: torch.Tensor, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Logits (batch, tokens, vocabulary)."""
    table = w["decoder/embeddings/weight"]
    x = table[tokens] + w["decoder/position_encodings/encodings"][: tokens.shape[1]]
    for layer in range(DECODER_LAYERS):
        name = f"decoder/layer_{layer}"
        q, k, v = linear(w, f"{name}/self_attention/linear_0", norm(w, f"{name}/self_attention/layer_norm", x)).chunk(
            3, -1
        )
        x = x + linear(w, f"{name}/self_attention/linear_1", attend(q, k, v, is_causal=True))
        q = linear(w, f"{name}/attention/linear_0", norm(w, f"{name}/attention/layer_norm", x))
        k, v = linear(w, f"{name}/attention/linear_1", states).chunk(2, -1)
        x = x + linear(w, f"{name}/attention/linear_2", attend(q, k, v, attn_mask=bias[None].to(q.dtype)))
        x = feed_forward(w, f"{name}/ffn", x)
    return norm(w, "decoder/layer_norm", x) @ table.T


# Sound


def resample(x: Wave, rate: int, to: int, edge: float = 0.92) -> Wave:
    """By the spectrum, with a soft end from `edge` to 1 of the band that both rates carry."""
    step = 2 * rate // math.gcd(rate, to)
    n = scipy.fft.next_fast_len((len(x) + 200) // step + 1) * step
    m = n * to // rate
    spectrum = scipy.fft.rfft(x, n)[: m // 2 + 1]
    bins = np.arange(len(spectrum)) / (min(n, m) / 2)
    spectrum *= (0.5 + 0.5 * np.cos(np.pi * np.clip((bins - edge) / (1 - edge), 0, 1))).astype(np.float32)
    return scipy.fft.irfft(spectrum, m).astype(np.float32)[: round(len(x) * to / rate)] * np.float32(to / rate)


def mulaw(x: Wave) -> Wave:
    """Through the 8 bits of G.711."""
    whole = np.clip(np.rint(x * 32_768), -32_635, 32_635).astype(np.int64)
    biased = np.abs(whole) + 132
    exponent = np.floor(np.log2(biased)).astype(np.int64) - 7
    back = ((((biased >> (exponent + 3)) & 15) << 3) + 132 << exponent) - 132
    return (np.sign(whole) * back / 32_768).astype(np.float32)


def opus(x: Wave, bit_rate: int) -> Wave:
    """Through Ogg Opus at 48 kHz."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as out:
        stream = out.add_stream("libopus", rate=48_000, layout="mono", bit_rate=bit_rate)
        data = np.clip(resample(x, RATE, 48_000) * 32_767, -32_768, 32_767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(data[None], format="s16", layout="mono")
        frame.sample_rate = 48_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as back:
        parts = [np.asarray(frame.to_ndarray(), np.float32).reshape(-1) for frame in back.decode(audio=0)]
    heard = resample(np.concatenate(parts), 48_000, RATE)[: len(x)]
    return np.pad(heard, (0, len(x) - len(heard)))


def noise(n: int, rng: np.random.Generator) -> Wave:
    """(n,) of power 1: white, soft or nearly pink."""
    x = rng.standard_normal(n, np.float32)
    kind = rng.integers(3)
    if kind == 1:
        x = np.convolve(x, np.ones(4, np.float32) / 2, "same")
    elif kind == 2:
        spectrum = scipy.fft.rfft(x)
        x = scipy.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) / len(spectrum) * 400 + 8), n)
    return (x / (x.std() + 1e-9)).astype(np.float32)


def channel(x: Wave, rng: random.Random) -> Wave:
    """What is left of a sound behind one of the ways to the server."""
    way, edge = rng.random(), rng.uniform(0.86, 0.98)
    if way < 0.45:
        rate = rng.choice((8_000,) * 7 + (11_025, 12_000))
        low = resample(x, RATE, rate, edge)
        if rate == 8_000 and rng.random() < 0.6:
            low = mulaw(low)
        back = resample(low, rate, RATE, rng.uniform(0.88, 0.98))[: len(x)]
        x = np.pad(back, (0, len(x) - len(back)))
    elif way < 0.70:
        x = resample(x, RATE, RATE, edge)
    elif way < 0.82:
        x = opus(x, rng.choice((24_000, 32_000, 48_000, 64_000)))
    return np.clip(np.rint(x * 32_768), -32_768, 32_767).astype(np.float32) / 32_768


# Windows


class Sentence(NamedTuple):
    """`ends`: sample behind each word."""

    audio: Any
    words: list[str]
    ends: list[int]


class Batch(NamedTuple):
    """`mask`: tokens whose successor counts."""

    clean: Any
    heard: Any
    tokens: Any
    mask: Any
    seconds: float


class Windows:
    """Endless batches of windows: clean and through a channel, and what the decoder says about them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._rng, self._noise = random.Random(seed), np.random.default_rng(seed)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._filters = torch.from_numpy(FeatureExtractor().mel_filters)
        self._id = self._tokenizer.token_to_id
        self._pool = list(self._speak())

    def _speak(self) -> Iterator[Sentence]:
        espeak, sentences, words = Espeak(), corpus.sentences(self._rng.randrange(10**9)), sorted(corpus.WORDS)
        for _ in range(POOL):
            text = next(sentences)
            if self._rng.random() < 0.25:
                text = " ".join(self._rng.sample(words, self._rng.randint(3, 7))).capitalize() + "."
            voice = self._rng.choice(BASES) + self._rng.choice(VARIANTS)
            speed, pitch = self._rng.randint(130, 210), self._rng.randint(30, 75)
            spoken = espeak.say(text, voice, speed=speed, pitch=pitch)
            audio = resample(spoken.samples.astype(np.float32), spoken.rate, RATE, self._rng.uniform(0.88, 0.98))
            audio *= self._rng.uniform(0.2, 0.9) / max(1.0, float(np.abs(audio).max()))
            ends = [round(word.end * RATE / spoken.rate) for word in spoken.words]
            yield Sentence(audio.astype(np.float16), text.split(), ends)

    def batches(self) -> Iterator[Batch]:
        while True:
            windows = sorted((self._window() for _ in range(160)), key=lambda window: len(window[0]))
            groups: list[list[Any]] = [[]]
            for window in windows:
                if (len(groups[-1]) + 1) * (len(window[0]) / RATE + TAIL_FRAMES / 100) > BATCH_S:
                    groups.append([])
                groups[-1].append(window)
            self._rng.shuffle(groups)
            yield from (self._batch(group) for group in groups)

    def _window(self) -> tuple[Wave, Wave, list[int]]:
        rng = self._rng
        kind = rng.random()
        count = 0 if kind < 0.06 else 1 if kind < 0.72 else rng.randint(2, 3) if kind < 0.92 else rng.randint(4, 9)
        parts = [np.zeros(int(rng.choice((0, rng.uniform(0, 0.7))) * RATE), np.float32)]
        n, said = len(parts[0]), []
        for number in range(count):
            sentence = rng.choice(self._pool)
            if n + len(sentence.audio) > 29 * RATE:
                break
            said.append((n, sentence))
            gap = np.zeros(int(rng.uniform(0, 1.2) * RATE), np.float32)
            parts += [sentence.audio.astype(np.float32), gap]
            n += len(sentence.audio) + len(gap)
            if number == count - 1 and rng.random() < 0.4:
                n = int(said[-1][0] + rng.uniform(0.1, 1) * len(sentence.audio))
        if not said:
            n = int(rng.uniform(0.3, 4) * RATE)
        x = np.concatenate(parts)[:n]
        x = np.pad(x, (0, n - len(x))) + noise(n, self._noise) * 10 ** (rng.uniform(-90, -65) / 20)
        gain = 10 ** (rng.uniform(-12, 3) / 20)
        heard = x
        if rng.random() < 0.5:
            level = rng.choice((0.01, 0.1, 0.3)) if not said else 0.08 * 10 ** (-rng.uniform(10, 45) / 20)
            heard = x + noise(n, self._noise) * level
        clean = np.clip(x * gain, -1, 1).astype(np.float32)
        return clean, channel(np.clip(heard * gain, -1, 1).astype(np.float32), rng), self._tokens(said, n)

    def _tokens(self, said: list[tuple[int, Sentence]], n: int) -> list[int]:
        first = self._id("<|0.00|>")
        stamped = self._rng.random() < 0.35
        tokens = [self._id("<|startoftranscript|>")]
        if not stamped:
            tokens.append(self._id("<|notimestamps|>"))
        for start, sentence in said:
            words = [w for w, end in zip(sentence.words, sentence.ends, strict=False) if start + end <= n + 500]
            if not words:
                continue
            spoken = self._tokenizer.encode(" " + " ".join(words)).ids
            end = min(start + sentence.ends[len(words) - 1], n)
            edges = [[first + round(at / RATE / 0.02)] if stamped else [] for at in (start, end)]
            tokens += edges[0] + spoken + edges[1]
        return tokens

    def _batch(self, windows: list[tuple[Wave, Wave, list[int]]]) -> Batch:
        frames = (max(len(clean) for clean, _, _ in windows) + 160) // 160
        width = max(len(tokens) for _, _, tokens in windows)
        tokens = torch.full((len(windows), width), self._id("<|endoftext|>"))
        mask = torch.zeros(len(windows), width)
        for row, (_, _, ids) in enumerate(windows):
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        silent = self._rng.random() < 0.3
        clean, heard = (self._mel([w[k] for w in windows], frames + frames % 2, silent) for k in (0, 1))
        return Batch(clean.numpy(), heard.numpy(), tokens.numpy(), mask.numpy(), frames * len(windows) / 100)

    def _mel(self, waves: list[Wave], frames: int, silent: bool) -> torch.Tensor:
        """(batch, 80, frames + TAIL_FRAMES), normalised as Whisper does; padded with 0.0, or with silence."""
        x = torch.zeros(len(waves), frames * 160 + 400)
        for row, samples in enumerate(waves):
            x[row, : len(samples)] = torch.from_numpy(samples)
        power = torch.stft(x, 400, 160, window=torch.hann_window(400), return_complex=True)[..., :-1].abs() ** 2
        logs = (self._filters @ power).clamp(min=1e-10).log10()
        mel = torch.zeros(len(waves), 80, frames + TAIL_FRAMES)
        for row, samples in enumerate(waves):
            own = logs[row, :, : (len(samples) + 160) // 160]
            floor = own.max() - 8
            mel[row] = max(-10.0, float(floor)) / 4 + 1 if silent else 0.0
            mel[row, :, : own.shape[1]] = (torch.maximum(own, floor) + 4) / 4
        return mel[..., :3_000]


def work(folder: Path, seed: int, queue: Any) -> None:
    torch.set_num_threads(1)
    for batch in Windows(folder, seed).batches():
        queue.put(batch)


# Training


def losses(student: Weights, teacher: Weights, batch: Batch, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the states are from the teacher's (1.0: as far as their mean), and the words (nats per token)."""
    clean, heard, tokens, mask = map(torch.from_numpy, batch[:4])
    padding, frames = None, clean.shape[2] - TAIL_FRAMES
    if rng.random() < 0.5 and clean.shape[2] < 2 * POSITIONS:
        clean, heard = (mel[..., : frames + 28] for mel in (clean, heard))
        first = frames // 2 + 12
        sampled = sorted(rng.sample(range(first, POSITIONS), SAMPLED))
        padding = Padding(torch.tensor(sampled), math.log((POSITIONS - first) / SAMPLED))
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            wanted, bias = encode(teacher, clean, padding)
            aims = decode(teacher, tokens, wanted, bias).float().log_softmax(-1)
        states, _ = encode(student, heard, padding)
        said = decode(teacher, tokens, states, bias).float().log_softmax(-1)
    wanted, states = wanted.float(), states.float()
    far = (states - wanted).square().mean() / wanted.var((0, 1)).mean()
    words = (F.kl_div(said, aims, log_target=True, reduction="none").sum(-1) * mask).sum() / mask.sum()
    return far, words


def tune(folder: Path, start_from: Path, out: Path, minutes: float, rate: float, seed: int) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(6)
    worker = context.Process(target=work, args=(folder, seed, queue), daemon=True)
    worker.start()
    model = Model(folder / "model.bin")
    teacher = model.weights()
    known = Model(start_from / "model.bin").weights()
    student = {name: w for name, w in known.items() if name.startswith("encoder/")}
    trained = {name: w.requires_grad_() for name, w in student.items() if "position" not in name}
    mean = {name: w.detach().clone() for name, w in trained.items()}
    optimiser = torch.optim.AdamW(trained.values(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    rng, step, shown = random.Random(seed), 0, [1.0, 1.0]
    batch = queue.get()
    start = saved = time.monotonic()
    while (done := (time.monotonic() - start) / 60 / minutes) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * done))
        far, words = losses(student, teacher, batch, rng)
        (STATES_WEIGHT * far + words).backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        with torch.no_grad():
            for name, w in trained.items():
                mean[name].lerp_(w, 1 - min(0.99, step / (step + 10)))
        shown = [0.95 * old + 0.05 * new for old, new in zip(shown, (far.item(), words.item()), strict=True)]
        if step % 25 == 0:
            log.info("%3.0f%% step %d states %.3f words %.4f queue %d", 100 * done, step, *shown, queue.qsize())
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            save(model, mean, folder, out)
        batch = queue.get()
    worker.terminate()
    save(model, mean, folder, out)


def save(model: Model, weights: Weights, folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.name != "model.bin" and file.resolve() != (out / file.name).resolve():
            shutil.copyfile(file, out / file.name)
    for name, value in weights.items():
        model.put(name, value)
    model.save(out / "model.bin")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, help="folder with an earlier OUT to go on from; MODEL still teaches")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--rate", type=float, default=8e-4, help="learning rate at its highest")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(2)
    tune(options.model, options.start or options.model, options.out, options.minutes, options.rate, options.seed)


if __name__ == "__main__":
    main()
