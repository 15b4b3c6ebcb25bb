"""What can be checked of the documents: links resolve, and every name they give (settings, events, codes, limits,
metrics, paths, commands, files, tests, pictures) is a name that the program has."""

import itertools
import re
from pathlib import Path

import msgspec
import pytest

import server.workers.remote  # noqa: F401 - registers a metric of its own
from server.cli import cli
from server.config import Config
from server.console.models import models
from server.edge.errors import HTTP_STATUS
from server.telemetry import METRICS
from streaming.limits import Limits
from streaming.protocol.messages import CLIENT_EVENTS, SERVER_EVENTS, RecordingStart

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    "",
    "docs",
    "docs/images",
    "clients/python",
    "clients/python/examples",
    "clients/js/sdk",
    "tests/models/*",
    "tests/models/*/*",
)
DOCUMENTS = sorted(path for place in PLACES for path in ROOT.glob(f"{place}/*.md".lstrip("/")))
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
EVENTS = CLIENT_EVENTS.keys() | SERVER_EVENTS.keys()
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)|\bsrc=\"([^\"]+)\"")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
EVENT = re.compile(r"[a-z]+(?::[a-z]+)+")
FILE = re.compile(r"(?<![\w/])(?:streaming|server|search|auth|clients|tests|scripts|bench|docs|requirements)/[\w./-]*")
PATH = re.compile(r"(?:GET |POST |PATCH |DELETE )?(/(?:v1/\S+|healthz|readyz|metrics))(?: |$)")
ROW_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
MADE = frozenset({"bench/results/"})
"""Named, and not in a fresh checkout."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name: str) -> str:
    """A document without its fenced blocks."""
    return FENCE.sub("", read(name))


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(text)}


def tables(text: str, heading: str) -> list[list[str]]:
    """The cells of the table rows under a heading, without head and rule."""
    _, found, rest = text.partition(heading + "\n")
    assert found, f"there is no heading {heading}"
    section = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    bodies = (list(group)[2:] for _, group in itertools.groupby(rows, key=len))
    return [row for body in bodies for row in body]


def named(cells: list[list[str]], column: int = 0) -> list[str]:
    """What stands as code in a column."""
    return [name for row in cells for name in CODE.findall(row[column])]


@pytest.mark.parametrize("name", NAMES)
def test_links_resolve(name: str) -> None:
    broken = []
    for first, second in LINK.findall(prose(name)):
        target = first or second
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    assert not broken, f"{name}: {broken}"


@pytest.mark.parametrize("name", NAMES)
def test_files_and_tests_exist(name: str) -> None:
    text = prose(name)
    written = {match.rstrip(".") for code in CODE.findall(text) for match in FILE.findall(code) if "<" not in code}
    missing = sorted(path for path in written - MADE if not path.endswith("-") and not any(ROOT.glob(path.rstrip("/"))))
    assert not missing, f"{name}: there is no {missing}"
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    known = set(re.findall(r"def (test_\w+)", sources)) | {path.stem for path in ROOT.glob("tests/**/test_*.py")}
    unknown = sorted(set(re.findall(r"\btest_\w+", text)) - known)
    assert not unknown, f"{name}: there is no test {unknown}"


def test_the_readme_has_every_setting_with_its_default() -> None:
    rows = tables(read("README.md"), "## Configuration")
    told = {setting.removeprefix("PARLANCE_").lower(): row[1] for row in rows for setting in named([row])}
    fields = {field.name: field.default for field in msgspec.structs.fields(Config)}
    assert told.keys() == fields.keys()
    for name, default in fields.items():
        if isinstance(default, str | int | Path) and not isinstance(default, bool):
            assert told[name] == f"`{default}`", name


def test_the_protocol_page_knows_every_event_and_no_other() -> None:
    text = prose("docs/protocol.md")
    before, _, after = text.partition("## What of version 1 is not there yet")
    absent, _, after = after.partition("The type ")
    mentioned = {event for part in (before, after) for code in CODE.findall(part) for event in EVENT.findall(code)}
    assert mentioned == {event for event in EVENTS if ":" in event}
    assert not EVENTS & {code for code in CODE.findall(absent) if EVENT.fullmatch(code)}


def test_the_protocol_page_has_every_code_with_its_status() -> None:
    text = read("docs/protocol.md")
    rows = tables(text, "## Error codes")
    unused = text.partition("Known to the table and not used yet:")[2].partition("\n\n")[0]
    told = {row[0].strip("`"): int(row[1]) for row in rows}
    assert told.items() <= HTTP_STATUS.items()
    assert told.keys() ^ HTTP_STATUS.keys() == set(CODE.findall(unused))


def test_limits_metrics_and_paths_are_those_of_the_program() -> None:
    limits = named(tables(read("docs/protocol.md"), "## Limits"))
    greeting = set(re.findall(r'"(\w+)": self\._limits\.', read("server/edge/sockets.py")))
    assert set(limits) == greeting <= {field.name for field in msgspec.structs.fields(Limits)}

    rows = tables(read("docs/operations.md"), "## Health, readiness, metrics")
    metrics = {name.partition("{")[0].removesuffix("_total") for name in named(rows) if name.startswith("parlance_")}
    assert metrics == {metric.name for metric in METRICS.registry.collect()}

    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "server/edge").rglob("*.py")]
    routes = set(re.findall(r'web\.(?:get|post|patch|delete)\("([^"]+)"', "".join(sources)))
    for name in ("README.md", "docs/protocol.md", "docs/operations.md"):
        given = {match[1] for code in CODE.findall(prose(name)) if (match := PATH.match(code))}
        assert given, name
        assert given <= routes, name


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    given = set(re.findall(r"(?:\.venv/bin/|`)parlance ([a-z]+)", read(name)))
    assert given <= cli.commands.keys()
    assert set(re.findall(r"\bparlance models ([a-z]+)", read(name))) <= models.commands.keys()
    targets = set(re.findall(r"^(\w+):", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)(?:\w+=\S+ )?make (\w+)", read(name), re.MULTILINE)) <= targets


@pytest.mark.parametrize("heading", ["## Events", "## A stream's order", "## Audio", "## Containers", "## Over HTTP"])
def test_every_bad_input_has_its_test(heading: str) -> None:
    rows = tables(read("docs/bad-input.md"), heading)
    assert rows
    for cells in rows:
        assert len(cells) == 3, cells
        tests = ROW_TEST.findall(cells[2])
        assert tests, f"no test: {cells}"
        assert ", ".join(f"`{file}::{test}`" for file, test in tests) == cells[2], f"not only tests: {cells[2]}"
        for file, test in tests:
            assert re.search(rf"def {test}\(", read(file)), f"{file} has no {test}"


def test_bad_input_answers_with_codes_of_the_protocol() -> None:
    rows = [row for heading in ("## A stream's order", "## Audio", "## Containers", "## Over HTTP") for row in
            tables(read("docs/bad-input.md"), heading)]  # fmt: skip
    codes = {name for row in rows for name in CODE.findall(row[1]) if re.fullmatch(r"[a-z]+(_[a-z]+)+", name)}
    assert codes - HTTP_STATUS.keys() <= {"expected_offset", "new_container"}


def test_the_encodings_are_those_of_the_protocol() -> None:
    told = set(named(tables(read("docs/protocol.md"), "## Encodings")))
    fields = {field.name: field for field in msgspec.inspect.type_info(RecordingStart).fields}
    assert told == set(fields["encoding"].type.values)


def test_log_lines_are_written_somewhere() -> None:
    lines = {row[0] for row in tables(read("docs/operations.md"), "## Logs")}
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("server/**/*.py"))
    told = {line for cell in lines for line in CODE.findall(cell)}
    assert told
    assert [line for line in sorted(told) if f'"{line}' not in sources] == []


def test_every_picture_is_used_and_explained() -> None:
    pictures = {path.name for path in ROOT.glob("docs/images/*.png")}
    assert pictures
    assert pictures == set(re.findall(r"docs/images/([\w-]+\.png)", read("README.md")))
    assert pictures == set(CODE.findall(read("docs/images/README.md"))) & pictures
