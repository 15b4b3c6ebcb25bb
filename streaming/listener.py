"""Who speaks in one live stream: windows of its audio go to the diariser, labels come back, captions wait for neither.

    pipeline --frames--> ring --window--> Diariser --Heard--> SpeakerTrack --turns--> labels of partials and finals
                                                                  |
                                                                  +--> Found --> SpeakerBook (revisions, names, merges)

Policy: one call is under way at a time. The next window is due when `diariser_hop_ms` of speech is new, or any speech
once its utterance has ended; silence is sent only when a final cannot be settled without (a few seconds behind it).
Audio is heard as it was spoken, before it is brought to level: the second pass and enrolled voices hear what was kept,
and the same voice has to sound the same there. A slow diariser makes the hop grow, up to the window; what falls out of
the ring is skipped and counted. A lost one is asked again with back-off; while it is away finals have no speaker.

A final takes the label that is known when it is committed. Once the track has settled its part, it is told again where
its words are somebody else's, or several people's (`streaming.transcript.speakers`).

Boundary: `hear`, `hurry`, `speaker_of` and `committed` are called by the pipeline and never wait or raise; `run`
belongs to the stream's owner. Invariant: at most `listener_ring_ms` of audio and `listener_finals_max` finals are held.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import msgspec

from streaming.aio import Signal
from streaming.audio.window import AudioWindow
from streaming.diariser.heard import DiariserInfo, Heard
from streaming.diariser.track import SpeakerTrack
from streaming.diariser.voices import Known, Merged, Recognised, Speaker
from streaming.errors import Unavailable, WorkerLost
from streaming.limits import Limits
from streaming.model import FRAME_SAMPLES, Segment, Turn, Word, ms_of, samples_of
from streaming.ports import Pcm16
from streaming.transcript.speakers import NEAR_MS, speaker_of, split

log = logging.getLogger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 0.2, 5.0
"""Between asks of a lost diariser, which takes some 15 s to come back."""
LOSSES_MAX = 3
"""Asks for one window: each may have cost a worker."""
FRAME_MS = ms_of(FRAME_SAMPLES)
OVERLAP_SAMPLES = samples_of(2_500)
"""What two windows have in common at least, where the hop grew: a voice is known again by a second of it."""
SETTLE_MS = 3_000
"""Silence after which a final that is still open is heard again with what followed, until it is settled."""
SPEAKERS_EVERY = 5
"""Windows after which it is told anew what the speakers sound like: some 10 s of talk."""
NEAR_SAMPLES = samples_of(NEAR_MS)
REACH_SAMPLES = samples_of(120_000)
"""Turns at hand for captions: three unfinished utterances are 90 s."""


class Diariser(Protocol):
    """Says who speaks in a window (`server.workers.diariser`). Shared by all streams."""

    @property
    def info(self) -> DiariserInfo | None:
        """None while it is not ready."""
        ...

    async def listen(self, audio: Pcm16) -> Heard:
        """Raises `WorkerLost` (ask again), other `Unavailable` (not with this window)."""
        ...


class Settled(msgspec.Struct, frozen=True):
    """A final, as it was committed, and the turns near it, which do not change any more."""

    segment: Segment
    turns: tuple[Turn, ...]


class Found(msgspec.Struct, frozen=True):
    """What became known. It is written in this order, speakers first: a final may carry a label that a change then
    renames. `speakers`: empty as long as it is not time to tell again; `model`: whose vectors they carry."""

    model: str
    finals: tuple[Settled, ...]
    changes: tuple[Merged | Recognised, ...]
    speakers: tuple[Speaker, ...]


class SpeakerBook(Protocol):
    """Who is told what was found out (`server.live.speakers`)."""

    async def known(self, model: str) -> Sequence[Known]:
        """The tenant's enrolled voices of this model. Raises `Unavailable`."""
        ...

    def offer(self, found: Found) -> bool:
        """Never waits; False when there is no room now: offer it again later."""
        ...


class Listener:
    """`start_sample`: where the first frame stands; `state`: what `state` was at the stream's last final; `recent`:
    finals from before that may not have been settled. `run` ends after `close`."""

    def __init__(
        self,
        diariser: Diariser,
        book: SpeakerBook,
        *,
        start_sample: int,
        limits: Limits,
        state: bytes = b"",
        recent: Sequence[Segment] = (),
    ) -> None:
        self._diariser = diariser
        self._book = book
        self._limits = limits
        self._ring_samples = samples_of(limits.listener_ring_ms)
        self._ring = AudioWindow(start_sample, self._ring_samples)
        self._speech: deque[int] = deque(maxlen=self._ring_samples // FRAME_SAMPLES + 1)
        """Where frames of speech begin that no window was asked for: all of them are in the ring."""
        self._asked_end = start_sample
        self._hurried = self._closed = self._over = self._torn = False
        self._losses = 0
        self._call_samples = 0
        """Audio that came in while the last window was heard."""
        self._wake = Signal()
        self._deadline: asyncio.Timeout | None = None
        self._track: SpeakerTrack | None = None
        self._model = ""
        self._turns: tuple[Turn, ...] = ()
        self._finals: deque[Segment] = deque(recent, maxlen=limits.listener_finals_max)
        self._settled: deque[Settled] = deque(maxlen=limits.listener_finals_max)
        self._changes: list[Merged | Recognised] = []
        self._told_at = 0
        self.state = state
        """For whoever goes on with the stream: stored with each final."""
        self.windows = 0
        self.skipped_ms = 0
        """Speech that no window was asked for, or that the diariser could not hear."""

    # --- the pipeline's side: nothing here waits --------------------------------------------------------------
    def hear(self, frame: Pcm16, *, speech: bool) -> None:
        """The next frame of the stream (`FRAME_SAMPLES`), as it was spoken."""
        if self._over or self._closed:
            return
        at = self._ring.end_sample
        self._ring.drop_before(min(at, max(self._wanted_from(at), at + len(frame) - self._ring_samples)))
        self._ring.append(frame)
        self._skip_before(self._ring.start_sample)
        if speech:
            self._speech.append(at)
        self._nudge()

    def hurry(self) -> None:
        """An utterance ended: its final wants its label."""
        self._hurried = True
        self._nudge()

    def speaker_of(self, words: Sequence[Word]) -> str | None:
        """Who said most of these words, as far as it is known now."""
        return speaker_of(words, _near(self._turns, words[0].start_ms, words[-1].end_ms)) if words else None

    def committed(self, segment: Segment) -> None:
        """This final is in the log: it is looked at again when its part is settled."""
        self._finals.append(segment)

    def close(self) -> None:
        """No audio comes any more: settle what is left, within `listener_end_ms`, and let `run` return."""
        self._closed = True
        self._wake.set()
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._limits.listener_end_ms / 1000)

    @property
    def lag_ms(self) -> int:
        """How long ago the oldest speech was spoken that a window is due for. What is less than a hop and belongs to no
        utterance, such as a cough, waits for what follows, and may go unheard."""
        return ms_of(self._ring.end_sample - self._speech[0]) if self._speech and self._is_due() else 0

    @property
    def held_samples(self) -> int:
        return self._ring.end_sample - self._ring.start_sample

    def _nudge(self) -> None:
        if self._diariser.info is not None and self._is_due():
            self._wake.set()

    def _is_due(self) -> bool:
        hurried = self._hurried or self._closed
        if len(self._speech) * FRAME_SAMPLES >= (1 if hurried else samples_of(self._limits.diariser_hop_ms)):
            return True
        return bool(self._finals) and self._ring.end_sample - self._asked_end >= samples_of(SETTLE_MS)

    def _wanted_from(self, end: int) -> int:
        """The first sample before `end` that a window may still want."""
        if self._track is None and self._diariser.info is None:
            return end  # perhaps there never is one
        newest = end - self._window_samples
        return min(newest, self._speech[0] - self._window_samples) if self._speech else newest

    @property
    def _window_samples(self) -> int:
        info = self._diariser.info
        return self._ring_samples // 2 if info is None else min(self._ring_samples, samples_of(info.window_ms))

    def _skip_before(self, sample: int) -> None:
        is_due = self._is_due()
        while self._speech and self._speech[0] < sample:
            self._speech.popleft()
            self.skipped_ms += FRAME_MS * is_due
            self._torn = is_due

    # --- the owner's side -------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Ask and settle until closed. A defect here costs this stream its labels and nothing else."""
        try:
            try:
                async with asyncio.timeout(None) as self._deadline:
                    if self._closed:
                        self.close()
                    await self._listen()
            except TimeoutError:
                log.info("the end of a stream was not listened to in time")
            if self._track is not None:
                self._track.finish()
                self._learn(self._track)
                self._tell(self._track, at_once=True)
        except Exception:  # the session boundary: of the labels alone, captions go on
            log.exception("listening for speakers failed")
        finally:
            self._over, self._deadline = True, None
            self._ring = AudioWindow(self._ring.end_sample, 1)
            self._speech.clear()

    async def _listen(self) -> None:
        retry_s = RETRY_S_MIN
        while True:
            info = self._diariser.info
            if info is not None and self._is_due():
                if await self._ask(info):
                    retry_s = RETRY_S_MIN
                else:
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, RETRY_S_MAX)
            elif self._closed:
                return
            else:
                await self._wake.wait()

    async def _ask(self, info: DiariserInfo) -> bool:
        """Hear the next window; False when the diariser is to be asked again later."""
        track = await self._track_of(info)
        start, end = self._next_window()
        self._skip_before(start)
        asked = [sample for sample in self._speech if sample < end]
        asked_end, self._asked_end, self._torn = self._asked_end, end, False
        for _ in asked:
            self._speech.popleft()
        self._hurried = self._hurried and bool(self._speech)
        before = self._ring.end_sample
        try:
            heard = await self._diariser.listen(self._ring.slice(start, end))
        except Unavailable as error:
            self._losses += 1
            again = isinstance(error, WorkerLost) or error.retry_after_ms is not None
            log.warning("a window was not heard", extra={"error": type(error).__name__, "losses": self._losses})
            if again and self._losses < LOSSES_MAX:
                self._speech.extendleft(reversed(asked))
                self._asked_end = asked_end
                self._hurried = True
            else:
                self._losses, self._hurried = 0, False
                self.skipped_ms += len(asked) * FRAME_MS
            return not again
        self._losses = 0
        self._call_samples = self._ring.end_sample - before
        self.windows += 1
        track.hear(start, heard)
        self._learn(track)
        self._tell(track)
        return True

    def _next_window(self) -> tuple[int, int]:
        """It ends a hop behind what was asked before, or, where more is new, as far as it takes to catch up: twice what
        comes in during a call, a quarter of what waits. So a voice is heard in several windows, as `SpeakerTrack` wants
        it, also where audio comes in bursts. After a gap it is the newest, so that the lag does not stay."""
        ring, window = self._ring, self._window_samples
        heard = max(self._asked_end, self._speech[0] if self._speech else self._asked_end, ring.start_sample)
        waiting = ring.end_sample - heard
        step = max(samples_of(self._limits.diariser_hop_ms), 2 * self._call_samples, waiting // 4)
        step = min(step, window - min(OVERLAP_SAMPLES, window // 2))
        end = ring.end_sample if self._torn or 2 * waiting <= 3 * step else heard + step
        return max(ring.start_sample, end - window), end

    async def _track_of(self, info: DiariserInfo) -> SpeakerTrack:
        if self._track is None or self._model != info.model:
            try:
                known = await self._book.known(info.model)
            except Unavailable:
                log.warning("enrolled voices are not known in this stream, the database is away")
                known = ()
            self._track = SpeakerTrack(info.model, self.state, known, limits=self._limits)
            self._model = info.model
        return self._track

    def _learn(self, track: SpeakerTrack) -> None:
        """What the track says now."""
        end = self._ring.end_sample
        self._turns = track.turns(max(0, end - REACH_SAMPLES), end)
        self.state = track.state()
        self._changes += track.take_changes()
        while self._finals and samples_of(self._finals[0].end_ms) <= track.until_sample:
            final = self._finals.popleft()
            start, end = samples_of(final.start_ms), samples_of(final.end_ms)
            turns = track.turns(max(0, start - NEAR_SAMPLES), end + NEAR_SAMPLES)
            if split(final, turns) != (final,):
                self._settled.append(Settled(final, turns))

    def _tell(self, track: SpeakerTrack, *, at_once: bool = False) -> None:
        voices = at_once or bool(self._changes) or self.windows - self._told_at >= SPEAKERS_EVERY
        if not voices and not self._settled:
            return
        speakers = track.speakers() if voices else ()
        if self._book.offer(Found(self._model, tuple(self._settled), tuple(self._changes), speakers)):
            self._settled.clear()
            self._changes.clear()
            self._told_at = self.windows if voices else self._told_at


def _near(turns: Sequence[Turn], start_ms: int, end_ms: int) -> list[Turn]:
    start, end = samples_of(start_ms) - NEAR_SAMPLES, samples_of(end_ms) + NEAR_SAMPLES
    return [turn for turn in turns if turn.end_sample >= start and turn.start_sample <= end]
