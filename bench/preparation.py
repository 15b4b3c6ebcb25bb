"""What the preparation of audio (`streaming.audio.prepare`) does for quiet, offset and badly sampled microphones.

Synthetic talk as such microphones send it, through the pipeline in this process with and without preparation: words
that are wrong, and speech that no utterance holds (of what the detector finds in the talk as it was spoken).
"""

import itertools
from collections.abc import Iterator
from random import Random

import msgspec
import numpy as np
import soxr

from bench.report import Figure, Result
from streaming.audio.endpoint import CONVERSATION, Endpointer, UtteranceBegan
from streaming.audio.prepare import Leveller, Untouched
from streaming.audio.vad import VoiceDetector
from streaming.model import FRAME_SAMPLES, SAMPLE_RATE, AudioFormat, Capabilities, Encoding
from streaming.ports import Pcm16
from streaming.recogniser.engine import EngineUnavailable
from streaming.recogniser.whisper import WhisperEngine
from tests.support import corpus, synth
from tests.support.inprocess import InProcess, transcribed

SENTENCES_A_TALK = 6


class Microphone(msgspec.Struct, frozen=True):
    """`gain_db`: on the talk, clipped at full scale; `offset`: share of full scale; `rate` in Hz."""

    gain_db: float = 0.0
    offset: float = 0.0
    rate: int = SAMPLE_RATE

    @property
    def name(self) -> str:
        return f"{self.gain_db:+g} dB, offset {self.offset:g}, {self.rate / 1_000:g} kHz"

    def send(self, audio: Pcm16) -> Pcm16:
        sound = audio * 10 ** (self.gain_db / 20) + self.offset * 32_768
        if self.rate != SAMPLE_RATE:
            sound = soxr.resample(sound, SAMPLE_RATE, self.rate, quality="VHQ")
        return np.clip(np.rint(sound), -32_768, 32_767).astype(np.int16)


MICROPHONES = (
    *(Microphone(gain_db=db) for db in (12, 0, -20, -30, -40, -50)),
    *(Microphone(offset=offset) for offset in (0.05, 0.2)),
    Microphone(gain_db=-30, offset=0.02),
    *(Microphone(rate=rate) for rate in (8_000, 44_100, 48_000)),
)


class _AsItIs(InProcess):
    """Asks for sound as it is: the pipeline prepares nothing."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, activity="sound")


def spoken(audio: Pcm16, leveller: Leveller | Untouched) -> Iterator[tuple[bool, bool]]:
    """Of every frame: is it speech, and does an utterance hold it?"""
    detector, endpointer = VoiceDetector(), Endpointer(CONVERSATION, 0)
    speech = np.zeros(len(audio) // FRAME_SAMPLES, bool)
    held = speech.copy()
    begin = None
    for at in range(len(speech)):
        frame = leveller.take(audio[at * FRAME_SAMPLES : (at + 1) * FRAME_SAMPLES])
        speech[at] = detector.is_speech(frame, in_speech=endpointer.in_speech)
        for effect in endpointer.step(bool(speech[at])):
            if isinstance(effect, UtteranceBegan):
                begin = effect.sample
            elif begin is not None:
                held[begin // FRAME_SAMPLES : effect.sample // FRAME_SAMPLES] = True
                begin = None
    if begin is not None:
        held[begin // FRAME_SAMPLES :] = True
    return zip(speech.tolist(), held.tolist(), strict=True)


def missed(audio: Pcm16, microphone: Microphone, leveller: Leveller | Untouched) -> tuple[int, int]:
    """Frames of speech that are not heard, and those that are there."""
    there = [speech for speech, _ in spoken(audio, Untouched())]
    sent = microphone.send(audio)
    heard = (
        soxr.resample(sent.astype(np.float32), microphone.rate, SAMPLE_RATE) if microphone.rate != SAMPLE_RATE else sent
    )
    found = [held for _, held in spoken(np.asarray(np.clip(np.rint(heard), -32_768, 32_767), np.int16), leveller)]
    return sum(speech and not held for speech, held in zip(there, found, strict=False)), sum(there)


async def benchmark(model: str, talks: int, seed: int) -> Result:
    if synth.PROGRAM is None:
        return Result("preparation", [], {}, {}, skipped="espeak-ng is not installed")
    engine = WhisperEngine(model)
    try:
        engine.load()
    except EngineUnavailable as error:
        return Result("preparation", [], {}, {}, skipped=str(error))
    draw, texts = Random(seed), corpus.sentences(seed)
    said = [
        synth.talk(list(itertools.islice(texts, SENTENCES_A_TALK)), [synth.random_voice(draw)], seed=seed + n)
        for n in range(talks)
    ]
    words = sum(len(corpus.plain(talk.text)) for talk in said)
    rows: list[Figure] = []
    for microphone in MICROPHONES:
        fmt = AudioFormat(Encoding.PCM_S16LE, microphone.rate, 1)
        for way, recogniser, leveller in (("as sent", _AsItIs, Untouched), ("prepared", InProcess, Leveller)):
            errors = lost = there = 0
            for talk in said:
                data = microphone.send(talk.audio).tobytes()
                sink = await transcribed(data, recogniser(engine), fmt=fmt, detector=VoiceDetector())
                errors += corpus.edits(corpus.plain(talk.text), corpus.plain(" ".join(sink.texts)))
                frames = missed(talk.audio, microphone, leveller())
                lost, there = lost + frames[0], there + frames[1]
            name = f"{microphone.name}, {way}"
            rows.append(Figure(f"{name}: word error rate", round(errors / words, 4), "share", words))
            rows.append(Figure(f"{name}: speech missed", round(lost / there, 4), "share", there))
    return Result("preparation", rows, {"model": model, "talks": talks}, {})
