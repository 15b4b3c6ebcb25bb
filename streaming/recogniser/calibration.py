"""The program that measures a model's padding: `python -m streaming.recogniser.calibration FOLDER --name NAME`.

Prints what `parse` reads, one JSON object a line; the last one is a verdict or a failure. Exit status 0 or 1. The
server and the command line run it as a process of its own, behind everything else; it writes one file, at its end
(`streaming.recogniser.card.keep`), so it may be killed at any moment.

Speech: the files that `--speech` names, else what comes with Parlance (`speech/synthetic.ogg`: 60 s of espeak-ng, made
by `scripts/calibration_speech.py`). It is cut into utterances as a live stream is.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import av.error
import numpy as np

from streaming.audio.endpoint import CONVERSATION, Endpointer, UtteranceBegan
from streaming.audio.vad import VoiceDetector
from streaming.model import FRAME_SAMPLES, SAMPLE_RATE
from streaming.ports import Pcm16
from streaming.recogniser.calibrate import (
    PADDED,
    Cut,
    Event,
    Failed,
    TooLittleSpeech,
    Verdict,
    Written,
    cuts,
    line,
    measure,
)
from streaming.recogniser.card import Calibration, ModelCard, Padding, keep, writable
from streaming.recogniser.decoding import GREEDY, Ask, Decoder, Encoded
from streaming.recogniser.devices import devices
from streaming.recogniser.engine import EngineUnavailable
from streaming.recogniser.features import frames_of
from streaming.recogniser.languages import SURE_SAMPLES, known
from streaming.recogniser.place import find

SYNTHETIC = Path(__file__).resolve().parent / "speech" / "synthetic.ogg"
SPEECH_S_MAX = 1_200
"""Read at most: 38 MB of samples, and ten times what the windows need."""
THREADS = 2
"""Of one decode: it steps back behind a server that works."""
_UNIT = np.float32(1 / 32_768)


class NoSpeech(Exception):
    """There is nothing to measure on. The text is one sentence."""


def read(paths: Sequence[Path]) -> Pcm16:
    """(n_samples,) int16, 16 kHz mono: the files, and those that folders hold. Raises `NoSpeech`."""
    pieces: list[Pcm16] = []
    left = SPEECH_S_MAX * SAMPLE_RATE
    for path, is_named in _files(paths):
        for piece in _decoded(path, is_named=is_named):
            pieces.append(piece[:left])
            left -= len(pieces[-1])
            if not left:
                return np.concatenate(pieces)
        pieces.append(np.zeros(SAMPLE_RATE, np.int16))  # no utterance goes on in the next file
    if not any(piece.any() for piece in pieces):
        raise NoSpeech(f"There is no speech in {', '.join(map(str, paths))}.")
    return np.concatenate(pieces)


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    for path in paths:
        if path.is_dir():
            yield from ((file, False) for file in sorted(path.rglob("*")) if file.is_file())
        else:
            yield path, True


def _decoded(path: Path, *, is_named: bool) -> Iterator[Pcm16]:
    """What else lies in a folder is passed over, a file that was named is not."""
    try:
        with av.open(str(path)) as file:
            if not file.streams.audio:
                raise NoSpeech(f"There is no audio in {path}.")
            resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            for frame in file.decode(file.streams.audio[0]):
                for ready in resampler.resample(frame):
                    yield np.asarray(ready.to_ndarray()[0], np.int16)
            for ready in resampler.resample(None):
                yield np.asarray(ready.to_ndarray()[0], np.int16)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if is_named:
            reason = getattr(error, "strerror", None) or "its content is damaged"
            raise NoSpeech(f"{path} cannot be read as audio: {reason}.") from error
    except NoSpeech:
        if is_named:
            raise


def utterances(audio: Pcm16) -> list[tuple[int, int]]:
    """First sample and past-the-last of what a live stream would have cut out."""
    detector, endpointer = VoiceDetector(), Endpointer(CONVERSATION, 0)
    found: list[tuple[int, int]] = []
    start = 0
    for at in range(0, len(audio) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        is_speech = detector.is_speech(audio[at : at + FRAME_SAMPLES], in_speech=endpointer.in_speech)
        for effect in endpointer.step(is_speech):
            if isinstance(effect, UtteranceBegan):
                start = effect.sample
            else:
                found.append((start, effect.sample))
    return [*found, *((start, effect.sample) for effect in endpointer.force_end())]


class Ear:
    """`Listen` of a loaded model. `wish`: the language of the speech, else what the padded model hears in the longest
    window of each utterance."""

    def __init__(self, decoder: Decoder, audio: Pcm16, windows: Sequence[Cut], wish: str) -> None:
        self._decoder = decoder
        self._audio = audio
        self._languages: dict[int, str] = {}
        asked = known(wish, decoder.languages)
        for window in sorted(windows, key=lambda window: window.end):
            self._languages[window.start] = asked or self._heard(self._encoded(window, PADDED))

    def __call__(self, window: Cut, padding: Padding) -> Written:
        began = time.process_time()
        encoded = self._encoded(window, padding)
        language = self._languages[window.start]
        n_samples = window.end - window.start
        (text,) = self._decoder.write(encoded, [Ask(0, n_samples, language)], GREEDY)
        cpu_ms = (time.process_time() - began) * 1_000
        heard = self._heard(encoded) if n_samples >= SURE_SAMPLES else ""
        return Written(str(self._decoder.tokenizer(language).decode(list(text.tokens))), cpu_ms, heard)

    def _encoded(self, window: Cut, padding: Padding) -> Encoded:
        audio = self._audio[window.start : window.end].astype(np.float32) * _UNIT
        return self._decoder.encode([audio], padding.frames(frames_of(len(audio))))

    def _heard(self, encoded: Encoded) -> str:
        if not self._decoder.is_multilingual:
            return "en"
        return self._decoder.languages_of(encoded, [0])[0][0][0]


def load(folder: Path, wanted: str) -> Decoder:
    """On the first device that can have it. Raises `EngineUnavailable`."""
    asked = devices(wanted, "auto")
    for device in asked:
        try:
            decoder = Decoder(
                folder, ModelCard(), device=device.kind, device_index=device.index, compute_type=device.compute_type,
                threads=THREADS,
            )  # fmt: skip
            decoder.encode([np.zeros(SAMPLE_RATE, np.float32)], decoder.frames(SAMPLE_RATE))
        except Exception as error:  # the component boundary: tokenizers raise plain exceptions
            if device is asked[-1]:
                reason = " ".join(str(error).split())[:200]
                raise EngineUnavailable(f"the Whisper model in {folder} cannot be loaded: {reason}") from error
        else:
            return decoder
    raise EngineUnavailable("there is no device")


def calibrate(model: str, name: str, speech: Sequence[Path], language: str, device: str) -> Verdict:
    """Measure and keep it. Raises `NoSpeech`, `TooLittleSpeech`, `EngineUnavailable`, OSError."""
    folder = find(model)
    audio = read(speech or [SYNTHETIC])
    windows = cuts(utterances(audio))
    writable()  # before minutes of work
    ear = Ear(load(folder, device), audio, windows, language)
    verdict = measure(windows, ear, synthetic=not speech, tell=tell)
    padded, row = verdict.rows[0], verdict.row
    keep(
        folder,
        Calibration(
            model=name,
            padding=verdict.chosen,
            synthetic=verdict.synthetic,
            words=row.words,
            differ=row.differ,
            cpu_ms=row.cpu_ms,
            padded_cpu_ms=padded.cpu_ms,
        ),
    )
    return verdict


def tell(event: Event) -> None:
    sys.stdout.write(line(event) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="streaming.recogniser.calibration")
    parser.add_argument("folder")
    parser.add_argument("--name", required=True)
    parser.add_argument("--speech", type=Path, action="append", default=[])
    parser.add_argument("--language", default="auto")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    try:
        tell(calibrate(given.folder, given.name, given.speech, given.language, given.device))
    except (NoSpeech, TooLittleSpeech) as error:
        tell(Failed(str(error)))
    except EngineUnavailable as error:
        text = str(error)
        tell(Failed(text[:1].upper() + text[1:] + "."))
    except OSError as error:
        where = error.filename or "the folder of calibrations"
        tell(Failed(f"{where} cannot be written: {error.strerror}; XDG_CACHE_HOME names another place."))
    else:
        return 0
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is lost by ending at once, and no traceback is wanted
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
