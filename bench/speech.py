"""What is said to the server: recordings of a folder, talks of a machine's voice, or a quiet room.

Every clip is 16 kHz mono with a quiet room (noise at -66 dBFS) of `LEAD_MS` before it and `TAIL_MS` after it, so that
the first utterance has a beginning and the last one ends by its own silence.
"""

from collections.abc import Iterable
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import soxr

from bench.engines import Recording, read_audio
from streaming.audio.endpoint import CONVERSATION, Endpointer, EndReason, UtteranceBegan, with_endpointing, within
from streaming.audio.prepare import leveller_for
from streaming.audio.vad import detector_for
from streaming.model import FRAME_SAMPLES, SAMPLE_RATE, Capabilities, samples_of
from streaming.ports import Pcm16
from tests.support import corpus, synth
from tests.support.espeak import Espeak

LEAD_MS, TAIL_MS = 500, 1_200
NOISE_RMS = 16
LEVEL_MS = 10
SPEECH_DB = 30.0
"""Speech begins where the level first comes within 30 dB of the utterance's loudest 10 ms."""

PAUSES_MS = (200, 1_400)
"""Between sentences of a talk. Half of them are too short to end an utterance, so that many take over 3 s, which the
stable share counts."""
BREATHS_MS, LONG_S, REST_MS = (0, 60), (20.0, 28.0), 1_200
"""Of talks without pauses: between sentences, of an utterance, and between utterances."""
EDGE = 0.01
"""Of a sentence's loudest sample: what is below it at its ends is cut off, as `tests.support.synth` does."""
VOICE = "espeak-ng, random voices"


class Said(msgspec.Struct, frozen=True):
    """A word of a clip, exactly where it is."""

    text: str
    start_ms: float
    end_ms: float


class Clip(msgspec.Struct, frozen=True):
    """`text`: what is said, None when nobody wrote it down; `words`: where its words are, empty when nobody knows."""

    id: str
    audio: Pcm16
    text: str | None
    words: tuple[Said, ...] = ()

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


class Speaker:
    """Talks by espeak-ng. Make one: the library keeps state of its own. Raises FileNotFoundError without it."""

    def __init__(self) -> None:
        self._espeak = Espeak()

    def talk(
        self, name: str, seconds: float, seed: int, *, pauses: bool = True, voice: synth.Voice | None = None
    ) -> Clip:
        """Sentences of one voice, a random one by default, for at least so long: drawn anew from `tests.support.corpus`
        (short ones may have been in the training of the tests' models). Without `pauses`: in utterances of `LONG_S`."""
        draw = Random(seed)
        drawn = synth.random_voice(draw)
        voice = voice or drawn
        pieces, words, texts = [silence(LEAD_MS)], [], []
        began_ms = at_ms = float(LEAD_MS)
        longest_ms = draw.uniform(*LONG_S) * 1_000
        for text in corpus.sentences(seed):
            audio, said = self.sentence(text, voice)
            if not pauses and at_ms + len(audio) * 1_000 / SAMPLE_RATE - began_ms > longest_ms:
                pieces.append(silence(REST_MS))
                began_ms = at_ms = at_ms + REST_MS
                longest_ms = draw.uniform(*LONG_S) * 1_000
            texts.append(text)
            words += [Said(word.text, at_ms + word.start_ms, at_ms + word.end_ms) for word in said]
            pause = silence(draw.randint(*(PAUSES_MS if pauses else BREATHS_MS)))
            pieces += [audio, pause]
            at_ms += (len(audio) + len(pause)) * 1_000 / SAMPLE_RATE
            if at_ms >= seconds * 1_000:
                break
        whole = np.concatenate([*pieces, silence(TAIL_MS)])
        noise = np.random.default_rng(seed).normal(0, NOISE_RMS, len(whole))
        return Clip(name, np.clip(whole + noise, -32_768, 32_767).astype(np.int16), " ".join(texts), tuple(words))

    def sentence(self, text: str, voice: synth.Voice) -> tuple[Pcm16, list[Said]]:
        """16 kHz without silence at its ends, and its words from its first sample."""
        spoken = self._espeak.say(text, voice.name, speed=voice.speed, pitch=voice.pitch)
        samples = soxr.resample(spoken.samples.astype(np.float32), spoken.rate, SAMPLE_RATE)
        loudest = np.abs(samples).max()
        loud = np.flatnonzero(np.abs(samples) > EDGE * loudest)
        first, last = int(loud[0]), int(loud[-1]) + 1
        audio = np.asarray(samples[first:last] * (voice.level * 32_767 / loudest), np.int16)

        def placed(sample: int) -> float:
            return min(max(0.0, sample * SAMPLE_RATE / spoken.rate - first), last - first) * 1_000 / SAMPLE_RATE

        return audio, [Said(word.text, placed(word.start), placed(word.end)) for word in spoken.words]


def joined(name: str, clips: Iterable[Clip]) -> Clip:
    """One clip after the other."""
    audio: list[Pcm16] = []
    words: list[Said] = []
    texts: list[str] = []
    at_ms = 0.0
    for clip in clips:
        audio.append(clip.audio)
        texts.append(clip.text or "")
        words += [Said(word.text, at_ms + word.start_ms, at_ms + word.end_ms) for word in clip.words]
        at_ms += clip.seconds * 1_000
    return Clip(name, np.concatenate(audio), " ".join(texts), tuple(words))


def in_a_room(name: str, audio: Pcm16, text: str | None, *, seed: int) -> Clip:
    before, after = quiet(LEAD_MS, seed), quiet(TAIL_MS, seed + 1)
    return Clip(name, np.concatenate([before, audio, after]), text)


def silence(ms: int) -> Pcm16:
    return np.zeros(samples_of(ms), np.int16)


def quiet(ms: int, seed: int) -> Pcm16:
    """A quiet room: white noise at -66 dBFS."""
    return np.random.default_rng(seed).normal(0, NOISE_RMS, samples_of(ms)).astype(np.int16)


def cuts(audio: Pcm16, capabilities: Capabilities, endpointing_ms: int | None = None) -> list[Cut]:
    """Where the server will cut this audio: the same detector and rules, run ahead. The tail's FLUSH is left out."""
    rules = within(with_endpointing(CONVERSATION, endpointing_ms), capabilities.utterance_ms_max)
    endpointer, detector = Endpointer(rules, 0), detector_for(capabilities.activity)
    leveller = leveller_for(capabilities.activity)
    found: list[Cut] = []
    begin = 0
    for at in range(0, len(audio) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        frame = leveller.take(audio[at : at + FRAME_SAMPLES])
        speech = detector.is_speech(frame, in_speech=endpointer.in_speech)
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
