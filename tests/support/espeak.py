"""Speech with known word times: libespeak-ng tells at which sample each word begins.

Boundary: the C library through ctypes, one thread; `LIBRARY` is None where it is not installed. numpy and msgspec are
all it wants, so it also runs in the models environment.
"""

import ctypes
import ctypes.util
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

LIBRARY = ctypes.util.find_library("espeak-ng")
SYNCHRONOUS, CHARACTERS_UTF8, PHONEME_EVENTS = 2, 1, 1
RATE, VOLUME, PITCH = 1, 2, 3
LIST_END, WORD, END, PHONEME = 0, 1, 5, 7


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class SpokenWord(msgspec.Struct, frozen=True):
    """`exact`: the library told where it begins; else it was spoken as one with its neighbour and its share is a guess
    by letters."""

    text: str
    start: int
    end: int
    exact: bool


class Spoken(msgspec.Struct, frozen=True):
    """`samples`: (n,) int16 mono at `rate` Hz; words in samples of it; `phonemes`: with the sample each begins at."""

    samples: NDArray[np.int16]
    rate: int
    words: tuple[SpokenWord, ...]
    phonemes: tuple[tuple[str, int], ...] = ()


class Espeak:
    """One voice machine. The library keeps its state to itself: make one for each process."""

    def __init__(self) -> None:
        if LIBRARY is None:
            raise FileNotFoundError("libespeak-ng is not installed")
        self._library = ctypes.CDLL(LIBRARY)
        self._pieces: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, int, int]] = []
        self._phonemes: list[tuple[str, int]] = []
        self._callback = _Callback(self._heard)  # kept: the library calls it
        self.rate = int(self._library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS))
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip

    def say(self, text: str, voice: str = "en-us", *, speed: int = 165, pitch: int = 50) -> Spoken:
        """Raises ValueError for a voice that is not there. `text`: words between single spaces."""
        self._pieces.clear()
        self._events.clear()
        self._phonemes.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice}")
        for parameter, value in ((RATE, speed), (VOLUME, 100), (PITCH, pitch)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 1, 0, CHARACTERS_UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._pieces)
        words = _words(text, self._events, len(samples))
        return Spoken(samples, self.rate, words, tuple(self._phonemes))

    def _heard(self, wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            self._pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        at = 0
        while events[at].type != LIST_END:
            if events[at].type in (WORD, END):
                self._events.append((events[at].type, events[at].text_position - 1, events[at].sample))
            elif events[at].type == PHONEME:
                name = events[at].id.split(b"\0")[0].decode(errors="replace")
                self._phonemes.append((name, events[at].sample))
            at += 1
        return 0


def _words(text: str, events: list[tuple[int, int, int]], n_samples: int) -> tuple[SpokenWord, ...]:
    """Each word of the text with its samples; what was spoken in one breath shares its time by letters."""
    marks = sorted((sample, kind, position) for kind, position, sample in events)
    starts = {position: sample for sample, kind, position in marks if kind == WORD}
    edges = [sample for sample, _, _ in marks] + [n_samples]
    words: list[SpokenWord] = []
    group: list[str] = []
    group_start = 0

    def close() -> None:
        if not group:
            return
        end = next((edge for edge in edges if edge > group_start), n_samples)
        letters = sum(map(len, group))
        at = float(group_start)
        for number, word in enumerate(group):
            share = (end - group_start) * len(word) / letters
            words.append(SpokenWord(word, round(at), round(at + share), exact=number == 0))
            at += share

    position = 0
    for word in text.split(" "):
        if position in starts:
            close()
            group, group_start = [], starts[position]
        group.append(word)
        position += len(word) + 1
    close()
    return tuple(words)
