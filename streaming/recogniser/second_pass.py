"""The pass worker: WhisperX in the models environment, asked to read pieces of kept audio once more.

    python -P -m streaming.recogniser.second_pass --fd N --whisper FOLDER [--device D] [--align NAME]

Policy: it stands behind everything else on the machine (`stand_back`), takes one thread, and never uses the network.
Utterances are read by whisperx' batched pipeline with the weights of the live engine, eight windows at once; where
people speak is told, so no other voice detector is loaded. Word times come from Whisper's attention, then from forced
alignment where there are weights for the language. A text that repeats itself, is improbable or did not end is not
trusted: what was recognised live stays.

Boundary: `streaming.recogniser.whisperx` alone touches the library; `streaming.calls` carries requests.
Invariant: the same piece gives the same words.
"""

import argparse
import logging
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from streaming import calls
from streaming.errors import BadRequest
from streaming.model import ms_of, samples_of
from streaming.ports import Pcm16
from streaming.recogniser import whisperx
from streaming.recogniser.alignment import Align
from streaming.recogniser.guards import (
    DOUBTFUL_LOGPROB,
    UNLIKELY_LOGPROB,
    is_repetitive,
    is_silence_text,
    is_word,
    loop_start,
)
from streaming.recogniser.passes import PIECE_BYTES_MAX, Read, ReaderInfo, Reading, ReadUtterance, ReadWord
from streaming.recogniser.pieces import Heard, Splitter, pieces_of
from streaming.recogniser.rolling import loud_steps, tightened

WINDOW_SAMPLES_MAX = samples_of(28_000)
"""Live utterances are cut there too: below Whisper's window."""
TOGETHER_SAMPLES_MAX = samples_of(1_500)
"""Of silence between utterances that are read together, as whisperx does, where a window costs the same however full it
is. Where it costs less each is read alone: the micro Whisper, which was trained on utterances, has 5 errors in 365
words then and 39 together, for 1.4 instead of 0.9 s of CPU; padded to 30 s alone as well 5, for 6.4 s."""
NICE = 19
_UNIT = np.float32(1 / 32_768)

log = logging.getLogger("parlance.worker")


class Window(msgspec.Struct, frozen=True):
    """What whisperx made of samples [start, end) of the piece. `heard`: tokens, where each begins, from `start` on."""

    start: int
    end: int
    language: str
    logprob: float
    heard: Heard
    splitter: Splitter


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", module=r"pyannote\..*")  # of codecs that nobody here needs
    parser = argparse.ArgumentParser(description="Parlance's second pass.")
    parser.add_argument("--fd", type=int, required=True, help="an inherited unix socket")
    parser.add_argument("--whisper", required=True, type=Path, help="a folder with CTranslate2 files")
    parser.add_argument("--device", default="auto", help="as PARLANCE_DEVICE")
    parser.add_argument("--compute-type", default="auto", help="as PARLANCE_COMPUTE_TYPE")
    parser.add_argument("--align", help="as --model of streaming.recogniser.whisperx")
    arguments = parser.parse_args()
    calls.stand_back(NICE, idle=True)
    with socket.socket(fileno=arguments.fd) as sock:
        whisper = whisperx.BatchedWhisper(
            arguments.whisper, device=arguments.device, compute_type=arguments.compute_type
        )
        reader = Reader(whisper, whisperx.find(arguments.align, None))
        calls.serve(sock, msgspec.msgpack.encode(reader.info), reader.handle)
    return 0


class Reader:
    """Answers `Read` with `Reading`."""

    def __init__(self, whisper: whisperx.BatchedWhisper, sources: Mapping[str, whisperx.Source]) -> None:
        self._whisper = whisper
        self._aligner = whisperx.Aligner(sources)
        self.info = ReaderInfo(self._whisper.languages, tuple(sorted(sources)))

    def handle(self, body: bytes) -> bytes:
        """Raises `BadRequest` for what is no request."""
        try:
            request = msgspec.msgpack.decode(body, type=Read)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest("no request to read") from error
        if len(request.pcm) % 2 or len(request.pcm) > PIECE_BYTES_MAX:
            raise BadRequest("audio of a wrong size")
        spans = request.utterances
        inside = all(0 <= start < end <= len(request.pcm) // 2 for start, end in spans)
        if not inside or any(before[1] > after[0] for before, after in pairwise(spans)):
            raise BadRequest("utterances of a wrong size")
        return msgspec.msgpack.encode(self._read(request))

    def _read(self, request: Read) -> Reading:
        audio = np.frombuffer(request.pcm, "<i2")
        windows = together(request.utterances) if self._whisper.is_padded else request.utterances
        if not windows:
            return Reading(())
        heard = self._whisper.transcribe(
            audio.astype(np.float32) * _UNIT,
            windows,
            language=request.language,
            task=request.task,
            vocabulary=request.vocabulary,
        )
        return Reading(tuple(self._utterance(request, audio, Window(*each)) for each in heard))

    def _utterance(self, request: Read, audio: Pcm16, window: Window) -> ReadUtterance:
        words, trusted = words_of(window, audio[window.start : window.end])
        language = "en" if request.task == "translate" else window.language
        if words and trusted and request.task != "translate" and window.language in self.info.aligned:
            words = self._aligned(request, window, words)
        return ReadUtterance(window.start, window.end, words, language, trusted)

    def _aligned(self, request: Read, window: Window, words: tuple[ReadWord, ...]) -> tuple[ReadWord, ...]:
        """The words with the aligner's times, where it finds them."""
        pcm = request.pcm[2 * window.start : 2 * window.end]
        times = self._aligner.align(Align(window.language, tuple(word.text for word in words), pcm)).times
        if times is None:
            return words
        return tuple(
            ReadWord(word.text, window.start + samples_of(begin), window.start + samples_of(end), word.p)
            for word, (begin, end) in zip(words, times, strict=True)
        )


def together(utterances: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Utterances that are read in one window."""
    windows: list[tuple[int, int]] = []
    for start, end in utterances:
        fits = windows and end - windows[-1][0] <= WINDOW_SAMPLES_MAX and start - windows[-1][1] <= TOGETHER_SAMPLES_MAX
        if fits:
            windows[-1] = (windows[-1][0], end)
        else:
            windows.append((start, end))
    return tuple(windows)


def words_of(window: Window, audio: Pcm16) -> tuple[tuple[ReadWord, ...], bool]:
    """The words in order, inside the window, and whether they may be believed. `audio`: of the window."""
    pieces = tightened(pieces_of(window.heard, window.splitter, first=True), loud_steps(audio), 0)
    texts = [piece.text for piece in pieces]
    if not any(map(is_word, texts)) or (is_silence_text(texts) and window.logprob < DOUBTFUL_LOGPROB):
        return (), True
    is_loop = loop_start(list(window.heard.tokens)) is not None
    trusted = window.logprob >= UNLIKELY_LOGPROB and not is_loop and not is_repetitive(" ".join(texts))
    if not trusted:
        log.info("a window is not trusted ms=%d", ms_of(window.end - window.start))
    words = []
    earliest = window.start
    for piece in pieces:
        start = min(max(earliest, window.start + piece.start), window.end)
        earliest = min(max(start, window.start + piece.end), window.end)
        words.append(ReadWord(piece.text, start, earliest, min(1.0, max(0.0, piece.p))))
    return tuple(words), trusted


__all__ = ["Reader", "Window", "together", "words_of"]

if __name__ == "__main__":
    sys.exit(main())
