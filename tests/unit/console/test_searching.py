"""What the options of a search mean, and which cannot be meant."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner
from parlance_client import SearchMode

from server.cli import cli
from server.console.searching import AROUND_MAX, FIELDS, HITS_MAX, Wanted, moment_ms, wanted_of
from streaming.limits import LIMITS
from streaming.protocol.searches import SearchFilters, SearchQuery, SearchSubscribe

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOON_MS = 1_795_176_000_000
HOUR_MS = 3_600_000


@pytest.fixture
def berlin() -> Iterator[None]:
    """This machine stands in Berlin for the while."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0m", NOON_MS),
        ("90m", NOON_MS - 3 * HOUR_MS // 2),
        ("2h", NOON_MS - 2 * HOUR_MS),
        ("7d", NOON_MS - 168 * HOUR_MS),
        ("1w", NOON_MS - 168 * HOUR_MS),
        ("999999w", 0),
        ("0001-01-02", 0),
        ("2026-11-20T12:00Z", NOON_MS),
        ("2026-11-20T12:00:00.5+01:00", NOON_MS - HOUR_MS + 500),
        ("2026-11-20", NOON_MS - 13 * HOUR_MS),
        ("2026-11-20 12:30", NOON_MS - HOUR_MS // 2),
        ("2026-07-01T12:00", 1_782_900_000_000),  # summer: two hours before UTC, whatever it is now
    ],
)
def test_a_time_as_people_type_it(text: str, ms: int, berlin: None) -> None:
    assert moment_ms(text, NOW) == ms


def test_a_date_as_an_end_is_the_end_of_its_day(berlin: None) -> None:
    assert moment_ms("2026-11-20", NOW, is_end=True) == NOON_MS + 11 * HOUR_MS
    assert moment_ms("2026-11-20T12:00Z", NOW, is_end=True) == NOON_MS
    # Clocks go forward on this day: it has 23 hours.
    first, last = (moment_ms("2026-03-29", NOW, is_end=is_end) for is_end in (False, True))
    assert last - first == 23 * HOUR_MS


@pytest.mark.parametrize("text", ["", "now", "2 h", "-2h", "h", "2y", "1234567h", "2026-13-01", "9999-12-31", "٢h"])
def test_what_is_no_time_is_refused(text: str, berlin: None) -> None:
    with pytest.raises(ValueError, match="is no time"):
        moment_ms(text, NOW, is_end=True)


def test_only_what_is_wanted_is_asked_for() -> None:
    assert wanted_of("x").options == {"mode": "hybrid", "limit": 20}
    assert wanted_of("x").filters is None
    wanted = wanted_of(
        "x", recording=("r",), speaker=("S1", "Ann"), language=("en",), since=1, until=2, around=2, grouped=True
    )
    assert wanted.filters == {
        "recording_ids": ["r"],
        "speakers": ["S1", "Ann"],
        "languages": ["en"],
        "from": 1,
        "to": 2,
    }
    assert (wanted.options["neighbours"], wanted.options["group_by"]) == (2, "recording")
    assert wanted_of("x", every=True).options["limit"] == HITS_MAX


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--since", "yesterday"), "'--since': 'yesterday' is no time"),
        (("--until", "2026-02-30"), "'--until'"),
        (("--since", "2026-11-20", "--until", "2026-11-19"), "--until must be later than --since"),
        (("--mode", "fuzzy"), "'--mode'"),
        (("--around", "4"), "'--around'"),
        (("--limit", "101"), "'--limit'"),
        (("--all", "--limit", "5"), "--limit does not go with --all"),
        (("--after", "17.2"), "--after only makes sense with --follow"),
        (("--follow", "--sort", "newest"), "--sort does not go with --follow"),
        (("--follow", "--limit", "5"), "--limit does not go with --follow"),
        (("--follow", "--around", "1"), "--around does not go with --follow"),
        (("--follow", "--grouped"), "--grouped does not go with --follow"),
        (("--follow", "--all"), "--all does not go with --follow"),
    ],
)
def test_what_cannot_be_meant_names_its_option(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    ran = CliRunner().invoke(cli, ["search", "x", *arguments], env={"PARLANCE_DATA_DIR": str(tmp_path / "data")})
    assert ran.exit_code == 2, ran.output
    assert isinstance(ran.exception, SystemExit), "no traceback"
    assert says in " ".join(ran.stderr.split())
    assert not (tmp_path / "data").exists()


def test_the_options_are_those_of_the_wire() -> None:
    """So that what the server would refuse is refused here, and what it does refuse is said of an option."""
    assert (LIMITS.search_hits_max, LIMITS.search_neighbours_max) == (HITS_MAX, AROUND_MAX)
    assert get_args(SearchMode) == get_args(Wanted.__annotations__["mode"])
    fields = {f"filters.{name}".rstrip("_") for name in SearchFilters.__struct_fields__} - {"filters.tags"}
    fields |= {*SearchQuery.__struct_fields__, *SearchSubscribe.__struct_fields__}
    unnamed = {"request_id", "subscription_id", "slot", "cursor", "filters", "min_score"}
    assert set(FIELDS) == fields - unnamed
