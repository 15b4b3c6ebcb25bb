"""What microphones send: the cost of decoding each encoding, and whether it is understood alike.

One talk in every encoding, as the command line encodes a file. Decoding is timed in this process, in pieces of
`bench.live.PIECE_MS`; understanding goes through a real server with the micro Whisper, sent as fast as it is taken.
"""

import itertools
import time
from random import Random
from typing import Any

import msgspec
import numpy as np
import soxr

from bench.live import PIECE_MS
from bench.report import Figure, Result
from server.console.encoder import encoder_for
from streaming.audio.decode import decoder_for
from streaming.model import SAMPLE_RATE, AudioFormat, Encoding
from streaming.ports import Pcm16
from tests.support import corpus, synth
from tests.support.process import ServerProcess
from tests.support.wire import Talk, wired

CHUNK_BYTES = 8_000
DECODE_S_MIN = 1.0
"""A decoder is timed over at least so much CPU, whole talks: its figure is then good to a percent."""


class Sent(msgspec.Struct, frozen=True):
    """An encoding as a microphone sends it; `who`: who sends it."""

    encoding: Encoding
    rate: int
    channels: int
    who: str

    @property
    def name(self) -> str:
        if self.encoding.is_container:
            return self.encoding.value
        return f"{self.encoding.value} {self.rate / 1_000:g} kHz {'stereo' if self.channels == 2 else 'mono'}"

    @property
    def format(self) -> AudioFormat:
        return AudioFormat(self.encoding, self.rate, self.channels)


SENT = (
    Sent(Encoding.PCM_S16LE, 16_000, 1, "a program"),
    Sent(Encoding.PCM_S16LE, 48_000, 2, "a sound card"),
    Sent(Encoding.PCM_F32LE, 44_100, 1, "a browser's worklet"),
    Sent(Encoding.MULAW, 8_000, 1, "a telephone"),
    Sent(Encoding.WEBM_OPUS, 48_000, 1, "a browser's recorder"),
    Sent(Encoding.OGG_OPUS, 48_000, 1, "another browser's recorder"),
)


def benchmark_talk(sentences: int, seed: int) -> synth.Speech:
    """Sentences drawn anew, by random voices."""
    draw = Random(seed)
    texts = list(itertools.islice(corpus.sentences(seed), sentences))
    return synth.talk(texts, [synth.random_voice(draw) for _ in texts], seed=seed)


def encoded(audio: Pcm16, sent: Sent) -> bytes:
    """All of it as the microphone would send it; both channels of stereo hold the same."""
    samples = soxr.resample(audio.astype(np.float32), SAMPLE_RATE, sent.rate, quality="VHQ")
    pcm = np.repeat(np.clip(np.rint(samples), -32_768, 32_767).astype("<i2"), sent.channels).tobytes()
    encoder = encoder_for(sent.encoding.value, sample_rate=sent.rate, channels=sent.channels)
    return encoder.feed(pcm) + encoder.finish()


def pieces(data: bytes, n_samples: int, sent: Sent) -> list[bytes]:
    """The bytes of `PIECE_MS` each, whole frames where there are any."""
    count = max(1, n_samples * 1_000 // SAMPLE_RATE // PIECE_MS)
    frame = 1 if sent.encoding.is_container else sent.format.frame_bytes
    size = max(frame, len(data) // count // frame * frame)
    return [data[at : at + size] for at in range(0, len(data), size)]


def decoding(data: bytes, n_samples: int, sent: Sent, *, cpu_s_min: float = DECODE_S_MIN) -> tuple[float, float]:
    """CPU seconds for a second of audio, and how many seconds were decoded: once, then until it took `cpu_s_min`."""
    split = pieces(data, n_samples, sent)
    cpu_s = heard_s = 0.0
    while not heard_s or cpu_s < cpu_s_min:
        decoder = decoder_for(sent.format)
        began = time.process_time()
        samples = sum(len(decoder.feed(piece)) for piece in split) + len(decoder.finish())
        cpu_s += time.process_time() - began
        heard_s += samples / SAMPLE_RATE
    return cpu_s / heard_s, heard_s


async def understood(server: ServerProcess, data: bytes, sent: Sent) -> list[str]:
    """The words of the finals."""
    account = await server.account("bench")
    async with wired(server.url, account.token) as wire:
        live = Talk(wire, data, rate=sent.rate)
        options = {} if sent.encoding.is_container else {"sample_rate": sent.rate, "channels": sent.channels}
        await live.start(encoding=sent.encoding.value, **options)
        await live.send(chunk=CHUNK_BYTES)
        await live.stop()
        return [w for e in await live.log() if e["event"] == "transcript:final" for w in corpus.plain(e["text"])]


async def benchmark(server: ServerProcess, sentences: int, seed: int) -> Result:
    speech = benchmark_talk(sentences, seed)
    said = corpus.plain(speech.text)
    rows: list[Figure] = []
    raw: dict[str, Any] = {"audio_s": round(len(speech.audio) / SAMPLE_RATE, 1), "words": len(said), "encodings": {}}
    for sent in SENT:
        data = encoded(speech.audio, sent)
        cpu, decoded_s = decoding(data, len(speech.audio), sent)
        heard = await understood(server, data, sent)
        errors = corpus.edits(said, heard)
        rows += [
            Figure(f"{sent.name}: CPU to decode", round(1_000 * cpu, 3), "ms/audio s", int(decoded_s)),
            Figure(f"{sent.name}: word error rate", round(errors / len(said), 4), "share", len(said)),
        ]
        raw["encodings"][sent.name] = {"sent_by": sent.who, "bytes": len(data), "edits": errors}
    return Result("encodings", rows, {"engine": "whisperx", "sentences": sentences}, raw)
