"""Line charts as SVG text: several panels beside each other, logarithmic numbers of streams, a legend, in colours that
can be read on white and on black.

Pure: values in, text out. Nothing but strings; the reader's browser chooses light or dark (`prefers-color-scheme`).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import msgspec

Point = tuple[float, float]

PANEL_WIDTH, PANEL_HEIGHT = 300, 220
LEFT, RIGHT, TOP, BOTTOM, GAP = 72, 12, 34, 42, 14
LABEL_LEFT = 58
"""From the axis to the middle of what it measures: left of "100,000"."""
LEGEND_LINE = 20
COLUMNS_MAX = 2
TICK_PX = 5
STYLE = """
text{font:11px system-ui,sans-serif;fill:#3d444d}
.title{font-weight:600;font-size:13px;fill:#1f2328}
.grid{stroke:#d1d9e0;stroke-width:1}
.axis{stroke:#818b98;stroke-width:1}
.bound{stroke:#cf222e;stroke-width:1.5;stroke-dasharray:6 4}
.boundtext{fill:#cf222e}
.mark{stroke:#818b98;stroke-width:1;stroke-dasharray:2 3}
path{fill:none;stroke-width:2;stroke-linejoin:round}
.c0{stroke:#0969da;fill:#0969da}.c1{stroke:#bc4c00;fill:#bc4c00}.c2{stroke:#1a7f37;fill:#1a7f37}
.c3{stroke:#8250df;fill:#8250df}.c4{stroke:#bf3989;fill:#bf3989}.c5{stroke:#7d6608;fill:#7d6608}
path{fill:none!important}
.dash{stroke-dasharray:5 3}
@media (prefers-color-scheme:dark){
text{fill:#b7bdc8}.title{fill:#f0f6fc}.grid{stroke:#30363d}.axis,.mark{stroke:#6e7681}
.bound{stroke:#ff7b72}.boundtext{fill:#ff7b72}
.c0{stroke:#58a6ff;fill:#58a6ff}.c1{stroke:#f0883e;fill:#f0883e}.c2{stroke:#3fb950;fill:#3fb950}
.c3{stroke:#bc8cff;fill:#bc8cff}.c4{stroke:#f778ba;fill:#f778ba}.c5{stroke:#d4a72c;fill:#d4a72c}
}
"""


class Line(msgspec.Struct, frozen=True):
    """`colour`: 0 to 5; lines of one name are one entry of the legend."""

    name: str
    points: tuple[Point, ...]
    colour: int = 0
    dashed: bool = False


class Panel(msgspec.Struct, frozen=True):
    """`bound`: a horizontal line that should not be passed; `mark`: a number of streams to point at. Values must be
    positive: both axes are logarithmic."""

    title: str
    lines: tuple[Line, ...]
    bound: tuple[float, str] | None = None
    mark: tuple[float, str] | None = None


class _Scale:
    """From values to pixels, logarithmic; `ticks` are the values to label."""

    def __init__(self, values: Iterable[float], pixels: tuple[float, float], steps: Sequence[float]) -> None:
        known = [value for value in values if value > 0] or [1.0]
        self._low, self._high = _around(min(known), max(known), steps)
        self._first, self._last = pixels
        self.ticks = list(_ticks(self._low, self._high, steps))

    def __call__(self, value: float) -> float:
        span = math.log(self._high / self._low)
        share = math.log(max(value, self._low) / self._low) / span
        return round(self._first + share * (self._last - self._first), 1)


def _around(low: float, high: float, steps: Sequence[float]) -> tuple[float, float]:
    """The nearest steps outside: 130 to 900 is 100 to 1,000 with steps of 1, 2 and 5."""
    below = max(tick for tick in _ticks(low / 100, low, steps))
    above = min(tick for tick in _ticks(high, high * 100, steps))
    return below, above if above > below else below * 2


def _ticks(low: float, high: float, steps: Sequence[float]) -> Iterator[float]:
    if list(steps) == [2]:
        for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1):
            if low <= 2.0**power <= high:
                yield 2.0**power
        return
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for step in steps:
            tick = step * 10.0**power
            if low * 0.999 <= tick <= high * 1.001:
                yield tick


def chart(title: str, panels: Sequence[Panel], *, x: str, y: str) -> str:
    """The picture. `x`, `y`: what the axes are, with units."""
    columns = min(COLUMNS_MAX, len(panels))
    rows = -(-len(panels) // columns)
    size = PANEL_WIDTH if columns > 1 else 2 * PANEL_WIDTH
    names = {line.name: line for panel in panels for line in panel.lines}
    width = columns * (LEFT + size + RIGHT) + (columns - 1) * GAP
    legend_rows = _legend_rows(list(names), width)
    head = 30 + LEGEND_LINE * len(legend_rows)
    height = head + rows * (TOP + PANEL_HEIGHT + BOTTOM)
    ys = [value for panel in panels for value in _heights(panel)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="20" style="font-size:15px">{escape(title)}</text>',
    ]
    for number, row in enumerate(legend_rows):
        parts += _legend([names[name] for name in row], 30 + LEGEND_LINE * number)
    for number, panel in enumerate(panels):
        left = (number % columns) * (LEFT + size + RIGHT + GAP) + LEFT
        top = head + (number // columns) * (TOP + PANEL_HEIGHT + BOTTOM) + TOP
        labels = (x if number + columns >= len(panels) else "", y if left == LEFT else "")
        parts += _panel(panel, (left, left + size), top, ys, *labels)
    return "\n".join([*parts, "</svg>", ""])


def _heights(panel: Panel) -> Iterator[float]:
    yield from (value for line in panel.lines for _, value in line.points)
    if panel.bound is not None:
        yield panel.bound[0]


def _legend_rows(names: list[str], width: float) -> list[list[str]]:
    rows: list[list[str]] = [[]]
    used = float(LEFT)
    for name in names:
        if rows[-1] and used + _entry(name) > width:
            rows.append([])
            used = LEFT
        rows[-1].append(name)
        used += _entry(name)
    return rows


def _entry(name: str) -> float:
    """Pixels of a legend's entry; letters of 11 px are 6 wide on average."""
    return 44 + 6 * len(name)


def _legend(lines: Sequence[Line], top: float) -> Iterator[str]:
    at = float(LEFT)
    for line in lines:
        yield f'<path class="c{line.colour}{" dash" * line.dashed}" d="M{at} {top + 8}h24"/>'
        yield f'<text x="{at + 30}" y="{top + 12}">{escape(line.name)}</text>'
        at += _entry(line.name)


def _panel(panel: Panel, sides: tuple[float, float], top: float, ys: Sequence[float], x: str, y: str) -> Iterator[str]:
    (left, right), bottom = sides, top + PANEL_HEIGHT
    across = _Scale((point[0] for line in panel.lines for point in line.points), (left, right), [2])
    up = _Scale(ys, (bottom, top), [1, 2, 5])
    yield f'<text class="title" x="{left}" y="{top - 10}">{escape(panel.title)}</text>'
    for tick in up.ticks:
        yield f'<line class="grid" x1="{left}" x2="{right}" y1="{up(tick)}" y2="{up(tick)}"/>'
        yield f'<text x="{left - 7}" y="{up(tick) + 4}" text-anchor="end">{_number(tick)}</text>'
    for tick in across.ticks:
        yield f'<line class="axis" x1="{across(tick)}" x2="{across(tick)}" y1="{bottom}" y2="{bottom + TICK_PX}"/>'
        yield f'<text x="{across(tick)}" y="{bottom + 18}" text-anchor="middle">{_number(tick)}</text>'
    yield f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    if panel.bound is not None:
        height = up(panel.bound[0])
        yield f'<line class="bound" x1="{left}" x2="{right}" y1="{height}" y2="{height}"/>'
        yield f'<text class="boundtext" x="{left + 5}" y="{height - 5}">{escape(panel.bound[1])}</text>'
    if panel.mark is not None:
        place = across(panel.mark[0])
        anchor, shift = ("end", -5) if place > (left + right) / 2 else ("start", 5)
        yield f'<line class="mark" x1="{place}" x2="{place}" y1="{top}" y2="{bottom}"/>'
        yield f'<text x="{place + shift}" y="{top + 12}" text-anchor="{anchor}">{escape(panel.mark[1])}</text>'
    for line in panel.lines:
        dots = [(across(a), up(b)) for a, b in sorted(line.points)]
        path = "L".join(f"{a} {b}" for a, b in dots)
        if path:
            yield f'<path class="c{line.colour}{" dash" * line.dashed}" d="M{path}"/>'
        if not line.dashed:
            yield from (f'<circle class="c{line.colour}" cx="{a}" cy="{b}" r="2.5"/>' for a, b in dots)
    if x:
        yield f'<text x="{(left + right) / 2}" y="{bottom + 35}" text-anchor="middle">{escape(x)}</text>'
    if y:
        middle = (top + bottom) / 2
        yield (
            f'<text x="{left - LABEL_LEFT}" y="{middle}" text-anchor="middle" '
            f'transform="rotate(-90 {left - LABEL_LEFT} {middle})">{escape(y)}</text>'
        )


def _number(value: float) -> str:
    """1000 as "1,000", 0.05 as "0.05"."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
