"""The training: losses, optimiser, checkpoints.

Wanted are the words (cross entropy), the phoneme at each position of the encoder, and that two heads of the decoder
look at the frames of the word they are about to write: that is what makes word times right. What is kept is the moving
mean of the weights.

Boundary: one process besides this one makes the batches.
"""

import logging
import math
import multiprocessing
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from .layout import Table
from .network import CONSTANT, PHONEME, Weights, decode, encode, linear, pinned
from .windows import IGNORED, Batch, Windows

log = logging.getLogger("train")

MEAN_DECAY = 0.998
QUEUE = 6
SAVE_S, LOG_STEPS = 120, 25


class Plan(NamedTuple):
    """`steps`: in all, those of earlier runs included, the first `early` of them on short and mostly clean windows;
    `rate`: learning rate at its highest; `german`: share of German speech."""

    steps: int
    early: int
    rate: float
    seed: int
    german: float


class Losses(NamedTuple):
    """`right`: share of wanted tokens that were the most probable."""

    words: torch.Tensor
    phonemes: torch.Tensor
    looks: torch.Tensor
    right: torch.Tensor


def losses(w: Weights, batch: Batch) -> Losses:
    with torch.autocast("cpu", torch.bfloat16):
        encoded = encode(w, batch.mel, whole=batch.whole)
        logits, looks = decode(w, batch.tokens, encoded)
        guesses = linear(w, PHONEME, encoded.states[:, : encoded.real])
    counted = batch.wanted != IGNORED
    words = F.cross_entropy(logits.float()[counted], batch.wanted[counted], label_smoothing=0.02)
    aims = batch.phonemes[:, : encoded.real]
    weight = torch.where(aims > 0, 1.0, 0.3)
    single = F.cross_entropy(guesses.float().flatten(0, 1), aims.flatten(), reduction="none")
    phonemes = (single * weight.flatten()).sum() / weight.sum()
    position = encoded.positions[: encoded.real].float()
    inside = (position >= batch.spans[..., :1]) & (position <= batch.spans[..., 1:])
    inside &= batch.spans[..., 1:] > 0
    count = inside.sum(-1)[:, None]
    far = -(inside[:, None] * looks[..., : encoded.real].clamp(min=-12)).sum(-1) / count.clamp(min=1)
    far = (far - count.clamp(min=1).log()) * (count > 0)
    right = (logits.argmax(-1) == batch.wanted)[counted].float().mean()
    return Losses(words, phonemes, far.sum() / ((count > 0).sum() * far.shape[1]).clamp(min=1), right)


def supply(genuine: Path, seed: int, german: float, early: Any, queue: Any) -> None:
    torch.set_num_threads(1)
    windows = Windows(Table(genuine), seed, german)
    for batch in windows.batches():
        windows.early = bool(early.value)
        queue.put(tuple(part.numpy() if isinstance(part, torch.Tensor) else part for part in batch))


class Training:
    """`weights`: where it starts; `mean`: what it has become. A checkpoint holds all that going on needs."""

    def __init__(self, weights: Weights, table: Table) -> None:
        self._table = table
        self.weights = weights
        self.trained = {name: w.requires_grad_() for name, w in weights.items() if name not in CONSTANT}
        self.mean: Weights = {name: w.detach().clone() for name, w in self.trained.items()}
        matrices = [w for w in self.trained.values() if w.dim() > 1]
        vectors = [w for w in self.trained.values() if w.dim() == 1]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.steps = 0

    def load(self, file: Path) -> None:
        state = torch.load(file)
        with torch.no_grad():
            for name, w in self.trained.items():
                w.copy_(state["weights"][name])
        self.mean, self.steps = state["mean"], state["steps"]
        self._optimiser.load_state_dict(state["optimiser"])

    def save(self, file: Path) -> None:
        state = {
            "weights": {name: w.detach() for name, w in self.trained.items()},
            "mean": self.mean,
            "optimiser": self._optimiser.state_dict(),
            "steps": self.steps,
        }
        part = file.with_suffix(".part")
        torch.save(state, part)
        part.replace(file)

    @property
    def result(self) -> Weights:
        constant = {name: self.weights[name] for name in CONSTANT}
        return pinned({**self.mean, **constant}, self._table)

    def run(self, genuine: Path, file: Path, plan: Plan) -> None:
        """Leaves a checkpoint, also when it is interrupted."""
        context = multiprocessing.get_context("spawn")
        queue, early = context.Queue(QUEUE), context.Value("b", self.steps < plan.early)
        worker = context.Process(
            target=supply, args=(genuine, plan.seed + self.steps, plan.german, early, queue), daemon=True
        )
        worker.start()
        try:
            self._loop(queue, early, file, plan)
        finally:
            worker.terminate()
            worker.join()
            self.save(file)

    def _loop(self, queue: Any, early: Any, file: Path, plan: Plan) -> None:
        begin, saved = self.steps, time.monotonic()
        shown: list[float] = []
        while self.steps < plan.steps:
            batch = received(queue)
            warm = min(1.0, (self.steps - begin + 1) / 80)
            done = self.steps / plan.steps
            decay = 1.0 if done < 0.4 else max(0.02, 0.5 + 0.5 * math.cos(math.pi * (done - 0.4) / 0.6))
            for group in self._optimiser.param_groups:
                group["lr"] = plan.rate * warm * decay
            found = losses(self.weights, batch)
            guided = 0.5 if done < 0.7 else 0.3
            (found.words + guided * found.phonemes + guided * found.looks).backward()
            torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
            self._optimiser.step()
            self._optimiser.zero_grad()
            pinned(self.weights, self._table)
            self.steps += 1
            with torch.no_grad():
                share = 1 - min(MEAN_DECAY, self.steps / (self.steps + 20))
                torch._foreach_lerp_(list(self.mean.values()), list(self.trained.values()), share)
            values = [value.item() for value in found]
            shown = values if not shown else [0.95 * old + 0.05 * new for old, new in zip(shown, values, strict=True)]
            early.value = self.steps < plan.early
            if self.steps % LOG_STEPS == 0:
                log.info(
                    "step %d of %d: words %.3f phonemes %.3f looks %.3f right %.3f", self.steps, plan.steps, *shown
                )
            if time.monotonic() - saved > SAVE_S:
                saved = time.monotonic()
                self.save(file)


def received(queue: Any) -> Batch:
    parts = queue.get()
    return Batch(*(torch.from_numpy(part) for part in parts[:-1]), parts[-1])
