"""Captions and hits on a terminal, as plain lines, or as JSON lines.

Policy: on a terminal the current caption is one line that changes in place, what may still change is dimmed, and
finals scroll by above it. Without a terminal only finals are printed, one line each. JSON has every event.
"""

from collections.abc import Sequence
from typing import Protocol

import click
import msgspec
from parlance_client import Beside, Event, Hit, Match
from rich.console import Console
from rich.live import Live
from rich.text import Text

CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\ufffd")


class Show(Protocol):
    """Prints the events of one recording; used as a context manager around them."""

    def event(self, event: Event) -> None: ...

    def __enter__(self) -> "Show": ...

    def __exit__(self, *exc: object) -> None: ...


def clock(ms: int) -> str:
    """`mm:ss`, and `h:mm:ss` from one hour on."""
    minutes, seconds = divmod(ms // 1_000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


def final_line(event: Event) -> str:
    """`[mm:ss] S1: text` of a `transcript:final`."""
    speaker = event.body.get("speaker")
    who = f"{speaker}: " if speaker else ""
    return f"[{clock(int(event.body.get('start_ms', 0)))}] {who}{event.body.get('text', '')}"


class JsonLines:
    """Every event as one JSON object: its name as `event`, then its own fields."""

    def event(self, event: Event) -> None:
        click.echo(msgspec.json.encode({**event.body, "event": event.name}))

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *exc: object) -> None:
        return None


class PlainLines:
    """Finals, one line each."""

    def event(self, event: Event) -> None:
        if event.name == "transcript:final":
            click.echo(final_line(event))

    def __enter__(self) -> "PlainLines":
        return self

    def __exit__(self, *exc: object) -> None:
        return None


class LiveCaptions:
    """Finals scroll, the caption under way changes in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")

    def event(self, event: Event) -> None:
        if event.name == "transcript:final":
            self._live.update(Text(""), refresh=True)
            self._console.print(Text(final_line(event)), soft_wrap=True)
        elif event.name == "transcript:partial":
            self._live.update(caption(event), refresh=True)

    def __enter__(self) -> "LiveCaptions":
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()


def caption(event: Event) -> Text:
    """A `transcript:partial` with the part that may still change dimmed."""
    speaker = event.body.get("speaker")
    mark = f"[{clock(int(event.body.get('start_ms', 0)))}] " + (f"{speaker}: " if speaker else "")
    return Text.assemble(mark, str(event.body.get("stable", "")), (str(event.body.get("unstable", "")), "dim"))


def choose(*, as_json: bool) -> Show:
    if as_json:
        return JsonLines()
    console = Console(highlight=False)
    return LiveCaptions(console) if console.is_terminal else PlainLines()


def hits(found: Sequence[Hit], *, as_json: bool) -> None:
    """A query's hits, best first: title, time and speaker, then the text with the matches marked, between what was said
    before and after."""
    if as_json:
        for hit in found:
            click.echo(msgspec.json.encode(hit))
        return
    console = Console(highlight=False)
    for hit in found:
        who = f"  {_safe(hit.speaker)}" if hit.speaker else ""
        more = f"  ({hit.more} more)" if hit.more else ""
        console.print(
            Text.assemble((_safe(hit.title), "bold"), f"  [{clock(hit.start_ms)}]{who}{more}"), soft_wrap=True
        )
        for beside in hit.before:
            console.print(_beside(beside), soft_wrap=True)
        text = Text("  " + _safe(hit.text))
        for begin, end in hit.highlights:
            text.stylize("bold yellow", begin + 2, end + 2)
        console.print(text, soft_wrap=True)
        for beside in hit.after:
            console.print(_beside(beside), soft_wrap=True)


def match(found: Match, *, as_json: bool) -> None:
    """What a subscription was told: as a hit; in JSON with its cursor."""
    if as_json:
        click.echo(msgspec.json.encode({"cursor": found.cursor, **msgspec.to_builtins(found.hit)}))
    else:
        hits([found.hit], as_json=False)


def _beside(beside: Beside) -> Text:
    who = f"{_safe(beside.speaker)}: " if beside.speaker else ""
    return Text(f"  [{clock(beside.start_ms)}] {who}{_safe(beside.text)}", style="dim")


def _safe(text: str) -> str:
    """Without what a terminal would obey: titles and names are other people's. As long as it was, so that highlights
    stay where they are."""
    return text.translate(CONTROLS)
