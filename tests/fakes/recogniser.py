"""The recogniser port in this process: the tone engine without a worker, and with whatever may happen to a worker.

`Conduct` says of every call how long it takes and whether the worker is lost in it. A decoder checks that its caller
keeps the port's promises: one call at a time, nothing but `discard` after a loss or a final, always ended.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from enum import Enum

import msgspec

from streaming.errors import WorkerLost
from streaming.model import Capabilities, Final, Hypothesis, UtteranceSpec
from streaming.ports import Pcm16
from tests.fakes.tones import ToneEngine, ToneUtterance


class Call(Enum):
    OPEN = "open"
    FEED = "feed"
    PARTIAL = "partial"
    FINAL = "final"


Conduct = Callable[[Call, UtteranceSpec], float]
"""Seconds that a call takes; raises `WorkerLost` when the worker dies in it."""


def prompt(_call: Call, _spec: UtteranceSpec) -> float:
    """A worker that never fails and takes no time."""
    return 0.0


class Losing:
    """A `Conduct` that loses the worker in the calls with these numbers, counted from 0 for each kind."""

    def __init__(self, call: Call, numbers: range | set[int]) -> None:
        self._call = call
        self._numbers = numbers
        self._seen = 0
        self.losses = 0

    def __call__(self, call: Call, _spec: UtteranceSpec) -> float:
        if call is self._call:
            self._seen += 1
            if self._seen - 1 in self._numbers:
                self.losses += 1
                raise WorkerLost("the test lost it")
        return 0.0


class ToneRecogniser:
    """`streaming.ports.Recogniser`. `calls`: how often each was made; `specs`: of all openings; `unended`:
    decoders that nobody gave up yet."""

    def __init__(self, conduct: Conduct = prompt, **capabilities: object) -> None:
        self._conduct = conduct
        self._capabilities = msgspec.structs.replace(ToneEngine().capabilities, **capabilities)
        self.calls: Counter[Call] = Counter()
        self.specs: list[UtteranceSpec] = []
        self.unended: set[ToneDecoder] = set()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def open(self, spec: UtteranceSpec) -> "ToneDecoder":
        await self.take_part(Call.OPEN, spec)
        decoder = ToneDecoder(self, spec)
        self.specs.append(spec)
        self.unended.add(decoder)
        return decoder

    async def take_part(self, call: Call, spec: UtteranceSpec) -> None:
        """What happens before the engine answers."""
        self.calls[call] += 1
        seconds = self._conduct(call, spec)
        await asyncio.sleep(seconds)


class ToneDecoder:
    """`streaming.ports.UtteranceDecoder`."""

    def __init__(self, owner: ToneRecogniser, spec: UtteranceSpec) -> None:
        self._owner = owner
        self._spec = spec
        self._utterance = ToneUtterance(spec)
        self._busy = False
        self._over = False

    async def feed(self, audio: Pcm16) -> None:
        assert len(audio), "nothing to feed"
        await self._call(Call.FEED)
        self._utterance.feed(audio)

    async def partial(self) -> Hypothesis:
        await self._call(Call.PARTIAL)
        return self._utterance.partial()

    async def final(self) -> Final:
        await self._call(Call.FINAL)
        self._over = True
        return self._utterance.final()

    async def discard(self) -> None:
        self._over = True
        self._owner.unended.discard(self)

    async def _call(self, call: Call) -> None:
        assert not self._over, f"{call.value} at a decoder that is over"
        assert not self._busy, f"{call.value} while another call runs"
        self._busy = True
        try:
            await self._owner.take_part(call, self._spec)
        except WorkerLost:
            self._over = True
            raise
        finally:
            self._busy = False
