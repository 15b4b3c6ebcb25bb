"""Where utterances begin and end: rules as data, judged frame by frame (after sherpa-onnx `endpoint.h`).

An utterance begins when `speech_ms_min` of speech stand in a window one frame longer, so that a single gap frame does
not reset the proof. It ends when the silence that the rules ask for at its present length has passed, or at
`utterance_ms_max`. The rules grow impatient: long talk is cut in a short dip before it has to be cut inside a word.

    IDLE --ONSET--> SPEECH <--SOUND/GAP--> TRAILING --ENDPOINT--> IDLE
                      '--LIMIT, FLUSH--> CUT --ONSET--> SPEECH, --SETTLED--> IDLE

After a cut inside speech (CUT) the next utterance begins exactly at the cut once the speech is proven to go on, so no
sample between the two is lost, and a tail below `speech_ms_min` does not become an utterance of its own.

Pure; everything counts in frames of `FRAME_SAMPLES`, milliseconds of the rules are rounded to the nearest frame.
Invariants: utterances are in order and do not overlap; all boundaries lie on the frame grid of `base_sample`, so a new
`Endpointer` at a committed end (or at `settled_sample`) cuts the rest as the old one would have.
"""

from collections import deque
from enum import Enum, auto

import msgspec

from streaming.model import FRAME_SAMPLES, SAMPLE_RATE

_TWO_FRAMES_MS = 2 * FRAME_SAMPLES * 1000 // SAMPLE_RATE


class SilenceRule(msgspec.Struct, frozen=True):
    """An utterance of at least `utterance_ms_min` (silence included) ends after `silence_ms` without speech."""

    utterance_ms_min: int
    silence_ms: int


class EndpointRules(msgspec.Struct, frozen=True):
    """How a stream is cut.

    `speech_ms_min`: speech that begins an utterance; `preroll_ms`: audio before the first speech frame that belongs to
    it (soft onsets); `silences`: any one of them ends it; `utterance_ms_max`: hard limit, pre-roll included;
    `postroll_ms`: audio after the last speech frame that belongs to it (final consonants)."""

    speech_ms_min: int
    preroll_ms: int
    silences: tuple[SilenceRule, ...]
    utterance_ms_max: int
    postroll_ms: int = 200

    def __post_init__(self) -> None:
        if not any(rule.utterance_ms_min == 0 for rule in self.silences):
            raise ValueError("one silence rule must hold from the start of an utterance")
        if min(self.speech_ms_min, *(rule.silence_ms for rule in self.silences)) <= 0:
            raise ValueError("speech and silence are proven by more than 0 ms")
        if min(self.preroll_ms, self.postroll_ms) < 0:
            raise ValueError("pre-roll and post-roll are not negative")
        if self.utterance_ms_max < self.preroll_ms + 2 * self.speech_ms_min + _TWO_FRAMES_MS:
            raise ValueError("an utterance must be longer than its pre-roll and the speech that proves it")


CONVERSATION = EndpointRules(
    speech_ms_min=96,
    preroll_ms=320,
    silences=(SilenceRule(0, 600), SilenceRule(10_000, 300), SilenceRule(18_000, 128)),
    utterance_ms_max=28_000,
)
"""Turns between people: 600 ms is longer than most pauses inside a sentence and short enough to answer on. 28 s leaves
room below Whisper's window of 30 s."""

DICTATION = EndpointRules(
    speech_ms_min=96,
    preroll_ms=320,
    silences=(SilenceRule(0, 1_200), SilenceRule(15_000, 500), SilenceRule(22_000, 128)),
    utterance_ms_max=28_000,
)
"""One person thinking while speaking: waits out pauses for words."""

LECTURE = EndpointRules(
    speech_ms_min=160,
    preroll_ms=320,
    silences=(SilenceRule(0, 800), SilenceRule(8_000, 300), SilenceRule(15_000, 128)),
    utterance_ms_max=28_000,
)
"""Hardly any turn-taking: coughs in the hall shall not begin anything, and caption blocks stay short."""

PRESETS = {"conversation": CONVERSATION, "dictation": DICTATION, "lecture": LECTURE}
"""By the names that clients give them."""


def with_endpointing(rules: EndpointRules, endpointing_ms: int | None) -> EndpointRules:
    """`rules` with a client's `endpointing_ms` as the silence that ends an utterance; None leaves them alone.

    Rules for long utterances stay, made no slower than what was asked for: a patient client still gets text before
    the hard limit."""
    if endpointing_ms is None:
        return rules
    silences = tuple(
        SilenceRule(
            rule.utterance_ms_min,
            endpointing_ms if rule.utterance_ms_min == 0 else min(rule.silence_ms, endpointing_ms),
        )
        for rule in rules.silences
    )
    return msgspec.structs.replace(rules, silences=silences)


def within(rules: EndpointRules, utterance_ms_max: int) -> EndpointRules:
    """`rules` for an engine that takes at most `utterance_ms_max` (`Capabilities`): when that is below the rules' own
    limit, the lengths at which they grow impatient shrink in proportion, so dips are still preferred to hard cuts."""
    if utterance_ms_max >= rules.utterance_ms_max:
        return rules
    silences = tuple(
        SilenceRule(rule.utterance_ms_min * utterance_ms_max // rules.utterance_ms_max, rule.silence_ms)
        for rule in rules.silences
    )
    return msgspec.structs.replace(rules, silences=silences, utterance_ms_max=utterance_ms_max)


class EndReason(Enum):
    SILENCE = "silence"
    LENGTH = "length"
    FLUSH = "flush"


class UtteranceBegan(msgspec.Struct, frozen=True):
    """`sample`: the utterance's first sample, pre-roll applied; never before the previous utterance's end."""

    sample: int


class UtteranceEnded(msgspec.Struct, frozen=True):
    """`sample`: one past the utterance's last sample, post-roll applied; at most the present position."""

    sample: int
    reason: EndReason


Effect = UtteranceBegan | UtteranceEnded


class State(Enum):
    IDLE = auto()
    """Nobody speaks."""
    SPEECH = auto()
    """An utterance is under way, the last frame was speech."""
    TRAILING = auto()
    """An utterance is under way, the last frame was not speech."""
    CUT = auto()
    """An utterance was cut while somebody spoke; the next one begins at the cut if they go on."""


class Event(Enum):
    ONSET = auto()
    """Enough speech to begin an utterance."""
    SOUND = auto()
    """A speech frame."""
    GAP = auto()
    """A frame without speech."""
    SETTLED = auto()
    """The pre-roll has passed since a cut without new proof of speech."""
    ENDPOINT = auto()
    """The silence that a rule asks for has passed."""
    LIMIT = auto()
    """The utterance has its greatest length."""
    FLUSH = auto()
    """The caller wants an end now."""


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.IDLE: {Event.ONSET: State.SPEECH, Event.SOUND: State.IDLE, Event.GAP: State.IDLE, Event.FLUSH: State.IDLE},
    State.SPEECH: {
        Event.SOUND: State.SPEECH,
        Event.GAP: State.TRAILING,
        Event.LIMIT: State.CUT,
        Event.FLUSH: State.CUT,
    },
    State.TRAILING: {
        Event.SOUND: State.SPEECH,
        Event.GAP: State.TRAILING,
        Event.ENDPOINT: State.IDLE,
        Event.LIMIT: State.IDLE,
        Event.FLUSH: State.IDLE,
    },
    State.CUT: {
        Event.ONSET: State.SPEECH,
        Event.SOUND: State.CUT,
        Event.GAP: State.CUT,
        Event.SETTLED: State.IDLE,
        Event.FLUSH: State.CUT,
    },
}
"""Every transition there is; an event that is missing in a state cannot happen there."""

_UTTERANCE = frozenset({State.SPEECH, State.TRAILING})
_REASONS = {Event.ENDPOINT: EndReason.SILENCE, Event.LIMIT: EndReason.LENGTH, Event.FLUSH: EndReason.FLUSH}


def _frames(ms: int, *, at_least: int = 0) -> int:
    return max(at_least, round(ms * SAMPLE_RATE / (1000 * FRAME_SAMPLES)))


class Endpointer:
    """Cuts one stream from `base_sample` on: one `step` per frame, `force_end` in between."""

    def __init__(self, rules: EndpointRules, base_sample: int) -> None:
        self._base = base_sample
        self._onset = _frames(rules.speech_ms_min, at_least=1)
        self._preroll = _frames(rules.preroll_ms)
        self._postroll = _frames(rules.postroll_ms)
        self._silences = tuple((_frames(r.utterance_ms_min), _frames(r.silence_ms, at_least=1)) for r in rules.silences)
        self._longest = rules.utterance_ms_max * SAMPLE_RATE // (1000 * FRAME_SAMPLES)
        self._state = State.IDLE
        self._now = 0
        self._recent: deque[int] = deque()
        """Speech frames of the onset window; empty while an utterance is under way."""
        self._begin = 0
        self._speech_end = 0
        self._floor = 0
        """The next utterance begins here or later: the end of the last one."""

    @property
    def state(self) -> State:
        return self._state

    @property
    def in_speech(self) -> bool:
        """Whether to go on believing in speech is more likely than not: for the detector's hysteresis."""
        return self._state is not State.IDLE

    @property
    def position(self) -> int:
        """One past the last sample judged."""
        return self._sample(self._now)

    @property
    def settled_sample(self) -> int:
        """No utterance that is not over yet needs a sample before this one. Never decreases."""
        if self._state in _UTTERANCE:
            return self._sample(self._begin)
        return self._sample(self._begin_of(self._recent[0] if self._recent else self._now))

    def step(self, speech: bool) -> tuple[Effect, ...]:
        """Judge the next frame of `FRAME_SAMPLES` samples."""
        self._now += 1
        if self._state in _UTTERANCE:
            return self._step_inside(speech)
        return self._step_outside(speech)

    def force_end(self) -> tuple[Effect, ...]:
        """End an utterance under way here; without one, nothing happens and unproven speech may still begin one."""
        if self._state not in _UTTERANCE:
            self._move(Event.FLUSH)
            return ()
        return (self._end(Event.FLUSH),)

    def _step_outside(self, speech: bool) -> tuple[Effect, ...]:
        if speech:
            self._recent.append(self._now - 1)
        while self._recent and self._recent[0] < self._now - (self._onset + 1):
            self._recent.popleft()
        if len(self._recent) >= self._onset:
            self._move(Event.ONSET)
            self._begin = self._begin_of(self._recent[0])
            self._speech_end = self._now
            self._recent.clear()
            return (UtteranceBegan(self._sample(self._begin)),)
        self._move(Event.SOUND if speech else Event.GAP)
        if self._state is State.CUT and self._now - self._floor >= self._preroll:
            self._move(Event.SETTLED)
        return ()

    def _step_inside(self, speech: bool) -> tuple[Effect, ...]:
        self._move(Event.SOUND if speech else Event.GAP)
        if speech:
            self._speech_end = self._now
        length, silence = self._now - self._begin, self._now - self._speech_end
        if any(length >= length_min and silence >= silence_min for length_min, silence_min in self._silences):
            return (self._end(Event.ENDPOINT),)
        if length >= self._longest:
            return (self._end(Event.LIMIT),)
        return ()

    def _end(self, event: Event) -> UtteranceEnded:
        self._move(event)
        self._floor = min(self._now, self._speech_end + self._postroll)
        return UtteranceEnded(self._sample(self._floor), _REASONS[event])

    def _begin_of(self, first_speech: int) -> int:
        return max(self._floor, first_speech - self._preroll)

    def _move(self, event: Event) -> None:
        self._state = TRANSITIONS[self._state][event]

    def _sample(self, frame: int) -> int:
        return self._base + frame * FRAME_SAMPLES
