"""Likeness of voices, and who is whom among a few.

Pure: vectors are float64 of unit length, likeness is their product (1: the same, about 0: two people).
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from streaming.diariser.voices import Known, Recognised, Speaker

CANDIDATES = 3
"""Persons that one voice of a window is weighed for: a window has few voices, and the others are less alike."""
KNOWN_MIN = 0.70
"""Likeness to an enrolled voice: stricter than among the speakers of a recording, because nobody else need be there."""
KNOWN_MARGIN = 0.08
"""By which the enrolled voice must be more alike than any other enrolled one."""
KNOWN_MS_MIN = 4_000
"""Of clean speech."""

Likeness = NDArray[np.float64]


def vector_of(packed: bytes) -> Likeness:
    return np.frombuffer(packed, "<f4").astype(np.float64)


def unit(vector: Likeness) -> Likeness:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector


def packed(vector: Likeness) -> bytes:
    return vector.astype("<f4").tobytes()


def best(affinity: Likeness, floor: float) -> list[int | None]:
    """(n_voices, n_people): for each voice a person of its own, or None, so that the sum of what lies above the floor
    is largest."""
    choices: list[list[int | None]] = []
    for row in affinity:
        nearest = np.argsort(-row, kind="stable")[:CANDIDATES].tolist()
        choices.append([*(at for at in nearest if row[at] >= floor), None])
    most = -1.0
    found: list[int | None] = [None] * len(affinity)
    for chosen in product(*choices):
        taken = [at for at in chosen if at is not None]
        worth = sum(float(row[at]) - floor + 1e-6 for row, at in zip(affinity, chosen, strict=True) if at is not None)
        if len(set(taken)) == len(taken) and worth > most:
            most, found = worth, list(chosen)
    return found


def enrolled(speakers: Sequence[Speaker], known: Sequence[Known]) -> tuple[Recognised, ...]:
    """Speakers who are enrolled voices; each voice is one speaker's at most."""
    voices = [(voice.voice_id, vector_of(voice.vector)) for voice in known if voice.vector]
    found: list[tuple[float, str, str]] = []
    for speaker in speakers:
        if speaker.clean_ms < KNOWN_MS_MIN or not speaker.vector:
            continue
        mine = vector_of(speaker.vector)
        alike = sorted(
            ((float(mine @ vector), name) for name, vector in voices if len(vector) == len(mine)), reverse=True
        )
        if alike and alike[0][0] >= KNOWN_MIN and (len(alike) < 2 or alike[0][0] - alike[1][0] >= KNOWN_MARGIN):
            found.append((*alike[0], speaker.label))
    taken: dict[str, str] = {}
    for _, voice_id, label in sorted(found, reverse=True):
        taken.setdefault(voice_id, label)
    return tuple(Recognised(label, voice_id) for voice_id, label in sorted(taken.items(), key=lambda pair: pair[1]))
