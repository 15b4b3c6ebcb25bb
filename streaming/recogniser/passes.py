"""What server and pass worker say to each other: a piece of a recording in, its words out.

Policy: the server cuts (`streaming.audio.cutting`), the worker reads: transcription in batches, and exact word times
where there are weights for the language. An utterance that the model loses its place in comes back as not trusted, with
whatever was heard.

Boundary: `streaming.calls` carries these types. Invariant: times are samples from the piece's first one.
"""

import msgspec

from streaming.limits import LIMITS
from streaming.model import Word, ms_of, samples_of
from streaming.transcript.merge import Spoken

PIECE_BYTES_MAX = 2 * samples_of(LIMITS.pass_piece_ms_max)


class ReaderInfo(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the worker says when it is ready. `languages`: that it may read, empty for any; `aligned`: those whose words
    get exact times."""

    languages: tuple[str, ...]
    aligned: tuple[str, ...]


class Read(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`pcm`: s16le, 16 kHz mono, at most `PIECE_BYTES_MAX`; `utterances`: (first, one past the last) sample of each;
    `language`: a code, or "auto"; `vocabulary`: terms that may be said; `task`: as in `UtteranceSpec`."""

    pcm: bytes
    utterances: tuple[tuple[int, int], ...]
    language: str
    vocabulary: tuple[str, ...] = ()
    task: str = "transcribe"


class ReadWord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    text: str
    start: int
    end: int
    p: float


class ReadUtterance(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One of those that were asked for, or several that follow each other, read in one go."""

    start: int
    end: int
    words: tuple[ReadWord, ...]
    language: str
    trusted: bool


class Reading(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    utterances: tuple[ReadUtterance, ...]


def spoken(reading: Reading, start_sample: int) -> tuple[Spoken, ...]:
    """On the recording's clock. `start_sample`: of the piece."""

    def at_ms(sample: int) -> int:
        return ms_of(start_sample + sample)

    return tuple(
        Spoken(
            at_ms(each.start),
            at_ms(each.end),
            tuple(Word(word.text, at_ms(word.start), at_ms(word.end), word.p) for word in each.words),
            each.language,
            each.trusted,
        )
        for each in reading.utterances
    )
