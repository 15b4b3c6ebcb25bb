"""What a decode will take, learned from those before: seconds by length of the window and by size of the batch.

Policy: the pace (seconds per frame) is kept for each power of two of frames, because short windows pay the fixed costs
too; the gain of a batch is kept for each size, as a part of what its windows would take one by one. Both follow what is
measured (`WEIGHT`), and one outlier moves them by `OUTLIER` at most: a page fault is no slow model. A batch larger than
any tried before is taken to grow with the root of its size, and is tried in steps of two.

Pure. Whatever is asked before anything was learned is answered 0: unknown.
"""

import math

WEIGHT = 0.2
"""Of the newest measurement: ten of them are what counts."""
OUTLIER = 4.0


class Costs:
    def __init__(self) -> None:
        self._pace: dict[int, float] = {}
        """Seconds per frame of a window alone, by the bits of its length."""
        self._part: dict[int, float] = {1: 1.0}
        """Of the seconds that the windows of a batch would take one by one, by its size."""

    def seconds(self, frames: int, size: int = 1) -> float:
        """What a call with `size` windows of `frames` each will take."""
        return size * max(1, frames) * self._pace_of(frames) * self._part_of(size)

    def fits(self, frames: int, size_max: int, seconds_max: float) -> int:
        """Windows for one call that takes `seconds_max` at most; at least one."""
        size = min(size_max, 2 * max(self._part))
        while size > 1 and self.seconds(frames, size) > seconds_max:
            size -= 1
        return max(1, size)

    def learn(self, frames: int, size: int, seconds: float) -> None:
        """A call with `size` windows of `frames` each took `seconds`."""
        frames = max(1, frames)
        seconds = max(seconds, 1e-6)
        expected = self.seconds(frames, size)
        seen = seconds / expected if expected else 1.0
        seen = min(OUTLIER, max(1 / OUTLIER, seen))
        bits = frames.bit_length()
        if bits not in self._pace:
            self._pace[bits] = seconds / (size * frames * self._part_of(size))
        elif size == 1:
            self._pace[bits] *= 1 + WEIGHT * (seen - 1)
        if size > 1:
            self._part[size] = self._part_of(size) * (1 + WEIGHT * (seen - 1) if size in self._part else seen)

    def _pace_of(self, frames: int) -> float:
        """Of the nearest length that was measured; 0 before any."""
        bits = max(1, frames).bit_length()
        nearest = min(self._pace, key=lambda known: (abs(known - bits), known), default=None)
        return 0.0 if nearest is None else self._pace[nearest]

    def _part_of(self, size: int) -> float:
        tried = max(known for known in self._part if known <= size)
        return self._part[tried] * math.sqrt(tried / size)
