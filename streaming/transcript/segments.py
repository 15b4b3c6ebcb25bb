"""Build what people read of one utterance: partials while it lasts, one segment when it is over.

Policy: a partial is made only when its text differs from what was shown last; `rev` counts on from partial to segment,
so the segment is the newest revision of its id. Times come from the recogniser and are put right here: in order and
inside the utterance.

Pure. Invariants: `rev` grows by 1 with every value returned; a segment's text is NFC and begins with the `stable` of
every partial before it.
"""

from streaming.model import Hypothesis, Partial, Segment, Word, ms_of
from streaming.transcript.agreement import Agreement, text_of

__all__ = ["SegmentBuilder", "text_of"]


class SegmentBuilder:
    """Captions of the utterance that begins at `start_sample`. `finish` or `clear` comes last."""

    def __init__(self, segment_id: str, start_sample: int, agreement: Agreement) -> None:
        self._segment_id = segment_id
        self._start_ms = ms_of(start_sample)
        self._end_ms = self._start_ms
        self._agreement = agreement
        self._shown = ("", "")
        self._rev = 0

    def update(self, hyp: Hypothesis) -> Partial | None:
        """The caption after a newer hypothesis, or None when its text is what is shown already."""
        self._agreement.update(hyp)
        self._end_ms = max(self._end_ms, ms_of(hyp.until_sample))
        words = self._agreement.stable_words + self._agreement.unstable_words
        return self._show(self._agreement.stable, self._agreement.unstable, words)

    def finish(self, final: Hypothesis, *, ordinal: int, end_sample: int) -> Segment | None:
        """The finished segment of the utterance that ended at `end_sample`; None when nothing was said in it.

        `start_ms`, `end_ms`: of the words, or of the utterance where the words take no time."""
        words = self._placed(self._agreement.finish(final), ms_of(end_sample))
        if not words:
            return None
        start_ms, end_ms = words[0].start_ms, words[-1].end_ms
        if start_ms == end_ms:
            start_ms, end_ms = self._start_ms, ms_of(end_sample)
        self._rev += 1
        return Segment(
            segment_id=self._segment_id,
            ordinal=ordinal,
            rev=self._rev,
            start_ms=start_ms,
            end_ms=end_ms,
            text=text_of(words),
            words=words,
            speaker=None,
            language=final.language,
            confidence=sum(word.p for word in words) / len(words),
        )

    def clear(self) -> Partial | None:
        """Take back what no segment will confirm: the caption without its unstable text, or None when none is shown.

        What is stable stays; after a `finish` that returned None nothing is, and the caption becomes empty."""
        return self._show(self._agreement.stable, "", self._agreement.stable_words)

    def _show(self, stable: str, unstable: str, words: tuple[Word, ...]) -> Partial | None:
        if (stable, unstable) == self._shown:
            return None
        self._shown = (stable, unstable)
        self._rev += 1
        words = self._placed(words, self._end_ms)
        return Partial(
            segment_id=self._segment_id,
            rev=self._rev,
            start_ms=words[0].start_ms if words else self._start_ms,
            end_ms=self._end_ms,
            stable=stable,
            unstable=unstable,
            words=words,
        )

    def _placed(self, words: tuple[Word, ...], utterance_end_ms: int) -> tuple[Word, ...]:
        """The words inside the utterance, in order and without overlap; confidence in 0..1."""
        starts: list[int] = []
        earliest = self._start_ms
        for word in words:
            earliest = min(max(word.start_ms, earliest), utterance_end_ms)
            starts.append(earliest)
        nexts = [*starts[1:], utterance_end_ms]
        return tuple(
            Word(word.text, start_ms, max(start_ms, min(word.end_ms, next_ms)), min(max(word.p, 0.0), 1.0))
            for word, start_ms, next_ms in zip(words, starts, nexts, strict=False)
        )
