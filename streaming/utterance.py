"""One utterance on its way through a recogniser that may die at any moment.

Holds all audio of the utterance until it is over, so a lost worker is answered by opening anew and offering the audio
again; what was committed as stable stays committed. Partial hypotheses run at fixed sample counts: every
`Capabilities.hop_ms` of audio, or at multiples of a part of it (`Hypothesis.hops`): fewer where the recogniser cannot
keep up, more where it has time to spare. Hops that are left out are counted, never queued. The
end does not wait for a hypothesis that is under way: nobody would be shown it.

A lost worker counts as an attempt only when it was busy with this audio. From then on the audio is decoded alone, so
that no other is lost with it again.

Boundary: the pipeline feeds and ends it; `run` talks to the recogniser and reports partials.
Invariant: `run` returns after all fed audio was taken into account, or `None` when the audio proved to be poison.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec
import numpy as np

from streaming.aio import Signal
from streaming.errors import WorkerLost
from streaming.limits import Limits
from streaming.model import Final, Partial, UtteranceSpec, samples_of
from streaming.ports import Pcm16, Recogniser, UtteranceDecoder
from streaming.transcript.agreement import Agreement
from streaming.transcript.segments import SegmentBuilder

log = logging.getLogger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 0.05, 1.0
"""Back-off between attempts: a forked decoder is back in milliseconds, a whole worker within about a second."""


class Utterance:
    """`feed` and `end` never wait; `run` is awaited by the pipeline's task for this utterance."""

    def __init__(
        self,
        spec: UtteranceSpec,
        *,
        recogniser: Recogniser,
        on_partial: Callable[[Partial], None],
        limits: Limits,
        hops: float = 1,
    ) -> None:
        """`hops`: until the first hypothesis, as the utterance before had them."""
        capabilities = recogniser.capabilities
        self.spec = spec
        self.end_sample: int | None = None
        self.hops_skipped = 0
        self.builder = SegmentBuilder(
            spec.utterance_id, spec.start_sample, Agreement(capabilities.agreement, capabilities.holdback_words)
        )
        self._recogniser = recogniser
        self._on_partial = on_partial
        self._limits = limits
        self._hop = samples_of(capabilities.hop_ms)
        self._part = self._hop // capabilities.parts
        self._audio: list[Pcm16] = []
        self._total = 0
        self._signal = Signal()
        self._hypothesised = 0
        self.hops = min(1.0, hops)
        self._asking: asyncio.Timeout | None = None

    @property
    def samples(self) -> int:
        """Samples fed so far."""
        return self._total

    def feed(self, audio: Pcm16) -> None:
        """Append audio; the pipeline's endpointing bounds the length."""
        self._audio.append(audio)
        self._total += len(audio)
        self._signal.set()

    def end(self, end_sample: int) -> None:
        """No more audio; speech ended at `end_sample` of the recording."""
        self.end_sample = end_sample
        self._signal.set()
        if self._asking is not None:
            self._asking.reschedule(asyncio.get_running_loop().time())

    async def run(self, context: bytes = b"") -> Final | None:
        """Recognise to the end, with what the engine carries over from the utterance before (`context`).

        Returns `None`, and also not before the end, when `utterance_attempts_max` workers were lost over this audio. A
        recogniser that is down is waited for: it was not this audio that it died of."""
        spec = msgspec.structs.replace(self.spec, context=context)
        retry_s = RETRY_S_MIN
        attempts = 0
        while attempts < self._limits.utterance_attempts_max:
            opened = False
            try:
                decoder = await self._recogniser.open(spec)
                opened = True
                return await self._attempt(decoder)
            except WorkerLost as error:
                if opened and error.suspect:
                    attempts += 1
                    spec = msgspec.structs.replace(spec, alone=True)
                log.warning("recogniser lost, offering the utterance again", extra={"samples": self._total})
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_S_MAX)
        log.error("utterance set aside after repeated worker losses", extra={"samples": self._total})
        while self.end_sample is None:
            await self._signal.wait()
        return None

    async def _attempt(self, decoder: UtteranceDecoder) -> Final:
        try:
            fed = 0
            while True:
                ended = self.end_sample is not None
                target = self._total if ended else self._total // self._part * self._part
                if ended or self._is_due(target):
                    if fed < target:
                        await decoder.feed(self._slice(fed, target))
                        fed = target
                    elif ended:
                        return await decoder.final()
                    else:
                        await self._hypothesise(decoder, fed)
                else:
                    await self._signal.wait()
        finally:
            await decoder.discard()

    def _is_due(self, fed: int) -> bool:
        """As many hops as the recogniser wants between two have been heard since the last hypothesis."""
        return fed - self._hypothesised >= max(self._part, round(self._hop * self.hops))

    async def _hypothesise(self, decoder: UtteranceDecoder, fed: int) -> None:
        try:
            async with asyncio.timeout(None) as self._asking:
                hypothesis = await decoder.partial()
        except TimeoutError:
            self._pass(fed)  # it ended meanwhile
            return
        finally:
            self._asking = None
        if hypothesis is None:
            return
        self.hops = hypothesis.hops
        self._pass(fed)
        if self.end_sample is not None:
            return
        partial = self.builder.update(hypothesis)
        if partial is not None:
            self._on_partial(partial)

    def _pass(self, fed: int) -> None:
        """The hypothesis of this hop was made; those between it and the one before were not."""
        self.hops_skipped += max(0, (fed - self._hypothesised) // self._hop - 1)
        self._hypothesised = fed

    def _slice(self, start: int, end: int) -> Pcm16:
        """Samples [start, end) of the utterance."""
        parts: list[Pcm16] = []
        at = 0
        for piece in self._audio:
            if at + len(piece) > start and at < end:
                parts.append(piece[max(0, start - at) : end - at])
            at += len(piece)
        return np.concatenate(parts)
