"""The comparison's rows: everybody's figures, and ours against the best of theirs, whichever setting that is.

Pure.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from bench.peers.figures import Measured, knee
from bench.report import Figure

OURS = "parlance"
PER_CORE_LEAST, SHARE_MOST = 5.0, 0.5
"""The promises: streams to a core, and the two delays with one stream, against the best of their settings."""
Of = Callable[[Measured], float | None]


class Found(msgspec.Struct):
    """What one contender came to with the compute of `shape`, in the order in which it was measured."""

    name: str
    title: str
    shape: str
    cells: list[Measured]

    @property
    def by_count(self) -> dict[int, Measured]:
        return {cell.streams: cell for cell in sorted(self.cells, key=lambda cell: cell.streams)}

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(OURS)

    def knee(self, *, confirmed: bool = False) -> int:
        return knee(self.by_count, confirmed=confirmed)

    @property
    def at_knee(self) -> Measured | None:
        return self.by_count.get(self.knee())


def word_p50(cell: Measured) -> float | None:
    return cell.word.at(50) if cell.word is not None else None


def confirmed_p50(cell: Measured) -> float | None:
    return cell.confirmed.at(50) if cell.confirmed is not None else None


def best(theirs: Iterable[Measured | None], of: Of) -> float | None:
    """The least of a figure."""
    return min((value for cell in theirs if cell is not None and (value := of(cell)) is not None), default=None)


def rows_of(found: Sequence[Found]) -> list[Figure]:
    rows: list[Figure] = []
    for shape in dict.fromkeys(one.shape for one in found):
        group = [one for one in found if one.shape == shape]
        for one in group:
            rows += own(one)
        rows += against(shape, group)
    return rows


def own(found: Found) -> list[Figure]:
    """One contender: with one stream, and at its knee."""
    name = f"{found.shape}, {found.title}"
    rows = [
        Figure(f"{name}: knee, words on the screen", found.knee(), "streams", len(found.cells)),
        Figure(f"{name}: knee, words confirmed", found.knee(confirmed=True), "streams", len(found.cells)),
    ]
    for count in sorted({1, found.knee()} & found.by_count.keys()):
        cell = found.by_count[count]
        at = f"{name}, {count} stream{'s' * (count > 1)}"
        if cell.failed:
            rows.append(Figure(f"{at}: failed, {cell.failed}"[:160], 1, "runs", 1))
            continue
        delays = (("word", cell.word), ("confirmed", cell.confirmed), ("end of speech confirmed", cell.closing))
        rows += [
            Figure(f"{at}: {what}, p{q}", round(latency.at(q)), "ms", latency.n)
            for what, latency in delays
            if latency is not None
            for q in (50, 95)
        ]
        rows += [
            Figure(f"{at}: word error rate", round(cell.wer or 0.0, 4), "share", cell.said),
            Figure(f"{at}: CPU", round(cell.per_second, 3), "s/audio s", count),
            Figure(f"{at}: streams to a core", round(cell.per_core, 2), "streams", count),
        ]
    return rows


def against(shape: str, group: Sequence[Found]) -> list[Figure]:
    """Ours, without padding, against the best of theirs in each figure."""
    ours = next((one for one in group if one.name == OURS), None)
    theirs = [one for one in group if not one.is_ours]
    if ours is None or not theirs:
        return []
    rows = []
    if (mine := ours.at_knee) is not None:
        cores = [one.at_knee.per_core for one in theirs if one.at_knee is not None]
        if cores and max(cores) > 0:
            ratio = round(mine.per_core / max(cores), 2)
            rows.append(
                Figure(f"{shape}: streams to a core at the knee, ours over theirs", ratio, "", len(cores),
                       least=PER_CORE_LEAST)
            )  # fmt: skip
    one_each = [one.by_count.get(1) for one in theirs]
    one = ours.by_count.get(1)
    for what, of in (("word p50", word_p50), ("confirmed p50", confirmed_p50)):
        other = best(one_each, of)
        own_value = of(one) if one is not None else None
        if other and own_value is not None:
            share = round(own_value / other, 3)
            rows.append(Figure(f"{shape}: {what} with one stream, ours over theirs", share, "", 1, most=SHARE_MOST))
    for count, cell in ours.by_count.items():
        other = best((one.by_count.get(count) for one in theirs), lambda found: found.wer)
        if cell.wer is not None and other is not None:
            more = round(cell.wer - other, 4)
            rows.append(
                Figure(f"{shape}, {count} streams: word error rate, ours less theirs", more, "share", cell.said, most=0)
            )
    return rows
