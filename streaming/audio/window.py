"""The last seconds of a stream, addressed by absolute sample index.

Policy: a ring that starts small and doubles up to `samples_max`, so memory is at most twice what was ever held at
once. More than `samples_max` is a defect of the caller, who drops what it will not ask for again: ValueError, never a
silent loss.

Pure. Invariant: exactly the samples [start_sample, end_sample) are held, end - start <= `samples_max`.
"""

import numpy as np

from streaming.audio.pcm import Pcm16

_CAPACITY_FIRST = 4_096
"""Samples of the first ring: 8 kB, enough for the pre-roll of a silent stream."""


class AudioWindow:
    """Samples of one stream from `base_sample` on. `append` costs O(len) amortised, `drop_before` O(1)."""

    def __init__(self, base_sample: int, samples_max: int) -> None:
        if base_sample < 0 or samples_max < 1:
            raise ValueError("a window starts at sample 0 or later and holds at least one sample")
        self._samples_max = samples_max
        self._ring: Pcm16 = np.empty(min(_CAPACITY_FIRST, samples_max), np.int16)
        self._start = base_sample
        self._end = base_sample

    @property
    def start_sample(self) -> int:
        """The first sample that is still held."""
        return self._start

    @property
    def end_sample(self) -> int:
        """One past the last sample."""
        return self._end

    def append(self, audio: Pcm16) -> None:
        """Add the samples that follow `end_sample`. Raises ValueError when more than `samples_max` would be held;
        then nothing was added."""
        held = self._end - self._start + len(audio)
        if held > self._samples_max:
            raise ValueError(f"{held} samples do not fit into a window of {self._samples_max}")
        if held > len(self._ring):
            self._grow(held)
        at = self._end % len(self._ring)
        first = min(len(audio), len(self._ring) - at)
        self._ring[at : at + first] = audio[:first]
        self._ring[: len(audio) - first] = audio[first:]
        self._end += len(audio)

    def slice(self, start: int, end: int) -> Pcm16:
        """A copy of the samples [start, end), (end - start,) int16. Raises ValueError when one of them is not held."""
        if not self._start <= start <= end <= self._end:
            raise ValueError(f"[{start}, {end}) is outside of [{self._start}, {self._end})")
        at = start % len(self._ring)
        first = min(end - start, len(self._ring) - at)
        return np.concatenate([self._ring[at : at + first], self._ring[: end - start - first]])

    def drop_before(self, sample: int) -> None:
        """Give up everything before `sample`; what was dropped before stays dropped. Raises ValueError past the end."""
        if sample > self._end:
            raise ValueError(f"sample {sample} lies past the end, {self._end}")
        self._start = max(self._start, sample)

    def _grow(self, held: int) -> None:
        audio = self.slice(self._start, self._end)
        self._ring = np.empty(min(max(held, 2 * len(self._ring)), self._samples_max), np.int16)
        self._end = self._start
        self.append(audio)
