"""Containers for tests: the recorded ones, ones that FFmpeg makes, and ones put together by hand to be wrong.

`packets` are real Opus packets of 20 ms; `ffmpeg` muxes sound as files have it; `Webm` and `page` write any element or
page, also such as no program would.
"""

import io
import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from streaming.audio.ogg import checksum
from streaming.model import OPUS_SAMPLE_RATE, AudioFormat, Encoding

HERE = Path(__file__).parent
RECORDED = ("chromium.webm", "chromium-mono.webm", "firefox.webm", "firefox.opus")
FRAME = 960
WEBM = AudioFormat(Encoding.WEBM_OPUS, OPUS_SAMPLE_RATE, 1)
OGG = AudioFormat(Encoding.OGG_OPUS, OPUS_SAMPLE_RATE, 1)


def format_of(name: str) -> AudioFormat:
    return WEBM if name.endswith("webm") else OGG


@cache
def recorded(name: str) -> bytes:
    return (HERE / name).read_bytes()


@cache
def pieces(name: str) -> tuple[bytes, ...]:
    """A recording in the pieces in which the browser sent it."""
    edges = np.cumsum([0, *json.loads((HERE / "pieces.json").read_text())[name]])
    return tuple(recorded(name)[a:b] for a, b in pairwise(edges.tolist()))


def sound(seconds: float, channels: int = 1) -> NDArray[np.int16]:
    """(channels, n) at 48 kHz: tones that glide, another one in every channel, so a wrong place is a wrong value."""
    t = np.arange(int(seconds * OPUS_SAMPLE_RATE)) / OPUS_SAMPLE_RATE
    voices = [8_000 * np.sin(2 * np.pi * (200 + 150 * c + 60 * t) * t) for c in range(channels)]
    return np.stack(voices).astype(np.int16)


@cache
def ffmpeg(kind: str, seconds: float = 3.0, channels: int = 1, options: tuple[tuple[str, str], ...] = ()) -> bytes:
    """A file as FFmpeg writes it. `kind`: "webm", "ogg" or "matroska"."""
    out = io.BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    with av.open(out, "w", format=kind, options=dict(options)) as container:
        stream = container.add_stream("libopus", rate=OPUS_SAMPLE_RATE, layout=layout)
        frame = av.AudioFrame.from_ndarray(sound(seconds, channels).T.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = OPUS_SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return out.getvalue()


def reference(data: bytes) -> NDArray[np.float32]:
    """(n,) 48 kHz mono, int16 units: the whole file through FFmpeg's demuxer and libopus."""
    with av.open(io.BytesIO(data)) as container:
        codec = av.CodecContext.create("libopus", "r")
        codec.extradata = container.streams.audio[0].codec_context.extradata
        channels = codec.extradata[9]
        heard = [
            frame.to_ndarray().reshape(-1, channels).mean(axis=1, dtype=np.float32)
            for packet in container.demux(audio=0)
            if packet.size
            for frame in codec.decode(packet)
        ]
    return np.concatenate(heard)


@cache
def packets(n: int = 60) -> tuple[bytes, ...]:
    """The first `n` packets of a gliding tone, mono, 20 ms each."""
    with av.open(io.BytesIO(ffmpeg("ogg", n * 0.02 + 0.1))) as container:
        return tuple(bytes(packet) for packet in container.demux(audio=0) if packet.size)[:n]


def head(channels: int = 1, preskip: int = 0, family: int = 0) -> bytes:
    start = b"OpusHead\x01" + bytes([channels]) + preskip.to_bytes(2, "little")
    return start + OPUS_SAMPLE_RATE.to_bytes(4, "little") + bytes(2) + bytes([family])


# --- WebM -----------------------------------------------------------------------------------------------------------


def element(ident: int, content: bytes = b"", *, size: int | None = -1, width: int = 8) -> bytes:
    """An element. `size`: what is claimed; -1: the true size, None: unknown."""
    claimed = (1 << 7 * width) - 1 if size is None else len(content) if size == -1 else size
    marked = claimed | 1 << 7 * width
    return ident.to_bytes((ident.bit_length() + 7) // 8, "big") + marked.to_bytes(width, "big") + content


def number(ident: int, value: int) -> bytes:
    return element(ident, value.to_bytes(8, "big"))


def ebml_header(doc_type: bytes = b"webm") -> bytes:
    return element(0x1A45DFA3, element(0x4282, doc_type))


def track(number_: int = 1, codec: bytes = b"A_OPUS", private: bytes | None = None, extra: bytes = b"") -> bytes:
    private = head() if private is None else private
    return element(0xAE, number(0xD7, number_) + element(0x86, codec) + element(0x63A2, private) + extra)


def webm_header(tracks: bytes | None = None, before: bytes = b"") -> bytes:
    """As MediaRecorder begins: a segment of unknown size up to its first cluster."""
    held = element(0x1654AE6B, track() if tracks is None else tracks)
    return ebml_header() + element(0x18538067, size=None) + before + held


def block(packet: bytes, ms: int = 0, *, track_number: int = 1, flags: int = 0x80, ident: int = 0xA3) -> bytes:
    return element(ident, bytes([0x80 | track_number]) + ms.to_bytes(2, "big", signed=True) + bytes([flags]) + packet)


def cluster(blocks: bytes, ms: int = 0, *, known: bool = False) -> bytes:
    content = number(0xE7, ms) + blocks
    return element(0x1F43B675, content, size=-1 if known else None)


def webm(frames: Sequence[bytes], *, per_cluster: int = 25, start_ms: int = 0) -> bytes:
    """`frames` of 20 ms in clusters."""
    out = webm_header()
    for at in range(0, len(frames), per_cluster):
        blocks = b"".join(block(frame, 20 * i) for i, frame in enumerate(frames[at : at + per_cluster]))
        out += cluster(blocks, start_ms + 20 * at)
    return out


# --- Ogg ------------------------------------------------------------------------------------------------------------


def page(
    content: Sequence[bytes],
    granule: int,
    sequence: int,
    *,
    flags: int = 0,
    serial: int = 7,
    open_end: bool = False,
    crc: int | None = None,
) -> bytes:
    """A page of whole packets; `open_end`: the last one goes on (its size must be a multiple of 255)."""
    table = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in content)
    if open_end:
        assert len(content[-1]) % 255 == 0
        table = table[:-1]
    start = b"OggS\0" + bytes([flags]) + granule.to_bytes(8, "little", signed=True)
    start += serial.to_bytes(4, "little") + sequence.to_bytes(4, "little")
    rest = bytes([len(table)]) + table + b"".join(content)
    crc = checksum(start + bytes(4) + rest) if crc is None else crc
    return start + crc.to_bytes(4, "little") + rest


def ogg_header(*, serial: int = 7, preskip: int = 0, tags: bytes = b"OpusTags" + bytes(8)) -> bytes:
    return page([head(preskip=preskip)], 0, 0, flags=2, serial=serial) + page([tags], 0, 1, serial=serial)


def ogg_pages(
    frames: Sequence[bytes], *, per_page: int = 10, serial: int = 7, start: int = 0, end: bool = False
) -> list[bytes]:
    """`frames` of 20 ms in pages."""
    pages = []
    for n, at in enumerate(range(0, len(frames), per_page)):
        held = frames[at : at + per_page]
        flags = 4 if end and at + per_page >= len(frames) else 0
        pages.append(page(held, start + FRAME * (at + len(held)), 2 + n, flags=flags, serial=serial))
    return pages


def ogg(frames: Sequence[bytes], *, per_page: int = 10, serial: int = 7) -> bytes:
    return ogg_header(serial=serial) + b"".join(ogg_pages(frames, per_page=per_page, serial=serial))
