"""What somebody may be about to type: queries of their own, then the last word completed with words that were said.

Policy: one's own queries come first, whole; then the words of segments that this user may see, the most frequent first.
Nothing is offered twice, and not what is typed already. A text that ends with a space has no word to complete.

Boundary: `SearchLog` and `search.ports.Words`.
"""

from auth.model import Identity
from search.ports import Words
from search.query import nfc, words_of
from server.edge.search.remembered import SearchLog
from streaming.limits import Limits


class Suggestions:
    def __init__(self, remembered: SearchLog, words: Words, limits: Limits) -> None:
        self._remembered = remembered
        self._words = words
        self._limits = limits

    async def of(self, who: Identity, text: str, limit: int) -> list[str]:
        """Whole queries, the likeliest first; at most `limit`. Raises `Unavailable`."""
        limit = min(limit, self._limits.suggestions_max)
        text = nfc(text).lstrip()
        spans = words_of(text)
        folded = " ".join(span.folded for span in spans)
        ended = bool(spans) and spans[-1].end < len(text)
        offered = await self._remembered.begun(who, folded + " " * ended, limit)
        if spans and not ended and len(offered) < limit:
            last = spans[-1]
            completed = await self._words.complete(who.tenant_id, who.user_id, last.folded, limit + 1)
            offered += [text[: last.start] + word for word in completed if word != last.folded]
        seen: dict[str, str] = {}
        for query in offered:
            seen.setdefault(" ".join(span.folded for span in words_of(query)), query)
        return list(seen.values())[:limit]
