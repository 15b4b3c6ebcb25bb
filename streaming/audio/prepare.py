"""Bring quiet talk to the level that detectors and engines were made for. What is kept and played stays as it was sent.

    frame -> level of the last LOOK_FRAMES -> gain -> detector, engine

Policy: audio whose loudest frame of the last 4 s lies below `LEVEL_DBFS` is amplified up to there, by `GAIN_DB_MAX` at
most, as long as something stands out from the quietest frame by `CONTRAST_DB`: else it is a room in which nobody
speaks. A louder frame lowers the gain at once, a softer one raises it when the last loud one is 4 s old. Louder audio
passes bit by bit. An utterance's beginning, which lies before the frames that prove it, gets the gain of those.

An offset is taken off where it is worth it: the mean of the same 4 s, from a sixteenth of the level on.

Measured as sent and prepared, speech missed by the detector and word error rate: PocketSphinx on 174 s of recordings,
offsets on 78 s with the mean of 1 s; the micro Whisper on 80 words of synthetic talk (`bench/preparation.py`). At
0 dB they are as loud as usual.

    gain        recordings missed    PocketSphinx      micro Whisper
      0 dB      0.1%  ->  0.0%       0.396 -> 0.393    0.00 -> 0.00
    -30         7.2%  ->  0.0%       0.648 -> 0.411    0.05 -> 0.00
    -40        67.3%  ->  0.0%       0.956 -> 0.473    0.64 -> 0.00
    -50       100%    ->  1.6%       1.000 -> 0.604    1.00 -> 0.00
    offset 0.05 of full scale        0.507 -> 0.472    0.19 -> 0.00
    offset 0.2                       0.528 -> 0.472    0.26 -> 0.00

Left out: less gain for what is clipped (+12 dB: 0.515 and 0.11; what is gone stays gone); gain without contrast (finds
a percent more of the quietest talk, but wakes silero in every quiet room: 5.5 ms of CPU per second instead of 0.9, and
0.5 without any gain); contrast of 12 dB or of the differences between samples (at -52 dBFS over a room at -70 they miss
1 and 4% more). Rates of 8, 44.1 and 48 kHz cost no word, so resampling stays as it is. CPU: 0.25 ms per second.

Pure. Invariant: a frame's gain depends on the `LOOK_FRAMES` frames up to it, so whoever hears those first goes on
anywhere as if it had heard everything.
"""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from streaming.audio.pcm import Pcm16, to_int16
from streaming.model import FRAME_SAMPLES

LOOK_FRAMES = 125
"""4 s, longer than pauses inside talk. 2 and 8 s find the same speech."""
LEVEL_DBFS = -25.0
"""RMS of the loudest frame: what talk has whose mean level is -31 dBFS, somewhat below the usual."""
GAIN_DB_MAX = 30.0
"""20 dB lose 9% of talk at -72 dBFS instead of 1%; 40 dB find nothing more above that, and amplify the last bits."""
CONTRAST_DB = 9.0
"""Noise varies by less from frame to frame (rumble excepted), talk by more as soon as it is 10 dB above its room."""
FLOOR_DBFS = -90.0
"""One bit. Below is digital silence, from which everything would stand out."""

OFFSET_SHARE = 1 / 16
"""Of the loudest frame's level: a smaller offset changes no word. The mean of 4 s of talk stays below a hundredth."""
OFFSET_FRAMES_MIN = 16
"""Half a second: the mean of less is not that of the microphone but of the wave that it just hears."""

_FULL_POWER = 32_768.0**2
_LEVEL_POWER = _FULL_POWER * 10 ** (LEVEL_DBFS / 10)
_FLOOR_POWER = _FULL_POWER * 10 ** (FLOOR_DBFS / 10)
_GAIN_MAX = 10 ** (GAIN_DB_MAX / 20)
_ONES = np.ones(FRAME_SAMPLES)


class Leveller:
    """One stream's. `take` sees every frame once and in order."""

    def __init__(self) -> None:
        self._powers: deque[float] = deque(maxlen=LOOK_FRAMES)
        self._totals: deque[float] = deque(maxlen=LOOK_FRAMES)
        self._gain = 1.0
        self._offset = 0.0

    @property
    def gain(self) -> float:
        """At the newest frame's end; at least 1."""
        return self._gain

    @property
    def offset(self) -> float:
        """In int16 units, taken off at the newest frame's end."""
        return self._offset

    def take(self, frame: Pcm16) -> Pcm16:
        """The next frame, (512,) int16, as it is to be heard."""
        gain, offset = self._gain, self._offset
        self._weigh(frame)
        if self._gain <= gain and self._offset == offset:
            return self.at_level(frame)
        rising = _ramp(min(gain, self._gain), self._gain)
        return to_int16((frame - _ramp(offset, self._offset)) * rising)

    def at_level(self, audio: Pcm16) -> Pcm16:
        """Any audio with the present gain and offset."""
        if self._gain == 1.0 and self._offset == 0.0:
            return audio
        return to_int16((audio - np.float32(self._offset)) * np.float32(self._gain))

    def _weigh(self, frame: Pcm16) -> None:
        """The sums are whole numbers below 2**53, and so exact in whatever order they are added up."""
        wide = frame.astype(np.float64)
        total = float(wide @ _ONES)
        self._totals.append(total)
        self._powers.append((float(wide @ wide) * FRAME_SAMPLES - total * total) / FRAME_SAMPLES**2)
        loudest = max(_FLOOR_POWER, *self._powers)
        self._gain = 1.0
        if loudest >= max(_FLOOR_POWER, min(self._powers)) * 10 ** (CONTRAST_DB / 10):
            self._gain = min(_GAIN_MAX, max(1.0, math.sqrt(_LEVEL_POWER / loudest)))
        offset = sum(self._totals) / (len(self._totals) * FRAME_SAMPLES)
        counts = len(self._totals) >= OFFSET_FRAMES_MIN and abs(offset) > OFFSET_SHARE * math.sqrt(loudest)
        self._offset = offset if counts else 0.0


class Untouched:
    """For engines that want sound as it is (`Capabilities.activity`)."""

    def take(self, frame: Pcm16) -> Pcm16:
        return frame

    def at_level(self, audio: Pcm16) -> Pcm16:
        return audio


def leveller_for(activity: str) -> Leveller | Untouched:
    """For `Capabilities.activity`: talk is brought to its level, any other sound is not."""
    return Leveller() if activity == "speech" else Untouched()


def _ramp(begin: float, end: float) -> NDArray[np.float32]:
    """Along one frame."""
    return np.linspace(begin, end, FRAME_SAMPLES, dtype=np.float32)
