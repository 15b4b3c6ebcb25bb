"""Who spoke in a whole recording: all of its windows at once. (Types: `streaming.diariser.voices`.)

Policy: voices with enough speech of their own are clustered by likeness, nearest pairs first, where likeness includes
speaking at the same moments of two windows, and two voices of one window are two people: whom enough windows heard
apart is never united, however alike mixed voices between them make the two look. A piece of windows is
clustered by itself, then the clusters of a few pieces, and so on: memory is that of one step, however long the
recording is. Then every voice of every window gets the person it is most like, and the windows vote
(`streaming.diariser.votes`).

Pure. Invariant: labels of anchors are never given to two people, nor to one whose voice is not alike.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming.diariser import votes
from streaming.diariser.heard import Heard, Voice
from streaming.diariser.matching import Likeness, best, enrolled, packed, unit, vector_of
from streaming.diariser.voices import Known, Recognised, Speaker
from streaming.diariser.votes import Assigned, Part, Span
from streaming.limits import LIMITS, Limits
from streaming.model import SAMPLE_RATE, Turn, ms_of


class Policy(msgspec.Struct, frozen=True):
    """What was measured. `same`: mean likeness of two clusters that are one; `continues`: what speaking at the same
    moments adds to it, and not doing so takes away; `clean_ms`: of a voice for clustering; `least_ms`: of a person;
    `belongs`: likeness from which a voice is a person's; `anchor`: likeness from which a person has an anchor's
    label; `apart`, `share`: windows that heard two apart, and share of the fewer windows of the two, from which they
    are two (one person is torn apart now and then, which says nothing); `joins`: likeness from which a voice that is
    left over is a person's whom the window heard already (0.4 to 0.6: 0.088 to 0.090, without: 0.091).

    Error rate of 26 composed conversations, `same` from 0.50 to 0.65: 0.084 to 0.091 with `apart`, 0.113 to 0.130
    without, 0.099 to 0.107 where it is 5. Live: 0.109."""

    same: float = 0.60
    continues: float = 0.3
    clean_ms: int = 1_000
    least_ms: int = 2_000
    belongs: float = 0.35
    anchor: float = 0.5
    joins: float = 0.5
    blind: float = 0.3
    apart: int = 3
    share: float = 0.1


POLICY = Policy()
ITEMS_MAX = 240
"""Voices or clusters of one step: a matrix of 0.5 MB and 0.2 s."""
_LONG = 3_600 * SAMPLE_RATE
"""No part is longer."""
STEP_S = 30
"""Seconds whose votes are counted at once."""


class Offline(msgspec.Struct, frozen=True):
    """`turns`: of the whole recording, in order; `speakers`: by label number; `recognised`: enrolled voices."""

    turns: tuple[Turn, ...]
    speakers: tuple[Speaker, ...]
    recognised: tuple[Recognised, ...]


class _Item(msgspec.Struct, frozen=True):
    """A voice of a window, or a cluster of them. `sum`: vectors times seconds; `windows`: in which it was heard, by
    number; `spans`: of a voice, on the recording's clock, empty for a cluster."""

    sum: Likeness
    seconds: float
    windows: frozenset[int]
    spans: tuple[Span, ...] = ()


def cluster(
    windows: Sequence[tuple[int, Heard]],
    *,
    anchors: Sequence[Speaker] = (),
    known: Sequence[Known] = (),
    limits: Limits = LIMITS,
    policy: Policy = POLICY,
) -> Offline:
    """`windows`: (start_sample, what was heard there) in order of their beginning, overlapping or not, with or without
    gaps, all of one model; `anchors`: speakers of the live track (same model), whose labels are kept where the voice is
    the same; new speakers get the next free numbers."""
    people = _people(windows, limits, policy)
    parts = _parts(windows, people, policy)
    speaks = _alone(parts)
    enough = [n for n in range(1, len(people) + 1) if speaks.get(n, 0) >= policy.least_ms]
    if enough and len(enough) < len(people):
        people = [people[n - 1] for n in enough]
        parts = _parts(windows, people, policy)
        speaks = _alone(parts)
    heard = list(dict.fromkeys(person for _, _, person in parts))
    labels = _labels({person: unit(people[person - 1].sum) for person in heard}, anchors, policy)
    turns = [Turn(start, end, labels[person]) for start, end, person in parts]
    speakers = sorted(
        (Speaker(labels[n], packed(unit(people[n - 1].sum)), speaks[n]) for n in heard),
        key=lambda speaker: int(speaker.label[1:]),
    )
    return Offline(tuple(turns), tuple(speakers), enrolled(speakers, known))


# --- who --------------------------------------------------------------------------------------------------------------
def _people(windows: Sequence[tuple[int, Heard]], limits: Limits, policy: Policy) -> list[_Item]:
    """Everybody with enough speech, those with most first."""
    items: list[_Item] = []
    reach = max((heard.samples for _, heard in windows), default=0)
    waiting: list[_Item] = []
    began = 0
    for number, (start, heard) in enumerate(windows):
        if len(waiting) >= ITEMS_MAX and start > began + reach:
            items += _merged(waiting, policy)
            waiting = []
        if not waiting:
            began = start
        waiting += [
            _item(number, start, voice) for voice in heard.voices if voice.clean_ms >= policy.clean_ms and voice.vector
        ]
    items += _merged(waiting, policy)
    while len(items) > ITEMS_MAX:
        steps = [_merged(items[at : at + ITEMS_MAX], policy) for at in range(0, len(items), ITEMS_MAX)]
        fewer = [item for step in steps for item in step]
        if len(fewer) >= len(items):
            fewer = sorted(fewer, key=lambda item: -item.seconds)[:ITEMS_MAX]
        items = fewer
    items = sorted(_merged(items, policy), key=lambda item: -item.seconds)
    if not items:
        items = [_item(n, s, v) for n, (s, h) in enumerate(windows) for v in h.voices if v.vector][:1]
    return items[: limits.speakers_max]


def _item(number: int, start: int, voice: Voice) -> _Item:
    spans = tuple((a + start, b + start) for a, b in voice.spans)
    seconds = voice.clean_ms / 1000
    return _Item(vector_of(voice.vector) * seconds, seconds, frozenset({number}), spans)


def _merged(items: Sequence[_Item], policy: Policy) -> list[_Item]:
    """Average linkage: the two clusters that are most alike become one, as long as they are alike enough."""
    if len(items) < 2:
        return list(items)
    vectors = np.stack([unit(item.sum) for item in items])
    alike = vectors @ vectors.T
    for i, one in enumerate(items):
        for j in range(i):
            alike[i, j] = alike[j, i] = alike[i, j] + _together(one, items[j], policy)
    apart = _apart(items)
    heard = np.array([len(item.windows) for item in items])
    np.fill_diagonal(alike, -np.inf)
    weight = np.array([item.seconds for item in items])
    groups: list[list[int]] = [[at] for at in range(len(items))]
    while True:
        two = apart >= np.maximum(policy.apart, policy.share * np.minimum.outer(heard, heard))
        i, j = divmod(int(np.where(two, -np.inf, alike).argmax()), len(items))
        if two[i, j] or not alike[i, j] >= policy.same:
            break
        total = weight[i] + weight[j]
        row = (alike[i] * weight[i] + alike[j] * weight[j]) / total
        both = apart[i] + apart[j]
        apart[i], apart[:, i] = both, both
        heard[i] += heard[j]
        row[[i, j]] = -np.inf
        alike[i], alike[:, i] = row, row
        alike[j], alike[:, j] = -np.inf, -np.inf
        weight[i], groups[i], groups[j] = total, groups[i] + groups[j], []
    return [_union([items[at] for at in group]) for group in groups if group]


def _apart(items: Sequence[_Item]) -> NDArray[np.int64]:
    """(n, n): in how many windows both were heard."""
    out = np.zeros((len(items), len(items)), np.int64)
    heard: dict[int, list[int]] = {}
    for at, item in enumerate(items):
        for window in item.windows:
            heard.setdefault(window, []).append(at)
    for there in heard.values():
        for i, j in combinations(there, 2):
            out[i, j] += 1
            out[j, i] += 1
    return out


def _together(one: _Item, other: _Item, policy: Policy) -> float:
    """What the moments say about two voices: apart in one window, alike where two windows hear them together."""
    if one.windows & other.windows:
        return -1.0 if one.spans and other.spans else 0.0
    if not one.spans or not other.spans:
        return 0.0
    start = max(one.spans[0][0], other.spans[0][0])
    end = min(one.spans[-1][1], other.spans[-1][1])
    least = min(votes.length(votes.cut(one.spans, start, end)), votes.length(votes.cut(other.spans, start, end)))
    if least < SAMPLE_RATE // 2:
        return 0.0
    share = votes.shared(one.spans, other.spans) / least
    return policy.continues * (2 * min(1.0, share) - 1)


def _union(items: Sequence[_Item]) -> _Item:
    windows = frozenset[int]().union(*(item.windows for item in items))
    return _Item(np.sum([item.sum for item in items], axis=0), sum(item.seconds for item in items), windows)


def _parts(windows: Sequence[tuple[int, Heard]], people: Sequence[_Item], policy: Policy) -> list[Part]:
    """Who speaks when, twice: what the first look finds tells where the voices without vectors belong."""
    means = np.stack([unit(person.sum) for person in people]) if people else np.empty((0, 0))
    parts = _counted(_assign(windows, means, [], policy))
    return _counted(_assign(windows, means, parts, policy))


# --- when -------------------------------------------------------------------------------------------------------------
def _assign(
    windows: Sequence[tuple[int, Heard]], means: Likeness, before: Sequence[Part], policy: Policy
) -> list[Assigned]:
    """Persons are numbered from 1. `before`: what is known already about who speaks when."""
    out: list[Assigned] = []
    first = 0
    for start, heard in windows:
        end = start + heard.samples
        spans = [tuple((a + start, b + start) for a, b in voice.spans) for voice in heard.voices]
        while first < len(before) and before[first][1] <= start - _LONG:
            first += 1
        near = [part for part in before[first:] if part[0] < end and part[1] > start]
        affinity = np.zeros((len(spans), len(means)))
        for i, voice in enumerate(heard.voices):
            affinity[i] = means @ vector_of(voice.vector) if voice.vector else policy.blind
            for j in range(len(means)):
                theirs = [(a, b) for a, b, person in near if person == j + 1]
                affinity[i, j] += policy.continues * votes.shared(spans[i], theirs) / max(1, votes.length(spans[i]))
        chosen = best(affinity, policy.belongs)
        for i, voice in enumerate(heard.voices):
            if chosen[i] is None and voice.vector and len(means):
                alike = means @ vector_of(voice.vector)
                chosen[i] = int(alike.argmax()) if alike.max() >= policy.joins else None
        out.append(votes.assigned(start, end, [0 if j is None else j + 1 for j in chosen], spans))
    return out


def _counted(assigned: Sequence[Assigned]) -> list[Part]:
    parts: list[Part] = []
    end = max((window.end for window in assigned), default=0)
    first = 0
    step = STEP_S * SAMPLE_RATE
    longest = max((window.end - window.start for window in assigned), default=0)
    for start in range(0, end, step):
        while first < len(assigned) and assigned[first].start + longest <= start:
            first += 1
        near = []
        for window in assigned[first:]:
            if window.start >= start + step:
                break
            near.append(window)
        parts += votes.voted(near, start, min(end, start + step))
    return votes.filled(parts)


def _alone(parts: Sequence[Part]) -> dict[int, int]:
    """Milliseconds in which each speaks alone."""
    edges = sorted({edge for start, end, _ in parts for edge in (start, end)})
    out = dict.fromkeys((person for _, _, person in parts), 0)
    at = 0
    active: list[Part] = []
    for start, end in pairwise(edges):
        while at < len(parts) and parts[at][0] <= start:
            active.append(parts[at])
            at += 1
        active = [part for part in active if part[1] > start]
        if len(active) == 1:
            out[active[0][2]] += ms_of(end - start)
    return out


def _labels(people: Mapping[int, Likeness], anchors: Sequence[Speaker], policy: Policy) -> dict[int, str]:
    """Nearest pairs first; who is no anchor's gets a new number, in order."""
    pairs = sorted(
        (
            (float(vector @ vector_of(anchor.vector)), -person, anchor.label)
            for person, vector in people.items()
            for anchor in anchors
            if len(anchor.vector) == 4 * len(vector)
        ),
        reverse=True,
    )
    out: dict[int, str] = {}
    for likeness, person, label in pairs:
        if likeness >= policy.anchor and -person not in out and label not in out.values():
            out[-person] = label
    number = max((int(anchor.label[1:]) for anchor in anchors), default=0)
    for person in people:
        if person not in out:
            number += 1
            out[person] = f"S{number}"
    return out
