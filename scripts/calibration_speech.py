"""Make the synthetic speech that a model's padding is measured on where nobody gave recordings of their own.

    PYTHONPATH=. python scripts/calibration_speech.py

Needs espeak-ng. Sentences of the tests' grammar by ten voices, and two long turns with short pauses, so that windows of
up to 20 s find words in all of it. Opus at 14 kbit/s, mono: what is compared is one model's text with its own.
"""

import itertools
import random
from pathlib import Path

import av
import numpy as np

from streaming.model import SAMPLE_RATE
from tests.support import corpus
from tests.support.synth import random_voice, talk

PLACE = Path(__file__).resolve().parents[1] / "streaming" / "recogniser" / "speech" / "synthetic.ogg"
SEED = 77_001
BITS_PER_SECOND = 14_000
TURNS = 10
LONG = (5, 8)
"""Sentences without a pause that would end an utterance."""


def main() -> None:
    rng = random.Random(SEED)
    texts = corpus.sentences(SEED, words_min=4)
    turns = talk(list(itertools.islice(texts, TURNS)), [random_voice(rng) for _ in range(TURNS)], seed=SEED)
    parts = [turns.audio]
    for number, count in enumerate(LONG):
        voice = random_voice(rng)
        parts.append(talk(list(itertools.islice(texts, count)), [voice], pauses_ms=(100, 300), seed=number).audio)
    audio = np.concatenate(parts)
    PLACE.parent.mkdir(exist_ok=True)
    with av.open(str(PLACE), "w", format="ogg") as file:
        stream = file.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = BITS_PER_SECOND
        frame = av.AudioFrame.from_ndarray(audio.reshape(1, -1), format="s16", layout="mono")
        frame.rate = SAMPLE_RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


if __name__ == "__main__":
    main()
