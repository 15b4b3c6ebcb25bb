"""From what the two models say about a window to who is active when and what they sound like.

The segmentation model (pyannote segmentation-3.0) tells up to three speakers of a window apart and gives, for each
frame, the probability of every set of at most two of them. The likeliest set counts, without a threshold. It takes two
people for one now and then, above all over telephones, so what it calls one speaker is cut into pieces, and pieces that
sound unlike become voices of their own.

The speaker model (CAM++) is run over the speech of one speaker alone, because it normalises by all that it is given.
Its last layer only looks at means and deviations over time, so the vectors of the pieces cost nothing more.

Measured on composed conversations (`bench.conversations`). Segmentation alone, labels given by hand: in windows of 6 s
0.087 of the time is wrong; the older model in whisperx' wheel has 0.081 in the 5 s that it was trained on and 0.106 in
6 s, but wants pyannote.audio (15 s of CPU to import, 800 MB). With pieces: 0.064. Vectors of 1.5 s, equal
error rate clean and over a telephone: CAM++ 0.00 and 0.10, Resemblyzer 0.03 and 0.14 (of 0.8 s the two are equal).
*Left out:* one run of the speaker model over the whole window: who says little in it sounds like who says much.

Boundary: `streaming.diariser.worker` runs the models. Pure: arrays in, values out.
Invariant: spans lie inside the window, in order, and those of one voice do not touch.
"""

from collections.abc import Callable
from itertools import combinations

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming.diariser.heard import Voice
from streaming.diariser.matching import Likeness, packed, unit, vector_of
from streaming.diariser.votes import Span, shared
from streaming.model import SAMPLE_RATE, samples_of

LOCALS_MAX = 3
TOGETHER_MAX = 2
SETS = tuple(s for size in range(TOGETHER_MAX + 1) for s in combinations(range(LOCALS_MAX), size))
"""What the segmentation model's classes mean, in its order: nobody, each alone, each two."""
STEP = 270
"""Samples from one of its frames to the next: the strides of its convolutions."""
FIELD = 991
"""Samples that one frame sees; it speaks for the `STEP` in their middle."""
FIRST = FIELD // 2 - STEP // 2
SHORT = SAMPLE_RATE // 20
"""Pauses of less are none, and who is active for less is not: the model wavers for a frame or two (17 ms each)."""
BLOCK = samples_of(100)
"""What a voice is taken from: whole tenths of a second."""
FRAMES_PER_BLOCK = 5
"""Frames of the speaker model (20 ms) in one."""
VOICES_MAX = 6
"""Of one window."""


class Policy(msgspec.Struct, frozen=True):
    """What was measured, in blocks and likeness. `piece`: what a voice is cut into; `least`: the shortest piece that
    can be told apart; `pause`: a longer one ends a piece; `same`: mean likeness of pieces that are one voice;
    `rejoins`: likeness of two speakers of the segmentation model who are one after all; `vector`: of a voice that has
    a vector."""

    piece: int = 14
    least: int = 7
    pause: int = 3
    same: float = 0.5
    rejoins: float = 0.75
    vector: int = 4


POLICY = Policy()
Activity = NDArray[np.bool_]
"""(n_frames, LOCALS_MAX), or of blocks."""


Blocks = NDArray[np.bool_]
"""(n_blocks,): some of the window's blocks."""


class Sounds:
    """What the speaker model's trunk made of some `blocks`: `frames`, (channels, n_frames) float32, one every 20 ms,
    those of the blocks one after the other; `weight`, (dim, 2 * channels), and `bias`: its last layer."""

    def __init__(self, blocks: Blocks, frames: NDArray[np.float32], weight: Likeness, bias: Likeness) -> None:
        count = int(blocks.sum())
        parts = frames[:, : count * FRAMES_PER_BLOCK].reshape(len(frames), count, FRAMES_PER_BLOCK).astype(np.float64)
        self._blocks = blocks
        self._sums, self._squares = parts.sum(axis=2), (parts**2).sum(axis=2)
        self._weight, self._bias = weight, bias

    def vector(self, blocks: Blocks) -> Likeness:
        """Of unit length, from some of these blocks, at least one."""
        own = blocks[self._blocks]
        count = FRAMES_PER_BLOCK * int(own.sum())
        mean = self._sums[:, own].sum(axis=1) / count
        variance = (self._squares[:, own].sum(axis=1) - count * mean**2) / (count - 1)
        return unit(self._weight @ np.concatenate([mean, np.sqrt(np.maximum(variance, 0))]) + self._bias)


Listens = Callable[[Blocks], Sounds]
"""Runs the speaker model on these blocks of the window."""


def activity(scores: NDArray[np.float32]) -> Activity:
    """`scores`: (n_frames, len(SETS)), logarithmic or not."""
    members = np.zeros((len(SETS), LOCALS_MAX), bool)
    for number, speakers in enumerate(SETS):
        members[number, list(speakers)] = True
    return np.asarray(members[scores.argmax(axis=1)])


def voices(active: Activity, listens: Listens, samples: int, policy: Policy = POLICY) -> tuple[Voice, ...]:
    """Who speaks in the window, those first who begin first."""
    parts = [spans(active[:, number], samples) for number in range(LOCALS_MAX)]
    heard: list[Voice] = []
    for number, own in enumerate(parts):
        if own:
            heard += _split(own, _clean(parts, number, samples // BLOCK), listens, samples, policy)
    return tuple(sorted(_rejoined(heard, policy), key=lambda voice: voice.spans))


def _split(own: tuple[Span, ...], clean: Blocks, listens: Listens, samples: int, policy: Policy) -> list[Voice]:
    """One speaker of the segmentation model: one voice, or several."""
    if clean.sum() < policy.vector:
        return [Voice(own, _ms(clean), b"")]
    sounds = listens(clean)
    pieces = _pieces(clean, policy)
    groups = _alike([sounds.vector(piece) for piece in pieces], policy)
    if len(groups) < 2:
        return [Voice(own, _ms(clean), packed(sounds.vector(clean)))]
    centres = [float(np.flatnonzero(piece).mean()) for piece in pieces]
    begins = np.arange(len(clean)) * BLOCK
    heard = []
    for group in groups:
        mine, blocks = [], np.zeros(len(clean), bool)
        for first, last in _stretches([(centre, at in group) for at, centre in enumerate(centres)], samples):
            mine += [(max(a, first), min(b, last)) for a, b in own if a < last and b > first]
            blocks |= clean & (first <= begins) & (begins < last)
        vector = packed(listens(blocks).vector(blocks)) if blocks.sum() >= policy.vector else b""
        heard.append(Voice(tidy(mine), _ms(blocks), vector))
    return [voice for voice in heard if voice.spans]


def _rejoined(heard: list[Voice], policy: Policy) -> list[Voice]:
    """Voices that sound the same and do not speak at once are one."""
    out: list[Voice] = []
    for voice in heard:
        for at, other in enumerate(out):
            if not voice.vector or not other.vector or shared(voice.spans, other.spans) > SHORT:
                continue
            one, two = vector_of(voice.vector), vector_of(other.vector)
            if float(one @ two) >= policy.rejoins:
                mean = unit(one * voice.clean_ms + two * other.clean_ms)
                spans_ = tidy([*voice.spans, *other.spans])
                out[at] = Voice(spans_, voice.clean_ms + other.clean_ms, packed(mean))
                break
        else:
            out.append(voice)
    return sorted(out, key=lambda voice: -voice.clean_ms)[:VOICES_MAX]


def spans(active: NDArray[np.bool_], samples: int) -> tuple[Span, ...]:
    """Where one speaker is active, (n_frames,), as samples of the window."""
    edges = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0)).tolist()
    found = []
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        start = 0 if first == 0 else FIRST + first * STEP
        found.append((start, samples if last == len(active) else min(samples, FIRST + last * STEP)))
    return tidy(found)


def told(parts: list[tuple[Span, ...]], listens: Listens, samples: int, policy: Policy = POLICY) -> tuple[Voice, ...]:
    """The voices of speakers who were told apart by somebody else: `parts`, where each is active."""
    found = []
    for number, own in enumerate(parts):
        clean = _clean(parts, number, samples // BLOCK)
        vector = packed(listens(clean).vector(clean)) if clean.sum() >= policy.vector else b""
        found.append(Voice(own, _ms(clean), vector))
    return tuple(sorted(found, key=lambda voice: voice.spans))


def tidy(parts: list[Span]) -> tuple[Span, ...]:
    """In order, not touching, without what is too short."""
    found: list[Span] = []
    for start, end in sorted(parts):
        if found and start - found[-1][1] < SHORT:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple((start, end) for start, end in found if end - start >= SHORT)


def _clean(parts: list[tuple[Span, ...]], number: int, count: int) -> NDArray[np.bool_]:
    """Blocks that hold this speaker throughout and nobody else."""
    out = np.zeros(count, bool)
    for start, end in parts[number]:
        out[-(-start // BLOCK) : end // BLOCK] = True
    for other, theirs in enumerate(parts):
        if other != number:
            for start, end in theirs:
                out[start // BLOCK : -(-end // BLOCK)] = False
    return out


def _pieces(clean: NDArray[np.bool_], policy: Policy) -> list[NDArray[np.bool_]]:
    """Blocks of about the length of a piece, without long pauses; what is too short is nobody's."""
    at = np.flatnonzero(clean)
    runs = np.split(at, np.flatnonzero(np.diff(at) > policy.pause) + 1) if len(at) else []
    out = []
    for run in runs:
        if len(run) >= policy.least:
            for piece in np.array_split(run, max(1, round(len(run) / policy.piece))):
                mask = np.zeros(len(clean), bool)
                mask[piece] = True
                out.append(mask)
    return out


def _alike(vectors: list[Likeness], policy: Policy) -> list[set[int]]:
    """Pieces by voice: average linkage."""
    groups = [{at} for at in range(len(vectors))]
    alike = np.stack(vectors) @ np.stack(vectors).T if vectors else np.empty((0, 0))
    while len(groups) > 1:
        pairs = [
            (float(alike[np.ix_(sorted(one), sorted(other))].mean()), i, j)
            for (i, one), (j, other) in combinations(enumerate(groups), 2)
        ]
        most, i, j = max(pairs, key=lambda pair: pair[0])
        if most < policy.same:
            break
        groups[i] |= groups.pop(j)
    return groups


def _stretches(centres: list[tuple[float, bool]], samples: int) -> list[Span]:
    """Which stretches of the window belong to the pieces that are marked: each moment to the nearest piece."""
    out: list[Span] = []
    for at, (centre, mine) in enumerate(centres):
        if mine:
            first = 0 if at == 0 else int((centres[at - 1][0] + centre + 1) / 2 * BLOCK)
            last = samples if at == len(centres) - 1 else int((centre + centres[at + 1][0] + 1) / 2 * BLOCK)
            if out and out[-1][1] == first:
                first = out.pop()[0]
            out.append((first, last))
    return out


def _ms(blocks: Blocks) -> int:
    return int(blocks.sum()) * BLOCK * 1000 // SAMPLE_RATE
