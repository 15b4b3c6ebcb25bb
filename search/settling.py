"""Which of the queries that somebody types are worth remembering: those that settled.

Policy: a query settles when it stood for a moment (`search_settled_ms`) without a newer one in its slot, when the newer
one is about something else (typing goes on from what is there, or takes some of it back), when one of its hits was
opened, or when somebody asks for the history. Typing on from it within a minute is the same query, longer: it keeps its
id, so what was remembered under it is replaced. A query that was never answered is not remembered.

Pure: every call is given `now` in Unix milliseconds. Invariant: at most `searches_settling_max` places are held, and
of one place one query.
"""

from collections.abc import Callable, Hashable, Iterable

import msgspec

from streaming.limits import Limits


class Settled(msgspec.Struct, frozen=True):
    """A query to be remembered; one with a known `search_id` replaces it. `folded`: its words, as they are compared."""

    tenant_id: str
    user_id: str
    search_id: str
    text: str
    folded: str
    asked_ms: int
    hits: int


class Typed:
    """A query that may settle. `hits`: None until it is answered."""

    __slots__ = ("asked_ms", "folded", "hits", "search_id", "tenant_id", "text", "told", "user_id")

    def __init__(self, tenant_id: str, user_id: str, text: str, folded: str) -> None:
        self.tenant_id = tenant_id
        self.user_id = user_id
        self.text = text
        self.folded = folded
        self.search_id = ""
        self.asked_ms = 0
        self.hits: int | None = None
        self.told = False

    def settle(self) -> Settled | None:
        """None: it was never answered."""
        if self.hits is None:
            return None
        self.told = True
        return Settled(self.tenant_id, self.user_id, self.search_id, self.text, self.folded, self.asked_ms, self.hits)


class Settling:
    """The newest query of each place (a slot of a connection, or a caller over HTTP)."""

    def __init__(self, limits: Limits, new_id: Callable[[], str]) -> None:
        self._limits = limits
        self._new_id = new_id
        self._places: dict[Hashable, Typed] = {}
        """In the order in which they were asked."""

    def __len__(self) -> int:
        return len(self._places)

    def asked(self, place: Hashable, typed: Typed, now_ms: int) -> list[Settled]:
        """A query came; returns what has settled by that, or has to be remembered because there is no more room."""
        older = self._places.pop(place, None)
        finished = [older] if older is not None and not _is_typing(older, typed) else []
        grows = older is not None and not finished and typed.folded.startswith(older.folded)
        if older is not None and grows and now_ms - older.asked_ms < self._limits.search_grows_ms:
            typed.search_id = older.search_id
        else:
            typed.search_id = self._new_id()
        typed.asked_ms = now_ms
        self._places[place] = typed
        while len(self._places) > self._limits.searches_settling_max:
            finished.append(self._places.pop(next(iter(self._places))))
        return _settled(finished)

    def due(self, now_ms: int) -> list[Settled]:
        """Those that have settled by now."""
        forgotten, standing = [], []
        for place, typed in self._places.items():
            age_ms = now_ms - typed.asked_ms
            if age_ms < self._limits.search_settled_ms:
                break
            standing.append(typed)
            if age_ms >= self._limits.search_grows_ms:
                forgotten.append(place)
        for place in forgotten:
            del self._places[place]
        return _settled(standing)

    def answered_of(self, tenant_id: str, user_id: str | None = None) -> list[Settled]:
        """Those of a tenant, or of one of its users, that are answered: somebody wants to see them now."""
        return _settled(
            typed
            for typed in self._places.values()
            if typed.tenant_id == tenant_id and user_id in (None, typed.user_id)
        )

    def left(self, places: Iterable[Hashable]) -> list[Settled]:
        """Nobody types there any more."""
        return _settled([typed for place in places if (typed := self._places.pop(place, None)) is not None])

    def forget(self, tenant_id: str, user_id: str) -> None:
        """The user clears the history."""
        for place, typed in list(self._places.items()):
            if (typed.tenant_id, typed.user_id) == (tenant_id, user_id):
                del self._places[place]


def _is_typing(older: Typed, newer: Typed) -> bool:
    """Whether the newer query comes of the older one by typing on or taking back."""
    related = newer.folded.startswith(older.folded) or older.folded.startswith(newer.folded)
    return related and older.user_id == newer.user_id


def _settled(these: Iterable[Typed]) -> list[Settled]:
    return [settled for typed in these if not typed.told and (settled := typed.settle()) is not None]


__all__ = ["Settled", "Settling", "Typed"]
