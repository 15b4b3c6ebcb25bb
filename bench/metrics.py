"""What the events of a stream say about it: latencies, flicker, errors and broken rules. docs/metrics.md defines each.

Pure. Everything takes `Take`s: what was said, when each event came, on the stream's clock, which starts with its first
sample. Words are compared without case and punctuation.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from bench.engines import normalise
from bench.speech import Clip, Cut
from streaming.audio.endpoint import EndReason
from streaming.model import SAMPLE_RATE

LONG_MS = 3_000
PARTIAL, FINAL, ENDED = "transcript:partial", "transcript:final", "recording:ended"


class Heard(msgspec.Struct, frozen=True):
    """An event and when it came, in milliseconds of the stream's clock."""

    at_ms: float
    name: str
    body: dict[str, Any]

    @property
    def words(self) -> list[str]:
        """The words that it shows."""
        shown = self.body["text"] if self.name == FINAL else self.body["stable"] + self.body["unstable"]
        return [plain(word) for word in str(shown).split()]

    @property
    def stable(self) -> str:
        """What it promises not to change."""
        return str(self.body["text"] if self.name == FINAL else self.body["stable"])


class Take(msgspec.Struct, frozen=True):
    """One clip through the server. `cuts`: the utterances that it has; `sent_bytes`, `durable_bytes`: of its audio;
    `lag_ms`, `degraded`: what the server's acknowledgements said at worst; `refused`: the code, if the server took no
    new stream."""

    clip: Clip
    cuts: list[Cut]
    heard: list[Heard]
    sent_bytes: int = 0
    durable_bytes: int = 0
    lag_ms: int = 0
    degraded: bool = False
    refused: str = ""

    @property
    def finals(self) -> list[Heard]:
        return [h for h in self.heard if h.name == FINAL]


class Spotted(msgspec.Struct, frozen=True):
    """A word that a final has right. `index`: among the final's words; `end_ms`: where it ends in the audio."""

    final: Heard
    index: int
    end_ms: float


def plain(word: str) -> str:
    """Without case and punctuation: "Today" is on the screen when "today." is to come."""
    return word.lower().strip(".,!?;:")


def ms(sample: int) -> float:
    return sample * 1_000 / SAMPLE_RATE


def flat(measure: Callable[[Take], list[float]], takes: Sequence[Take]) -> list[float]:
    return [value for take in takes for value in measure(take)]


# --- latencies --------------------------------------------------------------------------------------------------------
def first_delays(take: Take) -> list[float]:
    """From the beginning of speech to the first text on the screen."""
    delays = []
    for cut in take.cuts:
        shown = (h for h in take.heard if h.name == PARTIAL and h.words)
        first = next((h for h in shown if int(ms(cut.begin)) <= h.body["start_ms"] < ms(cut.end)), None)
        if cut.heard is not None and first is not None:
            delays.append(first.at_ms - ms(cut.heard))
    return delays


def word_delays(take: Take) -> list[float]:
    """Emission latency: from the end of each correct word to the first event of its segment that shows it as often as
    its final does up to there."""
    delays = []
    for final, spotted in _by_final(take):
        shown = [(h.at_ms, Counter(h.words)) for h in captions_of(take, final)]
        words = final.words
        for word in spotted:
            text = words[word.index]
            wanted = words[: word.index + 1].count(text)
            delays.append(next(at_ms for at_ms, seen in shown if seen[text] >= wanted) - word.end_ms)
    return delays


def commit_delays(take: Take) -> list[float]:
    """From the end of each correct word to the first event that has it in its stable text; a final is stable."""
    delays = []
    for final, spotted in _by_final(take):
        stable = [(h.at_ms, len(h.stable.split())) for h in captions_of(take, final)]
        delays += [next(at for at, count in stable if count > word.index) - word.end_ms for word in spotted]
    return delays


def final_delays(take: Take) -> list[float]:
    """From the endpoint to the final, for utterances that ended by their silence."""
    delays = []
    for final in take.finals:
        cut = cut_of(take, final)
        if cut is not None and cut.reason is EndReason.SILENCE:
            delays.append(final.at_ms - ms(cut.decided))
    return delays


def cut_of(take: Take, final: Heard) -> Cut | None:
    """The utterance that a final is of."""
    middle = (final.body["start_ms"] + final.body["end_ms"]) / 2
    return next((c for c in take.cuts if ms(c.begin) <= middle < ms(c.end)), None)


def captions_of(take: Take, final: Heard) -> list[Heard]:
    """The partials of a final's segment, and the final."""
    segment = final.body["segment_id"]
    return [h for h in take.heard if h.name in (PARTIAL, FINAL) and h.body["segment_id"] == segment]


def correct_words(take: Take) -> list[Spotted]:
    """The words of the finals that were said, with their ends: the clip's where it knows them, else the engine's.
    Without a text every word counts."""
    heard = [(final, index) for final in take.finals for index in range(len(final.words))]
    texts = [final.words[index] for final, index in heard]
    said = [plain(word.text) for word in take.clip.words] or normalise(take.clip.text)
    pairs = matches(said, texts) if said else [(n, n) for n in range(len(texts))]
    spotted = []
    for ours, theirs in pairs:
        final, index = heard[theirs]
        words = final.body["words"]
        if not take.clip.words and index >= len(words):
            continue
        end_ms = take.clip.words[ours].end_ms if take.clip.words else words[index]["end_ms"]
        spotted.append(Spotted(final, index, end_ms))
    return spotted


def _by_final(take: Take) -> Iterator[tuple[Heard, list[Spotted]]]:
    for _, group in itertools.groupby(correct_words(take), key=lambda word: word.final.body["segment_id"]):
        words = list(group)
        yield words[0].final, words


# --- stability --------------------------------------------------------------------------------------------------------
def stable_words(take: Take) -> tuple[int, int]:
    """Words that were stable before their final, and all words, in utterances over `LONG_MS`."""
    stable = words = 0
    for final in take.finals:
        if final.body["end_ms"] - final.body["start_ms"] <= LONG_MS:
            continue
        partials = [h for h in captions_of(take, final) if h is not final]
        words += len(final.words)
        stable += len(partials[-1].stable.split()) if partials else 0
    return stable, words


def unstable_words(take: Take) -> tuple[int, int]:
    """Words of partials that the next event of their segment does not have in the same place, all before them being
    equal; and segments that have such words. Over the words and the number of finals: the unstable partial word ratio
    and the share of revised segments."""
    words = segments = 0
    captions = [h for h in take.heard if h.name in (PARTIAL, FINAL)]
    for segment in dict.fromkeys(h.body["segment_id"] for h in captions):
        shown = [h.words for h in captions if h.body["segment_id"] == segment]
        changed = sum(len(before) - common(before, after) for before, after in itertools.pairwise(shown))
        words += changed
        segments += changed > 0
    return words, segments


def common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """How many words both begin with."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((n for n, (our, their) in pairs if our != their), min(len(ours), len(theirs)))


# --- promises ---------------------------------------------------------------------------------------------------------
def violations(take: Take) -> list[str]:
    """Events against the promise of captions, one sentence each: stable text grows by whole words, what is unstable
    begins with a new word, the final begins with what was stable, revisions count up, nothing follows a final."""
    stable: dict[str, str] = {}
    revs: dict[str, int] = {}
    ended: set[str] = set()
    found = []
    for event in take.heard:
        if event.name not in (PARTIAL, FINAL):
            continue
        segment = event.body["segment_id"]
        if segment in ended:
            found.append("a caption after its final")
        if not continues(event.stable, stable.get(segment, "")):
            found.append("stable text that is not continued")
        if event.name == PARTIAL and not whole(event.stable, event.body["unstable"]):
            found.append("stable text that ends inside a word")
        if event.body.get("rev", revs.get(segment, 0) + 1) <= revs.get(segment, 0):
            found.append("a revision that is no newer")
        stable[segment] = event.stable
        revs[segment] = event.body.get("rev", revs.get(segment, 0) + 1)
        if event.name == FINAL:
            ended.add(segment)
    return found


def continues(text: str, stable: str) -> bool:
    """Whether `text` begins with `stable`, which ends with a word there."""
    return text.startswith(stable) and (not stable or text[len(stable) :][:1] in ("", " "))


def whole(stable: str, unstable: str) -> bool:
    """Whether the two, put together, keep their words apart."""
    return not stable or not unstable or unstable.startswith(" ")


def incomplete(take: Take, audible: Sequence[bool] = ()) -> list[str]:
    """What is missing of a stream that was taken: its end, a segment that the end counts, an utterance in which
    something was said (as the clip knows) and no final has a word. `audible`: of each cut, whether the model hears
    anything in it when it hears it whole; empty: it should in all."""
    if take.refused:
        return []
    end = next((h for h in take.heard if h.name == ENDED), None)
    if end is None or end.body["reason"] != "stopped":
        return ["the stream did not end as it should"]
    missing = []
    if end.body["segment_count"] != len(take.finals):
        missing.append(f"{len(take.finals)} finals of {end.body['segment_count']}")
    spans = [(final.body["start_ms"], final.body["end_ms"]) for final in take.finals]
    for cut, is_audible in itertools.zip_longest(take.cuts, audible, fillvalue=True):
        assert isinstance(cut, Cut), "as many as there are cuts"
        if not is_audible:
            continue
        inside = [w for w in take.clip.words if ms(cut.begin) < (w.start_ms + w.end_ms) / 2 < ms(cut.end)]
        if inside and not any(start < ms(cut.end) and end_ms > ms(cut.begin) for start, end_ms in spans):
            missing.append(f"the utterance at {ms(cut.begin):.0f} ms")
    return missing


def dropped_s(take: Take) -> float:
    """Seconds of audio that are not kept, or were not heard to their end."""
    if take.refused:
        return 0.0
    kept = (take.sent_bytes - take.durable_bytes) / (2 * SAMPLE_RATE)
    end = next((h for h in take.heard if h.name == ENDED), None)
    unheard = take.clip.seconds - (end.body["duration_ms"] / 1_000 if end is not None else 0.0)
    return round(max(0.0, kept, unheard), 2)


# --- errors -----------------------------------------------------------------------------------------------------------
def word_errors(takes: Sequence[Take]) -> tuple[int, int]:
    """Wrong, missing and additional words of the finals, and words that were said, where somebody wrote them down."""
    errors = said = 0
    for take in takes:
        if take.clip.text and not take.refused:
            words = normalise(take.clip.text)
            said += len(words)
            errors += edits(words, normalise(" ".join(word for final in take.finals for word in final.words)))
    return errors, said


def edits(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Words to insert, delete or replace; a row at a time, so that an hour of talk takes a second."""
    number = {word: n for n, word in enumerate(dict.fromkeys([*ours, *theirs]))}
    columns = np.arange(len(theirs) + 1)
    other = np.array([number[word] for word in theirs], dtype=np.int64)
    row = columns.copy()
    for word in ours:
        new = row + 1
        new[1:] = np.minimum(new[1:], row[:-1] + (other != number[word]))
        row = np.minimum.accumulate(new - columns) + columns
    return int(row[-1])


def matches(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Places of the equal words in the cheapest alignment of the two."""
    rows = [list(range(len(theirs) + 1))]
    for our in ours:
        above = rows[-1]
        row = [above[0] + 1]
        for at, their in enumerate(theirs):
            row.append(min(above[at] + (our != their), above[at + 1] + 1, row[at] + 1))
        rows.append(row)
    pairs = []
    i, j = len(ours), len(theirs)
    while i and j:
        if ours[i - 1] == theirs[j - 1] and rows[i][j] == rows[i - 1][j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif rows[i][j] == rows[i - 1][j - 1] + 1:
            i, j = i - 1, j - 1
        elif rows[i][j] == rows[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]
