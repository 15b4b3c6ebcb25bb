"""What the command line prints."""

import io
import json
import re

import msgspec
import pytest
from parlance_client import Beside, CallFailed, ConnectFailed, ConnectRefused, Event, Hit, Match
from rich.console import Console

from auth.errors import Unauthenticated
from server.config import ConfigError
from server.console import show
from server.console.failures import FAILED, UNREACHABLE, USAGE, CommandFailed, explain
from streaming.errors import Unavailable

PARTIAL = Event("transcript:partial", {"start_ms": 65_000, "stable": "to be ", "unstable": "[or not"})
FINAL = Event("transcript:final", {"start_ms": 65_000, "text": "To be [or] not.", "speaker": "S1"})
HIT = Hit("g1", "r1", "Talk", "S2", 5_000, 6_000, "a red apple", [(2, 5)], 1.0)


@pytest.mark.parametrize(
    ("ms", "text"), [(0, "00:00"), (59_999, "00:59"), (3_599_999, "59:59"), (3_661_000, "1:01:01")]
)
def test_a_clock(ms: int, text: str) -> None:
    assert show.clock(ms) == text


def test_plain_lines_are_the_finals(capsys: pytest.CaptureFixture[str]) -> None:
    with show.PlainLines() as lines:
        lines.event(PARTIAL)
        lines.event(FINAL)
    assert capsys.readouterr().out == "[01:05] S1: To be [or] not.\n"


def test_json_lines_are_every_event(capsys: pytest.CaptureFixture[str]) -> None:
    with show.JsonLines() as lines:
        lines.event(PARTIAL)
        lines.event(FINAL)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"event": "transcript:partial", **PARTIAL.body}
    assert second["event"] == "transcript:final"


def test_what_may_change_is_dimmed() -> None:
    text = show.caption(PARTIAL)
    assert text.plain == "[01:05] to be [or not"
    dimmed = [text.plain[span.start : span.end] for span in text.spans if "dim" in str(span.style)]
    assert dimmed == ["[or not"]


def test_on_a_terminal_finals_stay_and_the_caption_is_erased() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, highlight=False)
    with show.LiveCaptions(console) as live:
        live.event(PARTIAL)
        live.event(FINAL)
    written = out.getvalue()
    assert "[01:05] S1: To be [or] not.\n" in written
    assert "\x1b[2m[or not\x1b[0m" in written
    assert written.index("or not\x1b") < written.index("\x1b[2K[01:05] S1:")


def test_hits_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show.hits([HIT], as_json=False)
    assert capsys.readouterr().out == "Talk  [00:05]  S2\n  a red apple\n"
    show.hits([HIT], as_json=True)
    assert json.loads(capsys.readouterr().out)["highlights"] == [[2, 5]]


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written on a terminal."""
    out = io.StringIO()
    monkeypatch.setattr(show, "Console", lambda **_: Console(file=out, force_terminal=True, width=20, highlight=False))
    return out


def test_on_a_terminal_what_was_found_is_marked_and_what_is_beside_it_dimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    out = terminal(monkeypatch)
    before, after = Beside("g0", "S1", 3_000, 4_000, "pick one"), Beside("g2", None, 7_000, 8_000, "thanks")
    show.hits([msgspec.structs.replace(HIT, before=[before], after=[after], more=2)], as_json=False)
    assert out.getvalue().splitlines() == [
        "\x1b[1mTalk\x1b[0m  [00:05]  S2  (2 more)",
        "\x1b[2m  [00:03] S1: pick one\x1b[0m",
        "  a \x1b[1;33mred\x1b[0m apple",
        "\x1b[2m  [00:07] thanks\x1b[0m",
    ]


def test_a_terminal_obeys_nobody_elses_title(monkeypatch: pytest.MonkeyPatch) -> None:
    """And marks stay where they are, whatever is taken out before them."""
    out = terminal(monkeypatch)
    beside = Beside("g0", "\x9bS", 0, 0, "\x1b[2J")
    hit = Hit("g1", "r1", "\x1b]0;x\x07\r\n", "\x1b[1m", 5_000, 6_000, "\x07\ta red", [(4, 7)], 1.0, 1, [beside])
    show.hits([hit], as_json=False)
    lines = re.sub(r"\x1b\[(?:0|1|2|1;33)m", "", out.getvalue()).splitlines()
    assert [line.isprintable() for line in lines] == [True] * 3
    assert "\x1b[1;33mred\x1b[0m" in out.getvalue()


def test_a_match_in_json_has_its_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    show.match(Match("17.2", HIT), as_json=True)
    line = json.loads(capsys.readouterr().out)
    assert (line["cursor"], line["text"], line["highlights"]) == ("17.2", "a red apple", [[2, 5]])
    show.match(Match("17.2", HIT), as_json=False)
    assert capsys.readouterr().out == "Talk  [00:05]  S2\n  a red apple\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CommandFailed("It is so.", 7), 7),
        (ConfigError("PARLANCE_PORT: no."), USAGE),
        (ConnectRefused("unauthenticated", "The token has expired."), UNREACHABLE),
        (ConnectFailed("There is no answer."), UNREACHABLE),
        (Unauthenticated("A token is needed."), FAILED),
        (Unavailable("The database does not answer."), FAILED),
        (CallFailed("overloaded", "Later."), FAILED),
        (OSError(13, "Permission denied", "/x"), FAILED),
        (ExceptionGroup("g", [ExceptionGroup("h", [CommandFailed("It is so.", 7)])]), 7),
    ],
)
def test_errors_are_one_sentence(error: Exception, status: int) -> None:
    explained = explain(error)
    assert explained is not None
    assert explained[1] == status
    assert "\n" not in explained[0]


def test_a_reader_that_has_enough_is_no_error_to_tell_of() -> None:
    assert explain(ExceptionGroup("g", [BrokenPipeError(32, "Broken pipe")])) == ("", FAILED)


def test_a_defect_is_not_explained_away() -> None:
    assert explain(KeyError("x")) is None
