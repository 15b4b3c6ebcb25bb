"""From takes to cells, figures, tables and pictures; what is measured, and what a broken-off run leaves behind."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import captions, hour, setups, tables
from bench.__main__ import arguments
from bench.baseline import Baseline
from bench.captions import Store
from bench.cells import Cell, Latency, Whole, cell_of, figures
from bench.meter import Cpu, Memory
from bench.metrics import Take
from bench.plots import Line, Panel, chart
from bench.report import Result, write
from bench.setups import SPHINX, WHISPER, Measured, Setup, rows_of
from tests.bench.test_metrics import CUT, HEARD, SAID, ended, spoken

SVG = "{http://www.w3.org/2000/svg}"


def cell(streams: int, committed_p95: float, **more: Any) -> Cell:
    latencies = {
        name: Latency(100, [float(p) for p in np.linspace(0, 2 * p50, 101)])
        for name, p50 in (("first", 200), ("word", 300), ("final", 150))
    }
    latencies["committed"] = Latency(100, [round(float(p), 1) for p in np.linspace(0, committed_p95 / 0.95, 101)])
    known = {
        "audio_s": 40.0 * streams, "latencies": latencies, "final_words": 100, "said": 100, "errors": 2,
        "offline_errors": 1, "finals": 10, "partials": 90, "cpu": Cpu(1.0 * streams, 4.0 * streams, 0.1 * streams),
        "memory": Memory(100, 100 + streams),
    }  # fmt: skip
    return Cell(streams, **{**known, **more})


def measured(**more: Any) -> Measured:
    found = [cell(1, 900), cell(2, 1_000), cell(4, 1_900), cell(8, 2_500), cell(6, 2_001), cell(5, 2_001)]
    given = {"cells": found, "loaded_mib": 80.0, "baseline": Baseline(40, 40.0, 20.0, 20.0), **more}
    return Measured(Setup(WHISPER, "tiny.en", 40.0), **given)


def test_a_cell_adds_up_its_takes() -> None:
    clip = spoken(("to", 500, 900), ("be", 1_000, 2_000), ("two", 3_900, 4_100))
    good = Take(clip, [CUT], [*HEARD, ended(5_000, segments=1)], 160_000, 160_000, lag_ms=40)
    late = Take(clip, [CUT], [*HEARD, SAID, ended(5_000, segments=2)], 160_000, 96_000, lag_ms=90, degraded=True)
    refused = Take(clip, [], [], refused="overloaded")
    whole = {"c": Whole(1, [True])}
    cpu, memory = Cpu(1, 2, 3), Memory(4, 5)
    found = cell_of([good, late, refused], whole, cpu=cpu, memory=memory, load_cpu_s=6.789, wall_s=7, skipped=8)
    assert (found.streams, found.refused, found.audio_s) == (3, 1, 10)
    assert (found.errors, found.offline_errors, found.said) == (5, 2, 6)
    assert found.violations == {"a caption after its final": 1}
    assert found.missing == []
    assert (found.dropped_s, found.lag_ms, found.degraded, found.skipped) == (2, 90, 1, 8)
    assert found.load_cpu_s == 6.79
    assert found.latencies["final"].n == 3
    assert not found.kept, "streams were refused"
    assert msgspec.json.decode(msgspec.json.encode(found), type=Cell) == found


def test_a_cell_is_kept_when_words_are_stable_in_time() -> None:
    assert cell(4, 2_000).kept
    assert not cell(4, 2_001).kept
    assert not cell(4, 100, refused=1).kept
    assert not Cell(4, failed="TimeoutError").kept
    assert not Cell(4).kept, "nothing was heard"


def test_the_knee_is_where_cells_are_not_kept_any_more() -> None:
    assert measured().knee == 4
    told = {
        int(row.name.split()[1]) for row in rows_of(measured()) if "stream: w" in row.name or "streams: w" in row.name
    }
    assert told == {1, 2, 4, 8}, "one, half the knee, the knee, twice the knee"


def test_rows_mark_broken_promises() -> None:
    broken = cell(1, 900, violations={"a caption after its final": 2}, missing=["x"], dropped_s=0.5, errors=10)
    rows = {row.name: row for row in rows_of(measured(cells=[broken, cell(2, 2_400)]))}
    kept = {name.removeprefix("tiny.en, 1 stream: "): row.kept for name, row in rows.items() if "1 stream:" in name}
    assert not kept["captions against the rules"]
    assert not kept["finals and ends missing"]
    assert not kept["audio dropped"]
    assert not kept["word error rate"]
    assert not kept["what streaming costs of it"]
    assert kept["word until it is stable, p95"]
    assert kept["CPU of the recogniser, share of the loop's"]
    assert rows["tiny.en, 1 stream: CPU of the recogniser, share of the loop's"].value == 0.2
    assert rows["tiny.en: memory of the recogniser, growth"].value == 11.0
    assert rows["tiny.en: knee"].value == 1
    assert rows["tiny.en, 2 streams: word until it is stable, p95"].most is None, "above half the knee"


def test_a_failed_cell_is_one_missed_row() -> None:
    rows = figures("x", Cell(2, failed="TimeoutError: the server"))
    assert [(row.name, row.kept) for row in rows] == [("x: failed, TimeoutError: the server", False)]


@pytest.mark.parametrize(
    ("quick", "shape", "engine", "labels"),
    [
        (False, None, None, ["micro", "tiny.en", "base.en", "small.en", "tiny.en, padded to 30 s", "pocketsphinx"]),
        (False, "base.en", None, ["base.en"]),
        (False, "tiny.en", WHISPER, ["tiny.en", "tiny.en, padded to 30 s"]),
        (False, "large-v3-turbo", None, ["large-v3-turbo"]),
        (False, None, SPHINX, ["pocketsphinx"]),
        (True, None, None, ["micro", "tiny.en"]),
    ],
)
def test_what_is_measured(quick: bool, shape: str | None, engine: str | None, labels: list[str]) -> None:
    wanted = list(setups.setups(quick=quick, counts=(), shape=shape, engine=engine))
    assert [setup.label for setup in wanted] == labels
    assert all(bool(setup.counts) is quick for setup in wanted)
    assert len({setup.label for setup in wanted}) == len(wanted), "labels are keys of the store"


def test_settings_of_the_recogniser_reach_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARLANCE_DEVICES", raising=False)
    monkeypatch.setenv("PARLANCE_DEVICE", "cuda:0")
    assert captions.passed_on() == {"devices": "cuda:0"}
    monkeypatch.setenv("PARLANCE_DEVICES", "cuda:0,cuda:1")
    monkeypatch.setenv("PARLANCE_SECRET", "none of the benchmark's business")
    assert captions.passed_on() == {"devices": "cuda:0,cuda:1"}


def test_a_run_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    path = tmp_path / "captions.tmp"
    first = Store(path, resume=False)
    first.put("tiny.en: 1", cell(1, 900))
    with path.open("ab") as file:
        file.write(b'["tiny.en: 2", {"stre')  # killed while it wrote
    again = Store(path, resume=True)
    assert again.get("tiny.en: 1", Cell) == cell(1, 900)
    assert again.get("tiny.en: 2", Cell) is None
    again.put("tiny.en: 2", cell(2, 950))
    assert Store(path, resume=True).get("tiny.en: 2", Cell) == cell(2, 950)
    assert Store(path, resume=False).get("tiny.en: 1", Cell) is None, "a new run forgets"
    first.done()
    assert not path.exists()


def result(found: list[Measured]) -> Result:
    return Result("captions", [], {"model": "micro", "device": "cpu"}, {"measured": msgspec.to_builtins(found)})


def test_tables_and_pictures_come_from_the_file(tmp_path: Path) -> None:
    long = cell(1, 900)
    write(
        tmp_path,
        result([measured(long=long), measured(cells=[Cell(1, failed="E: x")])]),
        seed=1,
        quick=False,
        seconds=1,
    )
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.draw(tmp_path, document, tmp_path)
    text = document.read_text()
    assert text.startswith(f"before\n{tables.BEGIN}\n")
    assert text.endswith(f"{tables.END}\nafter\n")
    assert "old" not in text
    rows = [line for line in text.splitlines() if line.startswith("| tiny.en |")]
    widths = [len(line.split(" | ")) for line in text.splitlines() if line.startswith("| engine")]
    assert rows[0].startswith(
        "| tiny.en | 4 | 0.100 / 0.025 / 0.003 | 0.100 / 0.025 / 0.003 | 0.500 | 0.20 / 0.20 | 2 |"
    )
    assert sum("(knee)" in row for row in rows) == 1
    assert any("1, utterances of 20 to 28 s" in row for row in rows)
    assert any("failed: E: x" in row for row in rows)
    assert len(rows[2].split(" | ")) == widths[1]
    assert {path.name for path in tmp_path.glob("*.svg")} == {tables.LATENCY, tables.COST}
    for path in tmp_path.glob("*.svg"):
        assert ET.fromstring(path.read_text()).tag == f"{SVG}svg"


def test_a_document_without_a_place_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, result([measured()]), seed=1, quick=False, seconds=1)
    document = tmp_path / "benchmarks.md"
    document.write_text("nothing of this\n")
    with pytest.raises(ValueError, match="no place"):
        tables.draw(tmp_path, document, tmp_path)
    assert document.read_text() == "nothing of this\n"


def test_the_documents_tables_and_pictures_are_those_of_the_results() -> None:
    results = tables.ROOT / "bench" / "results"
    found = tables.load(results)
    text = tables.DOCUMENT.read_text()
    inside = text.partition(tables.BEGIN)[2].partition(tables.END)[0]
    assert inside.strip() == tables.markdown(results).strip(), "run python -m bench.tables"
    for name, drawn in tables.pictures(found).items():
        assert (tables.IMAGES / name).read_text() == drawn, "run python -m bench.tables"


def test_a_chart_puts_points_where_the_axes_say() -> None:
    line = Line("p95 & more", ((1, 100), (4, 1_000), (16, 10_000)))
    text = chart("A <title>", [Panel("one", (line,), (2_000, "2 s"), (4, "knee"))], x="streams", y="ms")
    root = ET.fromstring(text)
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.iter(f"{SVG}circle")]
    assert len(dots) == 3
    (x1, y1), (x2, y2), (x3, y3) = dots
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2), "four times as many is one step"
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2), "ten times as long is one step"
    assert y3 < y2 < y1, "more is higher"
    words = [node.text for node in root.iter(f"{SVG}text")]
    assert {"A <title>", "one", "p95 & more", "streams", "ms", "2 s", "knee", "1,000", "16"} <= set(words)
    bound = next(node for node in root.iter(f"{SVG}line") if node.get("class") == "bound")
    assert y3 < float(bound.get("y1", "")) < y2
    assert "prefers-color-scheme" in text


def test_a_chart_keeps_everything_inside() -> None:
    panels = [Panel(f"panel {n}", (Line("a", ((1, 3), (200, 70_000))), Line("b", ((1, 9),), 1))) for n in range(5)]
    root = ET.fromstring(chart("many", panels, x="x", y="y"))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for node in root.iter(f"{SVG}circle"):
        assert 0 < float(node.get("cx", "")) < width
        assert 0 < float(node.get("cy", "")) < height
    numbers = [float(n) for node in root.iter(f"{SVG}path") for n in re.findall(r"[\d.]+", node.get("d", ""))]
    assert all(0 <= n <= max(width, height) for n in numbers)


def test_growth_is_that_of_the_medians_behind_the_tenth_minute() -> None:
    def at(minute: float, mib: float) -> hour.Sample:
        return hour.Sample(minute, Memory(mib, 2 * mib))

    flat = [at(minute / 10, 50 + (minute < 90) * 300 + minute % 3) for minute in range(600)]
    first, last = hour.growth(flat) or pytest.fail("there are samples")
    assert abs(last.server_mib - first.server_mib) < 1, "what grew before does not count"
    rising = [at(minute / 10, 50 + minute / 10) for minute in range(600)]
    first, last = hour.growth(rising) or pytest.fail("there are samples")
    assert (last.server_mib - first.server_mib, last.workers_mib - first.workers_mib) == pytest.approx((40, 80), abs=1)
    assert hour.growth([]) is None


def test_an_hour_names_what_is_missing() -> None:
    clip = spoken(("to", 500, 900), ("be", 1_000, 2_000), ("to", 3_900, 4_100))
    take = Take(clip, [CUT], [*HEARD, ended(5_000, segments=1)], 160_000, 160_000)
    assert all(row.kept for row in hour.result_of(take, [], {}).figures)
    lost = msgspec.structs.replace(take, heard=[ended(5_000, segments=1)], durable_bytes=0)
    missed = {row.name for row in hour.result_of(lost, [], {}).figures if not row.kept}
    assert missed == {"word error rate", "utterances and ends missing", "audio dropped"}


def test_the_command_takes_numbers_of_streams(capsys: pytest.CaptureFixture[str]) -> None:
    given = arguments(["captions", "--streams", "1,8", "--shape", "large-v3-turbo", "--engine", WHISPER])
    assert (given.streams, given.shape, given.engine, given.resume) == ((1, 8), "large-v3-turbo", WHISPER, False)
    with pytest.raises(SystemExit):
        arguments(["captions", "--streams", "1,0"])
    assert "--streams" in capsys.readouterr().err
