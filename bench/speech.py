"""What is said to the server: recordings of a folder, a machine's voice, tones, or a quiet room.

Every clip is 16 kHz mono with a quiet room (noise at -66 dBFS) of `LEAD_MS` before it and `TAIL_MS` after it, so that
the first utterance has a beginning and the last one ends by its own silence.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from bench.engines import Recording, read_audio
from streaming.audio.endpoint import CONVERSATION, Endpointer, EndReason, UtteranceBegan, with_endpointing, within
from streaming.audio.vad import detector_for
from streaming.model import FRAME_SAMPLES, SAMPLE_RATE, Capabilities, samples_of
from streaming.ports import Pcm16

LEAD_MS, TAIL_MS = 500, 1_200
NOISE_RMS = 16
LEVEL_MS = 10
SPEECH_DB = 30.0
"""Speech begins where the level first comes within 30 dB of the utterance's loudest 10 ms."""

SENTENCES = (
    "Good morning everybody, let us begin with the numbers of the last quarter.",
    "The new server has been running for three weeks without a single restart.",
    "Can you hear me?",
    "I think we should move the meeting to Thursday afternoon, because half of the team is travelling.",
    "What did the customer say about the delivery?",
    "She wrote that the first boxes arrived on time, but two of them were damaged by water.",
    "Yes, I agree.",
    "Then please send me the photographs and the name of the driver, so that we can talk to the insurance.",
    "The next point is the training for new colleagues, which starts in the first week of September.",
    "Thank you very much, that was all for today.",
)


class Clip(msgspec.Struct, frozen=True):
    """`text`: what is said, None when nobody wrote it down."""

    id: str
    audio: Pcm16
    text: str | None

    @property
    def seconds(self) -> float:
        return len(self.audio) / SAMPLE_RATE


class Cut(msgspec.Struct, frozen=True):
    """An utterance as the server will cut it, in samples: `decided` is the last sample it needs to see for that.
    `heard`: where speech begins, None when the utterance before was cut without a silence."""

    begin: int
    end: int
    decided: int
    reason: EndReason
    heard: int | None


def recorded(folder: Path, seconds_max: float) -> list[Clip]:
    """The folder's clips in order, as many as fit into `seconds_max`."""
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=list[Recording])
    clips: list[Clip] = []
    for recording in manifest:
        clip = in_a_room(recording.id, read_audio(folder / recording.file), recording.text, seed=len(clips))
        if sum(c.seconds for c in clips) + clip.seconds <= seconds_max:
            clips.append(clip)
    return clips


def synthesised(count: int) -> list[Clip]:
    """The first of `SENTENCES` by espeak-ng, one to a clip. Raises FileNotFoundError when it is not installed."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError("espeak-ng is not installed")
    clips = []
    with tempfile.TemporaryDirectory(prefix="parlance-bench-") as folder:
        for n, text in enumerate(SENTENCES[:count]):
            path = Path(folder) / f"{n}.wav"
            subprocess.run([program, "-v", "en-us", "-s", "150", "-w", str(path), text], check=True, timeout=60)
            clips.append(in_a_room(f"espeak-{n}", read_audio(path), text, seed=n))
    return clips


def in_a_room(name: str, audio: Pcm16, text: str | None, *, seed: int) -> Clip:
    before, after = quiet(LEAD_MS, seed), quiet(TAIL_MS, seed + 1)
    return Clip(name, np.concatenate([before, audio, after]), text)


def quiet(ms: int, seed: int) -> Pcm16:
    """A quiet room: white noise at -66 dBFS."""
    return np.random.default_rng(seed).normal(0, NOISE_RMS, samples_of(ms)).astype(np.int16)


def cuts(audio: Pcm16, capabilities: Capabilities, endpointing_ms: int | None = None) -> list[Cut]:
    """Where the server will cut this audio: the same detector and rules, run ahead. The tail's FLUSH is left out."""
    rules = within(with_endpointing(CONVERSATION, endpointing_ms), capabilities.utterance_ms_max)
    endpointer, detector = Endpointer(rules, 0), detector_for(capabilities.activity)
    found: list[Cut] = []
    begin = 0
    for at in range(0, len(audio) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        speech = detector.is_speech(audio[at : at + FRAME_SAMPLES], in_speech=endpointer.in_speech)
        for effect in endpointer.step(speech):
            if isinstance(effect, UtteranceBegan):
                begin = effect.sample
                continue
            after_silence = not found or found[-1].reason is EndReason.SILENCE
            heard = begin + onset(audio[begin : effect.sample]) if after_silence else None
            found.append(Cut(begin, effect.sample, endpointer.position, effect.reason, heard))
    return found


def onset(audio: Pcm16) -> int:
    """The first sample of the first `LEVEL_MS` that are within `SPEECH_DB` of the loudest."""
    size = samples_of(LEVEL_MS)
    pieces = audio[: len(audio) // size * size].reshape(-1, size).astype(np.float64)
    level = np.sqrt((pieces**2).mean(axis=1))
    return int(np.argmax(level >= level.max() * 10 ** (-SPEECH_DB / 20))) * size
