"""How much padding a Whisper needs: the smallest whose texts are those of the model padded to 30 s.

Policy: windows are cut out of speech as live captions cut them: from an utterance's beginning to some moment in it,
0.5 to 20 s later, mostly in the middle of a word; and whole utterances, as finals see them. The model writes each of
them padded to 30 s, then with the paddings of `LADDER`, the smallest first. A padding is good when its words are the
padded ones: the last word of a window that was cut does not count (it is a guess in both, and live captions never fix
it), and of recordings that somebody gave one word of 200 may differ (`TOLERANCE`): padded texts of speech that begins
20 ms earlier differ from themselves by about as much or more (with the tests' models: 10 words of 275, 1 of 264, 10
of 272). A multilingual model must also hear the same language. The smallest good one is taken.

Synthetic speech proves less: it is cleaner than people, and real Whisper knows it less well. There no word may differ,
and the next larger padding, which must be good as well, is the one that is taken. Where none is good it stays 30 s.

Pure: whoever asks brings a model (`Listen`) and the speech. Invariant: every step of the ladder is at least as long as
the one before it, for every window.
"""

import re
from collections.abc import Callable, Sequence

import msgspec

from streaming.model import SAMPLE_RATE
from streaming.recogniser.card import Padding

PADDED = Padding()
LADDER = (
    Padding(min_s=0, tail_s=0.5),
    Padding(min_s=0, tail_s=1),
    Padding(min_s=0, tail_s=2),
    Padding(min_s=5, tail_s=2),
    Padding(min_s=10, tail_s=2),
    Padding(min_s=15, tail_s=3),
    Padding(min_s=20, tail_s=5),
)
"""Less than half a second was bad on every model that was tried: the last word lacks the silence that ends it. Above
20 s there is a third left to gain."""
LENGTHS_S = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 15.0, 20.0)
"""Of cut windows. 20 s: what a model whose card allows 15 s may come to before it is cut."""
WHOLE_S_MAX = 20.0
CUTS_STEP = 3
"""Each utterance gives every third of its lengths, the next one those beside them."""
WINDOWS_MAX = 90
"""As many as two minutes of speech give. On two cores base.en pads and writes them in about two minutes (estimate)."""
WORDS_MIN = 100
"""Fewer prove nothing: with 100 the first word that differs is twice the tolerance."""
TOLERANCE = 0.005
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


class TooLittleSpeech(ValueError):
    """What was given holds too few words. The text is one sentence."""


class Cut(msgspec.Struct, frozen=True):
    """A window: samples `start` to `end` of the speech; `is_whole`: an utterance that is over."""

    start: int
    end: int
    is_whole: bool


class Written(msgspec.Struct, frozen=True):
    """What a model makes of a window, and the CPU that took. `language`: that it hears, "" where it is too short to
    say or knows one alone."""

    text: str
    cpu_ms: float
    language: str = ""


Listen = Callable[[Cut, Padding], Written]


class Row(msgspec.Struct, frozen=True):
    """A padding's figures. `words`: of the padded texts; `differ`: words inserted, left out or replaced."""

    padding: Padding
    windows: int
    words: int
    differ: int
    cpu_ms: float

    @property
    def share(self) -> float:
        return self.differ / self.words if self.words else 1.0


class Step(msgspec.Struct, frozen=True, tag="step"):
    """So many windows of a padding are done."""

    padding: Padding
    done: int
    windows: int


class Verdict(msgspec.Struct, frozen=True, tag="verdict"):
    """`rows`: what was measured, padded first; `chosen`: one of their paddings."""

    chosen: Padding
    rows: tuple[Row, ...]
    synthetic: bool = False

    @property
    def row(self) -> Row:
        return next(row for row in self.rows if row.padding == self.chosen)


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Nothing was measured. `message`: one sentence."""

    message: str


Event = Step | Verdict | Failed
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def line(event: Event) -> str:
    return msgspec.json.encode(event).decode()


def parse(text: str) -> Event | None:
    """What the program `streaming.recogniser.calibration` says; None for a line that is no event: a library's."""
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def cuts(utterances: Sequence[tuple[int, int]]) -> list[Cut]:
    """The windows of utterances, (first sample, past the last)."""
    found: list[Cut] = []
    for number, (start, end) in enumerate(utterances):
        lengths = [round(s * SAMPLE_RATE) for s in LENGTHS_S if round(s * SAMPLE_RATE) < end - start]
        found += [Cut(start, start + length, False) for length in lengths[number % CUTS_STEP :: CUTS_STEP]]
        if end - start <= WHOLE_S_MAX * SAMPLE_RATE:
            found.append(Cut(start, end, True))
    if len(found) <= WINDOWS_MAX:
        return found
    return [found[n * len(found) // WINDOWS_MAX] for n in range(WINDOWS_MAX)]


def measure(
    windows: Sequence[Cut], listen: Listen, *, synthetic: bool, tell: Callable[[Step], None] = lambda _: None
) -> Verdict:
    """Ask the model until the padding is found. Raises `TooLittleSpeech`."""

    def written(padding: Padding) -> list[Written]:
        texts = []
        for number, window in enumerate(windows):
            tell(Step(padding, number, len(windows)))
            texts.append(listen(window, padding))
        return texts

    padded = written(PADDED)
    rows = [row(PADDED, windows, padded, padded)]
    if rows[0].words < WORDS_MIN:
        raise TooLittleSpeech(
            f"The model heard {rows[0].words} words in the speech, and {WORDS_MIN} are needed to measure its padding."
        )
    good: list[Padding] = []
    for padding in LADDER:
        rows.append(row(padding, windows, padded, written(padding)))
        good = [*good, padding] if is_good(rows[-1], synthetic=synthetic) else []
        if len(good) > synthetic:
            return Verdict(padding, tuple(rows), synthetic)
    return Verdict(PADDED, tuple(rows), synthetic)


def is_good(row: Row, *, synthetic: bool) -> bool:
    return row.differ == 0 if synthetic else row.share <= TOLERANCE


def row(padding: Padding, windows: Sequence[Cut], padded: Sequence[Written], texts: Sequence[Written]) -> Row:
    words = differ = 0
    for window, right, text in zip(windows, padded, texts, strict=True):
        n_words, n_differ = compared(right.text, text.text, is_whole=window.is_whole)
        if right.language != text.language:
            n_differ = max(1, n_words)
        words, differ = words + n_words, differ + n_differ
    cpu_ms = sum(text.cpu_ms for text in texts) / max(1, len(texts))
    return Row(padding, len(windows), words, differ, round(cpu_ms, 1))


def compared(padded: str, text: str, *, is_whole: bool) -> tuple[int, int]:
    """Words that count of the padded text, and how many differ in the other one."""
    right, other = plain(padded), plain(text)
    if is_whole:
        return len(right), edits(right, other)[-1]
    # The word at the cut is open in both, so the shorter text may lack it and the longer one may have another there.
    kept = right[:-1]
    return len(kept), min(edits(kept, other)[max(0, len(other) - 1) :])


def plain(text: str) -> list[str]:
    """The words alone: signs and capitals change nobody's meaning, and change with the padding first."""
    return _WORD.findall(text.casefold())


def edits(right: Sequence[str], other: Sequence[str]) -> list[int]:
    """Edit distance of `right` to each beginning of `other`, by words."""
    row = list(range(len(other) + 1))
    for number, word in enumerate(right, 1):
        before, row[0] = row[0], number
        for place, found in enumerate(other, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != found))
    return row
