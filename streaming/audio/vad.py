"""Voice and sound detectors: the adapters of `ports.SpeechDetector`.

`VoiceDetector`: webrtcvad gates, silero decides. The gate (5 us a frame against 80) sees every sample once, in 10 ms
pieces that run on across frames, because it adapts to the noise it hears; one voiced piece opens it. Until somebody
speaks silero runs on gated frames only; once the endpointer believes in speech it runs on every frame, so the gate can
delay a beginning but never cut an end. In skipped frames silero's state stands still, and when the gate opens it first
hears the last `REPLAY_FRAMES` of them. Measured against silero on every frame, on 235 s of read and spontaneous talk in
30 pieces with 3 s of silence between them: it misses 0.2% of the speech frames in clean audio, 0.6% with noise at
-60 dBFS, 0.8% at -40 dBFS, 1.1% when 26 dB quieter, and of 173 utterances in these four one (0.7 s, quiet). Setting the
state to zero instead of keeping it missed 6.5% of the quiet speech.

Speech begins only where a frame is above `THRESHOLD_SURE`, or right behind one: without that, an arpeggio that grew by
30 dB from one sample to the next was twice in half an hour taken for 100 ms of talk. On 51 beginnings of talk
(recordings, and single words such as "no" at three speeds, also 30 dB quieter) 0.85 lost no further utterance (one in
either way) and 0.0 to 0.4 points of the frames. Of the rooms, noises, machines, signals and music of
`tests/support/nonspeech.py` half an hour of each lets nothing through, except a synthesiser that moves formants as
mouths do. Of that silero is as sure as of talk, so no threshold, longer proof or mean over a beginning would tell.

The price is silero's memory: of short talk right behind 30 s of a melody 20% is missed (16% without `THRESHOLD_SURE`),
behind loud pink noise 10% (8%), behind a voice chopped into tenths of a second 36% (25%), also when silero runs on
every frame. Its state set to zero after 5 s without speech, or after half a second with the gate shut, loses none of
that talk, but then half of the kinds of music become 3 to 19 utterances in half an hour, with words in them. So it
keeps its state.

`SoundDetector`: loud or not, for engines that take any sound (and for tests that need exact boundaries).

The model's weights come from the silero-vad wheel; that package imports torch, so it is only located, never imported.
Boundary: numpy in, bool out; one instance per stream, the ONNX session is immutable and shared by the process.
"""

import importlib.util
from collections import deque
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import webrtcvad
from numpy.typing import NDArray

from streaming.audio.pcm import Pcm16
from streaming.model import FRAME_SAMPLES, SAMPLE_RATE

THRESHOLD_BEGIN, THRESHOLD_STAY = 0.5, 0.35
"""Silero's own defaults: begin at 0.5, go on down to 0.15 below it."""

THRESHOLD_SURE, SURE_FRAMES = 0.8, 3
"""Speech begins only at a frame of which silero is sure, or at most so many frames behind one."""

CONTEXT_SAMPLES = 64
"""Silero v5 and v6 want the last 64 samples of the previous frame before the 512 of this one (`OnnxWrapper.__call__` in
the wheel's utils_vad.py)."""

_UNIT = np.float32(1 / 32_768)
"""int16 to -1..1, exact."""

REPLAY_FRAMES = 4
"""128 ms: more (8) changed nothing in what is missed, none at all lost 4 of 72 beginnings in quiet speech."""

GATE_MODE = 2
"""Of webrtcvad's 0..3. Misses 0.4% of silero's speech frames and no beginning (191), open in a third of the rest.
Mode 3 misses 6% and 23 beginnings, mode 1 is open in half of the rest."""

GATE_SAMPLES = 160
"""10 ms, its shortest piece: pieces of 20 ms miss 6 of the 191 beginnings, 30 of every 32 ms miss 3."""

SOUND_DBFS = -45.0
"""RMS below which a frame counts as quiet: quiet rooms are recorded near -60 dBFS, talk above -35."""


@cache
def _silero() -> onnxruntime.InferenceSession:
    """The model, loaded once (30 ms, 2 MB)."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package silero-vad, which carries the voice detector's model, is not installed")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    path = Path(spec.origin).parent / "data" / "silero_vad.onnx"
    return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])


class Silero:
    """Silero's recurrent model on one stream: its state and the context that it wants before each frame."""

    _RATE = np.array(SAMPLE_RATE, np.int64)

    def __init__(self) -> None:
        self._session = _silero()
        self.reset()

    def reset(self) -> None:
        """As at the start of a stream."""
        self._state: NDArray[np.float32] = np.zeros((2, 1, 128), np.float32)
        self._context: NDArray[np.float32] = np.zeros(CONTEXT_SAMPLES, np.float32)

    def probability(self, frame: Pcm16) -> float:
        """Probability that the next frame, (512,) int16, is speech."""
        samples = np.concatenate([self._context, frame.astype(np.float32) * _UNIT])
        output, self._state = self._session.run(
            None, {"input": samples[np.newaxis], "state": self._state, "sr": self._RATE}
        )
        self._context = samples[-CONTEXT_SAMPLES:]
        return float(output[0, 0])

    def skip(self, frame: Pcm16) -> None:
        """Go past a frame without judging it: the state stands still, the context follows."""
        self._context = frame[-CONTEXT_SAMPLES:].astype(np.float32) * _UNIT


class _Gate:
    """webrtcvad over a continuous stream of 10 ms pieces; a frame of 32 ms completes three of them or four."""

    def __init__(self) -> None:
        self._vad = webrtcvad.Vad(GATE_MODE)
        self._rest = b""

    def is_open(self, frame: Pcm16) -> bool:
        data = self._rest + frame.astype("<i2", copy=False).tobytes()
        step = 2 * GATE_SAMPLES
        whole = len(data) // step * step
        self._rest = data[whole:]
        voiced = [self._vad.is_speech(data[at : at + step], SAMPLE_RATE) for at in range(0, whole, step)]
        return any(voiced)


class VoiceDetector:
    """`SpeechDetector` for human speech. CPU per second of audio: 0.2 ms in silence and hum, 2.6 ms in speech."""

    def __init__(self) -> None:
        self._silero = Silero()
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next frame does not follow the previous one."""
        self._silero.reset()
        self._gate = _Gate()
        self._skipped: deque[Pcm16] = deque()
        self._since_sure = SURE_FRAMES + 1

    def is_speech(self, frame: Pcm16, *, in_speech: bool) -> bool:
        """Whether somebody speaks in `frame`, (512,) int16. Raises ValueError on another length."""
        _check(frame)
        if not self._gate.is_open(frame) and not in_speech:
            self._skip(frame)
            return False
        while self._skipped:
            self._silero.probability(self._skipped.popleft())
        probability = self._silero.probability(frame)
        self._since_sure = 0 if probability >= THRESHOLD_SURE else self._since_sure + 1
        if in_speech:
            return probability >= THRESHOLD_STAY
        return probability >= THRESHOLD_BEGIN and self._since_sure <= SURE_FRAMES

    def _skip(self, frame: Pcm16) -> None:
        self._skipped.append(frame)
        if len(self._skipped) > REPLAY_FRAMES:
            self._silero.skip(self._skipped.popleft())


class SoundDetector:
    """`SpeechDetector` for any sound: RMS around the mean (an offset is no sound) at `floor_dbfs` or above.

    Memoryless: the same frame gets the same answer, whatever came before and whatever is believed."""

    def __init__(self, floor_dbfs: float = SOUND_DBFS) -> None:
        self._floor = 32_768 * 10 ** (floor_dbfs / 20)

    def reset(self) -> None:
        """Nothing to forget."""

    def is_speech(self, frame: Pcm16, *, in_speech: bool) -> bool:
        """Whether `frame`, (512,) int16, is loud enough. Raises ValueError on another length."""
        _check(frame)
        return np.std(frame, dtype=np.float64).item() >= self._floor


def _check(frame: Pcm16) -> None:
    if frame.shape != (FRAME_SAMPLES,):
        raise ValueError(f"a frame has {FRAME_SAMPLES} samples of one channel, not the shape {frame.shape}")


def detector_for(activity: str) -> VoiceDetector | SoundDetector:
    """A new detector for `Capabilities.activity`: "speech" or "sound". Raises ValueError on any other."""
    if activity == "speech":
        return VoiceDetector()
    if activity == "sound":
        return SoundDetector()
    raise ValueError(f"no detector for activity {activity!r}")
