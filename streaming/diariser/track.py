"""Who speaks, live: windows in order become turns with labels that stay.

Policy: a voice of a window is whose it sounds like; two voices of a window are two people. Who is like nobody becomes a
new label when enough of it was heard alone, in more than one window; until then nobody is named. What is too short to
sound like anybody belongs to whoever spoke at those moments in the windows before. A frame belongs to as many speakers
as the windows over it heard on average, those with the most votes. What lies `settle_ms` behind is settled.

On two draws of 15 conversations composed of clips, heard every second, the error rate lies at 0.09 to 0.11 and 0.10 to
0.13 for every `same` from 0.45 to 0.60 and `joins` from 0.55 to 0.70 (`bench/results/speakers.json` has a sweep).
Left out: speaking where
a label spoke before as evidence beside likeness (0.10 instead of 0.09: it carries mistakes on), two seconds of speech
before a label is given (0.12 and 0.14; one second gives more labels than people).

Types: `streaming.diariser.voices`. Pure: no clocks, no I/O; what is remembered is bounded.
Invariant: what was settled changes by `Merged` alone, and a label never becomes another person's.
"""

from collections.abc import Sequence
from itertools import combinations

import msgspec
import numpy as np

from streaming.diariser import votes
from streaming.diariser.heard import Heard, Voice
from streaming.diariser.matching import Likeness, best, enrolled, packed, unit, vector_of
from streaming.diariser.voices import Known, Merged, Recognised, Speaker
from streaming.diariser.votes import FRAME, Assigned, Part, Span
from streaming.limits import LIMITS, Limits
from streaming.model import SAMPLE_RATE, Turn, samples_of


class Policy(msgspec.Struct, frozen=True):
    """What was measured (`bench.speakers`). `same`: likeness from which a voice is taken for a label's, or share of its
    speech at moments that are the label's already, where it has no vector; `short`: how much less is enough for a voice
    of hardly any speech; `learns`: likeness from which, and `learns_ms`: clean speech from which a label learns from a
    voice; `new_ms`: of its own speech for a new label; `joins`: likeness from which nobody becomes a new one;
    `merges`: likeness of two labels that are one, and `merges_ms`: clean speech of both for that; `settle_ms`: how far
    what is settled lies behind."""

    same: float = 0.50
    short: float = 0.10
    learns: float = 0.50
    learns_ms: int = 800
    new_ms: int = 1_500
    joins: float = 0.60
    merges: float = 0.75
    merges_ms: int = 3_000
    settle_ms: int = 3_000


POLICY = Policy()
LONG_MS = 1_500
"""From here on a voice is itself; shorter ones are known less well."""
PENDING_MAX = 4
WINDOWS_MAX = 64
TURNS_MAX = 1_000
APART_MIN = 3
"""Windows that heard two people at once, both with a voice, after which they are not one."""
WEIGHT_MAX = 60.0
"""Seconds of clean speech that a label's mean remembers: it follows a voice that tires or moves."""


class _Person(msgspec.Struct):
    """Somebody with a label (`number` above 0), or not yet (below). `sum`: vectors times seconds; `seconds`: in it;
    `clean_ms`: heard alone, each moment once; `windows`: it was learnt from; `voice_id`: whom it was recognised as."""

    number: int
    sum: bytes
    seconds: float
    clean_ms: int
    windows: int
    last_sample: int
    voice_id: str | None = None

    def vector(self) -> Likeness:
        return unit(vector_of(self.sum))

    def learn(self, voice: Voice, fresh: float, policy: Policy) -> None:
        """`fresh`: share of the voice's speech that no window before had."""
        self.windows += 1
        self.clean_ms += int(voice.clean_ms * fresh)
        if voice.clean_ms < policy.learns_ms and self.number > 0:
            return
        seconds = voice.clean_ms / 1000 * max(fresh, 0.1)
        total = vector_of(self.sum) + vector_of(voice.vector) * seconds
        self.seconds += seconds
        keep = min(1.0, WEIGHT_MAX / self.seconds)
        self.sum, self.seconds = packed(total * keep), self.seconds * keep


class _Apart(msgspec.Struct, frozen=True, array_like=True):
    one: int
    other: int
    windows: int


class _State(msgspec.Struct):
    model: str
    people: list[_Person] = []
    windows: list[Assigned] = []
    turns: list[Part] = []
    apart: list[_Apart] = []
    until: int = 0
    heard: int = 0
    numbers: int = 0
    pendings: int = 0


class SpeakerTrack:
    """`model`: `DiariserInfo.model`, whose vectors these are; `state`: what `state` gave, of an earlier track of the
    same recording (nonsense is ignored; of another model's only labels go on: nobody of it is known again, and nobody
    gets a label of it); `known`: enrolled voices of the same model."""

    def __init__(
        self,
        model: str,
        state: bytes = b"",
        known: Sequence[Known] = (),
        *,
        limits: Limits = LIMITS,
        policy: Policy = POLICY,
    ) -> None:
        self._limits = limits
        self._policy = policy
        self._known = tuple(known)
        self._changes: list[Merged | Recognised] = []
        self._s = _restored(state, model)

    @property
    def until_sample(self) -> int:
        """Turns before this sample are settled: no later window changes them, only `Merged` renames them. It follows
        the end of the newest window by `settle_ms`, and is that end after `finish`."""
        return self._s.until

    def hear(self, start_sample: int, heard: Heard) -> None:
        """The next window. Windows come in order of their beginning, may overlap and may leave gaps; one that brings
        nothing after what was heard before changes nothing."""
        s = self._s
        end = start_sample + heard.samples
        if end <= s.heard:
            return
        if start_sample > s.heard:
            self._settle(s.heard, last=start_sample - s.heard >= votes.PAUSE)
        voices = [self._comparable(voice) for voice in heard.voices]
        spans = [tuple((a + start_sample, b + start_sample) for a, b in voice.spans) for voice in heard.voices]
        chosen = self._assign(voices, spans, start_sample, end)
        s.windows = [*s.windows[1 - WINDOWS_MAX :], votes.assigned(start_sample, end, chosen, spans)]
        s.heard = end
        self._name()
        self._merge()
        self._recognise()
        self._settle(end - samples_of(self._policy.settle_ms))

    def finish(self) -> None:
        """No window comes any more: everything that was heard is settled."""
        self._settle(self._s.heard, last=True)

    def turns(self, start_sample: int, end_sample: int) -> tuple[Turn, ...]:
        """Turns that touch this part, cut to it, in order of their beginning; they may overlap. Those after
        `until_sample` are provisional: what is most likely now. The last `speaker_turns_ms_max` are remembered."""
        s = self._s
        parts = [*s.turns, *(part for part in votes.voted(s.windows, s.until, s.heard) if part[2] > 0)]
        cut = [(max(a, start_sample), min(b, end_sample), n) for a, b, n in votes.filled(parts)]
        return tuple(Turn(a, b, f"S{n}") for a, b, n in cut if a < b)

    def take_changes(self) -> tuple[Merged | Recognised, ...]:
        """What happened since the last call, in order."""
        changes, self._changes = tuple(self._changes), []
        return changes

    def speakers(self) -> tuple[Speaker, ...]:
        """Everybody who has a label, in the order of the labels' numbers."""
        named = sorted((p for p in self._s.people if p.number > 0), key=lambda p: p.number)
        return tuple(Speaker(f"S{p.number}", packed(p.vector()), p.clean_ms) for p in named)

    def state(self) -> bytes:
        """For whoever goes on with this recording; less than 64 KiB."""
        return msgspec.msgpack.encode(self._s)

    # --- who is who ---------------------------------------------------------------------------------------------------
    def _assign(self, voices: Sequence[Voice], spans: Sequence[tuple[Span, ...]], start: int, end: int) -> list[int]:
        """The person of each voice of a window, 0 for nobody."""
        s, policy = self._s, self._policy
        people = list(s.people)
        before = [part for part in (*s.turns, *votes.voted(s.windows, s.until, s.heard)) if part[1] > start]
        likeness = np.zeros((len(voices), len(people)))
        affinity = np.zeros((len(voices), len(people)))
        for i, voice in enumerate(voices):
            easier = policy.short * max(0.0, 1 - voice.clean_ms / LONG_MS)
            earlier = max(votes.length(votes.cut(spans[i], start, s.heard)), SAMPLE_RATE // 2)
            for j, person in enumerate(people):
                there = votes.shared(spans[i], [(a, b) for a, b, number in before if number == person.number]) / earlier
                likeness[i, j] = float(vector_of(voice.vector) @ person.vector()) if voice.vector else 0.0
                affinity[i, j] = likeness[i, j] + easier if voice.vector else there
        chosen = best(affinity, policy.same)
        full = sum(person.number > 0 for person in people) >= self._limits.speakers_max
        out: list[int] = []
        for i, (voice, own) in enumerate(zip(voices, chosen, strict=True)):
            fresh = votes.length(votes.cut(spans[i], s.heard, end)) / max(1, votes.length(spans[i]))
            if own is not None:
                if voice.vector and (likeness[i, own] >= policy.learns or people[own].number < 0):
                    people[own].learn(voice, fresh, policy)
                people[own].last_sample = end
                out.append(people[own].number)
            elif not voice.vector or not people:
                out.append(self._begin(voice, end) if voice.vector else 0)
            else:
                nearest = int(likeness[i].argmax())
                alike = likeness[i, nearest] >= policy.joins or (full and people[nearest].number > 0)
                out.append(people[nearest].number if alike else self._begin(voice, end))
        self._keep_apart(
            [(number, vector_of(v.vector)) for number, v in zip(out, voices, strict=True) if number and v.vector]
        )
        return out

    def _comparable(self, voice: Voice) -> Voice:
        """Vectors of another size are none: a damaged state ends no stream."""
        other = any(len(person.sum) != len(voice.vector) for person in self._s.people)
        return Voice(voice.spans, voice.clean_ms, b"") if other else voice

    def _begin(self, voice: Voice, end: int) -> int:
        """Somebody who has no label yet; who waited longest for one is forgotten."""
        s = self._s
        waiting = [person for person in s.people if person.number < 0]
        if len(waiting) >= PENDING_MAX:
            s.people.remove(min(waiting, key=lambda person: person.last_sample))
        s.pendings += 1
        seconds = voice.clean_ms / 1000
        s.people.append(
            _Person(-s.pendings, packed(vector_of(voice.vector) * seconds), seconds, voice.clean_ms, 1, end)
        )
        return -s.pendings

    def _keep_apart(self, heard: Sequence[tuple[int, Likeness]]) -> None:
        """Whom one window tells apart; those who are gone are forgotten."""
        s = self._s
        seen = {(x.one, x.other): x.windows for x in s.apart}
        unlike = (
            (min(one, other), max(one, other))
            for (one, mine), (other, theirs) in combinations(heard, 2)
            if one != other and float(mine @ theirs) < self._policy.same
        )
        for pair in sorted(set(unlike)):
            seen[pair] = seen.get(pair, 0) + 1
        alive = {person.number for person in s.people}
        s.apart = [_Apart(one, other, n) for (one, other), n in seen.items() if {one, other} <= alive]

    def _name(self) -> None:
        """Give labels to those who have spoken enough, unless they prove to be somebody who has one."""
        s, policy = self._s, self._policy
        for person in [person for person in s.people if person.number < 0]:
            named = [other for other in s.people if other.number > 0]
            if named and (person.windows < 2 or person.clean_ms < policy.new_ms):
                continue
            alike = [(float(person.vector() @ other.vector()), -other.number, other) for other in named]
            same = [pair for pair in alike if pair[0] >= policy.joins and not self._apart(person, pair[2])]
            if same:
                self._unite(max(same, key=lambda pair: pair[:2])[2], person)
            elif len(named) < self._limits.speakers_max:
                s.numbers += 1
                self._rename(person.number, s.numbers)
                person.number = s.numbers

    def _merge(self) -> None:
        """At most two a window: what one looks like changes with it."""
        policy = self._policy
        named = sorted((person for person in self._s.people if person.number > 0), key=lambda person: person.number)
        for into, from_ in combinations([person for person in named if person.clean_ms >= policy.merges_ms], 2):
            if float(into.vector() @ from_.vector()) >= policy.merges and not self._apart(into, from_):
                self._changes.append(Merged(f"S{from_.number}", f"S{into.number}"))
                self._unite(into, from_)
                return

    def _apart(self, one: _Person, other: _Person) -> bool:
        pair = (min(one.number, other.number), max(one.number, other.number))
        return any((x.one, x.other) == pair and x.windows >= APART_MIN for x in self._s.apart)

    def _unite(self, into: _Person, from_: _Person) -> None:
        into.sum = packed(vector_of(into.sum) + vector_of(from_.sum))
        into.seconds += from_.seconds
        into.clean_ms += from_.clean_ms
        into.windows += from_.windows
        into.voice_id = into.voice_id or from_.voice_id
        self._s.people.remove(from_)
        self._rename(from_.number, into.number)

    def _rename(self, old: int, new: int) -> None:
        s = self._s

        def now(number: int) -> int:
            return new if number == old else number

        s.windows = [
            votes.assigned(w.start, w.end, [now(n) for n, _ in w.voices], [spans for _, spans in w.voices])
            for w in s.windows
        ]
        s.turns = votes.joined((a, b, now(n)) for a, b, n in s.turns)
        pairs = [(*sorted((now(x.one), now(x.other))), x.windows) for x in s.apart]
        s.apart = [_Apart(one, other, n) for one, other, n in pairs if one != other]

    def _recognise(self) -> None:
        told = {person.voice_id for person in self._s.people}
        speakers = [x for x in self.speakers() if self._person(x.label).voice_id is None]
        for found in enrolled(speakers, [voice for voice in self._known if voice.voice_id not in told]):
            self._person(found.label).voice_id = found.voice_id
            self._changes.append(found)

    def _person(self, label: str) -> _Person:
        return next(person for person in self._s.people if f"S{person.number}" == label)

    # --- when ---------------------------------------------------------------------------------------------------------
    def _settle(self, until: int, *, last: bool = False) -> None:
        """A pause that may yet prove short is not settled, unless nothing follows."""
        s = self._s
        until = min(until // FRAME * FRAME if until < s.heard else until, s.heard)
        parts = [part for part in votes.voted(s.windows, s.until, until) if part[2] > 0]
        silent = max((part[1] for part in (*s.turns[-votes.NEAR :], *parts)), default=0)
        if not last and 0 < until - silent < votes.PAUSE:
            until = silent
        if until <= s.until:
            return
        s.turns = votes.filled([*s.turns, *parts])
        s.until = until
        oldest = until - samples_of(self._limits.speaker_turns_ms_max)
        s.turns = [turn for turn in s.turns if turn[1] > oldest][-TURNS_MAX:]
        s.windows = [window for window in s.windows if window.end > until]


def _restored(state: bytes, model: str) -> _State:
    if state:
        try:
            found = msgspec.msgpack.decode(state, type=_State)
        except msgspec.DecodeError:
            return _State(model)
        if found.model == model:
            return found
        turns = [part for part in found.turns if part[2] > 0]
        return _State(model, turns=turns, until=found.until, heard=found.heard, numbers=found.numbers)
    return _State(model)
