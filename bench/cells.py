"""One measurement of captions: so many streams at once, by one engine, and what came of it.

Pure: `cell_of` turns takes into numbers that a file can hold; figures, tables and plots are
made of them, now or later.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from bench import metrics
from bench.meter import Cpu, Memory
from bench.metrics import PARTIAL, Take
from bench.report import Figure

POINTS = 101
"""Of the distributions that are kept: every percentile."""
KNEE_P95_MS = 2_000
"""A word that takes longer until it is stable is no live caption. The bound of the load curves of others."""
FINAL_P50_MS, WORD_P50_MS, WORD_P95_MS, STABLE_LEAST, PENALTY_MOST = 300, 500, 1_000, 0.7, 0.01
"""The promises of ARCHITECTURE.md; the last: what streaming may cost in word errors."""
LATENCIES = {
    "first": metrics.first_delays,
    "word": metrics.word_delays,
    "committed": metrics.commit_delays,
    "final": metrics.final_delays,
}


class Latency(msgspec.Struct, frozen=True):
    """`points`: percentiles 0 to 100 of `n` delays in milliseconds."""

    n: int
    points: list[float]

    def at(self, percent: int) -> float:
        return self.points[percent]


class Cell(msgspec.Struct, frozen=True):
    """`streams` at once. `audio_s`: of those that the server took; `unstable_words`, `revised`: see
    `metrics.unstable_words`; `stable` of `long_words`: see `metrics.stable_words`; `errors`, `offline_errors` of `said`
    words; `missing`: sentences about what should be there; `skipped`: hypotheses that the server left out because it
    was behind; `failed`: why there are no figures."""

    streams: int
    wall_s: float = 0.0
    audio_s: float = 0.0
    latencies: dict[str, Latency] = {}
    partials: int = 0
    finals: int = 0
    final_words: int = 0
    unstable_words: int = 0
    revised: int = 0
    stable: int = 0
    long_words: int = 0
    errors: int = 0
    offline_errors: int = 0
    said: int = 0
    violations: dict[str, int] = {}
    missing: list[str] = []
    dropped_s: float = 0.0
    refused: int = 0
    lag_ms: int = 0
    degraded: int = 0
    skipped: int = 0
    cpu: Cpu = Cpu(0, 0, 0)
    load_cpu_s: float = 0.0
    memory: Memory = Memory(0, 0)
    failed: str = ""

    @property
    def kept(self) -> bool:
        """Whether so many streams are not too many."""
        committed = self.latencies.get("committed")
        return not self.failed and not self.refused and committed is not None and committed.at(95) <= KNEE_P95_MS

    def per_second(self, cpu_s: float) -> float:
        """CPU seconds for a second of one stream."""
        return cpu_s / self.audio_s if self.audio_s else 0.0

    @property
    def wer(self) -> float | None:
        return self.errors / self.said if self.said else None

    @property
    def offline_wer(self) -> float | None:
        return self.offline_errors / self.said if self.said else None

    @property
    def unstable_ratio(self) -> float:
        """UPWR."""
        return self.unstable_words / self.final_words if self.final_words else 0.0

    @property
    def revised_share(self) -> float:
        """UPSR."""
        return self.revised / self.finals if self.finals else 0.0

    @property
    def stable_share(self) -> float | None:
        return self.stable / self.long_words if self.long_words else None


class Whole(msgspec.Struct, frozen=True):
    """A clip whose utterances were heard whole: word errors, and in which of its cuts there were words."""

    errors: int
    audible: list[bool]


def cell_of(
    takes: Sequence[Take],
    offline: Mapping[str, Whole],
    *,
    cpu: Cpu,
    memory: Memory,
    load_cpu_s: float,
    wall_s: float,
    skipped: int,
) -> Cell:
    """The numbers of takes that ran at once. `offline`: what the same model makes of each clip whose text is known."""
    taken = [take for take in takes if not take.refused]
    unstable, revised = _sums(map(metrics.unstable_words, taken))
    stable, long_words = _sums(map(metrics.stable_words, taken))
    errors, said = metrics.word_errors(taken)
    return Cell(
        streams=len(takes),
        wall_s=round(wall_s, 2),
        audio_s=round(sum(take.clip.seconds for take in taken), 2),
        latencies={name: latency for name, of in LATENCIES.items() if (latency := latency_of(metrics.flat(of, taken)))},
        partials=sum(h.name == PARTIAL for take in taken for h in take.heard),
        finals=sum(len(take.finals) for take in taken),
        final_words=sum(len(final.words) for take in taken for final in take.finals),
        unstable_words=unstable,
        revised=revised,
        stable=stable,
        long_words=long_words,
        errors=errors,
        offline_errors=sum(offline[take.clip.id].errors for take in taken if take.clip.text),
        said=said,
        violations=dict(Counter(v for take in taken for v in metrics.violations(take))),
        missing=[
            f"{take.clip.id}: {what}"
            for take in taken
            for what in metrics.incomplete(take, offline[take.clip.id].audible if take.clip.text else ())
        ],
        dropped_s=round(sum(map(metrics.dropped_s, taken)), 2),
        refused=len(takes) - len(taken),
        lag_ms=max((take.lag_ms for take in taken), default=0),
        degraded=sum(take.degraded for take in taken),
        skipped=skipped,
        cpu=cpu,
        load_cpu_s=round(load_cpu_s, 2),
        memory=memory,
    )


def _sums(pairs: "map[tuple[int, int]]") -> tuple[int, int]:
    ones, others = 0, 0
    for one, other in pairs:
        ones, others = ones + one, others + other
    return ones, others


def latency_of(delays: Sequence[float]) -> Latency | None:
    """None without delays."""
    if not delays:
        return None
    points = np.percentile(delays, np.linspace(0, 100, POINTS))
    return Latency(len(delays), [round(float(point), 1) for point in points])


def figures(name: str, cell: Cell, *, promised: bool = True) -> list[Figure]:
    """Rows of the table. `promised`: the promises about time hold for so many streams; the others always do."""
    if cell.failed:
        return [Figure(f"{name}: failed, {cell.failed}", 1, "runs", 1, most=0)]

    def latency(key: str, title: str, p50: int | None = None, p95: int | None = None) -> list[Figure]:
        found = cell.latencies.get(key)
        if found is None:
            return []
        bounds = (p50, p95) if promised else (None, None)
        return [
            Figure(f"{name}: {title}, p{q}", found.at(q), "ms", found.n, most)
            for q, most in zip((50, 95), bounds, strict=True)
        ]

    rows = [
        *latency("first", "first caption after speech begins"),
        *latency("word", "word after it was spoken", WORD_P50_MS, WORD_P95_MS),
        *latency("committed", "word until it is stable", None, KNEE_P95_MS),
        *latency("final", "final after its endpoint", FINAL_P50_MS),
    ]
    if cell.stable_share is not None:
        least = STABLE_LEAST if promised else None
        rows.append(
            Figure(f"{name}: words stable before the final", round(cell.stable_share, 3), "share", cell.long_words,
                   least=least)
        )  # fmt: skip
    rows += [
        Figure(f"{name}: unstable partial word ratio", round(cell.unstable_ratio, 3), "share", cell.final_words),
        Figure(f"{name}: segments with a changed word", round(cell.revised_share, 3), "share", cell.finals),
    ]
    if cell.wer is not None and cell.offline_wer is not None:
        penalty = round(cell.wer - cell.offline_wer, 4)
        rows += [
            Figure(f"{name}: word error rate", round(cell.wer, 4), "share", cell.said),
            Figure(f"{name}: what streaming costs of it", penalty, "share", cell.said, most=PENALTY_MOST),
        ]
    captions, broken = cell.partials + cell.finals, sum(cell.violations.values())
    rows += [
        Figure(f"{name}: captions against the rules", broken, "events", captions, most=0),
        Figure(f"{name}: finals and ends missing", len(cell.missing), "", cell.streams, most=0),
        Figure(f"{name}: audio dropped", cell.dropped_s, "s", cell.streams, most=0),
    ]
    if cell.refused:
        rows.append(Figure(f"{name}: streams refused", cell.refused, "streams", cell.streams))
    cpus = {
        "recogniser": cell.cpu.workers_s,
        "server": cell.cpu.server_s,
        "database": cell.cpu.database_s,
        "load": cell.load_cpu_s,
    }
    rows += [
        Figure(f"{name}: CPU of the {whose}", round(cell.per_second(cpu_s), 4), "s/audio s", cell.streams)
        for whose, cpu_s in cpus.items()
    ]
    return rows
