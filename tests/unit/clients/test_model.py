"""The client reads what the server writes: the golden vectors of both."""

import json
from pathlib import Path
from typing import Any

import msgspec
from parlance_client import Hit, Match, SearchResults

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/server_events.json").read_text())


def fields(golden: Any, made: Any) -> Any:
    """Of what the client made, those fields that the vector has."""
    if isinstance(golden, dict):
        return {name: fields(value, made[name]) for name, value in golden.items()}
    if isinstance(golden, list):
        return [fields(*pair) for pair in zip(golden, made, strict=True)]
    return made


def test_results_and_matches_are_read_whole() -> None:
    assert len(GOLDEN["search:results"]) > 1
    for golden in GOLDEN["search:results"]:
        assert fields(golden, msgspec.to_builtins(msgspec.convert(golden, SearchResults))) == golden
    for golden in GOLDEN["search:match"]:
        told = {name: value for name, value in golden.items() if name != "subscription_id"}
        assert fields(told, msgspec.to_builtins(msgspec.convert(golden, Match))) == told


def test_a_hit_of_an_older_server_is_read_too() -> None:
    new = {"rev", "before", "after", "more"}
    old = {name: value for name, value in GOLDEN["search:results"][0]["hits"][0].items() if name not in new}
    hit = msgspec.convert(old, Hit)
    assert (hit.rev, hit.before, hit.after, hit.more) == (0, [], [], 0)
