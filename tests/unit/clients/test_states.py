"""The states of a stream: the walks that the TypeScript SDK takes too, and the table."""

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from parlance_client.states import NEXT, Facts, StreamState, following

WALKS = msgspec.json.decode((Path(__file__).parents[2] / "golden/states.json").read_bytes())


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk["walk"])
def test_walk(walk: dict[str, Any]) -> None:
    state = StreamState.LIVE
    for facts, wanted in walk["steps"]:
        state = following(state, msgspec.convert(facts, Facts))
        assert state.value == wanted, facts


def test_no_facts_lead_where_the_table_does_not() -> None:
    names = ("connected", "paused", "stopping", "stopped", "lost")
    for state, waiting_ms in itertools.product(StreamState, (0, 2_000, 5_000)):
        for values in itertools.product((False, True), repeat=len(names)):
            facts = Facts(**dict(zip(names, values, strict=True)), waiting_ms=waiting_ms)
            assert following(state, facts) in {state, *NEXT[state]}


def test_nothing_follows_the_end() -> None:
    assert {state for state in StreamState if state.is_over} == {StreamState.STOPPED, StreamState.LOST}
    assert NEXT.keys() == set(StreamState)
