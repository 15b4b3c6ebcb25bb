"""The transition table: every pair of state and input is either in it or raises."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.errors import Conflict, ParlanceError, StreamEnded
from streaming.protocol.session import TRANSITIONS, Input, State, advance

EXPECTED = {
    State.LIVE: {"chunk": "live", "flush": "live", "pause": "paused", "resume": "live", "stop": "stopping",
                 "drained": Conflict, "fail": "ended"},
    State.PAUSED: {"chunk": Conflict, "flush": "paused", "pause": "paused", "resume": "live", "stop": "stopping",
                   "drained": Conflict, "fail": "ended"},
    State.STOPPING: {"chunk": StreamEnded, "flush": StreamEnded, "pause": StreamEnded, "resume": StreamEnded,
                     "stop": "stopping", "drained": "ended", "fail": "ended"},
    State.ENDED: dict.fromkeys(["chunk", "flush", "pause", "resume", "stop", "drained", "fail"], StreamEnded),
}  # fmt: skip


@pytest.mark.parametrize(("state", "given_"), list(itertools.product(State, Input)))
def test_every_pair(state: State, given_: Input) -> None:
    expected = EXPECTED[state][given_.value]
    if isinstance(expected, str):
        assert advance(state, given_) is State(expected)
        return
    assert (state, given_) not in TRANSITIONS
    with pytest.raises(ParlanceError) as raised:
        advance(state, given_)
    assert type(raised.value) is expected
    if expected is Conflict:
        assert state.value in raised.value.message
        assert given_.value in raised.value.message


def test_nothing_leaves_the_end_and_every_state_is_reached() -> None:
    assert all(state is not State.ENDED for state, _ in TRANSITIONS)
    reached = {State.LIVE}
    for _ in State:
        reached |= {to for (state, _), to in TRANSITIONS.items() if state in reached}
    assert reached == set(State)


@given(st.lists(st.sampled_from(Input), max_size=30))
def test_once_stopped_only_the_end_is_left(inputs: list[Input]) -> None:
    order = [State.LIVE, State.STOPPING, State.ENDED]
    state, furthest = State.LIVE, 0
    for given_ in inputs:
        if (state, given_) in TRANSITIONS:
            state = advance(state, given_)
        else:
            with pytest.raises(StreamEnded if state in (State.STOPPING, State.ENDED) else Conflict):
                advance(state, given_)
        now = order.index(State.LIVE if state is State.PAUSED else state)
        assert now >= furthest
        furthest = now
