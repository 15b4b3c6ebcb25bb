"""The comparison's tables for docs/benchmarks.md, from the raw results. Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec

from bench.cells import Latency
from bench.peers.figures import Measured
from bench.peers.results import Found, against

SHOWN = ("word", "confirmed", "closing")


def markdown(content: dict[str, Any]) -> str:
    """`content`: of peers.json."""
    found = msgspec.convert(content["raw"]["measured"], list[Found])
    settings = content["settings"]
    versions = ", ".join(f"{package} {pins[package]}" for package, pins in settings["environments"].items())
    lines = [
        f"{content['date'][:10]}, {content['machine']['cores']} cores, load {content['machine']['load_1min']} when it "
        f"ended; {settings['model']}, clips of {settings['seconds']:g} s and more, seed {content['seed']}; {versions}.",
        "",
        "| compute | server | knee: shown, confirmed | streams to a core at the knee, cores in use "
        "| CPU s per audio s, 1 stream / knee | word, 1 stream | confirmed | end of speech confirmed "
        "| WER shown, confirmed | MiB |",
        f"|{'---|' * 10}",
        *map(knee_row, found),
        "",
        "| compute | ours against the best of theirs | value | promised |",
        "|---|---|---|---|",
        *against_rows(found),
        "",
        "| compute | server | streams | word | confirmed | end of speech confirmed, never | WER shown, confirmed "
        "| CPU s per audio s, cores in use | confirmed text changed | refused, lost, cut off |",
        f"|{'---|' * 10}",
        *(row for one in found for row in cell_rows(one)),
        "",
        "Times in ms, p50 / p95.",
    ]
    if content["skipped"]:
        lines += ["", f"Left out: {content['skipped']}."]
    return "\n".join(lines)


def knee_row(found: Found) -> str:
    one, at_knee = found.by_count.get(1), found.at_knee
    cells = [
        found.shape,
        found.title,
        f"{found.knee()}, {found.knee(confirmed=True)}",
        f"{at_knee.per_core:.1f}, {at_knee.cores:.2f}" if at_knee else "–",
        " / ".join(f"{cell.per_second:.3f}" if cell and cell.audio_s else "–" for cell in (one, at_knee)),
        *(_latency(getattr(one, name, None)) for name in SHOWN),
        _wer(one),
        f"{at_knee.memory_mib:.0f}" if at_knee else "–",
    ]
    return f"| {' | '.join(cells)} |"


def against_rows(found: list[Found]) -> Iterator[str]:
    for shape in dict.fromkeys(one.shape for one in found):
        for figure in against(shape, [one for one in found if one.shape == shape]):
            name = figure.name.removeprefix(shape).removeprefix(":").removeprefix(",").strip()
            yield f"| {shape} | {name} | {figure.value:g} | {figure.promise} |"


def cell_rows(found: Found) -> Iterator[str]:
    for count, cell in found.by_count.items():
        marks = [what for what, knee in (("knee", found.knee()),) if knee == count]
        name = f"| {found.shape} | {found.title} | {count}{''.join(f' ({mark})' for mark in marks)} "
        if cell.failed:
            yield f"{name}| failed: {' '.join(cell.failed.replace('|', '/').split())[:160]} |" + " |" * 6
            continue
        cells = [
            *(_latency(getattr(cell, what)) for what in SHOWN[:2]),
            f"{_latency(cell.closing)}, {cell.unclosed} of {cell.closings}",
            _wer(cell),
            f"{cell.per_second:.3f}, {cell.cores:.2f}",
            str(cell.changed),
            f"{cell.refused}, {cell.lost}, {cell.unfinished}",
        ]
        yield f"{name}| {' | '.join(cells)} |"


def _latency(found: Latency | None) -> str:
    return f"{found.at(50):,.0f} / {found.at(95):,.0f}" if found is not None else "–"


def _wer(cell: Measured | None) -> str:
    if cell is None or cell.wer is None or cell.confirmed_wer is None:
        return "–"
    return f"{cell.wer:.3f}, {cell.confirmed_wer:.3f}"
