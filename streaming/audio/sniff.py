"""Tell what a stream really is from its first bytes: a WAV file sent as raw samples is heard as noise.

Pure. Invariant: only marks of at least three fixed bytes count, so samples are mistaken once in millions of streams.
"""

from streaming.model import Encoding

SNIFF_BYTES = 12
"""Enough for every mark."""

_MARKS: tuple[tuple[int, bytes, str], ...] = (
    (8, b"WAVE", "a WAV file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"\x1a\x45\xdf\xa3", "a WebM file"),
    (0, b"fLaC", "a FLAC file"),
    (0, b"ID3", "an MP3 file with tags"),
    (4, b"ftyp", "an MP4 file"),
    (8, b"AIFF", "an AIFF file"),
)
"""(place, mark, name)."""

_ALSO = {b"WAVE": (b"RIFF", b"RF64"), b"AIFF": (b"FORM",)}
"""Marks that count behind one of these only."""


def name_of(first: bytes) -> str | None:
    """The kind of file that begins with `first`, None when it is none of the known ones."""
    for at, mark, name in _MARKS:
        if first[at : at + len(mark)] == mark and (mark not in _ALSO or first[:4] in _ALSO[mark]):
            return name
    return None


def sniff(encoding: Encoding, first: bytes) -> str | None:
    """What a raw stream that begins with `first` really is; None when nothing speaks against raw samples (and for
    containers, whose decoders find out themselves)."""
    return None if encoding.is_container else name_of(first)
