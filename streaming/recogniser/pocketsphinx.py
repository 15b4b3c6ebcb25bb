"""PocketSphinx: the engine that needs no download, because its wheel carries an English model.

It is for trying the program, and `Capabilities.notice` says so. Measured with `bench/engines.py` on 25 recordings
(212 s of read, narrated, acted and telephone speech); WER of the final text, CPU per second of audio, time from the
end of the audio to the final. `fwdflat` is off: it takes 0.4 to 1.4 s.

    bestpath  other                      WER    CPU    mean / max
    no        -                          0.541  0.170  13 / 52 ms
    no        maxhmmpf=6000              0.544  0.108   9 / 20 ms
    no        maxhmmpf=3000, maxwpf=10   0.561  0.084   7 / 17 ms
    yes       maxhmmpf=6000              0.500  0.142  85 / 510 ms

`bestpath` rescores when an utterance ends, and then contradicts 20% of the words that agreement between partials has
committed, so committed text gains nothing from it (0.553 against 0.546). Therefore an utterance is decoded phrase by
phrase: a pause of 200 ms ends a phrase, its words are rescored and declared `fixed`, and only fixed words become
stable. On utterances as the endpointer cuts them: WER 0.517 (against 0.508 with one phrase an utterance), 86% of the
words fixed before the final, none contradicted, CPU 0.106, end 11 / 24 ms. One clean reading of 44 s, begun at six
sample offsets below 30 ms, gives WER 0.29 to 0.39, mean 0.34, with every beam: single figures of this engine swing.

The cepstral mean travels with the stream as `Final.context`; a stream begins with the model's own. Better first means
(its usual values, re-estimates every 0.5 s, a look at the first second) moved the WER by less than 0.01: left out. The
estimate of the background noise cannot be carried and starts anew with each utterance (0.01 worse).

Fixed words carry their posterior as `p`, words under way 1.0. A vocabulary is ignored: the model's words are given.

Boundary: imported in worker processes only; a decoder takes 90 MB and 0.25 s and holds the interpreter while it works.
Invariant: the hypotheses depend on the samples, not on how they were cut into calls of `feed`.
"""

import math
import re
from typing import Any

from pocketsphinx import Decoder

from streaming.limits import LIMITS
from streaming.model import SAMPLE_RATE, Capabilities, Final, Hypothesis, UtteranceSpec, Word, ms_of
from streaming.ports import Pcm16
from streaming.recogniser.engine import cores

SETTINGS: dict[str, object] = {"fwdflat": False, "bestpath": True, "maxhmmpf": 6000}
"""Where the decoder differs from its defaults; figures above."""
DECODERS_PER_CORE = 4
"""A decoder uses 0.11 of a core per stream that speaks, and works in bursts: four share a core without lagging. So many
speak at once, about seven streams a core; who speaks beyond that waits for a place, and new streams are refused."""
DECODERS_MIN = 4
FRAME_SAMPLES = SAMPLE_RATE // 100
"""The decoder counts time in frames of 10 ms."""
LOOK_SAMPLES = SAMPLE_RATE // 10
"""How often a phrase's end is looked for."""
PAUSE_FRAMES = 20
"""A pause of 200 ms ends a phrase: far shorter than the silence that ends an utterance."""
PHRASE_SAMPLES_MIN = SAMPLE_RATE
"""Shorter phrases would leave the language model without context."""
MEAN_COEFFICIENTS = 13
MEAN_ABS_MAX = 1_000.0
"""No cepstral mean of int16 audio comes near; what lies beyond is not a mean."""
CONTEXT_BYTES_MAX = 1_024

_NOT_A_WORD = re.compile(r"<.*>|\[.*\]|\+\+.*\+\+")
_VARIANT = re.compile(r"\(\d+\)$")


class PocketSphinxEngine:
    """The engine, see the module. `settings` go to the decoder on top of `SETTINGS`, for measuring."""

    def __init__(self, **settings: object) -> None:
        self._settings = {**SETTINGS, **settings}
        self._decoder: Any = None
        self._prior = ""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="pocketsphinx",
            model="en-us",
            languages=("en",),
            hop_ms=300,
            agreement=0,
            holdback_words=0,
            activity="speech",
            utterances_max=max(DECODERS_MIN, DECODERS_PER_CORE * cores()),
            utterance_ms_max=LIMITS.utterance_ms_max,
            in_order=True,
            notice="Captions come from PocketSphinx, a modest English engine for trying the program: "
            "expect about every second or third word of free speech to be wrong; it is not Whisper.",
        )

    def load(self) -> None:
        self._decoder = Decoder(loglevel="FATAL", **self._settings)
        self._prior = self._decoder.get_cmn()

    def begin(self, spec: UtteranceSpec) -> "PocketSphinxUtterance":
        """Raises RuntimeError when the previous utterance has not ended."""
        return PocketSphinxUtterance(self._decoder, spec.start_sample, mean_of(spec.context) or self._prior)


class PocketSphinxUtterance:
    """One utterance; see `streaming.recogniser.engine.EngineUtterance`. Decoded phrase by phrase, see the module."""

    def __init__(self, decoder: Any, start_sample: int, mean: str) -> None:
        self._decoder = decoder
        self._start_sample = start_sample
        self._fed_samples = 0
        self._phrase_at = 0
        self._fixed: list[Word] = []
        decoder.start_stream()  # forgets the noise of the utterance before, which may be another stream's
        decoder.set_cmn(mean)
        decoder.start_utt()

    def feed(self, audio: Pcm16) -> None:
        at = 0
        while at < len(audio):  # the decoder raises IndexError for nothing
            piece = audio[at : at + LOOK_SAMPLES - self._fed_samples % LOOK_SAMPLES]
            self._decoder.process_raw(piece.tobytes())
            at += len(piece)
            self._fed_samples += len(piece)
            if self._fed_samples % LOOK_SAMPLES == 0 and self._phrase_ended():
                self._end_phrase()
                self._decoder.start_utt()

    def partial(self) -> Hypothesis:
        words = (*self._fixed, *self._words(posterior=False))
        until = self._start_sample + self._fed_samples
        return Hypothesis(words, until_sample=until, fixed=len(self._fixed))

    def final(self) -> Final:
        self._end_phrase()
        until = self._start_sample + self._fed_samples
        words = tuple(self._fixed)
        return Final(Hypothesis(words, until_sample=until, fixed=len(words)), context=self._decoder.get_cmn().encode())

    def discard(self) -> None:
        self._decoder.end_utt()

    def _phrase_ended(self) -> bool:
        """Did somebody speak in this phrase, and then pause for `PAUSE_FRAMES`?"""
        if self._fed_samples - self._phrase_at < PHRASE_SAMPLES_MIN or self._decoder.hyp() is None:
            return False
        pause_frames = 0
        for segment in reversed(list(self._decoder.seg())):
            if word_text(segment.word):
                return pause_frames >= PAUSE_FRAMES
            pause_frames += segment.end_frame - segment.start_frame + 1
        return False

    def _end_phrase(self) -> None:
        self._decoder.end_utt()
        self._fixed.extend(self._words(posterior=True))
        self._phrase_at = self._fed_samples

    def _words(self, *, posterior: bool) -> list[Word]:
        """Words of the phrase under way. `posterior`: it has ended, so the decoder knows how sure it is of each."""
        if self._decoder.hyp() is None:  # then there is no segmentation either, and asking for it raises
            return []
        words = []
        origin = self._start_sample + self._phrase_at
        held = self._fed_samples - self._phrase_at
        for segment in self._decoder.seg():
            text = word_text(segment.word)
            if text:
                start = min(segment.start_frame * FRAME_SAMPLES, held)
                end = min((segment.end_frame + 1) * FRAME_SAMPLES, held)
                p = min(1.0, segment.prob) if posterior else 1.0
                words.append(Word(text, ms_of(origin + start), ms_of(origin + end), p))
        return words


def word_text(entry: str) -> str:
    """The word of a dictionary entry: "read(2)" is read; fillers such as <sil>, [NOISE] and ++UH++ are nothing."""
    return "" if _NOT_A_WORD.fullmatch(entry) else _VARIANT.sub("", entry)


def mean_of(context: bytes) -> str | None:
    """The cepstral mean in a context; None when there is none, for example when another engine wrote it."""
    if not 0 < len(context) <= CONTEXT_BYTES_MAX:
        return None
    try:
        text = context.decode("ascii")
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        return None
    usable = len(numbers) == MEAN_COEFFICIENTS and all(math.isfinite(n) and abs(n) < MEAN_ABS_MAX for n in numbers)
    return text if usable else None
