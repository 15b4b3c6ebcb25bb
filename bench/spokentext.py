"""Talk without end, made of the evaluation's: for benchmarks that need a hundred thousand segments.

Policy: a segment is one that a person wrote for `bench/quality` with most of its telling words exchanged for others of
its language, so its length, its little words and its punctuation are those of talk. Words are drawn in Zipf's
proportions: the n-th has weight 1/n; first the evaluation's own by how often they are said, then, in English, those of
the pronouncing dictionary that PocketSphinx carries, in an order drawn once.

Vectors: embedding all of it takes a quarter of an hour (4 to 10 ms each). So a few thousand generated segments are
embedded by the real model, and every other one gets a vector between two of them that were made of the same segment,
moved a little in a random direction: mixed 0.5 to 0.9 of one with the other, plus noise of length 0.25. Neighbours are
then as near to each other as real ones are, and no two segments have the same vector.

Pure but for reading the dictionary. Invariant: the same seed gives the same segments and vectors.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pocketsphinx
from numpy.typing import NDArray

from bench.filling import Said, Talk
from bench.quality.corpus import corpus
from search.analysis import is_stop
from search.model import Vector

PIECE = re.compile(r"\w+|\W+")
EXCHANGED = 0.75
"""Of the telling words."""
RECORDING_SEGMENTS = 100
TENANT_SEGMENTS_MIN = 20
PAUSE_MS, WORD_MS = 600, 380
BEGAN = datetime(2025, 1, 6, 9, tzinfo=UTC)
NOISE = 0.25


class Spoken:
    """Segments, drawn one batch after the other."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        held = corpus()
        languages = {r.recording_id: r.language for r in held.recordings}
        self.templates: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
        said: dict[str, Counter[str]] = defaultdict(Counter)
        for number, segment in enumerate(held.segments):
            language = languages[segment.recording_id]
            pieces = PIECE.findall(segment.text)
            self.templates[language].append((number, pieces))
            said[language].update(piece for piece in pieces if telling(piece, language))
        self.words = {language: [word for word, _ in counted.most_common()] for language, counted in said.items()}
        self.words["en"] += self._dictionary(known=set(self.words["en"]))

    def _dictionary(self, known: set[str]) -> list[str]:
        path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
        told = (line.split(maxsplit=1)[0] for line in path.read_text().splitlines() if line.strip())
        words = sorted({word for word in told if word.isalpha() and len(word) > 2} - known)
        self._rng.shuffle(words)
        return words

    def texts(self, language: str, count: int) -> list[tuple[int, str]]:
        """(number of the segment that it was made of, text)."""
        templates = self.templates[language]
        chosen = self._rng.integers(0, len(templates), count)
        slots = sum(telling(piece, language) for at in chosen for piece in templates[at][1])
        words = self.words[language]
        weight = 1 / np.arange(1, len(words) + 1)
        drawn = iter(self._rng.choice(len(words), size=slots, p=weight / weight.sum()).tolist())
        kept = iter((self._rng.random(slots) >= EXCHANGED).tolist())
        made = []
        for at in chosen.tolist():
            number, pieces = templates[at]
            out = []
            for piece in pieces:
                if telling(piece, language):
                    other = words[next(drawn)]
                    piece = piece if next(kept) else (other.capitalize() if piece[:1].isupper() else other)
                out.append(piece)
            made.append((number, "".join(out)))
        return made


def telling(piece: str, language: str) -> bool:
    return piece.isalpha() and len(piece) > 2 and not is_stop(piece.casefold(), language)


def sizes(total: int, tenants: int) -> list[int]:
    """Segments of each tenant, the largest first: the n-th has 1/n of the first."""
    weight = 1 / np.arange(1, tenants + 1)
    shares = np.maximum(TENANT_SEGMENTS_MIN, total * weight / weight.sum()).astype(int)
    return [int(share) for share in shares]


class Library:
    """What one tenant's people said. `made_of`: the number of the segment that each was made of."""

    def __init__(self, spoken: Spoken, tenant: str, count: int) -> None:
        self.tenant = tenant
        self.talks: list[Talk] = []
        self.said: list[Said] = []
        self.made_of: list[int] = []
        for start in range(0, count, RECORDING_SEGMENTS):
            language = "de" if len(self.talks) % 3 == 2 else "en"
            name = f"{tenant}-r{len(self.talks)}"
            began = BEGAN + timedelta(minutes=7 * len(self.talks))
            talk = Talk(name, f"Talk {len(self.talks)}", language, began, {"S1": "Anna", "S2": "Bert"})
            at_ms = 0
            for number, text in spoken.texts(language, min(RECORDING_SEGMENTS, count - start)):
                end_ms = at_ms + WORD_MS * len(text.split())
                speaker = "S1" if len(self.said) % 2 else "S2"
                self.said.append(Said(f"{tenant}-s{len(self.said)}", name, speaker, at_ms, end_ms, text))
                self.made_of.append(number)
                at_ms = end_ms + PAUSE_MS
            self.talks.append(talk)


def vectors(bases: Mapping[int, Sequence[Vector]], made_of: Sequence[int], seed: int) -> NDArray[np.float32]:
    """(segments, dimensions) float32 of unit length. `bases`: embedded segments by what they were made of."""
    rng = np.random.default_rng(seed)
    first, second = [], []
    for number in made_of:
        near = bases[number]
        first.append(near[int(rng.integers(len(near)))])
        second.append(near[int(rng.integers(len(near)))])
    share = rng.uniform(0.5, 0.9, (len(made_of), 1)).astype(np.float32)
    noise = rng.standard_normal((len(made_of), len(first[0]))).astype(np.float32)
    noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    drawn = share * np.stack(first) + (1 - share) * np.stack(second) + noise
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)
