"""Subscriptions at one node, without its sockets: a hub, a keeper of the index that announces to it, and clients."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec

from auth.model import Identity, Role
from server.app import LogReader
from server.edge.connection import Connection
from server.edge.decode import convert
from server.edge.search.subscriptions import FeedReader, SubscriptionDesk
from server.rooms.hub import Hub
from server.store.pool import Database
from server.store.transcripts import StoredTranscripts
from streaming.aio import Scope
from streaming.limits import Limits
from streaming.protocol.messages import ServerMessage
from streaming.protocol.searches import SearchSubscribe
from tests.fakes.embedder import FakeEmbedder
from tests.support.keeping import QUICK, Keeper
from tests.support.waiting import until

HASTY = msgspec.structs.replace(QUICK, subscription_retry_ms=20)


class Listener:
    """A connection as the desk sees it. `behind`: it does not read; `takes`: it reads so many more, None: all."""

    def __init__(self, tenant: str, user: str = "anna") -> None:
        self.identity = Identity(
            user_id=user, user_name=user, tenant_id=tenant, tenant_name=tenant, role=Role.MEMBER, expires_at=2**40
        )
        self.told: list[dict[str, Any]] = []
        self.ended = False
        self.takes: int | None = None

    @property
    def behind(self) -> bool:
        return self.takes is not None and self.takes <= 0

    def send(self, event: str, message: ServerMessage) -> None:
        self.told.append({"event": event, **msgspec.to_builtins(message)})
        if self.takes is not None:
            self.takes -= 1

    def matches(self, subscription_id: str = "sub") -> list[tuple[str, int]]:
        """(segment, rev) of what it was told, in order."""
        return [
            (told["hit"]["segment_id"], told["hit"]["rev"])
            for told in self.told
            if told["event"] == "search:match" and told["subscription_id"] == subscription_id
        ]

    @property
    def cursors(self) -> list[str]:
        return [told["cursor"] for told in self.told if told["event"] == "search:match"]

    async def hears(self, *segments: str, subscription_id: str = "sub") -> None:
        """Wait until these, and only these, were told in this order."""
        await until(lambda: [name for name, _ in self.matches(subscription_id)] == list(segments))


class Following:
    """`desk` follows what `keeper` indexes, through `hub`."""

    def __init__(self, database: Database, limits: Limits, embedder: FakeEmbedder | None) -> None:
        rooms = LogReader(database)
        self.hub = Hub(rooms, limits)
        self.keeper = Keeper(database, limits=limits)
        self.keeper.told.announce = self.hub.announce  # type: ignore[method-assign]
        reader = FeedReader(database, rooms, StoredTranscripts(database.tenant_tx, limits))
        self.desk = SubscriptionDesk(self.hub, reader, embedder, limits)

    async def subscribe(self, listener: Listener, text: str, **wanted: Any) -> str:
        given = {"subscription_id": "sub", "text": text, **wanted}
        return await self.desk.subscribe(cast(Connection, listener), convert(given, SearchSubscribe))

    def gone(self, listener: Listener) -> None:
        self.desk.gone(cast(Connection, listener))


@contextlib.asynccontextmanager
async def following(
    database: Database, *, limits: Limits = HASTY, embedder: FakeEmbedder | None = None, first: bool = True
) -> AsyncIterator[Following]:
    """A node that works. `first`: the index has no edition yet."""
    node = Following(database, limits, embedder)
    if first:
        await node.keeper.open("concepts")
    async with Scope("node") as scope:
        scope.spawn(node.hub.run(), name="hub")
        running = scope.spawn(node.desk.run(), name="desk")
        async with node.keeper.working():
            yield node
        assert not running.done(), "a component works until it is cancelled"
        await node.desk.close()
