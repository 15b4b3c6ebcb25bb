"""The states of a live stream and the one table of what may happen in each.

    LIVE --pause--> PAUSED --resume--> LIVE
    LIVE | PAUSED --stop--> STOPPING --drained--> ENDED;   any --fail--> ENDED

Pure. Invariant: nothing leaves ENDED; an input that the state does not take raises and changes nothing.
"""

from enum import Enum

from streaming.errors import Conflict, StreamEnded


class State(Enum):
    LIVE = "live"
    PAUSED = "paused"
    STOPPING = "stopping"
    ENDED = "ended"


class Input(Enum):
    CHUNK = "chunk"
    FLUSH = "flush"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    DRAINED = "drained"
    FAIL = "fail"


TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.LIVE, Input.CHUNK): State.LIVE,
    (State.LIVE, Input.FLUSH): State.LIVE,
    (State.LIVE, Input.PAUSE): State.PAUSED,
    (State.LIVE, Input.RESUME): State.LIVE,
    (State.LIVE, Input.STOP): State.STOPPING,
    (State.LIVE, Input.FAIL): State.ENDED,
    (State.PAUSED, Input.FLUSH): State.PAUSED,
    (State.PAUSED, Input.PAUSE): State.PAUSED,
    (State.PAUSED, Input.RESUME): State.LIVE,
    (State.PAUSED, Input.STOP): State.STOPPING,
    (State.PAUSED, Input.FAIL): State.ENDED,
    (State.STOPPING, Input.DRAINED): State.ENDED,
    (State.STOPPING, Input.FAIL): State.ENDED,
    (State.STOPPING, Input.STOP): State.STOPPING,
}
"""A repeated pause, resume or stop is taken as said: a client that lost the acknowledgement may ask again."""


def advance(state: State, given: Input) -> State:
    """The next state. Raises `StreamEnded` after the stop, `Conflict` where the state does not take the input."""
    following = TRANSITIONS.get((state, given))
    if following is not None:
        return following
    if state in (State.STOPPING, State.ENDED):
        raise StreamEnded("This stream has been stopped.")
    raise Conflict(f"A {state.value} stream takes no {given.value}.")
