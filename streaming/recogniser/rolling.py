"""How an engine that decodes windows goes through a long utterance: what it keeps, and where its next window begins.

Policy: LocalAgreement-2 (`streaming.transcript.agreement`) on what follows the fixed words. The words of a window that
the window before also had are fixed; the next window is decoded with them given, so that no later text can contradict
them. The last word of a window is only fixed when a sentence ends with it and silence follows: else its right context
is missing, and so is its punctuation. Once a window is longer than it need be, the sentences that are fixed in it are
cut off its beginning: their text cannot change any more, and their audio would only cost time.

Measured with the micro Whisper (164 words, synthetic voices never heard before, 1,000 to 1,600 words a column, hop
480 ms); word error rate, and CPU per second of audio in the last column:

    sentences with pauses of              0.9 to 1.5 s   0.15 to 0.7 s   0.1 to 0.45 s
    fixed words given, no cut             0.012          0.145           0.153   0.025
    cut once the window is over 6 s       0.012          0.035           0.072   0.014
    over 3 s                              0.012          0.007           0.013   0.011

Each window decoded by itself, the words of two agreeing windows committed behind it: 0.022, 0.246 and 0.260 on half as
many words (its long windows are this model's weak spot), and 100 to 155 windows contradicted what was committed.

Pure. Invariant: `fixed` only grows, and everything before `cut` is fixed.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from streaming.model import samples_of
from streaming.ports import Pcm16
from streaming.transcript.agreement import agreed

WINDOWS_AGREEING = 2
SETTLED_SAMPLES = samples_of(250)
"""Silence behind a sentence's last word before it is fixed: pauses between words are shorter."""
SENTENCE_END = ".?!…。？！।؟"
STEP_SAMPLES = samples_of(20)
SILENT_SHARE, LOUD_QUANTILE = 0.05, 0.9
"""26 dB below the loud tenth of a window: soft consonants are louder, rooms are not."""
ECHO_WORDS_MAX = 5
ECHO_SAMPLES = samples_of(500)
"""The longest part of a word that a cut may leave."""
PREFIX_TOKENS_MAX = 200
"""Given words fill a window at most so far: Whisper's decoder has 448 places, and may need as many again."""

LOOP_TOKENS_MIN = 9
"""Three times "in the morning" is a loop, "no, no, no" is not."""


class Piece(msgspec.Struct, frozen=True):
    """A word as the decoder wrote it. `start`, `end`: samples from the utterance's first one."""

    text: str
    tokens: tuple[int, ...]
    start: int
    end: int
    p: float


class Progress(msgspec.Struct, frozen=True):
    """What is known of an utterance. `cut`: its first sample that still needs decoding; `cut_words`: fixed words before
    it; `tails`: what the newest windows heard after the fixed words; `language`: the one that they are in."""

    fixed: tuple[Piece, ...] = ()
    tails: tuple[tuple[Piece, ...], ...] = ()
    cut: int = 0
    cut_words: int = 0
    language: str | None = None

    @property
    def given(self) -> tuple[Piece, ...]:
        """Fixed words inside the next window."""
        return self.fixed[self.cut_words :]

    @property
    def words(self) -> tuple[Piece, ...]:
        """Everything the newest window heard."""
        return self.fixed + (self.tails[-1] if self.tails else ())


def without_echo(progress: Progress, tail: Sequence[Piece]) -> tuple[Progress, tuple[Piece, ...]]:
    """Take back a cut that fell too early: what a window without given words first hears may be the end of what was cut
    off. Several equal words are such an echo wherever they are, a single one only right behind the cut."""
    if progress.given or not progress.fixed:
        return progress, tuple(tail)
    for count in range(min(ECHO_WORDS_MAX, len(progress.fixed), len(tail)), 0, -1):
        same = agreed([[w.text for w in progress.fixed[-count:]], [w.text for w in tail[:count]]]) == count
        if same and (count > 1 or tail[0].end - progress.cut <= ECHO_SAMPLES):
            cut = max(progress.cut, tail[count - 1].end)
            return msgspec.structs.replace(progress, cut=cut), tuple(tail[count:])
    return progress, tuple(tail)


def advance(progress: Progress, tail: Sequence[Piece], until: int, language: str) -> Progress:
    """Take in what a window that ends at sample `until` heard after the fixed words."""
    tails = (*progress.tails[1 - WINDOWS_AGREEING :], tuple(tail))
    count = agreed([[piece.text for piece in words] for words in tails]) if len(tails) == WINDOWS_AGREEING else 0
    if count == len(tail) and count and not all(_closes(words[count - 1], until) for words in tails):
        count -= 1
    return msgspec.structs.replace(
        progress,
        fixed=progress.fixed + tuple(tail[:count]),
        tails=tuple(words[count:] for words in tails),
        language=language,
    )


def trimmed(progress: Progress, until: int, window_samples: int) -> Progress:
    """Cut fixed sentences off a window that is longer than `window_samples`; there must be words behind the cut."""
    heavy = sum(len(piece.tokens) for piece in progress.given) > PREFIX_TOKENS_MAX
    if until - progress.cut <= window_samples and not heavy:
        return progress
    words = progress.words
    for index in range(min(len(progress.fixed), len(words) - 1) - 1, progress.cut_words - 1, -1):
        here, behind = words[index], words[index + 1]
        cut = (here.end + max(here.end, behind.start)) // 2
        if (heavy or _ends_sentence(here.text)) and progress.cut < cut < until:
            return msgspec.structs.replace(progress, cut=cut, cut_words=index + 1)
    return progress


def tightened(pieces: Sequence[Piece], audio: Pcm16, origin: int) -> tuple[Piece, ...]:
    """`pieces` without the silence at their edges: an aligner gives a pause to the word before or behind it.

    `audio`: the window, whose first sample is `origin` of the utterance. A step is silent below `SILENT_SHARE` of the
    loud ones; a word keeps at least one step."""
    n_steps = len(audio) // STEP_SAMPLES
    if n_steps == 0:
        return tuple(pieces)
    steps = audio[: n_steps * STEP_SAMPLES].reshape(n_steps, STEP_SAMPLES).astype(np.float32)
    levels = np.sqrt((steps**2).mean(axis=1))
    loud = levels > SILENT_SHARE * np.quantile(levels, LOUD_QUANTILE)
    tight = []
    for piece in pieces:
        first = min(n_steps - 1, max(0, (piece.start - origin) // STEP_SAMPLES))
        last = min(n_steps, max(first + 1, -((origin - piece.end) // STEP_SAMPLES)))
        heard = np.flatnonzero(loud[first:last])
        if len(heard):
            start = max(piece.start, origin + (first + int(heard[0])) * STEP_SAMPLES)
            end = min(piece.end, origin + (first + int(heard[-1]) + 1) * STEP_SAMPLES)
            piece = msgspec.structs.replace(piece, start=start, end=max(end, start))
        tight.append(piece)
    return tuple(tight)


def loop_start(tokens: Sequence[int]) -> int | None:
    """Where a decoder began to repeat itself for good: the index behind the first of at least three equal pieces that
    reach to the end and have `LOOP_TOKENS_MIN` tokens together, or None."""
    for length in range(1, len(tokens) // 3 + 1):
        same = 0
        while same + length < len(tokens) and tokens[-1 - same] == tokens[-1 - same - length]:
            same += 1
        if same >= 2 * length and same + length >= LOOP_TOKENS_MIN:
            return len(tokens) - same
    return None


def _ends_sentence(text: str) -> bool:
    last = text.rstrip("\"'”’»)]")[-1:]
    return bool(last) and last in SENTENCE_END


def _closes(piece: Piece, until: int) -> bool:
    return _ends_sentence(piece.text) and piece.end + SETTLED_SAMPLES <= until
