"""What everybody else runs, as a yardstick: a loop that decodes the last 30 s of each stream, padded to 30 s, once a
second, behind one lock.

Greedy, without timestamps, alignment or second tries, which is less than those servers do (`transcribe` of
faster-whisper decodes with five beams); the same model, the same library, the same number of threads as our engine.
Nothing is paced: what counts is the CPU of a decode, and whether a second is long enough for it.

Boundary: `measure` runs `python -m bench.baseline` with the worker's variables, so that both allocate alike.
"""

import asyncio
import contextlib
import os
import sys
import threading
import time
from pathlib import Path

import ctranslate2
import msgspec
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer

from bench import shapes
from bench.mirror import mirrored
from bench.report import ROOT
from bench.speech import Clip
from server.workers.engines import SETTINGS
from server.workers.program import worker_environment
from streaming.model import SAMPLE_RATE

WINDOW_S, EVERY_S = 30, 1
MEL_FRAMES = 3_000
WARM_UP = 2
THREADS_MAX = 4


class Order(msgspec.Struct, frozen=True):
    """`shape`: one of `bench.shapes.SHAPES`, None for the model alone; `audio`: file of samples."""

    model: str
    shape: str | None
    device: str
    audio: str


class Baseline(msgspec.Struct, frozen=True):
    """`decodes` of one stream of `audio_s`, one after the other, took so much of the processor and of the clock."""

    decodes: int
    audio_s: float
    cpu_s: float
    wall_s: float

    @property
    def cpu_per_second(self) -> float:
        return self.cpu_s / self.audio_s

    @property
    def streams_max(self) -> float:
        """Streams for which the lock is free in time."""
        return self.audio_s / self.wall_s


async def measure(clip: Clip, model: Path, shape: str | None, folder: Path) -> Baseline:
    """The loop over the clip in a process of its own."""
    audio = folder / "baseline.npy"
    np.save(audio, clip.audio)
    order = Order(str(model), shape, os.environ.get("PARLANCE_DEVICE", "cpu"), str(audio))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.baseline", cwd=ROOT, env=worker_environment(os.environ, SETTINGS),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        told, _ = await child.communicate(msgspec.json.encode(order))
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode != 0:
        raise RuntimeError("the baseline failed; what it wrote stands above")
    return msgspec.json.decode(told, type=Baseline)


class Loop:
    """One model behind one lock."""

    def __init__(self, order: Order) -> None:
        cores = len(os.sched_getaffinity(0))
        cuda = order.device.startswith("cuda")
        with mirrored(shapes.folder_of(order.shape) if order.shape else None):
            self._whisper = WhisperModel(
                order.model,
                device="cuda" if cuda else "cpu",
                compute_type="float16" if cuda else "int8",
                cpu_threads=max(1, min(THREADS_MAX, cores // 2)),
                local_files_only=True,
            )
        multilingual = self._whisper.model.is_multilingual
        tokenizer = Tokenizer(self._whisper.hf_tokenizer, multilingual, task="transcribe", language="en")
        self._prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        self._lock = threading.Lock()

    def decode(self, audio: "np.ndarray[tuple[int], np.dtype[np.int16]]") -> int:
        """Tokens of the last `WINDOW_S`."""
        window = audio[-WINDOW_S * SAMPLE_RATE :].astype(np.float32) / 32_768
        mel = self._whisper.feature_extractor(window)[:, :MEL_FRAMES]
        mel = np.pad(mel, ((0, 0), (0, MEL_FRAMES - mel.shape[1])))
        features = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None], np.float32))
        with self._lock:
            encoded = self._whisper.model.encode(features)
            result = self._whisper.model.generate(encoded, [self._prompt], beam_size=1, sampling_temperature=0.0)
        return len(result[0].sequences_ids[0])


def run(order: Order) -> Baseline:
    audio = np.load(order.audio)
    loop = Loop(order)
    for _ in range(WARM_UP):
        loop.decode(audio)
    decodes = 0
    cpu, wall = time.process_time(), time.perf_counter()
    for second in range(EVERY_S, len(audio) // SAMPLE_RATE + 1, EVERY_S):
        loop.decode(audio[: second * SAMPLE_RATE])
        decodes += 1
    return Baseline(decodes, decodes * EVERY_S, time.process_time() - cpu, time.perf_counter() - wall)


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    sys.stdout.buffer.write(msgspec.json.encode(run(given)))
