"""What one subscription was told and its reader has not taken yet, and where to ask from after an interruption.

Policy: at most `matches_max` wait. What comes beyond is dropped, with all that follows it, and is asked for again once
the reader has taken what waits: a slow reader costs the server a second telling and loses nothing.

Pure. Invariant: the matches that `take` gives are those of the log after the first cursor, in order and without a gap,
when the server tells after `after` what follows it.
"""

from collections import deque

from parlance_client.model import Match


class Inbox:
    """`cursor`: of the last match that was taken, or where the subscription began; None while that is not known."""

    def __init__(self, after: str | None, matches_max: int) -> None:
        if matches_max < 1:
            raise ValueError("there must be room for a match")
        self.cursor = after
        self._after = after
        self._waiting: deque[Match] = deque(maxlen=matches_max)
        self._taking = False
        self._confirmed = False

    @property
    def after(self) -> str | None:
        """The cursor to subscribe after: of the newest match that is here. None: from now on."""
        return self._after

    @property
    def is_open(self) -> bool:
        """Whether all that is told arrives here. Otherwise subscribe after `after`."""
        return self._taking and self._confirmed

    def open(self) -> None:
        """It is being subscribed after `after`: take what comes."""
        self._taking, self._confirmed = True, False

    def confirm(self, cursor: str) -> None:
        """The server told where the subscription begins; matches may have come before."""
        self._confirmed = True
        if self._after is None:
            self.cursor = self._after = cursor

    def shut(self) -> None:
        """Nothing that comes now follows what is here."""
        self._taking = False

    def offer(self, match: Match) -> None:
        if not self._taking:
            return
        if len(self._waiting) == self._waiting.maxlen:
            self.shut()
            return
        self._waiting.append(match)
        self._after = match.cursor

    def take(self) -> Match | None:
        """The next match, if one is here."""
        if not self._waiting:
            return None
        match = self._waiting.popleft()
        self.cursor = match.cursor
        return match
