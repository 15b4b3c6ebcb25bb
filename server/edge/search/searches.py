"""Everything of search that clients meet, put together: queries, suggestions, history, subscriptions.

Boundary: a part of the composition (`server.app`); it decides nothing at run time.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from search.finding import Finder
from search.meaning import QueryVectors
from search.ports import Embedder, Index, Words
from server.edge.authenticate import Authenticator
from server.edge.search.desk import Answers, SearchDesk
from server.edge.search.doors import SearchDoors
from server.edge.search.remembered import SearchLog
from server.edge.search.subscriptions import FeedReader, SubscriptionDesk
from server.edge.search.suggesting import Suggestions
from server.rooms.hub import Hub, LogReader
from server.store.pool import Database
from server.store.transcripts import StoredTranscripts
from streaming.errors import Unavailable
from streaming.limits import Limits


class Searches:
    """`embedders`: those that queries are embedded with; `embedder`: the one of subscriptions, None for a server that
    never gets one. `run` is a component."""

    def __init__(
        self,
        *,
        database: Database,
        hub: Hub,
        rooms: LogReader,
        index: Index,
        words: Words,
        embedders: Callable[[], Sequence[Embedder]],
        embedder: Embedder | None,
        limits: Limits,
    ) -> None:
        transcripts = StoredTranscripts(database.tenant_tx, limits)
        answers = Answers(Finder(index, transcripts, words, limits), QueryVectors(embedders, limits))
        self.remembered = SearchLog(database, limits)
        self.desk = SearchDesk(answers, self.remembered, limits)
        self.suggestions = Suggestions(self.remembered, words, limits)
        self.subscriptions = SubscriptionDesk(hub, FeedReader(database, rooms, transcripts), embedder, limits)
        self._limits = limits

    def doors(self, authenticate: Authenticator) -> SearchDoors:
        """The same over HTTP."""
        return SearchDoors(authenticate=authenticate, desk=self.desk, suggestions=self.suggestions, limits=self._limits)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.remembered.run(), name="remembered searches")
            group.create_task(self.subscriptions.run(), name="vectors of subscriptions")

    async def close(self) -> None:
        """After the last connection has ended."""
        await self.subscriptions.close()
        with contextlib.suppress(Unavailable):
            await self.remembered.write()
