"""Where a long recording is cut into pieces that are read one after the other.

Policy: a piece has `PIECE_MS_MIN` to `PIECE_MS_MAX` and ends in the middle of the longest silence there is in between,
so that utterances stay whole. Where nobody is silent for `SILENCE_MS_MIN` it ends at the quietest place of its second
half. A recording's last piece may be of any length below `PIECE_MS_MAX`. Inside the piece utterances are cut by the
rules of live talk.

A piece depends on the audio from `lead_in` before its beginning on, and on nothing else: whoever begins there, after a
crash or on another node, cuts it the same.

Pure but for the detector that it is given. Invariants: pieces follow each other without a gap; all boundaries lie on
the frame grid."""

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np

from streaming.audio.endpoint import Endpointer, EndpointRules, UtteranceBegan
from streaming.audio.pcm import Pcm16
from streaming.audio.prepare import Leveller, Untouched
from streaming.limits import LIMITS
from streaming.model import FRAME_SAMPLES, samples_of

PIECE_MS_MIN, PIECE_MS_MAX = LIMITS.pass_piece_ms_min, LIMITS.pass_piece_ms_max
SILENCE_MS_MIN = 128
"""Shorter ones are inside words: closures of consonants last 50 to 100 ms."""
_MIN, _MAX, _SILENCE = (samples_of(ms) // FRAME_SAMPLES for ms in (PIECE_MS_MIN, PIECE_MS_MAX, SILENCE_MS_MIN))
PIECE_SAMPLES_MAX = _MAX * FRAME_SAMPLES


class Piece(msgspec.Struct, frozen=True):
    """`audio`: (n,) int16, 16 kHz, at the level for recognition, its first sample is `start_sample` of the recording;
    `utterances`: (first, one past the last) sample of the recording of each, in order."""

    start_sample: int
    audio: Pcm16
    utterances: tuple[tuple[int, int], ...]

    @property
    def end_sample(self) -> int:
        return self.start_sample + len(self.audio)


class Detector(Protocol):
    """The part of `streaming.ports.SpeechDetector` that is needed here."""

    def is_speech(self, frame: Pcm16, *, in_speech: bool) -> bool: ...


class Listener:
    """Hears frames one by one, as a live stream does; `piece` when it has heard enough."""

    def __init__(
        self,
        start_sample: int,
        rules: EndpointRules,
        detector: Detector,
        leveller: Leveller | Untouched,
        *,
        lead_in_frames: int,
    ) -> None:
        """The first `lead_in_frames` frames that are heard lie before `start_sample`."""
        self._start = start_sample
        self._rules = rules
        self._detector = detector
        self._leveller = leveller
        self._before = lead_in_frames
        self._endpointer = Endpointer(rules, start_sample - lead_in_frames * FRAME_SAMPLES)
        self._frames: list[Pcm16] = []
        self._speech: list[bool] = []

    def hear(self, audio: Pcm16) -> None:
        """Whole frames that follow what was heard before."""
        for at in range(0, len(audio), FRAME_SAMPLES):
            frame = self._leveller.take(audio[at : at + FRAME_SAMPLES])
            speech = self._detector.is_speech(frame, in_speech=self._endpointer.in_speech)
            self._endpointer.step(speech)
            if self._before:
                self._before -= 1
                continue
            self._frames.append(frame)
            self._speech.append(speech)

    def piece(self) -> Piece:
        """What was heard up to the best cut; all of it when that is less than `PIECE_MS_MAX`: then it is the last."""
        levels = [float(np.std(frame, dtype=np.float64)) for frame in self._frames]
        end = len(self._frames) if len(self._frames) < _MAX else cut(self._speech[:_MAX], levels[:_MAX])
        return Piece(
            self._start,
            np.concatenate([np.empty(0, np.int16), *self._frames[:end]]),
            utterances(self._speech[:end], self._rules, self._start),
        )


def cut(speech: Sequence[bool], levels: Sequence[float]) -> int:
    """After how many frames a piece ends."""
    best, best_at = 0, 0
    run = 0
    for index in range(_MIN, len(speech)):
        run = 0 if speech[index] else run + 1
        if run > best:
            best, best_at = run, index + 1 - (run + 1) // 2
    if best >= _SILENCE:
        return best_at
    middle = (_MIN + len(levels)) // 2
    return min(range(middle, len(levels)), key=lambda index: (levels[index], -index)) + 1


def utterances(speech: Sequence[bool], rules: EndpointRules, start_sample: int) -> tuple[tuple[int, int], ...]:
    """Where people speak in a piece whose first frame begins at `start_sample`."""
    endpointer = Endpointer(rules, start_sample)
    found: list[tuple[int, int]] = []
    begin = start_sample
    effects = [effect for each in speech for effect in endpointer.step(each)]
    for effect in (*effects, *endpointer.force_end()):
        if isinstance(effect, UtteranceBegan):
            begin = effect.sample
        else:
            found.append((begin, effect.sample))
    return tuple(found)
