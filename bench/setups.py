"""What is measured of captions, and the rows that come of it: engines, shapes and paddings, their knees and costs.

Pure.
"""

from collections.abc import Iterator

import msgspec

from bench import compute, shapes
from bench.baseline import Baseline
from bench.cells import Cell, figures
from bench.knee import knee_of
from bench.report import Figure

WHISPER, SPHINX = "whisperx", "pocketsphinx"
SHAPES = tuple(shapes.SHAPES)
ON_A_PROCESSOR = ("micro", "tiny.en", "base.en", "small.en")
STREAMS_MAX = 248
"""Twice as many are still below `Limits.streams_per_user_max`."""
SECONDS, QUICK_S = 40.0, 6.0
"""Of each stream; half as much again below four streams, so that there are words enough."""
CPU_SHARE_MOST = 1 / 3
"""Of the loop's: the promise of the recogniser."""
LONG_WER_MOST, WER_MOST = 0.06, 0.03


class Setup(msgspec.Struct, frozen=True):
    """`shape`: whose compute it has, "micro" for the model's own; `padded`: every window to 30 s, as a model without
    measurements of its own is run; `seconds`: of each stream; `counts`: numbers of streams, empty to look for the
    knee."""

    engine: str
    shape: str
    seconds: float
    padded: bool = False
    counts: tuple[int, ...] = ()
    most: int = STREAMS_MAX

    @property
    def label(self) -> str:
        name = SPHINX if self.engine == SPHINX else self.shape
        return f"{name}, padded to 30 s" if self.padded else name

    @property
    def reference(self) -> str:
        """For PARLANCE_ENGINE."""
        return self.engine if self.shape not in shapes.SHAPES else compute.reference(self.shape)


class Measured(msgspec.Struct, frozen=True):
    """What one setup came to. `long`: one stream of utterances of 20 to 28 s; `recorded`: recordings, one stream at a
    time; `loaded_mib`: the recogniser with its model, before the first stream."""

    setup: Setup
    cells: list[Cell]
    loaded_mib: float = 0.0
    long: Cell | None = None
    recorded: Cell | None = None
    baseline: Baseline | None = None

    @property
    def by_count(self) -> dict[int, Cell]:
        return {cell.streams: cell for cell in sorted(self.cells, key=lambda cell: cell.streams)}

    @property
    def knee(self) -> int:
        return knee_of({count: cell.kept for count, cell in self.by_count.items()})


def rows_of(measured: Measured) -> list[Figure]:
    """The setup's rows: the knee, and the figures of one stream, half the knee, the knee, and twice as many."""
    setup, by_count, knee = measured.setup, measured.by_count, measured.knee
    rows = [] if setup.counts else [Figure(f"{setup.label}: knee", knee, "streams", len(by_count))]
    wanted = set(by_count) & ({1, knee // 2, knee, 2 * knee} if not setup.counts else set(by_count))
    shown = {count: by_count[count] for count in sorted(wanted)}
    for count, cell in shown.items():
        rows += figures(f"{setup.label}, {count} stream{'s' * (count > 1)}", cell, promised=count <= max(1, knee // 2))
        if cell.wer is not None and setup.engine == WHISPER and count in (1, knee):
            name = f"{setup.label}, {count} stream{'s' * (count > 1)}: word error rate"
            rows = [msgspec.structs.replace(r, most=WER_MOST) if r.name == name else r for r in rows]
    if measured.long is not None:
        wer = measured.long.wer
        rows.append(
            Figure(
                f"{setup.label}, utterances of 20 to 28 s: word error rate",
                round(wer or 0.0, 4),
                "share",
                measured.long.said,
                most=LONG_WER_MOST,
            )
        )
    if measured.recorded is not None:
        rows += figures(f"{setup.label}, recordings", measured.recorded)
    return [*rows, *costs(measured)]


def costs(measured: Measured) -> list[Figure]:
    """Memory, and CPU against the loop's."""
    rows = []
    label, by_count = measured.setup.label, measured.by_count
    if measured.loaded_mib:
        rows.append(Figure(f"{label}: memory of the recogniser with its model", measured.loaded_mib, "MiB", 1))
    if (grown := memory(measured)) is not None:
        rows.append(Figure(f"{label}: memory of the recogniser, growth", round(grown, 2), "MiB/stream", max(by_count)))
    if measured.baseline is None:
        return rows
    loop = measured.baseline.cpu_per_second
    rows.append(Figure(f"{label}, the loop: CPU", round(loop, 4), "s/audio s", measured.baseline.decodes))
    rows.append(
        Figure(f"{label}, the loop: streams", int(measured.baseline.streams_max), "streams", measured.baseline.decodes)
    )
    for count in sorted({1, measured.knee} & set(by_count)):
        cell = by_count[count]
        if cell.audio_s:
            share = round(cell.per_second(cell.cpu.workers_s) / loop, 3)
            name = f"{label}, {count} stream{'s' * (count > 1)}: CPU of the recogniser, share of the loop's"
            rows.append(Figure(name, share, "share", count, most=round(CPU_SHARE_MOST, 4)))
    return rows


def memory(measured: Measured) -> float | None:
    """MiB that a stream adds to the recogniser, at the largest number of streams that was measured."""
    most = max((cell for cell in measured.cells if cell.audio_s), key=lambda cell: cell.streams, default=None)
    if most is None or not measured.loaded_mib:
        return None
    return max(0.0, most.memory.workers_mib - measured.loaded_mib) / most.streams


def setups(*, quick: bool, counts: tuple[int, ...], shape: str | None, engine: str | None) -> Iterator[Setup]:
    """What is measured: what was asked for, else everything that a processor can run."""
    seconds = QUICK_S if quick else SECONDS
    counts = counts or ((1, 2) if quick else ())
    if engine != SPHINX:
        shapes_wanted = (
            [shape] if shape else ["micro", "tiny.en"] if quick else ["micro", "tiny.en", "base.en", "small.en"]
        )
        for name in shapes_wanted:
            yield Setup(WHISPER, name, seconds, counts=counts)
        if not quick and shape in (None, "tiny.en"):
            yield Setup(WHISPER, "tiny.en", seconds, padded=True, counts=counts)
    if engine == SPHINX or (engine is None and shape is None and not quick):
        yield Setup(SPHINX, "micro", seconds, counts=counts)
