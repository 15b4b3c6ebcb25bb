"""Pictures and tables of docs/benchmarks.md (`DRAWN`), from the raw results: `python -m bench.tables`.

Policy: nothing is measured here, and nothing of these parts is written by hand; a test compares them with the results.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.cells import KNEE_P95_MS, Cell
from bench.peers import table as peers
from bench.plots import Line, Panel, chart
from bench.quality import table as quality
from bench.report import ROOT
from bench.setups import SPHINX, Measured, memory

DRAWN = ("captions", "peers", "speakers", "quality")
DOCUMENT = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"
LATENCY, COST = "captions-latency.svg", "captions-cpu.svg"
BEGIN, END = "<!-- made by bench/tables.py: captions -->", "<!-- end: captions -->"
PEERS_BEGIN, PEERS_END = "<!-- made by bench/tables.py: peers -->", "<!-- end: peers -->"
SPEAKERS_BEGIN, SPEAKERS_END = "<!-- made by bench/tables.py: speakers -->", "<!-- end: speakers -->"
QUALITY_BEGIN, QUALITY_END = "<!-- made by bench/tables.py: quality -->", "<!-- end: quality -->"
STREAMS = "streams at once"
PARTS = ("der", "missed", "false_alarm", "confusion", "overlap")


def draw(results: Path, document: Path = DOCUMENT, images: Path = IMAGES) -> None:
    """Write pictures and tables of what was measured anew."""
    text = document.read_text()
    if (results / "captions.json").is_file():
        for name, drawn in pictures(load(results)).items():
            (images / name).write_text(drawn)
        text = placed(text, BEGIN, END, markdown(results))
    if (results / "peers.json").is_file():
        text = placed(text, PEERS_BEGIN, PEERS_END, peers.markdown(json.loads((results / "peers.json").read_text())))
    if (results / "speakers.json").is_file():
        text = placed(text, SPEAKERS_BEGIN, SPEAKERS_END, who(json.loads((results / "speakers.json").read_text())))
    if (results / "quality.json").is_file():
        made = quality.markdown(json.loads((results / "quality.json").read_text()))
        text = placed(text, QUALITY_BEGIN, QUALITY_END, made)
    document.write_text(text)


def placed(text: str, begin: str, end: str, inside: str) -> str:
    """Raises ValueError where the text has no place for it."""
    before, _, rest = text.partition(begin)
    _, there, after = rest.partition(end)
    if not there:
        raise ValueError(f"the document has no place for the tables: {begin}")
    return f"{before}{begin}\n{inside}\n{end}{after}"


def load(results: Path) -> list[Measured]:
    raw = content(results)["raw"]
    return msgspec.convert(raw["measured"], list[Measured])


def content(results: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / "captions.json").read_text())
    return found


def pictures(found: list[Measured]) -> dict[str, str]:
    """Files and their contents."""
    curves = [panel for measured in found if (panel := latencies(measured)) is not None]
    if not curves:
        return {}
    return {
        LATENCY: chart("How soon, with how many streams", curves, x=STREAMS, y="milliseconds"),
        COST: chart("CPU of the recogniser for a second of one stream", [costs(found)], x=STREAMS, y="CPU seconds"),
    }


def latencies(measured: Measured) -> Panel | None:
    cells = [cell for cell in measured.by_count.values() if not cell.failed and cell.latencies]
    if len(cells) < 2:
        return None

    def line(name: str, key: str, percent: int, colour: int) -> Line:
        points = tuple(
            (cell.streams, max(1.0, cell.latencies[key].at(percent))) for cell in cells if key in cell.latencies
        )
        return Line(name, points, colour, dashed=percent == 50)

    lines = (
        line("word stable, p95", "committed", 95, 0),
        line("word stable, p50", "committed", 50, 0),
        line("word shown, p95", "word", 95, 2),
        line("word shown, p50", "word", 50, 2),
        line("final after endpoint, p95", "final", 95, 1),
        line("final after endpoint, p50", "final", 50, 1),
    )
    mark = (measured.knee, f"knee: {measured.knee}") if measured.knee else None
    return Panel(measured.setup.label, lines, (KNEE_P95_MS, "2 s"), mark)


def costs(found: list[Measured]) -> Panel:
    lines = []
    for colour, measured in enumerate(found):
        cells = [cell for cell in measured.by_count.values() if not cell.failed and cell.audio_s]
        points = tuple((cell.streams, max(1e-4, cell.per_second(cell.cpu.workers_s))) for cell in cells)
        lines.append(Line(measured.setup.label, points, colour % 6))
        if measured.baseline is not None and points:
            loop = measured.baseline.cpu_per_second
            ends = ((points[0][0], loop), (points[-1][0], loop))
            lines.append(Line(f"{measured.setup.label}: the loop", ends, colour % 6, dashed=True))
    return Panel("", tuple(lines))


def markdown(results: Path) -> str:
    """The tables."""
    found = load(results)
    told = content(results)
    head = f"{told['date'][:10]}, {told['machine']['cores']} cores, {told['settings'].get('device', 'cpu')}"
    lines = [
        f"{head}; {told['settings'].get('model', '')}, load {told['machine']['load_1min']} when it ended.",
        "",
        "| engine, compute | knee | CPU s per audio s, 1 stream: recogniser / server / database | at the knee "
        "| the loop | ours over the loop's, 1 stream / knee | streams the loop serves | MiB per stream |",
        "|---|---|---|---|---|---|---|---|",
        *map(knee_row, found),
        "",
        "| engine, compute | streams | first caption | word shown | word stable | final | UPWR | segments changed "
        "| stable before the final | WER, heard whole | CPU s per audio s | hops skipped | broken, dropped |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(row for measured in found for row in cell_rows(measured)),
    ]
    if any(measured.setup.engine == SPHINX for measured in found):
        lines += ["", "Times in ms, p50 / p95. PocketSphinx was trained on people and hears a machine here."]
    return "\n".join(lines)


def knee_row(measured: Measured) -> str:
    by_count = measured.by_count
    one, knee = by_count.get(1), None if measured.setup.counts else by_count.get(measured.knee)
    loop = measured.baseline

    def share(cell: Cell | None) -> str:
        if cell is None or loop is None or not cell.audio_s:
            return "–"
        return f"{cell.per_second(cell.cpu.workers_s) / loop.cpu_per_second:.2f}"

    grown = memory(measured)
    cells = [
        measured.setup.label,
        str(measured.knee) if not measured.setup.counts else "–",
        cpu(one),
        cpu(knee),
        f"{loop.cpu_per_second:.3f}" if loop else "–",
        f"{share(one)} / {share(knee)}",
        f"{loop.streams_max:.0f}" if loop else "–",
        f"{grown:.1f}" if grown is not None else "–",
    ]
    return f"| {' | '.join(cells)} |"


def cpu(cell: Cell | None) -> str:
    if cell is None or not cell.audio_s:
        return "–"
    times = (cell.cpu.workers_s, cell.cpu.server_s, cell.cpu.database_s)
    return " / ".join(f"{cell.per_second(cpu_s):.3f}" for cpu_s in times)


def cell_rows(measured: Measured) -> Iterator[str]:
    label = measured.setup.label
    for count, cell in measured.by_count.items():
        yield cell_row(label, f"{count}{' (knee)' * (count == measured.knee and not measured.setup.counts)}", cell)
    if measured.long is not None:
        yield cell_row(label, "1, utterances of 20 to 28 s", measured.long)
    if measured.recorded is not None:
        yield cell_row(label, "1, recordings", measured.recorded)


def cell_row(label: str, count: str, cell: Cell) -> str:
    if cell.failed:
        return f"| {label} | {count} | failed: {cell.failed} |" + " |" * 10

    def latency(key: str) -> str:
        found = cell.latencies.get(key)
        return f"{found.at(50):,.0f} / {found.at(95):,.0f}" if found else "–"

    wer = "–" if cell.wer is None or cell.offline_wer is None else f"{cell.wer:.3f}, {cell.offline_wer:.3f}"
    broken = sum(cell.violations.values()) + len(cell.missing)
    cells = [
        *(label, count, latency("first"), latency("word"), latency("committed"), latency("final")),
        f"{cell.unstable_ratio:.3f}",
        f"{cell.revised_share:.2f}",
        "–" if cell.stable_share is None else f"{cell.stable_share:.2f}",
        *(wer, cpu(cell), str(cell.skipped), f"{broken}, {cell.dropped_s:g} s"),
    ]
    refused = f" ({cell.refused} refused)" * bool(cell.refused)
    cells[1] += refused
    return f"| {' | '.join(cells)} |"


def who(found: dict[str, Any]) -> str:
    """Error rates of speakers and their parts: of all composed conversations, and of each recording."""
    rows: list[dict[str, Any]] = found["raw"]["rows"]
    composed: int = found["settings"]["composed"]
    out = [
        "| recording | when | DER | missed | false alarm | confusion | of it in overlap | speakers (true) |"
        " label switches | cpWER | tcpWER |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for when in ("live", "shown", "after"):
        rates = [row["rates"][when] for row in rows[:composed]]
        total = sum(rate["total_s"] for rate in rates)
        parts = [sum(rate[part] * rate["total_s"] for rate in rates) / total for part in PARTS]
        out.append(f"| {composed} composed | {when} | {' | '.join(f'{part:.3f}' for part in parts)} | | | | |")
    for row in rows[composed:]:
        for when in ("live", "shown", "after"):
            told = row["rates"].get(when)
            parts_ = [f"{told[part]:.3f}" for part in PARTS] if told else ["–"] * len(PARTS)
            count = f"{row['speakers'][when]} ({row['true_speakers'] or '?'})"
            words = [f"{row['words'][when][name]:.3f}" if row["words"] else "–" for name in ("cpwer", "tcpwer")]
            out.append(" | ".join([f"| {row['id']}", when, *parts_, count, str(row["switches"][when]), *words]) + " |")
    cpu = next(figure["value"] for figure in found["figures"] if figure["name"] == "CPU of the worker")
    return "\n".join([*out, "", f"CPU of the worker: {cpu} s for a second of audio in which somebody speaks."])


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "bench" / "results")
