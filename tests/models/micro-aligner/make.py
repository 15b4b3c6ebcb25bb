"""Make the micro aligner: a Wav2Vec2 so small that tests can carry it, taught where espeak-ng's words begin.

    nice -n 15 .venv-models/bin/python tests/models/micro-aligner/make.py FOLDER [SECONDS]

Needs torch and transformers (the models environment) and libespeak-ng. Real Wav2Vec2ForCTC architecture, so whisperx
loads and runs it as it does its own. Each letter is taught at one frame of its word (the first at the word's first
frame, "|" where the word ends), because that is what whisperx' trellis reads: a letter where it changes, blank else.
"""

import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.support.corpus import WORDS, sentences  # noqa: E402
from tests.support.espeak import Espeak, Spoken  # noqa: E402

RATE = 16_000
FRAME = 320
"""Samples between two outputs: the product of the strides."""
SYMBOLS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz", "'"]
CODES = {symbol: code for code, symbol in enumerate(SYMBOLS)}
VOICES = ("en-us", "en", "en-gb-x-rp", "en-us-nyc", "en-gb-scotland")
VARIANTS = ("", "+m1", "+m2", "+m3", "+m5", "+m6", "+m7", "+f1", "+f2", "+f4")
"""m4, m8, f3 and f5 are left out: what is measured is measured with them."""
UTTERANCES = 3_000
BATCH = 6
CPU_S = 480


def config() -> Wav2Vec2Config:
    return Wav2Vec2Config(
        vocab_size=len(SYMBOLS), hidden_size=144, num_hidden_layers=4, num_attention_heads=4, intermediate_size=432,
        conv_dim=(32, 32, 48, 48, 64, 96, 144), conv_stride=(5, 2, 2, 2, 2, 2, 2), conv_kernel=(10, 3, 3, 3, 3, 2, 2),
        num_conv_pos_embeddings=15, num_conv_pos_embedding_groups=4, feat_extract_norm="group", conv_bias=False,
        hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0,
        layerdrop=0.0, apply_spec_augment=False, do_stable_layer_norm=False, pad_token_id=0,
    )  # fmt: skip


def resampled(spoken: Spoken) -> np.ndarray:
    from scipy.signal import resample_poly

    return np.asarray(resample_poly(spoken.samples.astype(np.float32) / 32_768, 320, 441), np.float32)


def corpus(rng: random.Random) -> list[tuple[np.ndarray, list[tuple[str, int, int]]]]:
    """(samples, [(letters, first sample, past the last)]): half sentences, half words in any order."""
    voice_machine = Espeak()
    words = sorted(WORDS)
    grammar = sentences(7)
    made = []
    for number in range(UTTERANCES):
        text = next(grammar) if number % 2 else " ".join(rng.sample(words, rng.randint(2, 7)))
        voice = rng.choice(VOICES) + rng.choice(VARIANTS)
        spoken = voice_machine.say(text, voice, speed=rng.randint(135, 205), pitch=rng.randint(32, 72))
        scale = RATE / spoken.rate
        placed = [
            ("".join(c for c in w.text.lower() if c in CODES), round(w.start * scale), round(w.end * scale))
            for w in spoken.words
        ]
        made.append((resampled(spoken), placed))
    return made


def example(rng: random.Random, made: list) -> tuple[np.ndarray, np.ndarray]:
    """A window of one to three utterances with silence between, some noise, any level; a symbol for each frame."""
    pieces: list[np.ndarray] = []
    placed: list[tuple[str, int, int]] = []
    at = 0
    for _ in range(rng.choice((1, 1, 2))):
        pause = np.zeros(rng.randint(0, 8_000), np.float32)
        samples, words = rng.choice(made)
        pieces += [pause, samples]
        at += len(pause)
        placed += [(letters, at + start, at + end) for letters, start, end in words]
        at += len(samples)
    pieces.append(np.zeros(rng.randint(400, 4_000), np.float32))
    audio = np.concatenate(pieces) * 10 ** (rng.uniform(-16, 3) / 20)
    level = rng.choice((0.0, 10 ** rng.uniform(-4.5, -2.3)))
    audio = audio + np.float32(level) * np.random.default_rng(rng.getrandbits(32)).standard_normal(
        len(audio), np.float32
    )
    frames = (len(audio) - 400) // FRAME + 1
    target = np.zeros(frames, np.int64)
    for letters, start, end in placed:
        first, last = start / FRAME, end / FRAME
        if round(last) < frames:
            target[round(last) - 1] = CODES["|"]
        for number, letter in enumerate(letters):
            frame = round(first + (last - first) * number / len(letters))
            if frame < frames:
                target[frame] = CODES[letter]
    return audio, target


def batch(rng: random.Random, made: list) -> tuple[torch.Tensor, torch.Tensor]:
    examples = [example(rng, made) for _ in range(BATCH)]
    longest = max(len(audio) for audio, _ in examples)
    frames = (longest - 400) // FRAME + 1
    audio = np.zeros((BATCH, longest), np.float32)
    target = np.zeros((BATCH, frames), np.int64)
    for row, (samples, symbols) in enumerate(examples):
        audio[row, : len(samples)] = samples
        target[row, : len(symbols)] = symbols
    return torch.from_numpy(audio), torch.from_numpy(target)


def train(model: Wav2Vec2ForCTC, made: list, rng: random.Random, seconds: float) -> None:
    weight = torch.ones(len(SYMBOLS))
    weight[0] = 0.3  # most frames are blank
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    began, step = time.process_time(), 0
    shown = 0.0
    while (passed := (time.process_time() - began) / seconds) < 1:
        rate = 2e-3 * min(1.0, (step + 1) / 60) * min(1.0, (1 - passed) * 2 + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = rate
        audio, target = batch(rng, made)
        logits = model(audio).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        shown = 0.98 * shown + 0.02 * loss.item() if step else loss.item()
        if step % 20 == 0:
            sys.stdout.write(f"{passed:5.1%} step {step} loss {shown:.3f}\n")
            sys.stdout.flush()
        step += 1


def save(model: Wav2Vec2ForCTC, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps(CODES))
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary), do_lower_case=True)
    extractor = Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=RATE, padding_value=0.0, do_normalize=False)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    model.half().save_pretrained(folder, safe_serialization=True)


def main(folder: str, seconds: float = CPU_S) -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    rng = random.Random(1)
    model = Wav2Vec2ForCTC(config())
    sys.stdout.write(f"{sum(p.numel() for p in model.parameters()):,} parameters\n")
    train(model.train(), corpus(rng), rng, seconds)
    save(model.eval(), Path(folder))


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:3]))
