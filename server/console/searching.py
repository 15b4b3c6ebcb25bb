"""What `parlance search` is asked: its options, and what they mean for the server.

Policy: what cannot be meant is refused here, in one sentence that names the option, before anything begins. A date
alone is the whole day: `--since 2026-11-20 --until 2026-11-20` is what was said on it, in this machine's time.

Boundary: values only; `session` asks the server, `show` prints.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from parlance_client import SearchFilters, SearchOptions

F = TypeVar("F", bound=Callable[..., Any])

HITS = 20
HITS_MAX = 100
"""Of a page: `search_hits_max` of the server's limits."""
AROUND_MAX = 3
"""`search_neighbours_max` of the server's limits."""
UNITS_S = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
AGO = re.compile(r"([0-9]{1,6})([mhdw])")
FIELDS = {
    "text": "TEXT",
    "mode": "--mode",
    "sort": "--sort",
    "limit": "--limit",
    "neighbours": "--around",
    "group_by": "--grouped",
    "after": "--after",
    "filters.recording_ids": "--recording",
    "filters.speakers": "--speaker",
    "filters.languages": "--language",
    "filters.from": "--since",
    "filters.to": "--until",
}
"""Where a field of the protocol comes from."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One search. `every`: all pages; `follow`: what is said from now on, or after the cursor `after`."""

    text: str
    mode: Literal["hybrid", "keyword", "semantic"] = "hybrid"
    recording: tuple[str, ...] = ()
    speaker: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    sort: str | None = None
    limit: int | None = None
    around: int | None = None
    grouped: bool = False
    every: bool = False
    follow: bool = False
    after: str | None = None

    @property
    def filters(self) -> "SearchFilters | None":
        given = {
            "recording_ids": list(self.recording),
            "speakers": list(self.speaker),
            "languages": list(self.language),
            "from": self.since,
            "to": self.until,
        }
        return {name: value for name, value in given.items() if value not in (None, [])} or None  # type: ignore[return-value]

    @property
    def options(self) -> "SearchOptions":
        """Only what was asked for, so that an older server understands the rest."""
        given = {
            "mode": self.mode,
            "filters": self.filters,
            "sort": self.sort,
            "limit": HITS_MAX if self.every else self.limit or HITS,
            "neighbours": self.around,
            "group_by": "recording" if self.grouped else None,
        }
        return {name: value for name, value in given.items() if value is not None}  # type: ignore[return-value]


def moment_ms(text: str, now: datetime, *, is_end: bool = False) -> int:
    """Unix milliseconds of a time as people type it: `2h` (ago), `2026-11-20`, `2026-11-20T09:30`, with or without a
    zone. `is_end`: a date alone is the end of that day. Raises `ValueError`."""
    if found := AGO.fullmatch(text):
        return max(0, int((now.timestamp() - int(found[1]) * UNITS_S[found[2]]) * 1_000))
    try:
        when = datetime.fromisoformat(text)
        with suppress(ValueError):
            if date.fromisoformat(text) and is_end:
                when += timedelta(days=1)
        return max(0, int(when.timestamp() * 1_000))
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is no time: write 2h or 7d, 2026-11-20, or 2026-11-20T09:30.") from None


def _moment(*, is_end: bool = False) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    def read(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
        try:
            return None if text is None else moment_ms(text, datetime.now(UTC), is_end=is_end)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return read


_OPTIONS = (
    click.option(
        "--mode",
        type=click.Choice(["hybrid", "keyword", "semantic"]),
        default="hybrid",
        show_default=True,
        help="Search by words, by meaning, or both.",
    ),
    click.option("--recording", multiple=True, metavar="ID", help="Only in this recording; may be repeated."),
    click.option("--speaker", multiple=True, metavar="NAME", help="Only this speaker, name or label; may be repeated."),
    click.option("--language", multiple=True, help="Only speech in this language, such as en; may be repeated."),
    click.option(
        "--since", metavar="TIME", callback=_moment(), help="Only since then: 2h, 7d, 2026-11-20, 2026-11-20T09:30."
    ),
    click.option(
        "--until", metavar="TIME", callback=_moment(is_end=True), help="Only before then; a date includes its day."
    ),
    click.option("--sort", type=click.Choice(["relevance", "newest"]), help="Order of hits [relevance]."),
    click.option("--limit", type=click.IntRange(1, HITS_MAX), help=f"Most hits to print [{HITS}]."),
    click.option("--all", "every", is_flag=True, help="Print all hits, however many."),
    click.option("--around", type=click.IntRange(0, AROUND_MAX), help="Print so many sentences before and after."),
    click.option("--grouped", is_flag=True, help="Print the best hit of each recording."),
    click.option("--follow", is_flag=True, help="Wait, and print what matches as it is said; Ctrl-C ends it."),
    click.option("--after", metavar="CURSOR", help="With --follow: begin after this cursor, which --json prints."),
)


def options(command: F) -> F:
    """The options of a search, but for where it is sent."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def wanted_of(text: str, **given: Any) -> Wanted:
    """What the options mean together. Raises `click.UsageError`."""
    wanted = Wanted(text=text, **given)
    if wanted.follow:
        for name in ("sort", "limit", "around", "grouped", "every"):
            if getattr(wanted, name):
                raise click.UsageError(f"--{name.replace('every', 'all')} does not go with --follow.")
    elif wanted.after is not None:
        raise click.UsageError("--after only makes sense with --follow.")
    if wanted.every and wanted.limit is not None:
        raise click.UsageError("--limit does not go with --all.")
    if wanted.since is not None and wanted.until is not None and wanted.since >= wanted.until:
        raise click.UsageError("--until must be later than --since.")
    return wanted
