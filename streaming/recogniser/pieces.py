"""From a decoder's tokens to words, and from words to a hypothesis on the recording's clock.

Pure. Invariant: the words of a hypothesis are in order, inside its audio, and each takes some time.
"""

import re
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from streaming.model import Hypothesis, Word, ms_of
from streaming.recogniser.guards import is_word
from streaming.recogniser.policy import Piece
from streaming.recogniser.rolling import Progress

ENCODED_SAMPLES = 320
"""One position of the encoder, 20 ms: the unit of word times."""
SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces: their words are the pieces between punctuation marks."""
CLAUSE_END = re.compile(r"[。，、！？；：…,.!?;:]$")


class Splitter(Protocol):
    """The part of a tokenizer that is needed here."""

    language_code: str

    def split_tokens_on_unicode(self, tokens: list[int]) -> tuple[list[str], list[list[int]]]: ...


class Heard(msgspec.Struct, frozen=True):
    """Tokens, where each begins in samples (and, one more, where the last one ends), and how likely each is."""

    tokens: Sequence[int]
    starts: Sequence[int]
    odds: Sequence[float]


def unplaced(tokens: Sequence[int], p: float) -> Heard:
    """Tokens whose times are not known."""
    return Heard(tokens, [0] * (len(tokens) + 1), [p] * len(tokens))


def placed(tokens: Sequence[int], result: Any) -> Heard:
    """Where each token begins, by CTranslate2's `WhisperAlignmentResult`."""
    positions: dict[int, int] = {}
    for token, position in result.alignments:
        positions.setdefault(token, position)
    starts: list[int] = []
    for index in range(len(tokens) + 1):
        before = starts[-1] if starts else 0
        starts.append(positions[index] * ENCODED_SAMPLES if index in positions else before)
    return Heard(tokens, starts, list(result.text_token_probs))


def pieces_of(heard: Heard, splitter: Splitter, *, first: bool) -> tuple[Piece, ...]:
    """The words of the tokens: pieces that begin with a space, or, where nobody writes spaces, end with a clause.

    `first`: no given word stands before them. Else what is glued to that word is left out: it is fixed. So are marks
    that stand alone at the beginning: the word they belong to is gone, or never was."""
    spaceless = splitter.language_code in SPACELESS
    groups: list[tuple[str, list[int]]] = []
    parts, part_tokens = splitter.split_tokens_on_unicode(list(heard.tokens))
    for part, ids in zip(parts, part_tokens, strict=True):
        glued = not CLAUSE_END.search(groups[-1][0]) if spaceless and groups else not part.startswith(" ")
        if groups and glued:
            text, before = groups[-1]
            groups[-1] = (text + part, before + ids)
        else:
            groups.append((part, list(ids)))
    pieces = []
    at = 0
    for text, ids in groups:
        begin, at = at, at + len(ids)
        is_glued = begin == 0 and not spaceless and not text.startswith(" ")
        text = text.strip()
        skipped = is_glued and not (first and is_word(text))
        if text and "\ufffd" not in text and not skipped:
            p = float(np.mean(heard.odds[begin:at])) if heard.odds[begin:at] else 0.0
            pieces.append(Piece(text, tuple(ids), heard.starts[begin], heard.starts[at], p))
    return tuple(pieces)


def given_again(given: Sequence[Piece], heard: Heard) -> tuple[Piece, ...]:
    """The given words, aligned: `heard` begins with the last tokens of theirs, as many as fitted."""
    at = min(len(heard.tokens), sum(len(piece.tokens) for piece in given))
    again = []
    for piece in reversed(given):
        begin = max(0, at - len(piece.tokens))
        start, end = heard.starts[begin], heard.starts[at]
        odds = heard.odds[begin:at]
        p = float(np.mean(odds)) if odds else piece.p
        again.append(msgspec.structs.replace(piece, start=start, end=end, p=p, aligned=True))
        at = begin
    return tuple(reversed(again))


def joined(words: Sequence[str], language: str) -> str:
    return ("" if language in SPACELESS else " ").join(words)


def hypothesis_of(progress: Progress, start_sample: int, until: int, *, language: str | None = None) -> Hypothesis:
    """The words on the recording's clock: in order, inside the audio, each at least one position long. `language`: of
    the text, where it is not the one that was spoken."""
    words = []
    earliest = 0
    for piece in progress.words:
        earliest = max(0, min(max(piece.start, earliest), until - ENCODED_SAMPLES))
        end = min(max(piece.end, earliest + ENCODED_SAMPLES), until)
        words.append(Word(piece.text, ms_of(start_sample + earliest), ms_of(start_sample + end), min(1.0, piece.p)))
    return Hypothesis(
        tuple(words),
        until_sample=start_sample + until,
        language=language or progress.language or "en",
        confidence=sum(word.p for word in words) / len(words) if words else 1.0,
        fixed=len(progress.fixed),
    )
