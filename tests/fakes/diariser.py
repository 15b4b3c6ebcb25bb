"""A diariser that needs no models: speakers are marked in the audio by faint tones, and found without error.

`mark` puts a script of turns over any audio, such as the words of `tests.fakes.tones.talk`, which stay readable;
`FakeDiariser` is the port `server.workers.diariser.LocalDiariser` keeps and hears the marks wherever a window was cut.
`heard` says the same from the script alone, without audio. Every speaker has a vector of its own, at right angles to
all others.

    python -m tests.fakes.diariser --fd N [--nice N]     the worker program, by `interpreter`
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming import calls
from streaming.diariser.heard import DiariserInfo, Heard, Listen, Voice
from streaming.errors import Unavailable, WorkerLost
from streaming.model import SAMPLE_RATE, Turn, samples_of
from streaming.ports import Pcm16

SPEAKERS = ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k")
"""Names for scripts; what is heard has no names, labels come from `SpeakerTrack`."""
FIRST_HZ, STEP_HZ = 3_600, 200
"""Above the tones of `tests.fakes.tones`, which end at 3,200 Hz."""
AMPLITUDE = 500
"""A seventieth of the power of a tone word: words stay pure."""
FRAME = SAMPLE_RATE // 50
"""20 ms: whole periods of all tones."""
CLEAN_MS_MIN = 400
INFO = DiariserInfo(model="tones", dim=32, window_ms=5_000, locals_max=len(SPEAKERS))

KILLS, STALLS, FAILS = "f", "g", "h"
LIES_ABOUT_LENGTH, LIES_ABOUT_VECTORS, LIES_ABOUT_SPANS = "i", "j", "k"
"""Speakers at whom the worker program is killed, never answers, refuses, and answers nonsense."""


def turn(speaker: str, start_ms: int, end_ms: int) -> Turn:
    return Turn(samples_of(start_ms), samples_of(end_ms), speaker)


def vector(speaker: str) -> bytes:
    """The voice of a speaker of `SPEAKERS`."""
    made = np.zeros(INFO.dim, "<f4")
    made[SPEAKERS.index(speaker)] = 1
    return made.tobytes()


def mark(audio: Pcm16, script: Sequence[Turn]) -> Pcm16:
    """`audio` with the tones of who speaks when, as long as it is; turns beyond its end are cut."""
    out = audio.astype(np.float64)
    for said in script:
        at = np.arange(said.start_sample, min(said.end_sample, len(audio)))
        hz = FIRST_HZ + STEP_HZ * SPEAKERS.index(said.speaker)
        out[at] += AMPLITUDE * np.sin(2 * np.pi * hz * at / SAMPLE_RATE)
    return np.clip(out, -32_768, 32_767).astype(np.int16)


def scene(script: Sequence[Turn], duration_ms: int) -> Pcm16:
    """Audio of marks alone."""
    return mark(np.zeros(samples_of(duration_ms), np.int16), script)


def hear(audio: Pcm16) -> Heard:
    """Who is marked when, to 20 ms."""
    whole = len(audio) // FRAME
    frames = audio[: whole * FRAME].reshape(whole, FRAME).astype(np.float64)
    bins = (FIRST_HZ + STEP_HZ * np.arange(len(SPEAKERS))) * FRAME // SAMPLE_RATE
    strength = 2 * np.abs(np.fft.rfft(frames, axis=1)[:, bins]) / FRAME
    return _heard(len(audio), strength > AMPLITUDE / 2)


def heard(script: Sequence[Turn], start_sample: int, end_sample: int) -> Heard:
    """What is heard of the script in this part of the recording."""
    middles = start_sample + FRAME // 2 + FRAME * np.arange((end_sample - start_sample) // FRAME)
    active = np.zeros((len(middles), len(SPEAKERS)), bool)
    for said in script:
        speaks = (said.start_sample <= middles) & (middles < said.end_sample)
        active[:, SPEAKERS.index(said.speaker)] |= speaks
    return _heard(end_sample - start_sample, active)


def _heard(samples: int, active: NDArray[np.bool_]) -> Heard:
    alone = active.sum(axis=1) == 1
    voices = []
    for number in range(active.shape[1]):
        edges = np.flatnonzero(np.diff(active[:, number].astype(np.int8), prepend=0, append=0)) * FRAME
        spans = tuple((int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True))
        clean_ms = int((active[:, number] & alone).sum()) * FRAME * 1000 // SAMPLE_RATE
        if spans:
            voices.append(Voice(spans, clean_ms, vector(SPEAKERS[number]) if clean_ms >= CLEAN_MS_MIN else b""))
    return Heard(samples, tuple(sorted(voices, key=lambda voice: voice.spans)))


class FakeDiariser:
    """`info`: None as long as it is not ready; `lost`: so many of the next calls fail with `WorkerLost`; `gate`: calls
    wait while it is not set; `calls`: how many were answered."""

    def __init__(self, *, ready: bool = True) -> None:
        self.info: DiariserInfo | None = INFO if ready else None
        self.lost = 0
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def state(self) -> str:
        return "off" if self.info is None else "ready"

    async def listen(self, audio: Pcm16) -> Heard:
        await self.gate.wait()
        if self.info is None or self.lost:
            self.lost = max(0, self.lost - 1)
            raise WorkerLost("the diariser died")
        self.calls += 1
        return hear(audio)


# --- the worker program -----------------------------------------------------------------------------------------------
def interpreter(folder: Path) -> Path:
    """A "python" that runs this program whatever module it is asked for. A file `absent` beside it: no weights."""
    path = folder / "python"
    root = Path(__file__).parents[2]
    run = f'exec {sys.executable} -m tests.fakes.diariser --absent {folder / "absent"} "$@"'
    path.write_text(f"#!/bin/sh\nshift 3\nPYTHONPATH={root} {run}\n")
    path.chmod(0o700)
    return path


def handle(body: bytes) -> bytes:
    request = msgspec.msgpack.decode(body, type=Listen)
    answer = hear(np.frombuffer(request.pcm, "<i2"))
    speaking = {SPEAKERS[int(np.frombuffer(voice.vector, "<f4").argmax())] for voice in answer.voices if voice.vector}
    if KILLS in speaking:
        os.kill(os.getpid(), signal.SIGKILL)
    while STALLS in speaking:
        time.sleep(1)
    if FAILS in speaking:
        raise Unavailable("the test wants it so")
    if LIES_ABOUT_LENGTH in speaking:
        answer = Heard(answer.samples + 1, answer.voices)
    if LIES_ABOUT_VECTORS in speaking:
        answer = Heard(answer.samples, tuple(Voice(v.spans, v.clean_ms, v.vector[4:]) for v in answer.voices))
    if LIES_ABOUT_SPANS in speaking:
        answer = Heard(answer.samples, tuple(Voice(v.spans + v.spans, v.clean_ms, v.vector) for v in answer.voices))
    return msgspec.msgpack.encode(answer)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--absent", type=Path, required=True)
    arguments = parser.parse_args()
    calls.stand_back(arguments.nice, idle=arguments.idle)
    info = DiariserInfo("", 0, 0, 0) if arguments.absent.exists() else INFO
    with socket.socket(fileno=arguments.fd) as sock:
        calls.serve(sock, msgspec.msgpack.encode(info), handle)


if __name__ == "__main__":
    main()
