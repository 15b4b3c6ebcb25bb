"""The states of a live stream, as the TypeScript SDK has them too (`states.ts`; both pass tests/golden/states.json).

              no connection                 taken over
    live, catching up, paused  ---->  reconnecting  ---->  live, catching up, paused

    live  -- more than 3 s wait -->  catching up  -- less than 1.2 s wait -->  live
    live, catching up  -- pause -->  paused  -- resume -->  live, catching up

    any of these four  -- stop -->  stopping  -- the server has all -->  stopped
    any but stopped  -- given up -->  lost

`reconnecting`: no connection, or the stream is being taken over; sound is kept here. `catching up`: connected, and
sound that waited here is still being delivered. `stopping`: no more sound is taken, the rest is being delivered, over
lost connections too. `lost`: given up for good; what the server had not called safe may be lost.

Pure: facts in, a state out. Invariant: every change is in `NEXT`; nothing leaves `stopped` and `lost`.
"""

from enum import Enum

import msgspec


class StreamState(Enum):
    LIVE = "live"
    RECONNECTING = "reconnecting"
    CATCHING_UP = "catching up"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    LOST = "lost"

    @property
    def is_over(self) -> bool:
        return not NEXT[self]


_S = StreamState
_NOT_OVER = frozenset({_S.LIVE, _S.RECONNECTING, _S.CATCHING_UP, _S.PAUSED, _S.STOPPING, _S.LOST})

NEXT: dict[StreamState, frozenset[StreamState]] = {
    _S.LIVE: _NOT_OVER - {_S.LIVE},
    _S.RECONNECTING: _NOT_OVER - {_S.RECONNECTING},
    _S.CATCHING_UP: _NOT_OVER - {_S.CATCHING_UP},
    _S.PAUSED: _NOT_OVER - {_S.PAUSED},
    _S.STOPPING: frozenset({_S.STOPPED, _S.LOST}),
    _S.STOPPED: frozenset(),
    _S.LOST: frozenset(),
}
"""What may follow a state; anything else is refused."""

WAITING_MS_ON = 3_000
"""Acknowledgements come once a second while audio flows; a second of network and two of them always wait."""
WAITING_MS_OFF = 1_200
"""Caught up: what an acknowledgement and a round trip leave waiting."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a state is made of. `waiting_ms`: sound given to the stream that the server does not have yet."""

    connected: bool
    waiting_ms: int = 0
    paused: bool = False
    stopping: bool = False
    stopped: bool = False
    lost: bool = False


def following(state: StreamState, facts: Facts) -> StreamState:
    """The state after `state` that the facts ask for; `state` itself where it may not follow."""
    wanted = _wanted(state, facts)
    return wanted if wanted in NEXT[state] else state


def _wanted(state: StreamState, facts: Facts) -> StreamState:
    if facts.lost:
        return _S.LOST
    if facts.stopped:
        return _S.STOPPED
    if facts.stopping:
        return _S.STOPPING
    if not facts.connected:
        return _S.RECONNECTING
    if facts.paused:
        return _S.PAUSED
    limit = WAITING_MS_OFF if state is _S.CATCHING_UP else WAITING_MS_ON
    return _S.CATCHING_UP if facts.waiting_ms > limit else _S.LIVE
