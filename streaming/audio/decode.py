"""Turn what a client sends, in any encoding, into mono int16 samples at 16 kHz: the one way in.

    raw samples  -> streaming.audio.pcm
    a container  -> streaming.audio.timeline (demuxer, clock) -> codec -> 48 kHz mono -> soxr -> Pcm16

Policy: decoding may begin at any part; what comes before the first sample wanted is decoded only as far as Opus and
soxr need it to converge. A packet that cannot be read becomes silence of its length and is counted;
`audio_bad_packets_max` in a row are not Opus. An error inside a piece is raised after the good samples before it were
handed out: by the next call.

Invariant: samples and parts depend on the bytes only, never on how they were split; the position is the number of
samples, so captions, playback and an index made by `scan` agree.
"""

from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np
import soxr
from numpy.typing import NDArray

from streaming.audio import codec
from streaming.audio.opus import OpusHead, broken
from streaming.audio.parts import OPUS_PER_SAMPLE, PREROLL_SAMPLES, DecodeStart, begin_at
from streaming.audio.pcm import Float32, Pcm16, raw_decoder, to_int16
from streaming.audio.sniff import sniff
from streaming.audio.timeline import Reel, Stretch
from streaming.errors import DecodeFailed, UnsupportedEncoding
from streaming.limits import LIMITS
from streaming.model import OPUS_SAMPLE_RATE, SAMPLE_RATE, AudioFormat, Part

__all__ = ["AudioDecoder", "DecodeStart", "OpusReader", "PartScanner", "begin_at", "decoder_for", "scan", "sniff"]

_BLOCK_SAMPLES = OPUS_SAMPLE_RATE
"""48 kHz samples that are resampled at once: a long piece takes no more memory at the high rate than a second does."""


_RESAMPLER_SAMPLES = OPUS_SAMPLE_RATE * 40 // 1000
"""Run-up of the resampler, which looks at 21 ms to either side."""


class AudioDecoder(Protocol):
    """Encoded bytes in, samples out. One per stream; it has to see every byte from its start on, once and in order."""

    def feed(self, data: bytes) -> Pcm16:
        """Samples that are complete with `data`; may be empty. Raises `DecodeFailed` (field `audio`) when the stream
        is not what was promised and cannot go on."""
        ...

    def finish(self) -> Pcm16:
        """The end of the stream: samples still held back. A container cut off in the middle is no error. The decoder
        is used up afterwards."""
        ...

    @property
    def damaged_samples(self) -> int:
        """Samples replaced by silence: floats that are no numbers, packets that cannot be read."""
        ...

    @property
    def sample_end(self) -> int:
        """16 kHz on the recording's clock: one past the last sample decoded, those held back included."""
        ...

    def take_parts(self) -> list[Part]:
        """Parts met since the last call; none for raw encodings."""
        ...


def decoder_for(fmt: AudioFormat, start: DecodeStart | None = None) -> AudioDecoder:
    """The decoder for what a client announced, from `start` on (None: from the first byte).

    Raises `UnsupportedEncoding` (field `encoding`), for raw samples `BadRequest` (field `sample_rate` or `channels`),
    and `DecodeFailed` when the header to begin with cannot be read."""
    start = start or DecodeStart()
    if not fmt.encoding.is_container:
        return raw_decoder(fmt, start)
    _require_codec(fmt)
    return ContainerDecoder(fmt, start)


def scan(fmt: AudioFormat, start: DecodeStart | None = None) -> "PartScanner":
    """Find the parts of a container encoding without decoding it."""
    return PartScanner(fmt, start or DecodeStart())


def _require_codec(fmt: AudioFormat) -> None:
    if not codec.available():
        raise UnsupportedEncoding(f"This server was built without Opus: no {fmt.encoding.value}.", field="encoding")


class _Sound:
    """A stream as blocks of 48 kHz mono from sample `first` on. An error is told after the good blocks before it."""

    def __init__(self, reel: Reel, first: int) -> None:
        self._reel = reel
        self._first = first
        self._head: OpusHead | None = None
        self._codec: codec.PacketDecoder | None = None
        self._bad = 0
        self._failure: DecodeFailed | None = None
        self.damaged = 0

    def feed(self, data: bytes) -> Iterator[Float32]:
        return self._guarded(self._reel.feed(data))

    def finish(self) -> Iterator[Float32]:
        return self._guarded(self._reel.finish())

    def _guarded(self, stretches: Iterator[Stretch]) -> Iterator[Float32]:
        if self._failure is not None:
            raise self._failure
        good = False
        try:
            for block in self._blocks(stretches):
                good = True
                yield block
        except DecodeFailed as error:
            self._failure = error
            if not good:
                raise

    def _blocks(self, stretches: Iterator[Stretch]) -> Iterator[Float32]:
        held: list[Float32] = []
        try:
            for stretch in stretches:
                held.extend(self._pieces(stretch))
                if sum(map(len, held)) >= _BLOCK_SAMPLES:
                    yield np.concatenate(held)
                    held = []
        except DecodeFailed:
            if held:
                yield np.concatenate(held)
            raise
        if held:
            yield np.concatenate(held)

    def _pieces(self, stretch: Stretch) -> Iterator[Float32]:
        if stretch.position <= self._first - PREROLL_SAMPLES:
            return
        sound = self._decode(stretch)
        begin = stretch.position - len(sound) - stretch.silence
        if stretch.silence:
            yield np.zeros(stretch.silence, np.float32)[max(0, self._first - begin) :]
        yield sound[max(0, self._first - begin - stretch.silence) :]

    def _decode(self, stretch: Stretch) -> Float32:
        head = self._reel.head
        if self._codec is None or head is not self._head:
            assert head is not None, "a head comes before the first packet"
            self._codec, self._head = codec.PacketDecoder(head), head
        sound = self._codec.decode(stretch.packet, stretch.samples)
        if sound is not None:
            self._bad = 0
            return sound[stretch.begin : stretch.end]
        self._bad += 1
        if self._bad > LIMITS.audio_bad_packets_max:
            raise broken(f"More than {LIMITS.audio_bad_packets_max} packets in a row are not Opus.")
        silence = np.zeros(stretch.end - stretch.begin, np.float32)
        self.damaged += len(silence)
        return silence


class ContainerDecoder:
    """`AudioDecoder` for Opus in WebM or Ogg."""

    def __init__(self, fmt: AudioFormat, start: DecodeStart) -> None:
        assert start.sample_48k <= start.sample * OPUS_PER_SAMPLE, "decoding begins at or before its first sample"
        self._reel = Reel(fmt, start)
        wanted = start.sample * OPUS_PER_SAMPLE
        first = max(start.sample_48k, wanted - _RESAMPLER_SAMPLES)
        first += -first % OPUS_PER_SAMPLE  # our samples stand on every third of these
        self._sound = _Sound(self._reel, first)
        self._drop = start.sample - first // OPUS_PER_SAMPLE
        self._resampler = soxr.ResampleStream(OPUS_SAMPLE_RATE, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        self._finished = False

    @property
    def damaged_samples(self) -> int:
        return self._sound.damaged // OPUS_PER_SAMPLE

    @property
    def sample_end(self) -> int:
        return round(self._reel.position / OPUS_PER_SAMPLE)

    @property
    def held_bytes(self) -> int:
        return self._reel.held_bytes

    def take_parts(self) -> list[Part]:
        return self._reel.take_parts()

    def feed(self, data: bytes) -> Pcm16:
        assert not self._finished, "nothing follows finish"
        return _joined([self._convert(block, last=False) for block in self._sound.feed(data)])

    def finish(self) -> Pcm16:
        """The resampler's tail. Raises an error that is still to be told."""
        assert not self._finished, "finish comes once"
        self._finished = True
        heard = [self._convert(block, last=False) for block in self._sound.finish()]
        return _joined([*heard, self._convert(np.empty(0, np.float32), last=True)])

    def _convert(self, sound: Float32, *, last: bool) -> Pcm16:
        samples = cast(Float32, self._resampler.resample_chunk(sound, last=last))
        kept = samples[min(self._drop, len(samples)) :]
        self._drop -= len(samples) - len(kept)
        return to_int16(kept)


class OpusReader:
    """48 kHz mono int16 of a container encoding for playback, from `start.part` on (`start.sample` is not regarded).
    The first sample has the index `part.sample`; whoever chose the part with `begin_at` drops at least its run-up."""

    def __init__(self, fmt: AudioFormat, start: DecodeStart) -> None:
        _require_codec(fmt)
        self._reel = Reel(fmt, start)
        self._sound = _Sound(self._reel, 0)

    @property
    def sample_end_48k(self) -> int:
        return self._reel.position

    def take_parts(self) -> list[Part]:
        return self._reel.take_parts()

    def feed(self, data: bytes) -> NDArray[np.int16]:
        """(n,) int16, mono, 48 kHz. Raises `DecodeFailed` as decoders do."""
        return _joined([to_int16(block) for block in self._sound.feed(data)])

    def finish(self) -> NDArray[np.int16]:
        """What is complete although its container is not."""
        return _joined([to_int16(block) for block in self._sound.finish()])


def _joined(pieces: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    return np.concatenate(pieces) if pieces else np.empty(0, np.int16)


class PartScanner:
    """Parts and length of a container encoding, from packet headers alone; the positions are those of a decoder."""

    def __init__(self, fmt: AudioFormat, start: DecodeStart) -> None:
        self._reel = Reel(fmt, start)
        self._failure: DecodeFailed | None = None

    @property
    def sample_end_48k(self) -> int:
        return self._reel.position

    def take_parts(self) -> list[Part]:
        return self._reel.take_parts()

    def feed(self, data: bytes) -> None:
        """Raises `DecodeFailed` where a decoder would, bad packets aside; what was found before stays."""
        self._run(self._reel.feed(data))

    def finish(self) -> None:
        self._run(self._reel.finish())

    def _run(self, stretches: Iterator[Stretch]) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            for _ in stretches:
                pass
        except DecodeFailed as error:
            self._failure = error
            raise
